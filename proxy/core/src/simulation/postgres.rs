//! A small, honest model of a PostgreSQL backend.
//!
//! It follows `PostgresMain`, `exec_*_message` and `CopyGetData` of PostgreSQL
//! 17: when output is flushed, what an error skips, what COPY ignores, when a
//! transaction that nobody began ends, when parameters are reported.

mod carrying_out;
mod extended;
mod settings;
mod sql;

use std::collections::{BTreeMap, VecDeque};

use crate::wire::{
    self, Severity, SqlState, backend, error_response, frontend, notice_response, sample,
};
use settings::Settings;
use sql::Sql;

/// PostgreSQL sends its output when this much has gathered.
const BUFFER: usize = 8192;

#[derive(Debug)]
pub(super) struct Backend {
    /// Read, not yet dealt with.
    input: Vec<u8>,
    /// Gathered, not yet flushed.
    gathered: Vec<u8>,
    /// Flushed: on the wire.
    pub(super) sent: Vec<u8>,
    statements: BTreeMap<String, Prepared>,
    portals: BTreeMap<String, Portal>,
    settings: Settings,
    block: Block,
    /// A transaction that only a Sync or the end of a Query completes.
    implicit: bool,
    /// After an error in an extended-protocol batch.
    skipping: bool,
    /// The present message belongs to the extended protocol.
    extended: bool,
    doing: Doing,
    closed: bool,
    /// How often it has flushed.
    pub(super) flushes: u64,
    /// Whose statements have been executed since last asked.
    pub(super) ran: Vec<usize>,
    /// What a pooler must never do to it.
    pub(super) complaints: Vec<String>,
}

#[derive(Clone, Debug)]
struct Prepared {
    text: String,
    sql: Option<Sql>,
}

#[derive(Clone, Debug)]
struct Portal {
    statement: String,
    prepared: Prepared,
    parameters: Vec<String>,
    /// Rows given so far.
    position: usize,
    done: bool,
}

/// A transaction block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    None,
    Open,
    Failed,
}

#[derive(Debug)]
enum Doing {
    Nothing,
    /// A slow statement: the tag it will show, and what comes then.
    Sleeping {
        shows: String,
        then: Then,
    },
    CopyingIn {
        rows: usize,
        then: Then,
    },
}

/// What comes after a statement.
#[derive(Debug)]
enum Then {
    /// The rest of a Query.
    Query(VecDeque<String>),
    /// Nothing: it was an Execute.
    Execute,
}

enum Executed {
    Done,
    Raised,
    Suspended(Doing),
}

impl Backend {
    pub(super) fn new() -> Self {
        Self {
            input: Vec::new(),
            gathered: Vec::new(),
            sent: Vec::new(),
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            settings: Settings::new(),
            block: Block::None,
            implicit: false,
            skipping: false,
            extended: false,
            doing: Doing::Nothing,
            closed: false,
            flushes: 0,
            ran: Vec::new(),
            complaints: Vec::new(),
        }
    }

    /// What a login reports.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.settings.all()
    }

    /// A parameter of a start-up packet. Says whether it is taken.
    pub(super) fn start_with(&mut self, name: &str, value: &str) -> bool {
        let taken = self.settings.set(name, value);
        self.settings.report();
        taken
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Everything there is to tell, flushed or not; for a model that stands
    /// beside its client.
    pub(super) fn take_all(&mut self) -> (Vec<u8>, Vec<u8>) {
        (
            std::mem::take(&mut self.sent),
            std::mem::take(&mut self.gathered),
        )
    }

    pub(super) fn is_sleeping(&self) -> bool {
        matches!(self.doing, Doing::Sleeping { .. })
    }

    pub(super) fn is_copying_in(&self) -> bool {
        matches!(self.doing, Doing::CopyingIn { .. })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Text of the unnamed statement.
    pub(super) fn unnamed(&self) -> Option<&str> {
        self.statements.get("").map(|prepared| &*prepared.text)
    }

    pub(super) fn in_block(&self) -> bool {
        self.block != Block::None
    }

    /// As if it had just logged in: whatever the pooler believes, nothing of
    /// the last client's is left.
    pub(super) fn is_quiet(&self) -> bool {
        self.gathered.is_empty()
            && matches!(self.doing, Doing::Nothing)
            && self.block == Block::None
            && !self.implicit
            && !self.skipping
            && self.portals.is_empty()
    }

    /// Received, but not dealt with.
    pub(super) fn unread(&self) -> &[u8] {
        &self.input
    }

    /// The statements that a pooler has taught it: name and text.
    pub(super) fn taught(&self) -> Vec<(String, String)> {
        let ours = self.statements.iter().filter(|(name, _)| {
            name.strip_prefix("pk")
                .is_some_and(|id| id.parse::<u64>().is_ok())
        });
        ours.map(|(name, prepared)| (name.clone(), prepared.text.clone()))
            .collect()
    }

    /// Deals with one message. Says whether there was one to deal with.
    pub(super) fn step(&mut self) -> bool {
        if self.closed || self.is_sleeping() {
            return false;
        }
        let Some((kind, body)) = self.take_message() else {
            return false;
        };
        if self.is_copying_in() {
            self.copy_message(kind, &body);
        } else {
            self.message(kind, &body);
        }
        true
    }

    /// The slow statement has ended.
    pub(super) fn wake(&mut self) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Sleeping { shows, then } => {
                self.put(&sample::data_row(&shows));
                self.put(&sample::complete("SELECT 1"));
                self.go_on(then);
            }
            other => self.doing = other,
        }
    }

    /// A cancel request has come.
    pub(super) fn cancel(&mut self) {
        if self.is_sleeping() {
            self.raise("57014", "canceling statement due to user request");
        }
    }

    /// Ends the connection as an administrator would.
    pub(super) fn terminate(&mut self) {
        let code = SqlState::ADMIN_SHUTDOWN;
        let message = error_response(Severity::Fatal, code, "terminating connection", "");
        self.put(&message);
        self.flush();
        self.closed = true;
    }

    /// Says something that nobody asked for.
    pub(super) fn notice(&mut self) {
        if !self.closed {
            let text = "asynchronous";
            self.put(&notice_response(
                Severity::Notice,
                SqlState("01000"),
                text,
                "",
            ));
            self.flush();
        }
    }

    fn take_message(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = wire::header(&self.input).expect("the pooler sends lengths that can be")?;
        let body = self.input.get(5..head.total)?.to_vec();
        self.input.drain(..head.total);
        Some((head.kind, body))
    }

    fn put(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= BUFFER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.flushes += 1;
        self.sent.append(&mut self.gathered);
    }

    fn message(&mut self, kind: u8, body: &[u8]) {
        self.extended = matches!(
            kind,
            frontend::PARSE
                | frontend::BIND
                | frontend::DESCRIBE
                | frontend::EXECUTE
                | frontend::CLOSE
                | frontend::FLUSH
        );
        if kind == frontend::SYNC {
            self.skipping = false;
        }
        if self.skipping {
            return;
        }
        match kind {
            frontend::QUERY => self.query(body),
            frontend::PARSE => self.parse(body),
            frontend::BIND => self.bind(body),
            frontend::DESCRIBE => self.describe(body),
            frontend::EXECUTE => self.execute(body),
            frontend::CLOSE => self.close(body),
            frontend::FLUSH => self.flush(),
            frontend::SYNC => {
                self.end_implicit();
                self.ready();
            }
            frontend::FUNCTION_CALL => self.function_call(body),
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => {}
            frontend::TERMINATE => self.closed = true,
            kind => {
                self.complaints
                    .push(format!("message of type {:?}", char::from(kind)));
                self.terminate();
            }
        }
    }

    fn ready(&mut self) {
        let report = self.settings.report();
        self.put(&report);
        let status = match self.block {
            Block::None => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        };
        self.put(&sample::ready(status));
        self.flush();
    }

    fn start(&mut self) {
        if self.block == Block::None {
            self.implicit = true;
        }
        if self.block != Block::Failed {
            self.settings.begin();
        }
    }

    fn end_implicit(&mut self) {
        if self.block == Block::None {
            self.implicit = false;
            self.settings.commit();
            self.portals.clear();
        }
    }

    /// An error: what it undoes, what it skips.
    fn raise(&mut self, code: &'static str, text: &str) {
        self.put(&sample::error(code, text));
        self.flush();
        self.settings.roll_back();
        self.portals.clear();
        self.implicit = false;
        if self.block == Block::Open {
            self.block = Block::Failed;
        }
        self.doing = Doing::Nothing;
        if self.extended {
            self.skipping = true;
        } else {
            self.ready();
        }
    }

    fn raise_aborted(&mut self) {
        self.raise("25P02", "current transaction is aborted");
    }

    fn query(&mut self, body: &[u8]) {
        self.statements.remove("");
        self.portals.remove("");
        let text = text_of(body).0;
        let rest: VecDeque<String> = sql::split(&text).map(ToOwned::to_owned).collect();
        if let Some(bad) = rest.iter().find(|text| Sql::read(text).is_none()) {
            return self.raise("42601", &format!("syntax error at {bad}"));
        }
        if rest.is_empty() {
            self.put(&sample::bare(backend::EMPTY_QUERY_RESPONSE));
        }
        self.run(rest);
    }

    /// The statements of a Query, one by one.
    fn run(&mut self, mut rest: VecDeque<String>) {
        while let Some(text) = rest.pop_front() {
            let sql = Sql::read(&text).expect("it has been read before");
            if self.block == Block::Failed && !sql.ends_transaction() {
                return self.raise_aborted();
            }
            if let Sql::Missing { tag } = &sql {
                return self.raise("42P01", &format!("{tag} does not exist"));
            }
            self.start();
            if sql.returns_rows() {
                self.put(&sample::row_description());
            }
            match self.carry_out(&sql, &text, &[], Then::Query(VecDeque::new())) {
                Executed::Done => {}
                Executed::Raised => return,
                Executed::Suspended(mut doing) => {
                    if let Doing::Sleeping { then, .. } | Doing::CopyingIn { then, .. } = &mut doing
                    {
                        *then = Then::Query(rest);
                    }
                    self.doing = doing;
                    return;
                }
            }
        }
        self.end_implicit();
        self.ready();
    }

    fn go_on(&mut self, then: Then) {
        if let Then::Query(rest) = then {
            self.run(rest);
        }
    }

    fn function_call(&mut self, body: &[u8]) {
        if self.block == Block::Failed {
            return self.raise_aborted();
        }
        self.start();
        let argument = String::from_utf8_lossy(&body[4..]).into_owned();
        self.note_owner(&argument);
        let answer = wire::message(backend::FUNCTION_CALL_RESPONSE, |out| {
            out.extend((argument.len() as u32).to_be_bytes());
            out.extend_from_slice(argument.as_bytes());
        });
        self.put(&answer);
        self.end_implicit();
        self.ready();
    }

    fn copy_message(&mut self, kind: u8, body: &[u8]) {
        let Doing::CopyingIn { rows, .. } = &mut self.doing else {
            unreachable!("it copies in");
        };
        match kind {
            frontend::COPY_DATA => {
                if body.starts_with(b"bad") {
                    return self.raise("22P02", "bad row");
                }
                *rows += 1;
            }
            frontend::COPY_DONE => {
                let tag = format!("COPY {rows}");
                self.put(&sample::complete(&tag));
                if let Doing::CopyingIn { then, .. } =
                    std::mem::replace(&mut self.doing, Doing::Nothing)
                {
                    self.go_on(then);
                }
            }
            frontend::COPY_FAIL => self.raise("57014", "COPY from stdin failed"),
            frontend::FLUSH | frontend::SYNC => {}
            kind => {
                self.complaints.push(format!(
                    "message of type {:?} during COPY",
                    char::from(kind)
                ));
                self.terminate();
            }
        }
    }
}

fn text_of(bytes: &[u8]) -> (String, &[u8]) {
    let (text, rest) = wire::cstr(bytes).expect("the pooler sends whole strings");
    (String::from_utf8_lossy(text).into_owned(), rest)
}
