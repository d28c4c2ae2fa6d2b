//! The dashboard: one self-contained page, drawn on the server, readable on a
//! phone and without scripts. Everything that comes from outside is escaped.

mod table;
mod words;

use std::{
    fmt::{Display, Write},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use proxy_core::{
    config::balancer::{Algorithm, BalancerConfig, CheckType, duration},
    health::Health,
    status::Transition,
};

use self::words::{bytes, count, e, milliseconds, span};
use super::{
    shared::{Phase, Shared},
    target::{Judged, Target, elapsed},
};

/// Transitions shown.
const TRANSITIONS_SHOWN: usize = 20;
const REFRESH_S: u32 = 5;
const STYLE: &str = include_str!("dashboard/style.css");

/// Whether the page reloads itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Every few seconds.
    Often,
    /// Only when its reader does it.
    Never,
}

/// The whole page.
#[must_use]
pub fn page(shared: &Shared, refresh: Refresh, now: Instant, today: Timestamp) -> String {
    let view = View {
        shared,
        config: &shared.config(),
        now,
        today,
    };
    let targets = shared.targets();
    let up = targets.iter().filter(|target| target.open()).count();
    let mut out = String::with_capacity(32 * 1024);
    // Writing to a String cannot fail; the alternative is a template engine.
    let _ = view.write(&mut out, refresh, up, &targets);
    out
}

struct View<'a> {
    shared: &'a Shared,
    config: &'a BalancerConfig,
    now: Instant,
    today: Timestamp,
}

type Written = std::fmt::Result;

impl View<'_> {
    fn write(
        &self,
        out: &mut String,
        refresh: Refresh,
        up: usize,
        targets: &[std::sync::Arc<Target>],
    ) -> Written {
        let name = e(&self.config.frontends[0].name);
        let total = targets.len();
        let mood = match up {
            0 => Mood::Bad,
            up if up < total => Mood::Doubtful,
            _ => Mood::Good,
        };
        write!(
            out,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">"
        )?;
        if refresh == Refresh::Often {
            write!(out, "<meta http-equiv=\"refresh\" content=\"{REFRESH_S}\">")?;
        }
        let colour = mood.colour();
        write!(
            out,
            "<title>{up}/{total} up · {name} · Poolkeeper balancer</title>\
             <link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' \
             viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='7' fill='%23{colour}'/%3E%3C/svg%3E\">\
             <style>{STYLE}</style></head><body>"
        )?;
        self.header(out, refresh)?;
        out.push_str("<main>");
        self.tiles(out, mood, up, total)?;
        self.table(out, targets)?;
        self.transitions(out)?;
        self.process(out)?;
        out.push_str("</main>");
        footer(out);
        out.push_str("</body></html>\n");
        Ok(())
    }

    fn header(&self, out: &mut String, refresh: Refresh) -> Written {
        let (mood, word) = match self.shared.phase() {
            Phase::Checking => (Mood::Unknown, "first checks"),
            Phase::Serving => (Mood::Good, "serving"),
            Phase::Draining | Phase::Stopping => (Mood::Doubtful, "draining"),
        };
        let time = self.today.strftime("%H:%M:%S UTC");
        let (link, words) = match refresh {
            Refresh::Often => ("/stats;norefresh", "pause"),
            Refresh::Never => ("/stats", "resume"),
        };
        let every = match refresh {
            Refresh::Often => format!("every {REFRESH_S} s"),
            Refresh::Never => "paused".to_owned(),
        };
        write!(
            out,
            "<header><h1>Poolkeeper <small>balancer</small></h1>{}\
             <p class=\"clock\">{time} · {every} · <a href=\"{link}\">{words}</a></p></header>",
            pill(mood, word)
        )
    }

    fn tiles(&self, out: &mut String, mood: Mood, up: usize, total: usize) -> Written {
        let shared = self.shared;
        let frontend = &shared.frontend;
        let now = frontend.connections.now();
        let limit = shared.connections_max.load(Relaxed);
        let percent = u64::from(now) * 100 / u64::from(limit.max(1));
        let peak = frontend.connections.max();
        let refused = shared.refused_no_target.load(Relaxed) + shared.refused_limit.load(Relaxed);
        let refused_mood = match refused {
            0 => "",
            _ => " warn",
        };
        out.push_str("<section class=\"tiles\">");
        write!(
            out,
            "<div class=\"tile wide {}\"><h2>Targets up</h2><p><b>{up}</b> of {total}</p>\
             <p class=\"fine\">{}</p></div>\
             <div class=\"tile\"><h2>Connections</h2><p><b>{}</b> of {}</p>\
             <meter max=\"100\" value=\"{percent}\">{percent} %</meter><p class=\"fine\">peak {}</p></div>\
             <div class=\"tile\"><h2>New per second</h2><p><b>{}</b></p>\
             <p class=\"fine\">peak {}, {} in all</p></div>\
             <div class=\"tile\"><h2>Relayed</h2><p><b>{}</b> out</p><p class=\"fine\">{} in</p></div>\
             <div class=\"tile{refused_mood}\"><h2>Refused</h2><p><b>{}</b></p>\
             <p class=\"fine\">{} no target, {} limit</p></div>",
            mood.class(),
            shared.states(),
            count(now.into()),
            count(limit.into()),
            count(peak.into()),
            count(frontend.rate.now()),
            count(frontend.rate.max()),
            count(frontend.total.load(Relaxed)),
            bytes(shared.backend.to_clients()),
            bytes(shared.backend.from_clients()),
            count(refused),
            count(shared.refused_no_target.load(Relaxed)),
            count(shared.refused_limit.load(Relaxed)),
        )?;
        out.push_str("</section>");
        Ok(())
    }

    fn transitions(&self, out: &mut String) -> Written {
        out.push_str("<section><h2>Last changes</h2>");
        let latest = self.shared.journal.latest(TRANSITIONS_SHOWN);
        if latest.is_empty() {
            out.push_str("<p class=\"fine\">None yet.</p></section>");
            return Ok(());
        }
        out.push_str("<ol class=\"changes\">");
        for transition in &latest {
            self.transition(out, transition)?;
        }
        out.push_str("</ol></section>");
        Ok(())
    }

    fn transition(&self, out: &mut String, transition: &Transition) -> Written {
        let Transition {
            number,
            at,
            target,
            from,
            to,
            restarted,
            reason,
            boot_id: _,
            up,
            total,
        } = transition;
        let change = match from == to {
            true => pill(Mood::Doubtful, "Restarted"),
            false => format!(
                "<span class=\"fine\">{from}</span> → {}{}",
                pill(Mood::after(*to), &to.to_string()),
                match restarted {
                    true => " <span class=\"fine\">new process</span>",
                    false => "",
                }
            ),
        };
        write!(
            out,
            "<li><time datetime=\"{at}\" title=\"{at}\">{} ago</time> <b>{}</b> <span>{change}</span> \
             <span class=\"reason\">{}</span> <span class=\"fine\">{up}/{total} up · #{number}</span></li>",
            span(elapsed(*at, self.today)),
            e(target),
            e(reason),
        )
    }

    fn process(&self, out: &mut String) -> Written {
        let shared = self.shared;
        let config = self.config;
        let check = &config.check;
        let asked = match check.r#type {
            CheckType::Postgres => "StartupMessage",
            CheckType::Tcp => "connect",
        };
        let started_at = shared.started_at.strftime("%Y-%m-%d %H:%M:%S UTC");
        let uptime = span(elapsed(shared.started_at, self.today));
        let backend = &shared.backend;
        let facts: &[(&str, &dyn Display)] = &[
            ("Version", &env!("CARGO_PKG_VERSION")),
            ("Pid", &std::process::id()),
            ("Boot", &shared.boot_id),
            ("Up", &format_args!("{uptime}, since {started_at}")),
            ("Revision", &e(config.revision.as_deref().unwrap_or("none"))),
            (
                "Frontend",
                &format_args!("{} on {}", e(&config.frontends[0].name), shared.listen),
            ),
            ("Algorithm", &self.algorithm()),
            (
                "Checks",
                &format_args!(
                    "{asked} every {}, timeout {}, rise {}, fall {}",
                    duration::format(check.interval),
                    duration::format(check.timeout),
                    check.rise,
                    check.fall
                ),
            ),
            (
                "Limit",
                &format_args!(
                    "{} connections of {} configured",
                    count(shared.connections_max.load(Relaxed).into()),
                    count(config.max_connections.into())
                ),
            ),
            ("Event loops", &shared.loops.len()),
            (
                "Connect",
                &format_args!(
                    "{} ms on average, {} at most",
                    backend.connect_ms.mean(),
                    milliseconds(Duration::from_millis(backend.connect_ms.max()))
                ),
            ),
            (
                "Session",
                &format_args!(
                    "{} on average",
                    span(Duration::from_millis(backend.session_ms.mean()))
                ),
            ),
        ];
        out.push_str("<section><h2>This balancer</h2><dl>");
        for (term, fact) in facts {
            write!(out, "<div><dt>{term}<dd>{fact}</div>")?;
        }
        out.push_str("</dl></section>");
        Ok(())
    }

    fn algorithm(&self) -> &'static str {
        match self.config.algorithm {
            Algorithm::Leastconn => "leastconn",
            Algorithm::Roundrobin => "roundrobin",
        }
    }
}
fn footer(out: &mut String) {
    out.push_str("<footer><p class=\"legend\">");
    for (mood, words) in [
        (Mood::Good, "up"),
        (
            Mood::Doubtful,
            "up, last checks failed (UP 1/3: one more and it is down)",
        ),
        (
            Mood::Draining,
            "draining: keeps its connections, gets no new ones",
        ),
        (Mood::Bad, "down"),
        (Mood::Rising, "down, last checks passed"),
        (Mood::Unknown, "not checked yet"),
    ] {
        out.push_str(&format!(
            "<span><i class=\"{}\"></i>{words}</span>",
            mood.class()
        ));
    }
    out.push_str(
        "</p><p><a href=\"/stats;csv\">CSV</a> · <a href=\"/metrics\">metrics</a> · \
         <a href=\"/status\">status as JSON</a></p></footer>",
    );
}

fn times(number: u64) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        number => format!("{} times", count(number)),
    }
}

/// What a colour says. Each is also said in words: nobody has to see colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Good,
    Doubtful,
    Draining,
    Bad,
    Rising,
    Unknown,
}

impl Mood {
    fn of(judged: &Judged) -> Self {
        let state = &judged.state;
        match state.health {
            Health::Up if state.failed > 0 => Self::Doubtful,
            Health::Down if state.passed > 0 => Self::Rising,
            health => Self::after(health),
        }
    }

    const fn after(health: Health) -> Self {
        match health {
            Health::Up => Self::Good,
            Health::Draining => Self::Draining,
            Health::Down => Self::Bad,
            Health::Unknown => Self::Unknown,
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Doubtful => "doubtful",
            Self::Draining => "draining",
            Self::Bad => "bad",
            Self::Rising => "rising",
            Self::Unknown => "unknown",
        }
    }

    /// For the icon, which knows no style sheet.
    const fn colour(self) -> &'static str {
        match self {
            Self::Good => "1a9c5b",
            Self::Bad => "d03a3a",
            _ => "d98a00",
        }
    }
}

fn pill(mood: Mood, words: &str) -> String {
    format!("<span class=\"pill {}\">{}</span>", mood.class(), e(words))
}
