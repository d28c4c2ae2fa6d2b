//! An overview as text.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{Endpoint, Overview};
use crate::{
    api::{EndpointUpstream, UpstreamState},
    local::output::age,
};

/// How much of a message is shown, in characters.
const MESSAGE_LENGTH_MAX: usize = 400;

/// The overview as people read it. `now` gives ages.
#[must_use]
pub fn render(overview: &Overview, now: Timestamp) -> String {
    let mut text = String::new();
    title(&mut text, overview);
    if !overview.conditions.is_empty() {
        text.push('\n');
        let rows = overview.conditions.iter().map(|one| {
            [
                one.type_.clone(),
                one.status.clone(),
                age(now.duration_since(one.last_transition_time.0)),
                one.reason.clone(),
                one.message.clone(),
            ]
        });
        table(
            &mut text,
            ["CONDITION", "STATUS", "FOR", "REASON", "MESSAGE"],
            rows,
        );
    }
    if !overview.endpoints.is_empty() {
        text.push('\n');
        let rows = overview.endpoints.iter().map(|one| endpoint(one, now));
        let heads = [
            "ENDPOINT",
            "COMPONENT",
            "STATE",
            "FOR",
            "CONFIG",
            "POSTGRESQL",
            "WHY",
        ];
        table(&mut text, heads, rows);
    }
    notifications(&mut text, overview, now);
    if let Some(events) = overview.events.as_ref().filter(|events| !events.is_empty()) {
        text.push('\n');
        let rows = events.iter().map(|one| {
            [
                age(now.duration_since(one.at)),
                one.type_.clone(),
                one.reason.clone(),
                one.message.clone(),
            ]
        });
        table(&mut text, ["EVENT", "TYPE", "REASON", "MESSAGE"], rows);
    }
    list(&mut text, "WHAT TO DO", &overview.next);
    list(&mut text, "NOT SHOWN", &overview.left_out);
    text
}

fn title(text: &mut String, overview: &Overview) {
    let Overview {
        name, namespace, ..
    } = overview;
    let ready = match (overview.conditions.is_empty(), overview.ready) {
        (true, _) => "not looked at yet",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let _ = writeln!(text, "PgPoolCluster {namespace}/{name}: {ready}");
    if overview.conditions.is_empty() {
        return;
    }
    let count = |count: &crate::api::ComponentStatus| {
        format!(
            "{} up, {} with the configuration applied last",
            count.summary, count.updated
        )
    };
    let _ = writeln!(text, "poolers:   {}", count(&overview.poolers));
    let _ = writeln!(text, "balancers: {}", count(&overview.balancer));
    if let Some(budget) = &overview.budget {
        let most = budget.upstream_max_connections;
        let most = most.map_or_else(
            || "upstream.maxConnections is not set".to_owned(),
            |most| format!("of {most} that PostgreSQL has for it"),
        );
        let all = budget.server_connections;
        let _ = writeln!(text, "servers:   up to {all}, {most}");
    }
    if let Some(binding) = &overview.binding {
        let name = &binding.name;
        let _ = writeln!(text, "binding:   Secret {name}, its key uri");
    }
    if overview.generation != overview.observed_generation {
        let number = |generation: Option<i64>| {
            generation.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
        };
        let _ = writeln!(
            text,
            "generation {} of the spec; the operator has looked at {}",
            number(overview.generation),
            number(overview.observed_generation)
        );
    }
}

fn endpoint(endpoint: &Endpoint, now: Timestamp) -> [String; 7] {
    let status = &endpoint.status;
    let config = match endpoint.up_to_date {
        Some(true) => "in force",
        Some(false) => "former",
        None => "unknown",
    };
    [
        status.name.clone(),
        status.component.word().to_owned(),
        status.state.word().to_owned(),
        age(now.duration_since(status.since)),
        config.to_owned(),
        upstream(status.upstream.as_ref()),
        status.reason.clone(),
    ]
}

/// `reached`, or why not.
fn upstream(upstream: Option<&EndpointUpstream>) -> String {
    let Some(EndpointUpstream { state, reason }) = upstream else {
        return "-".to_owned();
    };
    let reason = reason.as_deref().unwrap_or("unreachable");
    match state {
        UpstreamState::Reachable => "reached".to_owned(),
        UpstreamState::Partly => format!("partly: {reason}"),
        UpstreamState::Unreachable => reason.to_owned(),
    }
}

fn notifications(text: &mut String, overview: &Overview, now: Timestamp) {
    if overview.notifications.is_empty() {
        return;
    }
    text.push('\n');
    let rows = overview.notifications.iter().map(|one| {
        let delivered = one
            .last_delivery
            .map_or_else(|| "never".to_owned(), |at| age(now.duration_since(at)));
        let problem = one.problem.clone().unwrap_or_default();
        [
            one.name.clone(),
            delivered,
            one.pending.to_string(),
            problem,
        ]
    });
    table(text, ["CHANNEL", "DELIVERED", "PENDING", "PROBLEM"], rows);
}

fn list(text: &mut String, head: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{head}");
    for line in lines {
        let _ = writeln!(text, "- {}", plain(line));
    }
}

/// Columns as wide as they must be; the last one is cut where it is too long.
fn table<const N: usize>(
    text: &mut String,
    heads: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let rows: Vec<[String; N]> = std::iter::once(heads.map(str::to_owned))
        .chain(rows.map(|row| row.map(|cell| plain(&cell))))
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// One line, and nothing that a terminal would obey: what endpoints and others
/// say is not trusted.
fn plain(text: &str) -> String {
    let clean = |one: char| if one.is_control() { ' ' } else { one };
    let mut plain: String = text.chars().take(MESSAGE_LENGTH_MAX).map(clean).collect();
    if text.chars().nth(MESSAGE_LENGTH_MAX).is_some() {
        plain.push('…');
    }
    plain
}
