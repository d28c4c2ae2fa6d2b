//! A client and the server it is linked to: what each byte means for the other.
//!
//! A client is *unlinked* until it sends something that needs a server
//! ([`ClientSession::unlinked`]). While linked, [`from_client`] and
//! [`from_server`] turn what was read into what to send, following types and
//! lengths and looking inside only the few messages that matter.
//! [`ServerSession::released`] says when the server may serve somebody else:
//!
//! ```text
//!  unlinked ──message that needs a server──> waiting ──pool grants──> linked
//!     ^                                                                 │
//!     └── nothing due, ReadyForQuery says idle, no message cut in two ──┘
//! ```
//!
//! Counting ReadyForQuery alone would not do: a batch may end in Flush, and the
//! next batch may follow a Sync before its answer has come.

mod client;
mod due;
mod output;
mod server;

pub use client::{FromClient, Unlinked, from_client};
pub use output::Output;
pub use server::{FromServer, from_server};

use std::sync::Arc;

use crate::{
    config::PoolMode,
    parameters::{Interner, Parameters},
    sabotage::{Sabotage, sabotaged},
    statement::{ClientStatements, Registry, ServerStatements, Statement},
    wire::{self, FrameError, SqlState},
};
use due::{Due, DueQueue};

/// Most named statements one client may hold.
pub const CLIENT_STATEMENTS_MAX: usize = 10_000;

/// Longest message of which we must see the whole before we can pass it on:
/// a named Parse. Anything else streams through, whatever its length.
pub const WHOLE_MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// A message up to this length must have come as a whole before a server is
/// asked for: half a message must not keep others waiting. Longer ones stream.
pub const AWAITED_WHOLE_MAX: usize = 8 * 1024;

/// Most requests that one client may have outstanding; reading from it pauses
/// while there are more.
pub const DUE_MAX: usize = 4_096;

/// What both directions need to know.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// When a server is given back.
    pub mode: PoolMode,
    /// Statements shared by all clients.
    pub registry: &'a Registry,
    /// Parameters that follow a client.
    pub interner: &'a Interner,
    /// Pool that statements belong to, see [`Registry::intern`].
    pub scope: u64,
    /// Whether named statements follow a client: transaction or statement
    /// pooling and max_prepared_statements above zero.
    pub follow_statements: bool,
}

/// The part of a client that outlives its checkouts. Small: there are thousands.
#[derive(Debug)]
pub struct ClientSession {
    /// Bytes of the present message still to come.
    rest: u32,
    /// Whether those bytes are dropped instead of forwarded.
    rest_dropped: bool,
    /// A batch that waited for a server was cancelled: everything is dropped up
    /// to its Sync.
    skipping: bool,
    parameters: Parameters,
    statements: Option<Box<ClientStatements>>,
    /// Definition of the unnamed statement, if it was not bound in the batch
    /// that parsed it: its Bind may meet another server.
    unnamed: Option<Box<[u8]>>,
}

impl ClientSession {
    /// A client that has just logged in and wants `parameters`.
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        Self {
            rest: 0,
            rest_dropped: false,
            skipping: false,
            parameters,
            statements: None,
            unnamed: None,
        }
    }

    /// Values of the parameters that follow this client.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Takes note that `server` accepted this client's parameters: what it made
    /// of a value (`UTC` of `utc`) is what the client wants from then on, or
    /// every checkout would set it again.
    pub fn adopt_parameters(&mut self, interner: &Interner, server: &ServerSession) {
        self.parameters = interner.as_reported(&self.parameters, &server.parameters);
    }

    /// Number of named statements.
    #[must_use]
    pub fn statements_len(&self) -> usize {
        self.statements.as_ref().map_or(0, |known| known.len())
    }

    /// Whether the last message read was cut, its rest being still to come.
    #[must_use]
    pub fn mid_message(&self) -> bool {
        self.rest > 0
    }

    fn statement(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.statements.as_ref()?.get(name)
    }

    fn name_statement(&mut self, name: Box<[u8]>, statement: Arc<Statement>) {
        self.statements
            .get_or_insert_default()
            .insert(name, statement);
    }

    fn forget_statement(&mut self, name: &[u8]) -> Option<(Box<[u8]>, Arc<Statement>)> {
        let known = self.statements.as_mut()?;
        let forgotten = known.remove_entry(name);
        if known.is_empty() {
            self.statements = None;
        }
        forgotten
    }
}

/// What a server's last ReadyForQuery said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// Not in a transaction.
    Idle,
    /// In a transaction.
    Open,
    /// In a failed transaction.
    Failed,
}

impl Transaction {
    fn read(status: u8) -> Option<Self> {
        match status {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// A connection to PostgreSQL that has logged in.
#[derive(Debug)]
pub struct ServerSession {
    rest: u32,
    rest_dropped: bool,
    due: DueQueue,
    transaction: Transaction,
    /// After an error in a batch whose Sync has not been sent: the server
    /// ignores everything up to it.
    skipping: bool,
    /// The server awaits CopyData.
    copying_in: bool,
    /// Something was sent that only a later Sync completes.
    unsynced: bool,
    /// ReadyForQuery messages taken for the answer to a Sync that a failed
    /// copy may have ignored: each may have been a later Sync's.
    readies_in_doubt: usize,
    /// The last copy in was begun by an Execute.
    copy_extended: bool,
    /// The unnamed statement is that of the client the server is lent to.
    unnamed: bool,
    /// Definition of the unnamed statement, parsed in the present batch and
    /// not bound so far.
    described: Option<Box<[u8]>>,
    /// It has said that it ends the connection.
    ending: bool,
    /// What the server said when the query of ours failed (SET, check).
    ours_failure: Option<String>,
    /// Cancel requests on their way to this server.
    cancels_in_flight: u32,
    parameters: Parameters,
    statements: ServerStatements,
}

impl ServerSession {
    /// A server that has just logged in. `capacity` is max_prepared_statements.
    #[must_use]
    pub fn new(parameters: Parameters, capacity: usize) -> Self {
        Self {
            rest: 0,
            rest_dropped: false,
            due: DueQueue::default(),
            transaction: Transaction::Idle,
            skipping: false,
            copying_in: false,
            unsynced: false,
            readies_in_doubt: 0,
            copy_extended: false,
            unnamed: false,
            described: None,
            ending: false,
            ours_failure: None,
            cancels_in_flight: 0,
            parameters,
            statements: ServerStatements::new(capacity),
        }
    }

    /// Values of the tracked parameters, as the server reported them.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Number of prepared statements it holds for clients.
    #[must_use]
    pub fn statements_len(&self) -> usize {
        self.statements.len()
    }

    /// Name and query of each prepared statement it is believed to have.
    #[cfg(test)]
    pub(crate) fn taught(&self) -> impl Iterator<Item = (String, String)> {
        self.statements.iter().map(|statement| {
            let name = statement.server_name();
            let query = wire::cstr(statement.definition()).map_or(&[][..], |(query, _)| query);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(name.as_bytes()), text(query))
        })
    }

    /// State of its transaction, as its last ReadyForQuery said.
    #[must_use]
    pub fn transaction(&self) -> Transaction {
        self.transaction
    }

    /// Whether it has said, by an error of severity FATAL, that it ends the
    /// connection. Its client, if it has one, has been told: close both.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending
    }

    /// Whether the client has got only a part of a message so far: should the
    /// server be lost, an error of ours would be taken for the rest of it.
    #[must_use]
    pub fn mid_message(&self) -> bool {
        self.rest > 0 && !self.rest_dropped
    }

    /// Requests whose answers are due.
    #[must_use]
    pub fn due_len(&self) -> usize {
        self.due.len()
    }

    /// Nothing is due, no transaction is open, no message is cut: the server
    /// is as it was when it was lent.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        if sabotaged(Sabotage::ReadyForQueryOnly) {
            return self.transaction == Transaction::Idle && self.rest == 0;
        }
        self.has_nothing_open() && self.rest == 0
    }

    /// Clean, but for the rest of a notice that came while it was idle.
    fn has_nothing_open(&self) -> bool {
        let owes = !self.due.is_empty() || self.unsynced || self.copying_in;
        self.transaction == Transaction::Idle && !owes && !self.skipping && !self.ending
    }

    /// Whether the server may be given back by `client` now, in transaction
    /// pooling. It is not while a cancel for it is in flight: that would hit
    /// the next client's query.
    #[must_use]
    pub fn released(&self, client: &ClientSession) -> bool {
        self.is_clean() && client.rest == 0 && self.cancel_guarded()
    }

    /// Whether no cancel is on its way to this server.
    #[must_use]
    pub fn cancel_guarded(&self) -> bool {
        self.cancels_in_flight == 0 || sabotaged(Sabotage::NoCancelGuard)
    }

    /// A cancel request for this server has been sent off.
    pub fn cancel_started(&mut self) {
        self.cancels_in_flight += 1;
    }

    /// PostgreSQL closed the connection that carried a cancel request: the
    /// signal has been sent.
    pub fn cancel_ended(&mut self) {
        debug_assert!(
            self.cancels_in_flight > 0,
            "a cancel ended that never started"
        );
        self.cancels_in_flight = self.cancels_in_flight.saturating_sub(1);
    }

    /// Takes note that a checkout ends: what follows belongs to another client.
    pub fn end_checkout(&mut self) {
        self.statements.end_transaction();
        self.unnamed = false;
        self.described = None;
    }

    /// Starts a query of ours; its answer is swallowed. Returns the bytes to send.
    /// The server must be clean.
    #[must_use]
    pub fn ours(&mut self, sql: &str) -> Vec<u8> {
        debug_assert!(
            self.has_nothing_open() || sabotaged(Sabotage::ReadyForQueryOnly),
            "a query of ours would land in a client's work"
        );
        self.ours_failure = None;
        self.due.push(Due::Ours);
        wire::query(sql)
    }

    /// How the query of ours ended, if it has been answered: what the server said
    /// if it failed, once.
    #[must_use]
    pub fn ours_result(&mut self) -> Option<Result<(), String>> {
        let is_answered = self.due.is_empty() && self.rest == 0;
        is_answered.then(|| self.ours_failure.take().map_or(Ok(()), Err))
    }
}

/// A message of the client's that ends its session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    /// A length that no message can have.
    #[error("protocol violation: {0}")]
    Frame(#[from] FrameError),
    /// A type that no frontend sends, or not now.
    #[error("protocol violation: unexpected message of type {:?}", char::from(*.0))]
    Kind(u8),
    /// A message whose body does not have its type's shape.
    #[error("protocol violation: malformed {0} message")]
    Malformed(&'static str),
    /// A message we must hold as a whole is too long.
    #[error("message of {length} bytes is longer than {max}")]
    TooLong {
        /// Bytes of the message.
        length: usize,
        /// Most allowed.
        max: usize,
    },
}

impl ClientFault {
    /// SQLSTATE to end the session with.
    #[must_use]
    pub fn code(&self) -> SqlState {
        match self {
            Self::Frame(_) | Self::Kind(_) | Self::Malformed(_) => SqlState::PROTOCOL_VIOLATION,
            Self::TooLong { .. } => SqlState::PROGRAM_LIMIT_EXCEEDED,
        }
    }
}

/// A server that does not behave as PostgreSQL does; its connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerFault {
    /// A length that no message can have.
    #[error("server broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// An answer to a question nobody asked.
    #[error("server broke the protocol: unexpected message of type {:?}", char::from(*.0))]
    Unexpected(u8),
    /// A message whose body does not have its type's shape.
    #[error("server broke the protocol: malformed message of type {:?}", char::from(*.0))]
    Malformed(u8),
    /// A transaction block under statement pooling.
    #[error("transaction blocks are not allowed in statement pooling mode")]
    TransactionBlock,
}

#[cfg(test)]
mod tests;
