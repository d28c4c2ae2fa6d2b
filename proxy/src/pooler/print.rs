//! The console's commands and the tables they print.

use proxy_core::wire::{self, Severity, SqlState, error_response};

use super::control::{Command, Control};

/// Carries out a command; the bytes to send, ReadyForQuery included.
pub(super) async fn answer(control: &Control, command: Command) -> Vec<u8> {
    let words: Vec<&str> = command
        .sql
        .trim()
        .trim_end_matches(';')
        .split_ascii_whitespace()
        .collect();
    let _ = (control, words);
    let mut bytes = error_response(
        Severity::Error,
        SqlState::SYNTAX_ERROR,
        "unknown command",
        "",
    );
    bytes.extend(wire::ready_for_query(b'I'));
    bytes
}
