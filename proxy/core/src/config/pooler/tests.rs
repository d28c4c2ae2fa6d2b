use std::{collections::HashMap, io, net::Ipv4Addr, path::Path, time::Duration};

use proptest::prelude::*;

use super::{PoolerConfig, Via, load};
use crate::config::{AuthType, ListenAddress, PoolMode, Problem, Secret, SslMode};

const USERS: &str = "\"ann\" \"pencil\"\n";

/// Loads `pgbouncer.ini` of some files in memory, `userlist.txt` always among them.
fn load_files(files: &[(&str, &str)]) -> Result<PoolerConfig, Vec<Problem>> {
    let mut all = HashMap::from([("userlist.txt", USERS)]);
    all.extend(files.iter().copied());
    load(Path::new("pgbouncer.ini"), &mut |path| {
        all.get(path.to_str().unwrap())
            .map(|text| (*text).to_owned())
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    })
}

/// A file that is complete but for what `rest` adds to section [pgbouncer].
fn with(rest: &str) -> String {
    format!("[databases]\n* = host=10.0.0.1\n[pgbouncer]\nauth_file = userlist.txt\n{rest}\n")
}

fn accept(text: &str) -> PoolerConfig {
    load_files(&[("pgbouncer.ini", text)]).unwrap()
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn refuse(text: &str) -> Vec<String> {
    shown(&load_files(&[("pgbouncer.ini", text)]).unwrap_err())
}

#[test]
fn a_usual_file_is_read_without_a_word() {
    let config = accept(
        "\
;; a file as people have it
[databases]
shop = host=10.0.0.1 port=5433 dbname=shop_production user=app password='pa''ss' pool_size=70
legacy = auth_user= connect_query='select 1'
* = host=/var/run/postgresql

[users]
app = pool_mode=session max_user_connections=100

[peers]
1 = host=10.0.0.2
2 = host=10.0.0.3 port=6433

[pgbouncer]
logfile = /var/log/pgbouncer/pgbouncer.log
pidfile = /run/pgbouncer/pgbouncer.pid
listen_addr = 127.0.0.1, ::1
listen_port = 6432
unix_socket_dir = /run/pgbouncer
unix_socket_mode = 0770
auth_type = scram-sha-256
auth_file = userlist.txt
admin_users = postgres, admin
stats_users = stats
pool_mode = transaction
max_client_conn = 4000
default_pool_size = 20
reserve_pool_timeout = 2.5
server_reset_query = DISCARD ALL
ignore_startup_parameters = extra_float_digits,options
server_idle_timeout = 600
peer_id = 1
tcp_keepalive = 1
tcp_user_timeout = 12500
"
        .replace("auth_user= connect_query", "connect_query")
        .as_str(),
    );
    assert_eq!(shown(&config.warnings), [""; 0]);
    let global = &config.global;
    assert_eq!(global.conffile.as_deref(), Some("pgbouncer.ini"));
    assert_eq!(
        global.listen_addr,
        ["127.0.0.1", "::1"].map(|ip| ListenAddress::One(ip.parse().unwrap()))
    );
    assert_eq!(global.admin_users, ["postgres", "admin"]);
    assert_eq!(global.auth_type, AuthType::ScramSha256);
    assert_eq!(global.pool_mode, PoolMode::Transaction);
    assert_eq!(global.max_client_conn, 4000);
    assert_eq!(global.reserve_pool_timeout, Duration::from_millis(2500));
    assert_eq!(global.tcp_user_timeout.0, Duration::from_millis(12_500));
    assert_eq!(global.unix_socket_mode.0, 0o770);
    assert_eq!(
        global.ignore_startup_parameters,
        ["extra_float_digits", "options"]
    );
    let (shop, via) = config.database("shop").unwrap();
    assert_eq!(via, Via::Name);
    assert_eq!(shop.host.as_deref(), Some("10.0.0.1"));
    assert_eq!(shop.port, 5433);
    assert_eq!(shop.dbname.as_deref(), Some("shop_production"));
    assert_eq!(shop.password, Some(Secret::Plain("pa'ss".to_owned())));
    assert_eq!(shop.pool_size, Some(70));
    let (legacy, _) = config.database("legacy").unwrap();
    assert_eq!(legacy.host, None);
    assert_eq!(legacy.connect_query.as_deref(), Some("select 1"));
    let (other, via) = config.database("whatever").unwrap();
    assert_eq!(via, Via::Fallback);
    assert_eq!(other.host.as_deref(), Some("/var/run/postgresql"));
    assert_eq!(other.port, 5432);
    assert_eq!(config.users["app"].pool_mode, Some(PoolMode::Session));
    assert_eq!(config.peers[&1].port, 6432);
    assert_eq!(config.peers[&2].port, 6433);
    assert!(config.userlist.secret("ann").is_some());
}

#[test]
fn without_a_fallback_unknown_databases_are_unknown() {
    let config = accept("[databases]\na = host=h\n[pgbouncer]\nauth_file=userlist.txt\n");
    assert!(config.database("a").is_some());
    assert!(config.database("b").is_none());
}

#[test]
fn numbers_are_read_as_pgbouncer_reads_them() {
    let config = accept(&with(
        "listen_port = 0x1000\nmax_client_conn = 0100\nlog_connections = 7\nquery_timeout = .5\nverbose = +2\nserver_lifetime = 1e3",
    ));
    assert_eq!(config.global.listen_port, 4096);
    assert_eq!(config.global.max_client_conn, 64);
    assert!(config.global.log_connections);
    assert_eq!(config.global.query_timeout, Duration::from_millis(500));
    assert_eq!(config.global.verbose, 2);
    assert_eq!(config.global.server_lifetime, Duration::from_secs(1000));
}

#[test]
fn every_problem_is_told_with_its_line() {
    assert_eq!(
        refuse(
            "\
stray = 1
[database]
ignored = nonsense
[databases]
pgbouncer = host=h
a = host=h prot=1 pool_size=0 pool_mode=fast
b = host=h,i
c = host
[users]
u = pool_size=1 max_connections=4
[peers]
0 = host=h
1 = port=5
[pgbouncer]
max_client_con = 5
max_client_conn = many
default_pool_size = 0
query_timeout = -1
threads = 65
listen_port = 65536
pool_mode = 1
unix_socket_mode = 777
auth_type = ldap
auth_file = gone.txt
client_tls_sslmode = verify-full
server_tls_sslmode = verify-ca
client_tls_ciphers = HIGH
client_tls_protocols = tlsv1.0
disable_pqexec = 1
auth_ldap_options = ldapbindpasswd=s3cret
conffile = other.ini
nonsense
"
        ),
        [
            "pgbouncer.ini:1: stray stands before any section",
            "pgbouncer.ini:2: unknown section [database], expected [pgbouncer], [databases], [users] or [peers]",
            "pgbouncer.ini:5: database name pgbouncer is taken by the console",
            "pgbouncer.ini:6: a: unknown key prot, did you mean port?",
            "pgbouncer.ini:6: a: pool_size = 0 is invalid, expected a whole number from 1 to 1000000",
            "pgbouncer.ini:6: a: pool_mode = fast is invalid, expected session, transaction or statement",
            "pgbouncer.ini:7: b: host = h,i is a list, which is not supported yet; name one host",
            "pgbouncer.ini:8: c: expected key=value pairs separated by spaces; the word at the start has no =, quote values with spaces as 'a b'",
            "pgbouncer.ini:10: u: unknown key max_connections",
            "pgbouncer.ini:12: invalid peer id 0, expected a whole number from 1 to 16383",
            "pgbouncer.ini:13: peer 1 has no host",
            "pgbouncer.ini:15: unknown key max_client_con, did you mean max_client_conn?",
            "pgbouncer.ini:16: max_client_conn = many is invalid, expected a whole number from 1 to 1000000",
            "pgbouncer.ini:17: default_pool_size = 0 is invalid, expected a whole number from 1 to 1000000",
            "pgbouncer.ini:18: query_timeout = -1 is invalid, expected a number of seconds",
            "pgbouncer.ini:19: threads = 65 is invalid, expected a whole number from 1 to 64",
            "pgbouncer.ini:20: listen_port = 65536 is invalid, expected a whole number from 0 to 65535",
            "pgbouncer.ini:21: pool_mode = 1 is invalid, expected session, transaction or statement",
            "pgbouncer.ini:22: unix_socket_mode = 777 is invalid, expected an octal mode with its leading 0, such as 0777",
            "pgbouncer.ini:23: auth_type = ldap is not supported yet: only users and secrets from auth_file are known; accepted are any, trust, plain, md5, scram-sha-256",
            "pgbouncer.ini:24: cannot read auth_file gone.txt: entity not found",
            "pgbouncer.ini:25: client_tls_sslmode = verify-full is not supported yet: client certificates are not verified yet; accepted are disable, allow, prefer, require",
            "pgbouncer.ini:26: server_tls_sslmode = verify-ca needs server_tls_ca_file",
            "pgbouncer.ini:27: client_tls_ciphers = HIGH is not supported yet: the ciphers are those of rustls, all of them safe, and cannot be chosen; accepted are default, secure, fast, normal",
            "pgbouncer.ini:28: client_tls_protocols = tlsv1.0 is invalid (no version is left that can be spoken), expected secure, all, or a list of tlsv1.2 and tlsv1.3 separated by commas (tlsv1.0 and tlsv1.1 are never spoken)",
            "pgbouncer.ini:29: disable_pqexec = 1 is not supported yet: simple queries are always let through; accepted is only the default, 0",
            "pgbouncer.ini:30: auth_ldap_options (value not shown) is not supported yet: there is no LDAP client; accepted is only to leave it unset",
            "pgbouncer.ini:31: conffile = other.ini is not supported yet: name another file on the command line; accepted is only to leave it unset",
            "pgbouncer.ini:32: expected = after nonsense",
        ]
    );
}

#[test]
fn names_to_listen_on_are_refused() {
    assert_eq!(
        refuse(&with("listen_addr = *, db.example\nhttp_addr = db.example")),
        [
            "pgbouncer.ini:5: listen_addr = *, db.example is invalid (names are not looked up), expected IP addresses separated by commas, * for all",
            "pgbouncer.ini:6: http_addr = db.example is invalid (names are not looked up), expected an IP address, or * for all",
        ]
    );
    let config = accept(&with("listen_addr = localhost, *"));
    assert_eq!(
        config.global.listen_addr,
        [
            ListenAddress::One(Ipv4Addr::LOCALHOST.into()),
            ListenAddress::All
        ]
    );
}

/// Of what is found out later, such as a group that the system does not know.
#[test]
fn a_problem_found_later_is_told_with_its_line() {
    let config = load_files(&[
        ("pgbouncer.ini", &with("%include more.ini")),
        ("more.ini", "\nuser = eve"),
    ])
    .unwrap();
    let told = |key| config.problem(key, "x").to_string();
    assert_eq!(told("user"), "more.ini:2: x");
    assert_eq!(told("unix_socket_group"), "pgbouncer.ini:1: x");
}

#[test]
fn problems_name_the_file_they_are_in() {
    let problems = load_files(&[
        (
            "pgbouncer.ini",
            &with("%include more.ini\nauth_file = u2.txt"),
        ),
        ("more.ini", "\nno_such_key = 1"),
        ("u2.txt", "\"ann\""),
    ])
    .unwrap_err();
    assert_eq!(
        shown(&problems),
        [
            "more.ini:2: unknown key no_such_key",
            "u2.txt:1: expected a secret in double quotes after the user",
        ]
    );
}

#[test]
fn a_missing_file_or_section_is_told() {
    let missing = load(Path::new("gone.ini"), &mut |_| {
        Err(io::Error::from(io::ErrorKind::NotFound))
    });
    assert_eq!(
        shown(&missing.unwrap_err()),
        [
            "gone.ini:1: cannot read gone.ini: entity not found",
            "gone.ini:1: section [pgbouncer] is missing",
        ]
    );
    assert_eq!(
        refuse("[databases]\n"),
        ["pgbouncer.ini:1: section [pgbouncer] is missing"]
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert_eq!(
        refuse(
            "[databases]\na=host=h\n[pgbouncer]\nunix_socket_dir=\nclient_tls_sslmode=require\nclient_tls_key_file=k"
        ),
        [
            "pgbouncer.ini:1: nowhere to listen: listen_addr and unix_socket_dir are both empty",
            "pgbouncer.ini:1: auth_type = md5 needs auth_file, without it nobody can log in",
            "pgbouncer.ini:5: client_tls_sslmode = require needs client_tls_cert_file",
        ]
    );
    assert_eq!(
        refuse("[databases]\na=host=h\nb=user=x\n[pgbouncer]\nauth_type=any"),
        ["pgbouncer.ini:2: a: auth_type = any needs user= in every database"]
    );
    let trusting = accept("[databases]\nb=user=x\n[pgbouncer]\nauth_type=any");
    assert_eq!(trusting.global.auth_type, AuthType::Any);
}

#[test]
fn a_refused_value_does_not_bring_problems_that_follow_from_its_default() {
    assert_eq!(
        refuse("[pgbouncer]\nauth_type = hba\nclient_tls_sslmode = verify-ca\n").len(),
        2
    );
}

#[test]
fn what_is_accepted_and_worth_a_look_is_a_warning() {
    let files = [
        (
            "pgbouncer.ini",
            "\
[databases]
a = host=h min_pool_size=30 max_db_connections=3
a = host=h min_pool_size=30 user=old
b = host=h user=eve
[peers]
1 = host=h
[pgbouncer]
max_client_conn = 7
listen_addr = *
[pgbouncer]
auth_type = scram-sha-256
auth_file = u.txt
min_pool_size = 21
pkt_buf = 8192
pkt_buf = 16384
client_tls_sslmode = allow
client_tls_key_file = k
client_tls_cert_file = c
client_tls_protocols = tlsv1.0,tlsv1.2
",
        ),
        (
            "u.txt",
            "\"old\" \"md5b15721e6326bc6e9a7c72a38963ec03d\"\n\"eve\" \"SCRAM-SHA-256$4096:C4CsvXHwcnjI2dJOkfLKfw==$z226Gv4jFFWgCeGUf/GqbXdEeYGQmbpJhZ2wzpIOa9E=:gloAQ5Ijs/FhVhU+WJ315nsAd9Ye3JnBz1nPr894FeQ=\"",
        ),
    ];
    let config = load_files(&files).unwrap();
    assert_eq!(
        shown(&config.warnings),
        [
            "pgbouncer.ini:1: peer_id is 0, so that [peers] is not used",
            "pgbouncer.ini:3: a is set again, after pgbouncer.ini:2; the last one counts",
            "pgbouncer.ini:3: a: min_pool_size = 30 is more than the pool size 20, which limits it",
            "pgbouncer.ini:4: b: user eve has only a SCRAM verifier in auth_file, which cannot log in to PostgreSQL; add password=",
            "pgbouncer.ini:10: [pgbouncer] begins again, which sets to their defaults: listen_addr, max_client_conn",
            "pgbouncer.ini:11: auth_type = scram-sha-256 cannot use md5 secrets: 1 of 2 users in auth_file cannot log in",
            "pgbouncer.ini:13: min_pool_size = 21 is more than default_pool_size = 20, which limits it",
            "pgbouncer.ini:15: pkt_buf is set again, after pgbouncer.ini:14; the last one counts",
            "pgbouncer.ini:15: pkt_buf has no effect: it tunes PgBouncer's internals, which are not ours",
            "pgbouncer.ini:19: client_tls_protocols names tlsv1.0 or tlsv1.1, which are never spoken",
        ]
    );
    assert_eq!(config.global.max_client_conn, 100);
    assert!(config.global.listen_addr.is_empty());
    assert_eq!(config.databases["a"].max_db_connections, None);
    let sslmode = config.global.client_tls_sslmode;
    assert_eq!(sslmode, SslMode::Allow);
}

#[test]
fn keys_of_entries_that_change_nothing_are_told() {
    let config = accept(
        "\
[databases]
shop = host=h auth_dbname=users
a = host=h auth_query='select 1' load_balance_hosts=disable
[peers]
02 = host=h pool_size=5
[pgbouncer]
peer_id = 1
auth_file = userlist.txt
",
    );
    assert_eq!(
        shown(&config.warnings),
        [
            "pgbouncer.ini:2: shop: auth_dbname has no effect: users come from auth_file alone; auth_user is not supported yet",
            "pgbouncer.ini:3: a: auth_query has no effect: users come from auth_file alone; auth_user is not supported yet",
            "pgbouncer.ini:3: a: load_balance_hosts has no effect: lists of hosts are not supported yet",
            "pgbouncer.ini:5: 2: pool_size has no effect: each event loop has up to 1,000 cancel requests under way, whomever they are for",
        ]
    );
}

#[test]
fn peers_are_listed_or_found_never_both() {
    let both = "peer_discovery = shop-pooler:6432\npeer_id = 3\n[peers]\n3 = host=h\n";
    assert_eq!(
        refuse(&with(both)),
        [
            "pgbouncer.ini:6: peer_id = 3 beside peer_discovery, with which poolers number themselves; remove one of the two",
            "pgbouncer.ini:8: [peers] beside peer_discovery, which finds them; remove one of the two",
        ]
    );
    let portless = "peer_discovery = shop-pooler\nlisten_port = 0\n";
    assert_eq!(
        refuse(&with(portless)),
        [
            "pgbouncer.ini:5: peer_discovery with listen_port = 0 needs the ports: in peer_discovery, and in advertise_addr"
        ]
    );
    let config = accept(&with("advertise_addr = 10.0.0.5\n"));
    assert_eq!(
        shown(&config.warnings),
        ["pgbouncer.ini:5: advertise_addr has no effect without peer_discovery"]
    );
    for (value, told) in [
        ("peer_discovery = a b", "that is no DNS name"),
        (
            "peer_discovery = a:0",
            "the port is a whole number from 1 to 65535",
        ),
        ("advertise_addr = 0.0.0.0", "nobody can connect to that"),
        (
            "advertise_addr = pod",
            "expected an IP address, with or without a port",
        ),
        (
            "peer_discovery_resolver = 10.0.0.10",
            "expected an IP address and a port",
        ),
    ] {
        let problems = refuse(&with(value));
        assert!(problems[0].contains(told), "{value}: {problems:?}");
    }
    let config = accept(&with(
        "peer_discovery = shop-pooler\nadvertise_addr = fd00::5\n",
    ));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn a_peer_behind_a_unix_socket_is_refused() {
    let peers = "[peers]\n1 = host=/tmp\n2 = host=@pooler\n3 = host=h";
    assert_eq!(
        refuse(&with(peers)),
        [
            "pgbouncer.ini:6: 1: host = /tmp is the directory of a Unix socket, which is not supported yet; name the peer's host or address",
            "pgbouncer.ini:7: 2: host = @pooler is the directory of a Unix socket, which is not supported yet; name the peer's host or address",
        ]
    );
}

#[test]
fn no_part_of_a_password_is_repeated() {
    let refused =
        refuse(&with("").replace("host=10.0.0.1", "host=h password=pa s3cret=x colour=red"));
    assert_eq!(
        refused,
        [
            "pgbouncer.ini:2: *: unknown key after password (not shown); quote a password with spaces as 'a b'",
            "pgbouncer.ini:2: *: unknown key colour",
        ]
    );
    let config = accept(&with("").replace("host=10.0.0.1", "password=s3cret"));
    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(!format!("{config:?}").contains("pencil"));
}

#[test]
fn the_user_comes_before_the_database_and_the_database_before_the_rest() {
    let config = accept(
        "\
[databases]
a = host=h
b = host=h pool_mode=statement pool_size=7 min_pool_size=9 reserve_pool=2 query_wait_timeout=4
c = host=h user=forced pool_size=7
[users]
ann = pool_mode=session pool_size=3 query_timeout=1.5 query_wait_timeout=-1 max_user_client_connections=8
forced = pool_size=5 max_user_connections=6 query_timeout=9 max_user_client_connections=1
[pgbouncer]
auth_file = userlist.txt
pool_mode = transaction
min_pool_size = 2
query_timeout = 60
",
    );
    let pool = |database: &str, user: &str| {
        let (database, _) = config.database(database).unwrap();
        config.pool(database, user)
    };
    let plain = pool("a", "bob");
    assert_eq!(plain.pool_mode, PoolMode::Transaction);
    assert_eq!((plain.pool_size, plain.min_pool_size), (20, 2));
    assert_eq!(plain.reserve_pool_size, 0);
    assert_eq!(plain.query_timeout, Duration::from_secs(60));
    assert_eq!(plain.query_wait_timeout, Duration::from_secs(120));

    let database = pool("b", "bob");
    assert_eq!(database.pool_mode, PoolMode::Statement);
    assert_eq!((database.pool_size, database.min_pool_size), (7, 7));
    assert_eq!(database.reserve_pool_size, 2);

    let user = pool("b", "ann");
    assert_eq!(user.pool_mode, PoolMode::Session);
    assert_eq!((user.pool_size, user.min_pool_size), (3, 3));
    assert_eq!(user.query_timeout, Duration::from_millis(1500));
    assert_eq!(user.query_wait_timeout, Duration::from_secs(4));
    assert_eq!(user.max_user_client_connections, 8);

    let forced = pool("c", "ann");
    assert_eq!(forced.pool_size, 5);
    assert_eq!(forced.max_user_connections, 6);
    assert_eq!(forced.max_user_client_connections, 8);
    assert_eq!(forced.query_timeout, Duration::from_millis(1500));
}

#[test]
fn a_reload_tells_what_only_a_restart_applies() {
    let old = accept(&with("threads = 1\nmax_client_conn = 100"));
    let new = accept(&with("threads = 2\nmax_client_conn = 200\nlisten_addr = *"));
    assert_eq!(
        old.changes_needing_restart(&new),
        ["listen_addr", "threads"]
    );
    assert_eq!(old.changes_needing_restart(&old), [""; 0]);
}

proptest! {
    #[test]
    fn arbitrary_lines_never_panic(text in "(\\[(pgbouncer|databases|users|peers)\\]\n|[a-z_]{0,9} ?= ?[^\n]{0,20}\n|max_client_conn=[0-9.e-]{0,5}\n|[^\n]{0,9}\n){0,12}") {
        let _ = load_files(&[("pgbouncer.ini", &text)]);
    }
}
