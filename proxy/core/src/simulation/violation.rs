//! What must never happen.

use std::fmt;

/// A rule that every run must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A server is lent to one client at a time, and lives on one loop.
    LentOnce,
    /// Nobody waits while a server is idle or could be opened.
    Forgotten,
    /// Every waiter is served or refused in time.
    WaitedTooLong,
    /// No pool and no budget opens more servers than it may.
    Limit,
    /// A cancel reaches only the work of the client that asked for it.
    CancelHitOther,
    /// Each client gets what a direct connection would have given it.
    WrongAnswer,
    /// A statement of one client is never executed for another.
    ExecutedForOther,
    /// A server that is given back has nothing left of its last client.
    GivenBackUnclean,
    /// What a session believes its server to have been taught is the truth.
    Taught,
    /// A pooler that drains has no server for long that nobody needs.
    NotGivenUp,
    /// Counters agree with what they count.
    Counts,
    /// Queues and buffers are bounded.
    Bounded,
    /// Nobody breaks the protocol.
    Fault,
    /// Everything comes to an end.
    Stuck,
    /// Nothing panics.
    Panic,
}

#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) rule: Rule,
    pub(super) text: String,
}

impl Violation {
    pub(super) fn new(rule: Rule, text: String) -> Self {
        Self { rule, text }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}
