//! The table: FRONTEND, the targets, BACKEND.

use std::{fmt::Write, sync::atomic::Ordering::Relaxed, time::Duration};

use proxy_core::wire::TargetState;

use super::{
    Mood, View, Written, pill, times,
    words::{bytes, count, e, milliseconds, span},
};
use crate::balancer::{
    counters::Traffic,
    csv,
    shared::Phase,
    target::{Judged, Target, elapsed},
};

impl View<'_> {
    pub(super) fn table(&self, out: &mut String, targets: &[std::sync::Arc<Target>]) -> Written {
        out.push_str(
            "<section><table><thead><tr><th>Name<th>State<th>Connections<th>Per second\
             <th>Relayed<th>Errors<th>Checks<th>Says of itself</tr></thead><tbody>",
        );
        let shared = self.shared;
        let (mood, word) = match shared.phase() {
            Phase::Checking => (Mood::Unknown, "WAIT"),
            Phase::Serving => (Mood::Good, "OPEN"),
            Phase::Draining | Phase::Stopping => (Mood::Doubtful, "STOP"),
        };
        let bind = shared.listen.to_string();
        out.push_str("<tr class=\"sum\">");
        name_cells(out, "FRONTEND", &bind, &pill(mood, word), "")?;
        self.traffic_cells(out, &shared.frontend, 0)?;
        relayed_cell(out, &shared.backend)?;
        errors_cell(
            out,
            &[("refused at the limit", shared.refused_limit.load(Relaxed))],
        )?;
        out.push_str("<td class=\"none\"><td class=\"none\"></tr>");
        let busiest = targets
            .iter()
            .map(|target| target.traffic.connections.now())
            .max()
            .unwrap_or_default();
        for target in targets {
            self.target(out, target, busiest)?;
        }
        let up = targets.iter().filter(|target| target.open()).count();
        let state = match up {
            0 => pill(Mood::Bad, "DOWN"),
            _ => pill(Mood::Good, "UP"),
        };
        let availability = *shared.availability.lock().expect("no holder panics");
        let since = format!("for {}", span(elapsed(availability.since, self.today)));
        out.push_str("<tr class=\"sum\">");
        name_cells(out, "BACKEND", self.algorithm(), &state, &since)?;
        self.traffic_cells(out, &shared.backend, 0)?;
        relayed_cell(out, &shared.backend)?;
        let mut errors = session_errors(&shared.backend).to_vec();
        errors.push((
            "refused without a target",
            shared.refused_no_target.load(Relaxed),
        ));
        errors_cell(out, &errors)?;
        write!(
            out,
            "<td data-label=\"Checks\">{} down altogether<td class=\"none\"></tr></tbody></table></section>",
            times(availability.downs)
        )
    }

    fn target(&self, out: &mut String, target: &Target, busiest: u32) -> Written {
        let judged = target.judged();
        let mood = Mood::of(&judged);
        let state = pill(mood, &csv::status(&judged, self.config));
        let since = format!(
            "for {} · {}",
            span(elapsed(judged.state.since, self.today)),
            e(&judged.state.reason)
        );
        write!(out, "<tr class=\"{}\">", mood.class())?;
        name_cells(
            out,
            &target.name,
            &target.address.to_string(),
            &state,
            &since,
        )?;
        self.traffic_cells(out, &target.traffic, busiest)?;
        relayed_cell(out, &target.traffic)?;
        errors_cell(out, &session_errors(&target.traffic))?;
        self.checks_cell(out, &judged)?;
        match &judged.report {
            None => out.push_str("<td class=\"none\">"),
            Some(report) => {
                let word = match report.state {
                    TargetState::Ready => "ready",
                    TargetState::Draining => "draining",
                    TargetState::Paused => "paused",
                };
                write!(
                    out,
                    "<td data-label=\"Says of itself\">{word}, {} clients, {} waiting<div class=\"fine\">",
                    count(report.clients.into()),
                    count(report.waiting.into())
                )?;
                if let Some(name) = &report.name {
                    write!(out, "host {}<br>", e(name))?;
                }
                if let Some(revision) = &report.config_revision {
                    write!(out, "revision {}<br>", e(revision))?;
                }
                write!(out, "boot {}</div>", e(&report.boot_id))?;
            }
        }
        out.push_str("</tr>");
        Ok(())
    }

    /// Connections with a bar against the busiest target, and the rate.
    fn traffic_cells(&self, out: &mut String, traffic: &Traffic, busiest: u32) -> Written {
        let now = traffic.connections.now();
        write!(
            out,
            "<td data-label=\"Connections\"><b>{}</b>",
            count(now.into())
        )?;
        if busiest > 0 {
            let percent = u64::from(now) * 100 / u64::from(busiest);
            write!(
                out,
                "<meter max=\"100\" value=\"{percent}\">{percent} %</meter>"
            )?;
        }
        let last_ms = traffic.last_session_ms.load(Relaxed);
        let last = match last_ms {
            0 => String::new(),
            _ if now > 0 => String::new(),
            last_ms => {
                let ago_ms = self.shared.ms(self.now).saturating_sub(last_ms - 1);
                format!(" · last {} ago", span(Duration::from_millis(ago_ms)))
            }
        };
        write!(
            out,
            "<div class=\"fine\">peak {} · {} in all{last}</div>\
             <td data-label=\"Per second\">{}<div class=\"fine\">peak {}</div>",
            count(traffic.connections.max().into()),
            count(traffic.total.load(Relaxed)),
            count(traffic.rate.now()),
            count(traffic.rate.max()),
        )
    }

    fn checks_cell(&self, out: &mut String, judged: &Judged) -> Written {
        out.push_str("<td data-label=\"Checks\">");
        match &judged.seen {
            None => out.push_str("none yet"),
            Some(seen) => write!(out, "{} in {}", e(&seen.text), milliseconds(seen.duration))?,
        }
        let failed = match judged.checks_failed {
            0 => "never failed".to_owned(),
            number => format!("{} failed", count(number)),
        };
        write!(out, "<div class=\"fine\">{failed}")?;
        if judged.changes.down > 0 {
            let (downs, down_time) = (judged.changes.down, judged.down_time(self.today));
            write!(out, "<br>down {}, {} in all", times(downs), span(down_time))?;
        }
        out.push_str("</div>");
        Ok(())
    }
}

/// Name and state; `state` is markup, `since` is escaped already.
fn name_cells(out: &mut String, name: &str, address: &str, state: &str, since: &str) -> Written {
    write!(
        out,
        "<th scope=\"row\">{}<div class=\"fine\">{}</div><td data-label=\"State\">{state}\
         <div class=\"fine\">{since}</div>",
        e(name),
        e(address)
    )
}

fn relayed_cell(out: &mut String, traffic: &Traffic) -> Written {
    write!(
        out,
        "<td data-label=\"Relayed\">{} out<div class=\"fine\">{} in</div>",
        bytes(traffic.to_clients()),
        bytes(traffic.from_clients())
    )
}

/// What went wrong with sessions to a target, or to all.
fn session_errors(traffic: &Traffic) -> [(&'static str, u64); 4] {
    [
        ("not connected", traffic.connect_failures.load(Relaxed)),
        ("tried elsewhere", traffic.redispatched.load(Relaxed)),
        ("broken by the client", traffic.client_aborts.load(Relaxed)),
        ("broken by the target", traffic.server_aborts.load(Relaxed)),
    ]
}

/// Only what there is: a page of zeros hides the one that is not.
fn errors_cell(out: &mut String, errors: &[(&str, u64)]) -> Written {
    if errors.iter().all(|(_, number)| *number == 0) {
        out.push_str("<td class=\"none\">");
        return Ok(());
    }
    out.push_str("<td data-label=\"Errors\">");
    for (words, number) in errors.iter().filter(|(_, number)| *number > 0) {
        write!(
            out,
            "<div>{} <span class=\"fine\">{words}</span></div>",
            count(*number)
        )?;
    }
    Ok(())
}
