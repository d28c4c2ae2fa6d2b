//! The health check for Argo CD, run by a real Lua interpreter over the statuses
//! of every flow that docs/status.md tells of.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tests::binaries;

const HEALTH: &str = include_str!("../../examples/argocd/health.lua");
/// Written by a test of the operator, from what it says in each flow.
const FLOWS: &str = include_str!("../../operator/tests/golden/status/flows.json");

#[test]
fn every_flow_has_the_health_that_is_promised() -> Result<()> {
    let flows: Vec<Json> = serde_json::from_str(FLOWS)?;
    ensure!(flows.len() > 20, "{} flows", flows.len());
    let objects: Vec<&Json> = flows.iter().map(|flow| &flow["object"]).collect();
    let found = health(&objects)?;
    let wanted: Vec<(String, String)> = flows.iter().map(|flow| text(flow, "health")).collect();
    let found: Vec<(String, String)> = flows
        .iter()
        .zip(found)
        .map(|(flow, found)| (text(flow, "health").0, found))
        .collect();
    assert_eq!(found, wanted);
    Ok(())
}

#[test]
fn what_nobody_has_looked_at_is_progressing() -> Result<()> {
    let flows: Vec<Json> = serde_json::from_str(FLOWS)?;
    let serving = flows
        .iter()
        .find(|flow| flow["health"] == "Healthy")
        .context("a flow that is healthy")?;
    let mut newer = serving["object"].clone();
    newer["metadata"]["generation"] = json!(2);
    let new = json!({"metadata": {"name": "shop", "generation": 1}});
    assert_eq!(health(&[&newer, &new])?, ["Progressing", "Progressing"]);
    Ok(())
}

/// Name of a flow, and a field of it.
fn text(flow: &Json, field: &str) -> (String, String) {
    let text = |field: &str| flow[field].as_str().unwrap_or_default().to_owned();
    (text("flow"), text(field))
}

/// What Argo CD would say of each object.
fn health(objects: &[&Json]) -> Result<Vec<String>> {
    let mut program = format!("local function check()\n{HEALTH}\nend\n");
    for object in objects {
        // A line each: a message is a must too.
        writeln!(
            program,
            "obj = {}\ndo local health = check() assert(#health.message > 0) print(health.status) end",
            lua(object)
        )?;
    }
    let interpreter = binaries::on_path("lua5.4")
        .context("no lua5.4 on the PATH: apt-get install lua5.4, or cargo xtask test does")?;
    let mut child = Command::new(interpreter)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("it was piped")?;
    input.write_all(program.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout)?;
    Ok(printed.lines().map(str::to_owned).collect())
}

/// A value as Lua writes it.
fn lua(value: &Json) -> String {
    match value {
        Json::Null => "nil".to_owned(),
        Json::Bool(_) | Json::Number(_) => value.to_string(),
        // Every byte by its number: nothing has to be quoted.
        Json::String(text) => {
            let bytes = text.bytes().map(|byte| format!("\\{byte:03}"));
            format!("\"{}\"", bytes.collect::<String>())
        }
        Json::Array(values) => {
            let values: Vec<String> = values.iter().map(lua).collect();
            format!("{{{}}}", values.join(","))
        }
        Json::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| format!("[{}]={}", lua(&json!(key)), lua(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
    }
}
