//! The words for what happened to a subject.

use jiff::SignedDuration;

use super::{milliseconds, second, up};
use crate::{
    api::NotificationEvent,
    notify::{
        Entry, Key, What,
        flap::{OUTAGES, STEADY, WINDOW},
    },
};

/// Names before the rest are only counted.
const NAMES_MAX: usize = 4;

/// What is said of one subject, and of several.
struct Verb(&'static str, &'static str);

/// What is said while something is wrong, once it is over, and of the past.
struct Verbs {
    bad: Verb,
    good: Verb,
    was: Verb,
}

const fn verbs(event: NotificationEvent) -> Verbs {
    match event {
        NotificationEvent::EndpointDown | NotificationEvent::EndpointRestarted => Verbs {
            bad: Verb("is DOWN", "are DOWN"),
            good: Verb("is UP again", "are UP again"),
            was: Verb("was DOWN", "were DOWN"),
        },
        NotificationEvent::TierDown => Verbs {
            bad: Verb("is DOWN, nothing serves", "are DOWN, nothing serves"),
            good: Verb("is UP again", "are UP again"),
            was: Verb("was DOWN", "were DOWN"),
        },
        NotificationEvent::UpstreamUnreachable => Verbs {
            bad: Verb("is UNREACHABLE", "are UNREACHABLE"),
            good: Verb("is reachable again", "are reachable again"),
            was: Verb("was UNREACHABLE", "were UNREACHABLE"),
        },
        NotificationEvent::Saturated => Verbs {
            bad: Verb("is SATURATED", "are SATURATED"),
            good: Verb("has capacity again", "have capacity again"),
            was: Verb("was SATURATED", "were SATURATED"),
        },
        // What is in the way may also be gone because the cluster is suspended.
        NotificationEvent::ConfigurationRefused => Verbs {
            bad: Verb("is REFUSED", "are REFUSED"),
            good: Verb("is no longer refused", "are no longer refused"),
            was: Verb("was REFUSED", "were REFUSED"),
        },
        NotificationEvent::RolloutStuck => Verbs {
            bad: Verb("is STUCK", "are STUCK"),
            good: Verb("is no longer stuck", "are no longer stuck"),
            was: Verb("was STUCK", "were STUCK"),
        },
        NotificationEvent::CertificateExpiring => Verbs {
            bad: Verb("is DUE for renewal", "are DUE for renewal"),
            good: Verb("is in order again", "are in order again"),
            was: Verb("was DUE for renewal", "were DUE for renewal"),
        },
        NotificationEvent::NotificationsFailing => Verbs {
            bad: Verb("do NOT ARRIVE", "do NOT ARRIVE"),
            good: Verb("arrive again", "arrive again"),
            was: Verb("did NOT ARRIVE", "did NOT ARRIVE"),
        },
    }
}

/// What it was while it was wrong, in the middle of a sentence.
const fn wrong(event: NotificationEvent) -> &'static str {
    match event {
        NotificationEvent::EndpointDown
        | NotificationEvent::EndpointRestarted
        | NotificationEvent::TierDown => "down",
        NotificationEvent::UpstreamUnreachable => "unreachable",
        NotificationEvent::Saturated => "saturated",
        NotificationEvent::ConfigurationRefused => "refused",
        NotificationEvent::RolloutStuck => "stuck",
        NotificationEvent::CertificateExpiring => "due",
        NotificationEvent::NotificationsFailing => "failing",
    }
}

/// What a subject is called.
pub(in crate::notify) fn name(key: &Key) -> String {
    match key.event {
        NotificationEvent::EndpointDown | NotificationEvent::EndpointRestarted => {
            key.subject.clone()
        }
        NotificationEvent::TierDown | NotificationEvent::Saturated => "the tier".to_owned(),
        NotificationEvent::UpstreamUnreachable => "PostgreSQL".to_owned(),
        NotificationEvent::ConfigurationRefused => "the configuration".to_owned(),
        NotificationEvent::RolloutStuck => "the rollout".to_owned(),
        NotificationEvent::CertificateExpiring => format!("certificate {}", key.subject),
        NotificationEvent::NotificationsFailing => format!("notifications to {}", key.subject),
    }
}

/// The first few names, and how many there are besides.
pub(in crate::notify) fn list(names: &[String]) -> String {
    let shown = names.len().min(NAMES_MAX);
    let more = names.len() - shown;
    let names = names[..shown].join(", ");
    match more {
        0 => names,
        _ => format!("{names} and {more} more"),
    }
}

/// Worst first.
pub(super) fn rank(item: &Entry) -> (u8, NotificationEvent) {
    let what = match item.what {
        What::Began | What::Again | What::SteadyDown => 0,
        What::Flapping => 1,
        What::Ended | What::SteadyUp => 2,
        What::Passed => 3,
        What::Restarted => 4,
        What::Removed => 5,
    };
    (what, item.key.event)
}

/// Things of the same class share a clause.
pub(super) const fn class(what: What) -> What {
    match what {
        What::Began | What::Again | What::SteadyDown => What::Began,
        What::Ended | What::SteadyUp => What::Ended,
        other => other,
    }
}

/// `pooler-1, pooler-2 are DOWN`.
pub(super) fn clause(item: &Entry, names: &[String], still: bool) -> String {
    let verbs = verbs(item.key.event);
    let of = |verb: Verb| if names.len() == 1 { verb.0 } else { verb.1 };
    let are = if names.len() == 1 { "is" } else { "are" };
    let were = if names.len() == 1 { "was" } else { "were" };
    let said = match class(item.what) {
        What::Ended => of(verbs.good).to_owned(),
        What::Passed => format!("{} and {}", of(verbs.was), of(verbs.good)),
        What::Restarted => "RESTARTED".to_owned(),
        What::Flapping => format!("{are} FLAPPING"),
        What::Removed => format!("{were} removed"),
        _ if still => {
            let (verb, rest) = of(verbs.bad).split_once(' ').unwrap_or_default();
            format!("{verb} still {rest}")
        }
        _ => of(verbs.bad).to_owned(),
    };
    format!("{} {said}", list(names))
}

/// The title of a message about one thing.
pub(super) fn headline(item: &Entry) -> String {
    let name = name(&item.key);
    let verbs = verbs(item.key.event);
    let lasted = span(milliseconds(item.lasted_ms));
    match (item.what, item.times) {
        (What::Began | What::SteadyDown, 0 | 1) | (What::Again, 0) => {
            format!("{name} {}", verbs.bad.0)
        }
        (What::Began | What::Again | What::SteadyDown, times) => {
            format!("{name} {}, {times} times", verbs.bad.0)
        }
        (What::Ended, 0) => format!("{name} {} after {lasted}", verbs.good.0),
        (What::Ended, times) => format!(
            "{name} {}; it was {} {} times, {lasted} in all",
            verbs.good.0,
            wrong(item.key.event),
            times + 1
        ),
        (What::Passed, 0 | 1) => {
            format!("{name} {} for {lasted} and {}", verbs.was.0, verbs.good.0)
        }
        (What::Passed, times) => format!(
            "{name} {} {times} times, {lasted} in all, and {}",
            verbs.was.0, verbs.good.0
        ),
        (What::Restarted, 0 | 1) => format!("{name} RESTARTED"),
        (What::Restarted, times) => format!("{name} RESTARTED {times} times"),
        (What::Flapping, _) => format!("{name} is FLAPPING"),
        (What::SteadyUp, _) => format!("{name} {} and steady", verbs.good.0),
        (What::Removed, _) => format!("{name} was removed"),
    }
}

/// What follows the headline in plain text.
pub(super) fn rest(item: &Entry) -> String {
    let since = second(item.since);
    let cause = &item.reason;
    let count = item.count.map_or(String::new(), |count| {
        let up = up(count);
        match item.what.is_bad() {
            true => format!(
                ". {}",
                up.replace("are up", "remain up")
                    .replace("is up", "remains up")
            ),
            false => format!(". {up}"),
        }
    });
    let said = match item.what {
        What::Began | What::Again => format!(" since {since}: {cause}"),
        What::Ended | What::Passed => format!(". It was down since {since}: {cause}"),
        What::Restarted => format!(" at {}: {cause}", second(item.at)),
        What::Flapping => format!(
            ": {} {OUTAGES} times within {}, the last time since {since}: {cause}. {}",
            wrong(item.key.event),
            span(SignedDuration::try_from(WINDOW).unwrap_or_default()),
            flapping_remark()
        ),
        What::SteadyUp | What::SteadyDown => format!(". It was {}", flapped(item)),
        What::Removed => format!(", and was down since {since}: {cause}"),
    };
    let said = match item.key.event {
        NotificationEvent::EndpointDown
        | NotificationEvent::EndpointRestarted
        | NotificationEvent::TierDown => said,
        _ => said.replace("It was down since", "It began"),
    };
    format!("{said}{count}")
}

/// What follows the headline of something that is still so.
pub(super) fn still(item: &Entry) -> String {
    let count = item
        .count
        .map_or(String::new(), |count| format!(". {}", up(count)));
    format!(", since {}: {}{count}", second(item.since), item.reason)
}

fn flapping_remark() -> String {
    format!(
        "Nothing more is told of it until it has been steady for {}",
        span(SignedDuration::try_from(STEADY).unwrap_or_default())
    )
}

fn flapped(item: &Entry) -> String {
    format!(
        "flapping since {}, {} {}, {} in all",
        second(item.since),
        wrong(item.key.event),
        match item.times {
            0 => "once".to_owned(),
            times => format!("{} times", times + 1),
        },
        span(milliseconds(item.lasted_ms))
    )
}

/// Labels and sentences about one thing.
pub(super) fn facts(item: &Entry) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut fact = |label: &str, text: String| {
        if !text.is_empty() {
            facts.push((label.to_owned(), text));
        }
    };
    let since = second(item.since);
    let count = item.count.map(up).unwrap_or_default();
    match item.what {
        What::Began | What::Again => fact("Why", item.reason.clone()),
        What::Flapping => {
            fact("Why", item.reason.clone());
            fact("Silence", flapping_remark());
        }
        What::Restarted => fact("Why", item.reason.clone()),
        What::Ended | What::Passed => {
            fact("It was", format!("since {since}: {}", item.reason));
        }
        What::SteadyUp | What::SteadyDown => fact("It was", flapped(item)),
        What::Removed => fact("It was", format!("down since {since}: {}", item.reason)),
    }
    match item.what.is_bad() {
        true => fact("Remaining", count),
        false => fact("Now", count),
    }
    facts
}

/// One line of the story of several.
pub(super) fn line(item: &Entry) -> String {
    let headline = headline(item);
    match (item.what, item.reason.as_str()) {
        (_, "") | (What::Removed | What::SteadyUp | What::SteadyDown, _) => headline,
        (What::Ended | What::Passed, reason) => format!("{headline} (it was: {reason})"),
        (_, reason) => format!("{headline}: {reason}"),
    }
}

/// A duration in the largest units that matter: `4.0 s`, `2 min 5 s`, `3 h 20 min`.
pub(in crate::notify) fn span(duration: SignedDuration) -> String {
    let total_s = duration.as_secs().max(0);
    let (days, hours, minutes, seconds) = (
        total_s / 86_400,
        total_s / 3600 % 24,
        total_s / 60 % 60,
        total_s % 60,
    );
    match (days, hours, minutes) {
        (0, 0, 0) if total_s < 10 => {
            let tenths = duration.as_millis().max(0) / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) if seconds == 0 => format!("{minutes} min"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, 0) => format!("{hours} h"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ if hours == 0 => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}
