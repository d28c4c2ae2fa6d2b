//! The keys of section `[pgbouncer]`, in alphabetical order: SHOW CONFIG's.

use std::{net::SocketAddr, time::Duration};

use super::{
    AdvertisedAddress, AuthType, ConfigRow, FileMode, ListenAddress, LogFormat, Milliseconds,
    PeerName, PoolMode, ProxyProtocol, Sensitive, Setting, SslMode, Support,
    Support::{Honoured, NoEffect, NotSupported, Only},
    TlsProtocols, Value, nearest, settings,
};

/// Why a key of PgBouncer's buffers and sockets changes nothing here.
const INTERNAL: Support = NoEffect("it tunes PgBouncer's internals, which are not ours");
/// Why lists of ciphers are fixed.
const CIPHERS: Support = Only(
    &["default", "secure", "fast", "normal"],
    "the ciphers are those of rustls, all of them safe, and cannot be chosen",
);
/// Why pools of an entry are never forgotten.
const POOLS_STAY: Support =
    NoEffect("a pool without clients and servers holds no connection and is kept");
/// Why what goes with `auth_user` changes nothing.
const QUERY: Support = NoEffect("users come from auth_file alone; auth_user is not supported yet");

settings! {
    /// The settings of section `[pgbouncer]`: one field per key, under the key's name.
    Global

    /// The keys of section `[pgbouncer]`, in alphabetical order.
    SETTINGS

    /// Users who may use every command of the console, separated by commas. With `auth_type = any`
    /// everybody may.
    admin_users: Vec<String> = "", [], reload, Honoured;

    /// *Ours.* With `peer_discovery`: the address at which peers reach this pooler, one of those that the
    /// name stands for. Its number follows from it. Without a port it is `listen_port`. Where it is not set,
    /// environment variable `POOLER_ADVERTISE_ADDR` says it, or else the only address of `listen_addr`.
    advertise_addr: Option<AdvertisedAddress> = unset, [], reload, Honoured;

    /// Whether the client's address and port are appended to `application_name` when it connects.
    application_name_add_host: bool = "0", [], reload, Honoured;

    /// The database in which `auth_query` runs.
    auth_dbname: Option<String> = unset, [], reload, QUERY;

    /// The file of users and secrets, userlist.txt. A relative path starts at the working directory.
    auth_file: Option<String> = unset, [], reload, Honoured;

    /// The file of rules for `auth_type = hba`.
    auth_hba_file: Option<String> = "", [], reload, NoEffect("it is read with auth_type = hba alone, which is not supported yet");

    /// The file of user name maps for `auth_type = hba`.
    auth_ident_file: Option<String> = unset, [], reload, NoEffect("it is read with auth_type = hba alone, which is not supported yet");

    /// Options of the LDAP server for `auth_type = ldap`.
    auth_ldap_options: Option<Sensitive> = unset, [], reload, NotSupported("there is no LDAP client");

    /// The query that looks up a user's secret, for users who are not in `auth_file`.
    auth_query: String = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin", [], reload, QUERY;

    /// How clients prove who they are.
    ///
    /// - `md5`: PostgreSQL's md5 challenge; a user whose secret is a SCRAM verifier authenticates by SCRAM.
    /// - `scram-sha-256`: SCRAM; secrets are verifiers or plain passwords.
    /// - `plain`: the password in clear text.
    /// - `trust`: no proof; the user must be in `auth_file`.
    /// - `any`: no proof and any name; every database then needs a `user`.
    auth_type: AuthType = "md5", [], reload, Only(&["any", "trust", "plain", "md5", "scram-sha-256"], "only users and secrets from auth_file are known");

    /// The PostgreSQL user who runs `auth_query`.
    auth_user: Option<String> = unset, [], reload, NotSupported("users come from auth_file alone");

    /// How long the pools of a database that came from `*` are kept without clients and servers,
    /// with what was counted in them; 0 means for ever. If PostgreSQL has no such database they go
    /// at once. There are at most 10,000 such pools: beyond, one without use makes room, and if
    /// there is none, a client is refused with 53300.
    autodb_idle_timeout: Duration = "3600", [], reload, Honoured;

    /// How long PostgreSQL, or a peer, may take to deal with a cancel request; 0 means a minute.
    /// There are at most 1,000 at a time on each event loop; more are dropped.
    cancel_wait_timeout: Duration = "10", [], reload, Honoured;

    /// How long a client may be idle outside a transaction; 0 means for ever.
    client_idle_timeout: Duration = "0", [], reload, Honoured;

    /// How long a client may take to log in; 0 means for ever.
    client_login_timeout: Duration = "60", [], reload, Honoured;

    /// TLS 1.3 ciphers for clients.
    client_tls13_ciphers: Option<String> = unset, [], reload, NotSupported("the ciphers are those of rustls, all of them safe, and cannot be chosen");

    /// Certificates of authorities that client certificates must come from.
    client_tls_ca_file: Option<String> = "", [], reload, NoEffect("client certificates are not verified yet");

    /// The certificate shown to clients, with its chain, in PEM.
    client_tls_cert_file: Option<String> = "", [], reload, Honoured;

    /// TLS 1.2 ciphers for clients, in OpenSSL's syntax.
    client_tls_ciphers: String = "default", [], reload, CIPHERS;

    /// Diffie-Hellman parameters for clients.
    client_tls_dheparams: String = "auto", [], reload, Only(&["auto", "none", "legacy"], "key exchange uses elliptic curves alone");

    /// The elliptic curve of the key exchange with clients.
    client_tls_ecdhcurve: String = "auto", [], reload, NotSupported("the curves are those of rustls and cannot be chosen");

    /// The private key of `client_tls_cert_file`, in PEM.
    client_tls_key_file: Option<String> = "", [], reload, Honoured;

    /// TLS versions for clients: `secure` (1.2 and 1.3), or a list. TLS 1.0 and 1.1 are never spoken, also
    /// when a list names them.
    client_tls_protocols: TlsProtocols = "secure", [], reload, Honoured;

    /// Whether clients may or must use TLS.
    ///
    /// - `disable`: plain only.
    /// - `allow`, `prefer`: as the client wishes.
    /// - `require`: TLS only.
    ///
    /// Clients ask for TLS first; `sslnegotiation=direct`, which does not, is not supported yet.
    client_tls_sslmode: SslMode = "disable", [], reload, Only(&["disable", "allow", "prefer", "require"], "client certificates are not verified yet");

    /// The configuration file in use.
    conffile: Option<String> = unset, [], reload, NotSupported("name another file on the command line");

    /// *Ours.* An opaque name of this configuration, repeated in `/status` when it is in force.
    config_revision: Option<String> = unset, [], reload, Honoured;

    /// Servers per pool, that is per database and user, unless the database or user says otherwise.
    default_pool_size: u32 = "20", [1, 1_000_000], reload, Honoured;

    /// Whether the simple query protocol is refused.
    disable_pqexec: bool = "0", [], restart, NotSupported("simple queries are always let through");

    /// How long the answer of a name server is used, whatever its own time to live says.
    dns_max_ttl: Duration = "15", [], reload, Honoured;

    /// How long a failure to resolve a name is remembered.
    dns_nxdomain_ttl: Duration = "15", [], reload, Honoured;

    /// How often the serial number of a DNS zone is asked for.
    dns_zone_check_period: Duration = "0", [], reload, NoEffect("every name is resolved again after dns_max_ttl");

    /// *Ours.* How long a pooler that is asked to stop spreads the end of its sessions over. Servers that nobody
    /// has needed for a second are closed meanwhile.
    drain_timeout: Duration = "60", [0, 86_400], reload, Honoured;

    /// *Ours.* The address of the HTTP port.
    http_addr: ListenAddress = "127.0.0.1", [], restart, Honoured;

    /// *Ours.* The port for `/livez`, `/readyz`, `/metrics` and `/status`; 0 means none.
    http_port: u16 = "0", [0, 65_535], restart, Honoured;

    /// How long a client may be idle inside a transaction; 0 means for ever.
    idle_transaction_timeout: Duration = "0", [], reload, Honoured;

    /// Startup parameters that are accepted and dropped, separated by commas. `options` lets unknown ones
    /// inside `options` pass too.
    ignore_startup_parameters: Vec<String> = "", [], reload, Honoured;

    /// The name under which PgBouncer registers as a Windows service.
    job_name: String = "pgbouncer", [], restart, NoEffect("there are no Windows services here");

    /// Addresses to listen on, separated by commas; `*` means all. Names other than `localhost` are not looked
    /// up. Without any, only the Unix socket is open.
    listen_addr: Vec<ListenAddress> = "", [], restart, Honoured;

    /// Connections that the kernel keeps until they are accepted.
    listen_backlog: u32 = "128", [0, 2_147_483_647], restart, INTERNAL;

    /// The port for TCP and in the name of the Unix socket; 0 takes a free one.
    listen_port: u16 = "6432", [0, 65_535], restart, Honoured;

    /// Whether logins are logged.
    log_connections: bool = "1", [], reload, Honoured;

    /// Whether ends of client sessions are logged, with the reason.
    log_disconnections: bool = "1", [], reload, Honoured;

    /// *Ours.* How log lines look: `text`, or `json`, an object a line.
    log_format: LogFormat = "text", [], restart, Honoured;

    /// Whether errors that the pooler sends to clients are logged.
    log_pooler_errors: bool = "1", [], reload, Honoured;

    /// Whether a summary is logged every `stats_period`.
    log_stats: bool = "1", [], reload, Honoured;

    /// The file that log lines are appended to; it is opened anew at RELOAD.
    logfile: Option<String> = "", [], restart, Honoured;

    /// A message that clients get after login.
    login_notify_message: Option<String> = "", [], reload, NotSupported("no message is sent after login");

    /// Clients at once.
    max_client_conn: u32 = "100", [1, 1_000_000], reload, Honoured;

    /// Clients of one database at once, whatever the user; 0 means no limit.
    max_db_client_connections: u32 = "0", [0, 1_000_000], reload, Honoured;

    /// Servers of one database at once, whatever the user; 0 means no limit.
    max_db_connections: u32 = "0", [0, 1_000_000], reload, Honoured;

    /// *Ours.* Memory at which new clients are refused, in bytes.
    max_memory: Option<u64> = unset, [], reload, NotSupported("memory is not measured yet");

    /// Longest message that is let through, in bytes.
    max_packet_size: u32 = "2147483647", [0, 2_147_483_647], reload, NoEffect("messages are passed on in parts, so that long ones cost no memory");

    /// Prepared statements kept on each server; 0 leaves prepared statements of clients alone, so that they
    /// work in session pooling only.
    max_prepared_statements: u32 = "200", [0, 100_000], reload, Honoured;

    /// *Ours.* Servers at once, whatever database and user; 0 means no limit. A tier of several poolers
    /// keeps a limit of all of them by giving each its share.
    max_server_connections: u32 = "0", [0, 1_000_000], reload, Honoured;

    /// Clients of one user at once, whatever the database; 0 means no limit.
    max_user_client_connections: u32 = "0", [0, 1_000_000], reload, Honoured;

    /// Servers of one user at once, whatever the database; 0 means no limit.
    max_user_connections: u32 = "0", [0, 1_000_000], reload, Honoured;

    /// Servers that a pool keeps open once it is in use, at most its size; of a database that came
    /// from `*` only while it has clients.
    min_pool_size: u32 = "0", [0, 1_000_000], reload, Honoured;

    /// *Ours.* Whether everything is paused from the start, as after PAUSE. A reload that changes it
    /// pauses or resumes; one that does not leaves what the console said.
    paused: bool = "0", [], reload, Honoured;

    /// *Ours.* The DNS name whose addresses (A and AAAA) are this pooler and its peers, and the port of
    /// all of them; without one, `listen_port`. A cancel request that belongs to a peer is passed on to
    /// it. Poolers number themselves, by `advertise_addr`: `peer_id` and `[peers]` are not set beside it.
    peer_discovery: Option<PeerName> = unset, [], reload, Honoured;

    /// *Ours.* The name server that is asked for `peer_discovery`; unset means those of /etc/resolv.conf.
    peer_discovery_resolver: Option<SocketAddr> = unset, [], reload, Honoured;

    /// The number of this pooler among its peers, 0 when it has none. Cancel keys carry it.
    peer_id: u16 = "0", [0, 16_383], reload, Honoured;

    /// The file that holds the process id while the pooler runs. The pooler does not start while the process
    /// that a file there names is running.
    pidfile: Option<String> = "", [], restart, Honoured;

    /// Size of PgBouncer's buffers, in bytes.
    pkt_buf: u32 = "4096", [0, 2_147_483_647], restart, INTERNAL;

    /// How long a pool without clients and servers is kept; 0 means for ever.
    pool_idle_timeout: Duration = "0", [], reload, POOLS_STAY;

    /// When a server goes back to its pool, unless the database or user says otherwise.
    ///
    /// - `session`: when the client leaves.
    /// - `transaction`: when the transaction ends.
    /// - `statement`: when the statement ends; transactions of several statements are refused.
    pool_mode: PoolMode = "session", [], reload, Honoured;

    /// *Ours.* Whose PROXY protocol header (version 2) is believed: it tells the client's address, and comes before
    /// everything else of a connection. Connections without one are served in any case.
    ///
    /// - `off`: nobody's; a header is refused.
    /// - `mac`: that of balancers with the same `shared_key_file`.
    /// - networks, such as `10.0.0.0/8, fd00::/8`: that of everybody who connects from there. Meant for balancers
    ///   that have no shared key; whoever is in such a network can claim any address.
    proxy_protocol: ProxyProtocol = "off", [], reload, Honoured;

    /// How long a query may run before its client is disconnected; 0 means for ever.
    query_timeout: Duration = "0", [], reload, Honoured;

    /// How long a client waits for a server before it is told so; 0 means never.
    query_wait_notify: Duration = "5", [], reload, NoEffect("waiting clients get no notice yet");

    /// How long a client may wait for a server before it gets an error; 0 means for ever.
    query_wait_timeout: Duration = "120", [], reload, Honoured;

    /// *Ours.* Whether to reload when the configuration changes on disk: this file, what it includes, and the
    /// files of users, rules and certificates that it names. Looked at once a second.
    reload_on_change: bool = "0", [], reload, Honoured;

    /// Servers that a pool may open beyond its size when a client has waited for `reserve_pool_timeout`.
    reserve_pool_size: u32 = "0", [0, 1_000_000], reload, Honoured;

    /// How long a client waits until the reserve is used; 0 means that it is not.
    reserve_pool_timeout: Duration = "5", [], reload, Honoured;

    /// The file with the addresses of name servers.
    resolv_conf: Option<String> = "", [], restart, NotSupported("names are resolved as the system does");

    /// *Ours.* How long a client waits for a server until the pooler says of itself that it is saturated, at most half
    /// of `query_wait_timeout`; 0 means that it does not say so. It says so too when clients are refused because of
    /// `max_client_conn`. `/status`, the metrics and the checks of balancers tell it, and why. It is over when
    /// nothing of the kind was seen for 10 s. Waiting while the pool is paused or its PostgreSQL is out of reach does
    /// not count.
    saturation_wait: Duration = "5", [0, 86_400], reload, Honoured;

    /// How many buffers are processed for one connection in a turn.
    sbuf_loopcnt: u32 = "5", [0, 2_147_483_647], reload, INTERNAL;

    /// Iterations of the SCRAM verifiers that are made from plain passwords.
    scram_iterations: u32 = "4096", [1, 1_000_000], reload, Honoured;

    /// How long a released server is lent again without `server_check_query`; 0 means that it is always run.
    server_check_delay: Duration = "30", [], reload, Honoured;

    /// The query that shows whether a server is alive: `<empty>` is an empty query; without a value there is
    /// no check.
    server_check_query: String = "<empty>", [], reload, Honoured;

    /// How long connect and login to PostgreSQL may take; 0 means for ever.
    server_connect_timeout: Duration = "15", [], reload, Honoured;

    /// Whether session pooling closes a server that must go at the end of the transaction, and its client
    /// with it.
    server_fast_close: bool = "0", [], reload, Honoured;

    /// How long an unused server stays open; 0 means for ever.
    server_idle_timeout: Duration = "600", [], reload, Honoured;

    /// How old a server gets before it is closed when it is not in use; 0 means that each is used once.
    server_lifetime: Duration = "3600", [], reload, Honoured;

    /// Longest pause between two attempts to log in to a PostgreSQL that rejected the last one. Attempts start
    /// close together while somebody waits and grow apart up to this; where the pool has no server, clients
    /// that come in between are told at once what PostgreSQL said. While it cannot be reached, pauses end at
    /// 0.4 s, or at this if it is shorter.
    server_login_retry: Duration = "15", [], reload, Honoured;

    /// The query that cleans a server before another client gets it.
    server_reset_query: String = "DISCARD ALL", [], reload, Honoured;

    /// Whether `server_reset_query` is run in every pool mode, not in session pooling alone.
    server_reset_query_always: bool = "0", [], reload, Honoured;

    /// Whether servers are lent in turn, instead of the last used first.
    server_round_robin: bool = "0", [], reload, Honoured;

    /// TLS 1.3 ciphers for connections to PostgreSQL.
    server_tls13_ciphers: Option<String> = unset, [], reload, NotSupported("the ciphers are those of rustls, all of them safe, and cannot be chosen");

    /// Certificates of authorities that PostgreSQL's certificate must come from with `verify-ca` and
    /// `verify-full`, in PEM. No others are trusted. The other modes check nothing, whether it is set or not.
    server_tls_ca_file: Option<String> = "", [], reload, Honoured;

    /// The certificate shown to PostgreSQL if it asks for one, with its chain, in PEM.
    server_tls_cert_file: Option<String> = "", [], reload, Honoured;

    /// TLS 1.2 ciphers for connections to PostgreSQL, in OpenSSL's syntax.
    server_tls_ciphers: String = "default", [], reload, CIPHERS;

    /// The private key of `server_tls_cert_file`, in PEM.
    server_tls_key_file: Option<String> = "", [], reload, Honoured;

    /// TLS versions for connections to PostgreSQL: `secure` (1.2 and 1.3), or a list. TLS 1.0 and 1.1 are
    /// never spoken, also when a list names them.
    server_tls_protocols: TlsProtocols = "secure", [], reload, Honoured;

    /// Whether connections to PostgreSQL use TLS, cancel requests included. Never over Unix sockets.
    ///
    /// - `disable`: they do not.
    /// - `allow`, `prefer`: if PostgreSQL has it. Its certificate is not verified, and a handshake that fails
    ///   is not followed by an attempt without TLS.
    /// - `require`: always. Its certificate is not verified.
    /// - `verify-ca`: always, and its certificate must come from `server_tls_ca_file`.
    /// - `verify-full`: the same, and its subjectAltName must hold the database's `host` as it is written
    ///   there, name or address. Common names do not count.
    ///
    /// When one of the settings `server_tls_*` changes, or what one of the files holds, a reload replaces
    /// all servers, each when it is free.
    server_tls_sslmode: SslMode = "prefer", [], reload, Honoured;

    /// Another name of `job_name`.
    service_name: Option<String> = unset, [], restart, NoEffect("there are no Windows services here");

    /// *Ours.* What of a session is kept when a server changes.
    session_state: Option<String> = unset, [], reload, NotSupported("the tracked parameters and prepared statements are kept, nothing else");

    /// *Ours.* The file with the key that this tier's balancers and poolers share, 16 to 4096 bytes of text. What
    /// a balancer says with it is believed: clients' addresses (`proxy_protocol`), and that its sessions are to end.
    shared_key_file: Option<String> = unset, [], reload, Honoured;

    /// Whether other processes may listen on the same address and port, so that the kernel spreads clients
    /// over them.
    so_reuseport: bool = "0", [], restart, Honoured;

    /// How often averages are computed and `log_stats` logs.
    stats_period: Duration = "60", [1, 86_400], reload, Honoured;

    /// Users who may use the reading commands of the console, separated by commas.
    stats_users: Vec<String> = "", [], reload, Honoured;

    /// How long SUSPEND and a takeover may take.
    suspend_timeout: Duration = "10", [], reload, NoEffect("there is no SUSPEND and no takeover yet");

    /// Whether the log goes to syslog.
    syslog: bool = "0", [], reload, NotSupported("logs go to standard error or logfile");

    /// The facility of log lines in syslog.
    syslog_facility: String = "daemon", [], reload, NoEffect("syslog is not supported yet");

    /// The name of the program in syslog.
    syslog_ident: String = "pgbouncer", [], reload, NoEffect("syslog is not supported yet");

    /// Whether TCP_DEFER_ACCEPT is set on listening sockets.
    tcp_defer_accept: bool = "1", [], reload, INTERNAL;

    /// Whether TCP keepalive is on.
    tcp_keepalive: bool = "1", [], reload, Honoured;

    /// Lost keepalive probes until a connection is dead; 0 leaves the system's number.
    tcp_keepcnt: u32 = "0", [0, 127], reload, Honoured;

    /// Silence before the first keepalive probe; 0 leaves the system's time.
    tcp_keepidle: Duration = "0", [0, 32_767], reload, Honoured;

    /// Time between keepalive probes; 0 leaves the system's time.
    tcp_keepintvl: Duration = "0", [0, 32_767], reload, Honoured;

    /// Size of the kernel's socket buffers, in bytes; 0 leaves the system's size.
    tcp_socket_buffer: u32 = "0", [0, 2_147_483_647], reload, INTERNAL;

    /// How long sent data may stay unacknowledged before the connection is dead, in milliseconds; 0 leaves
    /// the system's time.
    tcp_user_timeout: Milliseconds = "0", [0, 2_147_483_647], reload, Honoured;

    /// *Ours.* Event loops.
    threads: u32 = "1", [1, 64], restart, Honoured;

    /// Parameters that follow a client from server to server, besides client_encoding, datestyle, timezone,
    /// standard_conforming_strings and application_name. PostgreSQL must report their changes.
    track_extra_parameters: Vec<String> = "IntervalStyle", [], restart, Honoured;

    /// How long a transaction may take before its client is disconnected; 0 means for ever.
    transaction_timeout: Duration = "0", [], reload, Honoured;

    /// The directory of the Unix socket, `@` before it for the abstract namespace; empty for no Unix socket.
    /// Databases without a host are reached through the same directory.
    unix_socket_dir: String = "/tmp", [], restart, Honoured;

    /// The group of the Unix socket: a name in /etc/group, or a number.
    unix_socket_group: Option<String> = "", [], restart, Honoured;

    /// The permissions of the Unix socket.
    unix_socket_mode: FileMode = "0777", [], restart, Honoured;

    /// *Ours.* How often PostgreSQL is asked whether it answers, where no login has shown it for so long; 0 means
    /// never. `/status` and the checks of balancers tell what is known. It is asked whether it encrypts, by every
    /// pooler and for each host of the section `[databases]`: that takes neither a user nor a connection out of
    /// max_connections, and PostgreSQL logs nothing of it unless `log_connections` is on.
    upstream_check_interval: Duration = "0", [0, 86_400], reload, Honoured;

    /// The system user that the pooler becomes when it starts, before it listens; only root can. It must be
    /// in /etc/passwd. `-u` on the command line comes before it.
    user: Option<String> = unset, [], restart, Honoured;

    /// How much is logged: 0 information, warnings and errors, 1 also debugging, 2 everything. As many `-v`
    /// do the same; the larger counts.
    verbose: u32 = unset, [0, 2_147_483_647], restart, Honoured;
}
