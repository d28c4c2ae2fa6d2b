//! A message in parts that every channel can show, and the words of it.

mod words;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use serde::Serialize;

use super::{Count, Entry, Form, Key, Open, Post, What};
use crate::api::{Component, NotificationEvent, Severity};
use words::{clause, headline, line, rank};
pub(super) use words::{list, name};

/// A message that is told later than this, not on purpose, says so.
const LATE_AFTER: Duration = Duration::from_secs(30);

/// What a message says beside what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Name of the cluster.
    pub cluster: String,
    /// Where to look further: what it is, and its URL or path.
    pub links: Vec<(String, String)>,
}

/// How a message looks at first sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Mark {
    /// All is well again.
    Good,
    /// Worth knowing, and over.
    Notice,
    /// Something comes and goes.
    Unsteady,
    /// Something is wrong.
    Bad,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The same for a repeated message, and for no other of the channel.
    pub id: String,
    /// What it is for.
    pub form: Form,
    /// How it looks.
    pub mark: Mark,
    /// The severity of the worst that it tells of.
    pub severity: Severity,
    /// The gist: a sentence without its full stop.
    pub title: String,
    /// The title and all else that matters, as plain text of a line or more.
    pub text: String,
    /// Labels and sentences.
    pub facts: Vec<(String, String)>,
    /// What happened, a line for each subject, if there are several.
    pub story: Vec<String>,
    /// When it happened.
    pub at: Timestamp,
    /// Sentences about the message itself.
    pub remarks: Vec<String>,
    /// Where to look further.
    pub links: Vec<(String, String)>,
    /// It may have been posted already.
    pub possibly_repeated: bool,
}

impl Message {
    /// The message that a post means.
    #[must_use]
    pub fn new(post: &Post, context: &Context, now: Timestamp) -> Self {
        let told = Told::new(post);
        let severity = told.severity();
        let mark = told.mark();
        let title = format!("{}: {}", context.cluster, told.title(post, now));
        let (facts, story) = match told.items.as_slice() {
            [item] if post.form != Form::Edit => (words::facts(item), Vec::new()),
            items => (told.counts(), items.iter().map(line).collect()),
        };
        let mut text = match told.items.as_slice() {
            [item] if post.form == Form::News => format!("{title}{}", words::rest(item)),
            [item] if post.form != Form::Edit => format!("{title}{}", words::still(item)),
            _ => std::iter::once(title.clone())
                .chain(story.iter().map(|line| format!("• {line}")))
                .chain(told.counts().into_iter().map(|(_, count)| count))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        let remarks = remarks(post, &told, now);
        if post.possibly_repeated {
            text.push_str(" (possibly repeated)");
        }
        Self {
            id: format!("{}-{}", post.after, post.upto),
            form: post.form,
            mark,
            severity,
            title,
            text,
            facts,
            story,
            at: told.at().unwrap_or(now),
            remarks,
            links: [post.links.as_slice(), &context.links].concat(),
            possibly_repeated: post.possibly_repeated,
        }
    }

    /// A message that says nothing but that messages arrive.
    #[must_use]
    pub fn test(context: &Context, channel: &str, now: Timestamp) -> Self {
        let title = format!("{}: test message to {channel}", context.cluster);
        Self {
            id: "test".to_owned(),
            form: Form::Present,
            mark: Mark::Good,
            severity: Severity::Info,
            text: format!("{title}. Messages about {} arrive here", context.cluster),
            title,
            facts: vec![(
                "Means".to_owned(),
                format!("messages about {} arrive here", context.cluster),
            )],
            story: Vec::new(),
            at: now,
            remarks: Vec::new(),
            links: context.links.clone(),
            possibly_repeated: false,
        }
    }
}

/// What a message is about: news, or how things are.
struct Told {
    items: Vec<Entry>,
}

impl Told {
    fn new(post: &Post) -> Self {
        let mut items = match post.form {
            Form::News => post.items.clone(),
            Form::Present | Form::Reminder | Form::Edit => post.open.iter().map(present).collect(),
        };
        items.sort_by_key(|item| (rank(item), item.sequence));
        Self { items }
    }

    /// Of the worst thing; news that are good are of no severity.
    fn severity(&self) -> Severity {
        let bad = self.items.iter().filter(|item| item.what.is_bad());
        let severities = bad.map(|item| item.event().severity());
        severities.max().unwrap_or(Severity::Info)
    }

    fn mark(&self) -> Mark {
        let marks = self.items.iter().map(|item| match item.what {
            What::Began | What::Again | What::SteadyDown => Mark::Bad,
            What::Flapping => Mark::Unsteady,
            What::Restarted => Mark::Notice,
            What::Ended | What::Passed | What::SteadyUp | What::Removed => Mark::Good,
        });
        marks.max().unwrap_or(Mark::Good)
    }

    fn title(&self, post: &Post, now: Timestamp) -> String {
        let clauses = || clauses(&self.items, post.form == Form::Reminder);
        match (post.form, self.items.as_slice(), &post.root) {
            (Form::News, [item], _) => headline(item),
            (Form::News, ..) => clauses(),
            (Form::Edit, [], Some(root)) => format!(
                "over after {}: {}",
                words::span(root.until.unwrap_or(now).duration_since(root.since)),
                root.about
            ),
            (_, [], _) => "nothing is out of order".to_owned(),
            (Form::Reminder, [item], _) => format!(
                "{} for {}",
                clauses(),
                words::span(now.duration_since(item.since))
            ),
            _ => clauses(),
        }
    }

    /// When the first of it happened.
    fn at(&self) -> Option<Timestamp> {
        self.items.first().map(|item| item.at)
    }

    /// How many are up of each kind, as it was known last.
    fn counts(&self) -> Vec<(String, String)> {
        Component::ALL
            .into_iter()
            .filter_map(|component| {
                let of_kind = self.items.iter().filter_map(|item| {
                    let count = item.count.filter(|count| count.of == component)?;
                    Some((item.sequence, count))
                });
                let (_, count) = of_kind.max_by_key(|(sequence, _)| *sequence)?;
                Some((capitalised(kinds(component)), up(count)))
            })
            .collect()
    }
}

/// What is wrong now, as if it had begun just now.
fn present(open: &Open) -> Entry {
    let alert = &open.alert;
    Entry {
        sequence: open.sequence,
        key: alert.key.clone(),
        what: match open.flaps {
            true => What::Flapping,
            false => What::Began,
        },
        at: alert.since,
        since: alert.since,
        reason: alert.reason.clone(),
        count: alert.count,
        times: 1,
        lasted_ms: 0,
    }
}

/// One clause for all subjects to which the same happened, worst first.
fn clauses(items: &[Entry], still: bool) -> String {
    let mut groups: Vec<(&Entry, Vec<String>)> = Vec::new();
    let subsumed = items
        .iter()
        .any(|item| item.what.is_bad() && item.key.event.subsumes_endpoints());
    for item in items {
        // What goes without saying is for the story.
        if subsumed && item.key.event == NotificationEvent::EndpointDown {
            continue;
        }
        let same = |(first, _): &&mut (&Entry, Vec<String>)| {
            first.key.event == item.key.event && words::class(first.what) == words::class(item.what)
        };
        match groups.iter_mut().find(same) {
            Some((_, names)) => names.push(name(&item.key)),
            None => groups.push((item, vec![name(&item.key)])),
        }
    }
    let clauses: Vec<String> = groups
        .iter()
        .map(|(first, names)| clause(first, names, still))
        .collect();
    clauses.join("; ")
}

fn remarks(post: &Post, told: &Told, now: Timestamp) -> Vec<String> {
    let mut remarks = Vec::new();
    if post.possibly_repeated {
        remarks.push(
            "possibly repeated: it is not known whether an earlier attempt arrived".to_owned(),
        );
    }
    let late = LATE_AFTER.saturating_add(post.patience);
    // What was held back on purpose is not late; the gist is what counts.
    let age = told.at().map(|at| now.duration_since(at));
    if post.form == Form::News
        && let Some(age) = age.filter(|age| age.unsigned_abs() > late && age.is_positive())
    {
        remarks.push(format!("told late, {} after it happened", words::span(age)));
    }
    if post.form == Form::Edit {
        remarks.push("what happened is in the thread".to_owned());
    }
    if post.form == Form::Present {
        remarks.push("this is how things are now; what was before is not told here".to_owned());
    }
    if post.untracked > 0 {
        remarks.push(format!("{} more are out of service", post.untracked));
    }
    remarks
}

/// `2 of 3 poolers are up`.
fn up(count: Count) -> String {
    let Count { of, up, total } = count;
    let are = if up == 1 { "is" } else { "are" };
    format!("{up} of {total} {} {are} up", kinds(of))
}

const fn kinds(component: Component) -> &'static str {
    match component {
        Component::Pooler => "poolers",
        Component::Balancer => "balancers",
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

/// To the second.
fn second(at: Timestamp) -> Timestamp {
    at.round(Unit::Second).unwrap_or(at)
}

/// A duration kept in milliseconds.
const fn milliseconds(lasted_ms: i64) -> SignedDuration {
    SignedDuration::from_millis(lasted_ms)
}

impl Key {
    /// What it is about, for people: `pooler-1`, `the tier`, `PostgreSQL`.
    #[must_use]
    pub fn name(&self) -> String {
        name(self)
    }
}
