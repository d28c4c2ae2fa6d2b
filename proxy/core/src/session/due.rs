//! What a server still owes: one entry for each request sent to it whose
//! answer has not come, in order.
//!
//! Requests that we answer ourselves (a Parse of a statement that the server
//! has already) have entries too, so that the answer appears in its place.

use std::{collections::VecDeque, sync::Arc};

use crate::statement::Statement;

/// A request whose answer is due.
#[derive(Debug)]
pub(super) enum Due {
    /// Query, until its ReadyForQuery.
    Query,
    /// The client's `DEALLOCATE name`, sent under the server's name for the
    /// statement, or as UNLISTEN of a channel that nobody has (which does
    /// nothing but fails in a failed transaction) if the server never had it.
    Deallocate { name: Box<[u8]> },
    /// FunctionCall, until its ReadyForQuery.
    FunctionCall,
    /// A Query of ours (SET, checks, reset), until its ReadyForQuery; the
    /// client sees nothing of it.
    Ours,
    /// Sync, until its ReadyForQuery.
    Sync,
    /// A client's Parse, forwarded. `None` for the unnamed statement.
    Parse(Option<Box<Naming>>),
    /// A Parse of ours that teaches the server a statement.
    ParseOurs(Arc<Statement>),
    /// A client's Parse that we answer.
    ParseAnswered(Box<Naming>),
    /// Bind.
    Bind,
    /// Describe.
    Describe,
    /// Execute.
    Execute,
    /// A client's Close, forwarded (portals, the unnamed statement).
    Close,
    /// A Close of ours that makes room on the server.
    CloseOurs(Arc<Statement>),
    /// A client's Close of a named statement, which we answer.
    CloseAnswered(Option<Box<Naming>>),
    /// CopyDone or CopyFail: has no answer of its own, but Syncs before it are
    /// ignored by a server that is copying in.
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
            Self::Query | Self::Deallocate { .. } | Self::FunctionCall | Self::Ours | Self::Sync
        )
    }
}

/// The entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct DueQueue {
    entries: VecDeque<Due>,
}

impl DueQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn front(&self) -> Option<&Due> {
        self.entries.front()
    }

    pub(super) fn push(&mut self, due: Due) {
        self.entries.push_back(due);
    }

    pub(super) fn pop(&mut self) -> Option<Due> {
        self.entries.pop_front()
    }

    /// Whether the oldest entry is part of an extended-protocol batch, which
    /// an error skips up to its Sync.
    pub(super) fn front_is_batch(&self) -> bool {
        self.entries.front().is_some_and(|due| !due.ends_ready())
    }

    /// Takes the entries that a failed batch skips: all before the next Sync.
    /// Says whether that Sync has been sent.
    pub(super) fn skip_batch(&mut self, mut skipped: impl FnMut(Due)) -> bool {
        while let Some(due) = self.entries.pop_front() {
            if matches!(due, Due::Sync) {
                self.entries.push_front(due);
                return true;
            }
            skipped(due);
        }
        false
    }

    /// Takes the oldest entries up to the one that a ReadyForQuery answers.
    pub(super) fn pop_ready(&mut self, mut before: impl FnMut(Due)) -> Option<Due> {
        while let Some(due) = self.entries.pop_front() {
            if due.ends_ready() {
                return Some(due);
            }
            before(due);
        }
        None
    }

    /// A server that starts copying in ignores every Sync until the copy ends:
    /// drops those already sent. Says whether the copy's end has been sent too.
    ///
    /// Source: <https://www.postgresql.org/docs/17/protocol-flow.html#PROTOCOL-COPY>.
    pub(super) fn begin_copy_in(&mut self) -> bool {
        let end = self
            .entries
            .iter()
            .position(|due| matches!(due, Due::CopyEnd));
        let before_end = end.unwrap_or(self.entries.len());
        let mut index = 0;
        self.entries.retain(|due| {
            let ignored = index < before_end && matches!(due, Due::Sync);
            index += 1;
            !ignored
        });
        end.is_some()
    }
}
