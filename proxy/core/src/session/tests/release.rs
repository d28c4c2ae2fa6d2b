//! When a server is given back, and what an unlinked client may say.

use super::*;
use crate::wire::{query, terminate};

#[test]
fn a_cancel_in_flight_holds_the_server() {
    let mut lent = Lent::new();
    lent.client(query("select 1"));
    lent.server.cancel_started();
    lent.server([sample::complete("SELECT 1"), sample::ready(b'I')].concat());
    assert!(!lent.released(), "the cancel would hit the next client");
    lent.server.cancel_ended();
    assert!(lent.released());
}

#[test]
fn a_message_cut_in_two_holds_the_server() {
    let mut lent = Lent::new();
    let bytes = query("select 1");
    lent.client(&bytes[..7]);
    assert!(!lent.released());
    lent.client(&bytes[7..]);
    lent.server([sample::complete("SELECT 1"), sample::ready(b'I')].concat());
    assert!(lent.released());
}

#[test]
fn a_message_that_the_server_has_not_ended_takes_no_error_of_ours() {
    let mut lent = Lent::new();
    lent.client(query("select 1"));
    let row = sample::data_row("a long value");
    lent.server(&row[..10]);
    assert!(lent.server.mid_message());
    lent.server(&row[10..]);
    assert!(!lent.server.mid_message());
}

#[test]
fn a_query_of_ours_is_seen_by_nobody() {
    let mut lent = Lent::new();
    assert_eq!(kinds(&lent.server.ours("set a=b")), "Q");
    assert_eq!(lent.server.ours_result(), None);
    lent.server(joined(&[
        &sample::row_description(),
        &sample::data_row("x"),
        &sample::complete("SET"),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.server.ours_result(), Some(Ok(())));
    assert!(lent.server.is_clean());
    let _ = lent.server.ours("set a=b");
    lent.server([sample::error("22023", "no"), sample::ready(b'I')].concat());
    let told = Err("ERROR 22023: no".to_owned());
    assert_eq!(lent.server.ours_result(), Some(told));
    assert!(lent.answers.is_empty());
}

#[test]
fn half_a_notice_of_an_idle_server_is_in_nobodys_way() {
    let mut lent = Lent::new();
    let notice = wire::notice_response(wire::Severity::Notice, SqlState("00000"), "hello", "");
    let mut nobody = Output::default();
    let rules = Lent::rules(&lent.registry, &lent.interner, lent.mode);
    let done = from_server(rules, None, &mut lent.server, &notice[..9], &mut nobody);
    assert_eq!(done.unwrap().consumed, 9);
    let _ = lent.server.ours("set a=b");
    lent.server(joined(&[
        &notice[9..],
        &sample::complete("SET"),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.server.ours_result(), Some(Ok(())));
    assert!(lent.answers.is_empty() && nobody.is_empty());
}

#[test]
fn goodbye_is_not_passed_on() {
    let mut lent = Lent::new();
    let (done, sent) = lent.try_client(&terminate()).unwrap();
    assert!(done.terminated && sent.is_empty());
    assert_eq!(lent.client.unlinked(&terminate()), Ok(Unlinked::Terminated));
}

#[test]
fn a_lone_sync_needs_no_server() {
    let mut client = Lent::new().client;
    let bytes = [sync(), sync()].concat();
    assert_eq!(
        client.unlinked(&bytes),
        Ok(Unlinked::Handled {
            consumed: bytes.len(),
            ready: 2
        })
    );
    let bytes = [sync().to_vec(), query("select 1")].concat();
    assert_eq!(
        client.unlinked(&bytes),
        Ok(Unlinked::Handled {
            consumed: 5,
            ready: 1
        })
    );
}

#[test]
fn a_cancelled_request_that_waited_is_dropped_whatever_of_it_has_come() {
    let request = query("select 1");
    for cut in 5..=request.len() {
        let mut client = Lent::new().client;
        assert_eq!(client.cancel_request(&request[..cut]), (cut, true));
        let rest = [&request[cut..], &sync()].concat();
        assert_eq!(
            client.unlinked(&rest),
            Ok(Unlinked::Handled {
                consumed: rest.len(),
                ready: 1
            })
        );
    }
}

#[test]
fn a_cancelled_batch_that_waited_is_dropped_to_its_sync() {
    let mut client = Lent::new().client;
    let parse = sample::parse("", "select 1");
    let batch = [parse.clone(), sample::flush()].concat();
    assert_eq!(client.cancel_request(&batch), (0, false));
    let handled = |consumed, ready| Ok(Unlinked::Handled { consumed, ready });
    assert_eq!(client.unlinked(&batch), handled(batch.len(), 0));
    // A server that skips ignores a Query, too.
    let rest = [query("select 2"), sync().to_vec(), parse].concat();
    let synced = query("select 2").len() + 5;
    assert_eq!(client.unlinked(&rest), handled(synced, 1));
    assert_eq!(client.unlinked(&rest[synced..]), Ok(Unlinked::NeedsServer));
}

#[test]
fn a_type_that_no_client_sends_is_a_fault() {
    let mut lent = Lent::new();
    for kind in [b'p', b'Z', 0] {
        let message = sample::bare(kind);
        assert_eq!(lent.client.unlinked(&message), Err(ClientFault::Kind(kind)));
        assert_eq!(lent.try_client(&message), Err(ClientFault::Kind(kind)));
    }
}

#[test]
fn a_transaction_block_is_refused_under_statement_pooling() {
    let mut lent = Lent::new();
    lent.mode = PoolMode::Statement;
    lent.client(query("begin"));
    assert_eq!(
        lent.try_server(&[sample::complete("BEGIN"), sample::ready(b'T')].concat()),
        Err(ServerFault::TransactionBlock)
    );
}
