//! A client that sends exactly the messages it is told to, which no driver does.

use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use proxy_core::wire::{self, ErrorFields, backend, frontend};

/// How long an answer may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(15);

/// A session on a plain socket.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
    /// Parameters that the server has reported, the last value of each.
    pub parameters: BTreeMap<String, String>,
    /// The cancel key.
    pub key: Vec<u8>,
}

/// A message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    /// The type byte.
    pub kind: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.body);
        write!(
            f,
            "{}({:?})",
            char::from(self.kind),
            text.chars().take(80).collect::<String>()
        )
    }
}

/// An ErrorResponse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The primary message.
    pub text: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.text)
    }
}

impl std::error::Error for ServerError {}

impl ServerError {
    fn read(body: &[u8]) -> Self {
        let fields = ErrorFields::read(body);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            severity: text(fields.severity),
            code: text(fields.code),
            text: text(fields.text),
        }
    }
}

/// What a server answered, up to and with ReadyForQuery.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every message in order, but for ParameterStatus and notices.
    pub messages: Vec<Received>,
    /// `I`, `T` or `E` of ReadyForQuery.
    pub status: char,
}

impl Outcome {
    /// The types of the messages, as in `TDDCZ`.
    #[must_use]
    pub fn kinds(&self) -> String {
        self.messages
            .iter()
            .map(|message| char::from(message.kind))
            .collect()
    }

    /// Every row of every result; NULL is `None`.
    #[must_use]
    pub fn rows(&self) -> Vec<Vec<Option<String>>> {
        self.of(backend::DATA_ROW).map(row).collect()
    }

    /// The only column of the only row.
    #[must_use]
    pub fn value(&self) -> Option<String> {
        self.rows().first()?.first()?.clone()
    }

    /// Column names of the first result.
    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        self.of(backend::ROW_DESCRIPTION)
            .next()
            .map(columns)
            .unwrap_or_default()
    }

    /// Type OIDs of the columns of the first result.
    #[must_use]
    pub fn column_types(&self) -> Vec<u32> {
        self.of(backend::ROW_DESCRIPTION)
            .next()
            .map(|body| fields(body).into_iter().map(|(_, oid)| oid).collect())
            .unwrap_or_default()
    }

    /// CommandComplete tags.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        self.of(backend::COMMAND_COMPLETE)
            .map(|body| String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into())
            .collect()
    }

    /// The first error.
    #[must_use]
    pub fn error(&self) -> Option<ServerError> {
        self.of(backend::ERROR_RESPONSE)
            .next()
            .map(ServerError::read)
    }

    /// SQLSTATE of the first error, or nothing.
    #[must_use]
    pub fn code(&self) -> String {
        self.error().map(|error| error.code).unwrap_or_default()
    }

    fn of(&self, kind: u8) -> impl Iterator<Item = &[u8]> {
        self.messages
            .iter()
            .filter(move |message| message.kind == kind)
            .map(|message| message.body.as_slice())
    }
}

impl Raw {
    /// Logs in where no password is asked for.
    ///
    /// # Errors
    /// A [`ServerError`] if refused.
    pub fn connect(address: SocketAddr, user: &str, database: &str) -> Result<Self> {
        Self::connect_with(address, &[("user", user), ("database", database)])
    }

    /// Logs in with these start-up parameters.
    ///
    /// # Errors
    /// A [`ServerError`] if refused.
    pub fn connect_with(address: SocketAddr, parameters: &[(&str, &str)]) -> Result<Self> {
        let mut raw = Self::open(address)?;
        raw.send(&wire::startup(parameters))?;
        raw.log_in("")?;
        Ok(raw)
    }

    /// Opens a socket and sends nothing.
    ///
    /// # Errors
    /// When nothing listens.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            received: Vec::new(),
            parameters: BTreeMap::new(),
            key: Vec::new(),
        })
    }

    /// Reads until the first ReadyForQuery; answers a request for a plain password.
    ///
    /// # Errors
    /// A [`ServerError`] if refused.
    pub fn log_in(&mut self, password: &str) -> Result<()> {
        loop {
            let message = self.receive()?;
            match message.kind {
                backend::AUTHENTICATION => match message.body.as_slice() {
                    [0, 0, 0, 0] => {}
                    [0, 0, 0, 3] => self.send(&wire::password(password.as_bytes()))?,
                    other => bail!("asked for another authentication: {other:?}"),
                },
                backend::BACKEND_KEY_DATA => self.key = message.body,
                backend::ERROR_RESPONSE => {
                    return Err(ServerError::read(&message.body).into());
                }
                backend::READY_FOR_QUERY => return Ok(()),
                backend::PARAMETER_STATUS | backend::NOTICE_RESPONSE => {}
                kind => bail!("unexpected {:?} at start-up", char::from(kind)),
            }
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the socket does not take them.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes)
            .context("the server does not take what we send")
    }

    /// Reads one message.
    ///
    /// # Errors
    /// At the end of the connection, or when nothing comes for 15 seconds.
    pub fn receive(&mut self) -> Result<Received> {
        loop {
            if let Some(head) = wire::header(&self.received)?
                && self.received.len() >= head.total
            {
                let body = self.received[5..head.total].to_vec();
                self.received.drain(..head.total);
                if head.kind == backend::PARAMETER_STATUS {
                    self.note_parameter(&body);
                }
                return Ok(Received {
                    kind: head.kind,
                    body,
                });
            }
            self.fill()?;
        }
    }

    /// Reads up to and with ReadyForQuery.
    ///
    /// # Errors
    /// As [`Raw::receive`]; the end of the connection after a FATAL error gives
    /// that error.
    pub fn until_ready(&mut self) -> Result<Outcome> {
        let mut messages: Vec<Received> = Vec::new();
        loop {
            let message = match self.receive() {
                Ok(message) => message,
                Err(error) => {
                    let last = messages.iter().rev();
                    return match last
                        .clone()
                        .find(|last| last.kind == backend::ERROR_RESPONSE)
                    {
                        Some(last) => Err(ServerError::read(&last.body).into()),
                        None => Err(error),
                    };
                }
            };
            match message.kind {
                backend::PARAMETER_STATUS | backend::NOTICE_RESPONSE => {}
                backend::READY_FOR_QUERY => {
                    let status = char::from(*message.body.first().context("empty Z")?);
                    messages.push(message);
                    return Ok(Outcome { messages, status });
                }
                _ => messages.push(message),
            }
        }
    }

    /// A simple query.
    ///
    /// # Errors
    /// When the connection ends; an SQL error is in the outcome.
    pub fn query(&mut self, sql: &str) -> Result<Outcome> {
        self.send(&wire::query(sql))?;
        self.until_ready()
    }

    /// A simple query that must not fail, and the only value it gives.
    ///
    /// # Errors
    /// When it fails or gives nothing.
    pub fn value(&mut self, sql: &str) -> Result<String> {
        let outcome = self.query(sql)?;
        if let Some(error) = outcome.error() {
            bail!("{sql}: {error}");
        }
        outcome.value().with_context(|| format!("{sql}: no value"))
    }

    /// A batch ended by Sync.
    ///
    /// # Errors
    /// When the connection ends; an SQL error is in the outcome.
    pub fn batch(&mut self, messages: &[Vec<u8>]) -> Result<Outcome> {
        let mut bytes = messages.concat();
        bytes.extend(wire::sync());
        self.send(&bytes)?;
        self.until_ready()
    }

    /// Whether the other side has closed the connection; reads what still comes.
    ///
    /// # Errors
    /// When it is neither closed nor silent within `limit`.
    pub fn closed_within(&mut self, limit: Duration) -> Result<bool> {
        self.stream.set_read_timeout(Some(limit))?;
        let mut scratch = [0; 4096];
        let closed = loop {
            match self.stream.read(&mut scratch) {
                Ok(0) => break true,
                Ok(length) => self.received.extend_from_slice(&scratch[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break false;
                }
                Err(_) => break true,
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE))?;
        Ok(closed)
    }

    /// The first error among what has come, for a connection that ended.
    ///
    /// # Errors
    /// When none has come.
    pub fn last_words(&mut self) -> Result<ServerError> {
        while let Ok(message) = self.receive() {
            if message.kind == backend::ERROR_RESPONSE {
                return Ok(ServerError::read(&message.body));
            }
        }
        bail!("the connection ended without an error")
    }

    /// Ends the direction from us to the server.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn shut_down_writing(&self) -> Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// The socket, for what this type does not know.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn fill(&mut self) -> Result<()> {
        let mut scratch = vec![0; 64 * 1024];
        match self.stream.read(&mut scratch) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(length) => {
                self.received.extend_from_slice(&scratch[..length]);
                Ok(())
            }
            Err(error) => Err(error).context("no message came"),
        }
    }

    fn note_parameter(&mut self, body: &[u8]) {
        let pair = wire::cstr(body).and_then(|(name, rest)| Some((name, wire::cstr(rest)?.0)));
        if let Some((name, value)) = pair {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.parameters.insert(text(name), text(value));
        }
    }
}

/// Sends a CancelRequest and waits until the server closes, which says that it was read.
///
/// # Errors
/// When nothing listens.
pub fn cancel(address: SocketAddr, key: &[u8]) -> Result<()> {
    let mut raw = Raw::open(address)?;
    raw.send(&wire::cancel_request(key))?;
    raw.closed_within(PATIENCE)?;
    Ok(())
}

/// The SQLSTATE of an error that a session or a login ended with.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> String {
    error
        .downcast_ref::<ServerError>()
        .map(|error| error.code.clone())
        .unwrap_or_default()
}

/// Parse with no parameter types given.
#[must_use]
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut rest = sql.as_bytes().to_vec();
    rest.extend([0, 0, 0]);
    wire::parse(name.as_bytes(), &rest)
}

/// Bind with text values.
#[must_use]
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    wire::message(frontend::BIND, |out| {
        put(out, portal);
        put(out, statement);
        out.extend(0_u16.to_be_bytes());
        put_values(out, values);
        out.extend(0_u16.to_be_bytes());
    })
}

/// Describe of the statement `name`.
#[must_use]
pub fn describe_statement(name: &str) -> Vec<u8> {
    wire::message(frontend::DESCRIBE, |out| {
        out.push(b'S');
        put(out, name);
    })
}

/// Describe of the portal `name`.
#[must_use]
pub fn describe_portal(name: &str) -> Vec<u8> {
    wire::message(frontend::DESCRIBE, |out| {
        out.push(b'P');
        put(out, name);
    })
}

/// Execute; `rows_max` 0 is no limit.
#[must_use]
pub fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    wire::message(frontend::EXECUTE, |out| {
        put(out, portal);
        out.extend(rows_max.to_be_bytes());
    })
}

/// Close of the statement `name`.
#[must_use]
pub fn close_statement(name: &str) -> Vec<u8> {
    wire::close_statement(name.as_bytes())
}

/// Flush.
#[must_use]
pub fn flush() -> Vec<u8> {
    wire::message(frontend::FLUSH, |_| {})
}

/// Sync.
#[must_use]
pub fn sync() -> Vec<u8> {
    wire::sync().to_vec()
}

/// CopyData.
#[must_use]
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    wire::message(frontend::COPY_DATA, |out| out.extend_from_slice(data))
}

/// CopyDone.
#[must_use]
pub fn copy_done() -> Vec<u8> {
    wire::message(frontend::COPY_DONE, |_| {})
}

/// CopyFail with its reason.
#[must_use]
pub fn copy_fail(reason: &str) -> Vec<u8> {
    wire::message(frontend::COPY_FAIL, |out| put(out, reason))
}

/// FunctionCall with text arguments and a text result.
#[must_use]
pub fn function_call(oid: u32, values: &[Option<&str>]) -> Vec<u8> {
    wire::message(frontend::FUNCTION_CALL, |out| {
        out.extend(oid.to_be_bytes());
        out.extend(0_u16.to_be_bytes());
        put_values(out, values);
        out.extend(0_u16.to_be_bytes());
    })
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn put_values(out: &mut Vec<u8>, values: &[Option<&str>]) {
    let count = u16::try_from(values.len()).expect("tests bind few values");
    out.extend(count.to_be_bytes());
    for value in values {
        match value {
            None => out.extend((-1_i32).to_be_bytes()),
            Some(text) => {
                let length = u32::try_from(text.len()).expect("tests bind short values");
                out.extend(length.to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut values = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        match usize::try_from(length) {
            Err(_) => {
                values.push(None);
                rest = after;
            }
            Ok(length) => {
                values.push(Some(String::from_utf8_lossy(&after[..length]).into_owned()));
                rest = &after[length..];
            }
        }
    }
    values
}

fn columns(body: &[u8]) -> Vec<String> {
    fields(body).into_iter().map(|(name, _)| name).collect()
}

/// Name and type of each column of a RowDescription.
fn fields(body: &[u8]) -> Vec<(String, u32)> {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut fields = Vec::new();
    while let Some((name, after)) = wire::cstr(rest) {
        let Some(fixed) = after.first_chunk::<18>() else {
            break;
        };
        let oid = u32::from_be_bytes([fixed[6], fixed[7], fixed[8], fixed[9]]);
        fields.push((String::from_utf8_lossy(name).into_owned(), oid));
        rest = &after[18..];
    }
    fields
}
