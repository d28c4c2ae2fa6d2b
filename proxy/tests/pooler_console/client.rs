//! A client that speaks the protocol by hand.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use proxy_core::wire::{self, ErrorFields, Frame, backend, cstr, header, messages};

use crate::{PATIENCE, support::connect};

/// A connection that has logged in.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Of its cancel key.
    pub(crate) cancel_key: Vec<u8>,
}

/// What came up to ReadyForQuery, or to the end of the connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
}

/// A column as RowDescription gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) format: u16,
}

/// A connection on which everything is still to be read.
impl From<TcpStream> for Client {
    fn from(stream: TcpStream) -> Self {
        Self {
            stream,
            cancel_key: Vec::new(),
        }
    }
}

impl Client {
    /// Logs in; gives the error of one that is refused.
    pub(crate) fn login(address: SocketAddr, parameters: &[(&str, &str)]) -> Result<Self, Answer> {
        let mut client = Self::from(connect(address));
        client.send(&wire::startup(parameters));
        let answer = client.read();
        if !answer.kinds().ends_with('Z') {
            return Err(answer);
        }
        let key = answer
            .frames()
            .find(|frame| frame.kind == backend::BACKEND_KEY_DATA);
        client.cancel_key = key.unwrap().body.to_vec();
        Ok(client)
    }

    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, user: &str, database: &str) -> Self {
        let parameters = [("user", user), ("database", database)];
        Self::login(address, &parameters).unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a Query.
    #[track_caller]
    pub(crate) fn begin(&mut self, sql: &str) {
        self.send(&wire::query(sql));
    }

    /// Sends a Query and reads its answer.
    #[track_caller]
    pub(crate) fn query(&mut self, sql: &str) -> Answer {
        self.begin(sql);
        self.read()
    }

    /// Sends messages and a Sync, and reads what comes up to ReadyForQuery.
    #[track_caller]
    pub(crate) fn batch(&mut self, messages: &[Vec<u8>]) -> Answer {
        self.send(&[messages.concat(), wire::sync().to_vec()].concat());
        self.read()
    }

    /// Reads up to ReadyForQuery, or to the end of the connection.
    #[track_caller]
    pub(crate) fn read(&mut self) -> Answer {
        let mut bytes = Vec::new();
        loop {
            let mut head = [0; 5];
            match self.stream.read_exact(&mut head) {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                    ) =>
                {
                    return Answer { bytes };
                }
                Err(error) => panic!("{error}, after {:?}", Answer { bytes }),
            }
            let total = header(&head).unwrap().unwrap().total;
            let mut body = vec![0; total - 5];
            self.stream.read_exact(&mut body).unwrap();
            bytes.extend(head);
            bytes.extend(body);
            if head[0] == backend::READY_FOR_QUERY {
                return Answer { bytes };
            }
        }
    }

    /// Reads to the end of the connection: every byte, whole messages or not.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Whether nothing came so far.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let seen = self.stream.peek(&mut [0; 1]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        seen.is_err()
    }

    /// Asks, on a connection of its own, to cancel what this client does; waits
    /// until that has been dealt with.
    #[track_caller]
    pub(crate) fn cancel(&self) {
        self.cancel_at(self.stream.peer_addr().unwrap());
    }

    /// The same, at another pooler.
    #[track_caller]
    pub(crate) fn cancel_at(&self, pooler: SocketAddr) {
        cancel(pooler, &self.cancel_key);
    }

    /// Address and port as the pooler sees them.
    pub(crate) fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }
}

/// Asks `pooler` to cancel what the client with this key does; waits until that
/// has been dealt with.
#[track_caller]
pub(crate) fn cancel(pooler: SocketAddr, key: &[u8]) {
    let mut stream = connect(pooler);
    stream.write_all(&wire::cancel_request(key)).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

impl Answer {
    fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        messages(&self.bytes)
    }

    /// Types of the messages.
    pub(crate) fn kinds(&self) -> String {
        self.frames().map(|frame| char::from(frame.kind)).collect()
    }

    fn reports(&self, kind: u8) -> impl Iterator<Item = (String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.frames()
            .filter(move |frame| frame.kind == kind)
            .map(move |frame| {
                let fields = ErrorFields::read(frame.body);
                (text(fields.code), text(fields.text))
            })
    }

    /// SQLSTATE of the error; empty if there is none.
    pub(crate) fn code(&self) -> String {
        let error = self.reports(backend::ERROR_RESPONSE).next();
        error.map(|(code, _)| code).unwrap_or_default()
    }

    /// The error's text; empty if there is none.
    pub(crate) fn error(&self) -> String {
        let error = self.reports(backend::ERROR_RESPONSE).next();
        error.map(|(_, text)| text).unwrap_or_default()
    }

    /// The notices.
    pub(crate) fn notices(&self) -> Vec<String> {
        self.reports(backend::NOTICE_RESPONSE)
            .map(|(_, text)| text)
            .collect()
    }

    /// What the CommandCompletes say.
    pub(crate) fn tags(&self) -> Vec<String> {
        self.frames()
            .filter(|frame| frame.kind == backend::COMMAND_COMPLETE)
            .map(|frame| String::from_utf8(cstr(frame.body).unwrap().0.to_vec()).unwrap())
            .collect()
    }

    /// The columns of the first result.
    pub(crate) fn columns(&self) -> Vec<Column> {
        let description = self
            .frames()
            .find(|frame| frame.kind == backend::ROW_DESCRIPTION);
        let Some(description) = description else {
            return Vec::new();
        };
        let mut rest = &description.body[2..];
        let mut columns = Vec::new();
        while let Some((name, fields)) = cstr(rest) {
            columns.push(Column {
                name: String::from_utf8(name.to_vec()).unwrap(),
                type_oid: u32::from_be_bytes(fields[6..10].try_into().unwrap()),
                format: u16::from_be_bytes(fields[16..18].try_into().unwrap()),
            });
            rest = &fields[18..];
        }
        columns
    }

    /// The rows, as bytes.
    pub(crate) fn values(&self) -> Vec<Vec<Option<Vec<u8>>>> {
        self.frames()
            .filter(|frame| frame.kind == backend::DATA_ROW)
            .map(|frame| {
                let mut rest = &frame.body[2..];
                let mut row = Vec::new();
                while let Some((length, after)) = rest.split_first_chunk::<4>() {
                    match usize::try_from(i32::from_be_bytes(*length)) {
                        Ok(length) => {
                            row.push(Some(after[..length].to_vec()));
                            rest = &after[length..];
                        }
                        Err(_) => {
                            row.push(None);
                            rest = after;
                        }
                    }
                }
                row
            })
            .collect()
    }

    /// The rows as text; NULL is `-`.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let text = |value: Option<Vec<u8>>| match value {
            Some(bytes) => String::from_utf8(bytes).unwrap(),
            None => "-".to_owned(),
        };
        self.values()
            .into_iter()
            .map(|row| row.into_iter().map(text).collect())
            .collect()
    }

    /// The value of `column` in the first row where `key` is `name`.
    #[track_caller]
    pub(crate) fn value(&self, key: &str, name: &str, column: &str) -> String {
        let columns = self.columns();
        let at = |wanted: &str| {
            columns
                .iter()
                .position(|column| column.name == wanted)
                .unwrap_or_else(|| panic!("no column {wanted}"))
        };
        let rows = self.rows();
        let row = rows.iter().find(|row| row[at(key)] == name);
        row.unwrap_or_else(|| panic!("no row with {key} = {name} in {rows:?}"))[at(column)].clone()
    }
}
