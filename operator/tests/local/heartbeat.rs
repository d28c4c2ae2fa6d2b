//! The heartbeat URL of an operator that runs.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use crate::support::{Bench, STEADY, operator, text};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(30);
/// More than two intervals.
const SILENCE: Duration = Duration::from_millis(2500);

#[test]
fn it_is_called_while_the_operator_runs_and_its_state_can_be_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/s3cretBeat", listener.local_addr().unwrap());
    let (sender, calls) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            // The head ends with an empty line.
            let _ = lines.find(String::is_empty);
            let mut answer = &stream;
            let _ = answer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            if sender.send(first).is_err() {
                return;
            }
        }
    });
    let bench = Bench::new(STEADY);
    let mut command = bench.command();
    command
        .args(["--heartbeat-interval", "1"])
        .env("POOLKEEPER_HEARTBEAT_URL", &url);
    let mut running = bench.start_command(command);
    let [pooler, _] = running.children();
    for _ in 0..3 {
        let call = calls.recv_timeout(LIMIT).unwrap();
        assert_eq!(call, "GET /s3cretBeat HTTP/1.1");
    }
    let (_, metrics) = bench.get("/metrics");
    let failed = "poolkeeper_operator_heartbeats_total{result=\"failed\"} 0\n";
    assert!(metrics.contains(failed), "{metrics}");

    // Its state cannot be kept: nobody is told of anything any more.
    let new = bench.path("state/state.json.new");
    fs::create_dir(&new).unwrap();
    crate::support::signal(pooler, Signal::KILL);
    running.event("the trouble", |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.contains("what happens cannot be kept")
    });
    while calls.try_recv().is_ok() {}
    // One may have been under way.
    let _ = calls.recv_timeout(SILENCE);
    assert_eq!(calls.recv_timeout(SILENCE), Err(RecvTimeoutError::Timeout));
    fs::remove_dir(&new).unwrap();
    calls.recv_timeout(LIMIT).unwrap();

    // Frozen, it calls nobody.
    running.signal(Signal::STOP);
    while calls.try_recv().is_ok() {}
    let _ = calls.recv_timeout(SILENCE);
    assert_eq!(calls.recv_timeout(SILENCE), Err(RecvTimeoutError::Timeout));
    running.signal(Signal::CONT);
    calls.recv_timeout(LIMIT).unwrap();
    assert_eq!(running.stop().code(), Some(0));
    let shown = format!("{:?}", running.seen);
    assert!(!shown.contains("s3cretBeat"), "{shown}");
}

#[test]
fn a_url_that_is_not_called_is_refused_and_not_shown() {
    let bench = Bench::new(STEADY);
    bench.write("url", "https://evil.example/s3cretBeat\n");
    let mut command = bench.command();
    command.arg("--heartbeat-url-file").arg(bench.path("url"));
    let error = bench.refused(&mut command);
    assert!(
        error.contains("the heartbeat URL in ")
            && error.contains("is of a host that is not allowed"),
        "{error}"
    );
    assert!(!error.contains("s3cretBeat"), "{error}");
    let help = operator(&["run", "--help"]);
    assert!(text(&help.stdout).contains("POOLKEEPER_HEARTBEAT_URL"));
}
