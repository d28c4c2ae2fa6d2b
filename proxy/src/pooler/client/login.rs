//! A client proves who it is and is told what its servers are.

use std::sync::Arc;

use proxy_core::{
    auth::scram::{Keys, Verifier},
    config::{AuthType, Secret, pooler::CONSOLE},
    login::client::{self as login, Begin, Proof, Verdict},
    parameters::Parameters,
    pool::{ClientKey, Request},
    session::ClientSession,
    wire::{self, SqlState, frontend},
};

use super::{Client, Phase};
use crate::pooler::{
    event_loop::EventLoop,
    pools::PoolInfo,
    shared::{ClientRef, random},
    worker::{Job, Password},
};

/// A login under way.
#[derive(Debug)]
pub(in crate::pooler) struct Proving {
    asked: Asked,
    proof: Proof,
    /// The answer that waits for a verifier.
    pub(super) pending: Option<Vec<u8>>,
}

/// What a client asked for in its start-up packet.
#[derive(Debug)]
pub(in crate::pooler) struct Asked {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) parameters: Parameters,
}

impl EventLoop {
    pub(super) fn begin_proof(&mut self, key: ClientKey, asked: Asked) {
        let live = self.live.clone();
        let config = &live.config;
        let auth_type = config.global.auth_type;
        let kind = config.userlist.secret_kind(&asked.user);
        if auth_type == AuthType::Trust && !config.userlist.contains(&asked.user) {
            let user = asked.user;
            self.counters.auth_failures += 1;
            return self.refuse_client(
                key,
                SqlState::INVALID_AUTHORIZATION,
                &format!("no such user: {user}"),
                "With auth_type = trust users must still be listed in auth_file.",
            );
        }
        match login::begin(auth_type, kind, &random()) {
            Begin::Accepted => self.authenticated(key, asked),
            Begin::Ask(bytes, proof) => {
                if self.tell_client(key, &bytes) {
                    self.clients[key].phase = Phase::Proving(Box::new(Proving {
                        asked,
                        proof,
                        pending: None,
                    }));
                }
            }
        }
    }

    pub(super) fn proving_input(&mut self, key: ClientKey, input: &[u8]) {
        let head = match wire::header(input) {
            Ok(Some(head)) => head,
            Ok(None) => return self.clients[key].io.keep(input, 0),
            Err(error) => {
                let text = error.to_string();
                return self.refuse_client(key, SqlState::PROTOCOL_VIOLATION, &text, "");
            }
        };
        if head.kind == frontend::TERMINATE {
            return self.client_gone(key, "client closed the connection");
        }
        if head.kind != frontend::PASSWORD || head.total > login::MESSAGE_LENGTH_MAX {
            let text = format!(
                "expected a password message of at most {} bytes, got type {:?} with {} bytes",
                login::MESSAGE_LENGTH_MAX,
                char::from(head.kind),
                head.total
            );
            return self.refuse_client(key, SqlState::PROTOCOL_VIOLATION, &text, "");
        }
        if input.len() < head.total {
            return self.clients[key].io.keep(input, 0);
        }
        let (message, rest) = input.split_at(head.total);
        if !rest.is_empty() {
            self.clients[key].io.keep(rest, 0);
        }
        self.judge(key, &message[5..], None);
        // What came behind it belongs to the session that has just begun.
        self.resume_client(key);
    }

    /// A verifier has been derived for a client that waits for it.
    pub(in crate::pooler) fn verifier_derived(&mut self, client: ClientRef, verifier: &Verifier) {
        let Some(Client {
            phase: Phase::Proving(proving),
            ..
        }) = self.client_of(client)
        else {
            return;
        };
        if let Some(answer) = proving.pending.take() {
            self.judge(client.key, &answer, Some(verifier));
            self.resume_client(client.key);
        }
    }

    fn judge(&mut self, key: ClientKey, answer: &[u8], derived: Option<&Verifier>) {
        let live = self.live.clone();
        let shared = self.shared.clone();
        let Phase::Proving(proving) = &mut self.clients[key].phase else {
            return;
        };
        let user = proving.asked.user.clone();
        let secret = live.config.userlist.secret(&user);
        let iterations = live.config.global.scram_iterations;
        let known = match secret {
            Some(Secret::Plain(password)) => shared.secrets.verifier(&user, password),
            Some(Secret::Scram(_)) => None,
            // Fails at the end of the exchange, as a wrong password does.
            Some(Secret::Md5(_)) | None => Some(Arc::new(Verifier::mock(
                &shared.mock_secret,
                &user,
                iterations,
            ))),
        };
        let verifier = derived.or(known.as_deref());
        match proving.proof.answer(answer, &user, secret, verifier) {
            Verdict::Continue(bytes) => {
                self.tell_client(key, &bytes);
            }
            Verdict::NeedsVerifier => {
                // The known password under a salt of ours; or, where only the
                // verifier is known, the password just sent under its salt.
                let (password, salt, iterations) = match secret {
                    Some(Secret::Plain(password)) => (password.clone(), None, iterations),
                    Some(Secret::Scram(stored)) => {
                        let sent = wire::cstr(answer).map(|(sent, _)| sent);
                        let sent = String::from_utf8_lossy(sent.unwrap_or_default());
                        (
                            sent.into_owned(),
                            Some(stored.salt.clone()),
                            stored.iterations,
                        )
                    }
                    Some(Secret::Md5(_)) | None => return,
                };
                proving.pending = Some(answer.to_vec());
                let job = Job::Verifier {
                    client: self.client_ref(key),
                    user,
                    password: Password(password),
                    salt,
                    iterations,
                };
                if !shared.work(job) {
                    self.refuse_client(
                        key,
                        SqlState::TOO_MANY_CONNECTIONS,
                        "too many logins at once",
                        "Try again in a moment.",
                    );
                }
            }
            Verdict::Accepted { last, keys } => {
                self.reveal(&user, secret, keys);
                if self.tell_client(key, &last) {
                    let phase = std::mem::replace(&mut self.clients[key].phase, Phase::First);
                    if let Phase::Proving(proving) = phase {
                        self.authenticated(key, proving.asked);
                    }
                }
            }
            Verdict::Refused(reason) => {
                let address = self.clients[key].address;
                tracing::info!(client = %address, user = user.as_str(), reason, "authentication failed");
                self.counters.auth_failures += 1;
                self.refuse_client(
                    key,
                    SqlState::INVALID_PASSWORD,
                    &format!("password authentication failed for user \"{user}\""),
                    "",
                );
            }
        }
    }

    /// Keys that a client's proof revealed log in to a PostgreSQL that stores
    /// the same verifier.
    fn reveal(&self, user: &str, secret: Option<&Secret>, keys: Option<Keys>) {
        if let (Some(Secret::Scram(verifier)), Some(keys)) = (secret, keys) {
            self.shared.secrets.add_revealed(user, verifier, keys);
        }
    }

    fn authenticated(&mut self, key: ClientKey, asked: Asked) {
        if asked.database == CONSOLE {
            return self.console_login(key, &asked.user, asked.parameters);
        }
        let live = self.live.clone();
        let pools = &self.shared.pools;
        let info = match pools.admit(&live.config, &asked.database, &asked.user) {
            Ok(info) => info,
            Err(error) => {
                return self.refuse_client(key, error.code(), &error.to_string(), error.hint());
            }
        };
        self.local_pool(&info);
        let client = &mut self.clients[key];
        client.pool = info.id;
        if info.known().is_some() {
            return self.welcome(key, &info, &asked);
        }
        client.phase = Phase::AwaitingWelcome(Box::new(asked));
        client.request_at = self.now;
        let now = self.now;
        match self.pool(info.id).pool.request(key, now) {
            Request::Granted(server) => {
                // A server that is idle has said what it is.
                self.server_free(server);
                self.welcome_waiting(key);
            }
            Request::Queued => {
                self.clients[key].waiting = true;
                self.step_pool(info.id);
            }
        }
    }

    /// A server has said what it is, or the client's turn in the queue came.
    pub(in crate::pooler) fn welcome_waiting(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        client.waiting = false;
        let phase = std::mem::replace(&mut client.phase, Phase::First);
        let info = self
            .pools
            .get(&client.pool)
            .expect("a client that waits has a pool here")
            .info
            .clone();
        if let Phase::AwaitingWelcome(asked) = phase {
            self.welcome(key, &info, &asked);
            self.resume_client(key);
        }
    }

    /// Completes a login.
    fn welcome(&mut self, key: ClientKey, info: &PoolInfo, asked: &Asked) {
        let known = info.known().expect("asked for before");
        let interner = &self.shared.interner;
        let parameters = interner.over(&known.parameters, &asked.parameters);
        let mut bytes = wire::authentication_ok();
        for (name, value) in &known.welcome.parameters {
            let tracked = interner.tracked().index(name.as_bytes());
            let value = tracked
                .and_then(|index| parameters.value(index))
                .unwrap_or(value);
            bytes.extend(wire::parameter_status(name, value));
        }
        let cancel_key = self
            .shared
            .new_cancel_key(self.client_ref(key), self.live.peer_id);
        bytes.extend(wire::backend_key_data(&cancel_key));
        bytes.extend(wire::ready_for_query(b'I'));
        self.pool(info.id).counters.logins += 1;
        let client = &mut self.clients[key];
        client.session = ClientSession::new(parameters);
        client.cancel_key = Some(cancel_key);
        client.phase = Phase::Session;
        client.request_at = self.now;
        let (address, tls) = (client.address, client.io.tls.as_ref());
        if self.live.config.global.log_connections {
            let tls = tls.map_or("no", |tls| tls.protocol());
            tracing::info!(client = %address, user = asked.user.as_str(), database = asked.database.as_str(), tls, "client logged in");
        }
        self.tell_client(key, &bytes);
    }
}
