//! The keys of an entry of sections `[databases]`, `[users]` and `[peers]`.

use std::time::Duration;

use super::{
    ConfigRow, LoadBalanceHosts, PoolMode, Setting,
    Support::{self, Honoured, NoEffect, NotSupported, Only},
    Value, nearest, settings,
};
use crate::config::Secret;

/// Why what goes with `auth_user` changes nothing.
const QUERY: Support = NoEffect("users come from auth_file alone; auth_user is not supported yet");

settings! {
    /// An entry of section `[databases]`: where its clients are served from.
    ///
    /// What is `None` is as the user or section `[pgbouncer]` says.
    Database

    /// The keys of an entry of section `[databases]`.
    DATABASE_KEYS

    /// The `application_name` of new servers, until a client brings its own.
    application_name: Option<String> = unset, [], reload, Honoured;

    /// The database in which `auth_query` runs.
    auth_dbname: Option<String> = unset, [], reload, QUERY;

    /// The query that looks up a user's secret.
    auth_query: Option<String> = unset, [], reload, QUERY;

    /// The PostgreSQL user who runs `auth_query`.
    auth_user: Option<String> = unset, [], reload, NotSupported("users come from auth_file alone");

    /// The `client_encoding` asked for on new servers.
    client_encoding: Option<String> = unset, [], reload, Honoured;

    /// A query run on each new server before a client gets it; its errors are logged and change nothing.
    connect_query: Option<String> = unset, [], reload, Honoured;

    /// The `DateStyle` asked for on new servers.
    datestyle: Option<String> = unset, [], reload, Honoured;

    /// The database's name in PostgreSQL, if it is not the entry's.
    dbname: Option<String> = unset, [], reload, Honoured;

    /// A host name or address, or a directory for a Unix socket (`@` before it for the abstract namespace).
    /// Unset means the Unix socket in `unix_socket_dir`. One host; lists are not supported yet.
    host: Option<String> = unset, [], reload, Honoured;

    /// Which host of a list a new server goes to.
    load_balance_hosts: Option<LoadBalanceHosts> = unset, [], reload, NoEffect("lists of hosts are not supported yet");

    /// Clients of this database at once; 0 means no limit.
    max_db_client_connections: Option<u32> = unset, [0, 1_000_000], reload, Honoured;

    /// Servers of this database at once; 0 means no limit.
    max_db_connections: Option<u32> = unset, [0, 1_000_000], reload, Honoured;

    /// Servers that a pool of this database keeps open.
    min_pool_size: Option<u32> = unset, [0, 1_000_000], reload, Honoured;

    /// The password of `user` in PostgreSQL. Without it, the secret of that user in `auth_file` serves.
    password: Option<Secret> = unset, [], reload, Honoured;

    /// When a server goes back to its pool.
    pool_mode: Option<PoolMode> = unset, [], reload, Honoured;

    /// Servers per pool of this database.
    pool_size: Option<u32> = unset, [1, 1_000_000], reload, Honoured;

    /// PostgreSQL's port.
    port: u16 = "5432", [1, 65_535], reload, Honoured;

    /// How long a client may wait for a server before it gets an error; 0 means for ever.
    query_wait_timeout: Option<Duration> = unset, [], reload, Honoured;

    /// Servers beyond `pool_size` when clients have waited for long. `reserve_pool` is another name of it.
    reserve_pool_size: Option<u32> = unset, [0, 1_000_000], reload, Honoured;

    /// How old a server of this database gets before it is closed when it is not in use.
    server_lifetime: Option<Duration> = unset, [], reload, Honoured;

    /// Which servers are good enough: any, or a primary, a standby and so on.
    target_session_attrs: Option<String> = unset, [], reload, Only(&["any"], "what a server is willing to do is not looked at");

    /// The `TimeZone` asked for on new servers.
    timezone: Option<String> = unset, [], reload, Honoured;

    /// The PostgreSQL user for all clients of this database, who then share one pool.
    user: Option<String> = unset, [], reload, Honoured;
}

settings! {
    /// An entry of section `[users]`: limits of one user.
    ///
    /// What is `None` is as the database or section `[pgbouncer]` says.
    User

    /// The keys of an entry of section `[users]`.
    USER_KEYS

    /// How long a client of this user may be idle outside a transaction; 0 means for ever.
    client_idle_timeout: Option<Duration> = unset, [], reload, Honoured;

    /// How long a client of this user may be idle inside a transaction; 0 means for ever.
    idle_transaction_timeout: Option<Duration> = unset, [], reload, Honoured;

    /// Clients of this user at once; 0 means no limit.
    max_user_client_connections: Option<u32> = unset, [0, 1_000_000], reload, Honoured;

    /// Servers of this user at once; 0 means no limit.
    max_user_connections: Option<u32> = unset, [0, 1_000_000], reload, Honoured;

    /// When a server goes back to its pool.
    pool_mode: Option<PoolMode> = unset, [], reload, Honoured;

    /// Servers per pool of this user.
    pool_size: Option<u32> = unset, [1, 1_000_000], reload, Honoured;

    /// How long a query of this user may run before its client is disconnected; 0 means for ever.
    query_timeout: Option<Duration> = unset, [], reload, Honoured;

    /// How long a client of this user may wait for a server before it gets an error; 0 means for ever.
    query_wait_timeout: Option<Duration> = unset, [], reload, Honoured;

    /// Servers beyond `pool_size` when clients have waited for long.
    reserve_pool_size: Option<u32> = unset, [0, 1_000_000], reload, Honoured;

    /// How long a transaction of this user may take; 0 means for ever.
    transaction_timeout: Option<Duration> = unset, [], reload, Honoured;
}

settings! {
    /// An entry of section `[peers]`: where the pooler of that number is reached.
    Peer

    /// The keys of an entry of section `[peers]`.
    PEER_KEYS

    /// A host name or address; Unix sockets are not supported yet. Every entry needs it.
    host: Option<String> = unset, [], reload, Honoured;

    /// How many cancel requests to this peer are under way at once.
    pool_size: Option<u32> = unset, [1, 1_000_000], reload, NoEffect("each event loop has up to 1,000 cancel requests under way, whomever they are for");

    /// The peer's port.
    port: u16 = "6432", [1, 65_535], reload, Honoured;
}
