//! The process: flags, files, user.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    process::Command,
    time::{Duration, Instant},
};

use proxy_core::wire;
use rustix::process::Signal;

use crate::{
    client::Client,
    floods::check,
    pooler::{Config, Pooler, command},
    postgres::{Play, Postgres},
    support::http,
    wait_for,
};

#[test]
fn what_is_not_supported_says_what_to_do_instead() {
    for (flag, advice) in [("-d", "supervisor"), ("-R", "so_reuseport")] {
        let output = command().args([flag, "pooler.ini"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(advice), "{text}");
    }
}

#[test]
fn a_pidfile_is_there_while_the_process_runs_and_keeps_others_out() {
    let config = Config::new().set("pidfile", "{dir}/pid");
    let mut pooler = Pooler::start(&config);
    let pidfile = pooler.directory().join("pid");
    let text = std::fs::read_to_string(&pidfile).unwrap();
    assert_eq!(text, format!("{}\n", pooler.pid()));
    let second = command().arg(&pooler.file).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(
        error.contains(&format!("process {} is running", pooler.pid())),
        "{error}"
    );
    pooler.console().begin("SHUTDOWN");
    assert!(pooler.wait().0.success());
    assert!(!pidfile.exists());
}

#[test]
fn a_star_listens_on_ipv4_and_ipv6() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("listen_addr", "*")
        .set("http_addr", "*");
    let pooler = Pooler::start(&config);
    let mut hosts: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    if TcpListener::bind("[::1]:0").is_ok() {
        hosts.push(Ipv6Addr::LOCALHOST.into());
    }
    for host in hosts {
        let address = SocketAddr::new(host, pooler.address.port());
        let _client = Client::connect(address, "ann", "shop");
        // It is told as what it is, not as IPv4 in IPv6's clothes.
        let clients = pooler.console().query("SHOW CLIENTS").rows();
        let seen = clients.iter().any(|row| row.contains(&host.to_string()));
        assert!(seen, "{host}: {clients:?}");
        let web = SocketAddr::new(host, pooler.web.port());
        assert_eq!(http::get(web, "/readyz").status, 200, "{host}");
    }
}

#[test]
fn the_address_goes_with_the_application_name() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("application_name_add_host", "1"));
    let parameters = [
        ("user", "ann"),
        ("database", "shop"),
        ("application_name", "till"),
    ];
    let mut client = Client::login(pooler.address, &parameters).unwrap();
    client.query("SELECT 1");
    let name = format!("till - {}", client.address());
    let clients = pooler.console().query("SHOW CLIENTS");
    assert_eq!(clients.value("application_name", &name, "database"), "shop");
    assert!(
        postgres.has_seen(&format!("SET application_name='{name}';")),
        "{postgres:?}"
    );
}

#[test]
fn a_server_idle_for_long_is_checked_before_it_is_lent() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("server_check_delay", "0"));
    let mut client = pooler.client();
    client.query("SELECT 1");
    client.query("SELECT 1");
    assert!(postgres.has_seen(""), "the empty query is the default");
    let servers = pooler.console().query("SHOW SERVERS");
    assert_eq!(servers.value("type", "S", "state"), "used");
}

#[test]
fn an_unknown_user_or_group_is_named() {
    let pooler = Pooler::start(&Config::new());
    let output = command()
        .args(["-u", "no-such-user"])
        .arg(&pooler.file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("no user no-such-user in /etc/passwd"),
        "{error}"
    );

    let config = Config::new()
        .set("unix_socket_dir", "{dir}")
        .set("unix_socket_group", "no-such-group");
    pooler.rewrite(&config.set("pidfile", ""));
    let output = command().arg(&pooler.file).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no-such-group is no group"), "{error}");
}

/// As start-up would, each with the line that says it.
#[test]
fn a_check_names_a_user_group_or_certificate_that_is_not_there() {
    let pooler = Pooler::start(&Config::new());
    let config = Config::new()
        .set("unix_socket_dir", "{dir}")
        .set("unix_socket_group", "no-such-group")
        .set("user", "no-such-user")
        .set("client_tls_sslmode", "prefer")
        .set("client_tls_cert_file", "/no/such/file")
        .set("client_tls_key_file", "/no/such/file");
    pooler.rewrite(&config);
    let told = |arguments: &[&str]| {
        let mut command = command();
        let output = command.args(arguments).arg(&pooler.file).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let errors = told(&["--check"]);
    let ini = std::fs::read_to_string(&pooler.file).unwrap();
    for (key, message) in [
        ("unix_socket_group", "no-such-group is no group"),
        ("user", "no user no-such-user in /etc/passwd"),
        ("client_tls_cert_file", "/no/such/file: "),
    ] {
        let set = |line: &str| line.starts_with(&format!("{key} ="));
        let line = 1 + ini.lines().position(set).unwrap();
        let place = format!("{}:{line}: ", pooler.file.display());
        let told = errors.lines().find(|error| error.starts_with(&place));
        assert!(
            told.is_some_and(|error| error.contains(message)),
            "{errors}"
        );
    }
    assert_eq!(told(&[]), errors, "start-up says the same");
    let other = told(&["--check", "-u", "neither"]);
    assert!(!other.contains("no-such-user"), "{other}");
}

/// Balancers learn of a drain by their checks, and send clients here until then.
#[test]
fn a_draining_pooler_accepts_for_two_checks_and_a_second() {
    let pooler = Pooler::start(&Config::new());
    check(pooler.address, Duration::from_millis(500));
    let began = Instant::now();
    pooler.signal(Signal::TERM);
    wait_for("the port to close", || {
        TcpStream::connect(pooler.address).err()
    });
    let accepted = began.elapsed();
    let promised = Duration::from_secs(2);
    assert!(accepted >= promised, "only for {accepted:?}");
    assert!(accepted < promised * 4, "for {accepted:?}");
}

/// Nobody will resume it here, and nothing of theirs has begun.
#[test]
fn clients_that_wait_in_a_paused_pooler_are_let_go_when_it_drains() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("drain_timeout", "6"));
    check(pooler.address, Duration::from_millis(100));
    let mut console = pooler.console();
    let mut client = pooler.client();
    client.query("SELECT 1");
    console.query("PAUSE");
    client.begin("SELECT 1");
    wait_for("a waiting client", || {
        let pools = console.query("SHOW POOLS");
        (pools.value("database", "shop", "cl_waiting") == "1").then_some(())
    });
    pooler.signal(Signal::TERM);
    let answer = client.read();
    assert_eq!(answer.code(), "57P01");
    assert_eq!(answer.error(), "the pooler is shutting down");
}

/// As root, the pooler becomes somebody else, with all its threads.
#[test]
fn root_becomes_another_user_and_the_socket_has_its_group() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else may become anybody.
        return;
    }
    let config = Config::new()
        .set("unix_socket_dir", "{dir}")
        .set("unix_socket_mode", "0770")
        .set("unix_socket_group", "nogroup")
        .set("user", "root");
    let pooler = Pooler::start_by(&config, |directory| {
        let everybody = Command::new("chmod").arg("777").arg(directory).status();
        assert!(everybody.unwrap().success());
        let mut command = command();
        // The flag comes before the setting.
        command.args(["-u", "nobody"]);
        command
    });
    let tasks = std::fs::read_dir(format!("/proc/{}/task", pooler.pid())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(line("Uid:"), ["65534"; 4]);
        assert_eq!(line("Gid:"), ["65534"; 4]);
        assert_eq!(line("Groups:"), ["65534"]);
        threads += 1;
    }
    assert!(threads > 1);
    let socket = format!(".s.PGSQL.{}", pooler.address.port());
    let metadata = std::fs::metadata(pooler.directory().join(socket)).unwrap();
    assert_eq!(metadata.gid(), 65534);
    assert_eq!(metadata.mode() & 0o777, 0o770);
}

/// Whether its signal will come yet is unknown: the server can serve nobody.
#[test]
fn a_cancel_that_postgresql_does_not_take_ends_with_its_server() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("cancel_wait_timeout", "0.2"));
    let mut client = pooler.client();
    client.query("SELECT 1");
    postgres.play("HANG", Play::Only(Vec::new()));
    client.begin("HANG");
    let mut console = pooler.console();
    wait_for("the query", || {
        let pools = console.query("SHOW POOLS");
        (pools.value("database", "shop", "sv_active") == "1").then_some(())
    });
    postgres.hold(true);
    // The requester does not wait for it.
    let mut requester = TcpStream::connect(pooler.address).unwrap();
    requester
        .write_all(&wire::cancel_request(&client.cancel_key))
        .unwrap();
    wait_for("the request", || (postgres.cancels() > 0).then_some(()));
    drop(requester);
    assert_eq!(client.read().code(), "08006");
    wait_for("the request's end", || {
        (postgres.cancels_open() == 0).then_some(())
    });
}
