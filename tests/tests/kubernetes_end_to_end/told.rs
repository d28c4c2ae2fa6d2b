//! What people are told of all this.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::world::{LIMIT, SYSTEM, World};

/// From now on messages arrive: the chart trusts another authority, and lets
/// another host be posted to.
pub(crate) fn test(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let authority = world.inbox.authority().display();
    world.kubectl(&format!(
        "create configmap authority --namespace {SYSTEM} --from-file=ca.crt={authority}"
    ))?;
    let hosts = format!("webhookHosts={{{},hooks.slack.com}}", world.node.machine());
    let trusted = "trustedCertificates.configMap.name=authority";
    world.upgrade(&["--set", &hosts, "--set", trusted])?;
    let secret = json!({"stringData": {"url": world.inbox.url()?}}).to_string();
    let patch = ["patch", "secret", "slack", "--type=merge", "-p", &secret];
    world.node.kubectl(&patch)?;
    world.condition("NotificationsDelivered", "True Delivered")?;
    world.kubectl("annotate pgpc shop --overwrite poolkeeper.dev/notify-test=1")?;
    wait_for(world, "default/shop: test message to ops")?;
    world.settled(3)?;
    ensure!(world.all_pods()? == before, "Pods were replaced");
    Ok(())
}

/// From the test message on. PostgreSQL comes up beside the poolers: they may have
/// found it away before, and then that was told, rightly, and nothing else.
fn since_the_test(world: &World) -> Result<Vec<String>> {
    let mut before = world.inbox.inbox.texts();
    let test = before
        .iter()
        .position(|text| text.contains("test message to ops"));
    let since = before.split_off(test.context("no test message")?);
    ensure!(
        before.iter().all(|text| text.contains("PostgreSQL")),
        "{before:?}"
    );
    Ok(since)
}

/// Passwords, settings, scaling, a rolling restart, a node's drain, a pause: nobody
/// is told.
pub(crate) fn nothing(world: &mut World) -> Result<()> {
    let texts = since_the_test(world)?;
    ensure!(texts.len() == 1, "more than the test message: {texts:?}");
    Ok(())
}

/// Two poolers died, and PostgreSQL was away.
pub(crate) fn each_once(world: &mut World) -> Result<()> {
    let texts = since_the_test(world)?;
    let count = |what: &str| texts.iter().filter(|text| text.contains(what)).count();
    ensure!(
        texts.len() == 7
            && count(" is DOWN since") == 2
            && count(" is UP again after") == 2
            && count("PostgreSQL is UNREACHABLE") == 1
            && count("PostgreSQL is reachable again") == 1,
        "{texts:#?}"
    );
    Ok(())
}

/// When the message with this text came.
pub(crate) fn wait_for(world: &World, text: &str) -> Result<Instant> {
    let inbox = &world.inbox.inbox;
    let found = inbox.wait_for(text, LIMIT, |one| one.contains(text));
    found.map(|message| message.at).context("nobody is told")
}
