//! COPY, and the Syncs that a server ignores while it copies in.

use super::*;
use crate::wire::query;

fn extended_copy() -> Vec<u8> {
    [
        sample::parse("", "copy t from stdin"),
        sample::bind("", "", &[]),
        sample::execute("", 0),
    ]
    .concat()
}

fn copy_in() -> Vec<u8> {
    sample::copy_response(b'G')
}

/// The answer to what we send to learn which Syncs were ignored.
fn fence() -> Vec<u8> {
    sample::bare(b'3')
}

/// A client whose extended COPY, sent with its Sync as libpq does, has begun.
fn copying() -> Lent {
    let mut lent = Lent::new();
    lent.client([extended_copy(), sync().to_vec()].concat());
    lent.server([sample::bare(b'1'), sample::bare(b'2'), copy_in()].concat());
    assert_eq!(lent.answers(), "1 2 G");
    lent
}

#[test]
fn a_simple_copy_in_is_one_query() {
    let mut lent = Lent::new();
    lent.client(query("copy t from stdin"));
    lent.server(copy_in());
    assert!(!lent.released());
    let data = [sample::copy_data("1\n"), sample::copy_done()].concat();
    assert_eq!(lent.client(&data), data);
    lent.server([sample::complete("COPY 1"), sample::ready(b'I')].concat());
    assert!(lent.released());
    assert_eq!(lent.answers(), "G C Z");
}

#[test]
fn a_copy_out_is_one_query() {
    let mut lent = Lent::new();
    lent.client(query("copy t to stdout"));
    lent.server(joined(&[
        &sample::copy_response(b'H'),
        &sample::copy_data("1\n"),
        &sample::copy_done(),
        &sample::complete("COPY 1"),
    ]));
    assert!(!lent.released());
    lent.server(sample::ready(b'I'));
    assert!(lent.released());
    assert_eq!(lent.answers(), "H d c C Z");
}

#[test]
fn a_sync_sent_before_the_copy_began_is_ignored() {
    let mut lent = copying();
    assert!(!lent.released());
    lent.client([sample::copy_done(), sync().to_vec()].concat());
    lent.server(sample::complete("COPY 0"));
    assert!(!lent.released());
    lent.server([sample::ready(b'I'), fence()].concat());
    assert!(lent.released());
    assert_eq!(lent.answers(), "C Z");
}

#[test]
fn a_sync_sent_while_copying_is_ignored() {
    let mut lent = Lent::new();
    lent.client(query("copy t from stdin"));
    lent.server(copy_in());
    lent.client([sync().to_vec(), sample::flush(), sample::copy_done()].concat());
    lent.server([sample::complete("COPY 0"), sample::ready(b'I')].concat());
    assert!(lent.released());
}

#[test]
fn a_copy_sent_in_one_go_needs_no_waiting() {
    let mut lent = Lent::new();
    let rest = [
        sample::copy_data("1\n"),
        sample::copy_done(),
        sync().to_vec(),
    ];
    lent.client([extended_copy(), rest.concat()].concat());
    lent.server(joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'2'),
        &copy_in(),
        &sample::complete("COPY 1"),
        &sample::ready(b'I'),
    ]));
    assert!(lent.released());
}

#[test]
fn a_copy_whose_only_sync_was_ignored_holds_the_server() {
    let mut lent = Lent::new();
    let rest = [sync().to_vec(), sample::copy_done()];
    lent.client([extended_copy(), rest.concat()].concat());
    lent.server(joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'2'),
        &copy_in(),
        &sample::complete("COPY 0"),
    ]));
    assert!(!lent.released());
    lent.client(sync());
    lent.server(sample::ready(b'I'));
    assert!(lent.released());
}

#[test]
fn each_copy_of_one_query_ignores_syncs() {
    let mut lent = Lent::new();
    lent.client(query("copy a from stdin; copy b from stdin"));
    lent.server(copy_in());
    lent.client(sample::copy_done());
    lent.server([sample::complete("COPY 0"), copy_in()].concat());
    lent.client([sync().to_vec(), sample::copy_done()].concat());
    lent.server([sample::complete("COPY 0"), sample::ready(b'I')].concat());
    assert!(lent.released());
}

#[test]
fn a_failed_copy_ends_with_the_sync_after_it() {
    let mut lent = copying();
    let end = [
        sample::copy_data("bad\n"),
        sample::copy_done(),
        sync().to_vec(),
    ];
    assert_eq!(kinds(&lent.client(end.concat())), "d c S C H");
    lent.server([sample::error("22P02", "bad"), sample::ready(b'I')].concat());
    assert!(
        !lent.released(),
        "if it failed before it read the first Sync, it answers that, too"
    );
    lent.server(fence());
    assert!(lent.released());
    assert_eq!(lent.answers(), "E Z");
}

#[test]
fn a_failed_copy_sent_in_one_go_ends_with_its_last_sync() {
    let mut lent = Lent::new();
    let rest = [sync().to_vec(), sample::copy_done(), sync().to_vec()];
    let sent = lent.client([extended_copy(), rest.concat()].concat());
    assert_eq!(kinds(&sent), "P B E S c S C H");
    lent.server(joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'2'),
        &copy_in(),
        &sample::error("42809", "a view"),
        &sample::ready(b'I'),
    ]));
    assert!(!lent.released());
    lent.server([sample::ready(b'I'), fence()].concat());
    assert!(lent.released());
    assert_eq!(lent.answers(), "1 2 G E Z Z");
}

#[test]
fn an_answer_of_ours_waits_until_it_is_known_which_syncs_were_ignored() {
    let mut lent = Lent::new();
    lent.prepare("s", "select 1");
    lent.client(query("copy t from stdin"));
    lent.server(copy_in());
    lent.client([sync().to_vec(), sample::copy_done()].concat());
    let next = [sample::close(b'S', "s"), sync().to_vec()].concat();
    let (done, _) = lent.try_client(&next).unwrap();
    assert!(done.paused, "the copy goes on");
    lent.server([sample::error("22P02", "bad"), sample::ready(b'I')].concat());
    assert_eq!(
        kinds(&lent.client(next)),
        "C H S",
        "ours, then the client's"
    );
    assert_eq!(lent.answers(), "G E Z");
    lent.server([fence(), sample::ready(b'I')].concat());
    assert_eq!(lent.answers(), "3 Z");
    assert!(lent.released());
}

#[test]
fn a_copy_that_fails_before_it_reads_the_sync_answers_it() {
    // COPY to a view does: CopyInResponse, then at once the error.
    let mut lent = copying();
    lent.server([sample::error("42809", "a view"), sample::ready(b'I')].concat());
    assert_eq!(lent.answers(), "E Z");
    assert!(lent.released());
}

#[test]
fn both_syncs_of_a_copy_that_failed_at_once_are_answered() {
    let mut lent = copying();
    lent.client([sample::copy_done(), sync().to_vec()].concat());
    lent.server([sample::error("42809", "a view"), sample::ready(b'I')].concat());
    assert!(!lent.released());
    lent.server([sample::ready(b'I'), fence()].concat());
    assert!(lent.released());
    assert_eq!(lent.answers(), "E Z Z");
}

#[test]
fn copy_data_after_an_error_is_passed_on_and_ignored() {
    let mut lent = Lent::new();
    lent.client([extended_copy(), sample::flush()].concat());
    lent.server(joined(&[
        &sample::bare(b'1'),
        &sample::bare(b'2'),
        &copy_in(),
        &sample::error("22P02", "bad"),
    ]));
    lent.client([sample::copy_data("late"), sample::copy_done()].concat());
    assert_eq!(lent.server.due_len(), 0);
    assert!(!lent.released());
    lent.client(sync());
    lent.server(sample::ready(b'I'));
    assert!(lent.released());
}

#[test]
fn copy_data_after_the_server_was_given_back_is_dropped() {
    let mut lent = Lent::new();
    lent.client(query("copy t from stdin"));
    lent.server(joined(&[
        &copy_in(),
        &sample::error("22P02", "bad"),
        &sample::ready(b'I'),
    ]));
    assert!(lent.released());
    let late = [sample::copy_data("late"), sample::copy_done()].concat();
    for cut in 0..=late.len() {
        let first = lent.client.unlinked(&late[..cut]).unwrap();
        let Unlinked::Handled { consumed, ready: 0 } = first else {
            panic!("{first:?} at {cut}");
        };
        assert_eq!(
            lent.client.unlinked(&late[consumed..]),
            Ok(Unlinked::Handled {
                consumed: late.len() - consumed,
                ready: 0
            })
        );
    }
    assert_eq!(
        lent.client.unlinked(&query("select 1")),
        Ok(Unlinked::NeedsServer)
    );
}

#[test]
fn a_server_is_not_given_back_in_the_middle_of_copy_data() {
    let mut lent = Lent::new();
    lent.client(query("copy t from stdin"));
    lent.server(copy_in());
    let data = sample::copy_data("a long row\n");
    lent.client(&data[..8]);
    lent.server([sample::error("22P02", "bad"), sample::ready(b'I')].concat());
    assert!(!lent.released());
    lent.client(&data[8..]);
    assert!(lent.released());
}

#[test]
fn a_copy_that_could_not_begin_leaves_nothing_due() {
    let mut lent = Lent::new();
    lent.client(
        [
            query("copy missing from stdin"),
            sample::copy_data("1\n"),
            sample::copy_done(),
        ]
        .concat(),
    );
    lent.server([sample::error("42P01", "missing"), sample::ready(b'I')].concat());
    assert!(lent.released());
}

#[test]
fn a_copy_that_the_client_gives_up_fails_like_any_other() {
    let mut lent = copying();
    lent.client([sample::copy_fail("no more"), sync().to_vec()].concat());
    lent.server(joined(&[
        &sample::error("57014", "no more"),
        &sample::ready(b'I'),
        &fence(),
    ]));
    assert!(lent.released());
}
