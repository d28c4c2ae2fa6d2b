//! What we write reads back, and no bytes do harm.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use super::*;

/// Text as it can stand in a message: without a zero.
fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,40}"
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_startup_reads_back(pairs in vec(("[^\0]{1,20}", text()), 0..10)) {
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let bytes = startup(&pairs);
        let Ok(Some((FirstPacket::Startup(read), used))) = first_packet(&bytes) else {
            panic!("{bytes:?}");
        };
        prop_assert_eq!(used, bytes.len());
        prop_assert!(read.pairs().eq(pairs));
    }

    #[test]
    fn a_cancel_request_reads_back(key in vec(any::<u8>(), 8..=260)) {
        let bytes = cancel_request(&key);
        let Ok(Some((FirstPacket::Cancel(read), used))) = first_packet(&bytes) else {
            panic!("{bytes:?}");
        };
        prop_assert_eq!(used, bytes.len());
        prop_assert_eq!(read.bytes(), &key[..]);
    }

    #[test]
    fn an_error_reads_back(text in text(), hint in text()) {
        let bytes = error_response(Severity::Fatal, SqlState::INTERNAL, &text, &hint);
        let head = header(&bytes).unwrap().unwrap();
        prop_assert_eq!(head.total, bytes.len());
        let fields = ErrorFields::read(&bytes[5..]);
        prop_assert_eq!(fields.code, b"XX000");
        prop_assert_eq!(fields.text, text.as_bytes());
        prop_assert!(fields.ends_connection());
    }

    #[test]
    fn messages_read_back(bodies in vec((any::<u8>(), vec(any::<u8>(), 0..50)), 0..10)) {
        let bytes: Vec<u8> = bodies
            .iter()
            .flat_map(|(kind, body)| message(*kind, |out| out.extend_from_slice(body)))
            .collect();
        let read: Vec<(u8, Vec<u8>)> = messages(&bytes)
            .map(|frame| (frame.kind, frame.body.to_vec()))
            .collect();
        prop_assert_eq!(read, bodies);
    }

    #[test]
    fn a_check_reads_back(interval_ms in 0..1_000_000_u64) {
        let request = CheckRequest { interval: Duration::from_millis(interval_ms), drain: None };
        let bytes = request.encode();
        let Ok(Some((FirstPacket::Startup(read), _))) = first_packet(&bytes) else {
            panic!("{bytes:?}");
        };
        prop_assert_eq!(CheckRequest::read(&read), Some(request));
    }

    #[test]
    fn a_report_reads_back(
        boot_id in any::<String>(),
        name in any::<Option<String>>(),
        config_revision in any::<Option<String>>(),
        clients in any::<u32>(),
        waiting in any::<u32>(),
    ) {
        let report = TargetReport {
            upstream: None,
            saturation: None,
            version: None,
            state: TargetState::Paused,
            boot_id,
            name,
            config_revision,
            clients,
            waiting,
        };
        prop_assert_eq!(read_check_reply(&report.encode()), CheckReply::Report(report));
    }

    #[test]
    fn no_first_packet_does_harm(
        length in prop_oneof![0..600_u32, any::<u32>()],
        code in prop_oneof![
            Just(196_608_u32), Just(196_610), Just(80_877_102), Just(80_877_103),
            Just(80_877_104), any::<u32>(),
        ],
        body in vec(any::<u8>(), 0..600),
    ) {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend(body);
        if let Ok(Some((_, used))) = first_packet(&bytes) {
            prop_assert!(used <= bytes.len() && used <= STARTUP_LENGTH_MAX);
        }
        // Whatever it is, it is known to be wrong or whole by then.
        bytes.resize(STARTUP_LENGTH_MAX.max(bytes.len()), 0);
        prop_assert!(first_packet(&bytes) != Ok(None));
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..300), kind in prop::sample::select(&b"RvSEZ"[..])) {
        for bytes in [bytes.clone(), message(kind, |out| out.extend_from_slice(&bytes))] {
            let _ = header(&bytes);
            let _ = messages(&bytes).count();
            let _ = ErrorFields::read(&bytes);
            let _ = first_packet(&bytes);
            let _ = read_check_reply(&bytes);
        }
    }

    #[test]
    fn any_cut_of_a_reply_is_incomplete_or_the_same(
        text in text(),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = error_response(Severity::Fatal, SqlState::INTERNAL, &text, "");
        let cut = cut.index(bytes.len());
        prop_assert_eq!(read_check_reply(&bytes[..cut]), CheckReply::Incomplete);
    }
}
