//! The chart's rules for Prometheus, tried by Prometheus's own tool.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

const RULES: &str = "charts/poolkeeper/files/alerts.yaml";
/// When each fires, and when it does not.
const CASES: &str = "charts/tests/alerts.yaml";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(root().join(file)).with_context(|| format!("cannot read {file}"))
}

fn promtool(arguments: &[&str]) -> Result<()> {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(root())
        .output()
        .context("promtool does not start: it is of Debian's package prometheus")?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "promtool {}: {}{}",
        arguments.join(" "),
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(())
}

#[test]
fn each_rule_fires_when_it_should_and_only_then() -> Result<()> {
    promtool(&["check", "rules", RULES])?;
    promtool(&["test", "rules", CASES])
}

/// What follows a word on its line, of each line that has it.
fn after<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let lines = text.lines();
    lines
        .filter_map(|line| Some(line.split_once(word)?.1.trim()))
        .collect()
}

#[test]
fn each_rule_is_tried_both_ways() -> Result<()> {
    let (rules, cases) = (read(RULES)?, read(CASES)?);
    let rules: BTreeSet<&str> = after(&rules, "- alert: ").into_iter().collect();
    ensure!(!rules.is_empty(), "there are no rules");
    let cases = after(&cases, "alertname: ");
    let silent = |name: &str| format!("{name}, exp_alerts: []}}");
    for name in &rules {
        ensure!(cases.contains(name), "{name} is not seen to fire");
        ensure!(
            cases.contains(&silent(name).as_str()),
            "{name} is not seen to be silent"
        );
    }
    Ok(())
}

/// Each has a rule, or a line that says why not; and no rule stands for another.
#[test]
fn each_event_that_people_are_told_of_has_a_rule_or_a_reason() -> Result<()> {
    let crd = read("crds/poolkeeper.dev_pgpoolclusters.yaml")?;
    let (_, events) = crd
        .split_once("                    events:\n")
        .context("the CRD has no events")?;
    let (_, events) = events.split_once("enum:\n").context("they have no enum")?;
    let events: BTreeSet<&str> = events
        .lines()
        .map_while(|line| line.trim().strip_prefix("- "))
        .collect();
    ensure!(events.contains("TierDown"), "these are others: {events:?}");
    let rules = read(RULES)?;
    let ruled: BTreeSet<&str> = after(&rules, ", event: ")
        .into_iter()
        .map(|event| event.trim_end_matches('}'))
        .collect();
    let reasoned: BTreeSet<&str> = after(&rules, "# ")
        .into_iter()
        .filter_map(|line| Some(line.split_once(": ")?.0))
        .filter(|event| events.contains(event))
        .collect();
    let told: BTreeSet<&str> = ruled.union(&reasoned).copied().collect();
    ensure!(
        told == events,
        "only in the rules: {:?}, without a rule or a reason: {:?}",
        told.difference(&events).collect::<Vec<_>>(),
        events.difference(&told).collect::<Vec<_>>()
    );
    let both: Vec<_> = ruled.intersection(&reasoned).collect();
    ensure!(both.is_empty(), "a rule and a reason why not: {both:?}");
    Ok(())
}
