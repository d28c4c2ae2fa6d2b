//! What a console client's messages mean: the simple and the extended protocol,
//! as far as a console needs them. No sockets here.
//!
//! Source: <https://www.postgresql.org/docs/17/protocol-flow.html>.

use std::collections::HashMap;

use proxy_core::wire::{self, Severity, SqlState, backend, cstr, error_response, frontend};
use tokio::sync::oneshot;

use super::{
    command::{self, Statement},
    table::{self, Formats},
};
use crate::pooler::control::Request;

/// Prepared statements, and portals, that one client may hold. Drivers that
/// cache statements prepare one for each distinct command.
const STATEMENTS_MAX: usize = 256;

/// A client of the console.
#[derive(Debug)]
pub(in crate::pooler) struct Console {
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

/// What a message leads to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Send this.
    Answer(Vec<u8>),
    /// Carry this out.
    Run(Request),
    /// The connection ends with this error.
    Fatal(SqlState, String),
    /// The client said goodbye.
    Goodbye,
}

/// Why a message is not dealt with.
#[derive(Debug)]
enum Problem {
    /// The request fails; the next one is dealt with.
    Request(SqlState, String),
    /// The client does not speak the protocol.
    Malformed(&'static str),
    Kind(u8),
}

impl Console {
    pub(super) fn new(admin: bool) -> Self {
        Self {
            admin,
            busy: false,
            cancel: None,
            skipping: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
        }
    }

    /// Whether it may change something.
    pub(super) fn is_admin(&self) -> bool {
        self.admin
    }

    /// Whether a command is under way.
    pub(in crate::pooler) fn is_busy(&self) -> bool {
        self.busy
    }

    /// A command is under way from now on. Gives what tells it that it is
    /// cancelled, or by an error that its client is gone.
    pub(super) fn began(&mut self) -> oneshot::Receiver<()> {
        let (cancel, interrupt) = oneshot::channel();
        self.busy = true;
        self.cancel = Some(cancel);
        interrupt
    }

    /// The command under way has been answered.
    pub(super) fn ended(&mut self, failed: bool) {
        self.busy = false;
        self.cancel = None;
        self.skipping |= failed;
    }

    /// Cancels the command under way, if it is one that waits.
    pub(in crate::pooler) fn interrupt(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            // It may have ended at this very moment.
            let _ = cancel.send(());
        }
    }

    /// Deals with one whole message.
    pub(super) fn message(&mut self, kind: u8, body: &[u8]) -> Outcome {
        if self.skipping && !matches!(kind, frontend::SYNC | frontend::TERMINATE) {
            return Outcome::Answer(Vec::new());
        }
        let outcome = match kind {
            frontend::QUERY => query(body),
            frontend::PARSE => self.parse(body),
            frontend::BIND => self.bind(body),
            frontend::DESCRIBE => self.describe(body),
            frontend::EXECUTE => self.execute(body),
            frontend::CLOSE => self.close(body),
            // Everything is sent at once anyway.
            frontend::FLUSH => Ok(Outcome::Answer(Vec::new())),
            frontend::SYNC => {
                self.skipping = false;
                self.portals.clear();
                Ok(Outcome::Answer(wire::ready_for_query(b'I').to_vec()))
            }
            frontend::TERMINATE => Ok(Outcome::Goodbye),
            kind => Err(Problem::Kind(kind)),
        };
        let text = match outcome {
            Ok(outcome) => return outcome,
            Err(Problem::Request(code, text)) => {
                self.skipping = true;
                let bytes = error_response(Severity::Error, code, &text, "");
                return Outcome::Answer(bytes);
            }
            Err(Problem::Malformed(what)) => format!("malformed {what} message"),
            Err(Problem::Kind(kind)) => {
                let kind = char::from(kind);
                format!("the console does not take messages of type {kind:?}")
            }
        };
        Outcome::Fatal(SqlState::PROTOCOL_VIOLATION, text)
    }

    fn parse(&mut self, body: &[u8]) -> Result<Outcome, Problem> {
        let (name, rest) = cstr(body).ok_or(Problem::Malformed("Parse"))?;
        // What follows are types of parameters, of which there are none.
        let (sql, _) = cstr(rest).ok_or(Problem::Malformed("Parse"))?;
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err(Problem::Request(
                SqlState::DUPLICATE_STATEMENT,
                format!(
                    "prepared statement \"{}\" already exists",
                    String::from_utf8_lossy(name)
                ),
            ));
        }
        let mut statements = command::parse(&String::from_utf8_lossy(sql))
            .map_err(|error| Problem::Request(error.code(), error.to_string()))?;
        if statements.len() > 1 {
            return Err(Problem::Request(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement".to_owned(),
            ));
        }
        has_room(&self.statements, name, "prepared statements")?;
        self.statements.insert(name.into(), statements.pop());
        Ok(bare(backend::PARSE_COMPLETE))
    }

    fn bind(&mut self, body: &[u8]) -> Result<Outcome, Problem> {
        let (portal, rest) = cstr(body).ok_or(Problem::Malformed("Bind"))?;
        let (name, rest) = cstr(rest).ok_or(Problem::Malformed("Bind"))?;
        let statement = self.statement(name)?;
        let (_, rest) = shorts(rest).ok_or(Problem::Malformed("Bind"))?;
        let (parameters, rest) = rest
            .split_first_chunk::<2>()
            .ok_or(Problem::Malformed("Bind"))?;
        if *parameters != [0, 0] {
            return Err(Problem::Request(
                SqlState::PROTOCOL_VIOLATION,
                "the console's commands take no parameters".to_owned(),
            ));
        }
        let (codes, _) = shorts(rest).ok_or(Problem::Malformed("Bind"))?;
        let columns = statement.as_ref().map_or(0, |known| known.columns().len());
        let formats = Formats::new(codes, columns).ok_or_else(|| {
            Problem::Request(
                SqlState::PROTOCOL_VIOLATION,
                format!("bind message has result formats that do not fit {columns} columns"),
            )
        })?;
        has_room(&self.portals, portal, "portals")?;
        self.portals.insert(portal.into(), (statement, formats));
        Ok(bare(backend::BIND_COMPLETE))
    }

    fn describe(&self, body: &[u8]) -> Result<Outcome, Problem> {
        let (kind, name) = target(body).ok_or(Problem::Malformed("Describe"))?;
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

    fn execute(&self, body: &[u8]) -> Result<Outcome, Problem> {
        // The number of rows that may follow is of no use: tables are small.
        let (name, _) = cstr(body).ok_or(Problem::Malformed("Execute"))?;
        let (statement, formats) = self.portal(name)?;
        Ok(match statement {
            Some(statement) => Outcome::Run(Request::Portal(statement, formats)),
            None => bare(backend::EMPTY_QUERY_RESPONSE),
        })
    }

    fn close(&mut self, body: &[u8]) -> Result<Outcome, Problem> {
        let (kind, name) = target(body).ok_or(Problem::Malformed("Close"))?;
        // To close what is not there is no error.
        match kind {
            b'S' => drop(self.statements.remove(name)),
            _ => drop(self.portals.remove(name)),
        }
        Ok(bare(backend::CLOSE_COMPLETE))
    }

    fn statement(&self, name: &[u8]) -> Result<Option<Statement>, Problem> {
        self.statements.get(name).cloned().ok_or_else(|| {
            Problem::Request(
                SqlState::INVALID_STATEMENT_NAME,
                format!(
                    "prepared statement \"{}\" does not exist",
                    String::from_utf8_lossy(name)
                ),
            )
        })
    }

    fn portal(&self, name: &[u8]) -> Result<(Option<Statement>, Formats), Problem> {
        self.portals.get(name).cloned().ok_or_else(|| {
            Problem::Request(
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

fn query(body: &[u8]) -> Result<Outcome, Problem> {
    let Some((sql, [])) = cstr(body) else {
        return Err(Problem::Malformed("Query"));
    };
    let sql = String::from_utf8_lossy(sql).into_owned();
    Ok(Outcome::Run(Request::Simple(sql)))
}

/// Whether one of that name can be taken: known names are replaced.
fn has_room<T>(known: &HashMap<Box<[u8]>, T>, name: &[u8], what: &str) -> Result<(), Problem> {
    if known.len() < STATEMENTS_MAX || known.contains_key(name) {
        return Ok(());
    }
    Err(Problem::Request(
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
