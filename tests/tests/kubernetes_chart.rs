//! The chart on a real API server: installed as the README says, upgraded,
//! uninstalled; and the real operator with exactly the rights that it gives.
//!
//! The API server keeps an audit log of what the operator asks of it. Nothing in
//! it may have been refused, and every right of the chart must stand in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{
    As, Child, ControlPlane, Scratch, binaries, command, http, kubernetes, ports, readme, wait,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Of the README.
const SYSTEM: &str = "poolkeeper-system";
const OPERATOR: &str = "poolkeeper-operator";
/// Of the release that looks after one namespace.
const NARROW: &str = "narrow-poolkeeper-operator";

/// Asked for by the API server itself, so that it is in no audit log; shown by
/// taking it away.
const OWNING: (&str, &str) = ("pgpoolclusters.poolkeeper.dev/finalizers", "update");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What all checks share; they are run one after the other.
struct Scene {
    cluster: ControlPlane,
    dir: Scratch,
}

type Check = fn(&Scene) -> Result<()>;

const CHECKS: &[(&str, Check)] = &[
    (
        "the README's commands install it",
        install_as_the_readme_says,
    ),
    ("a later CRD comes with an upgrade", upgrade_the_crd),
    ("its Pods pass the restricted standard", pass_restricted),
    (
        "its rules are those of docs/rbac.md",
        compare_with_documentation,
    ),
    ("people's roles take PgPoolClusters in", aggregate),
    ("a cluster-wide operator needs these rights", act_everywhere),
    ("without the right to own, nothing is created", own_nothing),
    (
        "named namespaces are all it can act in",
        act_in_named_namespaces,
    ),
    ("an uninstallation leaves CRD and clusters", uninstall),
    (
        "the manifests without helm are accepted",
        apply_without_helm,
    ),
];

#[test]
fn the_chart_installs_and_its_rights_are_what_the_operator_needs() -> Result<()> {
    let dir = Scratch::new()?;
    let policy = dir.write("audit.yaml", AUDIT_POLICY)?;
    let cluster = ControlPlane::builder()
        .with_controller_manager()
        .flag(&format!("--audit-policy-file={}", policy.display()))
        .flag(&format!(
            "--audit-log-path={}",
            dir.path().join("audit.log").display()
        ))
        // As OpenShift does: who owns with blockOwnerDeletion must be allowed to.
        .flag("--enable-admission-plugins=OwnerReferencesPermissionEnforcement")
        .start()?;
    let scene = Scene { cluster, dir };
    for (name, check) in CHECKS {
        check(&scene).with_context(|| format!("check: {name}"))?;
    }
    Ok(())
}

const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: ['system:serviceaccounts:poolkeeper-system', 'system:serviceaccounts:narrow']
  - level: None
";

impl Scene {
    fn kubectl(&self, line: &str) -> Result<String> {
        self.cluster.kubectl(&line.split(' ').collect::<Vec<_>>())
    }

    fn json(&self, line: &str) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.kubectl(&format!("{line} -o json"))?,
        )?)
    }

    fn helm(&self, line: &str) -> Result<String> {
        self.cluster.helm(&line.split(' ').collect::<Vec<_>>())
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        wait::until(what, LIMIT, || match holds() {
            Ok(true) => Ok(()),
            Ok(false) => Err("it is not so".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Applies the quickstart to a namespace that is made for it.
    fn quickstart(&self, namespace: &str) -> Result<()> {
        let file = root().join("examples/quickstart.yaml");
        self.kubectl(&format!("create namespace {namespace}"))?;
        self.kubectl(&format!(
            "apply --namespace {namespace} -f {}",
            file.display()
        ))?;
        Ok(())
    }

    /// Starts the operator as the Deployment says, with its service account.
    fn start_operator(&self, namespace: &str, name: &str) -> Result<Running> {
        let deployment = self.json(&format!("get deployment {name} --namespace {namespace}"))?;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array().context("it has arguments")?;
        // Rights take a moment until they hold; what is refused meanwhile is no fault.
        self.until("the lease's rights to hold", || {
            self.may(namespace, name, "create", "leases")
        })?;
        let port = ports::free()?;
        let log = self.dir.path().join(format!("{name}.log"));
        let mut start = command(&binaries::ours("operator")?, As::Ourselves);
        start
            .args(arguments.iter().filter_map(Value::as_str))
            .arg(format!("--http=127.0.0.1:{port}"))
            // An image from scratch has no authorities.
            .envs([("SSL_CERT_FILE", "/none"), ("SSL_CERT_DIR", "/none")])
            .env("POD_NAME", "operator-0")
            .env("POD_NAMESPACE", namespace)
            .env(
                "KUBECONFIG",
                self.cluster
                    .kubeconfig_for_service_account(namespace, name)?,
            );
        let mut running = Running {
            child: Child::start(start, &log)?,
        };
        wait::until("the operator to lead", LIMIT, || {
            if let Err(ended) = running.child.check_runs("operator") {
                return Ok(Err(ended));
            }
            let page = http::get(([127, 0, 0, 1], port).into(), "/metrics")
                .map_err(|error| error.to_string())?;
            match page.body.contains("\npoolkeeper_operator_leading 1") {
                true => Ok(Ok(())),
                false => Err("it does not lead".to_owned()),
            }
        })
        .with_context(|| running.child.log_tail())??;
        Ok(running)
    }

    /// Whether the service account of a namespace may do something in it.
    fn may(&self, namespace: &str, name: &str, verb: &str, what: &str) -> Result<bool> {
        self.may_in(namespace, (namespace, name), verb, what)
    }

    fn may_in(&self, place: &str, account: (&str, &str), verb: &str, what: &str) -> Result<bool> {
        let kubeconfig = self
            .cluster
            .kubeconfig_for_service_account(account.0, account.1)?;
        let ask = ["auth", "can-i", verb, "--namespace", place];
        let ask = [&ask[..], &what.split(' ').collect::<Vec<_>>()].concat();
        Ok(kubernetes::kubectl(&kubeconfig, &ask, None).is_ok())
    }

    /// Waits until everything that the quickstart means is there, and is told of.
    fn wait_for_tier(&self, namespace: &str) -> Result<()> {
        let kinds = "deployment,service,secret,serviceaccount,poddisruptionbudget";
        let ours = "--selector app.kubernetes.io/managed-by=poolkeeper-operator";
        wait::until("the tier to be created", LIMIT, || {
            let get = format!("get {kinds} --namespace {namespace} {ours} -o name");
            let found = self.kubectl(&get).map_err(|error| error.to_string())?;
            let missing: Vec<_> = TIER
                .iter()
                .filter(|name| !found.lines().any(|line| line == **name))
                .collect();
            match missing.is_empty() {
                true => Ok(()),
                false => Err(format!("missing {missing:?} of\n{found}")),
            }
        })?;
        self.until("the status to be of this generation", || {
            let shop = self.json(&format!("get pgpc shop --namespace {namespace}"))?;
            let conditions = shop["status"]["conditions"].as_array().map_or(0, Vec::len);
            let generation = &shop["metadata"]["generation"];
            Ok(conditions > 0 && shop["status"]["observedGeneration"] == *generation)
        })
    }

    /// (resource, verb) of everything that an operator asked for, by its service
    /// account. Whatever was refused is an error.
    fn asked(&self, account: &str) -> Result<BTreeSet<(String, String)>> {
        let mut asked = BTreeSet::new();
        let log = fs::read_to_string(self.dir.path().join("audit.log"))?;
        // The last line may still be being written.
        let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
        for line in whole.lines() {
            let event: Value = serde_json::from_str(line)?;
            let by = event["user"]["username"].as_str().unwrap_or_default();
            if !by.ends_with(&format!(":{account}")) {
                continue;
            }
            let object = &event["objectRef"];
            let text = |field: &str| object[field].as_str().unwrap_or_default();
            let resource = resource(text("resource"), text("apiGroup"), text("subresource"));
            let verb = event["verb"].as_str().unwrap_or_default().to_owned();
            let answer = event["responseStatus"]["message"].as_str();
            if answer.is_some_and(|answer| answer.contains("cannot find RESTMapping")) {
                // For half a minute the check of owners may not know a kind that is new.
                continue;
            }
            ensure!(
                event["responseStatus"]["code"] != 403,
                "it may not {verb} {resource} {}: {}",
                text("name"),
                event["responseStatus"]["message"]
            );
            if verb == "patch" && event["responseStatus"]["code"] == 201 {
                // Asked for on behalf of an apply that creates.
                asked.insert((resource.clone(), "create".to_owned()));
            }
            asked.insert((resource, verb));
        }
        Ok(asked)
    }
}

struct Running {
    child: Child,
}

const OF_SHOP: &str = "app.kubernetes.io/instance=shop";

/// What the operator makes of the quickstart, at least.
const TIER: &[&str] = &[
    "deployment.apps/shop-balancer",
    "deployment.apps/shop-pooler",
    "poddisruptionbudget.policy/shop-balancer",
    "poddisruptionbudget.policy/shop-pooler",
    "secret/shop-internal",
    "secret/shop-pooler-config",
    "service/shop",
    "service/shop-balancer",
    "service/shop-pooler",
    "serviceaccount/shop",
];

/// `deployments.apps`, `pgpoolclusters.poolkeeper.dev/status`, `secrets`.
fn resource(name: &str, group: &str, subresource: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let slash = if subresource.is_empty() { "" } else { "/" };
    format!("{name}{dot}{group}{slash}{subresource}")
}

/// (resource, verb) of everything that a role allows.
fn rights(role: &Value) -> BTreeSet<(String, String)> {
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for name in texts(&rule["resources"]) {
                let (name, subresource) = name.split_once('/').unwrap_or((&name, ""));
                for verb in texts(&rule["verbs"]) {
                    rights.insert((resource(name, &group, subresource), verb));
                }
            }
        }
    }
    rights
}

fn install_as_the_readme_says(scene: &Scene) -> Result<()> {
    let mut ran = 0;
    for line in readme::commands("On Kubernetes")? {
        let line = line.split(" #").next().unwrap_or_default().trim();
        // Paths are relative to the checkout.
        let line = line
            .split_whitespace()
            // No Pod runs here: what waits for one is kubernetes_end_to_end's.
            .filter(|word| *word != "--wait")
            .map(
                |word| match word.starts_with("charts/") || word.starts_with("examples/") {
                    true => root().join(word).display().to_string(),
                    false => word.to_owned(),
                },
            )
            .collect::<Vec<_>>()
            .join(" ");
        if line.starts_with("kubectl wait ") {
            continue;
        }
        let words = match line.starts_with("helm ") || line.starts_with("kubectl ") {
            true => words(&line)?,
            false => continue,
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[0] {
            "helm" => scene.cluster.helm(&words[1..])?,
            _ => scene.cluster.kubectl(&words[1..])?,
        };
        ran += 1;
    }
    // Nobody is to be told anything: an operator comes later.
    scene.kubectl("annotate pgpc shop poolkeeper.dev/notify-test-")?;
    let quickstart = root().join("examples/quickstart.yaml");
    scene.kubectl(&format!("apply -f {}", quickstart.display()))?;
    let url = scene.json("get secret slack")?["data"]["url"].to_string();
    let placeholder = "https://hooks.slack.com/services/REPLACE/ME/PLEASE";
    let placeholder = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, placeholder);
    ensure!(url.contains(&placeholder), "the Secret holds {url}");
    ensure!(ran >= 3, "the README has {ran} commands for Kubernetes");
    let replicas = scene.json(&format!("get deployment {OPERATOR} --namespace {SYSTEM}"))?;
    ensure!(
        replicas["spec"]["replicas"] == 2,
        "no operator was installed"
    );
    scene.kubectl("get pgpc shop")?;
    Ok(())
}

/// The words of a command line, as a shell takes it.
fn words(line: &str) -> Result<Vec<String>> {
    let shell = format!("printf '%s\\n' {line}");
    let output = std::process::Command::new("sh")
        .args(["-c", &shell])
        .output()
        .context("no shell starts")?;
    ensure!(output.status.success(), "no shell takes {line:?}");
    let words = String::from_utf8(output.stdout)?;
    Ok(words.lines().map(str::to_owned).collect())
}

fn upgrade_the_crd(scene: &Scene) -> Result<()> {
    let chart = root().join("charts/poolkeeper");
    let later = scene.dir.path().join("later");
    copy(&chart, &later)?;
    let crd = later.join("templates/crd.yaml");
    let text = fs::read_to_string(&crd)?;
    let field = "              auth:\n";
    ensure!(
        text.contains(field),
        "spec.auth stands elsewhere in the CRD"
    );
    let added = "              later:\n                description: Of a later version\n                type: boolean\n";
    fs::write(&crd, text.replacen(field, &format!("{added}{field}"), 1))?;
    let upgrade = |chart: &Path| {
        scene.helm(&format!(
            "upgrade poolkeeper {} --namespace {SYSTEM}",
            chart.display()
        ))
    };
    let served = || scene.kubectl("explain pgpc.spec.later");
    ensure!(served().is_err(), "the field is there already");
    upgrade(&later)?;
    scene.until("the later field to be served", || {
        Ok(served()?.contains("Of a later version"))
    })?;
    upgrade(&chart)?;
    scene.until("the later field to go", || Ok(served().is_err()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => fs::copy(entry.path(), &to).map(|_| ())?,
        }
    }
    Ok(())
}

fn pass_restricted(scene: &Scene) -> Result<()> {
    let standard = "pod-security.kubernetes.io/enforce=restricted";
    scene.kubectl(&format!("label namespace {SYSTEM} {standard}"))?;
    let deployment = scene.json(&format!("get deployment {OPERATOR} --namespace {SYSTEM}"))?;
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("operator");
    let create = |pod: &Value| {
        let create = [
            "create",
            "--dry-run=server",
            "--namespace",
            SYSTEM,
            "-f",
            "-",
        ];
        kubernetes::kubectl(&scene.cluster.kubeconfig(), &create, Some(&pod.to_string()))
    };
    create(&pod)?;
    pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    ensure!(create(&pod).is_err(), "the standard is not enforced here");
    Ok(())
}

/// Rows of a section's table: resources in the first cell, verbs in the second.
fn documented(page: &str, heading: &str) -> Result<BTreeSet<(String, String)>> {
    let (_, section) = page
        .split_once(&format!("\n## {heading}\n"))
        .with_context(|| format!("docs/rbac.md has no section {heading:?}"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let words = |cell: &str| -> Vec<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    let mut rights = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').collect();
        ensure!(cells.len() == 5, "no three cells: {row}");
        ensure!(cells[3].contains("]("), "no file that needs it: {row}");
        for resource in words(cells[1]) {
            for verb in words(cells[2]) {
                let right = (resource.clone(), verb);
                ensure!(rights.insert(right), "twice: {row}");
            }
        }
    }
    Ok(rights)
}

fn compare_with_documentation(scene: &Scene) -> Result<()> {
    let page = fs::read_to_string(root().join("docs/rbac.md"))?;
    let cluster = scene.json(&format!("get clusterrole {OPERATOR}"))?;
    let lease = scene.json(&format!("get role {OPERATOR}-lease --namespace {SYSTEM}"))?;
    for (heading, role) in [
        ("Where PgPoolClusters are", cluster),
        ("In its own namespace", lease),
    ] {
        let (allowed, documented) = (rights(&role), documented(&page, heading)?);
        let unjustified: Vec<_> = allowed.difference(&documented).collect();
        let missing: Vec<_> = documented.difference(&allowed).collect();
        ensure!(
            unjustified.is_empty(),
            "{heading}: not in docs/rbac.md: {unjustified:?}"
        );
        ensure!(
            missing.is_empty(),
            "{heading}: only in docs/rbac.md: {missing:?}"
        );
    }
    Ok(())
}

fn aggregate(scene: &Scene) -> Result<()> {
    scene.kubectl("create rolebinding readers --clusterrole=view --user=jane")?;
    scene.kubectl("create rolebinding writers --clusterrole=edit --user=john")?;
    let may = |user: &str, verb: &str, what: &str| {
        scene
            .kubectl(&format!("auth can-i {verb} {what} --as={user}"))
            .is_ok()
    };
    scene.until("john may create pgpc", || Ok(may("john", "create", "pgpc")))?;
    scene.until("jane may get pgpc", || Ok(may("jane", "get", "pgpc")))?;
    for verb in ["get", "update", "delete"] {
        ensure!(may("john", verb, "pgpc"), "john may not {verb}");
    }
    ensure!(
        may("john", "patch", "pgpc --subresource=scale"),
        "john may not scale"
    );
    ensure!(!may("jane", "create", "pgpc"), "jane may create");
    ensure!(
        !may("john", "patch", "pgpc --subresource=status"),
        "john may write the status"
    );
    Ok(())
}

fn act_everywhere(scene: &Scene) -> Result<()> {
    scene.quickstart("team-a")?;
    let operator = scene.start_operator(SYSTEM, OPERATOR)?;
    use_every_right(scene, "team-a", OPERATOR).with_context(|| operator.child.log_tail())?;
    let role = scene.json(&format!("get clusterrole {OPERATOR}"))?;
    let lease = scene.json(&format!("get role {OPERATOR}-lease --namespace {SYSTEM}"))?;
    ensure_none_is_idle(&scene.asked(OPERATOR)?, &[role, lease])
}

/// Everything that an operator may have to do in a namespace, where `shop` is.
fn use_every_right(scene: &Scene, place: &str, account: &str) -> Result<()> {
    scene.wait_for_tier(place)?;
    prune(scene, place)?;
    forget_settings(scene, place)?;
    refill(scene, place)?;
    enforce(scene, place)?;
    restore(scene, place)?;
    nudge(scene, place, account)?;
    stall(scene, place, account)
}

fn ensure_none_is_idle(asked: &BTreeSet<(String, String)>, roles: &[Value]) -> Result<()> {
    let allowed: BTreeSet<_> = roles.iter().flat_map(rights).collect();
    let idle: Vec<_> = allowed
        .difference(asked)
        .filter(|(resource, verb)| (resource.as_str(), verb.as_str()) != OWNING)
        .collect();
    ensure!(idle.is_empty(), "nobody used these rights: {idle:?}");
    Ok(())
}

/// Metadata of an object that `shop` controls and has no use for.
fn left_over(scene: &Scene, place: &str, name: &str) -> Result<Value> {
    let shop = scene.json(&format!("get pgpc shop --namespace {place}"))?;
    Ok(json!({
        "name": name,
        "namespace": place,
        "labels": {"app.kubernetes.io/managed-by": "poolkeeper-operator"},
        "ownerReferences": [{
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "PgPoolCluster", "name": "shop",
            "uid": shop["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
        }],
    }))
}

/// What a cluster controls and no longer wants is deleted, of each kind.
fn prune(scene: &Scene, place: &str) -> Result<()> {
    let metadata = left_over(scene, place, "left-over")?;
    let selector = json!({"matchLabels": {"left": "over"}});
    let template = json!({
        "metadata": {"labels": {"left": "over"}},
        "spec": {"containers": [{"name": "none", "image": "none.invalid/none:0"}]},
    });
    let kinds = [
        ("v1", "ServiceAccount", "serviceaccount", json!(null)),
        ("v1", "Secret", "secret", json!(null)),
        ("v1", "ConfigMap", "configmap", json!(null)),
        (
            "v1",
            "Service",
            "service",
            json!({"ports": [{"port": 5432}]}),
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            "pdb",
            json!({"selector": selector}),
        ),
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "netpol",
            json!({"podSelector": {}}),
        ),
        (
            "apps/v1",
            "Deployment",
            "deployment",
            json!({"replicas": 0, "selector": selector, "template": template}),
        ),
    ];
    for (version, kind, resource, spec) in kinds {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
        if !spec.is_null() {
            object["spec"] = spec;
        }
        scene.cluster.apply(&object.to_string())?;
        let get =
            format!("get {resource} left-over --namespace {place} --ignore-not-found -o name");
        scene.until(&format!("{kind} left-over to be deleted"), || {
            Ok(scene.kubectl(&get)?.is_empty())
        })?;
    }
    Ok(())
}

/// Settings of before go once no ReplicaSet mounts them.
fn forget_settings(scene: &Scene, place: &str) -> Result<()> {
    let present = scene.kubectl(&format!("get secret --namespace {place} -o name"))?;
    let present = present
        .lines()
        .find_map(|line| {
            line.strip_prefix("secret/shop-pooler-")
                .filter(|rest| *rest != "config")
        })
        .context("there is no Secret with settings")?;
    let former = format!("shop-pooler-{}", "0".repeat(present.len()));
    ensure!(!former.ends_with(present), "the hash is all zeros");
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret"});
    secret["metadata"] = left_over(scene, place, &former)?;
    scene.cluster.apply(&secret.to_string())?;
    let get = format!("get secret {former} --namespace {place} --ignore-not-found -o name");
    scene.until("the former settings to be deleted", || {
        Ok(scene.kubectl(&get)?.is_empty())
    })
}

fn enforce(scene: &Scene, place: &str) -> Result<()> {
    let patch = r#"{"spec":{"networkPolicy":{"enabled":true}}}"#;
    let name = ["patch", "pgpc", "shop", "--namespace", place];
    let patch = ["--type=merge", "--patch", patch];
    scene.cluster.kubectl(&[&name[..], &patch].concat())?;
    scene.until("a NetworkPolicy to be created", || {
        Ok(!scene
            .kubectl(&format!("get networkpolicy --namespace {place} -o name"))?
            .is_empty())
    })
}

/// What somebody deletes is made anew.
fn restore(scene: &Scene, place: &str) -> Result<()> {
    let kinds = "serviceaccount,configmap,service,deployment,poddisruptionbudget,networkpolicy";
    let list = format!("get {kinds} --namespace {place} --selector {OF_SHOP} -o name");
    let before = scene.kubectl(&list)?;
    let delete = format!("delete {kinds} --namespace {place} --selector {OF_SHOP}");
    scene.kubectl(&delete)?;
    scene.until("everything to be there again", || {
        Ok(scene.kubectl(&list)? == before)
    })
}

/// A Pod that is ready is told of the configuration; no kubelet is here to make it so.
fn nudge(scene: &Scene, place: &str, account: &str) -> Result<()> {
    let poolers = "app.kubernetes.io/instance=shop,app.kubernetes.io/component=pooler";
    let list = format!("get pod --namespace {place} --selector {poolers} -o name");
    let mut pod = String::new();
    scene.until("a Pod to be created", || {
        let pods = scene.kubectl(&list)?;
        pods.lines().next().unwrap_or_default().clone_into(&mut pod);
        Ok(!pod.is_empty())
    })?;
    let status =
        r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    let patch = ["patch", &pod, "--namespace", place, "--subresource=status"];
    let status = ["--type=merge", "--patch", status];
    scene.cluster.kubectl(&[&patch[..], &status].concat())?;
    let right = ("pods".to_owned(), "patch".to_owned());
    scene.until("the Pod to be told", || {
        Ok(scene.asked(account)?.contains(&right))
    })
}

/// A key that somebody removed is made anew.
fn refill(scene: &Scene, place: &str) -> Result<()> {
    let patch = r#"[{"op":"remove","path":"/data"}]"#;
    let name = ["secret", "shop-internal", "--namespace", place];
    scene
        .cluster
        .kubectl(&[&["patch"], &name[..], &["--type=json", "--patch", patch]].concat())?;
    scene.until("the key to be there again", || {
        let secret = scene.json(&format!("get secret shop-internal --namespace {place}"))?;
        Ok(secret["data"]["key"].is_string())
    })
}

/// Twice the same in a row: the second time is told by the first time's Event.
fn stall(scene: &Scene, place: &str, account: &str) -> Result<()> {
    let secret = scene.json(&format!("get secret shop-users --namespace {place}"))?;
    let stalled = |status: &'static str| {
        scene.until(&format!("Stalled to be {status}"), || {
            let shop = scene.json(&format!("get pgpc shop --namespace {place}"))?;
            let conditions = shop["status"]["conditions"].as_array().cloned();
            let mut conditions = conditions.unwrap_or_default().into_iter();
            Ok(conditions.any(|one| one["type"] == "Stalled" && one["status"] == status))
        })
    };
    for _ in 0..2 {
        scene.kubectl(&format!("delete secret shop-users --namespace {place}"))?;
        stalled("True")?;
        let restored = json!({
            "apiVersion": "v1", "kind": "Secret", "data": secret["data"],
            "metadata": {"name": "shop-users", "namespace": place},
        });
        scene.cluster.apply(&restored.to_string())?;
        stalled("False")?;
    }
    scene.until("the Event to be told again", || {
        let asked = scene.asked(account)?;
        Ok(asked.contains(&("events.events.k8s.io".to_owned(), "patch".to_owned())))
    })
}

/// The API server asks for this right on behalf of owner references, so that it is
/// in no audit log.
fn own_nothing(scene: &Scene) -> Result<()> {
    let role = scene.json(&format!("get clusterrole {OPERATOR}"))?;
    let rules = role["rules"].as_array().context("it has rules")?;
    let owning = json!(["pgpoolclusters/finalizers"]);
    let without: Vec<_> = rules
        .iter()
        .filter(|rule| rule["resources"] != owning)
        .collect();
    ensure!(
        without.len() + 1 == rules.len(),
        "no rule for finalizers alone"
    );
    let set = |rules: Value| {
        let patch = json!({ "rules": rules }).to_string();
        let name = ["clusterrole", OPERATOR, "--type=merge", "--patch", &patch];
        scene.cluster.kubectl(&[&["patch"], &name[..]].concat())
    };
    set(json!(without))?;
    scene.until("the right to be gone", || {
        Ok(!scene.may(SYSTEM, OPERATOR, "update", "pgpc --subresource=finalizers")?)
    })?;
    scene.quickstart("team-c")?;
    let operator = scene.start_operator(SYSTEM, OPERATOR)?;
    scene
        .until("the cluster to say what is missing", || {
            let shop = scene.json("get pgpc shop --namespace team-c")?;
            Ok(shop["status"].to_string().contains("blockOwnerDeletion"))
        })
        .with_context(|| operator.child.log_tail())?;
    drop(operator);
    set(json!(rules))?;
    scene.kubectl("delete namespace team-c --wait=false")?;
    Ok(())
}

/// Two namespaces by Roles alone; a third is left alone.
fn act_in_named_namespaces(scene: &Scene) -> Result<()> {
    for place in ["team-b", "team-d", "team-e"] {
        scene.quickstart(place)?;
    }
    let chart = root().join("charts/poolkeeper");
    let only =
        "--set namespaces={team-b,team-d} --set crds.install=false --set rbac.aggregate=false";
    scene.helm(&format!(
        "install narrow {} --namespace narrow --create-namespace {only}",
        chart.display()
    ))?;
    let wide =
        "get clusterrole,clusterrolebinding --selector app.kubernetes.io/instance=narrow -o name";
    let wide = scene.kubectl(wide)?;
    ensure!(wide.is_empty(), "rights beyond the namespaces: {wide}");
    let may = |place: &str| scene.may_in(place, ("narrow", NARROW), "list", "secrets");
    for place in ["team-b", "team-d"] {
        scene.until("its rights to hold", || may(place))?;
    }
    let operator = scene.start_operator("narrow", NARROW)?;
    scene
        .wait_for_tier("team-b")
        .and_then(|()| use_every_right(scene, "team-d", NARROW))
        .with_context(|| operator.child.log_tail())?;
    let role =
        |name: &str, place: &str| scene.json(&format!("get role {name} --namespace {place}"));
    let roles = [
        role(NARROW, "team-d")?,
        role(&format!("{NARROW}-lease"), "narrow")?,
    ];
    ensure_none_is_idle(&scene.asked(NARROW)?, &roles)?;
    ensure!(
        rights(&roles[0]) == rights(&role(NARROW, "team-b")?),
        "its rights are not the same in both"
    );
    for place in ["team-a", "team-e", "narrow", "default"] {
        ensure!(!may(place)?, "it may list the Secrets of {place}");
    }
    // Where nobody looks nothing is said.
    let shop = scene.json("get pgpc shop --namespace team-e")?;
    ensure!(shop["status"].is_null(), "team-e: {}", shop["status"]);
    let found = scene.kubectl(&format!(
        "get deployment,service --namespace team-e --selector {OF_SHOP} -o name"
    ))?;
    ensure!(found.is_empty(), "team-e has {found}");
    drop(operator);
    scene.helm("uninstall narrow --namespace narrow")?;
    for place in ["team-b", "team-d"] {
        let left = scene.kubectl(&format!("get role,rolebinding --namespace {place} -o name"))?;
        ensure!(left.is_empty(), "left over: {left}");
    }
    Ok(())
}

fn uninstall(scene: &Scene) -> Result<()> {
    scene.helm(&format!("uninstall poolkeeper --namespace {SYSTEM}"))?;
    scene.kubectl("get pgpc shop --namespace team-a")?;
    let left = scene.kubectl(&format!(
        "get deployment,service --namespace {SYSTEM} -o name"
    ))?;
    ensure!(left.is_empty(), "left over: {left}");
    let roles = "get clusterrole --selector app.kubernetes.io/name=poolkeeper -o name";
    let left = scene.kubectl(roles)?;
    ensure!(left.is_empty(), "left over: {left}");
    // The CRD that was kept is taken up again.
    let chart = root().join("charts/poolkeeper");
    scene.helm(&format!(
        "install poolkeeper {} --namespace {SYSTEM}",
        chart.display()
    ))?;
    scene.helm(&format!("uninstall poolkeeper --namespace {SYSTEM}"))?;
    Ok(())
}

fn apply_without_helm(scene: &Scene) -> Result<()> {
    let file = root().join("deploy/poolkeeper.yaml");
    scene.kubectl(&format!(
        "apply --server-side --force-conflicts --validate=strict -f {}",
        file.display()
    ))?;
    scene.kubectl(&format!("get deployment {OPERATOR} --namespace {SYSTEM}"))?;
    // What helm would have to adopt is not marked as its own.
    let crd = scene.json("get crd pgpoolclusters.poolkeeper.dev")?;
    if crd["spec"]["names"]["kind"] != "PgPoolCluster" {
        bail!("the CRD is gone");
    }
    Ok(())
}
