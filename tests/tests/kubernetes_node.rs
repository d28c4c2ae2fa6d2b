//! A real node: pods run, Services answer, and nothing of it is left.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests::{http, kubernetes::Node, wait};

const SHOP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: shop
        image: poolkeeper.dev/pod:1
        args: [serve, ':8080', open]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{port: 80, targetPort: 8080}]
";

#[test]
fn a_node_runs_pods_and_leaves_nothing() -> Result<()> {
    // Whatever else runs containers on this machine.
    let before = traces("no-node")?;
    let mut node = Node::start()?;
    let name = node.name();
    let inside = fs::read_link(format!("/proc/{}/ns/pid", node.init()))?;
    node.apply(SHOP)?;
    node.kubectl(&["rollout", "status", "deployment/shop", "--timeout=100s"])?;
    a_service_answers_by_name(&node)?;
    this_machine_reaches_a_service(&node)?;
    pods_reach_this_machine(&node)?;
    logs_and_exec_reach_a_pod(&node)?;
    node.check_runs()?;

    ensure!(
        traces(&name)?.len() > 1,
        "the traces are looked for in the wrong place"
    );
    ensure!(
        processes(&inside).len() > 5,
        "its processes are looked for in the wrong place"
    );
    drop(node);
    let mut left = traces(&name)?;
    left.retain(|trace| !before.contains(trace));
    ensure!(left.is_empty(), "left: {left:?}");
    ensure!(processes(&inside).is_empty(), "processes of it run");
    Ok(())
}

fn a_service_answers_by_name(node: &Node) -> Result<()> {
    let get = |name: &str| node.kubectl(&["exec", "deployment/shop", "--", "/pod", "get", name]);
    // kube-proxy learns of ready pods a moment after we do.
    wait::until("the Service to answer", Duration::from_secs(60), || {
        get("http://shop").map_err(|error| error.to_string())
    })?;
    for name in ["http://shop", "http://shop.default.svc.cluster.local"] {
        // Several times: whichever pod is chosen, the asking one included.
        for _ in 0..4 {
            let answer = get(name)?;
            ensure!(answer == "open", "{name} answered {answer:?}");
        }
    }
    Ok(())
}

fn this_machine_reaches_a_service(node: &Node) -> Result<()> {
    let address = node.kubectl(&["get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}"])?;
    let service = SocketAddr::new(address.parse()?, 80);
    let answer = http::get(service, "/")?;
    ensure!(
        answer.body == "open",
        "{service} answered {:?}",
        answer.body
    );
    Ok(())
}

/// PostgreSQL, where tests need one, runs here.
fn pods_reach_this_machine(node: &Node) -> Result<()> {
    let listener = TcpListener::bind((node.machine(), 0))?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = thread::spawn(move || -> Result<IpAddr> {
        let (mut client, from) = listener.accept()?;
        client.read_exact(&mut [0; 4])?;
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")?;
        Ok(from.ip())
    });
    let answer = node.kubectl(&["exec", "deployment/shop", "--", "/pod", "get", &url])?;
    ensure!(answer == "here", "{url} answered {answer:?}");
    let from = server.join().expect("the server does not panic")?;
    let pods = node.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.podIP}"])?;
    ensure!(
        pods.split_whitespace().any(|pod| pod == from.to_string()),
        "the request came from {from}, which is none of the pods {pods}"
    );
    Ok(())
}

fn logs_and_exec_reach_a_pod(node: &Node) -> Result<()> {
    let log = node.kubectl(&["logs", "deployment/shop"])?;
    ensure!(log.contains("serves on :8080"), "the log is {log:?}");
    let refused = node.kubectl(&["exec", "deployment/shop", "--", "/pod", "nonsense"]);
    let refused = refused.err().context("nonsense was accepted")?.to_string();
    ensure!(refused.contains("none of: pause"), "it said {refused}");
    Ok(())
}

/// Processes in a process namespace.
fn processes(namespace: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.map(|entry| entry.path())
        .filter(|process| fs::read_link(process.join("ns/pid")).is_ok_and(|link| link == namespace))
        .collect()
}

/// Network devices, control groups, mounts and packet filter rules of a node
/// that this machine can see.
fn traces(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    if Path::new("/sys/class/net").join(name).exists() {
        found.push(format!("device {name}"));
    }
    let top = Path::new("/sys/fs/cgroup");
    for entry in fs::read_dir(top)? {
        let group = entry?.path().join(name);
        if group.exists() {
            found.push(group.display().to_string());
        }
    }
    if top.join(name).exists() {
        found.push(format!("control group {name}"));
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains("kubelet") || line.contains("containerd"))
            .map(str::to_owned),
    );
    let rules = Command::new("nft").args(["list", "tables"]).output()?;
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    found.extend(
        rules
            .lines()
            .filter(|line| line.contains("kube"))
            .map(str::to_owned),
    );
    Ok(found)
}
