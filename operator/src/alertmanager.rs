//! Prometheus's Alertmanager: what it is told, again before it forgets.
//!
//! Source: <https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml>,
//! `POST /api/v2/alerts`.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde_json::{Value as Json, json};

use crate::{
    api::{NotificationEvent, Severity},
    courier::Letter,
    destination::Token,
    endpoints::later,
    notify::{Alert, Context, Entry, Key, Post, What},
};

/// How long an alert holds that is not told again: several times as long as it
/// takes to tell it again.
const HOLDS: Duration = Duration::from_secs(300);
/// How long something is shown that has no duration.
const SHOWN: Duration = Duration::from_secs(60);

pub(crate) fn letter(
    url: &Url,
    token: Option<&Token>,
    post: &Post,
    context: &Context,
    now: Timestamp,
) -> Letter {
    let open = post
        .open
        .iter()
        .map(|open| is_open(&open.alert, context, now));
    let still = |item: &&Entry| post.open.iter().any(|open| open.alert.key == item.key);
    let over = post.items.iter().filter(|item| !still(item));
    let alerts: Vec<Json> = open
        .chain(over.map(|item| is_over(item, context, now)))
        .collect();
    Letter {
        bearer: token.cloned(),
        ..Letter::new(url.clone(), json!(alerts).to_string())
    }
}

/// An alert that says nothing but that alerts arrive.
pub(crate) fn test(url: &Url, token: Option<&Token>, context: &Context, now: Timestamp) -> Letter {
    let labels = labels("Test", Severity::Info, context);
    let alert = json!({
        "labels": labels,
        "annotations": {"summary": format!("alerts about {} arrive here", context.cluster)},
        "startsAt": now, "endsAt": later(now, SHOWN), "generatorURL": link(context),
    });
    Letter {
        bearer: token.cloned(),
        ..Letter::new(url.clone(), json!([alert]).to_string())
    }
}

/// Those of the cluster are as in the chart's rules.
fn labels(what: &str, severity: Severity, context: &Context) -> Json {
    let (namespace, name) = match context.cluster.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, context.cluster.as_str()),
    };
    let mut labels = json!({
        "alertname": format!("Poolkeeper{what}"),
        "pgpoolcluster": name,
        "severity": severity.word(),
    });
    if let Some(namespace) = namespace {
        labels["namespace"] = json!(namespace);
    }
    labels
}

fn is_open(alert: &Alert, context: &Context, now: Timestamp) -> Json {
    describe(
        alert.key.event,
        &alert.key,
        &alert.reason,
        context,
        (alert.since, later(now, HOLDS)),
    )
}

fn is_over(item: &Entry, context: &Context, now: Timestamp) -> Json {
    let times = match item.what {
        What::Restarted | What::Flapping => (item.at, later(now, SHOWN)),
        _ => (item.since, item.at),
    };
    describe(item.event(), &item.key, &item.reason, context, times)
}

fn describe(
    event: NotificationEvent,
    key: &Key,
    reason: &str,
    context: &Context,
    (starts, ends): (Timestamp, Timestamp),
) -> Json {
    let mut labels = labels(event.word(), event.severity(), context);
    if !key.subject.is_empty() {
        labels["subject"] = json!(key.subject);
    }
    json!({
        "labels": labels,
        "annotations": {
            "summary": format!("{}: {} ({})", context.cluster, key.name(), event.word()),
            "description": reason,
        },
        "startsAt": starts, "endsAt": ends, "generatorURL": link(context),
    })
}

/// Where to look further, if that is a URL.
fn link(context: &Context) -> &str {
    let links = context.links.iter().map(|(_, link)| link.as_str());
    let mut links = links.filter(|link| link.starts_with("http"));
    links.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{ChannelConfig, Notifier, Style};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn told(notifier: &mut Notifier, alerts: &[Alert], seconds: i64) -> Json {
        notifier.observe(alerts, &[], at(seconds));
        let _ = notifier.claim(at(seconds));
        let post = notifier.claim(at(seconds + 1)).remove(0);
        let context = Context {
            cluster: "default/shop".to_owned(),
            links: vec![(
                "Dashboard".to_owned(),
                "http://127.0.0.1:8404/stats".to_owned(),
            )],
        };
        let url: Url = "https://am.example/api/v2/alerts".parse().unwrap();
        let letter = letter(&url, None, &post, &context, at(seconds + 1));
        notifier.finished(
            &post,
            crate::notify::Outcome::delivered(),
            at(seconds + 1),
            0.5,
        );
        serde_json::from_str(&letter.body).unwrap()
    }

    #[test]
    fn what_is_wrong_holds_for_minutes_and_what_is_over_has_ended() {
        let mut notifier = Notifier::default();
        notifier.configure(&[ChannelConfig {
            name: "am".to_owned(),
            configured: true,
            style: Style::Levels,
            ..ChannelConfig::default()
        }]);
        let key = Key::new(NotificationEvent::EndpointDown, "pooler-1");
        let down = Alert::new(key, at(1000), "killed", None);
        let first = told(&mut notifier, &[down], 1000);
        assert_eq!(
            first,
            json!([{
                "labels": {"alertname": "PoolkeeperEndpointDown", "namespace": "default",
                    "pgpoolcluster": "shop", "severity": "warning", "subject": "pooler-1"},
                "annotations": {"summary": "default/shop: pooler-1 (EndpointDown)", "description": "killed"},
                "startsAt": "1970-01-01T00:16:40Z", "endsAt": "1970-01-01T00:21:41Z",
                "generatorURL": "http://127.0.0.1:8404/stats",
            }])
        );
        let last = told(&mut notifier, &[], 1010);
        assert_eq!(last[0]["labels"], first[0]["labels"]);
        assert_eq!(last[0]["startsAt"], first[0]["startsAt"]);
        assert_eq!(last[0]["endsAt"], "1970-01-01T00:16:50Z");
        assert_eq!(last.as_array().unwrap().len(), 1);
    }
}
