//! What `operator local` prints: a live table on a terminal, lines elsewhere,
//! with `--output json` one object a line.
//!
//! # JSON
//!
//! Every object has `time` (RFC 3339, UTC) and `event`; readers ignore events
//! and fields that they do not know. Names are those of endpoints, `pooler-0`.
//!
//! | event | when | fields |
//! |---|---|---|
//! | `note` | something is worth a look | `message` |
//! | `started` | a child runs: started first, or taken over | `name`, `component`, `pid`, `adopted`, `address` (for clients), `http`, `log` |
//! | `ended` | a child ended | `name`, `component`, `pid`, `reason`, `planned`, `restartInMs` (absent if it is not started again) |
//! | `restarted` | a child runs in place of one that ended | as `started`, and `restarts` (since this operator began) |
//! | `ready` | once: all endpoints are up, or after 10 s some of each kind | `cluster`, `service`, `operator`, `stateDir`, `poolersUp`, `poolers`, `balancersUp`, `balancers`, `endpoints` (as in `started`, without `adopted`) |
//! | `transition` | an endpoint's state changed, or it restarted | `name`, `component`, `from`, `to`, `at`, `reason`, `outage` (`none`, `begins`, `ends`, `restarted`), `up`, `total` |
//! | `capacity` | the condition CapacityAvailable became False, or changed since | `status` (`True`, `False`, `Unknown`), `reason`, `message` |
//! | `upstream` | the condition UpstreamReachable changed | `status` (`True`, `False`, `Unknown`), `reason`, `message` |
//! | `notified` | a message was accepted | `channel`, `message` (`News`, `Present`: how things are, for one who is new, `Reminder`, `Edit`), `name` (whom it is about, the first few), `possiblyRepeated` |
//! | `notNotified` | a message was not | `channel`, `message`, `name`, `problem`, `triesAgain` |
//! | `stopping` | a signal asked for the end | `signal` |
//! | `stopped` | no child is left | |
//!
//! Problems of manifests go to standard error, `FILE:LINE: message`, before any
//! of these.

mod table;

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use jiff::{Timestamp, Unit, tz::TimeZone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    api::{Component, EndpointState, NotificationStatus},
    endpoints::{Change, Outage},
    notify::Post,
};
pub use table::Row;
pub(crate) use table::age;

/// How things are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// A child that runs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Name of the endpoint.
    pub name: String,
    /// What it is.
    pub component: Component,
    /// Its process; 0 if it does not run right now.
    pub pid: i32,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where its status is.
    pub http: SocketAddr,
    /// Where its output goes.
    pub log: PathBuf,
    /// Times that it was started in place of one that ended.
    pub restarts: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Something is worth a look.
    Note(&'a str),
    /// A child runs.
    Started {
        /// Which.
        child: &'a Running,
        /// An earlier operator started it.
        adopted: bool,
    },
    /// A child ended.
    Ended {
        /// Which.
        child: &'a Running,
        /// How.
        reason: &'a str,
        /// It was told to.
        planned: bool,
        /// When it is started again.
        restart_in_ms: Option<u128>,
    },
    /// A child runs in place of one that ended.
    Restarted(&'a Running),
    /// The tier serves.
    Ready(&'a Ready),
    /// An endpoint changed.
    Transition(&'a Change),
    /// The condition UpstreamReachable changed.
    Upstream(&'a Condition),
    /// The condition CapacityAvailable became False, or changed since.
    Capacity(&'a Condition),
    /// A message was accepted.
    Notified(&'a Post),
    /// A message was not accepted.
    NotNotified {
        /// Which.
        post: &'a Post,
        /// Why.
        problem: &'a str,
        /// Whether it will be tried again by itself.
        tries_again: bool,
    },
    /// A signal asked for the end.
    Stopping(&'a str),
    /// No child is left.
    Stopped,
}

/// The tier as it is when it serves first.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Name of the cluster.
    pub cluster: String,
    /// Where applications connect.
    pub service: SocketAddr,
    /// The operator's own HTTP.
    pub operator: SocketAddr,
    /// What is remembered, and the logs.
    pub state_dir: PathBuf,
    /// Poolers that are up.
    pub poolers_up: u32,
    /// Poolers in all.
    pub poolers: u32,
    /// Balancers that are up.
    pub balancers_up: u32,
    /// Balancers in all.
    pub balancers: u32,
    /// Every one of them.
    pub endpoints: Vec<Running>,
}

/// Where things are printed.
#[derive(Debug)]
pub struct Output {
    style: Style,
    table: Option<Table>,
    /// Lines that were told and not printed yet.
    waiting: String,
}

/// What stands below the lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Title.
    pub title: String,
    /// Every endpoint.
    pub rows: Vec<Row>,
    /// What is wrong with PostgreSQL, if something is.
    pub upstream: Option<String>,
    /// Why clients are not served in time, if they are not.
    pub capacity: Option<String>,
    /// Everyone who is told.
    pub notifications: Vec<NotificationStatus>,
}

#[derive(Debug)]
enum Style {
    Json,
    Lines,
    /// Lines, and a table below them that is drawn anew.
    Live {
        color: bool,
        drawn_lines: usize,
        drawn: String,
    },
}

impl Output {
    /// Prints to standard output.
    #[must_use]
    pub fn new(format: Format) -> Self {
        let style = match format {
            Format::Json => Style::Json,
            Format::Table if io::stdout().is_terminal() => Style::Live {
                color: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
                drawn_lines: 0,
                drawn: String::new(),
            },
            Format::Table => Style::Lines,
        };
        Self {
            style,
            table: None,
            waiting: String::new(),
        }
    }

    /// Tells what happened, at the next [`Output::flush`]: what is printed must
    /// be on disk by then, for readers act on it.
    pub fn tell(&mut self, event: &Event<'_>, now: Timestamp) {
        match &self.style {
            Style::Json => self.waiting.push_str(&event.json(now).to_string()),
            Style::Lines | Style::Live { .. } => self.waiting.push_str(&event.line(now)),
        }
        self.waiting.push('\n');
        if let (Style::Lines, Event::Ready(_), Some(table)) = (&self.style, event, &self.table) {
            self.waiting.push_str(&table::render(table, false, now));
        }
    }

    /// Takes the table as it is now. A terminal shows it at the next
    /// [`Output::flush`]; elsewhere it is shown once, when the tier is ready.
    pub fn show(&mut self, table: Table) {
        self.table = Some(table);
    }

    /// Prints what was told, and on a terminal the table below it.
    pub fn flush(&mut self, now: Timestamp) {
        let Style::Live {
            color,
            drawn_lines,
            drawn,
        } = &mut self.style
        else {
            if !self.waiting.is_empty() {
                print(&std::mem::take(&mut self.waiting));
            }
            return;
        };
        let table = self
            .table
            .as_ref()
            .map(|table| table::render(table, *color, now));
        let table = table.unwrap_or_default();
        if self.waiting.is_empty() && *drawn == table {
            return;
        }
        let mut text = String::new();
        // Up to where the table began, and away with it. Long lines are cut
        // and not wrapped while it is drawn, or it would be longer than known.
        if *drawn_lines > 0 {
            text.push_str(&format!("\x1b[{drawn_lines}A\r\x1b[J"));
        }
        text.push_str(&std::mem::take(&mut self.waiting));
        if !table.is_empty() {
            text.push_str(&format!("\x1b[?7l\n{table}\x1b[?7h"));
        }
        *drawn_lines = table.lines().count() + usize::from(!table.is_empty());
        *drawn = table;
        print(&text);
    }
}

fn print(text: &str) {
    // Whoever read us may be gone; the children still need us.
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

impl Event<'_> {
    fn json(&self, now: Timestamp) -> Value {
        let mut object = match self {
            Self::Note(message) => json!({"event": "note", "message": message}),
            Self::Started { child, adopted } => {
                merged(json!({"event": "started", "adopted": adopted}), *child)
            }
            Self::Ended {
                child,
                reason,
                planned,
                restart_in_ms,
            } => {
                let mut object = json!({
                    "event": "ended", "name": child.name, "component": child.component,
                    "pid": child.pid, "reason": reason, "planned": planned,
                });
                if let Some(delay) = restart_in_ms {
                    object["restartInMs"] = json!(u64::try_from(*delay).unwrap_or(u64::MAX));
                }
                object
            }
            Self::Restarted(child) => merged(json!({"event": "restarted"}), *child),
            Self::Ready(ready) => merged(json!({"event": "ready"}), *ready),
            Self::Transition(change) => json!({
                "event": "transition", "name": change.name, "component": change.id.component,
                "from": change.from, "to": change.to, "at": change.at, "reason": change.reason,
                "outage": match change.outage {
                    Outage::None => "none",
                    Outage::Begins => "begins",
                    Outage::Ends { .. } => "ends",
                    Outage::Restarted => "restarted",
                },
                "up": change.up, "total": change.total,
            }),
            Self::Upstream(condition) => said("upstream", condition),
            Self::Capacity(condition) => said("capacity", condition),
            Self::Notified(post) => json!({
                "event": "notified", "channel": post.channel, "message": post.form.word(),
                "name": post.subjects(), "possiblyRepeated": post.possibly_repeated,
            }),
            Self::NotNotified {
                post,
                problem,
                tries_again,
            } => json!({
                "event": "notNotified", "channel": post.channel, "message": post.form.word(),
                "name": post.subjects(), "problem": problem, "triesAgain": tries_again,
            }),
            Self::Stopping(signal) => json!({"event": "stopping", "signal": signal}),
            Self::Stopped => json!({"event": "stopped"}),
        };
        object["time"] = json!(now);
        object
    }

    fn line(&self, now: Timestamp) -> String {
        let what = match self {
            Self::Note(message) => (*message).to_owned(),
            Self::Started { child, adopted } => {
                let how = if *adopted { "runs still" } else { "started" };
                format!(
                    "{} {how}, process {}, {}",
                    child.name, child.pid, child.address
                )
            }
            Self::Ended {
                child,
                reason,
                restart_in_ms,
                ..
            } => match restart_in_ms {
                Some(delay) => {
                    format!("{} ended: {reason}; starts again in {delay} ms", child.name)
                }
                None => format!("{} ended: {reason}", child.name),
            },
            Self::Restarted(child) => {
                format!(
                    "{} started again, process {}, {}",
                    child.name, child.pid, child.address
                )
            }
            Self::Ready(ready) => format!(
                "{} is ready: applications connect to {} ({} of {} poolers, {} of {} balancers are up)",
                ready.cluster,
                ready.service,
                ready.poolers_up,
                ready.poolers,
                ready.balancers_up,
                ready.balancers
            ),
            Self::Transition(change) => {
                let kinds = match change.id.component {
                    Component::Pooler => "poolers",
                    Component::Balancer => "balancers",
                };
                let what = match change.outage {
                    Outage::Restarted => "restarted".to_owned(),
                    _ => format!("{} -> {}", change.from.word(), change.to.word()),
                };
                format!(
                    "{} {what}: {} ({} of {} {kinds} are up)",
                    change.name, change.reason, change.up, change.total
                )
            }
            Self::Upstream(condition) => {
                format!("PostgreSQL: {} ({})", condition.message, condition.reason)
            }
            Self::Capacity(condition) => {
                format!("capacity: {} ({})", condition.message, condition.reason)
            }
            Self::Notified(post) => format!(
                "told {}: {} {}{}",
                post.channel,
                post.subjects(),
                post.form.word(),
                if post.possibly_repeated {
                    " (possibly repeated)"
                } else {
                    ""
                }
            ),
            Self::NotNotified {
                post,
                problem,
                tries_again,
            } => format!(
                "could not tell {}: {} {}: {problem}{}",
                post.channel,
                post.subjects(),
                post.form.word(),
                if *tries_again { "; tries again" } else { "" }
            ),
            Self::Stopping(signal) => format!("{signal}: stopping; once more to end at once"),
            Self::Stopped => "stopped".to_owned(),
        };
        format!("{} {what}", clock(now))
    }
}

/// The time of day where the reader is.
fn clock(at: Timestamp) -> String {
    let local = at.to_zoned(TimeZone::system());
    let local = local.round(Unit::Second).unwrap_or(local);
    local.strftime("%H:%M:%S").to_string()
}

fn said(event: &str, condition: &Condition) -> Value {
    json!({
        "event": event, "status": condition.status, "reason": condition.reason,
        "message": condition.message,
    })
}

fn merged(mut object: Value, more: &impl Serialize) -> Value {
    if let (Some(object), Ok(Value::Object(more))) =
        (object.as_object_mut(), serde_json::to_value(more))
    {
        object.extend(more);
    }
    object
}

/// The table's colour for a state.
const fn color(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Up => "\x1b[32m",
        EndpointState::Down => "\x1b[31m",
        EndpointState::Draining => "\x1b[33m",
        EndpointState::Unknown => "\x1b[90m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::Id;

    fn child() -> Running {
        Running {
            name: "pooler-0".to_owned(),
            component: Component::Pooler,
            pid: 42,
            address: "127.0.0.1:6432".parse().unwrap(),
            http: "127.0.0.1:9127".parse().unwrap(),
            log: PathBuf::from("logs/pooler-0.log"),
            restarts: 0,
        }
    }

    #[test]
    fn json_has_the_fields_of_the_schema() {
        let now = Timestamp::UNIX_EPOCH;
        let child = child();
        let started = Event::Started {
            child: &child,
            adopted: true,
        };
        assert_eq!(
            started.json(now),
            json!({
                "event": "started", "time": "1970-01-01T00:00:00Z", "adopted": true,
                "name": "pooler-0", "component": "pooler", "pid": 42, "restarts": 0,
                "address": "127.0.0.1:6432", "http": "127.0.0.1:9127", "log": "logs/pooler-0.log",
            })
        );
        let change = Change {
            id: Id::pooler(1),
            name: "pooler-1".to_owned(),
            from: EndpointState::Up,
            to: EndpointState::Down,
            at: now,
            reason: "killed".to_owned(),
            outage: Outage::Begins,
            up: 2,
            total: 3,
        };
        assert_eq!(
            Event::Transition(&change).json(now),
            json!({
                "event": "transition", "time": "1970-01-01T00:00:00Z", "name": "pooler-1",
                "component": "pooler", "from": "Up", "to": "Down", "at": "1970-01-01T00:00:00Z",
                "reason": "killed", "outage": "begins", "up": 2, "total": 3,
            })
        );
        let ended = Event::Ended {
            child: &child,
            reason: "exit code 1",
            planned: false,
            restart_in_ms: Some(100),
        };
        assert_eq!(ended.json(now)["restartInMs"], 100);
    }
}
