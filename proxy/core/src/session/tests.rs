//! One behaviour a test; the files are by story.

mod batches;
mod copying;
mod naming;
mod parameters;
mod release;
mod splits;

use super::*;
use crate::{
    parameters::Tracked,
    wire::{
        sample::{self, kinds},
        sync,
    },
};

/// A client and the server it is linked to.
struct Lent {
    registry: Registry,
    interner: Interner,
    mode: PoolMode,
    client: ClientSession,
    server: ServerSession,
    /// What the client has got since last asked.
    answers: Vec<u8>,
}

impl Lent {
    fn new() -> Self {
        Self::with_capacity(100)
    }

    fn with_capacity(capacity: usize) -> Self {
        let interner = Interner::new(Tracked::new([]));
        Self {
            client: ClientSession::new(interner.empty()),
            server: ServerSession::new(interner.empty(), capacity),
            registry: Registry::default(),
            interner,
            mode: PoolMode::Transaction,
            answers: Vec::new(),
        }
    }

    fn rules<'a>(registry: &'a Registry, interner: &'a Interner, mode: PoolMode) -> Rules<'a> {
        Rules {
            mode,
            registry,
            interner,
            scope: 0,
            follow_statements: mode != PoolMode::Session,
        }
    }

    fn deal_client(
        &mut self,
        bytes: &[u8],
        to_server: &mut Output,
    ) -> Result<FromClient, ClientFault> {
        let mut to_client = Output::default();
        let done = from_client(
            Self::rules(&self.registry, &self.interner, self.mode),
            &mut self.client,
            &mut self.server,
            bytes,
            to_server,
            &mut to_client,
        );
        self.answers.extend(to_client.concat(bytes));
        done
    }

    /// What becomes of `bytes` from the client, and what the server gets.
    fn try_client(&mut self, bytes: &[u8]) -> Result<(FromClient, Vec<u8>), ClientFault> {
        let mut to_server = Output::default();
        let done = self.deal_client(bytes, &mut to_server)?;
        Ok((done, to_server.concat(bytes)))
    }

    /// What the server gets when the client sends `bytes`, all of which must
    /// be dealt with at once.
    fn client(&mut self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let bytes = bytes.as_ref();
        let (done, sent) = self.try_client(bytes).unwrap();
        assert_eq!(done.consumed, bytes.len(), "{done:?}");
        sent
    }

    fn try_server(&mut self, bytes: &[u8]) -> Result<FromServer, ServerFault> {
        let mut to_client = Output::default();
        let done = from_server(
            Self::rules(&self.registry, &self.interner, self.mode),
            Some(&mut self.client),
            &mut self.server,
            bytes,
            &mut to_client,
        );
        self.answers.extend(to_client.concat(bytes));
        done
    }

    /// The server sends `bytes`, all of which must be dealt with at once.
    fn server(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let done = self.try_server(bytes).unwrap();
        assert_eq!(done.consumed, bytes.len(), "{done:?}");
    }

    /// What the client has got since last asked, as types.
    fn answers(&mut self) -> String {
        kinds(&std::mem::take(&mut self.answers))
    }

    /// The SQLSTATE of the first error that the client has got since last asked.
    fn error_code(&mut self) -> String {
        let answers = std::mem::take(&mut self.answers);
        let error = wire::messages(&answers).find(|frame| frame.kind == b'E');
        let fields = wire::ErrorFields::read(error.expect("no error").body);
        String::from_utf8_lossy(fields.code).into_owned()
    }

    fn released(&self) -> bool {
        self.server.released(&self.client)
    }

    /// The client prepares `name` and the server accepts it.
    fn prepare(&mut self, name: &str, sql: &str) {
        let sent = self.client([sample::parse(name, sql), sync().to_vec()].concat());
        let parses = wire::messages(&sent).filter(|frame| frame.kind == b'P');
        let complete = sample::bare(b'1').repeat(parses.count());
        self.server([complete, sample::ready(b'I')].concat());
        assert_eq!(self.answers(), "1 Z");
    }

    /// The checkout ends and the client gets another server.
    fn next_server(&mut self) {
        assert!(self.released());
        self.server = ServerSession::new(self.interner.empty(), 100);
    }

    /// The checkout ends and another client gets the server.
    fn next_client(&mut self) -> ClientSession {
        assert!(self.released());
        self.server.end_checkout();
        std::mem::replace(&mut self.client, ClientSession::new(self.interner.empty()))
    }
}

/// The name of the statement that a Parse, Bind or Describe is about.
fn name_of(frame: &wire::Frame<'_>) -> String {
    let names = match frame.kind {
        b'P' => frame.body,
        b'B' => wire::cstr(frame.body).unwrap().1,
        _ => &frame.body[1..],
    };
    String::from_utf8_lossy(wire::cstr(names).unwrap().0).into_owned()
}

/// Each message with the statement it names: `P:pk0 B:pk0 E S`.
fn named(bytes: &[u8]) -> String {
    let messages: Vec<String> = wire::messages(bytes)
        .map(|frame| match frame.kind {
            kind @ (b'P' | b'B' | b'D' | b'C') => {
                format!("{}:{}", char::from(kind), name_of(&frame))
            }
            kind => char::from(kind).to_string(),
        })
        .collect();
    messages.join(" ")
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}
