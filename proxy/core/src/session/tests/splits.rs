//! Any split of the bytes gives the same output, and no bytes do harm.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::wire::query;

/// Types with a meaning on either side, and some without.
const KINDS: &[u8] = b"BCdcfDEHFPpQSX123AGIKNnRstTVWZv\0z";

/// Whole messages of a client that make sense, now and then.
fn client_messages() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof!["", "s1", "s2", "[a-z]{1,40}"];
    let sql = prop_oneof![
        "select 1",
        "deallocate s1",
        "DEALLOCATE all",
        "discard all",
        "dea",
        "d",
        "",
        "[ -~]{0,300}",
    ];
    let message = (name, sql, 0..14_usize).prop_map(|(name, sql, which)| match which {
        0 => query(&sql),
        1 | 2 => sample::parse(&name, &sql),
        3 | 4 => sample::bind(&name, "s1", &[&sql]),
        5 => sample::bind("", &name, &[]),
        6 => sample::describe(b'S', &name),
        7 => sample::close(b'S', &name),
        8 => sample::execute(&name, 3),
        9 => sample::copy_data(&sql),
        10 => sample::copy_done(),
        11 => sample::flush(),
        12 => sample::function_call(&sql),
        _ => sync().to_vec(),
    });
    vec(message, 0..20).prop_map(|messages| messages.concat())
}

/// Whole messages of a server; hardly ever what is due.
fn server_messages() -> impl Strategy<Value = Vec<u8>> {
    let message = ("[ -~]{0,60}", 0..16_usize).prop_map(|(text, which)| match which {
        0 => sample::bare(b'1'),
        1 => sample::bare(b'2'),
        2 => sample::bare(b'3'),
        3 => sample::row_description(),
        4 => sample::data_row(&text),
        5 => sample::complete("SELECT 1"),
        6 => sample::complete("DEALLOCATE ALL"),
        7 => sample::error("42601", &text),
        8 => wire::notice_response(wire::Severity::Notice, SqlState("00000"), &text, ""),
        9 => wire::parameter_status("TimeZone", &text),
        10 => sample::copy_response(b'G'),
        11 => sample::parameter_description(),
        12 => sample::bare(b'n'),
        _ => sample::ready(b'I'),
    });
    vec(message, 0..12).prop_map(|messages| messages.concat())
}

/// Bytes that look like messages, with lengths that are wrong as well.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let message = (
        prop::sample::select(KINDS),
        prop_oneof![4 => 4..40_u32, 1 => any::<u32>()],
        vec(any::<u8>(), 0..40),
    );
    let message = message.prop_map(|(kind, length, body)| {
        let mut bytes = vec![kind];
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        bytes
    });
    vec(message, 0..12).prop_map(|messages| messages.concat())
}

/// The bytes with some of them changed.
fn damaged(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (
        bytes,
        vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    )
        .prop_map(|(mut bytes, changes)| {
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes
        })
}

/// Lengths of the pieces that bytes are cut into.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..4_usize, 1..200_usize], 1..60)
}

/// What came of feeding bytes piece by piece.
#[derive(Debug, PartialEq)]
struct Fed<E> {
    sent: Vec<u8>,
    answers: Vec<u8>,
    left: Vec<u8>,
    due: usize,
    fault: Option<E>,
}

/// As a loop does: what was not dealt with is kept and comes first next time.
fn feed<E>(
    lent: &mut Lent,
    bytes: &[u8],
    cuts: &[usize],
    mut deal: impl FnMut(&mut Lent, &[u8], &mut Vec<u8>) -> Result<(usize, usize, bool), E>,
) -> Fed<E> {
    let mut cuts = cuts.iter().copied().cycle();
    let [mut kept, mut sent] = [Vec::new(), Vec::new()];
    let (mut at, mut needed, mut stopped, mut fault) = (0, 0, false, None);
    while at < bytes.len() && fault.is_none() {
        let end = (at + cuts.next().unwrap()).min(bytes.len());
        kept.extend_from_slice(&bytes[at..end]);
        at = end;
        // To ask too early does no harm; at the end there is no later.
        if stopped || (kept.len() < needed && at < bytes.len()) {
            continue;
        }
        match deal(lent, &kept, &mut sent) {
            Ok((consumed, needs, stops)) => {
                assert!(consumed <= kept.len());
                assert!(
                    stops || needs > kept.len() - consumed || consumed == kept.len(),
                    "what is there was enough"
                );
                kept.drain(..consumed);
                (needed, stopped) = (needs, stops);
            }
            Err(error) => fault = Some(error),
        }
    }
    Fed {
        sent,
        answers: std::mem::take(&mut lent.answers),
        // After a fault nobody asks what was left.
        left: if fault.is_none() { kept } else { Vec::new() },
        due: lent.server.due_len(),
        fault,
    }
}

fn feed_client(bytes: &[u8], cuts: &[usize]) -> Fed<ClientFault> {
    let mut lent = Lent::with_capacity(2);
    lent.prepare("s1", "select 1");
    let mut terminated = false;
    let mut fed = feed(&mut lent, bytes, cuts, |lent, kept, sent| {
        let mut to_server = Output::default();
        let done = lent.deal_client(kept, &mut to_server);
        sent.extend(to_server.concat(kept));
        let done = done?;
        assert!(done.needed <= WHOLE_MESSAGE_MAX);
        terminated = done.terminated;
        Ok((done.consumed, done.needed, done.paused || done.terminated))
    });
    if terminated {
        fed.left.clear();
    }
    fed
}

fn feed_server(asked: &[u8], bytes: &[u8], cuts: &[usize]) -> Fed<ServerFault> {
    let mut lent = Lent::with_capacity(2);
    lent.prepare("s1", "select 1");
    // What is asked decides what the answers mean; faults of it do not matter.
    let _ = lent.try_client(asked);
    lent.answers.clear();
    feed(&mut lent, bytes, cuts, |lent, kept, _| {
        let done = lent.try_server(kept)?;
        assert!(done.needed <= 16 * 1024);
        Ok((done.consumed, done.needed, false))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_what_a_client_sends_gives_the_same(
        bytes in prop_oneof![client_messages(), damaged(client_messages()), noise()],
        cuts in cuts(),
    ) {
        let whole = feed_client(&bytes, &[bytes.len().max(1)]);
        prop_assert_eq!(feed_client(&bytes, &cuts), whole);
    }

    #[test]
    fn any_split_of_what_a_server_sends_gives_the_same(
        asked in client_messages(),
        bytes in prop_oneof![server_messages(), damaged(server_messages()), noise()],
        cuts in cuts(),
    ) {
        let whole = feed_server(&asked, &bytes, &[bytes.len().max(1)]);
        prop_assert_eq!(feed_server(&asked, &bytes, &cuts), whole);
    }

    #[test]
    fn any_split_of_what_an_unlinked_client_sends_gives_the_same(
        bytes in prop_oneof![damaged(client_messages()), noise()],
        cuts in cuts(),
    ) {
        let run = |cuts: &[usize]| {
            let mut readies = 0;
            let mut lent = Lent::new();
            let fed = feed(&mut lent, &bytes, cuts, |lent, kept, _| {
                let mut at = 0;
                loop {
                    match lent.client.unlinked(&kept[at..])? {
                        Unlinked::Handled { consumed, ready } => {
                            readies += ready;
                            at += consumed;
                            if consumed == 0 || at == kept.len() {
                                return Ok::<_, ClientFault>((at, kept.len() - at + 1, false));
                            }
                        }
                        Unlinked::NeedsServer | Unlinked::Terminated => return Ok((at, 0, true)),
                    }
                }
            });
            (fed, readies)
        };
        prop_assert_eq!(run(&cuts), run(&[bytes.len().max(1)]));
    }

    #[test]
    fn no_bytes_of_a_client_make_more_than_a_few_of_ours(
        bytes in prop_oneof![damaged(client_messages()), noise()],
    ) {
        let mut lent = Lent::with_capacity(2);
        if let Ok((done, sent)) = lent.try_client(&bytes) {
            prop_assert!(sent.len() + lent.answers.len() <= 40 * bytes.len() + 1_000);
            prop_assert!(done.needed <= WHOLE_MESSAGE_MAX);
        }
        prop_assert!(lent.server.due_len() <= bytes.len());
    }
}
