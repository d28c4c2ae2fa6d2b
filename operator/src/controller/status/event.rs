//! Every reason of an Event that is not one of the condition Stalled.

macro_rules! events {
    ($($constant:ident = $type_:ident, $reason:ident, $action:ident, $when:literal;)+) => {
        $(
            #[doc = concat!("When ", $when, ".")]
            pub(crate) const $constant: Event = Event {
                type_: EventType::$type_,
                reason: stringify!($reason),
                action: stringify!($action),
                when: $when,
            };
        )+

        /// All of them, in the order of the reference page.
        #[cfg(test)]
        pub(super) const ALL: &[Event] = &[$($constant),+];
    };
}

/// What an Event says besides its note.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) type_: EventType,
    pub(crate) reason: &'static str,
    /// What the operator was doing.
    pub(crate) action: &'static str,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "docs/status.md is made in a test")
    )]
    pub(super) when: &'static str,
}

/// Whether people need to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

events! {
    RESUMED = Normal, Resumed, Reconcile,
        "what was in the way is gone: Stalled is False again";
    DOWN = Warning, EndpointDown, Observe,
        "a pooler or a balancer is out of service, unplanned";
    UP = Normal, EndpointUp, Observe,
        "it is in service again";
    RESTARTED = Warning, EndpointRestarted, Observe,
        "its process ended and another runs, before it could be missed";
    TEST_DELIVERED = Normal, TestMessageDelivered, Notify,
        "a channel took the message that the annotation poolkeeper.dev/notify-test asked for";
    TEST_NOT_DELIVERED = Warning, TestMessageNotDelivered, Notify,
        "a channel did not take it; the note says why";
}
