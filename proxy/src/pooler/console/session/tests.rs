use proxy_core::wire::{ErrorFields, messages};

use super::*;

/// Body of Parse.
fn parse(name: &str, sql: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0", sql.as_bytes(), b"\0", &[0, 0]].concat()
}

/// Body of Bind without parameters.
fn bind(portal: &str, statement: &str, formats: &[u16]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0"].concat();
    body.extend([0, 0, 0, 0]);
    body.extend((formats.len() as u16).to_be_bytes());
    body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    body
}

fn answered(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Answer(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

/// Types of the messages in an answer.
fn kinds(outcome: Outcome) -> String {
    let bytes = answered(outcome);
    messages(&bytes)
        .map(|frame| char::from(frame.kind))
        .collect()
}

/// SQLSTATE of an answer that is an error.
fn code(outcome: Outcome) -> String {
    let bytes = answered(outcome);
    let frame = messages(&bytes).next().unwrap();
    assert_eq!(frame.kind, backend::ERROR_RESPONSE);
    String::from_utf8_lossy(ErrorFields::read(frame.body).code).into_owned()
}

#[test]
fn statements_are_prepared_described_bound_and_run() {
    let mut console = Console::new(true);
    assert_eq!(kinds(console.message(b'P', &parse("s", "SHOW POOLS"))), "1");
    assert_eq!(kinds(console.message(b'D', b"Ss\0")), "tT");
    assert_eq!(kinds(console.message(b'B', &bind("", "s", &[1]))), "2");
    assert_eq!(kinds(console.message(b'D', b"P\0")), "T");
    let run = console.message(b'E', b"\0\0\0\0\0");
    assert!(matches!(run, Outcome::Run(Request::Portal(..))), "{run:?}");
    assert_eq!(kinds(console.message(b'C', b"Ss\0")), "3");
    assert_eq!(kinds(console.message(b'S', b"")), "Z");
    assert_eq!(code(console.message(b'D', b"Ss\0")), "26000");
}

#[test]
fn what_gives_no_rows_says_so() {
    let mut console = Console::new(true);
    console.message(b'P', &parse("", "RELOAD"));
    assert_eq!(kinds(console.message(b'D', b"S\0")), "tn");
    console.message(b'P', &parse("", ""));
    console.message(b'B', &bind("", "", &[]));
    assert_eq!(kinds(console.message(b'D', b"P\0")), "n");
    assert_eq!(kinds(console.message(b'E', b"\0\0\0\0\0")), "I");
}

#[test]
fn an_error_skips_to_sync() {
    let mut console = Console::new(true);
    assert_eq!(code(console.message(b'P', &parse("", "SELECT 1"))), "42601");
    assert_eq!(kinds(console.message(b'B', &bind("", "", &[]))), "");
    assert_eq!(kinds(console.message(b'Q', b"RELOAD\0")), "");
    assert_eq!(kinds(console.message(b'S', b"")), "Z");
    assert_eq!(kinds(console.message(b'P', &parse("", "RELOAD"))), "1");

    let failed = true;
    console.ended(failed);
    assert_eq!(kinds(console.message(b'P', &parse("", "RELOAD"))), "");
}

#[test]
fn requests_that_cannot_be_are_refused_by_name() {
    let mut console = Console::new(true);
    let mut refused = |kind, body: &[u8]| {
        let code = code(console.message(kind, body));
        console.message(b'S', b"");
        code
    };
    assert_eq!(refused(b'B', &bind("", "none", &[])), "26000");
    assert_eq!(refused(b'E', b"none\0\0\0\0\0"), "34000");
    assert_eq!(refused(b'P', &parse("", "RELOAD; RELOAD")), "42601");
    let mut console = Console::new(true);
    console.message(b'P', &parse("s", "SHOW POOLS"));
    let mut refused = |kind, body: &[u8]| {
        let code = code(console.message(kind, body));
        console.message(b'S', b"");
        code
    };
    assert_eq!(refused(b'P', &parse("s", "SHOW STATS")), "42P05");
    assert_eq!(refused(b'B', &bind("", "s", &[0, 1])), "08P01", "formats");
    let with_parameter = [&b"\0s\0\0\0\0\x01\0\0\0\x01x\0\0"[..]].concat();
    assert_eq!(refused(b'B', &with_parameter), "08P01");
}

#[test]
fn portals_end_with_their_batch() {
    let mut console = Console::new(true);
    console.message(b'P', &parse("", "SHOW POOLS"));
    console.message(b'B', &bind("p", "", &[]));
    console.message(b'S', b"");
    assert_eq!(code(console.message(b'E', b"p\0\0\0\0\0")), "34000");
}

#[test]
fn statements_are_limited_and_the_unnamed_one_is_replaced() {
    let mut console = Console::new(true);
    for number in 0..STATEMENTS_MAX - 1 {
        let outcome = console.message(b'P', &parse(&format!("s{number}"), "SHOW POOLS"));
        assert_eq!(kinds(outcome), "1");
    }
    assert_eq!(kinds(console.message(b'P', &parse("", "SHOW POOLS"))), "1");
    assert_eq!(kinds(console.message(b'P', &parse("", "SHOW STATS"))), "1");
    assert_eq!(
        code(console.message(b'P', &parse("x", "SHOW POOLS"))),
        "54000"
    );
}

#[test]
fn no_bytes_panic_and_bad_ones_end_the_session() {
    for (kind, body) in [
        (b'P', &b"no end"[..]),
        (b'P', b"\0no end"),
        (b'B', b""),
        (b'B', b"\0none"),
        (b'D', b""),
        (b'D', b"X\0"),
        (b'E', b""),
        (b'C', b"S"),
        (b'Q', b"no end"),
        (b'Q', b"\0more"),
        (b'F', b""),
        (b'd', b"x"),
    ] {
        let mut console = Console::new(true);
        let outcome = console.message(kind, body);
        assert!(
            matches!(outcome, Outcome::Fatal(SqlState::PROTOCOL_VIOLATION, _)),
            "{} {body:?}: {outcome:?}",
            char::from(kind)
        );
    }
    let mut console = Console::new(true);
    console.message(b'P', &parse("", "SHOW POOLS"));
    for length in 0..12 {
        let body = [&b"\0\0"[..], &[0xff; 12][..length]].concat();
        let outcome = console.message(b'B', &body);
        assert!(
            matches!(outcome, Outcome::Fatal(..)),
            "{body:?}: {outcome:?}"
        );
    }
}
