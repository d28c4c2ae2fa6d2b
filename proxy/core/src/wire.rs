//! PostgreSQL's frontend/backend protocol, version 3: bytes to types and back.
//!
//! Source: <https://www.postgresql.org/docs/17/protocol-message-formats.html>.
//! No sockets, no state: what a message means for a session is [`crate::session`]'s.

mod build;
mod check;
mod error;
mod frame;
#[cfg(test)]
mod properties;
mod proxy_header;
#[cfg(test)]
pub(crate) mod sample;
mod startup;
mod tls_answer;

pub use build::{
    Column, authentication_cleartext, authentication_md5, authentication_ok, authentication_sasl,
    authentication_sasl_continue, authentication_sasl_final, backend_key_data, cancel_request,
    close_statement, command_complete, data_row, gssenc_request, message,
    negotiate_protocol_version, parameter_status, parse, password, query, ready_for_query,
    row_description, sasl_initial, sasl_response, ssl_request, startup, sync, terminate,
};
pub use check::{
    CheckReply, CheckRequest, DrainOrder, TargetReport, TargetState, read_check_reply,
};
pub use error::{ErrorFields, Severity, SqlState, error_response, notice_response};
pub use frame::{Frame, FrameError, Header, cstr, cstr_len, header, messages};
pub use proxy_header::{
    ProxyHeader, ProxyHeaderError, VouchError, begins_proxy_header, proxy_header, read_proxy_header,
};
pub use startup::{
    CancelKey, FirstPacket, STARTUP_LENGTH_MAX, StartupError, StartupParameters, first_packet,
};
pub use tls_answer::{TlsAnswer, TlsAnswerError};

/// Message types that a frontend (an application) sends.
///
/// Each value is the type byte on the wire.
pub mod frontend {
    #![allow(missing_docs, reason = "the names are the protocol's own")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    /// Also SASLInitialResponse, SASLResponse and GSSResponse.
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Message types that a backend (PostgreSQL) sends.
pub mod backend {
    #![allow(missing_docs, reason = "the names are the protocol's own")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}
