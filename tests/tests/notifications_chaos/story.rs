//! What was told, as a person understands it who reads everything and trusts it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tests::Message;

use crate::truth::{ENDPOINTS, Truth};

/// What was told of one subject.
#[derive(Clone, Debug, Default)]
struct Told {
    /// How often it was out of service.
    times: u32,
    /// Whether it was, when it was told last.
    is_bad: bool,
    flapped: bool,
    at: Option<Timestamp>,
}

/// Everything that was told.
#[derive(Debug, Default)]
pub(crate) struct Story {
    endpoints: BTreeMap<String, Told>,
    /// When the tier was told to be down, and by which kind.
    tier_down: Vec<(SystemTime, String)>,
    tier_is_bad: bool,
    /// Other things that were told, and whether they were wrong when last told.
    others: BTreeMap<String, bool>,
    messages: usize,
    repeats: usize,
    /// Last line of Slack's text that names an endpoint.
    last_words: BTreeMap<&'static str, String>,
}

impl Story {
    /// Reads what came as JSON, and as texts for people.
    pub(crate) fn read(messages: &[Message], texts: &[String]) -> Result<Self> {
        let mut story = Self::default();
        let mut seen: BTreeMap<String, Value> = BTreeMap::new();
        let mut told_upto = 0;
        for message in messages {
            let (body, items) = (&message.body["message"], &message.body["items"]);
            ensure!(body["form"] == "News", "what is this for? {body}");
            let id = body["id"].as_str().context("no id")?;
            if let Some(before) = seen.insert(id.to_owned(), items.clone()) {
                ensure!(
                    body["possiblyRepeated"] == true,
                    "an unmarked repeat: {body}"
                );
                ensure!(before == *items, "a repeat that differs: {before}, {items}");
                story.repeats += 1;
                continue;
            }
            let (after, upto) = id.split_once('-').context("an id is a range")?;
            let (after, upto): (u64, u64) = (after.parse()?, upto.parse()?);
            ensure!(after >= told_upto && upto > after, "out of order: {body}");
            told_upto = upto;
            story.messages += 1;
            for item in items.as_array().context("no items")? {
                story.item(item)?;
            }
        }
        story.read_texts(texts)?;
        Ok(story)
    }

    fn item(&mut self, item: &Value) -> Result<()> {
        let word = |field: &str| item[field].as_str().unwrap_or_default();
        let what = word("what");
        let is_bad = matches!(what, "Began" | "Again" | "Flapping" | "SteadyDown");
        let since: Timestamp = word("since").parse()?;
        match word("event") {
            "EndpointDown" | "EndpointRestarted" => {
                let told = self
                    .endpoints
                    .entry(word("subject").to_owned())
                    .or_default();
                let times = item["times"].as_u64().context("no times")?;
                told.times += u32::try_from(times)?;
                told.flapped |= what.starts_with("Steady");
                told.is_bad = is_bad;
                let at: Timestamp = word("at").parse()?;
                // What was told before time passed is not older for it, what is
                // remembered is.
                let in_order = told.at.is_none_or(|before| {
                    at >= before || before.duration_since(at) > SignedDuration::from_mins(5)
                });
                ensure!(
                    in_order && since <= at,
                    "told in another order than it happened: {item}"
                );
                told.at = Some(at);
            }
            "TierDown" => {
                self.tier_down
                    .push((since.into(), word("reason").to_owned()));
                self.tier_is_bad = is_bad;
            }
            event => {
                let other = format!("{event} {}", word("subject"));
                self.others.insert(other, is_bad);
            }
        }
        Ok(())
    }

    /// The same in words.
    fn read_texts(&mut self, texts: &[String]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for text in texts {
            // The same moment is never told twice in the same words.
            let first = seen.insert(text.as_str());
            let marked = text.ends_with("(possibly repeated)");
            ensure!(first || marked, "an unmarked repeat: {text}");
            for name in ENDPOINTS {
                let mut lines = text.lines().filter(|line| line.contains(name));
                // The story of several is below their title.
                if let Some(line) = lines.next_back() {
                    self.last_words.insert(name, line.to_owned());
                }
            }
        }
        Ok(())
    }

    /// Compares with what happened.
    pub(crate) fn check(&self, truth: &Truth, account: &str) -> Result<()> {
        self.compare(truth)
            .with_context(|| format!("{self:#?}\n{truth}\n{account}"))
    }

    fn compare(&self, truth: &Truth) -> Result<()> {
        for name in ENDPOINTS {
            let told = self.endpoints.get(name).cloned().unwrap_or_default();
            let suffered = truth.of(name);
            let (least, most) = (suffered.surely, suffered.surely + suffered.perhaps);
            ensure!(
                (least..=most).contains(&told.times),
                "{name} was out of service {least} to {most} times, {} were told",
                told.times
            );
            ensure!(!told.is_bad, "{name} is well, and its last word is not");
            ensure!(
                told.times < 8 || told.flapped,
                "{name} came and went {} times and was never told to be steady",
                told.times
            );
            match self.last_words.get(name) {
                Some(line) => ensure!(
                    ["UP again", "RESTARTED"]
                        .iter()
                        .any(|word| line.contains(word)),
                    "{name} is well, and the last that people read is: {line}"
                ),
                None => ensure!(least == 0, "people read nothing of {name}"),
            }
        }
        for (since, reason) in &self.tier_down {
            let kind = ["pooler", "balancer"]
                .into_iter()
                .find(|kind| reason.contains(kind))
                .with_context(|| format!("of which kind? {reason}"))?;
            ensure!(
                truth.was_all_unwell(kind, *since),
                "the tier was told to be down at {since:?}, and a {kind} was well"
            );
        }
        ensure!(
            !self.tier_is_bad,
            "the tier is well, and its last word is not"
        );
        for (other, is_bad) in &self.others {
            ensure!(
                other.starts_with("NotificationsFailing") && !is_bad,
                "nothing of this happened: {other}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages, {} marked repeats",
            self.messages, self.repeats
        )?;
        for (name, told) in &self.endpoints {
            write!(f, ", {name} {}", told.times)?;
            if told.flapped {
                f.write_str(" (flapped)")?;
            }
        }
        write!(f, ", tier down {} times", self.tier_down.len())
    }
}
