//! The process: flags, configuration, signals.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    process::{Command, Output},
};

use rustix::process::Signal;

use crate::{
    balancer::{Balancer, Config, QUICK, command},
    support::{http, wait_for},
    target::Target,
};

fn run(yaml: &str, flags: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("balancer.yaml");
    std::fs::write(&file, yaml).unwrap();
    command().args(flags).arg(&file).output().unwrap()
}

#[test]
fn check_names_every_problem_and_serves_nothing() {
    let target = Target::start("pooler-0");
    let good = run(&Config::over([&target]).yaml(), &["--check"]);
    assert!(good.status.success());
    assert_eq!((good.stdout.len(), good.stderr.len()), (0, 0));

    let bad = Config::over([&target])
        .with("threads: 0")
        .with("surprise: 1");
    for flags in [&["--check"][..], &[]] {
        let bad = run(&bad.yaml(), flags);
        assert_eq!(bad.status.code(), Some(1));
        let text = String::from_utf8(bad.stderr).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains("balancer.yaml:6: ") && lines[0].contains("threads"),
            "{text}"
        );
        assert!(
            lines[1].contains("balancer.yaml:7: ") && lines[1].contains("surprise"),
            "{text}"
        );
    }
    let missing = command()
        .arg("/nonexistent/balancer.yaml")
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1));
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(
        text.starts_with("/nonexistent/balancer.yaml:1: cannot be read: "),
        "{text}"
    );
}

#[test]
fn a_port_in_use_is_named_with_advice() {
    let target = Target::start("pooler-0");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let yaml = Config::over([&target])
        .yaml()
        .replacen("127.0.0.1:0", &address, 1);
    let refused = run(&yaml, &["-q"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.contains(&format!("cannot listen on {address}")),
        "{text}"
    );
    assert!(text.contains("Another process listens there"), "{text}");
}

#[test]
fn sigterm_closes_the_port_and_waits_for_the_sessions() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]));
    let mut client = balancer.client();
    balancer.signal(Signal::TERM);
    wait_for("the port to close", || {
        TcpStream::connect(balancer.address).err()
    });
    let ready = http::get(balancer.web, "/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (503, "draining\n"));
    let status = balancer.status();
    assert_eq!(status.state, proxy_core::wire::TargetState::Draining);
    assert_eq!(balancer.csv("FRONTEND", "status"), "STOP");
    client.talk("served to the end");
    drop(client);
    let (status, log) = balancer.wait();
    assert!(status.success(), "{status} {log}");
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]));
    let mut client = balancer.client();
    balancer.signal(Signal::TERM);
    wait_for("the port to close", || {
        TcpStream::connect(balancer.address).err()
    });
    balancer.signal(Signal::TERM);
    assert!(client.is_closed());
    let (status, log) = balancer.wait();
    assert!(status.success(), "{status} {log}");
}

#[test]
fn sigint_ends_at_once_and_holds_no_long_poll() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]).with("threads: 2"));
    let mut client = balancer.client();
    let status = balancer.status();
    let query = format!(
        "/status?since={}:{}&wait=60s",
        status.boot_id, status.newest
    );
    let web = balancer.web;
    let poll = std::thread::spawn(move || http::get(web, &query));
    wait_for("the long poll to be connected", || {
        let sockets = std::fs::read_dir(format!("/proc/{}/fd", balancer.pid())).unwrap();
        (sockets.count() > 0).then_some(())
    });
    balancer.signal(Signal::INT);
    assert!(client.is_closed());
    let (status, log) = balancer.wait();
    assert!(status.success(), "{status} {log}");
    // It was answered, or came too late to be accepted.
    if let Ok(answer) = poll.join() {
        assert_eq!(answer.status, 200);
    }
}

/// Two descriptors for each connection, and some for the balancer itself.
#[test]
fn max_connections_follows_the_limit_of_open_files() {
    let targets = ["pooler-0", "pooler-1"].map(Target::start);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 400 && exec \"$@\"", "sh"]);
    limited.arg(command().get_program());
    let balancer = Balancer::start_by(&Config::over(&targets), limited);
    assert_eq!(balancer.status().max_connections, (400 - 256 - 2) / 2);
    assert!(balancer.log().contains("max_connections lowered"));
}

#[test]
fn sighup_takes_new_targets_and_refuses_a_bad_file() {
    let targets = ["pooler-0", "pooler-1"].map(Target::start);
    let balancer = Balancer::serving(
        &Config::over(&targets[..1])
            .check(QUICK)
            .with("revision: r1"),
    );
    let mut client = balancer.client();

    std::fs::write(&balancer.file, "targets: 7\n").unwrap();
    balancer.signal(Signal::HUP);
    wait_for("the refusal", || {
        balancer
            .log()
            .contains("configuration not reloaded")
            .then_some(())
    });
    assert_eq!(balancer.status().config_revision.as_deref(), Some("r1"));

    let next = Config::over(&targets)
        .check(QUICK)
        .with("revision: r2")
        .with("max_connections: 9");
    std::fs::write(&balancer.file, next.yaml()).unwrap();
    balancer.signal(Signal::HUP);
    wait_for("the new target", || {
        (balancer.csv("BACKEND", "act") == "2").then_some(())
    });
    let status = balancer.status();
    assert_eq!(status.config_revision.as_deref(), Some("r2"));
    assert_eq!(status.max_connections, 9);
    assert_eq!(status.targets[0].connections, 1, "kept with its state");
    assert_eq!(balancer.client().target, "pooler-1");

    // A target that is no longer named keeps its sessions and gets no new ones.
    let last = Config::over(&targets[1..]).check(QUICK);
    std::fs::write(&balancer.file, last.yaml()).unwrap();
    balancer.signal(Signal::HUP);
    wait_for("the target to leave", || {
        (balancer.status().targets.len() == 1).then_some(())
    });
    client.talk("still here");
    assert_eq!(balancer.client().target, "pooler-1");
    let checks = targets[0].checks();
    let later = targets[1].checks() + 5;
    wait_for("further checks", || {
        (targets[1].checks() >= later).then_some(())
    });
    assert!(targets[0].checks() <= checks + 1, "it is checked no more");
    assert!(
        !balancer.log().contains("takes a restart"),
        "{}",
        balancer.log()
    );
}

#[test]
fn quiet_logs_nothing_and_version_is_printed() {
    let version = command().arg("-V").output().unwrap();
    let text = String::from_utf8(version.stdout).unwrap();
    assert_eq!(text, format!("balancer {}\n", env!("CARGO_PKG_VERSION")));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("balancer.yaml");
    let target = Target::start("pooler-0");
    std::fs::write(&file, Config::over([&target]).check(QUICK).yaml()).unwrap();
    let mut child = command()
        .arg("-q")
        .arg(&file)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("two checks", || (target.checks() > 1).then_some(()));
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let mut text = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text, "");
}
