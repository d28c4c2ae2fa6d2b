//! The objects of the quickstart, and what must hold of those of any tier.

use std::{collections::BTreeSet, io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proxy_core::config::{ListenAddress, PoolerConfig, balancer as balancer_config, load};
use serde_json::Value as Json;

use super::*;
use crate::{
    api::PgPoolCluster,
    controller::{
        build::{self, Realisation},
        validate::validate,
    },
    golden,
    manifest::{self, Source},
    webhook::WebhookPolicy,
};

const QUICKSTART: &str = include_str!("../../../../examples/quickstart.yaml");

fn read(text: &str) -> (PgPoolCluster, Tier) {
    let source = Source {
        name: "f".to_owned(),
        text: text.to_owned(),
    };
    let manifest = manifest::read(&[source]).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let cluster = validate(&manifest.dereference(), &WebhookPolicy::default())
        .unwrap_or_else(|faults| panic!("{faults:#?}"));
    (manifest.cluster, build::tier(&cluster))
}

/// The cluster as the API server has it, and the objects made from it.
fn made(text: &str) -> Objects {
    let (mut cluster, tier) = read(text);
    cluster.metadata.namespace = Some("default".to_owned());
    cluster.metadata.uid = Some("8e1f0f6c-0000-4000-8000-000000000000".to_owned());
    of(&tier, &Owner::of(&cluster))
}

fn of(tier: &Tier, owner: &Owner) -> Objects {
    let images = Images {
        pooler: "example.org/pooler:1".to_owned(),
        balancer: "example.org/balancer:1".to_owned(),
    };
    let placement = Placement {
        owner,
        images: &images,
        revision: None,
    };
    objects(tier, &placement)
}

/// The quickstart with TLS and every kind of setting.
fn elaborate() -> String {
    let pair = rcgen::generate_simple_self_signed(["shop".to_owned()]).unwrap();
    let encode = |pem: String| STANDARD.encode(pem);
    let with_tls = QUICKSTART.replace(
        "client: {mode: disable}",
        "client: {mode: require, certSecretRef: {name: shop-tls}}",
    );
    assert_ne!(with_tls, QUICKSTART);
    format!(
        "{}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: shop-tls}}\ndata:\n  tls.crt: {}\n  tls.key: {}\n",
        with_tls.replace(
            "    - name: app\n",
            "    - {name: app, maxConnections: 9}\n  databases: [{name: orders, poolSize: 7}]\n"
        ),
        encode(pair.cert.pem()),
        encode(pair.signing_key.serialize_pem())
    )
}

/// Every object, in order, as the API server is told.
fn documents(objects: &Objects) -> Vec<Json> {
    use serde::Deserialize as _;
    serde_yaml::Deserializer::from_str(&objects.yaml())
        .map(|document| Json::deserialize(document).unwrap())
        .collect()
}

fn title(document: &Json) -> String {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{} {}",
        text(&document["kind"]),
        text(&document["metadata"]["name"])
    )
}

fn pods(objects: &Objects) -> [Json; 2] {
    [&objects.poolers, &objects.balancers].map(|deployment| {
        let template = &deployment.spec.as_ref().unwrap().template;
        serde_json::to_value(template.spec.as_ref().unwrap()).unwrap()
    })
}

/// A list that may be missing.
fn list(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn file<'a>(objects: &'a Objects, name: &str) -> &'a [u8] {
    &objects.pooler_config.data.as_ref().unwrap()[name].0
}

/// The pooler's configuration as a Pod reads it: the Secret as a folder.
fn pooler_in_pod(objects: &Objects) -> PoolerConfig {
    let folder = Path::new(workload::CONFIG_FOLDER);
    let settings = Path::new(workload::SETTINGS_FOLDER);
    let mut read = |path: &Path| {
        if path == Path::new(workload::INTERNAL_KEY_FILE) {
            return Ok("0123456789abcdef".to_owned());
        }
        let content = match path.strip_prefix(settings) {
            Ok(name) => &objects.pooler_settings.data.as_ref().unwrap()[name.to_str().unwrap()].0,
            Err(_) => {
                let name = path.strip_prefix(folder).map_err(io::Error::other)?;
                file(objects, name.to_str().unwrap())
            }
        };
        Ok(String::from_utf8(content.to_vec()).unwrap())
    };
    load(&folder.join(pooler::POOLER_INI), &mut read).unwrap()
}

/// What changes in the objects when the manifest does.
fn changed(from: &str, to: &str) -> Vec<String> {
    let manifest = QUICKSTART.replace(from, to);
    assert_ne!(manifest, QUICKSTART, "{from:?} is not in the quickstart");
    let (before, after) = (made(QUICKSTART), made(&manifest));
    let (before, after) = (documents(&before), documents(&after));
    assert_eq!(before.len(), after.len());
    before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
        .map(|(before, _)| title(before))
        .collect()
}

/// The objects of every example.
pub(crate) fn of_every_example() -> Vec<Objects> {
    golden::examples()
        .into_iter()
        .map(|(_, text)| made(&text))
        .collect()
}

#[test]
fn every_example_renders_as_committed() {
    let mut examples = 0;
    for (name, text) in golden::examples() {
        examples += 1;
        let objects = made(&text);
        let check = |file: &str, text: &str| {
            golden::check(&format!("tests/golden/{name}/{file}"), text);
        };
        check("objects.yaml", &objects.yaml());
        // In the Secrets nobody can read them.
        let ini = String::from_utf8(file(&objects, pooler::POOLER_INI).to_vec()).unwrap();
        check("pod-pooler.ini", &ini);
        let settings = &objects.pooler_settings.data.as_ref().unwrap()[pooler::SETTINGS_INI].0;
        check(
            "pod-settings.ini",
            &String::from_utf8(settings.clone()).unwrap(),
        );
    }
    assert!(examples >= 6);
}

#[test]
fn objects_have_the_names_that_users_are_promised() {
    let objects = made(QUICKSTART);
    let hashed = objects.pooler_settings.metadata.name.clone().unwrap();
    let titles: Vec<String> = documents(&objects)
        .iter()
        .map(|document| title(document).replace(&hashed, "shop-pooler-SETTINGS"))
        .collect();
    assert_eq!(
        titles,
        [
            "ServiceAccount shop",
            "Secret shop-pooler-SETTINGS",
            "Secret shop-pooler-config",
            "ConfigMap shop-balancer-config",
            "Service shop-pooler",
            "Service shop-balancer",
            "Service shop",
            "PodDisruptionBudget shop-pooler",
            "PodDisruptionBudget shop-balancer",
            "Deployment shop-pooler",
            "Deployment shop-balancer",
            "Secret shop-binding-app",
        ]
    );
}

#[test]
fn everything_is_labelled_and_owned() {
    for document in documents(&made(QUICKSTART)) {
        let metadata = &document["metadata"];
        for label in ["name", "instance", "component", "managed-by", "part-of"] {
            let label = format!("app.kubernetes.io/{label}");
            assert!(
                metadata["labels"][&label].is_string(),
                "{label}: {document}"
            );
        }
        assert_eq!(metadata["namespace"], "default");
        let owners = list(&metadata["ownerReferences"]);
        assert_eq!(owners.len(), 1, "{document}");
        assert_eq!(owners[0]["kind"], "PgPoolCluster");
        assert_eq!(owners[0]["name"], "shop");
        assert_eq!(owners[0]["controller"], true);
        assert_eq!(owners[0]["blockOwnerDeletion"], true);
    }
}

#[test]
fn a_cluster_from_a_file_owns_nothing() {
    let (cluster, tier) = read(QUICKSTART);
    for document in documents(&of(&tier, &Owner::of(&cluster))) {
        assert!(document["metadata"]["ownerReferences"].is_null());
        assert!(document["metadata"]["namespace"].is_null());
    }
}

#[test]
fn what_is_referred_to_is_applied_first() {
    let objects = made(&elaborate());
    let mut applied = BTreeSet::new();
    let mut references = 0;
    for document in documents(&objects) {
        let pod = &document["spec"]["template"]["spec"];
        let volumes = list(&pod["volumes"]).iter().flat_map(|volume| {
            [
                ("Secret", &volume["secret"]["secretName"]),
                ("ConfigMap", &volume["configMap"]["name"]),
            ]
        });
        let account = ("ServiceAccount", &pod["serviceAccountName"]);
        for (kind, name) in volumes.chain([account]) {
            if let Some(name) = name.as_str().filter(|name| *name != "shop-internal") {
                references += 1;
                let wanted = format!("{kind} {name}");
                assert!(applied.contains(&wanted), "{wanted} comes too late");
            }
        }
        applied.insert(title(&document));
    }
    // Accounts, settings, configuration. The key is the controller's to make.
    assert_eq!(references, 5);
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>,
/// every rule of it, and a root file system that cannot be written.
#[test]
fn pods_keep_the_restricted_standard() {
    for pod in pods(&made(&elaborate())) {
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[key].is_null(), "{key}");
        }
        let context = &pod["securityContext"];
        assert!(context["sysctls"].is_null());
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        for volume in list(&pod["volumes"]) {
            let kinds: Vec<&str> = volume
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            assert!(
                kinds == ["configMap", "name"] || kinds == ["name", "secret"],
                "{kinds:?}"
            );
        }
        let kinds = ["containers", "initContainers", "ephemeralContainers"];
        let containers: Vec<&Json> = kinds.iter().flat_map(|kind| list(&pod[*kind])).collect();
        assert_eq!(containers.len(), 1);
        for container in containers {
            let own = &container["securityContext"];
            assert_eq!(own["allowPrivilegeEscalation"], false);
            assert_eq!(own["readOnlyRootFilesystem"], true);
            assert_eq!(own["capabilities"], serde_json::json!({"drop": ["ALL"]}));
            for key in [
                "privileged",
                "procMount",
                "seLinuxOptions",
                "windowsOptions",
                "appArmorProfile",
            ] {
                assert!(own[key].is_null() && context[key].is_null(), "{key}");
            }
            // Nothing that the Pod says is taken back.
            for key in ["runAsNonRoot", "seccompProfile", "runAsUser"] {
                assert!(own[key].is_null(), "{key}");
            }
            for port in list(&container["ports"]) {
                assert!(port["hostPort"].is_null());
            }
        }
        assert!(context["runAsUser"].as_i64().unwrap() > 0);
    }
}

#[test]
fn configuration_is_mounted_as_a_folder_that_holds_the_file() {
    let objects = made(&elaborate());
    let secret = objects.pooler_config.data.as_ref().unwrap();
    let config = objects.balancer_config.data.as_ref().unwrap();
    let files: [BTreeSet<&String>; 2] = [secret.keys().collect(), config.keys().collect()];
    for (pod, files) in pods(&objects).iter().zip(files) {
        let container = &pod["containers"][0];
        let mounts = list(&container["volumeMounts"]);
        for mount in mounts {
            assert!(mount["subPath"].is_null() && mount["subPathExpr"].is_null());
            assert_eq!(mount["readOnly"], true);
        }
        for volume in list(&pod["volumes"]) {
            assert!(volume["secret"]["items"].is_null());
        }
        let folder = mounts[0]["mountPath"].as_str().unwrap();
        let file = container["args"][0].as_str().unwrap();
        let name = file.strip_prefix(&format!("{folder}/")).unwrap();
        assert!(files.contains(&name.to_owned()), "{name}");
    }
}

#[test]
fn services_and_probes_lead_to_ports_that_are_listened_on() {
    let objects = made(QUICKSTART);
    let config = pooler_in_pod(&objects).global;
    let yaml = &objects.balancer_config.data.as_ref().unwrap()["balancer.yaml"];
    let balancer = balancer_config::parse("balancer.yaml", yaml).unwrap();
    let listening = [
        [config.listen_port, config.http_port],
        [
            balancer.frontends[0].bind.port,
            balancer.http.unwrap().bind.port,
        ],
    ];
    let documents = documents(&objects);
    for (pod, listening) in pods(&objects).iter().zip(listening) {
        let container = &pod["containers"][0];
        let ports = list(&container["ports"]);
        let named = |name: &Json| ports.iter().find(|port| port["name"] == *name).unwrap();
        let numbers: Vec<_> = ports
            .iter()
            .map(|port| port["containerPort"].clone())
            .collect();
        assert_eq!(numbers, listening);
        for (probe, path) in [
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ] {
            let get = &container[probe]["httpGet"];
            assert_eq!(get["path"], path);
            assert_eq!(named(&get["port"])["containerPort"], listening[1]);
        }
        let component = &container["name"];
        let services = documents.iter().filter(|document| {
            let selector = &document["spec"]["selector"]["app.kubernetes.io/component"];
            document["kind"] == "Service" && selector == component
        });
        let mut found = 0;
        for port in services.flat_map(|service| list(&service["spec"]["ports"])) {
            found += 1;
            named(&port["targetPort"]);
        }
        assert_eq!(found, 2);
    }
}

#[test]
fn selectors_fit_the_pods_and_only_those() {
    let objects = made(QUICKSTART);
    let templates = [&objects.poolers, &objects.balancers].map(|deployment| {
        let template = &deployment.spec.as_ref().unwrap().template;
        template.metadata.as_ref().unwrap().labels.clone().unwrap()
    });
    let fits = |selector: &Json| {
        let fitting = templates.iter().filter(|labels| {
            let mut pairs = selector.as_object().unwrap().iter();
            pairs.all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
        });
        fitting.count()
    };
    for document in documents(&objects) {
        let selector = &document["spec"]["selector"];
        let selector = match &selector["matchLabels"] {
            Json::Null => selector,
            labels => labels,
        };
        if !selector.is_null() {
            assert_eq!(fits(selector), 1, "{}", title(&document));
        }
    }
}

#[test]
fn what_a_reload_applies_changes_only_what_is_read() {
    let pooler = ["Secret shop-pooler-config"];
    for (from, to) in [
        ("defaultPoolSize: 70", "defaultPoolSize: 71"),
        ("maxClientConnections: 4000", "maxClientConnections: 5000"),
        ("mode: transaction", "mode: session"),
        ("admin_users: admin", "admin_users: app"),
        ("change-me-too", "another"),
        ("host: postgres.default.svc", "host: elsewhere"),
        ("mode: transaction", "mode: transaction\n    state: Paused"),
    ] {
        assert_eq!(changed(from, to), pooler, "{to}");
    }
    // A restart would apply it, but it is the default.
    let default = "admin_users: admin\n      threads: 1";
    assert_eq!(changed("admin_users: admin", default), Vec::<String>::new());
    for (from, to) in [
        ("algorithm: leastconn", "algorithm: roundrobin"),
        ("maxConnections: 12000", "maxConnections: 99"),
        ("timeout: 1s", "timeout: 2s"),
        ("fall: 3", "fall: 4"),
    ] {
        assert_eq!(
            changed(from, to),
            ["ConfigMap shop-balancer-config"],
            "{to}"
        );
    }
}

#[test]
fn what_only_a_restart_applies_rolls_the_poolers() {
    for setting in ["threads: 2", "log_format: json", "unix_socket_dir: /run"] {
        let to = format!("admin_users: admin\n      {setting}");
        let changed = changed("admin_users: admin", &to);
        // Another Secret, and what names it.
        assert_eq!(changed.len(), 2, "{changed:?}");
        assert!(changed[0].starts_with("Secret shop-pooler-"), "{setting}");
        assert_ne!(changed[0], "Secret shop-pooler-config");
        assert_eq!(changed[1], "Deployment shop-pooler", "{setting}");
    }
    let with = |threads: u32| {
        let to = format!("admin_users: admin\n      threads: {threads}");
        made(&QUICKSTART.replace("admin_users: admin", &to)).poolers
    };
    assert_ne!(with(2), with(3));
    assert_eq!(with(2), with(2));
}

#[test]
fn port_and_type_of_the_service_are_its_own_matter() {
    assert_eq!(
        changed(
            "type: ClusterIP\n    port: 5432",
            "type: LoadBalancer\n    port: 6000"
        ),
        ["Service shop", "Secret shop-binding-app"]
    );
}

#[test]
fn secrets_are_in_no_object_but_secrets() {
    let manifest = elaborate();
    let objects = made(&manifest);
    let key = String::from_utf8(file(&objects, "tls.key").to_vec()).unwrap();
    let secrets = [
        "change-me".to_owned(),
        key.lines().nth(1).unwrap().to_owned(),
        // What the operator alone needs goes to no Pod.
        "hooks.slack.com".to_owned(),
    ];
    for document in documents(&objects) {
        let text = document.to_string();
        for secret in &secrets {
            assert!(!text.contains(secret), "{}", title(&document));
        }
        if document["kind"] != "Secret" {
            assert!(
                !text.contains(&STANDARD.encode(&key)),
                "{}",
                title(&document)
            );
        }
    }
    // Nor does anything else follow from them, such as a hash; but for what an
    // application needs.
    let other = made(&manifest.replace("change-me", "another"));
    assert!(other.pooler_config != objects.pooler_config);
    let without = |objects: &Objects| Objects {
        pooler_config: Secret::default(),
        bindings: Vec::new(),
        ..objects.clone()
    };
    assert!(without(&other) == without(&objects));
}

#[test]
fn a_pod_reads_what_a_local_process_does_but_for_its_place() {
    for manifest in [QUICKSTART.to_owned(), elaborate()] {
        let (cluster, tier) = read(&manifest);
        let pod = pooler_in_pod(&of(&tier, &Owner::of(&cluster)));
        let mut realisation = Realisation::example(&tier);
        realisation.files = workload::CONFIG_FOLDER.into();
        let ini = build::pooler_ini(&tier, &realisation.pooler(0)).text;
        let mut read = |path: &Path| {
            let beside = tier.pooler.files.iter();
            let mut beside = beside.filter(|file| path.ends_with(file.name));
            let content = beside.next().map(|file| file.content.text().unwrap());
            Ok(content.unwrap_or(&ini).to_owned())
        };
        let path = realisation.files.join(pooler::POOLER_INI);
        let local = load(&path, &mut read).unwrap();
        let differing: Vec<&str> = local
            .global
            .changes(&pod.global)
            .iter()
            .map(|setting| setting.name)
            .collect();
        assert_eq!(
            differing,
            [
                "config_revision",
                "http_addr",
                "listen_addr",
                "peer_discovery",
                "peer_id",
                "proxy_protocol",
                "reload_on_change",
                "shared_key_file"
            ]
        );
        assert!(pod.global.reload_on_change);
        let everywhere = ListenAddress::All;
        assert_eq!(pod.global.listen_addr, [everywhere]);
        assert_eq!(pod.global.http_addr, everywhere);
        assert_eq!(pod.databases, local.databases);
        assert_eq!(pod.users, local.users);
        assert_eq!(pod.userlist, local.userlist);
        assert!(pod.peers.is_empty());
    }
}

/// As balancers do; the number of each follows from the address of its Pod.
#[test]
fn poolers_find_each_other_by_their_service() {
    let objects = made(QUICKSTART);
    let name = pooler_in_pod(&objects).global.peer_discovery.unwrap();
    let service = objects.pooler_service.metadata.name.unwrap();
    assert_eq!(name.name, format!("{service}.default.svc"));
    let spec = objects.pooler_service.spec.unwrap();
    assert_eq!(spec.publish_not_ready_addresses, Some(true));
    assert_eq!(name.port, Some(pooler_port(&objects.poolers)));
    let pod = objects.poolers.spec.unwrap().template.spec.unwrap();
    let variables = pod.containers[0].env.as_ref().unwrap().iter();
    let mut advertised = variables.filter(|one| one.name == "POOLER_ADVERTISE_ADDR");
    let source = advertised.next().unwrap().value_from.as_ref().unwrap();
    let field = source.field_ref.as_ref().unwrap();
    assert_eq!(field.field_path, "status.podIP");
}

#[test]
fn balancers_find_the_poolers_by_their_service() {
    let objects = made(QUICKSTART);
    let yaml = &objects.balancer_config.data.unwrap()["balancer.yaml"];
    let config = balancer_config::parse("balancer.yaml", yaml).unwrap();
    assert!(config.targets.is_empty());
    let discovery = config.discovery.unwrap();
    let name = objects.pooler_service.metadata.name.unwrap();
    assert_eq!(discovery.dns, format!("{name}.default.svc"));
    let spec = objects.pooler_service.spec.unwrap();
    assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
    assert!(config.reload_on_change);
    assert_eq!(discovery.port, pooler_port(&objects.poolers));
    assert_eq!(config.check, balancer_config::Check::default());
    assert!(!config.frontends[0].reuse_port);
}

fn pooler_port(deployment: &Deployment) -> u16 {
    let pod = deployment.spec.as_ref().unwrap().template.spec.as_ref();
    let ports = pod.unwrap().containers[0].ports.as_ref().unwrap();
    u16::try_from(ports[0].container_port).unwrap()
}

#[test]
fn the_revision_is_told_to_both() {
    let (cluster, tier) = read(QUICKSTART);
    let images = Images {
        pooler: "p".to_owned(),
        balancer: "b".to_owned(),
    };
    let placement = Placement {
        owner: &Owner::of(&cluster),
        images: &images,
        revision: Some("abc"),
    };
    let objects = objects(&tier, &placement);
    let config = pooler_in_pod(&objects).global;
    assert_eq!(config.config_revision.as_deref(), Some("abc"));
    let yaml = &objects.balancer_config.data.unwrap()["balancer.yaml"];
    let config = balancer_config::parse("balancer.yaml", yaml).unwrap();
    assert_eq!(config.revision.as_deref(), Some("abc"));
    // A file names no namespace.
    assert_eq!(config.discovery.unwrap().dns, "shop-pooler");
}

#[test]
fn pods_have_the_time_they_need() {
    let slow = made(
        &QUICKSTART
            .replace("drainTimeout: 60s", "drainTimeout: 90m")
            .replace("interval: 2s, timeout: 1s", "interval: 1500ms, timeout: 1s"),
    );
    // (objects, until judged up, poolers' end, balancers' end)
    for (objects, judged, ends) in [(made(QUICKSTART), 4, [75, 75]), (slow, 3, [5414, 75])] {
        for (deployment, end) in [&objects.poolers, &objects.balancers].into_iter().zip(ends) {
            let spec = deployment.spec.as_ref().unwrap();
            let grace = spec
                .template
                .spec
                .as_ref()
                .unwrap()
                .termination_grace_period_seconds;
            assert_eq!(grace, Some(end));
            assert_eq!(spec.min_ready_seconds, Some(judged));
            let deadline = i64::from(spec.progress_deadline_seconds.unwrap());
            assert!(deadline > end + i64::from(judged), "{deadline}");
        }
    }
}

#[test]
fn resources_are_those_of_the_manifest_or_the_default() {
    let manifest = QUICKSTART.replace(
        "algorithm: leastconn",
        "algorithm: leastconn\n    resources: {limits: {memory: 64Mi}}",
    );
    let [pooler, balancer] =
        pods(&made(&manifest)).map(|pod| pod["containers"][0]["resources"].clone());
    assert_eq!(
        pooler,
        serde_json::json!({
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        })
    );
    assert_eq!(balancer, serde_json::json!({"limits": {"memory": "64Mi"}}));
    let [_, balancer] =
        pods(&made(QUICKSTART)).map(|pod| pod["containers"][0]["resources"].clone());
    assert_eq!(
        balancer,
        serde_json::json!({
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        })
    );
    // What a podTemplate says of them is not mixed with what nobody wrote.
    let manifest = QUICKSTART.replace(
        "algorithm: leastconn",
        "algorithm: leastconn\n    podTemplate: {spec: {containers: [{name: balancer, resources: {requests: {memory: 1Gi}}}]}}",
    );
    let [_, balancer] = pods(&made(&manifest)).map(|pod| pod["containers"][0]["resources"].clone());
    assert_eq!(balancer, serde_json::json!({"requests": {"memory": "1Gi"}}));
    let manifest = QUICKSTART.replace(
        "algorithm: leastconn",
        "algorithm: leastconn\n    resources: {}",
    );
    let [_, balancer] = pods(&made(&manifest)).map(|pod| pod["containers"][0]["resources"].clone());
    assert_eq!(balancer, serde_json::json!({}));
}

const PRODUCTION: &str = include_str!("../../../../examples/production.yaml");

#[test]
fn what_users_add_to_pods_is_merged_and_the_rest_stays() {
    let objects = made(PRODUCTION);
    let [pooler, balancer] = pods(&objects);
    assert_eq!(pooler["priorityClassName"], "system-cluster-critical");
    assert_eq!(pooler["tolerations"][0]["value"], "database");
    assert!(balancer["priorityClassName"].is_null());
    let template = &objects.poolers.spec.as_ref().unwrap().template;
    let labels = template.metadata.as_ref().unwrap().labels.clone().unwrap();
    assert_eq!(labels["team"], "platform");
    assert_eq!(labels["app.kubernetes.io/component"], "pooler");
    assert_eq!(pooler["containers"][0]["name"], "pooler");
    let images =
        ["pooler", "balancer"].map(|name| format!("registry.example/poolkeeper/{name}:0.1.0"));
    for (pod, image) in [pooler, balancer].iter().zip(images) {
        assert_eq!(pod["containers"][0]["image"], image);
        assert_eq!(pod["containers"][0]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(pod["imagePullSecrets"][0]["name"], "registry");
    }
}

#[test]
fn a_sidecar_comes_after_our_own_container() {
    let manifest = QUICKSTART.replace(
        "  balancer:\n    replicas: 2",
        "  balancer:\n    podTemplate:\n      spec:\n        containers:\n        - {name: side, image: s}\n        - {name: balancer, env: [{name: TZ, value: UTC}]}\n        volumes: [{name: own, emptyDir: {}}]\n    replicas: 2",
    );
    let [_, balancer] = pods(&made(&manifest));
    let names: Vec<&Json> = list(&balancer["containers"])
        .iter()
        .map(|container| &container["name"])
        .collect();
    assert_eq!(names, ["balancer", "side"]);
    let env = list(&balancer["containers"][0]["env"]);
    assert_eq!(env.last().unwrap()["name"], "TZ");
    assert!(env.iter().any(|variable| variable["name"] == "POD_NAME"));
    assert_eq!(list(&balancer["volumes"]).len(), 3);
}

#[test]
fn network_policies_are_made_on_request_and_let_the_tier_work() {
    assert!(made(QUICKSTART).pooler_network.is_none());
    let objects = made(PRODUCTION);
    let [pooler, balancer] = [&objects.pooler_network, &objects.balancer_network]
        .map(|policy| serde_json::to_value(policy.as_ref().unwrap()).unwrap());
    let rules = list(&pooler["spec"]["ingress"]);
    let peers: Vec<&Json> = list(&rules[0]["from"])
        .iter()
        .map(|peer| &peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
        .collect();
    assert_eq!(peers, ["pooler", "balancer"]);
    let ports = |rule: &Json| rule["ports"][0]["port"].clone();
    assert_eq!(
        (ports(&rules[0]), ports(&rules[1])),
        ("postgres".into(), "http".into())
    );
    assert!(rules[1]["from"].is_null());
    for rule in list(&balancer["spec"]["ingress"]) {
        assert!(rule["from"].is_null());
    }
    for policy in [pooler, balancer] {
        assert_eq!(
            policy["spec"]["policyTypes"],
            serde_json::json!(["Ingress"])
        );
    }
}

#[test]
fn a_tier_with_a_budget_never_has_more_poolers_than_share_it() {
    let (_, tier) = read(PRODUCTION);
    let share = |tier: &Tier| {
        let mut settings = tier.pooler.settings.iter();
        let own = settings.find(|setting| setting.key == "max_server_connections");
        own.map(|setting| setting.value.parse::<u32>().unwrap())
    };
    assert_eq!(share(&tier), Some(56));
    assert!(56 * build::poolers_at_once(tier.pooler.replicas) <= 280);
    let spec = made(PRODUCTION).poolers.spec.unwrap();
    let grace = spec.template.spec.unwrap().termination_grace_period_seconds;
    // One that ends has ended before the next begins to.
    assert!(i64::from(spec.min_ready_seconds.unwrap()) >= grace.unwrap());
    assert!(spec.progress_deadline_seconds.unwrap() > spec.min_ready_seconds.unwrap());
    let rolling = spec.strategy.unwrap().rolling_update.unwrap();
    assert_eq!(rolling.max_surge, Some(IntOrString::Int(1)));
    assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(0)));
    assert_eq!(share(&read(QUICKSTART).1), None);
}

#[test]
fn poolers_that_are_still_there_have_their_share() {
    let source = Source {
        name: "f".to_owned(),
        text: PRODUCTION.to_owned(),
    };
    let manifest = manifest::read(&[source]).map_err(|_| ()).unwrap();
    let cluster = validate(&manifest.dereference(), &WebhookPolicy::default()).unwrap();
    let share = |seen: u32| {
        let tier = build::tier_among(&cluster, seen);
        let mut settings = tier.pooler.settings.into_iter();
        let own = settings.find(|setting| setting.key == "max_server_connections");
        own.unwrap().value
    };
    assert_eq!(
        [share(0), share(5), share(8), share(300)],
        ["56", "56", "31", "1"]
    );
}

#[test]
fn the_service_is_as_asked_for() {
    let service = made(PRODUCTION).service;
    let annotations = service.metadata.annotations.unwrap();
    assert!(annotations.contains_key("service.beta.kubernetes.io/aws-load-balancer-type"));
    let spec = service.spec.unwrap();
    assert_eq!(spec.type_.as_deref(), Some("LoadBalancer"));
    assert_eq!(spec.external_traffic_policy.as_deref(), Some("Local"));
    assert_eq!(spec.load_balancer_source_ranges.unwrap(), ["10.0.0.0/8"]);
}

#[test]
fn an_annotation_of_the_cluster_rolls_all_pods() {
    assert_eq!(
        changed(
            "metadata:\n  name: shop\nspec",
            "metadata:\n  name: shop\n  annotations: {poolkeeper.dev/restart: today}\nspec"
        ),
        ["Deployment shop-pooler", "Deployment shop-balancer"]
    );
}

#[test]
fn names_of_settings_are_known_again() {
    let name = made(QUICKSTART).pooler_settings.metadata.name.unwrap();
    assert!(is_settings_name("shop", &name), "{name}");
    for other in [
        "shop-pooler-config",
        "shop-pooler-",
        "shop-internal",
        "web-pooler-0123456789",
    ] {
        assert!(!is_settings_name("shop", other), "{other}");
    }
}
