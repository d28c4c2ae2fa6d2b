//! The console: a database named `pgbouncer` that is not one.
//!
//! Its loop parses what a client sends and hands each command to the
//! [`super::control`] task, which knows all loops; the answer comes back as
//! mail, ready to be sent.

use proxy_core::{
    config::AuthType,
    pool::ClientKey,
    wire::{self, SqlState, cstr, frontend},
};

use super::{client::Phase, control::Command, event_loop::EventLoop, shared::ClientRef};

/// Longest message taken: a command is short.
const MESSAGE_LENGTH_MAX: usize = 16 * 1024;

/// A client of the console.
#[derive(Debug)]
pub(super) struct Console {
    admin: bool,
    busy: bool,
}

impl Console {
    /// Whether a command is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }
}

impl EventLoop {
    pub(super) fn console_login(&mut self, key: ClientKey, user: &str) {
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
        let mut bytes = wire::authentication_ok();
        for (name, value) in [
            ("server_version", super::SERVER_VERSION),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "on"),
            ("integer_datetimes", "on"),
        ] {
            bytes.extend(wire::parameter_status(name, value));
        }
        bytes.extend(wire::backend_key_data(&[0; 8]));
        bytes.extend(wire::ready_for_query(b'I'));
        self.clients[key].phase = Phase::Console(Box::new(Console { admin, busy: false }));
        self.tell_client(key, &bytes);
    }

    pub(super) fn console_input(&mut self, key: ClientKey, input: &[u8]) {
        let head = match wire::header(input) {
            Ok(Some(head)) => head,
            Ok(None) => return self.clients[key].io.keep(input, 0),
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
        let Some(message) = input.get(..head.total) else {
            return self.clients[key].io.keep(input, 0);
        };
        let rest = &input[head.total..];
        match head.kind {
            frontend::TERMINATE => return self.client_gone(key, "client said goodbye"),
            frontend::QUERY => {
                let sql = cstr(&message[5..]).map(|(sql, _)| sql).unwrap_or_default();
                let sql = String::from_utf8_lossy(sql).into_owned();
                self.command(key, sql);
            }
            kind => {
                let text = format!(
                    "the console knows simple queries only, not messages of type {:?}",
                    char::from(kind)
                );
                return self.refuse_client(key, SqlState::FEATURE_NOT_SUPPORTED, &text, "");
            }
        }
        if let Some(client) = self.clients.get_mut(key) {
            client.io.keep(rest, 0);
        }
    }

    fn command(&mut self, key: ClientKey, sql: String) {
        let client = self.client_ref(key);
        let Phase::Console(console) = &mut self.clients[key].phase else {
            return;
        };
        console.busy = true;
        let command = Command {
            client,
            admin: console.admin,
            sql,
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
    pub(super) fn console_printed(&mut self, client: ClientRef, bytes: &[u8]) {
        let Some(found) = self.client_of(client) else {
            return;
        };
        if let Phase::Console(console) = &mut found.phase {
            console.busy = false;
            if self.tell_client(client.key, bytes) {
                self.resume_client(client.key);
            }
        }
    }
}
