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
mod session;
mod show;
mod table;

use proxy_core::{
    config::{AuthType, pooler::CONSOLE},
    parameters::Parameters,
    pool::ClientKey,
    session::ClientSession,
    wire::{self, SqlState},
};

use super::{
    client::Phase,
    control::{Command, Ending, Request},
    event_loop::EventLoop,
    shared::ClientRef,
};
pub(super) use command::Statement;
pub(super) use session::Console;
use session::Outcome;
pub(super) use table::Formats;

/// Longest message taken: a command is short.
const MESSAGE_LENGTH_MAX: usize = 16 * 1024;
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

/// What a command printed.
#[derive(Debug)]
pub(super) struct Reply {
    bytes: Vec<u8>,
    /// An error ended it: the extended protocol skips to the next Sync.
    failed: bool,
    /// What the process does once the reply is on its way.
    pub(super) then: Option<Ending>,
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
        if global.log_connections {
            let client = &self.clients[key];
            let tls = client.io.tls.as_ref().map_or("no", |tls| tls.protocol());
            tracing::info!(client = %client.address, user, database = CONSOLE, tls, "client logged in");
        }
        let cancel_key = self
            .shared
            .new_cancel_key(self.client_ref(key), self.live.peer_id);
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
        client.phase = Phase::Console(Box::new(Console::new(admin)));
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
        let command = Command {
            client,
            user,
            admin: console.is_admin(),
            request,
            interrupt: console.began(),
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
    pub(super) fn console_printed(&mut self, client: ClientRef, reply: &Reply) {
        let Some(found) = self.client_of(client) else {
            return;
        };
        if let Phase::Console(console) = &mut found.phase {
            console.ended(reply.failed);
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
