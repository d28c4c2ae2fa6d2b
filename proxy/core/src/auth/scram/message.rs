//! The grammar of SCRAM messages: `a=value,b=value`.

use super::ScramError;

/// Longest message accepted. A well-formed one has a few hundred bytes.
const MESSAGE_LENGTH_MAX: usize = 4096;

/// Reads a message as text, whole and without zero bytes.
pub(super) fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_LENGTH_MAX {
        return Err(ScramError::Malformed("too long"));
    }
    let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
    if text.contains('\0') {
        return Err(ScramError::Malformed("zero byte"));
    }
    Ok(text)
}

/// Takes `name=value` from the start; returns the value and what follows the
/// comma, `None` where the message ends without one.
pub(super) fn attribute(text: &str, name: char) -> Result<(&str, Option<&str>), ScramError> {
    let value = text
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('='))
        .ok_or(ScramError::Malformed("attribute missing"))?;
    Ok(match value.split_once(',') {
        Some((value, rest)) => (value, Some(rest)),
        None => (value, None),
    })
}

/// The attribute that must follow another one.
pub(super) fn next_attribute(
    rest: Option<&str>,
    name: char,
) -> Result<(&str, Option<&str>), ScramError> {
    attribute(rest.unwrap_or(""), name)
}

/// A nonce: printable ASCII without commas, not empty (RFC 5802, section 7).
pub(super) fn nonce(value: &str) -> Result<&str, ScramError> {
    let printable = |byte| matches!(byte, 0x21..=0x2b | 0x2d..=0x7e);
    if value.is_empty() || !value.bytes().all(printable) {
        return Err(ScramError::Malformed("nonce"));
    }
    Ok(value)
}

/// Checks that optional attributes, a letter and a value each, follow the grammar.
pub(super) fn extensions(mut rest: Option<&str>) -> Result<(), ScramError> {
    while let Some(text) = rest {
        let letter = text
            .chars()
            .next()
            .filter(char::is_ascii_alphabetic)
            .ok_or(ScramError::Malformed("extension"))?;
        (_, rest) = attribute(text, letter)?;
    }
    Ok(())
}
