//! The promised figures (SPECIFICATION.md), and whether this run holds them.

use super::{
    column::Column,
    measure::{Account, Sample},
    row::Row,
};

/// A promise: what is compared, and how much is allowed.
struct Goal {
    row: Row,
    column: Column,
    limit: Limit,
}

enum Limit {
    /// CPU per transaction, at most the other's plus these microseconds.
    CpuPlus(Column, f64),
    /// CPU per transaction, at most the other's times this.
    CpuTimes(Column, f64),
    /// Bytes per idle client.
    Bytes(f64),
}

const fn goal(row: Row, column: Column, limit: Limit) -> Goal {
    Goal { row, column, limit }
}

const GOALS: [Goal; 16] = [
    goal(
        Row::Simple,
        Column::Pooler,
        Limit::CpuPlus(Column::Relay, 1.5),
    ),
    goal(
        Row::Simple,
        Column::Pooler,
        Limit::CpuTimes(Column::Pgbouncer, 1.0),
    ),
    goal(
        Row::Extended,
        Column::Pooler,
        Limit::CpuPlus(Column::Relay, 1.5),
    ),
    goal(
        Row::Extended,
        Column::Pooler,
        Limit::CpuTimes(Column::Pgbouncer, 1.0),
    ),
    goal(
        Row::Prepared,
        Column::Pooler,
        Limit::CpuPlus(Column::Relay, 1.5),
    ),
    goal(
        Row::Prepared,
        Column::Pooler,
        Limit::CpuTimes(Column::Pgbouncer, 1.0),
    ),
    goal(
        Row::PreparedSession,
        Column::Pooler,
        Limit::CpuTimes(Column::Pgbouncer, 1.0),
    ),
    goal(
        Row::Large,
        Column::Pooler,
        Limit::CpuTimes(Column::Pgbouncer, 0.4),
    ),
    goal(Row::Idle, Column::Pooler, Limit::Bytes(1024.0)),
    goal(Row::IdleTls, Column::Pooler, Limit::Bytes(6.0 * 1024.0)),
    goal(
        Row::Simple,
        Column::Balancer,
        Limit::CpuPlus(Column::Relay, 0.8),
    ),
    goal(
        Row::Simple,
        Column::Balancer,
        Limit::CpuTimes(Column::Haproxy, 1.0),
    ),
    goal(
        Row::Extended,
        Column::Balancer,
        Limit::CpuPlus(Column::Relay, 0.8),
    ),
    goal(
        Row::Extended,
        Column::Balancer,
        Limit::CpuTimes(Column::Haproxy, 1.0),
    ),
    goal(
        Row::Prepared,
        Column::Balancer,
        Limit::CpuPlus(Column::Relay, 0.8),
    ),
    goal(
        Row::Prepared,
        Column::Balancer,
        Limit::CpuTimes(Column::Haproxy, 1.0),
    ),
];

/// One line for each goal that this run says something about.
pub(crate) fn text(account: &Account) -> String {
    let mut out = String::from("goals\n");
    for goal in &GOALS {
        if let Some(line) = judge(account, goal) {
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

fn judge(account: &Account, goal: &Goal) -> Option<String> {
    let Goal { row, column, limit } = goal;
    let cpu = |column: Column| account.median(*row, column, Sample::cpu_us);
    let (value, spread, allowed, what) = match *limit {
        Limit::CpuPlus(other, plus) => {
            let (ours, theirs) = (cpu(*column)?, cpu(other)?);
            (
                ours.value,
                ours.spread + theirs.spread,
                theirs.value + plus,
                format!("{other} + {plus} us"),
            )
        }
        Limit::CpuTimes(other, times) => {
            let (ours, theirs) = (cpu(*column)?, cpu(other)?);
            (
                ours.value,
                ours.spread + theirs.spread,
                theirs.value * times,
                format!("{times} × {other}"),
            )
        }
        Limit::Bytes(bytes) => {
            let ours = account.median(*row, *column, |sample| sample.bytes_per_client)?;
            (
                ours.value,
                ours.spread,
                bytes,
                "bytes per client".to_owned(),
            )
        }
    };
    let verdict = if value <= allowed {
        "held".to_owned()
    } else {
        format!("MISSED by {:.2}", value - allowed)
    };
    let tie = match tie_break(account, goal) {
        Some(words) if (value - allowed).abs() <= spread => format!("; within the spread, {words}"),
        _ => String::new(),
    };
    Some(format!(
        "  {row:<16} {column:<9} {value:>9.2}, at most {allowed:>9.2} ({what}): {verdict}{tie}"
    ))
}

/// What instructions say, where two programs were counted.
fn tie_break(account: &Account, goal: &Goal) -> Option<String> {
    let Limit::CpuTimes(other, times) = goal.limit else {
        return None;
    };
    let ours = account.instructions.get(&(goal.row, goal.column))?;
    let theirs = account.instructions.get(&(goal.row, other))?;
    let verdict = if *ours <= theirs * times {
        "held"
    } else {
        "MISSED"
    };
    Some(format!(
        "and by instructions {ours:.0} to {theirs:.0}: {verdict}"
    ))
}
