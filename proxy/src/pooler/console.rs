//! The console: a database named `pgbouncer` that is not one.
//!
//! Its loop follows the protocol, simple and extended; each command goes to the
//! [`super::control`] task, which knows all loops, and is carried out there
//! ([`execute`]). What it prints comes back as mail, ready to be sent. While a
//! command is under way nothing more is read from its client.
//!
//! ```text
//!  bytes ─> messages ─> command::parse ─> Statement ─> control: execute
//!    ^                                                    │ show ─> table
//!    └───────────────── Mail::Console ────────────────────┘
//! ```

mod command;
pub(super) mod execute;
mod show;
mod table;

use std::collections::HashMap;

use proxy_core::{
    config::{AuthType, pooler::CONSOLE},
    parameters::Parameters,
    pool::ClientKey,
    session::ClientSession,
    wire::{self, Severity, SqlState, backend, cstr, error_response, frontend},
};
use tokio::sync::oneshot;

use super::{
    client::Phase,
    control::{Command, Ending, Request},
    event_loop::EventLoop,
    shared::ClientRef,
};
pub(super) use command::Statement;
pub(super) use table::Formats;

/// Longest message taken: a command is short.
const MESSAGE_LENGTH_MAX: usize = 16 * 1024;
/// Prepared statements, and portals, that one client may hold. Drivers that
/// cache statements prepare one for each distinct command.
const STATEMENTS_MAX: usize = 256;

/// What the console reports of itself at login, and on SHOW.
const PARAMETERS: &[(&str, &str)] = &[
    ("server_version", super::SERVER_VERSION),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
    ("integer_datetimes", "on"),
];

/// A client of the console.
#[derive(Debug)]
pub(super) struct Console {
    admin: bool,
    /// A command is under way.
    busy: bool,
    /// Sending ends that command's waiting, dropping tells it that nobody will
    /// read its answer.
    cancel: Option<oneshot::Sender<()>>,
    /// After an error in the extended protocol, up to the next Sync.
    skipping: bool,
    /// `None` is an empty statement.
    statements: HashMap<Box<[u8]>, Option<Statement>>,
    portals: HashMap<Box<[u8]>, (Option<Statement>, Formats)>,
}

impl Console {
    /// Whether a command is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Cancels the command under way, if it is one that waits.
    pub(super) fn interrupt(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            // It may have ended at this very moment.
            let _ = cancel.send(());
        }
    }
}

/// What a command printed.
#[derive(Debug)]
pub(super) struct Reply {
    bytes: Vec<u8>,
    /// An error ended it: the extended protocol skips to the next Sync.
    failed: bool,
    /// What the process does once the reply is on its way.
    pub(super) then: Option<Ending>,
}

/// What a message leads to.
enum Outcome {
    /// Send this.
    Answer(Vec<u8>),
    /// Carry this out.
    Run(Request),
    /// The request fails, not the connection.
    Failed(SqlState, String),
    /// The connection ends with this error.
    Fatal(SqlState, String),
    /// The client said goodbye.
    Goodbye,
}

impl EventLoop {
    /// Lets an authenticated client into the console, if it may.
    pub(super) fn console_login(&mut self, key: ClientKey, user: &str, parameters: Parameters) {
        let global = &self.live.config.global;
        let is_in = |names: &[String]| names.iter().any(|name| name == user);
        let admin = is_in(&global.admin_users) || global.auth_type == AuthType::Any;
        if !admin && !is_in(&global.stats_users) {
            return self.refuse_client(
                key,
                SqlState::INSUFFICIENT_PRIVILEGE,
                &format!("user \"{user}\" may not use the console"),
                "admin_users and stats_users name those who may.",
            );
        }
        let peer_id = global.peer_id;
        if global.log_connections {
            let client = &self.clients[key];
            let tls = client.io.tls.as_ref().map_or("no", |tls| tls.protocol());
            tracing::info!(client = %client.address, user, database = CONSOLE, tls, "client logged in");
        }
        let cancel_key = self.shared.new_cancel_key(self.client_ref(key), peer_id);
        let mut bytes = wire::authentication_ok();
        for (name, value) in PARAMETERS {
            bytes.extend(wire::parameter_status(name, value));
        }
        bytes.extend(wire::backend_key_data(&cancel_key));
        bytes.extend(wire::ready_for_query(b'I'));
        let now = self.now;
        let client = &mut self.clients[key];
        client.cancel_key = Some(cancel_key);
        client.session = ClientSession::new(parameters);
        client.request_at = now;
        client.phase = Phase::Console(Box::new(Console {
            admin,
            busy: false,
            cancel: None,
            skipping: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
        }));
        self.tell_client(key, &bytes);
    }

    /// What a client of the console sent.
    pub(super) fn console_input(&mut self, key: ClientKey, input: &[u8]) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let now = self.now;
            let Some(client) = self.clients.get_mut(key) else {
                return;
            };
            let Phase::Console(console) = &mut client.phase else {
                return;
            };
            if console.is_busy() || client.io.is_choked() || rest.is_empty() {
                return client.io.keep(rest, 0);
            }
            let head = match wire::header(rest) {
                Ok(Some(head)) => head,
                Ok(None) => return client.io.keep(rest, 0),
                Err(error) => {
                    let text = error.to_string();
                    return self.refuse_client(key, SqlState::PROTOCOL_VIOLATION, &text, "");
                }
            };
            if head.total > MESSAGE_LENGTH_MAX {
                let text = format!(
                    "command of {} bytes is longer than {MESSAGE_LENGTH_MAX}",
                    head.total
                );
                return self.refuse_client(key, SqlState::PROGRAM_LIMIT_EXCEEDED, &text, "");
            }
            let Some(message) = rest.get(..head.total) else {
                return client.io.keep(rest, 0);
            };
            at += head.total;
            client.request_at = now;
            let outcome = console.message(head.kind, &message[5..]);
            self.console_outcome(key, outcome);
        }
    }

    fn console_outcome(&mut self, key: ClientKey, outcome: Outcome) {
        match outcome {
            Outcome::Answer(bytes) => {
                self.tell_client(key, &bytes);
            }
            Outcome::Run(request) => self.run_command(key, request),
            Outcome::Failed(code, text) => {
                if let Phase::Console(console) = &mut self.clients[key].phase {
                    console.skipping = true;
                }
                let bytes = error_response(Severity::Error, code, &text, "");
                self.tell_client(key, &bytes);
            }
            Outcome::Fatal(code, text) => self.refuse_client(key, code, &text, ""),
            Outcome::Goodbye => self.client_gone(key, "client said goodbye"),
        }
    }

    fn run_command(&mut self, key: ClientKey, request: Request) {
        let client = self.client_ref(key);
        let user = self.clients[key].user.clone();
        let Phase::Console(console) = &mut self.clients[key].phase else {
            return;
        };
        let (cancel, interrupt) = oneshot::channel();
        console.busy = true;
        console.cancel = Some(cancel);
        let command = Command {
            client,
            user,
            admin: console.admin,
            request,
            interrupt,
        };
        if self.shared.command(command).is_err() {
            self.refuse_client(
                key,
                SqlState::TOO_MANY_CONNECTIONS,
                "too many console commands at once",
                "",
            );
        }
    }

    /// A command's answer.
    pub(super) fn console_printed(&mut self, client: ClientRef, reply: Reply) {
        let Some(found) = self.client_of(client) else {
            return;
        };
        if let Phase::Console(console) = &mut found.phase {
            console.busy = false;
            console.cancel = None;
            console.skipping |= reply.failed;
            if self.tell_client(client.key, &reply.bytes) {
                self.resume_client(client.key);
            }
        }
    }

    /// Ends the client with this id (KILL_CLIENT). Says whether it is here.
    pub(super) fn kill_client(&mut self, id: u64) -> bool {
        let found = self.clients.iter().find(|(_, client)| client.id == id);
        let Some((key, _)) = found else {
            return false;
        };
        self.refuse_client(
            key,
            SqlState::ADMIN_SHUTDOWN,
            "session ended by KILL_CLIENT on the console",
            "",
        );
        true
    }
}

impl Console {
    /// Deals with one whole message.
    fn message(&mut self, kind: u8, body: &[u8]) -> Outcome {
        match kind {
            frontend::TERMINATE => return Outcome::Goodbye,
            frontend::SYNC => {
                self.skipping = false;
                self.portals.clear();
                return Outcome::Answer(wire::ready_for_query(b'I').to_vec());
            }
            _ if self.skipping => return Outcome::Answer(Vec::new()),
            _ => {}
        }
        let outcome = match kind {
            frontend::QUERY => match cstr(body) {
                Some((sql, [])) => {
                    let sql = String::from_utf8_lossy(sql).into_owned();
                    Ok(Outcome::Run(Request::Simple(sql)))
                }
                _ => Err(malformed("Query")),
            },
            frontend::PARSE => self.parse(body),
            frontend::BIND => self.bind(body),
            frontend::DESCRIBE => self.describe(body),
            frontend::EXECUTE => self.execute(body),
            frontend::CLOSE => self.close(body),
            // Everything is sent at once anyway.
            frontend::FLUSH => Ok(Outcome::Answer(Vec::new())),
            kind => Err(Outcome::Fatal(
                SqlState::PROTOCOL_VIOLATION,
                format!(
                    "the console does not take messages of type {:?}",
                    char::from(kind)
                ),
            )),
        };
        outcome.unwrap_or_else(|outcome| outcome)
    }

    fn parse(&mut self, body: &[u8]) -> Result<Outcome, Outcome> {
        let (name, rest) = cstr(body).ok_or_else(|| malformed("Parse"))?;
        // What follows are types of parameters, of which there are none.
        let (sql, _) = cstr(rest).ok_or_else(|| malformed("Parse"))?;
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err(Outcome::Failed(
                SqlState::DUPLICATE_STATEMENT,
                format!(
                    "prepared statement \"{}\" already exists",
                    String::from_utf8_lossy(name)
                ),
            ));
        }
        let mut statements = command::parse(&String::from_utf8_lossy(sql))
            .map_err(|error| Outcome::Failed(error.code(), error.to_string()))?;
        if statements.len() > 1 {
            return Err(Outcome::Failed(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement".to_owned(),
            ));
        }
        has_room(self.statements.len(), "prepared statements")?;
        self.statements.insert(name.into(), statements.pop());
        Ok(bare(backend::PARSE_COMPLETE))
    }

    fn bind(&mut self, body: &[u8]) -> Result<Outcome, Outcome> {
        let (portal, rest) = cstr(body).ok_or_else(|| malformed("Bind"))?;
        let (name, rest) = cstr(rest).ok_or_else(|| malformed("Bind"))?;
        let statement = self.statement(name)?;
        let (_, rest) = shorts(rest).ok_or_else(|| malformed("Bind"))?;
        let (parameters, rest) = rest
            .split_first_chunk::<2>()
            .ok_or_else(|| malformed("Bind"))?;
        if *parameters != [0, 0] {
            return Err(Outcome::Failed(
                SqlState::PROTOCOL_VIOLATION,
                "the console's commands take no parameters".to_owned(),
            ));
        }
        let (codes, _) = shorts(rest).ok_or_else(|| malformed("Bind"))?;
        let columns = statement.as_ref().map_or(0, |known| known.columns().len());
        let formats = Formats::new(codes, columns).ok_or_else(|| {
            Outcome::Failed(
                SqlState::PROTOCOL_VIOLATION,
                format!("bind message has result formats that do not fit {columns} columns"),
            )
        })?;
        has_room(self.portals.len(), "portals")?;
        self.portals.insert(portal.into(), (statement, formats));
        Ok(bare(backend::BIND_COMPLETE))
    }

    fn describe(&self, body: &[u8]) -> Result<Outcome, Outcome> {
        let (kind, name) = target(body).ok_or_else(|| malformed("Describe"))?;
        let mut bytes = Vec::new();
        let (statement, formats) = match kind {
            b'S' => {
                bytes.extend(wire::message(backend::PARAMETER_DESCRIPTION, |out| {
                    out.extend(0_u16.to_be_bytes());
                }));
                (self.statement(name)?, Formats::default())
            }
            _ => self.portal(name)?,
        };
        let columns = statement
            .as_ref()
            .map(Statement::columns)
            .unwrap_or_default();
        if columns.is_empty() {
            bytes.extend(wire::message(backend::NO_DATA, |_| {}));
        } else {
            bytes.extend(table::describe(&columns, &formats));
        }
        Ok(Outcome::Answer(bytes))
    }

    fn execute(&self, body: &[u8]) -> Result<Outcome, Outcome> {
        // The number of rows that may follow is of no use: tables are small.
        let (name, _) = cstr(body).ok_or_else(|| malformed("Execute"))?;
        let (statement, formats) = self.portal(name)?;
        Ok(match statement {
            Some(statement) => Outcome::Run(Request::Portal(statement, formats)),
            None => bare(backend::EMPTY_QUERY_RESPONSE),
        })
    }

    fn close(&mut self, body: &[u8]) -> Result<Outcome, Outcome> {
        let (kind, name) = target(body).ok_or_else(|| malformed("Close"))?;
        // To close what is not there is no error.
        match kind {
            b'S' => drop(self.statements.remove(name)),
            _ => drop(self.portals.remove(name)),
        }
        Ok(bare(backend::CLOSE_COMPLETE))
    }

    fn statement(&self, name: &[u8]) -> Result<Option<Statement>, Outcome> {
        self.statements.get(name).cloned().ok_or_else(|| {
            Outcome::Failed(
                SqlState::INVALID_STATEMENT_NAME,
                format!(
                    "prepared statement \"{}\" does not exist",
                    String::from_utf8_lossy(name)
                ),
            )
        })
    }

    fn portal(&self, name: &[u8]) -> Result<(Option<Statement>, Formats), Outcome> {
        self.portals.get(name).cloned().ok_or_else(|| {
            Outcome::Failed(
                SqlState("34000"),
                format!(
                    "portal \"{}\" does not exist",
                    String::from_utf8_lossy(name)
                ),
            )
        })
    }
}

fn bare(kind: u8) -> Outcome {
    Outcome::Answer(wire::message(kind, |_| {}))
}

fn malformed(what: &str) -> Outcome {
    Outcome::Fatal(
        SqlState::PROTOCOL_VIOLATION,
        format!("malformed {what} message"),
    )
}

fn has_room(count: usize, what: &str) -> Result<(), Outcome> {
    if count < STATEMENTS_MAX {
        return Ok(());
    }
    Err(Outcome::Failed(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("a client of the console may hold at most {STATEMENTS_MAX} {what}"),
    ))
}

/// `S` or `P`, and the name of a statement or portal.
fn target(body: &[u8]) -> Option<(u8, &[u8])> {
    let (&kind, rest) = body.split_first()?;
    let (name, _) = cstr(rest)?;
    matches!(kind, b'S' | b'P').then_some((kind, name))
}

/// A count and so many 16-bit numbers.
fn shorts(bytes: &[u8]) -> Option<(Vec<u16>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*count)) * 2;
    let (numbers, rest) = rest.split_at_checked(length)?;
    let numbers = numbers
        .as_chunks::<2>()
        .0
        .iter()
        .map(|bytes| u16::from_be_bytes(*bytes))
        .collect();
    Some((numbers, rest))
}

#[cfg(test)]
mod tests;
