//! What the pooler exposes.

use web::series;

series! {
    INFO = "poolkeeper_pooler_info", Gauge, None, ["version", "boot_id", "config_revision"],
        "Always 1; the labels say what runs.";
    START_TIME = "poolkeeper_pooler_start_time_seconds", Gauge, Seconds, [],
        "When the process started, in Unix time.";
    PAUSED = "poolkeeper_pooler_paused", Gauge, None, [],
        "1 while everything is paused.";
    DRAINING = "poolkeeper_pooler_draining", Gauge, None, [],
        "1 once the process has been asked to end.";
    RELOAD_FAILURES = "poolkeeper_pooler_reload_failures_total", Counter, None, [],
        "Reloads that failed: what was in force stayed.";
    RELOAD_SUCCESSFUL = "poolkeeper_pooler_last_reload_successful", Gauge, None, [],
        "1 unless the newest reload failed; /status tells why it did.";
    CLIENTS = "poolkeeper_pooler_clients", Gauge, None, ["state"],
        "Client connections: login (not logged in yet), idle (without a server), active (linked to a server), waiting (for a server), console.";
    CLIENTS_LIMIT = "poolkeeper_pooler_clients_limit", Gauge, None, [],
        "Clients allowed at once: max_client_conn.";
    CONNECTIONS_TOTAL = "poolkeeper_pooler_connections_total", Counter, None, [],
        "Client connections accepted, checks of balancers and cancel requests included.";
    REFUSED = "poolkeeper_pooler_clients_refused_total", Counter, None, ["sqlstate"],
        "Clients sent away with an error, by its SQLSTATE; a code appears when it is first sent.";
    PROXY_HEADERS = "poolkeeper_pooler_proxy_headers_total", Counter, None, ["result"],
        "PROXY headers: believed, or refused (no valid proof, from no listed network, malformed, or proxy_protocol is off).";
    PEERS = "poolkeeper_pooler_peers", Gauge, None, [],
        "Poolers that cancel requests are passed on to, this one included: of [peers], or in the last answer for peer_discovery.";
    PEER_LOOKUPS = "poolkeeper_pooler_peer_lookups_total", Counter, None, ["result"],
        "Look-ups of peer_discovery: answered, or failed (what was known is kept).";
    AUTH_FAILURES = "poolkeeper_pooler_auth_failures_total", Counter, None, [],
        "Logins with an unknown name or a wrong proof.";
    SATURATED = "poolkeeper_pooler_saturated", Gauge, None, ["reason"],
        "1 while clients are not served in time for this reason: clients_refused (max_client_conn), max_server_connections, max_db_connections and max_user_connections (they wait longer than saturation_wait, and that limit is used up), clients_wait (they wait longer, for a server of their pool).";
    SERVERS = "poolkeeper_pooler_servers", Gauge, None, ["state"],
        "Connections to PostgreSQL: active (linked to a client), idle, used (idle for so long that they are checked first), tested (in a check or reset query), being_canceled, login.";
    SERVER_CONNECT_FAILURES = "poolkeeper_pooler_server_connect_failures_total", Counter, None, ["reason"],
        "Connections to PostgreSQL that could not be opened: name (the host has no address), unreachable, rejected (PostgreSQL refused the login).";
    POOL_CLIENTS = "poolkeeper_pooler_pool_clients", Gauge, None, ["database", "user", "state"],
        "Clients of the pool: idle, active or waiting.";
    POOL_SERVERS = "poolkeeper_pooler_pool_servers", Gauge, None, ["database", "user", "state"],
        "Connections of the pool to PostgreSQL, by the states of poolkeeper_pooler_servers.";
    POOL_SERVERS_LIMIT = "poolkeeper_pooler_pool_servers_limit", Gauge, None, ["database", "user"],
        "Connections that the pool may open: pool_size, without the reserve.";
    POOL_WAIT_MAX = "poolkeeper_pooler_pool_wait_max_seconds", Gauge, Seconds, ["database", "user"],
        "How long the client that has waited longest for a server has waited.";
    POOL_PAUSED = "poolkeeper_pooler_pool_paused", Gauge, None, ["database", "user"],
        "1 while the pool lends no servers.";
    POOL_LOGINS = "poolkeeper_pooler_pool_logins_total", Counter, None, ["database", "user"],
        "Clients that have logged in.";
    POOL_ASSIGNMENTS = "poolkeeper_pooler_pool_assignments_total", Counter, None, ["database", "user"],
        "Servers lent to clients.";
    POOL_TRANSACTIONS = "poolkeeper_pooler_pool_transactions_total", Counter, None, ["database", "user"],
        "Transactions ended.";
    POOL_QUERIES = "poolkeeper_pooler_pool_queries_total", Counter, None, ["database", "user"],
        "Queries answered; a batch of the extended protocol counts as one.";
    POOL_RECEIVED = "poolkeeper_pooler_pool_received_bytes_total", Counter, Bytes, ["database", "user"],
        "Bytes from clients.";
    POOL_SENT = "poolkeeper_pooler_pool_sent_bytes_total", Counter, Bytes, ["database", "user"],
        "Bytes to clients.";
    POOL_TRANSACTION_TIME = "poolkeeper_pooler_pool_transaction_seconds_total", Counter, Seconds, ["database", "user"],
        "Time spent in transactions that have ended.";
    POOL_QUERY_TIME = "poolkeeper_pooler_pool_query_seconds_total", Counter, Seconds, ["database", "user"],
        "Time PostgreSQL took for queries that are answered.";
    POOL_WAIT_TIME = "poolkeeper_pooler_pool_wait_seconds_total", Counter, Seconds, ["database", "user"],
        "Time clients waited for the servers they were lent.";
    POOL_CLIENT_PARSES = "poolkeeper_pooler_pool_client_parses_total", Counter, None, ["database", "user"],
        "Statements that clients prepared.";
    POOL_SERVER_PARSES = "poolkeeper_pooler_pool_server_parses_total", Counter, None, ["database", "user"],
        "Statements prepared on servers; fewer than clients prepared, where they share them.";
    POOL_BINDS = "poolkeeper_pooler_pool_binds_total", Counter, None, ["database", "user"],
        "Prepared statements bound.";
    LOOP_AGE = "poolkeeper_pooler_loop_age_seconds", Gauge, Seconds, ["loop"],
        "How long ago the event loop last turned; /livez fails above 10.";
}
