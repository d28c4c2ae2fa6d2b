//! The pages: dashboard, CSV, metrics.

use crate::{
    balancer::{Balancer, Config},
    support::{http, wait_for},
    target::Target,
};

#[test]
fn csv_has_every_column_in_every_row() {
    let targets = ["pooler-0", "pooler-1"].map(Target::start);
    let balancer = Balancer::serving(&Config::over(&targets));
    let mut clients: Vec<_> = (0..4).map(|_| balancer.client()).collect();
    for client in &mut clients {
        client.talk("some bytes");
    }
    // 4 greetings `pooler-N` and 4 echoes `some bytes`, with line ends. They
    // are counted after they are sent: the client may be quicker.
    wait_for("the bytes to be counted", || {
        (balancer.csv("BACKEND", "bout") == "80").then_some(())
    });
    let pages = ["/stats;csv", "/stats/;csv", "/;csv;norefresh"];
    let answers = pages.map(|page| http::get(balancer.web, page));
    for answer in &answers {
        assert!(answer.head.contains("content-type: text/plain"));
        assert!(answer.head.contains("cache-control: no-cache"));
        let lines: Vec<&str> = answer.body.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[0].starts_with("# pxname,svname,"));
        for line in &lines {
            // 113 columns, the `-` and the comma that ends a line.
            assert_eq!(line.split(',').count(), 115, "{line}");
            assert!(line.ends_with(','));
        }
        let names: Vec<_> = lines[1..]
            .iter()
            .map(|line| line.split(',').nth(1).unwrap())
            .collect();
        assert_eq!(names, ["FRONTEND", "pooler-0", "pooler-1", "BACKEND"]);
    }
    let expected = [
        ("FRONTEND", "status", "OPEN"),
        ("FRONTEND", "type", "0"),
        ("FRONTEND", "scur", "4"),
        ("FRONTEND", "stot", "4"),
        ("pooler-0", "status", "UP"),
        ("pooler-0", "type", "2"),
        ("pooler-0", "scur", "2"),
        ("pooler-0", "lbtot", "2"),
        ("pooler-0", "check_status", "L7OK"),
        ("pooler-0", "check_health", "4"),
        ("pooler-0", "mode", "tcp"),
        ("BACKEND", "status", "UP"),
        ("BACKEND", "type", "1"),
        ("BACKEND", "act", "2"),
        ("BACKEND", "algo", "leastconn"),
        ("BACKEND", "scur", "4"),
        ("BACKEND", "bout", "80"),
    ];
    for (row, column, value) in expected {
        assert_eq!(balancer.csv(row, column), value, "{row} {column}");
    }
    let addr = balancer.csv("pooler-0", "addr");
    assert_eq!(addr, targets[0].address.to_string());
}

#[test]
fn status_words_show_checks_on_the_way() {
    let targets = ["pooler-0"].map(Target::start);
    let check = "{interval: 250ms, timeout: 200ms, rise: 100, fall: 100}";
    let balancer = Balancer::serving(&Config::over(&targets).check(check));
    targets[0].freeze(true);
    let word = wait_for("a failed check", || {
        let word = balancer.csv("pooler-0", "status");
        (word != "UP").then_some(word)
    });
    assert!(word.starts_with("UP 9") && word.ends_with("/100"), "{word}");
}

#[test]
fn dashboard_is_complete_and_escapes_what_targets_say() {
    let mut targets = ["pooler-0", "pooler-1"].map(Target::start);
    targets[0].report(|report| {
        report.boot_id = "<script>alert(1)</script>".into();
        report.config_revision = Some("\"><img src=x>&".into());
    });
    targets[1].close_port();
    let balancer = Balancer::serving(&Config::over(&targets).check("{fall: 1}"));
    let _client = balancer.client();
    let page = http::get(balancer.web, "/stats");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html; charset=utf-8"));
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'")
    );
    assert!(!page.body.contains("<script"), "{}", page.body);
    assert!(!page.body.contains("<img"));
    for text in [
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "&quot;&gt;&lt;img src=x&gt;&amp;",
        "http-equiv=\"refresh\"",
        "<title>1/2 up",
        "FRONTEND",
        "pooler-0",
        "pooler-1",
        "BACKEND",
        "connection refused",
        "5 clients, 2 waiting",
        "Last changes",
        "leastconn",
    ] {
        assert!(
            page.body.contains(text),
            "{text} is missing in {}",
            page.body
        );
    }
    // It needs nothing from elsewhere.
    for elsewhere in ["http://", "https://", "url("] {
        let page = page.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert_eq!(http::get(balancer.web, "/").status, 200);
    let still = http::get(balancer.web, "/stats;norefresh").body;
    assert!(!still.contains("http-equiv=\"refresh\""));
    assert_eq!(http::get(balancer.web, "/elsewhere").status, 404);
}

#[test]
fn metrics_count_what_happens() {
    let targets = ["pooler-0", "pooler-1"].map(Target::start);
    let balancer = Balancer::serving(&Config::over(&targets).with("revision: r7"));
    let mut client = balancer.client();
    client.talk("hello");
    // Bytes are counted after they are sent: the client may be quicker.
    let page = wait_for("the bytes to be counted", || {
        let page = http::get(balancer.web, "/metrics").body;
        let sent = "poolkeeper_balancer_sent_bytes_total 15\n";
        page.contains(sent).then_some(page)
    });
    for line in [
        "poolkeeper_balancer_connections 1",
        "poolkeeper_balancer_connections_total 1",
        "poolkeeper_balancer_targets{state=\"up\"} 2",
        "poolkeeper_balancer_target_up{target=\"pooler-1\"} 1",
        "poolkeeper_balancer_refused_total{reason=\"no_target\"} 0",
        "poolkeeper_balancer_target_transitions_total{target=\"pooler-0\",to=\"up\"} 1",
        "# TYPE poolkeeper_balancer_target_checks_total counter",
    ] {
        assert!(
            page.lines().any(|one| one == line),
            "{line} is missing in\n{page}"
        );
    }
    assert!(page.contains("config_revision=\"r7\"} 1\n"));
    assert_eq!(http::get(balancer.web, "/livez").status, 200);
}
