//! The whole tier of `examples/quickstart.yaml`, with its own numbers, when
//! parts of it die: who notices, when, and who is told, each once.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    Answer, Inbox, Load, Operator, Pgbench, Postgres, Signal, http, load, pgbench, psql, wait,
};

/// spec.balancer.check of the example.
const INTERVAL: Duration = Duration::from_secs(2);
const FALL: u32 = 3;

struct Tier {
    operator: Operator,
    inbox: Inbox,
    postgres: Postgres,
}

fn example() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.yaml");
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn tier() -> Result<Tier> {
    tier_of(&example()?)
}

fn tier_of(manifest: &str) -> Result<Tier> {
    let postgres = Postgres::start()?;
    let inbox = Inbox::start()?;
    let mut operator = Operator::builder(manifest)
        .secrets(&inbox)
        .upstream(&postgres)
        .start()?;
    operator.wait_until_ready()?;
    operator.wait_until_it_serves()?;
    Ok(Tier {
        operator,
        inbox,
        postgres,
    })
}

impl Tier {
    fn serves(&self) -> Result<()> {
        psql::run(
            self.operator.service(),
            "app",
            "shop",
            "password=secret",
            "SELECT 1",
        )
        .map(drop)
    }

    /// The target's entries in both balancers' logs of transitions, `Down` and
    /// `Up` and `Restarted`, one list for each balancer.
    fn transitions(&self, target: &str) -> Result<Vec<Vec<String>>> {
        [self.operator.dashboard(), self.operator.second_dashboard()]
            .into_iter()
            .map(|dashboard| {
                let status = http::get(dashboard, "/status")?.json()?;
                let all = status["transitions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                Ok(all
                    .iter()
                    .filter(|entry| entry["target"] == target)
                    // The first success after start is no news.
                    .filter(|entry| entry["from"] != "Unknown")
                    .map(|entry| match entry["restarted"] == true {
                        true => "Restarted".to_owned(),
                        false => entry["to"].as_str().unwrap_or("").to_owned(),
                    })
                    .collect())
            })
            .collect()
    }

    /// Connections that both balancers relay to a target.
    fn connections(&self, target: &str) -> Result<u64> {
        let mut sum = 0;
        for dashboard in [self.operator.dashboard(), self.operator.second_dashboard()] {
            let status = http::get(dashboard, "/status")?.json()?;
            sum += status["targets"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|entry| entry["name"] == target)
                .filter_map(|entry| entry["connections"].as_u64())
                .sum::<u64>();
        }
        Ok(sum)
    }

    /// Status of a target in the CSV of every balancer.
    fn csv_status(&self, target: &str) -> Result<Vec<String>> {
        [self.operator.dashboard(), self.operator.second_dashboard()]
            .into_iter()
            .map(|dashboard| {
                let csv = http::get(dashboard, "/stats;csv")?.body;
                let row = csv
                    .lines()
                    .find(|line| line.split(',').nth(1) == Some(target))
                    .with_context(|| format!("no row {target} in {csv}"))?;
                Ok(row.split(',').nth(17).unwrap_or("").to_owned())
            })
            .collect()
    }

    /// Waits until both dashboards and the CSV call the target up.
    fn wait_until_up(&self, target: &str) -> Result<()> {
        wait::until_true("the CSV to say UP", Duration::from_secs(30), || {
            self.csv_status(target)
                .is_ok_and(|all| all.iter().all(|status| status == "UP"))
        })?;
        Ok(())
    }

    /// Texts of the inbox that are about `name` and hold `word`.
    fn told(&self, name: &str, word: &str) -> usize {
        self.inbox
            .messages()
            .iter()
            .filter(|message| message.text().contains(name) && message.text().contains(word))
            .count()
    }

    /// Fails unless exactly one DOWN and one UP about `name` have come, and
    /// nothing else at all.
    fn check_told_once(&self, name: &str) -> Result<()> {
        let texts = self.inbox.texts();
        ensure!(
            self.told(name, "is DOWN") == 1 && self.told(name, "is UP") == 1 && texts.len() == 2,
            "expected one DOWN and one UP of {name}: {texts:?}"
        );
        Ok(())
    }
}

fn is_outage(event: &Value, name: &str, outage: &str) -> bool {
    event["event"] == "transition" && event["name"] == name && event["outage"] == outage
}

#[test]
fn a_killed_pooler_costs_its_own_clients_one_error_and_is_told_once() -> Result<()> {
    let mut tier = tier()?;
    pgbench::initialise(&tier.postgres, "app", "shop", 10)?;
    let workers = 12;
    let load = Load::start(
        tier.operator.service(),
        workers,
        Duration::from_secs(22),
        |run: Pgbench| run,
    );
    wait::until_true(
        "every worker to be connected",
        Duration::from_secs(5),
        || {
            ["pooler-0", "pooler-1", "pooler-2"]
                .iter()
                .map(|name| tier.connections(name).unwrap_or(0))
                .sum::<u64>()
                == workers as u64
        },
    )?;
    wait::holds_for("the tier serves", Duration::from_secs(2), || true)?;
    let hit = tier.connections("pooler-1")?;
    let victim = tier.operator.part("pooler-1")?;
    let (killed, at) = (Instant::now(), load::now());
    victim.signal(Signal::KILL);

    // The operator sees its child end, at once; the message follows.
    tier.operator
        .wait_for_event("the outage", Duration::from_secs(1), |event| {
            is_outage(event, "pooler-1", "begins")
        })?;
    let down = tier
        .inbox
        .wait_for("the DOWN message", Duration::from_secs(3), |text| {
            text.contains("pooler-1 is DOWN")
        })?;
    wait::until_true("the state file to tell", Duration::from_secs(2), || {
        tier.operator
            .state()
            .is_ok_and(|state| state["notifier"]["open"]["EndpointDown:pooler-1"].is_object())
    })?;
    ensure!(
        down.text().contains("2 of 3"),
        "how many remain: {}",
        down.text()
    );
    ensure!(down.text().contains("SIGKILL"), "why: {}", down.text());
    // The balancers see it by their checks, or see the new process first.
    wait::until_true(
        "both balancers to notice",
        INTERVAL * FALL + Duration::from_secs(1),
        || {
            tier.transitions("pooler-1")
                .is_ok_and(|all| all.iter().all(|one| !one.is_empty()))
        },
    )?;
    let up = tier
        .inbox
        .wait_for("the UP message", Duration::from_secs(20), |text| {
            text.contains("pooler-1 is UP")
        })?;
    println!(
        "DOWN told after {:?}, UP after {:?}",
        down.at - killed,
        up.at - killed
    );
    tier.wait_until_up("pooler-1")?;
    wait::until_true("the state file to tell", Duration::from_secs(2), || {
        tier.operator.state().is_ok_and(|state| {
            state["notifier"]["open"]["EndpointDown:pooler-1"].is_null()
                && state["children"]["pooler-1"]["pid"] != victim.pid
        })
    })?;
    let account = load.finish()?;
    for one in tier.transitions("pooler-1")? {
        ensure!(
            one == ["Restarted"] || one == ["Down", "Up"],
            "a balancer saw {one:?}"
        );
    }
    for name in ["pooler-0", "pooler-2"] {
        ensure!(
            tier.transitions(name)?.iter().all(Vec::is_empty),
            "{name} was touched"
        );
    }
    tier.check_told_once("pooler-1")?;

    println!(
        "{} transactions, {} connections broken, next after {:?}, without service {:?}",
        account.transactions,
        account.broken,
        account.next_after(at),
        account.without_service
    );
    ensure!(
        account.broken <= hit,
        "{} connections broke, {hit} were on the killed pooler: {:?}",
        account.broken,
        account.complaints
    );
    ensure!(
        account.without_service.len() as u64 == account.broken,
        "somebody never came back"
    );
    let longest = account
        .without_service
        .iter()
        .max()
        .copied()
        .unwrap_or_default();
    ensure!(
        longest < Duration::from_secs(2),
        "a reconnect took {longest:?}"
    );
    // Nothing answered is lost; what was cut may or may not have been committed.
    let committed: u64 = tier
        .postgres
        .sql("shop", "SELECT count(*) FROM pgbench_history")?
        .parse()?;
    ensure!(
        (account.transactions..=account.transactions + account.broken).contains(&committed),
        "{} answered, {} cut, {committed} committed",
        account.transactions,
        account.broken
    );
    Ok(())
}

#[test]
fn a_frozen_pooler_is_down_by_checks_alone() -> Result<()> {
    let mut tier = tier()?;
    let victim = tier.operator.part("pooler-2")?;
    let frozen = Instant::now();
    victim.signal(Signal::STOP);
    let limit = INTERVAL * FALL + Duration::from_secs(2);
    let event =
        tier.operator
            .wait_for_event("the outage", limit + Duration::from_secs(2), |event| {
                is_outage(event, "pooler-2", "begins")
            })?;
    let noticed = frozen.elapsed();
    ensure!(noticed <= limit, "noticed after {noticed:?}: {event}");
    let down = tier
        .inbox
        .wait_for("the DOWN message", Duration::from_secs(5), |text| {
            text.contains("pooler-2 is DOWN")
        })?;
    let told = down.at - frozen;
    ensure!(
        told <= noticed + Duration::from_secs(2),
        "noticed after {noticed:?}, told after {told:?}"
    );
    // The other balancer may still have checks to go, and sends clients there.
    wait::until("both balancers to say so", limit, || {
        let said = tier
            .csv_status("pooler-2")
            .map_err(|error| error.to_string())?;
        let all = said.iter().all(|status| status.starts_with("DOWN"));
        all.then_some(()).ok_or_else(|| format!("{said:?}"))
    })?;
    for _ in 0..4 {
        tier.serves()?;
    }
    ensure!(
        tier.csv_status("pooler-2")?
            .iter()
            .any(|status| status.starts_with("DOWN")),
        "the CSV says {:?}",
        tier.csv_status("pooler-2")?
    );
    victim.signal(Signal::CONT);
    tier.inbox
        .wait_for("the UP message", Duration::from_secs(15), |text| {
            text.contains("pooler-2 is UP")
        })?;
    tier.wait_until_up("pooler-2")?;
    tier.check_told_once("pooler-2")?;
    println!("noticed after {noticed:?}, told after {told:?}");
    Ok(())
}

/// The operator dies, then a pooler; the next operator takes over what runs,
/// and tells once.
#[test]
fn what_happens_while_the_operator_is_dead_is_told_by_the_next() -> Result<()> {
    let mut tier = tier()?;
    let before: Vec<_> = ["pooler", "balancer"]
        .into_iter()
        .flat_map(|program| tier.operator.parts(program))
        .collect();
    let victim = tier.operator.part("pooler-0")?;
    tier.operator.kill9();
    for _ in 0..5 {
        tier.serves()?;
    }
    ensure!(
        before.iter().all(|part| part.runs()),
        "a child went with its operator"
    );
    victim.signal(Signal::KILL);
    wait::until_true("the service to go on", Duration::from_secs(2), || {
        tier.serves().is_ok()
    })?;
    tier.operator.start_again()?;
    tier.inbox
        .wait_for("the DOWN message", Duration::from_secs(10), |text| {
            text.contains("pooler-0 is DOWN")
        })?;
    tier.inbox
        .wait_for("the UP message", Duration::from_secs(20), |text| {
            text.contains("pooler-0 is UP")
        })?;
    tier.wait_until_up("pooler-0")?;
    ensure!(
        before
            .iter()
            .filter(|part| **part != victim)
            .all(|part| part.runs()),
        "a child was replaced that ran well"
    );
    let adopted = tier
        .operator
        .events()
        .iter()
        .filter(|event| event["event"] == "started" && event["adopted"] == true)
        .count();
    ensure!(
        adopted == before.len() - 1,
        "{adopted} of {} adopted",
        before.len() - 1
    );
    tier.check_told_once("pooler-0")
}

/// Killed between the outage and its end: DOWN is not repeated, UP not lost.
#[test]
fn an_outage_that_outlives_its_operator_is_told_to_the_end() -> Result<()> {
    let mut tier = tier()?;
    let victim = tier.operator.part("pooler-1")?;
    victim.signal(Signal::STOP);
    tier.inbox
        .wait_for("the DOWN message", Duration::from_secs(15), |text| {
            text.contains("pooler-1 is DOWN")
        })?;
    // Confirmed, or its repetition would be the marked one.
    tier.operator
        .wait_for_event("the confirmation", Duration::from_secs(5), |event| {
            event["event"] == "notified" && event["name"] == "pooler-1"
        })?;
    tier.operator.kill9();
    victim.signal(Signal::CONT);
    tier.operator.start_again()?;
    tier.inbox
        .wait_for("the UP message", Duration::from_secs(20), |text| {
            text.contains("pooler-1 is UP")
        })?;
    tier.check_told_once("pooler-1")
}

#[test]
fn a_webhook_that_is_down_delays_messages_and_loses_none() -> Result<()> {
    let mut tier = tier()?;
    tier.inbox.answer(Answer::Status(500));
    tier.operator.part("pooler-0")?.signal(Signal::KILL);
    tier.operator
        .wait_for_event("the end of the outage", Duration::from_secs(30), |event| {
            is_outage(event, "pooler-0", "ends")
        })?;
    ensure!(!tier.inbox.attempts().is_empty(), "nothing was tried");
    ensure!(tier.inbox.messages().is_empty());
    tier.inbox.answer(Answer::RetryAfter(1));
    let tried = tier.inbox.attempts().len();
    wait::until_true("another try", Duration::from_secs(40), || {
        tier.inbox.attempts().len() > tried
    })?;
    tier.inbox.answer(Answer::Ok);
    tier.inbox
        .wait_for("the message", Duration::from_secs(40), |text| {
            text.contains("pooler-0 was DOWN") && text.contains("is UP again")
        })?;
    // The whole story is one message, and nothing follows it.
    tier.operator
        .wait_for_event("the confirmation", Duration::from_secs(30), |event| {
            event["event"] == "notified"
        })?;
    ensure!(tier.inbox.messages().len() == 1);
    ensure!(
        !tier.operator.log().contains(tier.inbox.secret()),
        "the webhook's secret is in the log"
    );
    Ok(())
}

#[test]
fn a_killed_balancer_leaves_the_service_reachable() -> Result<()> {
    // It may be back before others would have been waited for, and then be told
    // of once, as of something that is over.
    let tier = tier_of(&example()?.replace("sendResolved: true", "groupWait: 0s"))?;
    tier.operator.part("balancer-1")?.signal(Signal::KILL);
    tier.inbox
        .wait_for("the DOWN message", Duration::from_secs(5), |text| {
            text.contains("balancer-1 is DOWN")
        })?;
    for _ in 0..10 {
        tier.serves()?;
    }
    tier.inbox
        .wait_for("the UP message", Duration::from_secs(30), |text| {
            text.contains("balancer-1 is UP")
        })?;
    tier.check_told_once("balancer-1")
}

#[test]
fn the_end_is_clean_and_a_second_tier_on_the_same_ports_is_refused() -> Result<()> {
    let mut tier = tier()?;
    let second = Operator::builder(&example()?)
        .secrets(&tier.inbox)
        .upstream(&tier.postgres)
        .at_offset_of(&tier.operator)
        .start();
    let mut second = second?;
    let status = second.child().wait(Duration::from_secs(10))?;
    ensure!(status.code() == Some(1), "{status}: {}", second.log());
    ensure!(
        second
            .log()
            .contains(&tier.operator.service().port().to_string()),
        "the port is named: {}",
        second.log()
    );
    tier.serves()?;
    let status = tier.operator.terminate(Duration::from_secs(90))?;
    ensure!(status.success(), "{status}");
    ensure!(tests::ports::is_free(tier.operator.service().port()));
    ensure!(
        tier.inbox.messages().is_empty(),
        "a planned end is no outage"
    );
    Ok(())
}

/// However many poolers notice: one line when PostgreSQL goes, one when it is back.
#[test]
fn postgresql_that_is_gone_is_one_message() -> Result<()> {
    let mut tier = tier()?;
    let limit = Duration::from_secs(60);
    let upstream =
        |event: &Value, reason: &str| event["event"] == "upstream" && event["reason"] == reason;
    let told = |tier: &Tier, reason: &str| {
        let events = tier.operator.events();
        events
            .iter()
            .filter(|event| upstream(event, reason))
            .count()
    };
    tier.operator
        .wait_for_event("PostgreSQL to answer", limit, |event| {
            upstream(event, "Reachable")
        })?;
    let before = told(&tier, "Reachable");
    tier.postgres.kill9();
    let gone = tier
        .operator
        .wait_for_event("PostgreSQL to be gone", limit, |event| {
            upstream(event, "ConnectionRefused")
        })?;
    ensure!(gone["status"] == "False", "{gone}");
    tier.postgres.start_again()?;
    wait::until_true("PostgreSQL to be back", limit, || {
        told(&tier, "Reachable") > before
    })?;
    let events = tier.operator.events();
    let about = events.iter().filter(|event| event["event"] == "upstream");
    let mut statuses: Vec<&Value> = about.map(|event| &event["status"]).collect();
    // The reason may change while some poolers know and others do not.
    statuses.dedup();
    ensure!(
        statuses == ["True", "False", "True"],
        "{}",
        tier.operator.log()
    );
    tier.serves()
}
