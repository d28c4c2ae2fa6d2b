//! We log in to PostgreSQL.

use proxy_core::{
    auth::scram::Keys,
    config::Secret,
    login::server::{Login, LoginError, MESSAGE_LENGTH_MAX, Step, Welcome},
    pool::ServerKey,
    session::ServerSession,
    wire::{self, header},
};

use super::{Phase, Setup};
use crate::{
    net::{self, Tuning},
    pooler::{
        event_loop::{EventLoop, Outputs},
        io::Stream,
        pools::{Known, Settings},
        shared::{ServerRef, random},
        worker::{Job, Password},
    },
};

impl EventLoop {
    pub(super) fn connected(&mut self, key: ServerKey) {
        let tuning = Tuning::of_pooler(&self.live.config.global);
        let server = &mut self.servers[key];
        if let Stream::Tcp(stream) = &server.io.stream
            && let Err(error) = net::tune(stream, &tuning)
        {
            tracing::debug!(%error, "server socket not tuned");
        }
        self.ask_for_tls(key);
    }

    /// Says who we are, over TLS or not.
    pub(super) fn begin_login(&mut self, key: ServerKey) {
        let server = &mut self.servers[key];
        let settings = self
            .pools
            .get(&server.pool)
            .expect("a server has a pool")
            .settings
            .clone();
        server.phase = Phase::Login(Box::new(Login::new(
            &settings.server_user,
            settings.secret.clone(),
        )));
        let bytes = startup_packet(&settings);
        if let Err(error) = server.io.send_bytes(&bytes) {
            self.open_failed(key, &format!("cannot send: {error}"), None);
        }
    }

    pub(super) fn login_input(&mut self, key: ServerKey, input: &[u8], outputs: &mut Outputs) {
        let mut at = 0;
        loop {
            let server = &mut self.servers[key];
            let Phase::Login(login) = &mut server.phase else {
                // Ready: what follows is for the session.
                if at < input.len() {
                    self.server_input(key, &input[at..], outputs);
                }
                return;
            };
            let rest = &input[at..];
            let head = match header(rest) {
                Ok(Some(head)) if head.total <= MESSAGE_LENGTH_MAX => head,
                Ok(None) => return server.io.keep(rest, 0),
                Ok(Some(_)) | Err(_) => {
                    return self.open_failed(
                        key,
                        "what answers there does not speak PostgreSQL's protocol",
                        None,
                    );
                }
            };
            let Some(message) = rest.get(..head.total) else {
                return server.io.keep(rest, 0);
            };
            at += head.total;
            let frame = wire::Frame {
                kind: head.kind,
                body: &message[5..],
            };
            match login.message(frame, &random()) {
                Ok(Step::Continue) => {}
                Ok(Step::Send(bytes)) => {
                    if let Err(error) = server.io.send_bytes(&bytes) {
                        return self.open_failed(key, &format!("cannot send: {error}"), None);
                    }
                }
                Ok(Step::NeedsKeys(challenge)) => {
                    let user = login.user().to_owned();
                    let secret = login.secret().cloned();
                    self.find_keys(key, user, secret, challenge.salt, challenge.iterations);
                    if !self.servers.contains(key) {
                        return;
                    }
                }
                Ok(Step::Ready(welcome)) => {
                    self.logged_in(key, *welcome);
                    if !self.servers.contains(key) {
                        return;
                    }
                }
                Err(error) => return self.open_failed(key, &error.to_string(), Some(&error)),
            }
        }
    }

    fn find_keys(
        &mut self,
        key: ServerKey,
        user: String,
        secret: Option<Secret>,
        salt: Vec<u8>,
        iterations: u32,
    ) {
        let known = secret
            .as_ref()
            .and_then(|secret| self.shared.secrets.keys(&user, secret, &salt, iterations));
        let server = ServerRef {
            thread: self.thread,
            key,
            id: self.servers[key].id,
        };
        match (known, secret) {
            (Some(keys), _) => self.keys_derived(server, &keys),
            (None, Some(Secret::Plain(password))) => {
                let job = Job::Keys {
                    server,
                    user,
                    password: Password(password),
                    salt,
                    iterations,
                };
                if !self.shared.work(job) {
                    self.not_logged_in(key, "too many logins at once", None);
                }
            }
            _ => {
                let reason = format!(
                    "only a SCRAM verifier of user \"{user}\" is known, and it is not the server's, or no client has logged in with it yet"
                );
                let error = LoginError::Method(reason.clone());
                self.open_failed(key, &reason, Some(&error));
            }
        }
    }

    /// Keys for a login to PostgreSQL are there.
    pub(in crate::pooler) fn keys_derived(&mut self, server: ServerRef, keys: &Keys) {
        let key = server.key;
        let Some(found) = self.servers.get_mut(key) else {
            return;
        };
        if found.id != server.id {
            return;
        }
        let Phase::Login(login) = &mut found.phase else {
            return;
        };
        match login.prove(keys) {
            Ok(bytes) => {
                if let Err(error) = found.io.send_bytes(&bytes) {
                    self.open_failed(key, &format!("cannot send: {error}"), None);
                }
            }
            Err(error) => self.open_failed(key, &error.to_string(), Some(&error)),
        }
    }

    fn logged_in(&mut self, key: ServerKey, mut welcome: Welcome) {
        let interner = &self.shared.interner;
        let mut parameters = interner.empty();
        for (name, value) in &welcome.parameters {
            if let Some(index) = interner.tracked().index(name.as_bytes()) {
                parameters = interner.with(&parameters, index, value);
            }
        }
        let stale = self.is_stale(key);
        let server = &mut self.servers[key];
        let local = self.pools.get(&server.pool).expect("a server has a pool");
        let settings = local.settings.clone();
        server.cancel_key = welcome.cancel_key.take();
        server.process_id = welcome.process_id;
        let upstreams = &self.shared.upstreams;
        server.presence = upstreams.logged_in(&settings.host, settings.port, self.now);
        server.phase = Phase::Ready;
        server.session = ServerSession::new(parameters.clone(), settings.max_prepared_statements);
        // What clients are told is what they will have.
        if !stale {
            local.info.set_known(Known {
                welcome,
                parameters,
            });
        }
        match &settings.connect_query {
            Some(sql) if !sql.is_empty() => {
                let bytes = server.session.ours(sql);
                server.setup = Some(Setup::Connect);
                if let Err(error) = server.io.send_bytes(&bytes) {
                    self.open_failed(key, &format!("cannot send: {error}"), None);
                }
            }
            _ => self.server_opened(key),
        }
    }
}

fn startup_packet(settings: &Settings) -> Vec<u8> {
    let mut parameters = vec![
        ("user", settings.server_user.as_str()),
        ("database", settings.dbname.as_str()),
    ];
    for (name, value) in &settings.startup {
        parameters.push((name, value));
    }
    wire::startup(&parameters)
}
