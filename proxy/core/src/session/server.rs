//! From a server to its client.

use super::{
    ClientSession, Rules, ServerFault, ServerSession, Transaction,
    due::{Due, Naming},
    output::Output,
};
use crate::{
    config::PoolMode,
    sabotage::{Sabotage, sabotaged},
    wire::{self, ErrorFields, Header, backend, cstr, header},
};

/// What became of bytes read from a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FromServer {
    /// Bytes dealt with; the others must be kept and come first next time.
    pub consumed: usize,
    /// If not zero: bytes needed, counted from `consumed`, before the message
    /// there can be dealt with.
    pub needed: usize,
    /// Requests completed: ReadyForQuery messages that answer the client.
    pub queries: u32,
    /// Transactions completed: those of them that said idle.
    pub transactions: u32,
}

/// Longest message looked into; longer ones pass unread.
const LOOK_MAX: usize = 16 * 1024;

/// Turns what was read from a server into what its client gets.
///
/// `client` is `None` while the server is not lent: what it says then is
/// noted and goes to nobody.
///
/// # Errors
/// See [`ServerFault`]: the server must be closed.
pub fn from_server(
    rules: Rules<'_>,
    client: Option<&mut ClientSession>,
    server: &mut ServerSession,
    input: &[u8],
    to_client: &mut Output,
) -> Result<FromServer, ServerFault> {
    let begun = (server.rest as usize).min(input.len());
    server.rest -= u32::try_from(begun).expect("no more than the rest, which fits");
    if !server.rest_dropped {
        to_client.span(0..begun);
    }
    let mut reader = Reader {
        rules,
        client,
        server,
        input,
        to_client,
        done: FromServer {
            consumed: begun,
            ..FromServer::default()
        },
    };
    reader.run()?;
    Ok(reader.done)
}

/// The message with which a request is answered in the server's stead.
pub(super) fn answer_of(due: &Due) -> &'static [u8] {
    match due {
        Due::ParseAnswered(_) => &[backend::PARSE_COMPLETE, 0, 0, 0, 4],
        Due::CloseAnswered(_) => &[backend::CLOSE_COMPLETE, 0, 0, 0, 4],
        _ => &[],
    }
}

struct Reader<'a> {
    rules: Rules<'a>,
    client: Option<&'a mut ClientSession>,
    server: &'a mut ServerSession,
    input: &'a [u8],
    to_client: &'a mut Output,
    done: FromServer,
}

impl<'a> Reader<'a> {
    fn run(&mut self) -> Result<(), ServerFault> {
        loop {
            if self.server.rest > 0 {
                return Ok(());
            }
            // Only between two messages may we put one of ours.
            self.answer_front();
            if self.done.consumed == self.input.len() {
                return Ok(());
            }
            let from = self.done.consumed;
            let Some(head) = header(&self.input[from..])? else {
                self.done.needed = 5;
                return Ok(());
            };
            let looked_into = matches!(
                head.kind,
                backend::READY_FOR_QUERY
                    | backend::COMMAND_COMPLETE
                    | backend::ERROR_RESPONSE
                    | backend::PARAMETER_STATUS
                    | backend::PARAMETER_DESCRIPTION
            );
            if looked_into && from + head.total > self.input.len() && head.total <= LOOK_MAX {
                self.done.needed = head.total;
                return Ok(());
            }
            // Nearly all messages of a large result: nothing to decide.
            if head.kind == backend::DATA_ROW
                && matches!(self.server.due.front(), Some(Due::Execute | Due::Query))
            {
                self.forward(head);
                continue;
            }
            self.message(head)?;
        }
    }

    fn message(&mut self, head: Header) -> Result<(), ServerFault> {
        match head.kind {
            backend::READY_FOR_QUERY => return self.ready(head),
            backend::PARAMETER_STATUS => return self.parameter(head),
            // Asynchronous: nobody's answer.
            backend::NOTICE_RESPONSE | backend::NOTIFICATION_RESPONSE => {
                self.pass_asynchronous(head);
                return Ok(());
            }
            _ => self.settle_syncs(),
        }
        match head.kind {
            backend::DATA_ROW
            | backend::ROW_DESCRIPTION
            | backend::NO_DATA
            | backend::COPY_DATA
            | backend::COPY_DONE
            | backend::COPY_OUT_RESPONSE
            | backend::PARAMETER_DESCRIPTION
            | backend::FUNCTION_CALL_RESPONSE => self.pass_described(head),
            backend::COMMAND_COMPLETE => self.command_complete(head),
            backend::EMPTY_QUERY_RESPONSE | backend::PORTAL_SUSPENDED => self.executed(head),
            backend::BIND_COMPLETE => {
                self.expect(head, |due| matches!(due, Due::Bind))?;
                self.forward(head);
                Ok(())
            }
            backend::PARSE_COMPLETE => self.parsed(head),
            backend::CLOSE_COMPLETE => self.closed(head),
            backend::ERROR_RESPONSE => {
                self.error(head);
                Ok(())
            }
            backend::COPY_IN_RESPONSE => self.copy_in(head),
            kind => Err(ServerFault::Unexpected(kind)),
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self.server.due.front(), Some(Due::Ours))
    }

    fn forward(&mut self, head: Header) {
        let from = self.done.consumed;
        let end = (from + head.total).min(self.input.len());
        self.to_client.span(from..end);
        self.consume(head, end, false);
    }

    fn swallow(&mut self, head: Header) {
        let end = (self.done.consumed + head.total).min(self.input.len());
        self.consume(head, end, true);
    }

    fn consume(&mut self, head: Header, end: usize, dropped: bool) {
        let rest = self.done.consumed + head.total - end;
        self.server.rest = u32::try_from(rest).expect("a message's length fits in 32 bits");
        self.server.rest_dropped = dropped;
        self.done.consumed = end;
    }

    fn body(&self, head: Header) -> &'a [u8] {
        let from = self.done.consumed;
        &self.input[from + 5..(from + head.total).min(self.input.len())]
    }

    fn expect(
        &mut self,
        head: Header,
        accepts: impl FnOnce(&Due) -> bool,
    ) -> Result<Due, ServerFault> {
        match self.server.due.front() {
            Some(due) if accepts(due) => Ok(self.server.due.pop().expect("it has a front")),
            _ => Err(ServerFault::Unexpected(head.kind)),
        }
    }

    /// Passes on what is nobody's answer.
    fn pass_asynchronous(&mut self, head: Header) {
        if self.client.is_some() && !self.is_ours() {
            self.forward(head);
        } else {
            self.swallow(head);
        }
    }

    /// Rows and descriptions, ours swallowed. RowDescription or NoData ends a Describe.
    fn pass_described(&mut self, head: Header) -> Result<(), ServerFault> {
        match self.server.due.front() {
            Some(Due::Ours) => {
                self.swallow(head);
                return Ok(());
            }
            Some(due @ (Due::Describe | Due::DescribeUnnamed)) => {
                let is_unnamed = matches!(due, Due::DescribeUnnamed);
                if is_unnamed && head.kind == backend::PARAMETER_DESCRIPTION {
                    self.note_parameters(head);
                }
                if matches!(head.kind, backend::ROW_DESCRIPTION | backend::NO_DATA) {
                    self.server.due.pop();
                }
            }
            Some(Due::Execute | Due::Query | Due::Forgets | Due::FunctionCall) => {}
            _ => return Err(ServerFault::Unexpected(head.kind)),
        }
        self.forward(head);
        Ok(())
    }

    fn executed(&mut self, head: Header) -> Result<(), ServerFault> {
        match self.server.due.front() {
            Some(Due::Ours) => {
                self.swallow(head);
                return Ok(());
            }
            Some(Due::Execute) => {
                self.server.due.pop();
            }
            Some(Due::Query | Due::Forgets | Due::Deallocate { .. }) => {}
            _ => return Err(ServerFault::Unexpected(head.kind)),
        }
        self.server.copying_in = false;
        self.server.due.end_copy_in();
        self.forward(head);
        Ok(())
    }

    fn copy_in(&mut self, head: Header) -> Result<(), ServerFault> {
        let extended = match self.server.due.front() {
            Some(Due::Execute) => true,
            Some(Due::Query | Due::Forgets) => false,
            _ => return Err(ServerFault::Unexpected(head.kind)),
        };
        let end_sent = self.server.due.begin_copy_in();
        self.server.copying_in = !end_sent;
        self.server.copy_extended = extended;
        if extended && !self.server.due.awaits_ready() {
            self.server.unsynced = true;
        }
        self.forward(head);
        Ok(())
    }

    fn command_complete(&mut self, head: Header) -> Result<(), ServerFault> {
        let tag = cstr(self.body(head)).map(|(tag, _)| tag);
        match tag {
            Some(b"DEALLOCATE ALL" | b"DISCARD ALL") => self.forgotten(),
            Some(b"UNLISTEN") => {
                if let Some(Due::Deallocate { name }) = self.server.due.front() {
                    if let Some(client) = &mut self.client {
                        client.forget_statement(name);
                    }
                    self.to_client.own(&wire::command_complete("DEALLOCATE"));
                    self.swallow(head);
                    return Ok(());
                }
            }
            Some(_) => {}
            None if head.total > LOOK_MAX => {}
            None => return Err(ServerFault::Malformed(head.kind)),
        }
        self.executed(head)
    }

    /// The server dropped every statement. What was sent behind the command
    /// that did it has yet to happen, and stays.
    fn forgotten(&mut self) {
        let ServerSession {
            statements, due, ..
        } = &mut *self.server;
        statements.clear();
        let mut client = self.client.as_deref_mut().filter(|_| {
            // In a query of ours the names are not the client's.
            !matches!(due.front(), Some(Due::Ours))
        });
        if let Some(client) = &mut client {
            client.statements = None;
        }
        for due in due.iter() {
            match due {
                Due::Parse(Some(naming)) => statements.restore(naming.statement.clone()),
                Due::ParseOurs(statement) => statements.restore(statement.clone()),
                Due::CloseOurs(statement) => statements.remove(statement),
                _ => {}
            }
            let Some(client) = &mut client else { continue };
            match due {
                Due::Parse(Some(naming))
                | Due::ParseAnswered(naming)
                | Due::ParseScratch(Some(naming)) => {
                    client.name_statement(naming.name.clone(), naming.statement.clone());
                }
                Due::CloseAnswered(Some(naming)) => {
                    client.forget_statement(&naming.name);
                }
                _ => {}
            }
        }
    }

    fn parsed(&mut self, head: Header) -> Result<(), ServerFault> {
        let accepts = |due: &Due| {
            matches!(
                due,
                Due::Parse(_)
                    | Due::ParseUnnamed(_)
                    | Due::ParseUnnamedOurs
                    | Due::ParseOurs(_)
                    | Due::ParseScratch(_)
            )
        };
        match self.expect(head, accepts)? {
            Due::ParseOurs(_) | Due::ParseScratch(None) => self.swallow(head),
            Due::ParseUnnamedOurs => {
                self.server.unnamed = true;
                self.swallow(head);
            }
            Due::ParseUnnamed(_) => {
                self.server.unnamed = true;
                self.forward(head);
            }
            _ => self.forward(head),
        }
        Ok(())
    }

    fn closed(&mut self, head: Header) -> Result<(), ServerFault> {
        let accepts = |due: &Due| {
            matches!(
                due,
                Due::Close | Due::CloseOurs(_) | Due::CloseScratch | Due::Fence
            )
        };
        match self.expect(head, accepts)? {
            Due::Close => self.forward(head),
            _ => self.swallow(head),
        }
        Ok(())
    }

    fn error(&mut self, head: Header) {
        self.server.copying_in = false;
        let fields = ErrorFields::read(self.body(head));
        self.server.ending |= fields.ends_connection();
        if self.is_ours() {
            self.server.ours_failure = Some(fields.summary());
            return self.swallow(head);
        }
        if !self.server.due.front_is_batch() {
            return self.pass_asynchronous(head);
        }
        if let Some(Due::Refuse(message)) = self.server.due.front() {
            self.to_client.own(message);
            self.swallow(head);
        } else {
            self.forward(head);
        }
        let mut skipped = Vec::new();
        let synced = self.server.due.skip_batch(|due| skipped.push(due));
        if let Some(Due::ParseUnnamed(before)) = skipped.first_mut() {
            // This one was not skipped: PostgreSQL drops the one before first.
            *before = None;
        }
        // The newest first: a name may have changed hands twice in one batch.
        for due in skipped.into_iter().rev() {
            self.undo(due);
        }
        self.server.skipping = !synced;
    }

    /// A request that the server skipped changed nothing after all.
    fn undo(&mut self, due: Due) {
        match due {
            Due::Parse(Some(naming)) => {
                if !sabotaged(Sabotage::NoParseRollback) {
                    self.server.statements.remove(&naming.statement);
                }
                self.unname(&naming);
            }
            Due::ParseAnswered(naming) | Due::ParseScratch(Some(naming)) => self.unname(&naming),
            Due::ParseOurs(statement) if !sabotaged(Sabotage::NoParseRollback) => {
                self.server.statements.remove(&statement);
            }
            Due::ParseUnnamed(before) => self.unparse_unnamed(before),
            Due::CloseOurs(statement) => self.server.statements.restore(statement),
            Due::CloseAnswered(Some(naming)) => {
                if let Some(client) = &mut self.client {
                    client.name_statement(naming.name, naming.statement);
                }
            }
            _ => {}
        }
    }

    /// The unnamed statement is the one before again. Where more has been sent
    /// since, which may have replaced it, it is none: an error of ours is better
    /// than the wrong statement.
    fn unparse_unnamed(&mut self, before: Option<Box<[u8]>>) {
        if let Some(later) = self.server.due.unnamed_before() {
            *later = None;
            return;
        }
        self.server.described = None;
        let nothing_since = self.server.due.len() <= 1;
        if let Some(client) = &mut self.client {
            client.unnamed = before.filter(|_| nothing_since);
        }
    }

    /// Notes how the server understood the parameters of the client's unnamed
    /// statement: wherever it is bound, they are of these types.
    fn note_parameters(&mut self, head: Header) {
        let types = self.body(head);
        if types.len() + 5 != head.total || self.server.due.unnamed_before().is_some() {
            return;
        }
        let kept = match (&mut self.server.described, &mut self.client) {
            (Some(described), _) => described,
            (None, Some(client)) => match &mut client.unnamed {
                Some(kept) => kept,
                None => return,
            },
            (None, None) => return,
        };
        // A ParameterDescription and a Parse end in the same way.
        if let Some((query, _)) = cstr(kept) {
            *kept = [query, &[0], types].concat().into_boxed_slice();
        }
    }

    fn unname(&mut self, naming: &Naming) {
        if let Some(client) = &mut self.client {
            client.forget_statement(&naming.name);
        }
    }

    fn ready(&mut self, head: Header) -> Result<(), ServerFault> {
        let transaction = match *self.body(head) {
            [status] if head.total == 6 => Transaction::read(status),
            _ => None,
        };
        let transaction = transaction.ok_or(ServerFault::Malformed(head.kind))?;
        let accepts = |due: &Due| {
            matches!(
                due,
                Due::Query
                    | Due::Forgets
                    | Due::Deallocate { .. }
                    | Due::FunctionCall
                    | Due::Ours
                    | Due::Sync
                    | Due::SyncInCopy
            )
        };
        let answered = self.expect(head, accepts)?;
        self.server.transaction = transaction;
        self.server.copying_in = false;
        if matches!(answered, Due::SyncInCopy) {
            self.server.skipping = false;
            self.server.readies_in_doubt += 1;
        }
        if self.server.due.is_empty() {
            if matches!(answered, Due::SyncInCopy) {
                self.server.unsynced = false;
            }
            self.server.readies_in_doubt = 0;
            // What is due may belong to a transaction that has begun since.
            if transaction == Transaction::Idle && self.rules.mode != PoolMode::Session {
                self.server.statements.end_transaction();
            }
        }
        if matches!(answered, Due::Ours) {
            self.swallow(head);
            return Ok(());
        }
        self.done.queries += 1;
        if transaction == Transaction::Idle {
            self.done.transactions += 1;
        } else if self.rules.mode == PoolMode::Statement {
            return Err(ServerFault::TransactionBlock);
        }
        self.forward(head);
        Ok(())
    }

    fn parameter(&mut self, head: Header) -> Result<(), ServerFault> {
        let pair = cstr(self.body(head)).and_then(|(name, rest)| Some((name, cstr(rest)?.0)));
        match pair {
            Some((name, value)) => {
                if let Some(index) = self.rules.interner.tracked().index(name)
                    && let Ok(value) = std::str::from_utf8(value)
                {
                    let interner = self.rules.interner;
                    self.server.parameters = interner.with(&self.server.parameters, index, value);
                    if !matches!(self.server.due.front(), Some(Due::Ours))
                        && let Some(client) = &mut self.client
                    {
                        client.parameters = interner.with(&client.parameters, index, value);
                    }
                }
            }
            None if head.total > LOOK_MAX => {}
            None => return Err(ServerFault::Malformed(head.kind)),
        }
        self.pass_asynchronous(head);
        Ok(())
    }

    /// An answer has come that is no Sync's: what is left of the Syncs that
    /// a failed copy may have ignored was ignored.
    fn settle_syncs(&mut self) {
        while let Some(due) = self.server.due.front() {
            match due {
                Due::SyncInCopy | Due::CopyEnd => {}
                Due::Sync if self.server.readies_in_doubt > 0 => {
                    self.server.readies_in_doubt -= 1;
                }
                _ => break,
            }
            self.server.due.pop();
        }
        self.server.readies_in_doubt = 0;
    }

    /// Answers what has come to the front of the queue and is ours to answer.
    fn answer_front(&mut self) {
        while let Some(due) = self.server.due.front() {
            match due {
                Due::ParseAnswered(_) | Due::CloseAnswered(_) => {
                    self.to_client.own(answer_of(due));
                }
                Due::CopyEnd => {}
                _ => return,
            }
            self.server.due.pop();
        }
    }
}
