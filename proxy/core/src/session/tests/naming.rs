//! Prepared statements: names, sharing, roll-back, eviction.

use super::*;
use crate::wire::query;

fn bound(name: &str) -> Vec<u8> {
    [sample::bind("", name, &[]), sample::execute("", 0)].concat()
}

fn synced(parts: &[&[u8]]) -> Vec<u8> {
    [joined(parts), sync().to_vec()].concat()
}

fn bound_answers() -> Vec<u8> {
    [sample::bare(b'2'), sample::complete("SELECT 0")].concat()
}

#[test]
fn a_statement_follows_its_client_to_a_server_that_never_saw_it() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.server = ServerSession::new(lent.interner.empty(), 100);
    let sent = lent.client(synced(&[&bound("s"), &bound("s")]));
    assert_eq!(named(&sent), "P:pk0 B:pk0 E B:pk0 E S");
    lent.server(joined(&[
        &sample::bare(b'1'),
        &bound_answers(),
        &bound_answers(),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.answers(), "2 C 2 C Z");
    assert!(lent.released());
}

#[test]
fn a_statement_that_the_server_has_is_not_parsed_again() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.next_client();
    let sent = lent.client(synced(&[
        &sample::parse("mine", "select 1"),
        &sample::describe(b'S', "mine"),
    ]));
    assert_eq!(named(&sent), "D:pk0 S");
    lent.server(joined(&[
        &sample::parameter_description(),
        &sample::row_description(),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.answers(), "1 t T Z");
}

#[test]
fn one_name_means_another_statement_to_another_client() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.next_client();
    lent.prepare("s", "select 2");
    assert_eq!(named(&lent.client(synced(&[&bound("s")]))), "B:pk1 E S");
}

#[test]
fn a_failed_parse_is_rolled_back() {
    let mut lent = Lent::new();
    let parse = sample::parse("s", "selct");
    let _known = lent.registry.intern(0, "", b"selct\0\0\0");
    for _ in 0..2 {
        let sent = lent.client(synced(&[&parse]));
        assert_eq!(named(&sent), "P:pk0 S", "nobody may believe it prepared");
        lent.server([sample::error("42601", "no"), sample::ready(b'I')].concat());
        assert_eq!(lent.answers(), "E Z");
        assert_eq!(lent.client.statements_len(), 0);
        assert_eq!(lent.server.statements_len(), 0);
    }
}

#[test]
fn a_parse_of_ours_that_fails_is_the_clients_error_and_is_rolled_back() {
    let mut lent = Lent::new();
    lent.prepare("s", "select from dropped");
    lent.server = ServerSession::new(lent.interner.empty(), 100);
    for _ in 0..2 {
        assert_eq!(
            named(&lent.client(synced(&[&bound("s")]))),
            "P:pk0 B:pk0 E S"
        );
        lent.server([sample::error("42P01", "gone"), sample::ready(b'I')].concat());
        assert_eq!(lent.answers(), "E Z");
        assert_eq!(lent.client.statements_len(), 1, "the client still has it");
    }
}

#[test]
fn eviction_closes_only_statements_of_earlier_transactions() {
    let mut lent = Lent::with_capacity(2);
    lent.prepare("a", "a");
    lent.prepare("b", "b");
    let sent = lent.client(synced(&[
        &bound("a"),
        &sample::parse("c", "c"),
        &sample::parse("d", "d"),
    ]));
    assert_eq!(
        named(&sent),
        "B:pk0 E C:pk1 P:pk2 P:pk3 S",
        "a is in use, so the third may stay for now"
    );
    lent.server(joined(&[
        &bound_answers(),
        &sample::bare(b'3'),
        &sample::bare(b'1'),
        &sample::bare(b'1'),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.answers(), "2 C 1 1 Z");
    assert_eq!(lent.server.statements_len(), 3);
    lent.prepare_evicting("e", 2);
    assert_eq!(lent.server.statements_len(), 2, "back within the capacity");
}

#[test]
fn a_transaction_in_a_pipeline_keeps_its_statements() {
    let mut lent = Lent::with_capacity(2);
    lent.prepare("a", "a");
    lent.prepare("b", "b");
    // The answer to the first batch comes when the second, which opens a
    // transaction and a portal, has been sent already.
    lent.client(synced(&[&bound("a")]));
    lent.client([query("begin"), bound("b"), sample::flush()].concat());
    lent.server([bound_answers(), sample::ready(b'I')].concat());
    let sent = lent.client(sample::parse("c", "c"));
    assert_eq!(named(&sent), "P:pk2");
}

impl Lent {
    /// The client prepares `name`, which makes the server close `closes` others.
    fn prepare_evicting(&mut self, name: &str, closes: usize) {
        let sent = self.client(synced(&[&sample::parse(name, name)]));
        assert_eq!(kinds(&sent), format!("{}P S", "C ".repeat(closes)));
        self.server(joined(&[
            &sample::bare(b'3').repeat(closes),
            &sample::bare(b'1'),
            &sample::ready(b'I'),
        ]));
        assert_eq!(self.answers(), "1 Z");
    }
}

#[test]
fn a_close_is_answered_in_its_place_and_the_server_keeps_the_statement() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    let sent = lent.client(synced(&[&bound("s"), &sample::close(b'S', "s")]));
    assert_eq!(named(&sent), "B:pk0 E S");
    lent.server([bound_answers(), sample::ready(b'I')].concat());
    assert_eq!(lent.answers(), "2 C 3 Z");
    assert_eq!(lent.client.statements_len(), 0);
    assert_eq!(lent.server.statements_len(), 1);
}

#[test]
fn an_error_undoes_a_close_and_a_parse_of_the_same_name() {
    let mut lent = Lent::new();
    lent.prepare("s", "old");
    lent.client(synced(&[
        &bound("s"),
        &sample::close(b'S', "s"),
        &sample::parse("s", "new"),
    ]));
    lent.server(joined(&[
        &sample::bare(b'2'),
        &sample::error("22012", "division by zero"),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.answers(), "2 E Z");
    assert_eq!(named(&lent.client(synced(&[&bound("s")]))), "B:pk0 E S");
    assert_eq!(lent.server.statements_len(), 1);
}

#[test]
fn an_error_undoes_an_eviction() {
    let mut lent = Lent::with_capacity(1);
    lent.prepare("a", "a");
    assert_eq!(
        named(&lent.client(synced(&[
            &sample::execute("none", 0),
            &sample::parse("b", "b")
        ]))),
        "E C:pk0 P:pk1 S"
    );
    lent.server([sample::error("26000", "no"), sample::ready(b'I')].concat());
    assert_eq!(
        named(&lent.client(synced(&[&bound("a")]))),
        "B:pk0 E S",
        "the server skipped the Close"
    );
}

#[test]
fn a_duplicate_name_is_refused_in_its_place_and_the_transaction_fails_too() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.client(query("begin"));
    lent.server([sample::complete("BEGIN"), sample::ready(b'T')].concat());
    let sent = lent.client(synced(&[&bound("s"), &sample::parse("s", "select 2")]));
    assert_eq!(
        named(&sent),
        "B:pk0 E C:pkx P:pkx E S",
        "tried under a scratch name, then made to fail"
    );
    lent.server(joined(&[
        &bound_answers(),
        &sample::bare(b'3'),
        &sample::bare(b'1'),
        &sample::error("34000", "no such portal"),
        &sample::ready(b'E'),
    ]));
    let answers = lent.answers.clone();
    assert_eq!(lent.answers(), "C Z 2 C E Z");
    lent.answers = answers;
    assert_eq!(lent.error_code(), "42P05");
    assert_eq!(lent.server.transaction(), Transaction::Failed);
    assert_eq!(lent.client.statements_len(), 1);
}

#[test]
fn an_unknown_name_is_refused_in_its_place() {
    for message in [sample::bind("", "s", &[]), sample::describe(b'S', "s")] {
        let mut lent = Lent::new();
        assert_eq!(kinds(&lent.client(synced(&[&message]))), "E S");
        lent.server([sample::error("34000", "no"), sample::ready(b'I')].concat());
        assert_eq!(lent.error_code(), "26000");
        assert!(lent.released());
    }
}

#[test]
fn a_long_name_is_cut_in_an_error() {
    let mut lent = Lent::new();
    lent.client(synced(&[&sample::describe(b'S', &"s".repeat(9_000))]));
    lent.server([sample::error("34000", "no"), sample::ready(b'I')].concat());
    assert!(lent.answers.len() < 300, "{}", lent.answers.len());
}

#[test]
fn discard_all_forgets_every_statement() {
    for (sql, tag) in [
        ("discard all", "DISCARD ALL"),
        ("deallocate all", "DEALLOCATE ALL"),
    ] {
        let mut lent = Lent::new();
        lent.prepare("s", "select 1");
        lent.client(query(sql));
        lent.server([sample::complete(tag), sample::ready(b'I')].concat());
        assert_eq!(lent.client.statements_len(), 0);
        assert_eq!(lent.server.statements_len(), 0);
    }
}

#[test]
fn deallocate_forgets_one_name() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.prepare("t", "select 1");
    let sent = lent.client(query("DEALLOCATE s"));
    assert_eq!(sent, query("UNLISTEN poolkeeper_nothing"));
    lent.server([sample::complete("UNLISTEN"), sample::ready(b'I')].concat());
    let answers = lent.answers.clone();
    assert_eq!(lent.answers(), "C Z");
    assert!(answers.starts_with(&sample::complete("DEALLOCATE")));
    assert_eq!(lent.client.statements_len(), 1);
    assert_eq!(
        named(&lent.client(synced(&[&bound("t")]))),
        "B:pk0 E S",
        "the server still has it for the other name"
    );
}

#[test]
fn deallocate_of_a_name_that_is_not_the_protocols_is_passed_on() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    for sql in ["DEALLOCATE other", "deallocate all", "DEALLOCATE s; x"] {
        assert_eq!(lent.client(query(sql)), query(sql));
        lent.server([sample::error("26000", "no"), sample::ready(b'I')].concat());
    }
}

#[test]
fn a_deallocate_that_fails_forgets_nothing() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.client(query("deallocate s"));
    lent.server([sample::error("25P02", "aborted"), sample::ready(b'E')].concat());
    assert_eq!(lent.client.statements_len(), 1);
}

/// The client may not go on before the server has answered: `message` depends
/// on what became of an earlier batch.
fn waits(lent: &mut Lent, message: &[u8]) {
    let (done, sent) = lent.try_client(message).unwrap();
    assert!(done.paused, "{done:?}");
    assert_eq!((done.consumed, done.needed), (0, 0));
    assert_eq!(sent, sample::flush());
}

#[test]
fn a_name_is_free_again_when_an_earlier_batch_failed_to_parse_it() {
    let mut lent = Lent::new();
    lent.client(synced(&[&sample::parse("s", "selct")]));
    waits(&mut lent, &sample::parse("s", "select"));
    lent.server([sample::error("42601", "no"), sample::ready(b'I')].concat());
    let sent = lent.client(synced(&[&sample::parse("s", "select")]));
    assert_eq!(named(&sent), "P:pk1 S");
}

#[test]
fn a_statement_that_an_earlier_batch_failed_to_teach_is_taught() {
    let mut lent = Lent::new();
    lent.prepare("a", "a");
    lent.prepare("b", "b");
    lent.server = ServerSession::new(lent.interner.empty(), 100);
    assert_eq!(
        named(&lent.client(synced(&[&bound("a"), &bound("b")]))),
        "P:pk0 B:pk0 E P:pk1 B:pk1 E S"
    );
    waits(&mut lent, &bound("b"));
    lent.server(joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'2'),
        &sample::error("23505", "a failed"),
        &sample::ready(b'I'),
    ]));
    assert_eq!(
        named(&lent.client(synced(&[&bound("b")]))),
        "P:pk1 B:pk1 E S"
    );
}

#[test]
fn a_pipeline_over_known_statements_does_not_wait() {
    let mut lent = Lent::new();
    lent.prepare("a", "a");
    lent.client(synced(&[&bound("a")]));
    lent.client(synced(&[&bound("a"), &sample::describe(b'S', "a")]));
}

#[test]
fn what_follows_discard_all_in_a_pipeline_waits_for_it() {
    for sql in ["DISCARD ALL", "deallocate all", "DEALLOCATE s"] {
        let mut lent = Lent::new();
        lent.prepare("s", "select 1");
        lent.client(query(sql));
        waits(&mut lent, &sample::parse("s", "select 1"));
        waits(&mut lent, &bound("s"));
        waits(&mut lent, &query("deallocate s"));
        let (done, _) = lent.try_client(&query("select 1")).unwrap();
        assert!(!done.paused, "no statement is named");
    }
}

#[test]
fn what_is_parsed_behind_a_hidden_discard_all_stays() {
    let mut lent = Lent::new();
    lent.prepare("old", "old");
    let sent = lent.client(synced(&[
        &sample::parse("", "deallocate all"),
        &bound(""),
        &sample::parse("new", "new"),
    ]));
    assert_eq!(named(&sent), "P: B: E P:pk1 S");
    lent.server(joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'2'),
        &sample::complete("DEALLOCATE ALL"),
        &sample::bare(b'1'),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.client.statements_len(), 1);
    assert_eq!(named(&lent.client(synced(&[&bound("new")]))), "B:pk1 E S");
}

#[test]
fn a_known_statement_is_parsed_for_real_in_a_failed_transaction() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.next_client();
    lent.client(query("begin; fail"));
    lent.server([sample::error("22012", "no"), sample::ready(b'E')].concat());
    let sent = lent.client(synced(&[&sample::parse("mine", "select 1")]));
    assert_eq!(named(&sent), "C:pkx P:pkx S");
    lent.server(joined(&[
        &sample::bare(b'3'),
        &sample::error("25P02", "aborted"),
        &sample::ready(b'E'),
    ]));
    assert_eq!(lent.answers(), "E Z E Z");
    assert_eq!(
        lent.client.statements_len(),
        0,
        "or the client, told that it failed, could never prepare it again"
    );
    assert_eq!(lent.server.statements_len(), 1);
}

#[test]
fn a_known_statement_is_parsed_for_real_behind_an_unanswered_batch() {
    // That batch may leave a failed transaction.
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.client(query("begin; fail"));
    let sent = lent.client(synced(&[&sample::parse("t", "select 1"), &bound("t")]));
    assert_eq!(named(&sent), "C:pkx P:pkx B:pk0 E S");
    lent.server(joined(&[
        &sample::complete("BEGIN"),
        &sample::ready(b'T'),
        &sample::bare(b'3'),
        &sample::bare(b'1'),
        &bound_answers(),
        &sample::ready(b'T'),
    ]));
    assert_eq!(lent.answers(), "C Z 1 2 C Z");
    assert_eq!(lent.client.statements_len(), 2);
}

#[test]
fn the_unnamed_statement_of_another_client_is_not_executed() {
    let mut lent = Lent::new();
    lent.client(synced(&[&sample::parse("", "delete from mine")]));
    lent.server([sample::bare(b'1'), sample::ready(b'I')].concat());
    lent.next_client();
    lent.answers();
    for message in [sample::bind("", "", &[]), sample::describe(b'S', "")] {
        assert_eq!(kinds(&lent.client(synced(&[&message]))), "E S");
        lent.server([sample::error("34000", "no"), sample::ready(b'I')].concat());
        assert_eq!(lent.error_code(), "26000");
    }
}

#[test]
fn an_unnamed_statement_lasts_as_long_as_the_checkout() {
    let mut lent = Lent::new();
    lent.client(query("begin"));
    lent.server([sample::complete("BEGIN"), sample::ready(b'T')].concat());
    lent.client(synced(&[&sample::parse("", "select 1")]));
    waits(&mut lent, &bound(""));
    lent.server([sample::bare(b'1'), sample::ready(b'T')].concat());
    assert_eq!(kinds(&lent.client(synced(&[&bound("")]))), "B E S");
}

#[test]
fn an_unnamed_parse_is_passed_on_however_it_is_cut() {
    let short = sample::parse("", &"x".repeat(100));
    for cut in 0..short.len() {
        let mut lent = Lent::new();
        let (first, sent) = lent.try_client(&short[..cut]).unwrap();
        assert!(first.needed <= short.len(), "{first:?}");
        assert_eq!(sent.len(), first.consumed);
        assert_eq!(lent.client(&short[first.consumed..]), short);
    }
    // Too long to be kept: it streams.
    let long = sample::parse("", &"x".repeat(100_000));
    let mut lent = Lent::new();
    let (first, _) = lent.try_client(&long[..1_000]).unwrap();
    assert_eq!((first.consumed, first.needed), (1_000, 0));
}

/// A client that has had a statement described, as drivers do before they
/// bind its parameters, and got another server since.
fn described(sql: &str) -> Lent {
    let mut lent = Lent::new();
    lent.client(synced(&[
        &sample::parse("", sql),
        &sample::describe(b'S', ""),
    ]));
    lent.server(joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'n'),
        &sample::ready(b'I'),
    ]));
    lent.answers();
    lent.next_server();
    lent
}

#[test]
fn a_statement_without_a_name_follows_the_client_that_described_it() {
    let mut lent = described("select 1");
    let sent = lent.client(synced(&[&bound("")]));
    assert_eq!(kinds(&sent), "P B E S");
    assert!(sent.starts_with(&sample::parse("", "select 1")));
    lent.server(joined(&[
        &sample::bare(b'1'),
        &bound_answers(),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.answers(), "2 C Z");
    // As often as it likes.
    assert_eq!(kinds(&lent.client(synced(&[&bound("")]))), "B E S");
}

#[test]
fn another_statement_without_a_name_takes_its_place() {
    for (other, answer) in [
        (query("select 2"), sample::complete("SELECT 1")),
        (synced(&[&sample::close(b'S', "")]), sample::bare(b'3')),
        (
            synced(&[&sample::parse("", "select 2"), &bound("")]),
            joined(&[&sample::bare(b'1'), &bound_answers()]),
        ),
    ] {
        let mut lent = described("select 1");
        lent.client(other);
        lent.server([answer, sample::ready(b'I')].concat());
        lent.next_server();
        lent.answers();
        assert_eq!(kinds(&lent.client(synced(&[&bound("")]))), "E E S");
    }
}

#[test]
fn a_statement_without_a_name_that_failed_is_not_known() {
    let mut lent = Lent::new();
    lent.client(synced(&[&sample::parse("", "selct")]));
    lent.server([sample::error("42601", "no"), sample::ready(b'I')].concat());
    lent.next_server();
    lent.answers();
    assert_eq!(kinds(&lent.client(synced(&[&bound("")]))), "E E S");
}

#[test]
fn of_two_without_a_name_the_one_that_succeeded_last_is_known() {
    let mut lent = Lent::new();
    lent.client(joined(&[
        &synced(&[&sample::parse("", "selct")]),
        &synced(&[&sample::parse("", "select 2")]),
    ]));
    lent.server(joined(&[
        &sample::error("42601", "no"),
        &sample::ready(b'I'),
        &sample::bare(b'1'),
        &sample::ready(b'I'),
    ]));
    lent.next_server();
    let sent = lent.client(synced(&[&bound("")]));
    assert!(sent.starts_with(&sample::parse("", "select 2")), "{sent:?}");
}

/// Another server may have other ideas, for the tables were changed: what the
/// client sends is of the types that it was told.
#[test]
fn a_statement_without_a_name_keeps_the_types_that_were_described() {
    let float8 = [0, 1, 0, 0, 2, 189];
    let described = wire::message(b't', |out| out.extend(float8));
    for late in [false, true] {
        let mut lent = Lent::new();
        let batch = [sample::parse("", "select $1"), sample::describe(b'S', "")].concat();
        let answer = [sample::bare(b'1'), described.clone(), sample::bare(b'n')].concat();
        if late {
            lent.client([batch, sync().to_vec()].concat());
            lent.server(answer);
        } else {
            lent.client([batch, sample::flush()].concat());
            lent.server(answer);
            lent.client(sync());
        }
        lent.server(sample::ready(b'I'));
        lent.next_server();
        let sent = lent.client(synced(&[&bound("")]));
        let definition = [b"select $1\0", &float8[..]].concat();
        assert!(sent.starts_with(&wire::parse(b"", &definition)), "{sent:?}");
    }
}

#[test]
fn a_statement_without_a_name_outlives_one_that_was_skipped() {
    let mut lent = described("select 31");
    lent.client(joined(&[
        &sample::bind("", "none", &[]),
        &sample::parse("", "select 32"),
        &sample::flush(),
    ]));
    lent.server(sample::error("26000", "no"));
    lent.client(sync());
    lent.server(sample::ready(b'I'));
    lent.next_server();
    let sent = lent.client(synced(&[&bound("")]));
    assert!(
        sent.starts_with(&sample::parse("", "select 31")),
        "{sent:?}"
    );
}

#[test]
fn a_statement_without_a_name_is_none_when_its_parse_failed_behind_a_flush() {
    let mut lent = described("select 31");
    lent.client([sample::parse("", "selct"), sample::flush()].concat());
    lent.server(sample::error("42601", "no"));
    lent.client(sync());
    lent.server(sample::ready(b'I'));
    lent.next_server();
    assert_eq!(kinds(&lent.client(synced(&[&bound("")]))), "E E S");
}

#[test]
fn a_named_parse_that_is_too_long_is_refused_and_dropped() {
    let mut lent = Lent::new();
    let sql = "x".repeat(WHOLE_MESSAGE_MAX);
    let batch = synced(&[&sample::parse("s", &sql), &bound("s")]);
    let (first, rest) = batch.split_at(1_000);
    assert_eq!(kinds(&lent.client(first)), "E");
    assert_eq!(kinds(&lent.client(rest)), "E E S");
    lent.server([sample::error("34000", "no"), sample::ready(b'I')].concat());
    assert_eq!(lent.error_code(), "54000");
    assert!(lent.released());
    assert_eq!(lent.client.statements_len(), 0);
}

#[test]
fn a_parse_without_a_body_is_malformed() {
    let mut lent = Lent::new();
    assert_eq!(
        lent.try_client(&joined(&[&sample::bare(b'P'), &[0; 6]])),
        Err(ClientFault::Malformed("Parse"))
    );
}

#[test]
fn statements_do_not_follow_a_client_in_session_pooling() {
    let mut lent = Lent::new();
    lent.mode = PoolMode::Session;
    let bytes = synced(&[
        &sample::parse("s", "select 1"),
        &bound("s"),
        &sample::close(b'S', "s"),
    ]);
    assert_eq!(lent.client(&bytes), bytes);
    assert_eq!(lent.client.statements_len(), 0);
}
