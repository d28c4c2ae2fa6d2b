//! Events: what `kubectl describe` shows of a cluster's story.

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Resource as _,
    runtime::events::{Event, EventType, Recorder},
};

use super::{Cluster, client, error::CallResult, fence::Fence, memory::Memory, reconcile::Look};
use crate::{
    api::PgPoolClusterStatus,
    controller::status::event,
    endpoints::{Change, Outage},
    notify_test::Tested,
};

/// How much of a note is kept, in bytes: the API takes no more.
const NOTE_LENGTH_MAX: usize = 1_024;
/// Changes of endpoints that one look records; what changes together is the
/// condition's to tell.
const CHANGES_MAX: usize = 8;

/// An Event to be.
struct Note {
    type_: EventType,
    reason: String,
    text: String,
    action: &'static str,
}

impl Note {
    fn of(event: &event::Event, text: String) -> Self {
        Self {
            type_: match event.type_ {
                event::EventType::Normal => EventType::Normal,
                event::EventType::Warning => EventType::Warning,
            },
            reason: event.reason.to_owned(),
            text,
            action: event.action,
        }
    }
}

impl Look<'_> {
    /// An Event when something stalls, and when it goes on.
    pub(super) async fn record_stall(
        &self,
        status: &PgPoolClusterStatus,
        cluster: &Cluster,
        memory: &mut Memory,
    ) {
        let Some(stalled) = stalled(status) else {
            return;
        };
        let now = reason_of(stalled);
        if memory.told.is_none() {
            // A former leader told of what it wrote.
            let before = memory.status_before(cluster);
            memory.told = Some(self::stalled(&before).and_then(reason_of));
        }
        if memory.told.as_ref() == Some(&now) {
            return;
        }
        let note = match &now {
            Some(reason) => {
                let mut conditions = status.conditions.iter();
                let valid = conditions.find(|one| one.type_ == "ConfigValid");
                let text = valid
                    .filter(|valid| valid.status == "False")
                    .map_or(&stalled.message, |valid| &valid.message);
                Note {
                    type_: EventType::Warning,
                    reason: reason.clone(),
                    text: text.clone(),
                    action: "Reconcile",
                }
            }
            None => Note::of(&event::RESUMED, "what was in the way is gone".to_owned()),
        };
        match self.record(cluster, note).await {
            Ok(()) => memory.told = Some(now),
            Err(error) => tracing::debug!(%error, "no Event"),
        }
    }

    /// Events of endpoints that went out of service, are back, or restarted.
    pub(super) async fn record_outages(&self, cluster: &Cluster, changes: &[Change]) {
        let outages = changes.iter().filter_map(outage);
        for note in outages.take(CHANGES_MAX) {
            if let Err(error) = self.record(cluster, note).await {
                tracing::debug!(%error, "no Event");
            }
        }
    }

    async fn record(&self, cluster: &Cluster, note: Note) -> CallResult<()> {
        let recorder = &self.context.recorder;
        record(recorder, &self.context.fence, &reference(cluster), note).await
    }
}

/// Events of what came of test messages.
pub(super) async fn record_tests(
    recorder: &Recorder,
    fence: &Fence,
    reference: &ObjectReference,
    tests: &[Tested],
) {
    for test in tests {
        let event = match test.arrived() {
            true => event::TEST_DELIVERED,
            false => event::TEST_NOT_DELIVERED,
        };
        let note = Note::of(&event, test.to_string());
        if let Err(error) = record(recorder, fence, reference, note).await {
            tracing::debug!(%error, "no Event");
        }
    }
}

/// What an Event of a cluster is about.
pub(super) fn reference(cluster: &Cluster) -> ObjectReference {
    let mut reference = cluster.object_ref(&());
    reference.kind = Some(crate::api::KIND.to_owned());
    reference
}

async fn record(
    recorder: &Recorder,
    fence: &Fence,
    reference: &ObjectReference,
    note: Note,
) -> CallResult<()> {
    let mut text = note.text;
    text.truncate(text.floor_char_boundary(NOTE_LENGTH_MAX));
    let event = Event {
        type_: note.type_,
        reason: note.reason,
        note: Some(text),
        action: note.action.to_owned(),
        secondary: None,
    };
    let publish = recorder.publish(&event, reference);
    client::write(fence, "record an Event", publish).await
}

fn outage(change: &Change) -> Option<Note> {
    let (event, happened) = match change.outage {
        Outage::None => return None,
        Outage::Begins => (event::DOWN, "is down"),
        Outage::Ends { .. } => (event::UP, "is up again"),
        Outage::Restarted => (event::RESTARTED, "restarted"),
    };
    let Change {
        reason: why,
        up,
        total,
        ..
    } = change;
    let kind = change.id.component.word();
    let name = &change.name;
    let text = format!("{name} {happened}: {why}; {up} of {total} {kind}s are up");
    Some(Note::of(&event, text))
}

fn stalled(status: &PgPoolClusterStatus) -> Option<&Condition> {
    status.conditions.iter().find(|one| one.type_ == "Stalled")
}

/// Why it stalls, if it does.
fn reason_of(stalled: &Condition) -> Option<String> {
    (stalled.status == "True").then(|| stalled.reason.clone())
}
