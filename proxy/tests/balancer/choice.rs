//! Which target a new connection gets.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
};

use crate::{
    balancer::{Balancer, Config},
    client::Client,
    support::{connect, wait_for},
    target::Target,
};

#[test]
fn a_session_that_its_target_has_closed_counts_no_more_for_the_choice() {
    let mut targets = ["pooler-0", "pooler-1"].map(Target::start);
    let balancer = Balancer::serving(&Config::over(&targets));
    let mut clients: Vec<Client> = (0..4).map(|_| balancer.client()).collect();
    // As a pooler that is started anew before a check sees it. The clients see
    // the end of their sessions, and do not close.
    targets[0].kill();
    targets[0].open_port();
    for client in &mut clients {
        if client.target == "pooler-0" {
            assert_eq!(client.stream.read(&mut [0; 1]).unwrap(), 0);
        }
    }
    let next: Vec<String> = (0..2).map(|_| balancer.client().target).collect();
    assert_eq!(next, ["pooler-0", "pooler-0"]);
    drop(clients);
    wait_for("all sessions to end", || {
        (balancer.status().connections == 0).then_some(())
    });
}

#[test]
fn a_session_that_its_target_has_closed_is_still_a_session() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config {
        targets: vec![("raw".into(), listener.local_addr().unwrap())],
        ..Config::over([]).check("{type: tcp, interval: 1h, timeout: 5s}")
    };
    let balancer = Balancer::serving(&config);
    drop(listener.accept().unwrap());
    let mut client = connect(balancer.address);
    client.write_all(b"hello").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    for row in ["FRONTEND", "raw", "BACKEND"] {
        assert_eq!(balancer.csv(row, "scur"), "1", "{row}");
    }
    // Half a close is half a close.
    client.write_all(b" and goodbye").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello and goodbye");
    wait_for("the session's end", || {
        (balancer.csv("raw", "scur") == "0").then_some(())
    });
}
