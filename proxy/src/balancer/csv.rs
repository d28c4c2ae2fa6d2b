//! HAProxy's CSV, so that what watches HAProxy watches this balancer unchanged:
//! the columns of HAProxy 3.0 to 3.2, in their order.
//!
//! Source: <https://docs.haproxy.org/3.2/management.html>, section 9.1. Values
//! that a TCP proxy without queues, weights and cookies does not have are what
//! HAProxy prints for such a proxy: 0 or nothing.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use proxy_core::{
    config::balancer::{Algorithm, BalancerConfig},
    health::Health,
};

use super::{
    counters::Traffic,
    probe::Outcome,
    shared::{Phase, Shared},
    target::{Judged, Target, elapsed},
};

/// The 113 column names in order, without the `# ` before the first, and the
/// `-` that ends them.
pub const COLUMNS: &str = "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,\
econ,eresp,wretr,wredis,status,weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,\
throttle,lbtot,tracked,type,rate,rate_lim,rate_max,check_status,check_code,check_duration,hrsp_1xx,\
hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,req_rate_max,req_tot,cli_abrt,\
srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,ctime,rtime,ttime,\
agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,check_health,\
agent_rise,agent_fall,agent_health,addr,cookie,mode,algo,conn_rate,conn_rate_max,conn_tot,\
intercepted,dcon,dses,wrew,connect,reuse,cache_lookups,cache_hits,srv_icur,src_ilim,qtime_max,\
ctime_max,rtime_max,ttime_max,eint,idle_conn_cur,safe_conn_cur,used_conn_cur,need_conn_est,uweight,\
agg_server_status,agg_server_check_status,agg_check_status,srid,sess_other,h1sess,h2sess,h3sess,\
req_other,h1req,h2req,h3req,proto,-";

/// Values of one row by column; a column without a value stays empty.
type Row = HashMap<&'static str, String>;

macro_rules! put {
    ($row:ident, $($column:ident: $value:expr),* $(,)?) => {
        $($row.insert(stringify!($column).trim_start_matches("r#"), $value.to_string());)*
    };
}

/// The page: header, FRONTEND, targets, BACKEND; every line ends in a comma.
#[must_use]
pub fn page(shared: &Shared, now: Instant, today: Timestamp) -> String {
    let config = shared.config();
    let mut out = format!("# {COLUMNS},\n");
    write_row(&mut out, &frontend(shared, &config));
    for (index, target) in shared.targets().iter().enumerate() {
        let judged = target.judged();
        write_row(
            &mut out,
            &server(shared, &config, target, &judged, index, now, today),
        );
    }
    write_row(&mut out, &backend(shared, &config, now, today));
    out
}

fn write_row(out: &mut String, row: &Row) {
    debug_assert!(
        row.keys()
            .all(|key| COLUMNS.split(',').any(|column| column == *key)),
        "every value has a column"
    );
    for column in COLUMNS.split(',') {
        if let Some(value) = row.get(column) {
            push_escaped(out, value);
        }
        out.push(',');
    }
    out.push('\n');
}

/// Quotes as HAProxy does: only where a comma, quote or line end needs it.
fn push_escaped(out: &mut String, value: &str) {
    if value.contains([',', '"', '\n', '\r']) {
        out.push('"');
        out.push_str(&value.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(value);
    }
}

/// What every row has.
fn common(config: &BalancerConfig, traffic: &Traffic) -> Row {
    let mut row = Row::new();
    put!(row,
        pxname: config.frontends[0].name,
        mode: "tcp",
        pid: 1,
        scur: traffic.connections.now(),
        smax: traffic.connections.max(),
        stot: traffic.total.load(Relaxed),
        bin: traffic.from_clients(),
        bout: traffic.to_clients(),
        rate: traffic.rate.now(),
        rate_max: traffic.rate.max(),
        dresp: 0,
        eint: 0,
        srid: 0,
    );
    row
}

fn frontend(shared: &Shared, config: &BalancerConfig) -> Row {
    let traffic = &shared.frontend;
    let limit = shared.connections_max.load(Relaxed);
    let mut row = common(config, traffic);
    put!(row,
        svname: "FRONTEND",
        r#type: 0,
        iid: 1,
        sid: 0,
        status: match shared.phase() {
            Phase::Draining | Phase::Stopping => "STOP",
            _ if traffic.connections.now() >= limit => "FULL",
            Phase::Checking | Phase::Serving => "OPEN",
        },
        slim: limit,
        // Bytes are relayed, none answered by ourselves.
        bin: shared.backend.from_clients(),
        bout: shared.backend.to_clients(),
        dreq: 0,
        ereq: 0,
        rate_lim: 0,
        conn_rate: traffic.rate.now(),
        conn_rate_max: traffic.rate.max(),
        conn_tot: traffic.total.load(Relaxed),
        dcon: shared.refused_limit.load(Relaxed),
        dses: 0,
        addr: shared.listen,
    );
    row
}

/// What targets and the backend have in common.
fn behind(config: &BalancerConfig, traffic: &Traffic, now_ms: u64) -> Row {
    let mut row = common(config, traffic);
    let last_ms = traffic.last_session_ms.load(Relaxed);
    put!(row,
        iid: 2,
        qcur: 0,
        qmax: 0,
        bck: 0,
        econ: traffic.connect_failures.load(Relaxed),
        eresp: 0,
        wretr: traffic.redispatched.load(Relaxed),
        wredis: traffic.redispatched.load(Relaxed),
        lbtot: traffic.picked.load(Relaxed),
        cli_abrt: traffic.client_aborts.load(Relaxed),
        srv_abrt: traffic.server_aborts.load(Relaxed),
        lastsess: match last_ms {
            0 => "-1".to_owned(),
            last => (now_ms.saturating_sub(last - 1) / 1000).to_string(),
        },
        qtime: 0,
        ctime: traffic.connect_ms.mean(),
        rtime: 0,
        ttime: traffic.session_ms.mean(),
        qtime_max: 0,
        ctime_max: traffic.connect_ms.max(),
        rtime_max: 0,
        ttime_max: traffic.session_ms.max(),
        wrew: 0,
        connect: traffic.picked.load(Relaxed),
        reuse: 0,
    );
    row
}

#[allow(
    clippy::too_many_arguments,
    reason = "one row needs it all, and nothing else calls it"
)]
fn server(
    shared: &Shared,
    config: &BalancerConfig,
    target: &Target,
    judged: &Judged,
    index: usize,
    now: Instant,
    today: Timestamp,
) -> Row {
    let traffic = &target.traffic;
    let mut row = behind(config, traffic, shared.ms(now));
    put!(row,
        svname: target.name,
        r#type: 2,
        sid: index + 1,
        status: status(judged, config),
        weight: 1,
        uweight: 1,
        act: 1,
        chkfail: judged.checks_failed,
        chkdown: judged.changes.down,
        lastchg: elapsed(judged.state.since, today).as_secs(),
        downtime: judged.down_time(today).as_secs(),
        check_rise: config.check.rise,
        check_fall: config.check.fall,
        check_health: health(judged, config),
        addr: target.address,
        srv_icur: 0,
        idle_conn_cur: 0,
        safe_conn_cur: 0,
        used_conn_cur: traffic.connections.now(),
        need_conn_est: traffic.connections.max(),
    );
    match &judged.seen {
        None => {
            put!(row, check_status: "INI", check_desc: "Initializing");
        }
        Some(seen) => {
            let (check_status, check_desc) = check_words(seen.outcome);
            put!(row,
                check_status: check_status,
                check_desc: check_desc,
                check_duration: seen.duration.as_millis(),
                last_chk: seen.text,
            );
            // HAProxy's readers take a code for a number; SQLSTATEs are in last_chk.
            if seen.outcome == Outcome::Serves {
                put!(row, check_code: 0);
            }
        }
    }
    row
}

fn backend(shared: &Shared, config: &BalancerConfig, now: Instant, today: Timestamp) -> Row {
    let traffic = &shared.backend;
    let availability = *shared.availability.lock().expect("no holder panics");
    let mut row = behind(config, traffic, shared.ms(now));
    let refused = shared.refused_no_target.load(Relaxed);
    let down_now = match availability.up {
        0 => elapsed(availability.since, today),
        _ => Duration::ZERO,
    };
    put!(row,
        svname: "BACKEND",
        r#type: 1,
        sid: 0,
        slim: shared.connections_max.load(Relaxed),
        dreq: 0,
        econ: traffic.connect_failures.load(Relaxed) + refused,
        status: match availability.up {
            0 => "DOWN",
            _ => "UP",
        },
        weight: availability.up,
        uweight: availability.up,
        act: availability.up,
        chkdown: availability.downs,
        lastchg: elapsed(availability.since, today).as_secs(),
        downtime: (availability.down_time + down_now).as_secs(),
        algo: match config.algorithm {
            Algorithm::Leastconn => "leastconn",
            Algorithm::Roundrobin => "roundrobin",
        },
    );
    row
}

/// HAProxy's status words: `UP 2/3` has one failed check of three, `DOWN 1/2`
/// one good check of two.
#[must_use]
pub fn status(judged: &Judged, config: &BalancerConfig) -> String {
    let check = &config.check;
    let state = &judged.state;
    match state.health {
        Health::Up if state.failed > 0 => {
            format!(
                "UP {}/{}",
                check.fall.saturating_sub(state.failed),
                check.fall
            )
        }
        Health::Up => "UP".to_owned(),
        Health::Down if state.passed > 0 => format!("DOWN {}/{}", state.passed, check.rise),
        Health::Down | Health::Unknown => "DOWN".to_owned(),
        Health::Draining => "DRAIN".to_owned(),
    }
}

/// HAProxy's health: below `rise` down, up to `rise + fall - 1` up.
fn health(judged: &Judged, config: &BalancerConfig) -> u32 {
    let full = config.check.rise + config.check.fall - 1;
    let state = &judged.state;
    match state.health {
        Health::Up => full.saturating_sub(state.failed).max(config.check.rise),
        Health::Draining => full,
        Health::Down => state.passed.min(config.check.rise - 1),
        Health::Unknown => 0,
    }
}

fn check_words(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Connected => ("L4OK", "Layer4 check passed"),
        Outcome::Serves => ("L7OK", "Layer7 check passed"),
        Outcome::NotConnected => ("L4CON", "Layer4 connection problem"),
        Outcome::ConnectTimeout => ("L4TOUT", "Layer4 timeout"),
        Outcome::AnswerTimeout => ("L7TOUT", "Layer7 timeout"),
        Outcome::BadAnswer => ("L7RSP", "Layer7 invalid response"),
        Outcome::Refused => ("L7STS", "Layer7 wrong status"),
        Outcome::OwnFault => ("SOCKERR", "Socket error"),
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::{
        config::balancer::Check,
        health::{Failure, Observation, Policy},
    };

    use super::*;
    use crate::balancer::{probe::Seen, target::Origin};

    fn config() -> BalancerConfig {
        BalancerConfig {
            frontends: vec![proxy_core::config::balancer::Frontend {
                name: "postgres".into(),
                bind: "127.0.0.1:5432".parse().unwrap(),
                reuse_port: false,
            }],
            targets: Vec::new(),
            discovery: None,
            algorithm: Algorithm::Leastconn,
            check: Check::default(),
            max_connections: 10,
            http: None,
            threads: 1,
            reload_on_change: false,
            proxy_protocol: false,
            shared_key_file: None,
            shared_key: None,
            drain_timeout: Duration::from_secs(60),
            revision: None,
        }
    }

    #[test]
    fn there_are_113_columns_and_none_twice() {
        let mut columns: Vec<_> = COLUMNS.split(',').collect();
        assert_eq!(columns.pop(), Some("-"));
        assert_eq!(columns.len(), 113);
        assert_eq!(columns[..3], ["pxname", "svname", "qcur"]);
        columns.sort_unstable();
        columns.dedup();
        assert_eq!(columns.len(), 113);
    }

    #[test]
    fn values_that_need_it_are_quoted() {
        let mut row = Row::new();
        put!(row, pxname: "a", last_chk: "no, \"never\"");
        let mut out = String::new();
        write_row(&mut out, &row);
        assert!(out.starts_with("a,,"), "{out}");
        assert!(out.contains(",\"no, \"\"never\"\"\","), "{out}");
        assert!(out.ends_with(",\n"), "{out}");
    }

    #[test]
    fn status_words_follow_the_checks() {
        let config = config();
        let now = Timestamp::now();
        let address = "127.0.0.1:1".parse().unwrap();
        let target = Target::new(0, "t".into(), address, Origin::Configured, 1, now);
        let policy = Policy { rise: 2, fall: 3 };
        let mut told = Vec::new();
        for letter in " +---++".chars() {
            let observation = match letter {
                '+' => Observation::Passed { report: None },
                _ => Observation::Failed {
                    failure: Failure::Refused,
                    reason: "connection refused".into(),
                },
            };
            if letter != ' ' {
                let seen = Seen {
                    outcome: Outcome::Serves,
                    text: String::new(),
                    duration: Duration::ZERO,
                };
                target.observe(Some(&observation), seen, policy, now);
            }
            let judged = target.judged();
            told.push((status(&judged, &config), health(&judged, &config)));
        }
        let expected = [
            ("DOWN", 0),
            ("UP", 4),
            ("UP 2/3", 3),
            ("UP 1/3", 2),
            ("DOWN", 0),
            ("DOWN 1/2", 1),
            ("UP", 4),
        ];
        let told: Vec<_> = told
            .iter()
            .map(|(word, number)| (word.as_str(), *number))
            .collect();
        assert_eq!(told, expected);
    }
}
