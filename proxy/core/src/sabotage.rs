//! Faults that the simulation must notice.
//!
//! A test that cannot fail shows nothing, so each of these switches off one
//! safeguard and the simulation has to catch it. Outside of tests every
//! question here is the constant `false`.

/// A safeguard that can be switched off in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A server is lent again while a cancel for its last client is in flight.
    NoCancelGuard,
    /// A Parse that failed stays in the server's set of statements.
    NoParseRollback,
    /// A server is given back at any ReadyForQuery, whatever is still due.
    ReadyForQueryOnly,
    /// A server that becomes idle is not offered to other threads' waiters.
    LostWakeUp,
    /// A batch uses names and statements that an earlier one, whose answers
    /// have not come, may yet fail to make.
    NoSettling,
    /// An answer of ours is given at once, even in the middle of a message.
    AnswerAtOnce,
    /// A client's unnamed statement is whatever the server has under no name.
    SharedUnnamed,
    /// A waiter of a full pool waits until its own loop is told something.
    NoLookingAgain,
    /// A pool that drains keeps its idle servers as any other.
    NothingGivenUp,
    /// A pool that drains opens servers for its minimum.
    MinimumInDrain,
}

#[cfg(test)]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Sabotage>> = const { std::cell::Cell::new(None) };
}

/// Whether `fault` is switched on in this thread.
#[cfg(test)]
pub(crate) fn sabotaged(fault: Sabotage) -> bool {
    ACTIVE.get() == Some(fault)
}

/// Whether `fault` is switched on: never, outside of tests.
#[cfg(not(test))]
#[inline]
pub(crate) const fn sabotaged(_fault: Sabotage) -> bool {
    false
}

/// Switches `fault` on in this thread while `run` runs, which may panic.
#[cfg(test)]
pub(crate) fn with<T>(fault: Option<Sabotage>, run: impl FnOnce() -> T) -> T {
    struct Restore(Option<Sabotage>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(fault));
    run()
}
