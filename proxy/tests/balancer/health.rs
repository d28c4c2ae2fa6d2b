//! What becomes of targets that end, freeze, drain and come back, and how it is
//! told.

use std::{
    io::ErrorKind,
    io::Read,
    net::TcpListener,
    time::{Duration, Instant},
};

use proxy_core::{
    status::{Health, Transition},
    wire::TargetState,
};

use crate::{
    balancer::{Balancer, Config, QUICK, status},
    client::Client,
    support::{PATIENCE, http, wait_for},
    target::Target,
};

/// Follows a balancer's transitions by long polls, as the operator does.
struct Follower<'a> {
    balancer: &'a Balancer,
    boot_id: String,
    number: u64,
}

impl<'a> Follower<'a> {
    /// From now on.
    fn new(balancer: &'a Balancer) -> Self {
        let status = balancer.status();
        Self {
            balancer,
            boot_id: status.boot_id,
            number: status.newest,
        }
    }

    /// The next transition, which is the only one since the last.
    #[track_caller]
    fn next(&mut self) -> Transition {
        let query = format!("?since={}:{}&wait=20s", self.boot_id, self.number);
        let mut status = status(self.balancer.web, &query);
        assert!(!status.missed);
        assert_eq!(status.transitions.len(), 1, "{:?}", status.transitions);
        let transition = status.transitions.remove(0);
        assert_eq!(transition.number, self.number + 1);
        self.number = transition.number;
        transition
    }

    #[track_caller]
    fn expect(&mut self, from: Health, to: Health, reason: &str) -> Transition {
        let next = self.next();
        assert_eq!(
            (next.from, next.to, next.reason.as_str()),
            (from, to, reason)
        );
        next
    }
}

fn two_targets() -> [Target; 2] {
    ["pooler-0", "pooler-1"].map(Target::start)
}

#[test]
fn the_first_success_is_a_transition_from_unknown() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]).check(QUICK));
    let status = balancer.status();
    assert_eq!(status.newest, 1);
    let first = &status.transitions[0];
    assert_eq!(
        (first.number, first.from, first.to),
        (1, Health::Unknown, Health::Up)
    );
    assert_eq!(first.boot_id.as_deref(), Some("pooler-0-boot-1"));
    assert_eq!((first.up, first.total), (1, 1));
    let report = status.targets[0].report.as_ref().unwrap();
    assert_eq!((report.clients, report.waiting), (5, 2));
}

#[test]
fn a_killed_target_goes_down_and_its_successor_comes_up_as_a_restart() {
    let mut targets = two_targets();
    let balancer = Balancer::serving(&Config::over(&targets).check(QUICK));
    let mut follower = Follower::new(&balancer);
    targets[0].kill();
    let down = follower.expect(Health::Up, Health::Down, "connection refused");
    assert_eq!(
        (down.target.as_str(), down.up, down.total),
        ("pooler-0", 1, 2)
    );
    assert!(!down.restarted);
    assert_eq!(balancer.csv("pooler-0", "check_status"), "L4CON");
    assert_eq!(balancer.csv("pooler-0", "last_chk"), "connection refused");
    targets[0].report(|report| report.boot_id = "successor".into());
    targets[0].open_port();
    let up = follower.expect(Health::Down, Health::Up, "2 checks passed");
    assert!(up.restarted);
    assert_eq!(up.boot_id.as_deref(), Some("successor"));
    assert_eq!(up.up, 2);
}

#[test]
fn a_new_process_between_two_checks_is_told_as_a_restart() {
    let targets = two_targets();
    let balancer = Balancer::serving(&Config::over(&targets).check(QUICK));
    let mut follower = Follower::new(&balancer);
    targets[1].report(|report| report.boot_id = "successor".into());
    let reason = "answers as a new process, without having drained";
    let restart = follower.expect(Health::Up, Health::Up, reason);
    assert!(restart.restarted);
    assert_eq!(restart.target, "pooler-1");
}

#[test]
fn a_draining_target_keeps_its_sessions_and_ends_without_drama() {
    let mut targets = two_targets();
    let balancer = Balancer::serving(&Config::over(&targets).check(QUICK));
    let mut clients: Vec<Client> = (0..4).map(|_| balancer.client()).collect();
    let mut follower = Follower::new(&balancer);

    targets[0].report(|report| report.state = TargetState::Draining);
    follower.expect(Health::Up, Health::Draining, "says that it is draining");
    assert_eq!(balancer.csv("pooler-0", "status"), "DRAIN");
    let later: Vec<Client> = (0..4).map(|_| balancer.client()).collect();
    assert!(later.iter().all(|client| client.target == "pooler-1"));

    targets[0].close_port();
    follower.expect(
        Health::Draining,
        Health::Down,
        "drained: connection refused",
    );
    for client in &mut clients {
        client.talk("still here");
    }
    // The process after it is no restart.
    targets[0].report(|report| {
        report.state = TargetState::Ready;
        report.boot_id = "successor".into();
    });
    targets[0].open_port();
    assert!(
        !follower
            .expect(Health::Down, Health::Up, "2 checks passed")
            .restarted
    );
}

#[test]
fn a_frozen_target_goes_down_and_its_clients_are_let_go() {
    let targets = two_targets();
    let balancer = Balancer::serving(&Config::over(&targets).check(QUICK));
    let mut clients: Vec<Client> = (0..4).map(|_| balancer.client()).collect();
    let mut follower = Follower::new(&balancer);
    targets[0].freeze(true);
    let reason = "timeout after 250ms waiting for an answer";
    follower.expect(Health::Up, Health::Down, reason);
    for client in &mut clients {
        if client.target == "pooler-0" {
            assert!(client.is_closed());
        } else {
            client.talk("not concerned");
        }
    }
    assert_eq!(balancer.csv("pooler-0", "srv_abrt"), "2");
    targets[0].freeze(false);
    follower.expect(Health::Down, Health::Up, "2 checks passed");
}

#[test]
fn a_target_that_answers_errors_goes_down_in_its_own_words() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let error = proxy_core::wire::error_response(
            proxy_core::wire::Severity::Fatal,
            proxy_core::wire::SqlState::CANNOT_CONNECT_NOW,
            "the database system is starting up",
            "",
        );
        for _ in 0..3 {
            use std::io::Write;
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(&error).unwrap();
        }
    });
    let mut config = Config::over([]).check(QUICK);
    config.targets.push(("postgres".into(), address));
    let balancer = Balancer::serving(&config);
    let mut follower = Follower {
        boot_id: balancer.status().boot_id,
        balancer: &balancer,
        number: 0,
    };
    let reason = "57P03 the database system is starting up";
    follower.expect(Health::Unknown, Health::Down, reason);
    assert_eq!(balancer.csv("postgres", "check_status"), "L7STS");
    answering.join().unwrap();
}

#[test]
fn a_long_poll_is_answered_at_once_when_something_happens() {
    let targets = two_targets();
    let balancer = Balancer::serving(&Config::over(&targets).check(QUICK));
    let mut follower = Follower::new(&balancer);
    let web = balancer.web;
    let query = format!("?since={}:{}&wait=20s", follower.boot_id, follower.number);
    let poll = std::thread::spawn(move || {
        let status = status(web, &query);
        (status, Instant::now())
    });
    targets[0].report(|report| report.state = TargetState::Draining);
    let (status, told) = poll.join().unwrap();
    let happened = status.transitions[0].at;
    follower.next();
    let late: Duration = jiff::Timestamp::now()
        .duration_since(happened)
        .unsigned_abs()
        .saturating_sub(told.elapsed());
    assert!(
        late < Duration::from_secs(1),
        "told {late:?} after it happened"
    );
}

#[test]
fn a_reader_is_told_when_it_missed_something() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]).check(QUICK));
    let begin = Instant::now();
    let boot_id = balancer.status().boot_id;
    let ask = |query: &str| status(balancer.web, query);

    let other_boot = ask("?since=other:1&wait=20s");
    assert!(other_boot.missed);
    let future = ask(&format!("?since={boot_id}:7&wait=20s"));
    assert!(future.missed);
    let from_the_start = ask(&format!("?since={boot_id}:0&wait=20s"));
    assert!(!from_the_start.missed);
    assert_eq!(from_the_start.transitions.len(), 1);
    assert!(
        begin.elapsed() < PATIENCE / 2,
        "none of them is worth a wait"
    );

    let nothing = ask(&format!("?since={boot_id}:1&wait=100ms"));
    assert!(!nothing.missed);
    assert_eq!((nothing.transitions.len(), nothing.newest), (0, 1));

    for query in ["?since=x", "?since=x:y", "?wait=1", "?other=1"] {
        assert_eq!(
            http::get(balancer.web, &format!("/status{query}")).status,
            400,
            "{query}"
        );
    }
}

#[test]
fn nobody_is_accepted_before_the_first_round_of_checks() {
    let target = Target::start("pooler-0");
    target.freeze(true);
    let check = "{interval: 2s, timeout: 1s, rise: 1, fall: 1}";
    let balancer = Balancer::start(&Config::over([&target]).check(check));
    let ready = http::get(balancer.web, "/readyz");
    assert_eq!(
        (ready.status, ready.body.as_str()),
        (503, "the first round of checks is under way\n")
    );
    // The kernel takes the connection, the balancer not yet.
    let mut early = crate::support::connect(balancer.address);
    early
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let waiting = early.read(&mut [0; 1]).unwrap_err();
    assert!(matches!(
        waiting.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut
    ));
    assert_eq!(balancer.status().connections, 0);
    wait_for("readiness", || {
        (http::get(balancer.web, "/readyz").status == 200).then_some(())
    });
}

#[test]
fn a_client_that_comes_with_the_start_is_served() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::start(&Config::over([&target]).check(QUICK));
    assert_eq!(balancer.client().target, "pooler-0");
}
