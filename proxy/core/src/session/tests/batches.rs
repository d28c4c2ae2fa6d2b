//! What is due: batches, errors, and when the server is free again.

use super::*;
use crate::wire::{Severity, error_response, notice_response, parameter_status, query};

const BATCH: [&str; 3] = ["", "", "select 1"];

/// Parse, Bind and Execute of the unnamed statement.
fn unnamed() -> Vec<u8> {
    let [statement, portal, sql] = BATCH;
    [
        sample::parse(statement, sql),
        sample::bind(portal, statement, &[]),
        sample::execute(portal, 0),
    ]
    .concat()
}

fn unnamed_answers() -> Vec<u8> {
    joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'2'),
        &sample::complete("SELECT 0"),
    ])
}

#[test]
fn a_query_holds_the_server_until_it_is_ready_and_idle() {
    let mut lent = Lent::new();
    assert!(lent.released());
    assert_eq!(kinds(&lent.client(query("begin"))), "Q");
    assert!(!lent.released());
    lent.server([sample::complete("BEGIN"), sample::ready(b'T')].concat());
    assert!(!lent.released(), "a transaction is open");
    lent.client(query("commit"));
    lent.server([sample::complete("COMMIT"), sample::ready(b'I')].concat());
    assert!(lent.released());
    assert_eq!(lent.answers(), "C Z C Z");
}

#[test]
fn a_batch_ended_by_flush_holds_the_server() {
    let mut lent = Lent::new();
    lent.client([unnamed(), sample::flush()].concat());
    lent.server(unnamed_answers());
    assert_eq!(lent.server.due_len(), 0);
    assert!(!lent.released(), "no Sync has ended the batch");
    lent.client(sync());
    assert!(!lent.released());
    lent.server(sample::ready(b'I'));
    assert!(lent.released());
    assert_eq!(lent.answers(), "1 2 C Z");
}

#[test]
fn a_batch_that_follows_a_sync_holds_the_server() {
    let mut lent = Lent::new();
    lent.client([unnamed(), sync().to_vec(), unnamed()].concat());
    lent.server([unnamed_answers(), sample::ready(b'I')].concat());
    assert!(!lent.released(), "the second batch is due");
    lent.client(sync());
    lent.server([unnamed_answers(), sample::ready(b'I')].concat());
    assert!(lent.released());
}

#[test]
fn a_function_call_is_answered_by_its_own_ready() {
    let mut lent = Lent::new();
    assert_eq!(kinds(&lent.client(sample::function_call("x"))), "F");
    assert!(!lent.released());
    lent.server([sample::bare(b'V'), sample::ready(b'I')].concat());
    assert!(lent.released());
    assert_eq!(lent.answers(), "V Z");
}

#[test]
fn a_suspended_portal_ends_its_execute() {
    let mut lent = Lent::new();
    lent.client(
        [
            sample::parse("", "select"),
            sample::bind("", "", &[]),
            sample::execute("", 1),
            sample::execute("", 1),
            sync().to_vec(),
        ]
        .concat(),
    );
    lent.server(joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'2'),
        &sample::data_row("1"),
        &sample::bare(b's'),
        &sample::data_row("2"),
        &sample::bare(b's'),
        &sample::ready(b'I'),
    ]));
    assert!(lent.released());
}

#[test]
fn an_error_skips_to_the_sync() {
    let mut lent = Lent::new();
    lent.client([unnamed(), query("skipped"), unnamed(), sync().to_vec()].concat());
    lent.server([sample::error("42601", "no"), sample::ready(b'I')].concat());
    assert!(lent.released());
    assert_eq!(lent.answers(), "E Z");
}

#[test]
fn an_error_whose_sync_is_not_sent_yet_holds_the_server() {
    let mut lent = Lent::new();
    lent.client([unnamed(), sample::flush()].concat());
    lent.server(sample::error("42601", "no"));
    assert!(!lent.released());
    lent.client([unnamed(), query("skipped")].concat());
    assert_eq!(lent.server.due_len(), 0, "the server ignores them");
    lent.client(sync());
    lent.server(sample::ready(b'I'));
    assert!(lent.released());
}

#[test]
fn an_error_at_sync_concerns_nothing_behind_it() {
    let mut lent = Lent::new();
    lent.client([unnamed(), sync().to_vec(), unnamed(), sync().to_vec()].concat());
    lent.server(joined(&[
        &unnamed_answers(),
        &sample::error("23505", "deferred"),
        &sample::ready(b'I'),
    ]));
    assert!(!lent.released());
    lent.server([unnamed_answers(), sample::ready(b'I')].concat());
    assert!(lent.released());
}

#[test]
fn an_error_of_a_query_leaves_the_batch_behind_it() {
    let mut lent = Lent::new();
    lent.client([query("bad"), unnamed(), sync().to_vec()].concat());
    lent.server([sample::error("42601", "no"), sample::ready(b'I')].concat());
    assert!(!lent.released());
    lent.server([unnamed_answers(), sample::ready(b'I')].concat());
    assert!(lent.released());
}

#[test]
fn a_fatal_error_passes_and_the_server_is_never_free_again() {
    for sent in [&query("select 1")[..], &[]] {
        let mut lent = Lent::new();
        lent.client(sent);
        let error = error_response(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "bye", "");
        lent.server(error);
        assert_eq!(lent.answers(), "E");
        assert!(lent.server.is_ending());
        assert!(!lent.released());
    }
}

#[test]
fn notices_pass_wherever_they_come_and_answer_nothing() {
    let mut lent = Lent::new();
    let notice = notice_response(Severity::Notice, SqlState("00000"), "hello", "");
    lent.client([unnamed(), sync().to_vec()].concat());
    lent.server(joined(&[
        &notice,
        &sample::bare(b'1'),
        &notice,
        &sample::bare(b'2'),
        &sample::complete("SELECT 0"),
        &notice,
        &parameter_status("in_hot_standby", "off"),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.answers(), "N 1 N 2 C N S Z");
    assert!(lent.released());
}

#[test]
fn what_a_server_says_while_not_lent_goes_to_nobody() {
    let mut lent = Lent::new();
    let mut to_client = Output::default();
    let bytes = [
        notice_response(Severity::Notice, SqlState("00000"), "hello", ""),
        parameter_status("TimeZone", "UTC"),
        error_response(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "bye", ""),
    ]
    .concat();
    from_server(
        Lent::rules(&lent.registry, &lent.interner, lent.mode),
        None,
        &mut lent.server,
        &bytes,
        &mut to_client,
    )
    .unwrap();
    assert!(to_client.is_empty());
}

#[test]
fn an_answer_that_nobody_asked_for_is_a_fault() {
    for message in [
        sample::ready(b'I'),
        sample::data_row("x"),
        sample::row_description(),
        sample::complete("SELECT 1"),
        sample::bare(b'1'),
        sample::bare(b's'),
        sample::copy_response(b'G'),
    ] {
        let mut lent = Lent::new();
        let result = lent.try_server(&message);
        assert_eq!(result, Err(ServerFault::Unexpected(message[0])));
    }
}

#[test]
fn a_ready_that_leaves_requests_unanswered_is_a_fault() {
    let mut lent = Lent::new();
    lent.client([unnamed(), sync().to_vec()].concat());
    let result = lent.try_server(&sample::ready(b'I'));
    assert_eq!(result, Err(ServerFault::Unexpected(b'Z')));
}

#[test]
fn reading_pauses_when_too_much_is_due() {
    let mut lent = Lent::new();
    let one = sample::bind("", "", &[]);
    let mut input = sample::parse("", "select 1");
    input.extend(one.repeat(DUE_MAX));
    let (done, sent) = lent.try_client(&input).unwrap();
    assert!(done.paused);
    assert_eq!(lent.server.due_len(), DUE_MAX);
    assert_eq!(
        sent.last_chunk(),
        Some(&[b'H', 0, 0, 0, 4]),
        "without a Flush the server might keep its answers and all would wait"
    );
    lent.server(sample::bare(b'1'));
    let (done, sent) = lent.try_client(&input[done.consumed..]).unwrap();
    assert!(!done.paused);
    assert_eq!(sent, one);
}

#[test]
fn an_answer_of_ours_waits_for_the_end_of_a_cut_message() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.client(
        [
            sample::describe(b'S', "s"),
            sample::parse("t", "select 1"),
            sync().to_vec(),
        ]
        .concat(),
    );
    let answers = [sample::row_description(), sample::ready(b'I')].concat();
    lent.server(&answers[..9]);
    lent.server(&answers[9..]);
    assert_eq!(lent.answers(), "T 1 Z");
}

#[test]
fn an_answer_of_ours_given_at_once_waits_for_the_end_of_a_cut_message_too() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.client([sample::describe(b'S', "s"), sample::flush()].concat());
    let description = sample::row_description();
    lent.server(&description[..9]);
    lent.client(sample::close(b'S', "s"));
    lent.server(&description[9..]);
    assert_eq!(lent.answers(), "T 3");
}
