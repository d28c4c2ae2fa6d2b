//! What the balancer exposes.

use web::series;

series! {
    INFO = "poolkeeper_balancer_info", Gauge, None, ["version", "boot_id", "config_revision"],
        "Always 1; the labels say what runs.";
    START_TIME = "poolkeeper_balancer_start_time_seconds", Gauge, Seconds, [],
        "When the process started, in Unix time.";
    RELOAD_FAILURES = "poolkeeper_balancer_reload_failures_total", Counter, None, [],
        "Reloads that failed: what was in force stayed.";
    RELOAD_SUCCESSFUL = "poolkeeper_balancer_last_reload_successful", Gauge, None, [],
        "1 unless the newest reload failed; /status tells why it did.";
    CONNECTIONS = "poolkeeper_balancer_connections", Gauge, None, [],
        "Client connections now, those about to be refused included.";
    CONNECTIONS_LIMIT = "poolkeeper_balancer_connections_limit", Gauge, None, [],
        "Client connections allowed at once: max_connections, lowered to what the descriptor limit allows.";
    CONNECTIONS_TOTAL = "poolkeeper_balancer_connections_total", Counter, None, [],
        "Client connections accepted.";
    REFUSED = "poolkeeper_balancer_refused_total", Counter, None, ["reason"],
        "Client connections refused: no_target (no target is up) or limit (max_connections reached).";
    RECEIVED = "poolkeeper_balancer_received_bytes_total", Counter, Bytes, [],
        "Bytes relayed from clients.";
    SENT = "poolkeeper_balancer_sent_bytes_total", Counter, Bytes, [],
        "Bytes relayed to clients.";
    TARGETS = "poolkeeper_balancer_targets", Gauge, None, ["state"],
        "Targets in each state.";
    TARGET_UP = "poolkeeper_balancer_target_up", Gauge, None, ["target"],
        "1 while the target gets new connections.";
    TARGET_CONNECTIONS = "poolkeeper_balancer_target_connections", Gauge, None, ["target"],
        "Connections to the target now.";
    TARGET_CONNECTIONS_TOTAL = "poolkeeper_balancer_target_connections_total", Counter, None, ["target"],
        "Connections made to the target.";
    TARGET_CONNECT_FAILURES = "poolkeeper_balancer_target_connect_failures_total", Counter, None, ["target"],
        "Connects to the target that failed; each was tried again elsewhere while another target was up.";
    TARGET_RECEIVED = "poolkeeper_balancer_target_received_bytes_total", Counter, Bytes, ["target"],
        "Bytes relayed from clients to the target.";
    TARGET_SENT = "poolkeeper_balancer_target_sent_bytes_total", Counter, Bytes, ["target"],
        "Bytes relayed from the target to clients.";
    TARGET_ABORTED = "poolkeeper_balancer_target_aborted_total", Counter, None, ["target", "by"],
        "Sessions that ended in an error rather than an orderly close, by the side that broke: client or server.";
    TARGET_CHECKS = "poolkeeper_balancer_target_checks_total", Counter, None, ["target", "result"],
        "Checks of the target: ok or failed.";
    TARGET_CHECK_DURATION = "poolkeeper_balancer_target_check_duration_seconds", Gauge, Seconds, ["target"],
        "How long the newest check took.";
    TARGET_TRANSITIONS = "poolkeeper_balancer_target_transitions_total", Counter, None, ["target", "to"],
        "Changes of the target's state, by the state after; restarted counts new processes that came without a drain.";
    LOOK_UPS = "poolkeeper_balancer_discovery_look_ups_total", Counter, None, ["result"],
        "DNS look-ups of targets: ok or failed.";
    LOOK_UP_SUCCESS = "poolkeeper_balancer_discovery_last_success_timestamp_seconds", Gauge, Seconds, [],
        "When DNS answered last, in Unix time; 0 before the first answer.";
    DISCOVERED = "poolkeeper_balancer_discovery_addresses", Gauge, None, ["use"],
        "Addresses in the last answer: target, or left_out for want of room.";
    LOOP_AGE = "poolkeeper_balancer_loop_age_seconds", Gauge, Seconds, ["loop"],
        "How long ago the event loop last turned; /livez fails above 10.";
}
