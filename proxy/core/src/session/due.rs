//! What a server still owes: one entry for each request sent to it whose
//! answer has not come, in order.
//!
//! Requests that we answer ourselves (a Parse of a statement that the server
//! has already) have entries too, so that the answer appears in its place.
//!
//! What is known of names and statements is known as if every request
//! succeeded. Within a batch that is right whatever happens, because an error
//! skips the rest of it; a later batch may be sent before an error is known, so
//! what depends on names waits there while [`DueQueue::unsettled`].

use std::{collections::VecDeque, sync::Arc};

use crate::{
    sabotage::{Sabotage, sabotaged},
    statement::Statement,
};

/// A request whose answer is due.
#[derive(Debug)]
pub(super) enum Due {
    /// Query, until its ReadyForQuery.
    Query,
    /// A Query that may drop every statement (DISCARD, DEALLOCATE), until its
    /// ReadyForQuery.
    Forgets,
    /// The client's `DEALLOCATE name`, sent as UNLISTEN of a channel that
    /// nobody has, which does nothing but fails in a failed transaction. The
    /// server keeps the statement: other names may stand for it.
    Deallocate { name: Box<[u8]> },
    /// FunctionCall, until its ReadyForQuery.
    FunctionCall,
    /// A Query of ours (SET, checks, reset), until its ReadyForQuery; the
    /// client sees nothing of it.
    Ours,
    /// Sync, until its ReadyForQuery.
    Sync,
    /// A Sync that the server ignores if it reads it while it copies in, and
    /// answers if the copy has failed by then. Success of the copy tells, its
    /// failure does not.
    SyncInCopy,
    /// A Close of ours of a portal that nobody has, sent after Syncs that may
    /// be [`Due::SyncInCopy`]: its answer tells that no more of theirs will come.
    Fence,
    /// A client's Parse under a name, forwarded; or any where names are not followed.
    Parse(Option<Box<Naming>>),
    /// A client's Parse of the unnamed statement, forwarded. Holds the definition
    /// of the one before, which stays if this one is skipped.
    ParseUnnamed(Option<Box<[u8]>>),
    /// A Parse of ours that gives a server the unnamed statement of its client.
    ParseUnnamedOurs,
    /// A Parse of ours that teaches the server a statement.
    ParseOurs(Arc<Statement>),
    /// A client's Parse that we answer.
    ParseAnswered(Box<Naming>),
    /// A client's Parse of a statement that the server has, sent under the
    /// scratch name to see whether it may be parsed now. `None` where the
    /// client's name is taken: its success is no news to the client.
    ParseScratch(Option<Box<Naming>>),
    /// Bind.
    Bind,
    /// Describe.
    Describe,
    /// Describe of the unnamed statement, whose parameters are noted.
    DescribeUnnamed,
    /// Execute.
    Execute,
    /// A client's Close, forwarded (portals, the unnamed statement).
    Close,
    /// A Close of ours that makes room on the server.
    CloseOurs(Arc<Statement>),
    /// A Close of the scratch name.
    CloseScratch,
    /// A client's Close of a named statement, which we answer.
    CloseAnswered(Option<Box<Naming>>),
    /// CopyDone or CopyFail, sent before the server said that it copies in:
    /// has no answer of its own, but Syncs before it are ignored.
    CopyEnd,
    /// A request that must fail: the server is made to raise an error, in whose
    /// place the client gets this message.
    Refuse(Box<[u8]>),
}

/// A client's name for a statement changed hands; enough to undo it.
#[derive(Debug)]
pub(super) struct Naming {
    /// The client's name.
    pub(super) name: Box<[u8]>,
    /// The statement it named (Parse) or named no longer (Close).
    pub(super) statement: Arc<Statement>,
}

impl Due {
    /// Whether its answer ends with a ReadyForQuery.
    fn ends_ready(&self) -> bool {
        matches!(
            self,
            Self::Query
                | Self::Forgets
                | Self::Deallocate { .. }
                | Self::FunctionCall
                | Self::Ours
                | Self::Sync
        )
    }

    /// Whether nothing follows from it but its answer.
    #[inline]
    fn is_plain(&self) -> bool {
        matches!(
            self,
            Self::Bind | Self::Describe | Self::DescribeUnnamed | Self::Execute
        )
    }

    /// Whether it is a Parse of the unnamed statement.
    pub(super) fn is_unnamed_parse(&self) -> bool {
        matches!(self, Self::ParseUnnamed(_) | Self::ParseUnnamedOurs)
    }

    /// Whether what is known of names or of the server's statements has to
    /// change if it fails or is skipped.
    fn changes_names(&self) -> bool {
        matches!(
            self,
            Self::Forgets
                | Self::Deallocate { .. }
                | Self::Parse(_)
                | Self::ParseUnnamed(_)
                | Self::ParseUnnamedOurs
                | Self::ParseOurs(_)
                | Self::ParseAnswered(_)
                | Self::ParseScratch(Some(_))
                | Self::CloseOurs(_)
                | Self::CloseAnswered(Some(_))
        )
    }
}

/// The entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct DueQueue {
    entries: VecDeque<Due>,
    /// Entries that end with a ReadyForQuery.
    readies: usize,
    /// Entries that change names...
    changes: usize,
    /// ...and those of them behind the last entry that ends with a ReadyForQuery.
    changes_of_batch: usize,
    /// Whether a Parse of the unnamed statement is among the latter.
    unnamed_in_batch: bool,
    /// Entries of [`Due::SyncInCopy`].
    syncs_in_copy: usize,
    /// Entries of [`Due::Fence`].
    fences: usize,
}

impl DueQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&Due> {
        self.entries.front()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Due> {
        self.entries.iter()
    }

    #[inline]
    pub(super) fn push(&mut self, due: Due) {
        self.count(&due);
        self.entries.push_back(due);
    }

    #[inline]
    fn count(&mut self, due: &Due) {
        // Most entries are nothing that is counted.
        if due.is_plain() {
            return;
        }
        self.syncs_in_copy += usize::from(matches!(due, Due::SyncInCopy));
        self.fences += usize::from(matches!(due, Due::Fence));
        self.changes += usize::from(due.changes_names());
        if due.ends_ready() {
            self.readies += 1;
            self.changes_of_batch = 0;
            self.unnamed_in_batch = false;
        } else {
            self.changes_of_batch += usize::from(due.changes_names());
            self.unnamed_in_batch |= due.is_unnamed_parse();
        }
    }

    fn recount(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        *self = Self::default();
        for due in entries {
            self.push(due);
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Due> {
        let due = self.entries.pop_front()?;
        if self.entries.is_empty() {
            self.unnamed_in_batch = false;
        }
        if due.is_plain() {
            return Some(due);
        }
        self.readies -= usize::from(due.ends_ready());
        self.syncs_in_copy -= usize::from(matches!(due, Due::SyncInCopy));
        self.fences -= usize::from(matches!(due, Due::Fence));
        self.changes -= usize::from(due.changes_names());
        // Those of the last batch are the last to go.
        self.changes_of_batch = self.changes_of_batch.min(self.changes);
        Some(due)
    }

    /// Whether an earlier batch, whose answers have not all come, changes names.
    pub(super) fn unsettled(&self) -> bool {
        self.changes > self.changes_of_batch && !sabotaged(Sabotage::NoSettling)
    }

    /// Whether a Parse of the unnamed statement is part of the present batch.
    pub(super) fn unnamed_in_batch(&self) -> bool {
        self.unnamed_in_batch
    }

    /// What the oldest Parse of the unnamed statement that is due replaces.
    pub(super) fn unnamed_before(&mut self) -> Option<&mut Option<Box<[u8]>>> {
        self.entries.iter_mut().find_map(|due| match due {
            Due::ParseUnnamed(before) => Some(before),
            _ => None,
        })
    }

    /// Whether a ReadyForQuery is due: until it comes, the transaction's state
    /// is unknown.
    pub(super) fn awaits_ready(&self) -> bool {
        self.readies > 0
    }

    /// Whether there are Syncs that may or may not be answered.
    pub(super) fn doubts_syncs(&self) -> bool {
        self.syncs_in_copy > 0
    }

    /// Whether what became of the copy that Syncs were sent into is unknown.
    pub(super) fn copy_goes_on(&self) -> bool {
        self.doubts_syncs() && !matches!(self.front(), Some(Due::SyncInCopy))
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fences > 0
    }

    /// Whether the client, without waiting for the server's word, has just sent
    /// the end of a copy, after the Sync of the batch that may copy in: then
    /// that Sync is in doubt.
    pub(super) fn copies_unasked(&self) -> bool {
        let mut latest = self.entries.iter().rev();
        matches!(latest.next(), Some(Due::CopyEnd))
            && matches!(latest.next(), Some(Due::Sync))
            && matches!(latest.next(), Some(Due::Execute))
    }

    /// Whether the oldest entry is part of an extended-protocol batch, which
    /// an error skips up to its Sync.
    pub(super) fn front_is_batch(&self) -> bool {
        self.entries.front().is_some_and(|due| !due.ends_ready())
    }

    /// Takes the entries that a failed batch skips: all before the next Sync.
    /// Says whether a Sync that will certainly be answered has been sent.
    pub(super) fn skip_batch(&mut self, mut skipped: impl FnMut(Due)) -> bool {
        while let Some(due) = self.entries.front() {
            if matches!(due, Due::Sync | Due::SyncInCopy) {
                break;
            }
            skipped(self.pop().expect("it has a front"));
        }
        self.entries.iter().any(|due| matches!(due, Due::Sync))
    }

    /// A server that starts copying in ignores every Sync until the copy ends.
    /// Takes note of it for those already sent. Says whether the copy's end
    /// has been sent too.
    ///
    /// Source: <https://www.postgresql.org/docs/17/protocol-flow.html#PROTOCOL-COPY>.
    pub(super) fn begin_copy_in(&mut self) -> bool {
        let end = self
            .entries
            .iter()
            .position(|due| matches!(due, Due::CopyEnd));
        let before_end = end.unwrap_or(self.entries.len());
        for due in self.entries.range_mut(..before_end) {
            if matches!(due, Due::Sync) {
                *due = Due::SyncInCopy;
            }
        }
        if let Some(end) = end {
            self.entries.remove(end);
        }
        self.recount();
        end.is_some()
    }

    /// A copy succeeded: the server ignored the Syncs it met.
    pub(super) fn end_copy_in(&mut self) {
        if self.syncs_in_copy > 0 {
            self.entries.retain(|due| !matches!(due, Due::SyncInCopy));
            self.recount();
        }
    }
}
