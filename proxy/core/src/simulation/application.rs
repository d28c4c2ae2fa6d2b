//! A client as it is meant to be served: it sends what its script says and
//! compares each answer with that of a model server of its own, which gets the
//! very same bytes.

mod script;

use super::{
    postgres::Backend,
    random::Random,
    violation::{Rule, Violation},
};
use crate::{
    config::PoolMode,
    wire::{self, ErrorFields, terminate},
};

#[derive(Debug)]
pub(super) struct Application {
    id: usize,
    mode: PoolMode,
    random: Random,
    /// What a client connected directly would talk to.
    oracle: Backend,
    /// The oracle's answers not yet seen from the pooler, oldest first.
    expected: std::collections::VecDeque<Vec<u8>>,
    /// How many of those a direct connection would have delivered by now.
    flushed: usize,
    inbox: Vec<u8>,
    /// Sent, not yet on its way.
    pub(super) outbox: Vec<u8>,
    steps_left: usize,
    sequence: usize,
    /// It knows what the server will make of what it sends next: it is not
    /// about to copy in.
    may_pipeline: bool,
    /// Text of the unnamed statement that it had described and executes next.
    described: Option<String>,
    /// Cancel requests sent, less those that were seen to hit.
    cancels: usize,
    over: bool,
}

/// What an application does beside sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Sends no more than what is in its outbox.
    Send,
    /// Asks for a cancel, too.
    Cancel,
    /// Says goodbye, or just goes, once its outbox is sent.
    HangUp,
}

impl Application {
    pub(super) fn new(id: usize, mode: PoolMode, steps: usize, mut random: Random) -> Self {
        Self {
            id,
            mode,
            random: random.fork(),
            oracle: Backend::new(),
            expected: std::collections::VecDeque::new(),
            flushed: 0,
            inbox: Vec::new(),
            outbox: Vec::new(),
            steps_left: steps,
            sequence: 0,
            may_pipeline: true,
            described: None,
            cancels: 0,
            over: false,
        }
    }

    /// A parameter of its start-up packet. Says whether a server would take it.
    pub(super) fn start_with(&mut self, name: &str, value: &str) -> bool {
        self.oracle.start_with(name, value)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// What it waits for, for whoever asks why it does.
    pub(super) fn waits_for(&self) -> String {
        let expected: Vec<u8> = self.expected.iter().flatten().copied().collect();
        format!(
            "application {}: expects {}, of which {} flushed{}",
            self.id,
            wire::sample::kinds(&expected),
            self.flushed,
            if self.oracle.is_sleeping() {
                ", sleeping"
            } else {
                ""
            }
        )
    }

    /// Whether a client connected directly would have all its answers by now.
    fn is_answered(&self) -> bool {
        self.flushed == 0 && !self.oracle.is_sleeping()
    }

    /// Its turn: sends something if it does not wait for an answer.
    pub(super) fn act(&mut self) -> Act {
        if self.over {
            return Act::Send;
        }
        if self.oracle.is_sleeping() {
            if self.random.percent(40) {
                self.cancels += 1;
                return Act::Cancel;
            }
            return Act::Send;
        }
        // Some go on before a message has come as a whole.
        let eager = if self.inbox.is_empty() { 25 } else { 60 };
        let pipelines =
            self.random.percent(eager) && self.may_pipeline && !self.oracle.is_copying_in();
        if !self.is_answered() && !pipelines {
            return Act::Send;
        }
        if self.steps_left == 0 {
            return if self.is_answered() {
                self.leave()
            } else {
                Act::Send
            };
        }
        if self.random.percent(1) {
            return self.leave_abruptly();
        }
        self.steps_left -= 1;
        let bytes = self.next_request();
        self.send(&bytes);
        if self.random.percent(2) {
            // A cancel that may come too late.
            self.cancels += 1;
            return Act::Cancel;
        }
        Act::Send
    }

    fn leave(&mut self) -> Act {
        self.over = true;
        if self.random.percent(80) {
            self.outbox.extend(terminate());
        }
        Act::HangUp
    }

    fn leave_abruptly(&mut self) -> Act {
        let bytes = self.next_request();
        let cut = self.random.below(bytes.len());
        self.outbox.extend_from_slice(&bytes[..cut]);
        self.over = true;
        Act::HangUp
    }

    fn send(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
        self.oracle.receive(bytes);
        self.ask_oracle();
    }

    /// Lets the oracle go as far as it can.
    fn ask_oracle(&mut self) {
        let flushes = self.oracle.flushes;
        while self.oracle.step() {}
        let (flushed, gathered) = self.oracle.take_all();
        self.expected.extend(messages(&flushed));
        if self.oracle.flushes > flushes {
            // With it went whatever had only gathered before.
            self.flushed = self.expected.len();
        }
        self.expected.extend(messages(&gathered));
    }

    /// Bytes from the pooler.
    pub(super) fn receive(&mut self, bytes: &[u8], excused: bool) -> Result<(), Violation> {
        if self.over {
            return Ok(());
        }
        self.inbox.extend_from_slice(bytes);
        while let Some(head) = wire::header(&self.inbox).map_err(|error| self.wrong(&error))? {
            if self.inbox.len() < head.total {
                break;
            }
            let message: Vec<u8> = self.inbox.drain(..head.total).collect();
            self.message(&message, excused)?;
        }
        Ok(())
    }

    /// The pooler has closed the connection and everything has been read.
    pub(super) fn closed(&mut self, excused: bool) -> Result<(), Violation> {
        if !self.over && !excused {
            return Err(self.wrong(&"the connection was closed"));
        }
        self.over = true;
        Ok(())
    }

    fn message(&mut self, message: &[u8], excused: bool) -> Result<(), Violation> {
        let fields = ErrorFields::read(&message[5..]);
        match message[0] {
            b'N' if fields.code == b"01000" => return Ok(()),
            b'E' if fields.ends_connection() && excused => {
                self.over = true;
                return Ok(());
            }
            _ => {}
        }
        if self.expected.is_empty() && self.oracle.is_sleeping() {
            if message[0] == b'E' && fields.code == b"57014" {
                if self.cancels == 0 {
                    return Err(Violation::new(
                        Rule::CancelHitOther,
                        format!("application {} never asked for a cancel", self.id),
                    ));
                }
                self.cancels -= 1;
                self.oracle.cancel();
            } else {
                self.oracle.wake();
            }
            self.ask_oracle();
        }
        let Some(expected) = self.expected.pop_front() else {
            return Err(self.wrong(&format!("nothing was due, but got {}", shown(message))));
        };
        self.flushed = self.flushed.saturating_sub(1);
        if !same(message, &expected) {
            let text = format!("expected {}, got {}", shown(&expected), shown(message));
            return Err(self.wrong(&text));
        }
        Ok(())
    }

    fn wrong(&self, what: &dyn std::fmt::Display) -> Violation {
        Violation::new(
            Rule::WrongAnswer,
            format!("application {}: {what}", self.id),
        )
    }
}

fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut at = 0;
    wire::messages(bytes)
        .map(|frame| {
            let from = at;
            at += frame.body.len() + 5;
            bytes[from..at].to_vec()
        })
        .collect()
}

/// Whether two answers are the same to an application. Of some errors only the
/// code is: their text names the statement by another name.
fn same(got: &[u8], expected: &[u8]) -> bool {
    if got[0] != b'E' || expected[0] != b'E' {
        return got == expected;
    }
    let [got, expected] = [got, expected].map(|message| ErrorFields::read(&message[5..]));
    let by_name = [b"26000", b"42P05"].contains(&expected.code.first_chunk().unwrap_or(b"?????"));
    got.code == expected.code && (by_name || got.text == expected.text)
}

fn shown(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(&message[5..]);
    format!("{}[{}]", char::from(message[0]), text.escape_debug())
}
