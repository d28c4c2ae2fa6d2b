//! Statements that follow a client: Parse, Bind, Describe, Close.

use std::sync::Arc;

use super::{Next, Reader, rest_of};
use crate::{
    sabotage::{Sabotage, sabotaged},
    session::{
        CLIENT_STATEMENTS_MAX, ClientFault, Transaction, WHOLE_MESSAGE_MAX,
        due::{Due, Naming},
        server,
    },
    statement::Statement,
    wire::{self, Header, Severity, SqlState, cstr, error_response, frontend},
};

/// The start of a Bind's body in which both names must end.
const BIND_NAMES_MAX: usize = 16 * 1024;

/// Most statements closed to make room for one: two, so that a server which
/// had to hold more than its capacity for a while comes back to it.
const EVICTED_MAX: usize = 2;

/// A name that no statement has: those are `pk` and digits.
const SCRATCH_NAME: &[u8] = b"pkx";

/// Longest unnamed Parse that outlives its batch.
const UNNAMED_KEPT_MAX: usize = 64 * 1024;

/// Whether the body of a Parse behind the name has both its parts.
fn is_definition(definition: &[u8]) -> bool {
    cstr(definition).is_some_and(|(_, types)| types.len() >= 2)
}

/// A name as an error message shows it: not longer than PostgreSQL's names.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(63)]).into_owned()
}

enum Named<'a> {
    /// More bytes are needed.
    Cut,
    /// A portal, or names are not followed.
    Other,
    /// A statement, the unnamed one under an empty name.
    Statement(&'a [u8]),
}

impl<'a> Reader<'a> {
    pub(super) fn parse(&mut self, head: Header) -> Result<Next, ClientFault> {
        if head.total == 5 {
            return Err(ClientFault::Malformed("Parse"));
        }
        let Some(first) = self.body(head).first() else {
            return Ok(self.need(6));
        };
        if !self.rules.follow_statements {
            self.pass_parse(Due::Parse(None), head);
            return Ok(Next::Go);
        }
        if *first == 0 {
            return Ok(self.parse_unnamed(head));
        }
        if head.total > WHOLE_MESSAGE_MAX {
            // No end of the session: who is still sending would not read why.
            self.server.unsynced = true;
            let length = head.total;
            let text =
                format!("prepared statement of {length} bytes is longer than {WHOLE_MESSAGE_MAX}");
            self.refuse(SqlState::PROGRAM_LIMIT_EXCEEDED, &text);
            self.drop_message(head);
            return Ok(Next::Go);
        }
        let Some(message) = self.whole(head)? else {
            return Ok(Next::Stop);
        };
        let (name, definition) = cstr(&message[5..]).ok_or(ClientFault::Malformed("Parse"))?;
        // It would be malformed on the server too, but under a name that others
        // share.
        if !is_definition(definition) {
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

    fn pass_parse(&mut self, due: Due, head: Header) {
        self.done.parses += 1;
        self.done.parses_server += 1;
        self.batch(due, head);
    }

    /// The unnamed statement is passed on as it is, for most clients bind it in
    /// the same batch. It is looked at only because some do not.
    fn parse_unnamed(&mut self, head: Header) -> Next {
        let from = self.done.consumed;
        let message = self.input.get(from..from + head.total);
        if message.is_none() && head.total <= UNNAMED_KEPT_MAX {
            return self.need(head.total);
        }
        let before = self.forget_unnamed();
        self.described = message
            .map(|message| &message[6..])
            .filter(|definition| is_definition(definition) && head.total <= UNNAMED_KEPT_MAX);
        self.pass_parse(Due::ParseUnnamed(before), head);
        Next::Go
    }

    /// The batch ends, and the unnamed statement has not been bound: its Bind
    /// may meet another server.
    pub(super) fn keep_unnamed(&mut self) {
        let earlier = self.server.described.take();
        if let Some(definition) = self.described.take().map(Box::from).or(earlier) {
            self.client.unnamed = Some(definition);
        }
    }

    fn unnamed_is_bound(&mut self) {
        self.described = None;
        self.server.described = None;
    }

    pub(super) fn forget_unnamed(&mut self) -> Option<Box<[u8]>> {
        self.unnamed_is_bound();
        self.client.unnamed.take()
    }

    fn intern(&self, definition: &[u8]) -> Arc<Statement> {
        let rules = self.rules;
        let search_path = rules
            .interner
            .tracked()
            .index(b"search_path")
            .and_then(|index| self.client.parameters.value(index))
            .unwrap_or_default();
        rules.registry.intern(rules.scope, search_path, definition)
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
        let statement = self.intern(definition);
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

    pub(super) fn bind(&mut self, head: Header) -> Result<Next, ClientFault> {
        if !self.rules.follow_statements {
            self.done.binds += 1;
            self.batch(Due::Bind, head);
            return Ok(Next::Go);
        }
        let Some([portal, name]) = self.bind_names(head)? else {
            return Ok(Next::Stop);
        };
        let next = self.uses(head, Due::Bind, portal.len() + 1, name);
        if name.is_empty() {
            self.unnamed_is_bound();
        }
        self.done.binds += u32::from(matches!(next, Next::Go));
        Ok(next)
    }

    pub(super) fn describe(&mut self, head: Header) -> Result<Next, ClientFault> {
        match self.statement_name(head, "Describe")? {
            Named::Cut => return Ok(Next::Stop),
            Named::Statement(b"") => return Ok(self.uses_unnamed(head, Due::DescribeUnnamed)),
            Named::Statement(name) => return Ok(self.uses(head, Due::Describe, 1, name)),
            Named::Other => self.batch(Due::Describe, head),
        }
        Ok(Next::Go)
    }

    pub(super) fn close(&mut self, head: Header) -> Result<Next, ClientFault> {
        match self.statement_name(head, "Close")? {
            Named::Cut => return Ok(Next::Stop),
            Named::Statement(b"") => {
                self.forget_unnamed();
                self.batch(Due::Close, head);
            }
            Named::Other => self.batch(Due::Close, head),
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

    /// What the server has under no name may be another client's. A client's
    /// own follows it if it was not bound in the batch that parsed it. It is
    /// parsed anew, as the client did: what others prepared by the same text may
    /// have been understood otherwise, before the tables were changed.
    fn uses_unnamed(&mut self, head: Header, due: Due) -> Next {
        let is_clients = self.server.unnamed || self.server.due.unnamed_in_batch();
        if !is_clients && !sabotaged(Sabotage::SharedUnnamed) {
            if self.server.due.iter().any(Due::is_unnamed_parse) || self.server.due.unsettled() {
                return self.pause();
            }
            self.server.unsynced = true;
            let Some(definition) = self.client.unnamed.take() else {
                self.refuse(
                    SqlState::INVALID_STATEMENT_NAME,
                    "unnamed prepared statement does not exist",
                );
                self.drop_message(head);
                return Next::Go;
            };
            self.server.due.push(Due::ParseUnnamedOurs);
            self.send_parse(b"", &definition);
            self.client.unnamed = Some(definition);
        }
        self.batch(due, head);
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
        let (at, available) = (self.done.consumed, self.input.len());
        self.done.consumed = self.client.drop_message(head, at, available);
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
            self.to_client.own(server::answer_of(&due));
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
}
