//! What a connection says first: a check, a cancel request, TLS, who it is.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proxy_core::{
    config::{ProxyProtocol, SslMode, pooler::CONSOLE},
    parameters::{Parameters, wanted},
    pool::ClientKey,
    wire::{
        self, CancelKey, CheckRequest, DrainOrder, FirstPacket, ProxyHeader, SqlState,
        StartupParameters, begins_proxy_header, read_proxy_header,
    },
};

use super::{Phase, login::Asked};
use crate::{
    boot::unix_ms,
    pooler::{event_loop::EventLoop, io::Address, shared::Mail, tls::Tls},
};

/// Longest interval believed of a check, for anybody may send one: it decides
/// how long a drain waits to be heard.
const CHECK_INTERVAL_MAX_MS: u64 = 10_000;
/// Longest time over which a balancer's sessions are ended.
const BALANCER_DRAIN_MAX: Duration = Duration::from_secs(3600);

const NOT_A_HEADER: &str =
    "This port speaks PostgreSQL's protocol, version 3; before it the PROXY protocol, version 2.";
const SWITCH_IT_ON: &str = "Set proxy_protocol = mac and the balancers' shared_key_file, or let the balancer send no header.";
const PROVE_IT: &str =
    "The balancer and the pooler need the same shared_key_file, and clocks that agree.";

impl EventLoop {
    pub(super) fn first_input(&mut self, key: ClientKey, input: &[u8]) {
        if !self.clients[key].past_header && begins_proxy_header(input) {
            return self.proxy_header(key, input);
        }
        let (packet, used) = match wire::first_packet(input) {
            Ok(Some(first)) => first,
            Ok(None) => return self.clients[key].io.keep(input, 0),
            Err(error) => {
                let text = error.to_string();
                return self.refuse_client(key, SqlState::PROTOCOL_VIOLATION, &text, error.hint());
            }
        };
        self.clients[key].past_header = true;
        let rest = &input[used..];
        match packet {
            FirstPacket::Ssl => self.ssl_request(key, rest),
            FirstPacket::Gssenc => {
                if self.tell_client(key, b"N") && !rest.is_empty() {
                    self.first_input(key, rest);
                }
            }
            FirstPacket::Cancel(cancel_key) => self.cancel_requested(key, &cancel_key),
            FirstPacket::Startup(parameters) => {
                if let Some(check) = CheckRequest::read(&parameters) {
                    return self.answer_check(key, check);
                }
                self.startup(key, &parameters);
                // A client does not go on before it is asked to; if it does,
                // what it sent belongs to the next phase.
                if !rest.is_empty() && self.clients.contains(key) {
                    let mut buffers = self.borrow_buffers();
                    self.client_input(key, rest, &mut buffers.outputs);
                    self.return_buffers(buffers);
                }
            }
        }
    }

    /// A header that tells whose connection this is, before anything else.
    fn proxy_header(&mut self, key: ClientKey, input: &[u8]) {
        let header = match read_proxy_header(input) {
            Ok(Some(header)) => header,
            Ok(None) => return self.clients[key].io.keep(input, 0),
            Err(error) => return self.refuse_header(key, &error.to_string(), NOT_A_HEADER),
        };
        if let Err((reason, hint)) = self.believe(key, &header) {
            let text = format!("PROXY header refused: {reason}");
            return self.refuse_header(key, &text, hint);
        }
        self.counters.proxy_headers += 1;
        let client = &mut self.clients[key];
        client.past_header = true;
        if let Some(address) = header.client {
            tracing::debug!(client = %address, through = %client.address, "client announced");
            client.address = Address::Tcp(address);
            client.balancer = header.boot_id.unwrap_or_default();
        }
        let rest = &input[header.length..];
        if !rest.is_empty() {
            self.first_input(key, rest);
        }
    }

    /// Whether a header of this connection counts; if not, why, and what to do.
    fn believe(
        &self,
        key: ClientKey,
        header: &ProxyHeader<'_>,
    ) -> Result<(), (String, &'static str)> {
        let config = &self.live.config;
        match (&config.global.proxy_protocol, &config.shared_key) {
            (ProxyProtocol::Off, _) => Err(("proxy_protocol is off".to_owned(), SWITCH_IT_ON)),
            (ProxyProtocol::Mac, Some(shared_key)) => header
                .vouched(shared_key, unix_ms())
                .map_err(|error| (error.to_string(), PROVE_IT)),
            (ProxyProtocol::Mac, None) => Err(("there is no shared key".to_owned(), PROVE_IT)),
            (ProxyProtocol::From(networks), _) => match self.clients[key].address {
                Address::Tcp(peer) if networks.iter().any(|one| one.contains(peer.ip())) => Ok(()),
                peer => Err((
                    format!("{peer} is in no network of proxy_protocol"),
                    "Add the balancer's network to proxy_protocol.",
                )),
            },
        }
    }

    fn refuse_header(&mut self, key: ClientKey, text: &str, hint: &str) {
        self.counters.proxy_headers_refused += 1;
        self.refuse_client(key, SqlState::PROTOCOL_VIOLATION, text, hint);
    }

    fn ssl_request(&mut self, key: ClientKey, rest: &[u8]) {
        let client = &mut self.clients[key];
        let offered = self.live.tls.clone().filter(|_| client.io.tls.is_none());
        let Some(config) = offered else {
            if self.tell_client(key, b"N") && !rest.is_empty() {
                self.first_input(key, rest);
            }
            return;
        };
        // Bytes sent in clear before the handshake could have been put there by
        // anybody (CVE-2021-23214): the session would trust them.
        if !rest.is_empty() {
            return self.refuse_client(
                key,
                SqlState::PROTOCOL_VIOLATION,
                "received unencrypted data after SSL request",
                "This could be a bug of the client or an attempt to interfere with the connection.",
            );
        }
        if !self.tell_client(key, b"S") {
            return;
        }
        match Tls::accept(config) {
            Ok(tls) => self.clients[key].io.tls = Some(Box::new(tls)),
            Err(error) => {
                tracing::error!(%error, "TLS session not begun");
                self.client_gone(key, "no TLS session");
            }
        }
    }

    fn answer_check(&mut self, key: ClientKey, check: CheckRequest) {
        let interval_ms = u64::try_from(check.interval.as_millis()).unwrap_or(u64::MAX);
        self.shared
            .check_interval_ms
            .store(interval_ms.min(CHECK_INTERVAL_MAX_MS), Ordering::Relaxed);
        if let Some(order) = check.drain {
            self.drain_ordered(key, &order);
        }
        let report = self.shared.report().encode();
        self.end_client(key, &report);
    }

    /// A balancer orders its sessions to end.
    fn drain_ordered(&self, key: ClientKey, order: &DrainOrder) {
        let client = self.clients[key].address;
        let Some(shared_key) = &self.live.config.shared_key else {
            tracing::warn!(%client, "order to drain refused: there is no shared_key_file");
            return;
        };
        if let Err(error) = order.check(shared_key, unix_ms()) {
            tracing::warn!(%client, %error, "order to drain refused");
            return;
        }
        let from = self.shared.now();
        let within = order.within.min(BALANCER_DRAIN_MAX);
        let balancer = order.boot_id;
        self.shared.tell_all(|| Mail::BalancerDrains {
            balancer,
            from,
            within,
        });
    }

    fn startup(&mut self, key: ClientKey, parameters: &StartupParameters) {
        if self.drain.is_some() {
            return self.refuse_client(
                key,
                SqlState::CANNOT_CONNECT_NOW,
                "the pooler is shutting down",
                "Reconnect: others serve.",
            );
        }
        let live = self.live.clone();
        let global = &live.config.global;
        let client = &self.clients[key];
        let is_tcp = matches!(client.address, Address::Tcp(_));
        if global.client_tls_sslmode == SslMode::Require && client.io.tls.is_none() && is_tcp {
            return self.refuse_client(
                key,
                SqlState::INVALID_AUTHORIZATION,
                "connection is not encrypted, and TLS is required",
                "Connect with sslmode=require or higher.",
            );
        }
        let Some(user) = parameters.value("user").filter(|user| !user.is_empty()) else {
            return self.refuse_client(
                key,
                SqlState::INVALID_AUTHORIZATION,
                "no user name in the startup packet",
                "",
            );
        };
        let database = parameters
            .value("database")
            .filter(|name| !name.is_empty())
            .unwrap_or(user);
        if parameters.value("replication").is_some_and(is_true) {
            return self.refuse_client(
                key,
                SqlState::FEATURE_NOT_SUPPORTED,
                "replication connections are not supported",
                "Connect to PostgreSQL itself for replication.",
            );
        }
        self.clients[key].user = Arc::from(user);
        let interner = &self.shared.interner;
        let wanted = match wanted(interner, parameters, &global.ignore_startup_parameters) {
            Ok(wanted) => wanted,
            // Exporters and tools send this and that; there is nothing to follow.
            Err(_) if database == CONSOLE => interner.empty(),
            Err(error) => {
                return self.refuse_client(
                    key,
                    SqlState::PROTOCOL_VIOLATION,
                    &error.to_string(),
                    &error.hint(),
                );
            }
        };
        let unrecognised: Vec<&str> = parameters
            .pairs()
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("_pq_."))
            .collect();
        if parameters.minor > 0 || !unrecognised.is_empty() {
            let bytes = wire::negotiate_protocol_version(0, &unrecognised);
            if !self.tell_client(key, &bytes) {
                return;
            }
        }
        let wanted = if global.application_name_add_host && database != CONSOLE {
            self.with_host(key, &wanted)
        } else {
            wanted
        };
        let asked = Asked {
            user: user.to_owned(),
            database: database.to_owned(),
            parameters: wanted,
        };
        if asked.database != CONSOLE && !self.count_client(key) {
            return;
        }
        self.begin_proof(key, asked);
    }

    /// Takes one of max_client_conn places.
    fn count_client(&mut self, key: ClientKey) -> bool {
        let max = self.live.config.global.max_client_conn;
        let counted =
            self.shared
                .clients
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                    (count < max).then_some(count + 1)
                });
        if counted.is_err() {
            self.shared.saturations.client_refused();
            self.refuse_client(
                key,
                SqlState::TOO_MANY_CONNECTIONS,
                &format!("no more connections allowed: all {max} clients (max_client_conn) are connected"),
                "Raise max_client_conn, add poolers, or let the application hold fewer connections.",
            );
            return false;
        }
        self.clients[key].counted = true;
        true
    }

    /// The client's address after its application_name, where people look for it.
    fn with_host(&self, key: ClientKey, wanted: &Parameters) -> Parameters {
        let interner = &self.shared.interner;
        let Some(index) = interner.tracked().index(b"application_name") else {
            return wanted.clone();
        };
        let name = wanted.value(index).unwrap_or("app");
        let address = self.clients[key].address;
        interner.with(wanted, index, &format!("{name} - {address}"))
    }

    fn cancel_requested(&mut self, key: ClientKey, cancel_key: &CancelKey) {
        self.clients[key].phase = Phase::Requester;
        let requester = self.client_ref(key);
        self.route_cancel(cancel_key, requester);
    }
}

fn is_true(value: &str) -> bool {
    !matches!(
        value.to_ascii_lowercase().as_str(),
        "" | "false" | "off" | "no" | "0"
    )
}
