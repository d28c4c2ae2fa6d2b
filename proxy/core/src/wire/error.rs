//! ErrorResponse and NoticeResponse, and the SQLSTATEs we answer with.
//!
//! Sources: <https://www.postgresql.org/docs/17/protocol-error-fields.html> and
//! <https://www.postgresql.org/docs/17/errcodes-appendix.html>.

use super::{backend, build::message, cstr};

/// How bad it is, as PostgreSQL words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// Told in a NoticeResponse.
    Notice,
    /// Told in a NoticeResponse.
    Warning,
}

impl Severity {
    const fn text(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        }
    }
}

/// A five-character error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

impl SqlState {
    /// `08P01` protocol_violation.
    pub const PROTOCOL_VIOLATION: Self = Self("08P01");
    /// `08006` connection_failure.
    pub const CONNECTION_FAILURE: Self = Self("08006");
    /// `08001` sqlclient_unable_to_establish_sqlconnection.
    pub const UNABLE_TO_CONNECT: Self = Self("08001");
    /// `0A000` feature_not_supported.
    pub const FEATURE_NOT_SUPPORTED: Self = Self("0A000");
    /// `22023` invalid_parameter_value.
    pub const INVALID_PARAMETER_VALUE: Self = Self("22023");
    /// `26000` invalid_sql_statement_name.
    pub const INVALID_STATEMENT_NAME: Self = Self("26000");
    /// `28000` invalid_authorization_specification.
    pub const INVALID_AUTHORIZATION: Self = Self("28000");
    /// `28P01` invalid_password.
    pub const INVALID_PASSWORD: Self = Self("28P01");
    /// `3D000` invalid_catalog_name: no such database.
    pub const INVALID_CATALOG_NAME: Self = Self("3D000");
    /// `42501` insufficient_privilege.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self("42501");
    /// `42601` syntax_error.
    pub const SYNTAX_ERROR: Self = Self("42601");
    /// `42P05` duplicate_prepared_statement.
    pub const DUPLICATE_STATEMENT: Self = Self("42P05");
    /// `53200` out_of_memory.
    pub const OUT_OF_MEMORY: Self = Self("53200");
    /// `53300` too_many_connections.
    pub const TOO_MANY_CONNECTIONS: Self = Self("53300");
    /// `53400` configuration_limit_exceeded.
    pub const LIMIT_EXCEEDED: Self = Self("53400");
    /// `54000` program_limit_exceeded.
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self("54000");
    /// `57014` query_canceled.
    pub const QUERY_CANCELED: Self = Self("57014");
    /// `57P01` admin_shutdown.
    pub const ADMIN_SHUTDOWN: Self = Self("57P01");
    /// `57P03` cannot_connect_now.
    pub const CANNOT_CONNECT_NOW: Self = Self("57P03");
    /// `57P05` idle_session_timeout.
    pub const IDLE_SESSION_TIMEOUT: Self = Self("57P05");
    /// `25P03` idle_in_transaction_session_timeout.
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self("25P03");
    /// `XX000` internal_error.
    pub const INTERNAL: Self = Self("XX000");
}

/// An ErrorResponse: what happened, and as `hint` a sentence saying what to do.
///
/// `text` is lowercase, without a full stop; `hint` may be empty. Neither may
/// hold a secret: both reach the client and the log.
#[must_use]
pub fn error_response(severity: Severity, code: SqlState, text: &str, hint: &str) -> Vec<u8> {
    report(backend::ERROR_RESPONSE, severity, code, text, hint)
}

/// A NoticeResponse with the same fields as [`error_response`].
#[must_use]
pub fn notice_response(severity: Severity, code: SqlState, text: &str, hint: &str) -> Vec<u8> {
    report(backend::NOTICE_RESPONSE, severity, code, text, hint)
}

fn report(kind: u8, severity: Severity, code: SqlState, text: &str, hint: &str) -> Vec<u8> {
    message(kind, |out| {
        let mut field = |tag: u8, value: &str| {
            out.push(tag);
            // A zero inside a value would end the field early.
            out.extend(value.bytes().filter(|&byte| byte != 0));
            out.push(0);
        };
        field(b'S', severity.text());
        field(b'V', severity.text());
        field(b'C', code.0);
        field(b'M', text);
        if !hint.is_empty() {
            field(b'H', hint);
        }
        out.push(0);
    })
}

/// Characters of a server's text that a summary keeps.
const SUMMARY_TEXT_MAX: usize = 500;

/// The fields of an ErrorResponse that decisions depend on, as sent by a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// `V`, or where it is missing (before PostgreSQL 9.6) the localised `S`.
    pub severity: &'a [u8],
    /// The SQLSTATE.
    pub code: &'a [u8],
    /// The primary message.
    pub text: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads the body of an ErrorResponse; fields that are missing or cut stay empty.
    #[must_use]
    pub fn read(body: &'a [u8]) -> Self {
        let mut fields = Self::default();
        let mut rest = body;
        while let Some((&tag, after)) = rest.split_first() {
            if tag == 0 {
                break;
            }
            let Some((value, after)) = cstr(after) else {
                break;
            };
            match tag {
                b'V' => fields.severity = value,
                b'S' if fields.severity.is_empty() => fields.severity = value,
                b'C' => fields.code = value,
                b'M' => fields.text = value,
                _ => {}
            }
            rest = after;
        }
        fields
    }

    /// `ERROR 22012: division by zero`; a long text is cut.
    #[must_use]
    pub fn summary(&self) -> String {
        let text = String::from_utf8_lossy(self.text);
        let text: String = text.chars().take(SUMMARY_TEXT_MAX).collect();
        format!(
            "{} {}: {text}",
            String::from_utf8_lossy(self.severity),
            String::from_utf8_lossy(self.code)
        )
    }

    /// Whether the server ends the connection after this message.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        matches!(self.severity, b"FATAL" | b"PANIC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_back_what_was_written() {
        let bytes = error_response(
            Severity::Fatal,
            SqlState::TOO_MANY_CONNECTIONS,
            "no more than 3 clients",
            "Raise max_client_conn.",
        );
        let fields = ErrorFields::read(&bytes[5..]);
        assert_eq!(fields.code, b"53300");
        assert_eq!(fields.text, b"no more than 3 clients");
        assert!(fields.ends_connection());
    }

    #[test]
    fn a_summary_is_short() {
        let text = "é".repeat(1000);
        let bytes = error_response(Severity::Error, SqlState::SYNTAX_ERROR, &text, "");
        let summary = ErrorFields::read(&bytes[5..]).summary();
        assert_eq!(summary, format!("ERROR 42601: {}", "é".repeat(500)));
    }

    #[test]
    fn a_cut_body_gives_what_is_whole() {
        assert_eq!(ErrorFields::read(b"C57014\0Mcut").code, b"57014");
        assert_eq!(ErrorFields::read(b"").code, b"");
    }
}
