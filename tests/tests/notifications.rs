//! What people are told by a whole tier, and by which channels.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{Answer, Inbox, Operator, Postgres, Raw, Scratch, Signal, binaries, wait};

const LONG: Duration = Duration::from_secs(60);
const WEBHOOK: &str = "webhookUrlSecretRef: {name: slack, key: url}";

fn example() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.yaml");
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn tier(manifest: &str, inbox: &Inbox, postgres: &Postgres) -> Result<Operator> {
    let mut operator = Operator::builder(manifest)
        .secrets(inbox)
        .upstream(postgres)
        .start()?;
    operator.wait_until_ready()?;
    operator.wait_until_it_serves()?;
    Ok(operator)
}

#[test]
fn all_poolers_killed_at_once_are_one_message() -> Result<()> {
    let (postgres, inbox) = (Postgres::start()?, Inbox::start()?);
    // Three signals take their time on a machine that is busy.
    let manifest = example()?.replace("sendResolved: true", "groupWait: 2s");
    let operator = tier(&manifest, &inbox, &postgres)?;
    for part in operator.parts("pooler") {
        part.signal(Signal::KILL);
    }
    inbox.wait_for("the end", LONG, |text| {
        text.contains("the tier is UP again")
    })?;
    let texts = inbox.texts();
    let first = &texts[0];
    ensure!(
        first.contains("the tier is DOWN, nothing serves")
            && first.contains("pooler-0 is DOWN")
            && first.contains("pooler-2 is DOWN"),
        "the first: {texts:?}"
    );
    ensure!(texts.len() == 2, "the beginning and the end: {texts:?}");
    Ok(())
}

#[test]
fn postgresql_that_is_away_is_one_message_and_not_one_for_each_pooler() -> Result<()> {
    let (mut postgres, inbox) = (Postgres::start()?, Inbox::start()?);
    let operator = tier(&example()?, &inbox, &postgres)?;
    postgres.kill9();
    let gone = inbox.wait_for("the message", LONG, |text| {
        text.contains("PostgreSQL is UNREACHABLE")
    })?;
    ensure!(gone.text().contains("3 of 3 poolers"), "{}", gone.text());
    postgres.start_again()?;
    inbox.wait_for("its end", LONG, |text| {
        text.contains("PostgreSQL is reachable again after")
    })?;
    let texts = inbox.messages();
    ensure!(texts.len() == 2, "the beginning and the end: {texts:?}");
    drop(operator);
    Ok(())
}

#[test]
fn clients_that_wait_too_long_are_one_message() -> Result<()> {
    let (postgres, inbox) = (Postgres::start()?, Inbox::start()?);
    // One server in each pooler; the clients are plain sockets.
    let manifest = example()?
        .replace("type: scram-sha-256", "type: trust")
        .replace("defaultPoolSize: 70", "defaultPoolSize: 1")
        .replace(
            "      admin_users:",
            "      saturation_wait: 1\n      admin_users:",
        );
    let operator = tier(&manifest, &inbox, &postgres)?;
    // As many again as can be served: whichever pooler they come to, some wait.
    let clients = (0..2 * operator.parts("pooler").len()).map(|_| {
        let mut client = Raw::connect(operator.service(), "app", "shop")?;
        client.send(&proxy_core::wire::query("BEGIN"))?;
        Ok(client)
    });
    let clients = clients.collect::<Result<Vec<Raw>>>()?;
    let full = inbox.wait_for("the message", LONG, |text| {
        text.contains("the tier is SATURATED")
    })?;
    ensure!(
        full.text().contains("poolers let clients wait too long"),
        "{}",
        full.text()
    );
    drop(clients);
    inbox.wait_for("its end", LONG, |text| {
        text.contains("the tier has capacity again after")
    })?;
    let texts = inbox.texts();
    ensure!(texts.len() == 2, "the beginning and the end: {texts:?}");
    Ok(())
}

#[test]
fn a_bot_tells_the_story_in_a_thread_and_keeps_its_first_message_true() -> Result<()> {
    let (postgres, inbox) = (Postgres::start()?, Inbox::start()?);
    let bot = format!(
        "botTokenSecretRef: {{name: slack, key: token}}\n        channel: \"#ops\"\n        apiUrl: \"{}\"",
        inbox.api_url()
    );
    let operator = tier(&example()?.replace(WEBHOOK, &bot), &inbox, &postgres)?;
    operator.part("pooler-1")?.signal(Signal::KILL);
    let over = inbox.wait_for("the last edit", LONG, |text| text.contains("over after"))?;
    let messages = inbox.messages();
    let root = &messages[0];
    ensure!(
        root.method() == Some("chat.postMessage")
            && root.body["channel"] == "#ops"
            && root.body["thread_ts"].is_null()
            && root.text().contains("pooler-1 is DOWN"),
        "{root:?}"
    );
    ensure!(
        over.method() == Some("chat.update") && over.body["ts"] == "1700000000.000000",
        "{over:?}"
    );
    let mut answers = messages
        .iter()
        .filter(|message| message.body["thread_ts"] == "1700000000.000000");
    ensure!(
        answers.any(|answer| answer.text().contains("pooler-1 is UP again")),
        "{messages:?}"
    );
    ensure!(
        !operator.log().contains(inbox.secret()),
        "the token is in the log"
    );
    Ok(())
}

/// The message arrived, the operator cannot know: it comes once more, marked.
#[test]
fn an_answer_that_breaks_off_is_one_marked_repeat() -> Result<()> {
    let (postgres, inbox) = (Postgres::start()?, Inbox::start()?);
    let operator = tier(&example()?, &inbox, &postgres)?;
    inbox.answer(Answer::Close);
    let victim = operator.part("pooler-0")?;
    victim.signal(Signal::STOP);
    inbox.wait_for("the message", LONG, |text| {
        text.contains("pooler-0 is DOWN")
    })?;
    inbox.answer(Answer::Ok);
    inbox.wait_for("the repeat", LONG, |text| {
        text.contains("possibly repeated")
    })?;
    victim.signal(Signal::CONT);
    inbox.wait_for("the UP message", LONG, |text| {
        text.contains("pooler-0 is UP again")
    })?;
    let texts = inbox.texts();
    let marked = |text: &&String| text.contains("possibly repeated");
    let unmarked = texts.iter().filter(|text| !marked(text)).count();
    ensure!(unmarked == 2, "DOWN and UP, each once: {texts:?}");
    Ok(())
}

/// A refusal is for good, and the other channel says so.
#[test]
fn a_bot_that_is_refused_is_told_of_on_the_other_channel() -> Result<()> {
    let (postgres, inbox) = (Postgres::start()?, Inbox::start()?);
    let refusing = Inbox::start()?;
    refusing.answer(Answer::ApiError("is_archived"));
    let second = format!(
        "{WEBHOOK}\n    - name: archived\n      slack:\n        botTokenSecretRef: {{name: slack, key: token}}\n        channel: C1\n        apiUrl: \"{}\"",
        refusing.api_url()
    );
    let operator = tier(&example()?.replace(WEBHOOK, &second), &inbox, &postgres)?;
    operator.part("pooler-0")?.signal(Signal::KILL);
    inbox.wait_for("the word of Slack", LONG, |text| {
        text.contains("notifications to archived do NOT ARRIVE") && text.contains("is_archived")
    })?;
    inbox.wait_for("the end of the outage", LONG, |text| {
        text.contains("pooler-0 is UP again")
    })?;
    ensure!(refusing.attempts().len() == 1, "a refusal was not believed");
    Ok(())
}

fn notify_test(manifest: &str) -> Result<(Option<i32>, String)> {
    let dir = Scratch::new()?;
    let file = dir.write("manifest.yaml", manifest)?;
    let output = Command::new(binaries::ours("operator")?)
        .args(["notify-test", "-f"])
        .arg(file)
        .output()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((output.status.code(), text))
}

#[test]
fn a_test_message_reaches_each_kind_of_channel_or_says_why_not() -> Result<()> {
    let inbox = Inbox::start()?;
    let manifest = format!(
        "apiVersion: poolkeeper.dev/v1alpha1
kind: PgPoolCluster
metadata: {{name: shop}}
spec:
  upstream: {{address: {{host: db}}}}
  auth: {{userlistSecretRef: {{name: users}}}}
  notifications:
  - {{name: hook, slack: {{webhookUrlSecretRef: {{name: users, key: url}}}}}}
  - {{name: bot, slack: {{botTokenSecretRef: {{name: users, key: token}}, channel: C1, apiUrl: \"{}\"}}}}
  - {{name: own, webhook: {{urlSecretRef: {{name: users, key: own}}, signingKeySecretRef: {{name: users, key: token}}}}}}
  - {{name: am, alertmanager: {{url: \"{}/am\"}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: users}}
stringData:
  userlist.txt: |
    \"app\" \"change-me\"
  url: {}
  own: {}/own
  token: {}
",
        inbox.api_url(),
        inbox.root_url(),
        inbox.url(),
        inbox.root_url(),
        inbox.secret(),
    );
    let (code, output) = notify_test(&manifest)?;
    ensure!(code == Some(0), "{code:?}: {output}");
    for line in [
        "hook (slackWebhook): delivered",
        "bot (slackBot): delivered",
        "own (webhook): delivered",
        "am (alertmanager): delivered",
    ] {
        ensure!(output.contains(line), "{line}: {output}");
    }
    let messages = inbox.messages();
    let posted = |path: &str| {
        let found = messages.iter().find(|message| message.path.ends_with(path));
        found.with_context(|| format!("nothing was posted to {path}: {messages:?}"))
    };
    ensure!(posted("/chat.postMessage")?.text().contains("test message"));
    let own = posted("/own")?;
    ensure!(own.body["message"]["title"] == "shop: test message to own");
    ensure!(own.headers["poolkeeper-signature"].starts_with("v1="));
    ensure!(!own.headers["poolkeeper-timestamp"].is_empty());
    let alert = &posted("/am/api/v2/alerts")?.body[0];
    ensure!(alert["labels"]["alertname"] == "PoolkeeperTest", "{alert}");

    inbox.answer(Answer::Status(410));
    let (code, output) = notify_test(&manifest)?;
    ensure!(code == Some(1), "{code:?}: {output}");
    ensure!(output.contains("refused: HTTP 410"), "{output}");
    ensure!(!output.contains(inbox.secret()), "{output}");
    inbox.answer(Answer::Garbage);
    let (_, output) = notify_test(&manifest)?;
    ensure!(
        output.contains("bot (slackBot): unclear: answered something that is not Slack's"),
        "{output}"
    );
    wait::until_true("all attempts to be counted", LONG, || {
        inbox.attempts().len() == 12
    })?;
    Ok(())
}
