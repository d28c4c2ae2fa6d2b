//! The table of endpoints.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::{Table, color};
use crate::api::EndpointState;

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Name of the endpoint.
    pub name: String,
    /// Its state.
    pub state: EndpointState,
    /// Since when.
    pub since: Timestamp,
    /// Its process, if it runs.
    pub pid: Option<i32>,
    /// Where clients connect.
    pub address: String,
    /// Where its status or dashboard is.
    pub http: String,
    /// Why it is in that state.
    pub reason: String,
}

const HEADS: [&str; 7] = [
    "ENDPOINT", "STATE", "FOR", "PROCESS", "ADDRESS", "HTTP", "WHY",
];

pub(super) fn render(table: &Table, colored: bool, now: Timestamp) -> String {
    let cells: Vec<[String; 7]> = table.rows.iter().map(|row| cells(row, now)).collect();
    let mut widths = HEADS.map(str::len);
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = format!("{}\n", table.title);
    line(&mut text, &HEADS.map(str::to_owned), &widths, None);
    for (row, cells) in table.rows.iter().zip(&cells) {
        line(&mut text, cells, &widths, colored.then(|| color(row.state)));
    }
    if let Some(problem) = &table.upstream {
        let _ = writeln!(text, "PostgreSQL: {problem}");
    }
    if let Some(problem) = &table.capacity {
        let _ = writeln!(text, "capacity: {problem}");
    }
    for channel in &table.notifications {
        if let Some(problem) = &channel.problem {
            let _ = writeln!(text, "notifications to {}: {problem}", channel.name);
        }
    }
    text
}

fn cells(row: &Row, now: Timestamp) -> [String; 7] {
    [
        row.name.clone(),
        row.state.word().to_owned(),
        age(now.duration_since(row.since)),
        row.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        row.address.clone(),
        row.http.clone(),
        row.reason.clone(),
    ]
}

fn line(text: &mut String, cells: &[String; 7], widths: &[usize; 7], color: Option<&str>) {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        match color {
            Some(color) if index == 1 => {
                let _ = write!(line, "{color}{cell:<width$}\x1b[0m  ");
            }
            _ => {
                let _ = write!(line, "{cell:<width$}  ");
            }
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// How long, in the largest unit: `7s`, `12m`, `3h`, `2d`.
pub(crate) fn age(age: SignedDuration) -> String {
    match age.as_secs().max(0) {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must() {
        let row = |name: &str, state, pid| Row {
            name: name.to_owned(),
            state,
            since: Timestamp::UNIX_EPOCH,
            pid,
            address: "127.0.0.1:6432".to_owned(),
            http: "127.0.0.1:9127".to_owned(),
            reason: "checks pass".to_owned(),
        };
        let table = Table {
            title: "shop".to_owned(),
            rows: vec![
                row("pooler-0", EndpointState::Up, Some(4242)),
                row("balancer-0", EndpointState::Down, None),
            ],
            upstream: Some("2 of 2 poolers cannot use it".to_owned()),
            capacity: Some("1 of 2 poolers refuse clients".to_owned()),
            notifications: Vec::new(),
        };
        let now = Timestamp::from_second(150).unwrap();
        assert_eq!(
            render(&table, false, now),
            "shop\n\
             ENDPOINT    STATE  FOR  PROCESS  ADDRESS         HTTP            WHY\n\
             pooler-0    Up     2m   4242     127.0.0.1:6432  127.0.0.1:9127  checks pass\n\
             balancer-0  Down   2m   -        127.0.0.1:6432  127.0.0.1:9127  checks pass\n\
             PostgreSQL: 2 of 2 poolers cannot use it\n\
             capacity: 1 of 2 poolers refuse clients\n"
        );
        assert!(render(&table, true, now).contains("\x1b[31mDown \x1b[0m  2m"));
    }
}
