//! Messages that only tests make: what applications and PostgreSQL send.

use super::{Severity, SqlState, backend, build, error_response, frontend, message, messages};

/// The types of the whole messages in `bytes`, as text: `1 2 C Z`.
pub(crate) fn kinds(bytes: &[u8]) -> String {
    let kinds: Vec<String> = messages(bytes)
        .map(|frame| char::from(frame.kind).to_string())
        .collect();
    let whole: usize = messages(bytes).map(|frame| frame.body.len() + 5).sum();
    assert_eq!(
        whole,
        bytes.len(),
        "a message is cut or malformed: {bytes:?}"
    );
    kinds.join(" ")
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// Parse of `sql` without parameter types as statement `name`.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut rest = sql.as_bytes().to_vec();
    rest.extend([0, 0, 0]);
    build::parse(name.as_bytes(), &rest)
}

/// Bind of statement `name` to `portal` with text parameters.
pub(crate) fn bind(portal: &str, name: &str, parameters: &[&str]) -> Vec<u8> {
    message(frontend::BIND, |out| {
        text(out, portal);
        text(out, name);
        out.extend(0_u16.to_be_bytes());
        out.extend((parameters.len() as u16).to_be_bytes());
        for parameter in parameters {
            out.extend((parameter.len() as u32).to_be_bytes());
            out.extend_from_slice(parameter.as_bytes());
        }
        out.extend(0_u16.to_be_bytes());
    })
}

/// Describe; `target` is `S` for a statement, `P` for a portal.
pub(crate) fn describe(target: u8, name: &str) -> Vec<u8> {
    message(frontend::DESCRIBE, |out| {
        out.push(target);
        text(out, name);
    })
}

/// Close; `target` is `S` for a statement, `P` for a portal.
pub(crate) fn close(target: u8, name: &str) -> Vec<u8> {
    message(frontend::CLOSE, |out| {
        out.push(target);
        text(out, name);
    })
}

/// Execute of `portal` for at most `rows` rows, 0 for all.
pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(frontend::EXECUTE, |out| {
        text(out, portal);
        out.extend(rows.to_be_bytes());
    })
}

/// Flush.
pub(crate) fn flush() -> Vec<u8> {
    message(frontend::FLUSH, |_| {})
}

/// CopyData.
pub(crate) fn copy_data(data: &str) -> Vec<u8> {
    message(frontend::COPY_DATA, |out| {
        out.extend_from_slice(data.as_bytes());
    })
}

/// CopyDone, of either side.
pub(crate) fn copy_done() -> Vec<u8> {
    message(frontend::COPY_DONE, |_| {})
}

/// CopyFail.
pub(crate) fn copy_fail(why: &str) -> Vec<u8> {
    message(frontend::COPY_FAIL, |out| text(out, why))
}

/// FunctionCall whose one argument is `argument`.
pub(crate) fn function_call(argument: &str) -> Vec<u8> {
    message(frontend::FUNCTION_CALL, |out| {
        out.extend(1_u32.to_be_bytes());
        out.extend_from_slice(argument.as_bytes());
    })
}

/// A server's message without a body: ParseComplete, BindComplete, …
pub(crate) fn bare(kind: u8) -> Vec<u8> {
    message(kind, |_| {})
}

/// RowDescription of one text column.
pub(crate) fn row_description() -> Vec<u8> {
    build::row_description(&[build::Column {
        name: "answer",
        type_oid: 25,
        type_len: -1,
        format: 0,
    }])
}

/// DataRow with one value.
pub(crate) fn data_row(value: &str) -> Vec<u8> {
    build::data_row(&[Some(value.as_bytes())])
}

/// CommandComplete.
pub(crate) fn complete(tag: &str) -> Vec<u8> {
    build::command_complete(tag)
}

/// ReadyForQuery.
pub(crate) fn ready(status: u8) -> Vec<u8> {
    build::ready_for_query(status).to_vec()
}

/// An ErrorResponse of severity ERROR.
pub(crate) fn error(code: &'static str, text: &str) -> Vec<u8> {
    error_response(Severity::Error, SqlState(code), text, "")
}

/// ParameterDescription without parameters.
pub(crate) fn parameter_description() -> Vec<u8> {
    message(backend::PARAMETER_DESCRIPTION, |out| {
        out.extend(0_u16.to_be_bytes());
    })
}

/// CopyInResponse, CopyOutResponse or CopyBothResponse of one text column.
pub(crate) fn copy_response(kind: u8) -> Vec<u8> {
    message(kind, |out| out.extend([0, 0, 1, 0, 0]))
}
