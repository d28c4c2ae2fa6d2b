//! From a client to its server.

use std::sync::Arc;

use super::{
    AWAITED_WHOLE_MAX, CLIENT_STATEMENTS_MAX, ClientFault, ClientSession, DUE_MAX, Rules,
    ServerSession, Transaction, WHOLE_MESSAGE_MAX,
    due::{Due, Naming},
    output::Output,
};
use crate::{
    sabotage::{Sabotage, sabotaged},
    statement::Statement,
    wire::{self, Header, Severity, SqlState, cstr, error_response, frontend, header},
};

/// What became of bytes read from a linked client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FromClient {
    /// Bytes dealt with; the others must be kept and come first next time.
    pub consumed: usize,
    /// If not zero: bytes needed, counted from `consumed`, before the message
    /// there can be dealt with.
    pub needed: usize,
    /// The client said goodbye.
    pub terminated: bool,
    /// Too much is due already, or the next message depends on what becomes of
    /// requests already sent: ask again when answers have come.
    pub paused: bool,
    /// Parse messages, of any statement.
    pub parses: u32,
    /// Parse messages sent to the server, ours included.
    pub parses_server: u32,
    /// Bind messages.
    pub binds: u32,
}

/// What the first message of an unlinked client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlinked {
    /// A server. Nothing has been consumed.
    NeedsServer,
    /// Nothing: it has been dealt with.
    Handled {
        /// Bytes dealt with.
        consumed: usize,
        /// ReadyForQuery messages to send, one for each Sync.
        ready: u32,
    },
    /// The client said goodbye.
    Terminated,
}

impl ClientSession {
    /// Looks at what an unlinked client sent.
    ///
    /// A Sync alone is answered by us, late CopyData (the server reported an
    /// error while the client was still sending) is dropped as a server would.
    ///
    /// # Errors
    /// See [`ClientFault`].
    pub fn unlinked(&mut self, input: &[u8]) -> Result<Unlinked, ClientFault> {
        let mut at = skip_rest(&mut self.rest, input.len());
        let mut ready = 0;
        loop {
            let head = match header(&input[at..]) {
                Ok(Some(head)) => head,
                Err(error) if at == 0 => return Err(error.into()),
                _ => break,
            };
            match head.kind {
                frontend::TERMINATE if at == 0 => return Ok(Unlinked::Terminated),
                frontend::COPY_DATA
                | frontend::COPY_DONE
                | frontend::COPY_FAIL
                | frontend::FLUSH
                | frontend::SYNC => {
                    ready += u32::from(head.kind == frontend::SYNC);
                    let end = (at + head.total).min(input.len());
                    self.rest = rest_of(at + head.total - end);
                    self.rest_dropped = true;
                    at = end;
                }
                _ if at == 0 => {
                    check_kind(head.kind)?;
                    if head.total <= AWAITED_WHOLE_MAX && input.len() < head.total {
                        break;
                    }
                    return Ok(Unlinked::NeedsServer);
                }
                // Deal with what came before it first.
                _ => break,
            }
        }
        Ok(Unlinked::Handled {
            consumed: at,
            ready,
        })
    }
}

/// Length of the request at the start of what a client sent: a Query, or a
/// batch up to its Sync. `None` if it has not come as a whole.
#[must_use]
pub fn request_length(input: &[u8]) -> Option<usize> {
    let mut length = 0;
    for frame in wire::messages(input) {
        length += frame.body.len() + 5;
        if matches!(
            frame.kind,
            frontend::QUERY | frontend::SYNC | frontend::FUNCTION_CALL
        ) {
            return Some(length);
        }
    }
    None
}

fn rest_of(length: usize) -> u32 {
    u32::try_from(length).expect("a message's length fits in 32 bits")
}

/// Counts off the rest of a message that was cut; returns how far that reaches.
fn skip_rest(rest: &mut u32, available: usize) -> usize {
    let taken = (*rest as usize).min(available);
    *rest -= rest_of(taken);
    taken
}

fn check_kind(kind: u8) -> Result<(), ClientFault> {
    match kind {
        frontend::BIND
        | frontend::CLOSE
        | frontend::COPY_DATA
        | frontend::COPY_DONE
        | frontend::COPY_FAIL
        | frontend::DESCRIBE
        | frontend::EXECUTE
        | frontend::FLUSH
        | frontend::FUNCTION_CALL
        | frontend::PARSE
        | frontend::QUERY
        | frontend::SYNC
        | frontend::TERMINATE => Ok(()),
        kind => Err(ClientFault::Kind(kind)),
    }
}

/// Turns what was read from a linked client into what its server gets
/// (`to_server`) and what the client is answered at once (`to_client`).
///
/// # Errors
/// See [`ClientFault`]. The server must then be closed unless nothing was sent to it.
pub fn from_client(
    rules: Rules<'_>,
    client: &mut ClientSession,
    server: &mut ServerSession,
    input: &[u8],
    to_server: &mut Output,
    to_client: &mut Output,
) -> Result<FromClient, ClientFault> {
    let begun = skip_rest(&mut client.rest, input.len());
    if !client.rest_dropped {
        to_server.span(0..begun);
    }
    let mut reader = Reader {
        rules,
        client,
        server,
        input,
        to_server,
        to_client,
        done: FromClient {
            consumed: begun,
            ..FromClient::default()
        },
    };
    reader.run()?;
    Ok(reader.done)
}

struct Reader<'a> {
    rules: Rules<'a>,
    client: &'a mut ClientSession,
    server: &'a mut ServerSession,
    input: &'a [u8],
    to_server: &'a mut Output,
    to_client: &'a mut Output,
    done: FromClient,
}

/// Whether to go on with the next message.
enum Next {
    Go,
    Stop,
}

impl<'a> Reader<'a> {
    fn run(&mut self) -> Result<(), ClientFault> {
        while self.done.consumed < self.input.len() {
            let Some(head) = header(&self.input[self.done.consumed..])? else {
                self.done.needed = 5;
                return Ok(());
            };
            if self.server.due.len() >= DUE_MAX {
                self.pause();
                return Ok(());
            }
            if let Next::Stop = self.message(head)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn message(&mut self, head: Header) -> Result<Next, ClientFault> {
        match head.kind {
            frontend::SYNC => self.sync(head),
            frontend::TERMINATE => {
                self.done.consumed += head.total.min(self.rest_len());
                self.done.terminated = true;
                return Ok(Next::Stop);
            }
            frontend::COPY_DATA | frontend::FLUSH => self.forward(head),
            frontend::COPY_DONE | frontend::COPY_FAIL => {
                if self.server.copying_in {
                    self.server.copying_in = false;
                } else if !self.server.due.is_empty() {
                    self.server.due.push(Due::CopyEnd);
                }
                self.forward(head);
            }
            // The server ignores all others until the batch's Sync.
            _ if self.server.skipping => {
                check_kind(head.kind)?;
                self.forward(head);
            }
            kind => return self.request(kind, head),
        }
        Ok(Next::Go)
    }

    /// A message that has an answer.
    fn request(&mut self, kind: u8, head: Header) -> Result<Next, ClientFault> {
        let server = &mut *self.server;
        let in_doubt = server.due.doubts_syncs() || server.readies_in_doubt > 0;
        if in_doubt && !server.due.is_fenced() && !server.copying_in {
            if server.due.copy_goes_on() {
                return Ok(self.pause());
            }
            self.fence();
        }
        match kind {
            frontend::QUERY => return self.query(head),
            frontend::EXECUTE => self.batch(Due::Execute, head),
            frontend::BIND => return self.bind(head),
            frontend::PARSE => return self.parse(head),
            frontend::DESCRIBE => return self.describe(head),
            frontend::CLOSE => return self.close(head),
            frontend::FUNCTION_CALL => {
                self.server.due.push(Due::FunctionCall);
                self.server.unsynced = false;
                self.forward(head);
            }
            kind => return Err(ClientFault::Kind(kind)),
        }
        Ok(Next::Go)
    }

    fn rest_len(&self) -> usize {
        self.input.len() - self.done.consumed
    }

    /// Stops until `length` bytes of the message are there.
    fn need(&mut self, length: usize) -> Next {
        self.done.needed = length;
        Next::Stop
    }

    /// Stops until answers have come. Without a Sync PostgreSQL may keep them,
    /// and all would wait for each other: hence the Flush.
    fn pause(&mut self) -> Next {
        self.to_server.own(&wire::message(frontend::FLUSH, |_| {}));
        self.done.paused = true;
        Next::Stop
    }

    /// As much of the message's body as has been read.
    fn body(&self, head: Header) -> &'a [u8] {
        let from = self.done.consumed;
        &self.input[from + 5..(from + head.total).min(self.input.len())]
    }

    /// Passes a message on as it is, or as much of it as has been read.
    fn forward(&mut self, head: Header) {
        let from = self.done.consumed;
        let end = (from + head.total).min(self.input.len());
        self.to_server.span(from..end);
        self.consume(head, end);
    }

    fn consume(&mut self, head: Header, end: usize) {
        self.client.rest = rest_of(self.done.consumed + head.total - end);
        self.client.rest_dropped = false;
        self.done.consumed = end;
    }

    fn batch(&mut self, due: Due, head: Header) {
        self.server.due.push(due);
        self.server.unsynced = true;
        self.forward(head);
    }

    /// The whole message, or `None` after noting what is needed.
    fn whole(&mut self, head: Header) -> Result<Option<&'a [u8]>, ClientFault> {
        if head.total > WHOLE_MESSAGE_MAX {
            return Err(ClientFault::TooLong {
                length: head.total,
                max: WHOLE_MESSAGE_MAX,
            });
        }
        let from = self.done.consumed;
        let message = self.input.get(from..from + head.total);
        if message.is_none() {
            self.done.needed = head.total;
        }
        Ok(message)
    }

    /// The portal and the statement that a Bind names; `None` after noting
    /// that more bytes are needed.
    fn bind_names(&mut self, head: Header) -> Result<Option<[&'a [u8]; 2]>, ClientFault> {
        let body = self.body(head);
        let looked_at = &body[..body.len().min(BIND_NAMES_MAX)];
        let names = cstr(looked_at).and_then(|(portal, rest)| Some([portal, cstr(rest)?.0]));
        if names.is_some() {
            return Ok(names);
        }
        if body.len() + 5 == head.total {
            return Err(ClientFault::Malformed("Bind"));
        }
        if looked_at.len() == BIND_NAMES_MAX {
            return Err(ClientFault::TooLong {
                length: head.total,
                max: BIND_NAMES_MAX,
            });
        }
        self.need(head.total.min(5 + BIND_NAMES_MAX));
        Ok(None)
    }

    fn sync(&mut self, head: Header) {
        self.forward(head);
        if self.server.copying_in {
            self.server.due.push(Due::SyncInCopy);
            return;
        }
        // A simple Query may go on to copy in again, and then take no Close.
        let due = &mut self.server.due;
        let in_doubt = due.doubts_syncs() && self.server.copy_extended && !due.is_fenced();
        let needs_fence = in_doubt || due.copies_unasked();
        due.push(Due::Sync);
        self.server.unsynced = false;
        self.server.skipping = false;
        if needs_fence {
            self.fence();
        }
    }

    /// Makes the server answer, so that it is known which Syncs it ignored.
    fn fence(&mut self) {
        self.to_server.own(&wire::message(frontend::CLOSE, |out| {
            out.extend_from_slice(b"Ppoolkeeper_fence\0");
        }));
        self.to_server.own(&wire::message(frontend::FLUSH, |_| {}));
        self.server.due.push(Due::Fence);
    }

    fn query(&mut self, head: Header) -> Result<Next, ClientFault> {
        let due = match self.forgets(head) {
            Forgets::Nothing => Due::Query,
            Forgets::Unseen(needed) => return Ok(self.need(needed)),
            Forgets::Perhaps => Due::Forgets,
            Forgets::Name(_) if self.server.due.unsettled() => return Ok(self.pause()),
            Forgets::Name(name) if self.client.statement(&name).is_some() => {
                self.server.due.push(Due::Deallocate { name });
                self.server.unsynced = false;
                self.to_server
                    .own(&wire::query("UNLISTEN poolkeeper_nothing"));
                self.consume(head, self.done.consumed + head.total);
                return Ok(Next::Go);
            }
            Forgets::Name(_) => Due::Forgets,
        };
        self.server.due.push(due);
        self.server.unsynced = false;
        self.forward(head);
        Ok(Next::Go)
    }

    /// What statements a Query forgets, judged by its first word.
    fn forgets(&self, head: Header) -> Forgets {
        const WORDS: [&[u8]; 2] = [b"deallocate", b"discard"];
        const LOOKED_AT: usize = 10;
        /// Longest `DEALLOCATE name` looked at as a whole.
        const LENGTH_MAX: usize = 256;
        if !self.rules.follow_statements || head.total == 5 {
            return Forgets::Nothing;
        }
        let text = self.body(head);
        let Some(first) = text.first() else {
            return Forgets::Unseen(6);
        };
        if !first.eq_ignore_ascii_case(&b'd') {
            return Forgets::Nothing;
        }
        let is_whole = text.len() + 5 == head.total;
        if !is_whole && (head.total <= LENGTH_MAX || text.len() < LOOKED_AT) {
            return Forgets::Unseen(if head.total <= LENGTH_MAX {
                head.total
            } else {
                5 + LOOKED_AT
            });
        }
        let begins = |word: &[u8]| {
            text.get(..word.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(word))
        };
        if !WORDS.into_iter().any(begins) {
            return Forgets::Nothing;
        }
        let name = std::str::from_utf8(text)
            .ok()
            .filter(|_| head.total <= LENGTH_MAX)
            .and_then(|sql| deallocate_target(sql.trim_end_matches('\0')));
        name.map_or(Forgets::Perhaps, |name| {
            Forgets::Name(name.into_bytes().into_boxed_slice())
        })
    }

    fn parse(&mut self, head: Header) -> Result<Next, ClientFault> {
        if head.total == 5 {
            return Err(ClientFault::Malformed("Parse"));
        }
        let Some(first) = self.body(head).first() else {
            return Ok(self.need(6));
        };
        if *first == 0 || !self.rules.follow_statements {
            self.done.parses += 1;
            self.done.parses_server += 1;
            self.batch(Due::Parse(None), head);
            return Ok(Next::Go);
        }
        let Some(message) = self.whole(head)? else {
            return Ok(Next::Stop);
        };
        let (name, definition) = cstr(&message[5..]).ok_or(ClientFault::Malformed("Parse"))?;
        // A definition without its zeros would be malformed on the server too,
        // but under a name that others share.
        let types = cstr(definition).map(|(_, types)| types);
        if types.is_none_or(|types| types.len() < 2) {
            return Err(ClientFault::Malformed("Parse"));
        }
        if self.server.due.unsettled() {
            return Ok(self.pause());
        }
        self.done.parses += 1;
        self.server.unsynced = true;
        self.parse_named(name, definition);
        self.consume(head, self.done.consumed + head.total);
        Ok(Next::Go)
    }

    fn parse_named(&mut self, name: &[u8], definition: &[u8]) {
        if self.client.statement(name).is_some() {
            // PostgreSQL looks at the name last: any other error comes first.
            self.parse_scratch(None, definition);
            let text = format!("prepared statement \"{}\" already exists", shown(name));
            return self.refuse(SqlState::DUPLICATE_STATEMENT, &text);
        }
        if self.client.statements_len() >= CLIENT_STATEMENTS_MAX {
            let text = format!("session holds {CLIENT_STATEMENTS_MAX} prepared statements already");
            return self.refuse(SqlState::LIMIT_EXCEEDED, &text);
        }
        let rules = self.rules;
        let search_path = rules
            .interner
            .tracked()
            .index(b"search_path")
            .and_then(|index| self.client.parameters.value(index))
            .unwrap_or_default();
        let statement = rules.registry.intern(rules.scope, search_path, definition);
        self.client.name_statement(name.into(), statement.clone());
        let naming = Box::new(Naming {
            name: name.into(),
            statement: statement.clone(),
        });
        if !self.server.statements.touch(&statement) {
            self.make_room(&statement);
            self.server.due.push(Due::Parse(Some(naming)));
            self.send_parse(statement.server_name().as_bytes(), definition);
        } else if self.server.transaction == Transaction::Failed || self.server.due.awaits_ready() {
            // In a failed transaction most statements cannot be parsed.
            self.parse_scratch(Some(naming), definition);
        } else {
            self.answer(Due::ParseAnswered(naming));
        }
    }

    /// Has the server parse `definition` only to see whether it can.
    fn parse_scratch(&mut self, naming: Option<Box<Naming>>, definition: &[u8]) {
        self.to_server.own(&wire::close_statement(SCRATCH_NAME));
        self.server.due.push(Due::CloseScratch);
        self.server.due.push(Due::ParseScratch(naming));
        self.send_parse(SCRATCH_NAME, definition);
    }

    fn send_parse(&mut self, server_name: &[u8], definition: &[u8]) {
        self.to_server.own(&wire::parse(server_name, definition));
        self.done.parses_server += 1;
    }

    fn bind(&mut self, head: Header) -> Result<Next, ClientFault> {
        if !self.rules.follow_statements {
            self.done.binds += 1;
            self.batch(Due::Bind, head);
            return Ok(Next::Go);
        }
        let Some([portal, name]) = self.bind_names(head)? else {
            return Ok(Next::Stop);
        };
        let next = self.uses(head, Due::Bind, portal.len() + 1, name);
        self.done.binds += u32::from(matches!(next, Next::Go));
        Ok(next)
    }

    fn describe(&mut self, head: Header) -> Result<Next, ClientFault> {
        match self.statement_name(head, "Describe")? {
            Named::Cut => return Ok(Next::Stop),
            Named::Statement(name) => return Ok(self.uses(head, Due::Describe, 1, name)),
            Named::Other => self.batch(Due::Describe, head),
        }
        Ok(Next::Go)
    }

    fn close(&mut self, head: Header) -> Result<Next, ClientFault> {
        match self.statement_name(head, "Close")? {
            Named::Cut => return Ok(Next::Stop),
            Named::Other | Named::Statement(b"") => self.batch(Due::Close, head),
            Named::Statement(_) if self.server.due.unsettled() => return Ok(self.pause()),
            Named::Statement(name) => {
                self.server.unsynced = true;
                let naming = self
                    .client
                    .forget_statement(name)
                    .map(|(name, statement)| Box::new(Naming { name, statement }));
                self.answer(Due::CloseAnswered(naming));
                self.consume(head, self.done.consumed + head.total);
            }
        }
        Ok(Next::Go)
    }

    /// The named statement that a Describe or Close is about, if it is one that
    /// follows the client.
    fn statement_name(
        &mut self,
        head: Header,
        what: &'static str,
    ) -> Result<Named<'a>, ClientFault> {
        if !self.rules.follow_statements {
            return Ok(Named::Other);
        }
        let Some(message) = self.whole(head)? else {
            return Ok(Named::Cut);
        };
        let body = &message[5..];
        let (&target, name) = body.split_first().ok_or(ClientFault::Malformed(what))?;
        let (name, rest) = cstr(name).ok_or(ClientFault::Malformed(what))?;
        if !rest.is_empty() {
            return Err(ClientFault::Malformed(what));
        }
        Ok(match target {
            b'S' => Named::Statement(name),
            _ => Named::Other,
        })
    }

    /// Passes on a message that uses the statement `name`. `skip` is the number
    /// of bytes of the body before the name.
    fn uses(&mut self, head: Header, due: Due, skip: usize, name: &[u8]) -> Next {
        if name.is_empty() {
            return self.uses_unnamed(head, due);
        }
        if self.server.due.unsettled() {
            return self.pause();
        }
        self.server.unsynced = true;
        if let Some(statement) = self.client.statement(name).cloned() {
            self.teach(&statement);
            self.server.due.push(due);
            self.rename(head, skip, name, statement.server_name().as_bytes());
        } else {
            let text = format!("prepared statement \"{}\" does not exist", shown(name));
            self.refuse(SqlState::INVALID_STATEMENT_NAME, &text);
            self.drop_message(head);
        }
        Next::Go
    }

    /// The unnamed statement does not follow its client. What the server has
    /// under no name may be another client's.
    fn uses_unnamed(&mut self, head: Header, due: Due) -> Next {
        let parsed = |due: &Due| matches!(due, Due::Parse(None));
        let is_clients = self.server.unnamed || self.server.due.unnamed_in_batch();
        if is_clients || sabotaged(Sabotage::SharedUnnamed) {
            self.batch(due, head);
        } else if self.server.due.iter().any(parsed) {
            return self.pause();
        } else {
            self.server.unsynced = true;
            self.refuse(
                SqlState::INVALID_STATEMENT_NAME,
                "unnamed prepared statement does not exist",
            );
            self.drop_message(head);
        }
        Next::Go
    }

    /// Passes a message on with `to` in place of the name `from`.
    fn rename(&mut self, head: Header, skip: usize, from: &[u8], to: &[u8]) {
        let body = self.done.consumed + 5;
        let end = (self.done.consumed + head.total).min(self.input.len());
        let length = head.total - 1 - from.len() + to.len();
        self.to_server.own(&[head.kind]);
        self.to_server.own(&rest_of(length).to_be_bytes());
        self.to_server.own(&self.input[body..body + skip]);
        self.to_server.own(to);
        self.to_server.span(body + skip + from.len()..end);
        self.consume(head, end);
    }

    /// Drops a message instead of passing it on, the part still to come included.
    fn drop_message(&mut self, head: Header) {
        let end = (self.done.consumed + head.total).min(self.input.len());
        self.consume(head, end);
        self.client.rest_dropped = true;
    }

    /// Makes sure that the server has `statement` by the time it reads what
    /// is sent next.
    fn teach(&mut self, statement: &Arc<Statement>) {
        if self.server.statements.touch(statement) {
            return;
        }
        self.make_room(statement);
        self.server.due.push(Due::ParseOurs(statement.clone()));
        self.send_parse(statement.server_name().as_bytes(), statement.definition());
    }

    /// Counts `statement` as held by the server and closes others for it.
    fn make_room(&mut self, statement: &Arc<Statement>) {
        for _ in 0..EVICTED_MAX {
            let Some(evicted) = self.server.statements.evict() else {
                break;
            };
            self.to_server
                .own(&wire::close_statement(evicted.server_name().as_bytes()));
            self.server.due.push(Due::CloseOurs(evicted));
        }
        self.server.statements.insert(statement.clone());
    }

    /// Answers in the server's stead, now if nothing is due before it and no
    /// message to the client is cut in two.
    fn answer(&mut self, due: Due) {
        let between_messages = self.server.rest == 0 || sabotaged(Sabotage::AnswerAtOnce);
        if self.server.due.is_empty() && between_messages {
            self.to_client.own(super::server::answer_of(&due));
        } else {
            self.server.due.push(due);
        }
    }

    /// Makes the server fail (its transaction must know of the error, too) and
    /// gives the client a message of ours in place of the server's.
    fn refuse(&mut self, code: SqlState, text: &str) {
        let error = error_response(Severity::Error, code, text, "");
        self.server.due.push(Due::Refuse(error.into_boxed_slice()));
        self.to_server.own(&wire::message(frontend::EXECUTE, |out| {
            out.extend_from_slice(b"poolkeeper_refusal\0");
            out.extend(0_u32.to_be_bytes());
        }));
    }
}

/// The start of a Bind's body in which both names must end.
const BIND_NAMES_MAX: usize = 16 * 1024;

/// Most statements closed to make room for one: two, so that a server which
/// had to hold more than its capacity for a while comes back to it.
const EVICTED_MAX: usize = 2;

/// A name that no statement has: those are `pk` and digits.
const SCRATCH_NAME: &[u8] = b"pkx";

/// A name as an error message shows it: not longer than PostgreSQL's names.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(63)]).into_owned()
}

enum Named<'a> {
    /// More bytes are needed.
    Cut,
    /// A portal, or names are not followed.
    Other,
    /// A statement; without a name it does not follow the client.
    Statement(&'a [u8]),
}

/// What statements a Query forgets.
enum Forgets {
    Nothing,
    /// Cannot be told before this many bytes of the message are there.
    Unseen(usize),
    /// Any.
    Perhaps,
    /// One, if the client has named it through the protocol: on the server it
    /// goes by another name.
    Name(Box<[u8]>),
}

/// The name in `DEALLOCATE [PREPARE] name [;]`, unquoted and case-folded as
/// PostgreSQL would; `None` for ALL and for anything else.
fn deallocate_target(sql: &str) -> Option<String> {
    let rest = strip_word(sql.trim(), "deallocate")?;
    let rest = strip_word(rest, "prepare").unwrap_or(rest);
    let name = rest.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace());
    if let Some(quoted) = name.strip_prefix('"') {
        let quoted = quoted.strip_suffix('"')?;
        let unquoted = quoted.replace("\"\"", "\u{0}");
        return (!unquoted.contains('"')).then(|| unquoted.replace('\u{0}', "\""));
    }
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80);
    (plain && !name.is_empty() && !name.eq_ignore_ascii_case("all"))
        .then(|| name.to_ascii_lowercase())
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    let rest = &text[word.len()..];
    (head.eq_ignore_ascii_case(word)
        && rest.starts_with(|c: char| c.is_ascii_whitespace() || c == '"'))
    .then(|| rest.trim_start())
}

#[cfg(test)]
mod tests {
    use super::deallocate_target;

    #[test]
    fn deallocate_names_are_read_as_postgresql_reads_them() {
        for (sql, name) in [
            ("DEALLOCATE s1", Some("s1")),
            ("deallocate prepare S1;", Some("s1")),
            ("DEALLOCATE \"S 1\" ;", Some("S 1")),
            ("DEALLOCATE \"a\"\"b\"", Some("a\"b")),
            ("DEALLOCATE ALL", None),
            ("DEALLOCATE", None),
            ("DEALLOCATE a; SELECT 1", None),
            ("SELECT 1", None),
        ] {
            assert_eq!(deallocate_target(sql).as_deref(), name, "{sql}");
        }
    }
}
