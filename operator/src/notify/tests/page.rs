//! The reference page of messages, and each of them as Slack takes it: written
//! by what writes the messages.

use std::fmt::Write as _;

use super::*;
use crate::{golden, slack};

const START: i64 = 1_767_225_600_000;

/// A message, and what to know of it.
struct Sample {
    name: &'static str,
    means: &'static str,
    act: &'static str,
    message: Message,
}

fn context() -> Context {
    Context {
        cluster: "shop".to_owned(),
        links: vec![(
            "Dashboard".to_owned(),
            "http://127.0.0.1:8404/stats".to_owned(),
        )],
    }
}

fn wrong(event: NotificationEvent, subject: &str, reason: &str, up: Option<u32>) -> Alert {
    let count = up.map(|up| Count {
        of: Component::Pooler,
        up,
        total: 3,
    });
    Alert::new(Key::new(event, subject), at(START), reason, count)
}

fn endpoint(name: &str, up: u32) -> Alert {
    let reason = "killed by signal 9 (SIGKILL)";
    wrong(NotificationEvent::EndpointDown, name, reason, Some(up))
}

fn ended(alert: &Alert, after_ms: i64, up: u32) -> Happening {
    Happening::Ended {
        key: alert.key.clone(),
        at: at(START + after_ms),
        reason: "checks pass".to_owned(),
        count: alert.count.map(|count| Count { up, ..count }),
    }
}

/// What is posted once a set of alerts and happenings was observed, after what
/// was told before.
fn story(style: Style, steps: &[(&[Alert], &[Happening], i64)]) -> (Post, i64) {
    let mut notifier = Notifier::default();
    notifier.configure(&[ChannelConfig {
        style,
        ..config("ops")
    }]);
    let mut last = None;
    for (alerts, happenings, after_ms) in steps {
        let now = START + after_ms;
        notifier.observe(alerts, happenings, at(now));
        for wait in [0, 500, 5000, 10_000] {
            for post in notifier.claim(at(now + wait)) {
                let outcome = Outcome::Delivered {
                    reference: Some("C1/17.1".to_owned()),
                };
                notifier.finished(&post, outcome, at(now + wait), 0.5);
                last = Some((post, now + wait));
            }
        }
    }
    last.expect("something is told")
}

fn told(steps: &[(&[Alert], &[Happening], i64)]) -> Message {
    let (post, now) = story(Style::Messages, steps);
    Message::new(&post, &context(), at(now))
}

fn edited(steps: &[(&[Alert], &[Happening], i64)]) -> Message {
    let (post, now) = story(Style::Threads, steps);
    assert_eq!(post.form, Form::Edit);
    Message::new(&post, &context(), at(now))
}

const LOOK_AT_IT: &str = "nothing if it comes back: the others take its connections, each of its clients reconnected once. If it stays, look at its log and, in Kubernetes, at `kubectl describe pod`";
const RESTORE: &str = "applications cannot connect: this is the one to get up for. Look at the logs of all poolers or balancers for what they have in common: configuration, node, memory";

fn endpoint_samples() -> Vec<Sample> {
    let (one, two) = (endpoint("pooler-1", 2), endpoint("pooler-2", 1));
    let up = ended(&one, 4000, 3);
    let restarted = wrong(
        NotificationEvent::EndpointDown,
        "pooler-1",
        "answers as a new process, without having drained",
        Some(3),
    );
    let both: &[Alert] = &[one.clone(), two];
    let only: &[Alert] = std::slice::from_ref(&one);
    let back = [up.clone()];
    let again: Vec<Happening> = (0..4)
        .flat_map(|turn| {
            let mut alert = one.clone();
            alert.since = at(START + turn * 60_000);
            [
                Happening::Began(alert),
                ended(&one, turn * 60_000 + 3000, 3),
            ]
        })
        .collect();
    vec![
        Sample {
            name: "An endpoint is down",
            means: "a pooler or a balancer ended unplanned, or fails its checks. Rollouts, scaling and evictions are not told",
            act: LOOK_AT_IT,
            message: told(&[(only, &[], 0)]),
        },
        Sample {
            name: "Several are down",
            means: "they went within the group wait of each other",
            act: LOOK_AT_IT,
            message: told(&[(both, &[], 0)]),
        },
        Sample {
            name: "An endpoint is up again",
            means: "it passes its checks; applications are sent to it",
            act: "nothing; the reason says what to look for",
            message: told(&[(only, &[], 0), (&[], &back, 4000)]),
        },
        Sample {
            name: "It was down and is up again",
            means: "both happened before it could be told: the operator or the channel was away",
            act: "nothing",
            message: told(&[(&[], &[Happening::Began(one.clone()), up], 60_000)]),
        },
        Sample {
            name: "An endpoint restarted",
            means: "it came back as a new process before any check missed it; its clients reconnected",
            act: "look at its log for why it ended",
            message: told(&[(&[], &[Happening::Restarted(restarted)], 0)]),
        },
        Sample {
            name: "An endpoint is flapping",
            means: "it was down four times within ten minutes. Nothing more is told of it until it has been steady for five",
            act: "it crashes or its node does: look at its log and at what its last messages have in common",
            message: told(&[(&[], &again, 190_000)]),
        },
        Sample {
            name: "It is steady again",
            means: "it has not come or gone for five minutes",
            act: "nothing; the numbers say how bad it was",
            message: told(&[(&[], &again, 190_000), (&[], &[], 500_000)]),
        },
        Sample {
            name: "A reminder",
            means: "it is still so after the repeat interval",
            act: "what the first message asked for",
            message: told(&[(only, &[], 0), (only, &[], 4 * 3_600_000)]),
        },
    ]
}

fn other_samples() -> Vec<Sample> {
    let tier = wrong(NotificationEvent::TierDown, "", "no pooler is up", Some(0));
    let all: Vec<Alert> = (0..3)
        .map(|index| endpoint(&format!("pooler-{index}"), 0))
        .chain([tier.clone()])
        .collect();
    let upstream = wrong(
        NotificationEvent::UpstreamUnreachable,
        "",
        "postgres.default.svc:5432: connection refused",
        None,
    );
    let failing = wrong(
        NotificationEvent::EndpointDown,
        "pooler-1",
        "exit code 1",
        Some(2),
    );
    let up = [ended(&tier, 6000, 1)];
    vec![
        Sample {
            name: "The tier is down",
            means: "no pooler, or no balancer, is left. Single endpoints are not told of until it serves again",
            act: RESTORE,
            message: told(&[(&all, &[], 0)]),
        },
        Sample {
            name: "The tier is up again",
            means: "applications can connect. What happened meanwhile is told with it",
            act: "look whether the rest comes back too",
            message: told(&[(&all, &[], 0), (&all[1..3], &up, 6000)]),
        },
        Sample {
            name: "PostgreSQL is unreachable",
            means: "the poolers cannot connect to it: one message, not one for each pooler. Applications wait for up to query_wait_timeout and then get an error",
            act: "look at PostgreSQL and at the network to it; the poolers connect again by themselves",
            message: told(&[(std::slice::from_ref(&upstream), &[], 0)]),
        },
        Sample {
            name: "PostgreSQL is reachable again",
            means: "new connections to it succeed",
            act: "nothing",
            message: told(&[
                (std::slice::from_ref(&upstream), &[], 0),
                (&[], &[ended(&upstream, 95_000, 0)], 95_000),
            ]),
        },
        Sample {
            name: "An incident as a bot edits it",
            means: "with a bot token the first message shows how things are, its thread the story",
            act: "read the thread",
            message: edited(&[(std::slice::from_ref(&failing), &[], 0), (&all, &[], 2000)]),
        },
        Sample {
            name: "An incident that is over",
            means: "the same message once all is well",
            act: "nothing",
            message: edited(&[
                (std::slice::from_ref(&failing), &[], 0),
                (&[], &[ended(&failing, 12_000, 3)], 12_000),
            ]),
        },
    ]
}

/// What conditions say beside the upstream.
fn condition_samples() -> Vec<Sample> {
    let refused = wrong(
        NotificationEvent::ConfigurationRefused,
        "",
        "spec.pool.mode: \"statment\" is not one of session, transaction, statement",
        None,
    );
    let stuck = wrong(
        NotificationEvent::RolloutStuck,
        "",
        "the new poolers do not become available, the old ones go on: Progress deadline exceeded",
        None,
    );
    let expiring = wrong(
        NotificationEvent::CertificateExpiring,
        "shop-tls/tls.crt",
        "expires at 2026-01-15T00:00:00Z",
        None,
    );
    let saturated = wrong(
        NotificationEvent::Saturated,
        "",
        "2 of 3 poolers let clients wait too long for a server of their pool",
        None,
    );
    let only = std::slice::from_ref::<Alert>;
    vec![
        Sample {
            name: "The tier is saturated",
            means: "clients have waited longer than saturation_wait (5 s) for a server, or are refused, and the reason says which limit is used up. Others are served meanwhile, and nothing is taken out of service",
            act: "see whose pool it is with SHOW POOLS on a pooler's console; make its transactions shorter, or raise the limit as far as PostgreSQL can take it",
            message: told(&[(only(&saturated), &[], 0)]),
        },
        Sample {
            name: "The tier has capacity again",
            means: "no client has waited for so long, and none was refused, for 10 s",
            act: "nothing",
            message: told(&[(only(&saturated), &[], 0), (&[], &[], 95_000)]),
        },
        Sample {
            name: "The configuration is refused",
            means: "a change of the PgPoolCluster is not carried out: it is invalid, refers to what has not been there for 30 s, or something keeps the operator from writing what follows from it. What runs goes on as before",
            act: "mend what the reason names and apply it again; `operator status` has the whole of it",
            message: told(&[(only(&refused), &[], 0)]),
        },
        Sample {
            name: "The configuration is no longer refused",
            means: "what was in the way is gone, or the PgPoolCluster is suspended",
            act: "nothing",
            message: told(&[(only(&refused), &[], 0), (&[], &[], 180_000)]),
        },
        Sample {
            name: "The rollout is stuck",
            means: "new Pods do not become available in time. The old ones serve on, so a change waits and nothing else",
            act: "see why the newest Pods do not become ready, with `kubectl describe pod`, and mend the spec",
            message: told(&[(only(&stuck), &[], 0)]),
        },
        Sample {
            name: "A certificate is due for renewal",
            means: "one that the PgPoolCluster names expires within 14 days (or in the last quarter of its life, or, of an authority that CloudNativePG renews, within 3 days), has expired, or is not valid yet. Each is told by itself",
            act: "renew it in its Secret, or see why what renews it does not; it is taken up without a restart. Once it has expired who checks it refuses connections",
            message: told(&[(only(&expiring), &[], 0)]),
        },
    ]
}

/// What is only said of messages themselves.
fn failing_sample() -> Sample {
    let mut bench = Bench::with(&[config("ops"), config("pager")]);
    bench.now = START;
    bench.goes_down(1);
    let mut last = None;
    for wait in [0, 500, 600, 2000] {
        for post in bench.notifier.claim(at(START + wait)) {
            let outcome = match post.channel.as_str() {
                "ops" => Outcome::Refused("HTTP 404, no_service".to_owned()),
                _ => Outcome::delivered(),
            };
            let now = at(START + wait);
            bench.notifier.finished(&post, outcome, now, 0.5);
            last = Some((post, now));
        }
    }
    let (post, now) = last.expect("something is told");
    Sample {
        name: "Notifications do not arrive",
        means: "another channel refuses messages, or none has arrived for a minute. Nothing is lost: it is told when the channel is back",
        act: "look at the channel's Secret and at the word of Slack in the condition NotificationsDelivered",
        message: Message::new(&post, &context(), now),
    }
}

fn samples() -> Vec<Sample> {
    let mut samples = endpoint_samples();
    samples.extend(other_samples());
    samples.extend(condition_samples());
    samples.push(failing_sample());
    samples
}

const HEAD: &str = "# Messages

<!-- Generated by `cargo xtask generate` from operator/src/notify. Do not edit. -->

What people are told, as it looks, what it means and what to do. Where messages go, which are sent and how often is
[spec.notifications](api.md#specnotifications); why they are as they are,
[0046](decisions/0046-what-is-told.md).

- What happens within `groupWait` (500 ms) is one message. Good news waits for `groupInterval` (5 s) after the last
  message, bad news does not. What is still wrong after `repeatInterval` (4 h) is told again.
- While the tier is down or PostgreSQL is unreachable single endpoints are not told of; they are told with its end.
- A message that may have arrived already says *possibly repeated*: the operator died, or no answer came. One that is
  told more than 30 s late says so.
- `operator notify-test -f FILE` sends a test message to each channel of a manifest. In Kubernetes an annotation does,
  each time that it gets another value, and Events say what came of it:
  `kubectl annotate pgpc NAME --overwrite poolkeeper.dev/notify-test=$(date +%s)`.
- The rules for Prometheus in the chart ([alerts.yaml](../charts/poolkeeper/files/alerts.yaml)) say the same: their label
  `event` names what they stand for.
- A dead operator tells nothing. With `--heartbeat-url-file FILE` it calls the URL in that file while all is well, for a
  service that tells when the calls stop; with the chart, `heartbeat.existingSecret` names the Secret that holds the URL,
  whose host must be among `webhookHosts`.

The first line is the title, the last block the text of the notification. 🔴 something is wrong, 🟠 something comes and
goes, 🟡 worth knowing, 🟢 all is well again.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for sample in samples() {
        let Sample {
            name,
            means,
            act,
            message,
        } = sample;
        let mark = match message.mark {
            message::Mark::Bad => "🔴",
            message::Mark::Unsteady => "🟠",
            message::Mark::Notice => "🟡",
            message::Mark::Good => "🟢",
        };
        let _ = writeln!(page, "\n## {name}\n\nMeans: {means}.\n\nTo do: {act}.\n");
        let _ = writeln!(page, "```text\n{mark} {}", message.title);
        for (label, fact) in &message.facts {
            let _ = writeln!(page, "{label}: {fact}");
        }
        for line in &message.story {
            let _ = writeln!(page, "• {line}");
        }
        for remark in &message.remarks {
            let _ = writeln!(page, "({remark})");
        }
        let _ = writeln!(page, "```\n\n```text\n{}\n```", message.text);
    }
    page
}

#[test]
fn page_of_messages_is_up_to_date() {
    golden::check("../docs/alerts.md", &page());
}

#[test]
fn messages_are_what_slack_is_sent() {
    let messages: Vec<_> = samples()
        .iter()
        .map(|sample| slack::render(&sample.message))
        .collect();
    let json = serde_json::to_string_pretty(&messages).unwrap();
    golden::check("tests/golden/messages.json", &format!("{json}\n"));
}
