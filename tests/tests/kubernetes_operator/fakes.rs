//! Pods that seem to run, where there is no node: what a kubelet would say of
//! them, and a balancer that answers in their place.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context as _, Result};
use serde_json::{Value as Json, json};

use crate::api::{Api, eventually};

/// Where a balancer serves HTTP in its Pod.
const BALANCER_HTTP: u16 = 8404;

/// The Pods of a cluster, each with an address of its own on the loopback.
pub(crate) struct Pods {
    poolers: Vec<Pod>,
    balancers: Vec<Pod>,
}

struct Pod {
    name: String,
    address: Ipv4Addr,
}

/// Whether the controllers have looked at both Deployments as they are.
fn settled(api: &Api, cluster: &str) -> bool {
    ["pooler", "balancer"].iter().all(|component| {
        let deployment = api.deployment(&format!("{cluster}-{component}"));
        deployment.is_ok_and(|one| {
            one["status"]["observedGeneration"] == one["metadata"]["generation"]
                && one["status"]["replicas"] == one["spec"]["replicas"]
        })
    })
}

impl Pods {
    /// Waits until the quickstart's Pods are there.
    pub(crate) fn find(api: &Api, cluster: &str) -> Result<Self> {
        let found = |component: &str| {
            let selector = format!(
                "app.kubernetes.io/instance={cluster},app.kubernetes.io/component={component}"
            );
            let mut pods = api.list("/api/v1", "pods", &selector).unwrap_or_default();
            pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            pods
        };
        let (mut poolers, mut balancers) = (Vec::new(), Vec::new());
        // A Deployment that was changed a moment ago may still come to have others.
        eventually("the Pods to be there", || {
            (poolers, balancers) = (found("pooler"), found("balancer"));
            poolers.len() == 3 && balancers.len() == 2 && settled(api, cluster)
        })?;
        // No other test's, as far as chance goes.
        let network = rand_network();
        let mut last = 0;
        let mut named = |pods: Vec<Json>| -> Vec<Pod> {
            let pods = pods.iter().map(|pod| {
                last += 1;
                Pod {
                    name: pod["metadata"]["name"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                    address: Ipv4Addr::new(127, network[0], network[1], last),
                }
            });
            pods.collect()
        };
        Ok(Self {
            poolers: named(poolers),
            balancers: named(balancers),
        })
    }

    /// Name of a pooler.
    pub(crate) fn pooler(&self, index: usize) -> &str {
        &self.poolers[index].name
    }

    /// All of them pass their readiness probes.
    pub(crate) fn ready(&self, api: &Api) -> Result<()> {
        for pod in self.poolers.iter().chain(&self.balancers) {
            let status = json!({"status": {
                "phase": "Running",
                "podIP": pod.address,
                "podIPs": [{"ip": pod.address}],
                "conditions": [{"type": "Ready", "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }});
            api.patch_status(
                &format!("/api/v1/namespaces/default/pods/{}", pod.name),
                &status,
            )?;
        }
        Ok(())
    }
}

/// Answers `/status` for every balancer of a cluster, at once and without long
/// polls: it says the same to all.
pub(crate) struct Balancer {
    status: Arc<Mutex<Json>>,
}

impl Balancer {
    pub(crate) fn start(pods: &Pods) -> Result<Self> {
        let status = Arc::new(Mutex::new(Json::Null));
        for pod in &pods.balancers {
            let address = SocketAddr::from((pod.address, BALANCER_HTTP));
            let listener = TcpListener::bind(address).with_context(|| address.to_string())?;
            let status = status.clone();
            // Ends with the process; nothing is left of it.
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let status = status.clone();
                    thread::spawn(move || serve(stream, &status));
                }
            });
        }
        Ok(Self { status })
    }

    /// Every pooler is in this state and has this revision.
    pub(crate) fn says(&self, pods: &Pods, state: &str, revision: &str) {
        self.relays(pods, state, revision, &[]);
    }

    /// The same, and the first poolers say this of themselves too.
    pub(crate) fn relays(&self, pods: &Pods, state: &str, revision: &str, said: &[Json]) {
        self.relays_each(pods, revision, |_| state, said);
    }

    /// One pooler is in this state, the others are up.
    pub(crate) fn says_of(&self, pods: &Pods, one: usize, state: &str, revision: &str) {
        let state = |index| if index == one { state } else { "Up" };
        self.relays_each(pods, revision, state, &[]);
    }

    fn relays_each<'a>(
        &self,
        pods: &Pods,
        revision: &str,
        state: impl Fn(usize) -> &'a str,
        said: &[Json],
    ) {
        // What was judged before a Pod was there would be of another at its address.
        let since = jiff::Timestamp::now().to_string();
        let targets: Vec<Json> = pods
            .poolers
            .iter()
            .enumerate()
            .map(|(index, pod)| {
                let said = said.get(index).unwrap_or(&Json::Null);
                json!({
                    "name": pod.address, "address": format!("{}:6432", pod.address),
                    "state": state(index), "since": since, "reason": "as told",
                    "connections": 0, "connectionsTotal": 0,
                    "report": {"state": "ready", "bootId": "b", "configRevision": revision,
                        "clients": 0, "waiting": 0, "upstream": said["upstream"],
                        "saturation": said["saturation"]},
                })
            })
            .collect();
        *self.status.lock().expect("nobody panics holding it") = json!({
            "version": "1", "bootId": "b1", "state": "ready", "configRevision": revision,
            "startedAt": "2026-01-01T00:00:00Z", "connections": 0, "maxConnections": 1,
            "targets": targets, "transitions": [], "newest": 0, "missed": false,
        });
    }
}

fn serve(stream: std::net::TcpStream, status: &Mutex<Json>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
        }
        let body = status.lock().ok()?.to_string();
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        writer.write_all(answer.as_bytes()).ok()?;
    }
}

fn rand_network() -> [u8; 2] {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new()
        .hash_one(std::process::id())
        .to_be_bytes();
    // 127.0 is everybody's.
    [random[0] | 1, random[1]]
}
