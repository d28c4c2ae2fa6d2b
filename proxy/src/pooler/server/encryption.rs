//! TLS with PostgreSQL, as far as there is to be any, before we log in.

use proxy_core::{
    login::server::LoginError,
    pool::ServerKey,
    wire::{self, TlsAnswer},
};

use super::{Phase, Server};
use crate::pooler::{event_loop::EventLoop, io::Address, tls::Tls};

impl EventLoop {
    /// A session with PostgreSQL at the server's address, to be begun when it
    /// agrees; `None` where it is not to be asked.
    ///
    /// # Errors
    /// There cannot be one, and there must be: why.
    fn new_tls(&self, server: &Server) -> Result<Option<Box<Tls>>, String> {
        let pool = self.pools.get(&server.pool).expect("a server has a pool");
        let settings = &pool.settings;
        let Address::Tcp(address) = server.address else {
            return Ok(None);
        };
        if !settings.connector.asks() {
            return Ok(None);
        }
        let session = settings.connector.connect(&settings.host, address.ip());
        let session = session.map_err(|error| error.to_string())?;
        Ok(Some(Box::new(session)))
    }

    /// Asks PostgreSQL for TLS if that is wanted; logs in otherwise.
    pub(super) fn ask_for_tls(&mut self, key: ServerKey) {
        let session = match self.new_tls(&self.servers[key]) {
            Ok(Some(session)) => session,
            Ok(None) => return self.begin_login(key),
            Err(reason) => return self.not_encrypted(key, &reason),
        };
        let server = &mut self.servers[key];
        server.phase = Phase::AskedForTls(session);
        if let Err(error) = server.io.send_bytes(&wire::ssl_request()) {
            self.open_failed(key, &format!("cannot send: {error}"), None);
        }
    }

    /// PostgreSQL's answer to the question whether it speaks TLS.
    pub(super) fn tls_answer(&mut self, key: ServerKey, input: &[u8]) {
        let answer = match TlsAnswer::read(input) {
            Ok(answer) => answer,
            Err(error) => return self.not_encrypted(key, &error.to_string()),
        };
        let server = &mut self.servers[key];
        let connector = &self.pools[&server.pool].settings.connector;
        match answer {
            TlsAnswer::No if connector.insists() => {
                self.not_encrypted(key, "it has no TLS (ssl = off), and TLS is required");
            }
            TlsAnswer::No => self.begin_login(key),
            TlsAnswer::Error => {
                let reason = "it answered an SSLRequest with an error, as it does when it cannot start a process";
                self.open_failed(key, reason, None);
            }
            TlsAnswer::Yes => {
                let phase = std::mem::replace(&mut server.phase, Phase::Handshake);
                let Phase::AskedForTls(session) = phase else {
                    unreachable!("only who was asked answers");
                };
                if let Err(error) = server.io.start_tls(session) {
                    self.open_failed(key, &format!("cannot send: {error}"), None);
                }
            }
        }
    }

    /// More of the handshake has come: logs in if that was the end of it.
    pub(super) fn shaken_hands(&mut self, key: ServerKey) {
        if self.servers[key].io.is_encrypted() {
            self.begin_login(key);
        }
    }

    /// There is no connection because of TLS: waiting does not help.
    pub(super) fn not_encrypted(&mut self, key: ServerKey, reason: &str) {
        let address = self.servers[key].address;
        let error = LoginError::Tls(format!("no TLS with {address}: {reason}"));
        self.open_failed(key, &error.to_string(), Some(&error));
    }
}
