//! Encoders for the messages that we originate.

use super::{backend, frontend};

/// A message of type `kind` whose body `fill` writes.
#[must_use]
pub fn message(kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0, 0];
    fill(&mut out);
    finish(&mut out, 1);
    out
}

/// A packet without a type byte (StartupMessage, SSLRequest, CancelRequest).
fn untyped(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0];
    fill(&mut out);
    finish(&mut out, 0);
    out
}

fn finish(out: &mut [u8], length_at: usize) {
    let length = u32::try_from(out.len() - length_at).expect("messages we build are small");
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(
        !text.contains(&0),
        "a string on the wire cannot hold a zero"
    );
    out.extend_from_slice(text);
    out.push(0);
}

/// StartupMessage, protocol 3.0, with `parameters` in the order given.
#[must_use]
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    untyped(|out| {
        out.extend(196_608_u32.to_be_bytes());
        for (name, value) in parameters {
            put_cstr(out, name.as_bytes());
            put_cstr(out, value.as_bytes());
        }
        out.push(0);
    })
}

/// SSLRequest: the server answers one byte, `S` or `N`.
#[must_use]
pub fn ssl_request() -> Vec<u8> {
    untyped(|out| out.extend(80_877_103_u32.to_be_bytes()))
}

/// GSSENCRequest: the server answers one byte, `G` or `N`.
#[must_use]
pub fn gssenc_request() -> Vec<u8> {
    untyped(|out| out.extend(80_877_104_u32.to_be_bytes()))
}

/// CancelRequest. `key` is the process id and the secret as BackendKeyData gave
/// them: 8 bytes in protocol 3.0, up to 260 in 3.2.
#[must_use]
pub fn cancel_request(key: &[u8]) -> Vec<u8> {
    untyped(|out| {
        out.extend(80_877_102_u32.to_be_bytes());
        out.extend_from_slice(key);
    })
}

/// AuthenticationOk.
#[must_use]
pub fn authentication_ok() -> Vec<u8> {
    message(backend::AUTHENTICATION, |out| {
        out.extend(0_u32.to_be_bytes());
    })
}

/// AuthenticationCleartextPassword.
#[must_use]
pub fn authentication_cleartext() -> Vec<u8> {
    message(backend::AUTHENTICATION, |out| {
        out.extend(3_u32.to_be_bytes());
    })
}

/// AuthenticationMD5Password with its salt.
#[must_use]
pub fn authentication_md5(salt: [u8; 4]) -> Vec<u8> {
    message(backend::AUTHENTICATION, |out| {
        out.extend(5_u32.to_be_bytes());
        out.extend(salt);
    })
}

/// AuthenticationSASL offering `mechanisms`, best first.
#[must_use]
pub fn authentication_sasl(mechanisms: &[&str]) -> Vec<u8> {
    message(backend::AUTHENTICATION, |out| {
        out.extend(10_u32.to_be_bytes());
        for mechanism in mechanisms {
            put_cstr(out, mechanism.as_bytes());
        }
        out.push(0);
    })
}

/// AuthenticationSASLContinue.
#[must_use]
pub fn authentication_sasl_continue(data: &[u8]) -> Vec<u8> {
    message(backend::AUTHENTICATION, |out| {
        out.extend(11_u32.to_be_bytes());
        out.extend_from_slice(data);
    })
}

/// AuthenticationSASLFinal.
#[must_use]
pub fn authentication_sasl_final(data: &[u8]) -> Vec<u8> {
    message(backend::AUTHENTICATION, |out| {
        out.extend(12_u32.to_be_bytes());
        out.extend_from_slice(data);
    })
}

/// PasswordMessage; `password` without a terminating zero.
#[must_use]
pub fn password(password: &[u8]) -> Vec<u8> {
    message(frontend::PASSWORD, |out| put_cstr(out, password))
}

/// SASLInitialResponse.
#[must_use]
pub fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    message(frontend::PASSWORD, |out| {
        put_cstr(out, mechanism.as_bytes());
        let length = u32::try_from(data.len()).expect("a SASL message is small");
        out.extend(length.to_be_bytes());
        out.extend_from_slice(data);
    })
}

/// SASLResponse.
#[must_use]
pub fn sasl_response(data: &[u8]) -> Vec<u8> {
    message(frontend::PASSWORD, |out| out.extend_from_slice(data))
}

/// NegotiateProtocolVersion: the newest minor version we speak, and the
/// protocol options (`_pq_.…`) that we did not recognise.
#[must_use]
pub fn negotiate_protocol_version(minor: u32, unrecognised: &[&str]) -> Vec<u8> {
    message(backend::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.extend((196_608 + minor).to_be_bytes());
        let count = u32::try_from(unrecognised.len()).expect("bounded by the packet's size");
        out.extend(count.to_be_bytes());
        for name in unrecognised {
            put_cstr(out, name.as_bytes());
        }
    })
}

/// ParameterStatus.
#[must_use]
pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    message(backend::PARAMETER_STATUS, |out| {
        put_cstr(out, name.as_bytes());
        put_cstr(out, value.as_bytes());
    })
}

/// BackendKeyData with an 8-byte key (process id and secret of protocol 3.0).
#[must_use]
pub fn backend_key_data(key: &[u8]) -> Vec<u8> {
    message(backend::BACKEND_KEY_DATA, |out| out.extend_from_slice(key))
}

/// ReadyForQuery. `status` is `I` (idle), `T` (in a transaction) or `E` (in a failed one).
#[must_use]
pub const fn ready_for_query(status: u8) -> [u8; 6] {
    [backend::READY_FOR_QUERY, 0, 0, 0, 5, status]
}

/// Sync.
#[must_use]
pub const fn sync() -> [u8; 5] {
    [frontend::SYNC, 0, 0, 0, 4]
}

/// Terminate.
#[must_use]
pub const fn terminate() -> [u8; 5] {
    [frontend::TERMINATE, 0, 0, 0, 4]
}

/// Query (simple protocol).
#[must_use]
pub fn query(sql: &str) -> Vec<u8> {
    message(frontend::QUERY, |out| put_cstr(out, sql.as_bytes()))
}

/// Parse of statement `name`. `rest` is what follows the name in the body: the
/// query with its zero, then the parameter types.
#[must_use]
pub fn parse(name: &[u8], rest: &[u8]) -> Vec<u8> {
    message(frontend::PARSE, |out| {
        put_cstr(out, name);
        out.extend_from_slice(rest);
    })
}

/// Close of the prepared statement `name`.
#[must_use]
pub fn close_statement(name: &[u8]) -> Vec<u8> {
    message(frontend::CLOSE, |out| {
        out.push(b'S');
        put_cstr(out, name);
    })
}

/// CommandComplete with its tag, such as `SHOW` or `PAUSE`.
#[must_use]
pub fn command_complete(tag: &str) -> Vec<u8> {
    message(backend::COMMAND_COMPLETE, |out| {
        put_cstr(out, tag.as_bytes());
    })
}

/// A column of a result that we make ourselves (console).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Column name.
    pub name: &'a str,
    /// Type OID: 25 text, 23 int4, 20 int8, 1700 numeric.
    pub type_oid: u32,
    /// Size as `pg_type.typlen`: -1 for variable length.
    pub type_len: i16,
    /// 0 for text, 1 for binary.
    pub format: u16,
}

/// RowDescription.
#[must_use]
pub fn row_description(columns: &[Column<'_>]) -> Vec<u8> {
    message(backend::ROW_DESCRIPTION, |out| {
        let count = u16::try_from(columns.len()).expect("a table has few columns");
        out.extend(count.to_be_bytes());
        for column in columns {
            put_cstr(out, column.name.as_bytes());
            out.extend(0_u32.to_be_bytes());
            out.extend(0_u16.to_be_bytes());
            out.extend(column.type_oid.to_be_bytes());
            out.extend(column.type_len.to_be_bytes());
            out.extend((-1_i32).to_be_bytes());
            out.extend(column.format.to_be_bytes());
        }
    })
}

/// DataRow; each value in the format of its column, `None` is NULL.
#[must_use]
pub fn data_row(values: &[Option<&[u8]>]) -> Vec<u8> {
    message(backend::DATA_ROW, |out| {
        let count = u16::try_from(values.len()).expect("a table has few columns");
        out.extend(count.to_be_bytes());
        for value in values {
            match value {
                Some(bytes) => {
                    let length = u32::try_from(bytes.len()).expect("a value is small");
                    out.extend(length.to_be_bytes());
                    out.extend_from_slice(bytes);
                }
                None => out.extend((-1_i32).to_be_bytes()),
            }
        }
    })
}
