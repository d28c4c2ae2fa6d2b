//! From a client to its server.

mod forgets;
mod naming;

use super::{
    AWAITED_WHOLE_MAX, ClientFault, ClientSession, DUE_MAX, Rules, ServerSession, due::Due,
    output::Output,
};
use crate::wire::{self, Header, frontend, header};
use forgets::Forgets;

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
                    self.skipping &= head.kind != frontend::SYNC;
                    at = self.drop_message(head, at, input.len());
                }
                kind if self.skipping && kind != frontend::TERMINATE => {
                    check_kind(kind)?;
                    at = self.drop_message(head, at, input.len());
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

    /// Cancels the request that `input`, of an unlinked client, begins with: the
    /// client is to be told of an error. As on a server, a failed batch goes on
    /// to its Sync, which [`Self::unlinked`] then finds. Returns the bytes dealt
    /// with, and whether a ReadyForQuery follows the error at once.
    pub fn cancel_request(&mut self, input: &[u8]) -> (usize, bool) {
        match header(input) {
            Ok(Some(head)) if matches!(head.kind, frontend::QUERY | frontend::FUNCTION_CALL) => {
                (self.drop_message(head, 0, input.len()), true)
            }
            _ => {
                self.skipping = true;
                (0, false)
            }
        }
    }

    /// Drops the message at `at`, the part still to come included. Returns where
    /// it ends or the input does.
    fn drop_message(&mut self, head: Header, at: usize, available: usize) -> usize {
        let end = (at + head.total).min(available);
        self.rest = rest_of(at + head.total - end);
        self.rest_dropped = true;
        end
    }
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
        described: None,
    };
    reader.run()?;
    if let Some(definition) = reader.described {
        reader.server.described = Some(definition.into());
    }
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
    /// [`ServerSession::described`], parsed in this input.
    described: Option<&'a [u8]>,
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
                self.keep_unnamed();
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

    fn sync(&mut self, head: Header) {
        self.keep_unnamed();
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
        self.forget_unnamed();
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
}
