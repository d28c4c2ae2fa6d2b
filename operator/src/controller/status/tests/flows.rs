//! docs/status.md: what each condition says in each flow. Every row is run
//! through `status`, and the page is compared with what comes out.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::{Value as Json, json};

use proxy_core::upstream::{Reach, Reason as Cause, UpstreamReport};

use super::{kstatus::kstatus, *};
use crate::{
    api::{EndpointCapacity, EndpointUpstream},
    controller::{Fault, FaultKind},
    golden,
};

/// A moment of a flow, and what those who read conditions make of it.
struct Flow {
    name: &'static str,
    kstatus: &'static str,
    argocd: &'static str,
    at: At<'static>,
}

fn flow(
    name: &'static str,
    kstatus: &'static str,
    argocd: &'static str,
    change: impl FnOnce(&mut At<'static>),
) -> Flow {
    let mut at = At::default();
    change(&mut at);
    Flow {
        name,
        kstatus,
        argocd,
        at,
    }
}

/// Nothing of the tier is there.
fn nothing(at: &mut At<'static>) {
    at.rollouts = Rollouts::default();
    at.endpoints.clear();
    at.revision = None;
}

fn fault(kind: FaultKind) -> Progress {
    Progress::Invalid(vec![Fault::field("spec.pool", "message").of_kind(kind)])
}

fn channel(problem: Option<&str>) -> NotificationStatus {
    NotificationStatus {
        name: "ops".to_owned(),
        last_delivery: None,
        pending: 0,
        problem: problem.map(str::to_owned),
    }
}

fn down(at: &mut At<'static>, index: usize) {
    at.endpoints[index].state = EndpointState::Down;
}

fn flows() -> Vec<Flow> {
    [
        beginnings(),
        changes(),
        obstacles(),
        upstreams(),
        capacities(),
        certificates(),
        orders(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn beginnings() -> Vec<Flow> {
    vec![
        flow("created", "InProgress", "Progressing", nothing),
        flow("the first Pods start", "InProgress", "Progressing", |at| {
            for endpoint in &mut at.endpoints {
                endpoint.state = EndpointState::Unknown;
            }
            at.rollouts.poolers.available = 0;
            at.rollouts.balancers.available = 0;
        }),
        flow("created with an invalid spec", "Failed", "Degraded", |at| {
            nothing(at);
            at.meaning = None;
            at.progress = fault(FaultKind::Invalid);
        }),
        flow("created, a Secret is missing", "Failed", "Degraded", |at| {
            nothing(at);
            at.meaning = None;
            at.progress = fault(FaultKind::MissingReference);
        }),
        flow("serving, at rest", "Current", "Healthy", |_| {}),
    ]
}

fn changes() -> Vec<Flow> {
    vec![
        flow("rolling to new Pods", "InProgress", "Progressing", |at| {
            at.rollouts.poolers.updated = 1;
        }),
        flow(
            "reloading new settings",
            "InProgress",
            "Progressing",
            |at| {
                at.endpoints[0].config_revision = Some("r0".to_owned());
            },
        ),
        flow("scaled up", "InProgress", "Progressing", |at| {
            at.rollouts.poolers.wished = 3;
        }),
        flow("a newer version can be had", "Current", "Healthy", |at| {
            at.update = Some("a:1 could become a:2");
        }),
        flow(
            "updated to a newer version",
            "InProgress",
            "Progressing",
            |at| {
                at.rollouts.poolers.updated = 0;
                at.rollouts.balancers.updated = 0;
            },
        ),
        flow(
            "poolers that are to be added wait for their servers",
            "InProgress",
            "Progressing",
            |at| at.rollouts.poolers.held = Some(4),
        ),
        flow("new Pods do not become ready", "Failed", "Degraded", |at| {
            at.rollouts.poolers.updated = 1;
            at.rollouts.poolers.stuck = Some("deadline exceeded".to_owned());
        }),
    ]
}

fn obstacles() -> Vec<Flow> {
    vec![
        flow("a pooler is down", "Current", "Healthy", |at| down(at, 1)),
        flow("all poolers are down", "InProgress", "Degraded", |at| {
            down(at, 0);
            down(at, 1);
        }),
        flow("one of two balancers is down", "Current", "Healthy", |at| {
            let another = at.endpoints[2].clone();
            at.endpoints.push(another);
            down(at, 2);
        }),
        flow("all balancers are down", "InProgress", "Degraded", |at| {
            down(at, 2);
        }),
        flow("changed to an invalid spec", "Failed", "Degraded", |at| {
            at.progress = fault(FaultKind::Invalid);
        }),
        flow(
            "changed to what is not built yet",
            "Failed",
            "Degraded",
            |at| {
                at.progress = fault(FaultKind::NotSupportedYet);
            },
        ),
        flow("the object cannot be read", "Failed", "Degraded", |at| {
            at.progress = Progress::Unreadable("message".to_owned());
        }),
        flow("a name is taken", "Failed", "Degraded", |at| {
            nothing(at);
            at.progress = Progress::NameConflict("message".to_owned());
        }),
        flow("the operator lacks a right", "Failed", "Degraded", |at| {
            at.progress = Progress::Refused("message".to_owned());
        }),
        flow(
            "the API server was away",
            "InProgress",
            "Progressing",
            |at| {
                at.progress = Progress::Interrupted("message".to_owned());
            },
        ),
        flow(
            "who was told what cannot be kept",
            "Current",
            "Healthy",
            |at| {
                at.untold = Some(
                    "ConfigMap shop-notifier exists and is not controlled by this PgPoolCluster; delete or rename it",
                );
            },
        ),
        flow("notifications delivered", "Current", "Healthy", |at| {
            at.notifications = vec![channel(None)];
        }),
        flow("notifications fail", "Current", "Healthy", |at| {
            at.notifications = vec![channel(Some("channel_not_found"))];
        }),
    ]
}

/// What the poolers say of PostgreSQL.
fn upstream(at: &mut At<'static>, said: [Option<UpstreamReport>; 2]) {
    for (endpoint, said) in at.endpoints.iter_mut().zip(said) {
        endpoint.upstream = said.and_then(EndpointUpstream::of);
    }
}

const fn report(state: Reach, reason: Option<Cause>) -> Option<UpstreamReport> {
    Some(UpstreamReport {
        state,
        reason,
        number: 1,
    })
}

fn upstreams() -> Vec<Flow> {
    let reached = report(Reach::Reachable, None);
    let down = report(Reach::Unreachable, Some(Cause::Refused));
    let mut flows = vec![
        flow(
            "no pooler tells of PostgreSQL",
            "Current",
            "Healthy",
            |at| {
                upstream(at, [None, None]);
            },
        ),
        flow(
            "one pooler cannot reach PostgreSQL",
            "Current",
            "Healthy",
            move |at| {
                upstream(at, [reached, down]);
            },
        ),
        flow(
            "one of several databases' hosts is down",
            "Current",
            "Healthy",
            |at| {
                upstream(at, [report(Reach::Partly, Some(Cause::Timeout)); 2]);
            },
        ),
        flow(
            "PostgreSQL is back, one pooler knows",
            "Current",
            "Healthy",
            move |at| {
                upstream(at, [down, reached]);
            },
        ),
    ];
    for (name, cause) in [
        ("PostgreSQL is down", Cause::Refused),
        ("PostgreSQL starts up", Cause::NotAccepting),
        ("a wrong host from the beginning", Cause::NameNotFound),
        ("a wrong port from the beginning", Cause::NotPostgres),
        ("PostgreSQL's host is cut off", Cause::Timeout),
        ("connections to PostgreSQL break", Cause::Lost),
        ("PostgreSQL's certificate has expired", Cause::Tls),
        (
            "PostgreSQL has no connection left",
            Cause::TooManyConnections,
        ),
        ("credentials refused", Cause::Credentials),
        ("unreachable in words of a newer pooler", Cause::Unknown),
    ] {
        flows.push(flow(name, "InProgress", "Degraded", move |at| {
            upstream(at, [report(Reach::Unreachable, Some(cause)); 2]);
        }));
    }
    flows
}

/// What the poolers say of themselves.
fn capacities() -> Vec<Flow> {
    use EndpointCapacity::{Available, ClientsRefused, ClientsWait, MaxServerConnections};
    let says = |name, said: [Option<EndpointCapacity>; 2]| {
        flow(name, "Current", "Healthy", move |at| {
            for (endpoint, said) in at.endpoints.iter_mut().zip(said) {
                endpoint.capacity = said;
            }
        })
    };
    vec![
        says(
            "clients of one pooler wait too long",
            [Some(Available), Some(ClientsWait)],
        ),
        says(
            "clients wait and pool.maxServerConnections is used up",
            [Some(MaxServerConnections); 2],
        ),
        says(
            "a pooler refuses clients",
            [Some(ClientsRefused), Some(ClientsWait)],
        ),
        says("no pooler tells of its capacity", [None; 2]),
    ]
}

/// What becomes of a certificate of a year.
fn certificates() -> Vec<Flow> {
    let year = |at: &mut At<'static>, day: i64| {
        at.second = day * 86_400;
        if let Some(meaning) = &mut at.meaning {
            meaning.certificates = vec![certificate("shop-tls", 365)];
        }
    };
    vec![
        flow("certificates are valid", "Current", "Healthy", move |at| {
            year(at, 10);
        }),
        flow(
            "a certificate expires within 14 days",
            "Current",
            "Healthy",
            move |at| year(at, 360),
        ),
        flow(
            "a certificate has expired",
            "Current",
            "Healthy",
            move |at| {
                year(at, 365);
            },
        ),
        flow(
            "a certificate is not valid yet",
            "Current",
            "Healthy",
            move |at| year(at, -1),
        ),
    ]
}

fn orders() -> Vec<Flow> {
    let pause = |wished, observed| Pause { wished, observed };
    vec![
        flow("suspended, then changed", "Current", "Suspended", |at| {
            at.progress = Progress::Suspended;
        }),
        flow(
            "suspended while pools are being paused",
            "Current",
            "Suspended",
            move |at| {
                at.progress = Progress::Suspended;
                at.pause = pause(true, 1);
            },
        ),
        flow("created suspended", "InProgress", "Suspended", |at| {
            nothing(at);
            at.meaning = None;
            at.progress = Progress::Suspended;
        }),
        flow("pools being paused", "Current", "Healthy", move |at| {
            at.pause = pause(true, 1);
        }),
        flow("pools paused", "Current", "Suspended", move |at| {
            at.pause = pause(true, 2);
        }),
        flow("pools being resumed", "Current", "Healthy", move |at| {
            at.pause = pause(false, 1);
        }),
        flow(
            "deleted, the Pods are gone",
            "Terminating",
            "Progressing",
            |at| {
                nothing(at);
                at.progress = Progress::Deleting;
            },
        ),
        flow("deleted", "Terminating", "Progressing", |at| {
            at.progress = Progress::Deleting;
        }),
    ]
}

impl Flow {
    /// The object, as an API server has it.
    fn object(&self) -> Json {
        let mut object = json!({
            "apiVersion": crate::api::API_VERSION,
            "kind": crate::api::KIND,
            "metadata": {"name": "shop", "generation": self.at.generation},
            "status": self.at.status(),
        });
        if self.at.progress == Progress::Deleting {
            object["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:10Z");
        }
        object
    }

    /// Status and reason of a condition.
    fn cell(&self, type_: ConditionType) -> String {
        let status = self.at.status();
        let mut conditions = status.conditions.iter();
        let found = conditions.find(|one| one.type_ == type_.word()).unwrap();
        format!("{} {}", found.status, found.reason)
    }
}

const COLUMNS: [ConditionType; 4] = [Ready, Reconciling, Stalled, ConfigValid];
const OTHERS: [ConditionType; 8] = [
    PoolersAvailable,
    BalancersAvailable,
    ConditionType::UpstreamReachable,
    ConditionType::CapacityAvailable,
    CertificatesValid,
    ConditionType::NotificationsDelivered,
    Paused,
    ConditionType::UpdateAvailable,
];

const HEAD: &str = "# Status

<!-- Generated by `cargo xtask generate` from operator/src/controller/status. Do not edit. -->

What the conditions of a PgPoolCluster say in each flow, and what to do. `operator status NAME` shows them with
advice; `kubectl describe pgpc NAME` shows them too.

*Ready* means that applications can be served: a balancer and a pooler are up, and not every pooler that tells finds
PostgreSQL out of reach. What cannot be changed has no say in it, nor has Slack. *UpstreamReachable* is what the poolers that are up say of PostgreSQL: False as soon as one
cannot use it, PartlyReachable while another can. Of a reason's recovery it tells at once, of a loss within some
seconds. *CapacityAvailable* is what the same poolers say of themselves: False while one lets a client wait for a
server longer than `saturation_wait` (5 s), or refuses one, and for 10 s after; *Ready* has nothing to do with that.
*CertificatesValid* is about those that the spec names: False from 14 days before one expires, or in the last
quarter of its life if that is shorter; of authorities the one that expires last counts, and where CloudNativePG renews
them it is 3 days. `status.certificates` has their dates.
*Reconciling* and *Stalled* are True while something is going on, or in the way: at rest both are False.
A time of transition changes only with the status, not with reason or message. *observedGeneration* is that of the spec
which the operator looked at last; every condition has it too.

## Flows

The conditions that are not in a column are as at rest unless they are named: ";

const MIDDLE: &str = "
The column *kstatus* is what Flux and other users of kstatus make of it, *Argo CD* what
[health.lua](../examples/argocd/health.lua) does. While the API server is away nothing can be written: the row is what
is written first when it is back. What is deleted keeps its last conditions until it is gone.

## Reasons

| Reason | of | What to do |
|---|---|---|
";

const EVENTS: &str = "
## Events

Recorded once each, at the PgPoolCluster; of endpoints that change together eight at most. Planned work records none.

| Reason | Type | When |
|---|---|---|
| a reason of *Stalled* | Warning | Stalled turns True, or gets another reason; the note is what ConfigValid or Stalled says |
";

fn page() -> String {
    let rest = At::default();
    let at_rest = Flow {
        name: "",
        kstatus: "",
        argocd: "",
        at: rest,
    };
    let mut page = HEAD.to_owned();
    let usual = OTHERS.map(|type_| format!("{} {}", type_.word(), at_rest.cell(type_)));
    let _ = writeln!(page, "{}.\n", usual.join(", "));
    page.push_str(
        "| Flow | Ready | Reconciling | Stalled | ConfigValid | Others | kstatus | Argo CD |\n",
    );
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    for flow in flows() {
        let columns = COLUMNS.map(|type_| flow.cell(type_)).join(" | ");
        let others: Vec<String> = OTHERS
            .into_iter()
            .filter(|type_| flow.cell(*type_) != at_rest.cell(*type_))
            .map(|type_| format!("{} {}", type_.word(), flow.cell(type_)))
            .collect();
        let Flow {
            name,
            kstatus,
            argocd,
            ..
        } = flow;
        let others = others.join(", ");
        let _ = writeln!(
            page,
            "| {name} | {columns} | {others} | {kstatus} | {argocd} |"
        );
    }
    page.push_str(MIDDLE);
    for reason in Reason::ALL {
        let of = conditions_with(*reason).join(", ");
        let advice = reason.advice().unwrap_or(match reason {
            Reason::Stalled => "see the condition Stalled",
            Reason::ConfigInvalid => "see the condition ConfigValid",
            Reason::UpstreamUnreachable => "see the condition UpstreamReachable",
            _ => "nothing",
        });
        let _ = writeln!(page, "| {} | {of} | {advice} |", reason.word());
    }
    page.push_str(EVENTS);
    for event in event::ALL {
        let (reason, type_, when) = (event.reason, event.type_, event.when);
        let _ = writeln!(page, "| {reason} | {type_:?} | {when} |");
    }
    page
}

/// Names of the conditions that have a reason in some flow.
fn conditions_with(reason: Reason) -> Vec<String> {
    let mut names = BTreeSet::new();
    for flow in flows() {
        for condition in flow.at.status().conditions {
            if condition.reason == reason.word() {
                names.insert(condition.type_);
            }
        }
    }
    names.into_iter().collect()
}

#[test]
fn the_page_says_what_conditions_say() {
    golden::check("../docs/status.md", &page());
}

#[test]
fn every_reason_is_met_in_a_flow() {
    for reason in Reason::ALL {
        assert!(
            !conditions_with(*reason).is_empty(),
            "{} is in no flow",
            reason.word()
        );
    }
}

#[test]
fn kstatus_reads_each_flow_as_meant() {
    for flow in flows() {
        assert_eq!(kstatus(&flow.object()), flow.kstatus, "{}", flow.name);
    }
}

/// A scenario runs them through a Lua interpreter.
#[test]
fn statuses_for_health_checks_are_as_committed() {
    let objects = flows()
        .into_iter()
        .map(|flow| json!({"flow": flow.name, "health": flow.argocd, "object": flow.object()}));
    let text = serde_json::to_string_pretty(&objects.collect::<Vec<_>>()).unwrap();
    golden::check("tests/golden/status/flows.json", &format!("{text}\n"));
}
