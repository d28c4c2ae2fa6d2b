-- Health of a PgPoolCluster (poolkeeper.dev/v1alpha1) for Argo CD, from the
-- conditions that docs/status.md tells of. Plain Lua 5.1, no libraries.

local function condition(type)
  for _, one in ipairs(obj.status.conditions) do
    if one.type == type then
      return one
    end
  end
  return {status = "Unknown", reason = "", message = ""}
end

local function health(status, message)
  return {status = status, message = message}
end

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "it is being deleted")
end
if obj.status == nil or obj.status.conditions == nil then
  return health("Progressing", "the operator has not looked at it yet")
end
if obj.metadata.generation ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "the operator has not looked at the newest spec yet")
end

local ready = condition("Ready")
local reconciling = condition("Reconciling")
local stalled = condition("Stalled")
local valid = condition("ConfigValid")
local paused = condition("Paused")

if stalled.status == "True" then
  if valid.status == "False" then
    return health("Degraded", valid.message)
  end
  return health("Degraded", stalled.message)
end
-- An outage is one also while something else is going on.
if ready.reason == "NoPoolerUp" or ready.reason == "NoBalancerUp" or ready.reason == "UpstreamUnreachable" then
  return health("Degraded", ready.message)
end
if reconciling.reason == "Suspended" then
  return health("Suspended", reconciling.message)
end
if reconciling.status == "True" then
  return health("Progressing", reconciling.message)
end
if ready.status ~= "True" then
  return health("Progressing", ready.message)
end
if paused.status == "True" then
  return health("Suspended", paused.message)
end
return health("Healthy", ready.message)
