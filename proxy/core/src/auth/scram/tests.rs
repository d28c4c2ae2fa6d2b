use proptest::prelude::*;

use super::{ClientExchange, Keys, ScramError, ServerExchange, Verifier};

/// RFC 7677, section 3.
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn rfc_client() -> ClientExchange {
    ClientExchange::with_nonce("user", "rOprNGfwEbeRWgbNEkqO".to_owned())
}

fn rfc_server() -> ServerExchange {
    ServerExchange::with_nonce("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned())
}

fn rfc_verifier() -> Verifier {
    let salt = super::keys::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    Verifier::derive("pencil", &salt, 4096)
}

#[test]
fn the_client_side_speaks_as_rfc_7677_says() {
    let mut client = rfc_client();
    assert_eq!(client.first(), CLIENT_FIRST.as_bytes());
    let challenge = client.challenge(SERVER_FIRST.as_bytes()).unwrap();
    assert_eq!(challenge.iterations, 4096);
    let keys = Keys::derive("pencil", &challenge.salt, challenge.iterations);
    assert_eq!(client.last(&keys), CLIENT_FINAL.as_bytes());
    assert_eq!(client.verify(SERVER_FINAL.as_bytes()), Ok(()));
}

#[test]
fn the_server_side_speaks_as_rfc_7677_says() {
    let mut server = rfc_server();
    let verifier = rfc_verifier();
    assert_eq!(
        server.first(CLIENT_FIRST.as_bytes(), &verifier).unwrap(),
        SERVER_FIRST.as_bytes()
    );
    let (server_final, client_key) = server.last(CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(server_final, SERVER_FINAL.as_bytes());
    assert_eq!(
        Keys::recovered(client_key, &verifier),
        Keys::derive("pencil", &verifier.salt, 4096)
    );
}

#[test]
fn a_mock_verifier_asks_as_a_real_one_and_refuses() {
    let mock = Verifier::mock(b"process secret", "nobody", 4096);
    let mut client = ClientExchange::new(&[1; 18]);
    let mut server = ServerExchange::new(&[2; 18]);
    let server_first = server.first(&client.first(), &mock).unwrap();
    let challenge = client.challenge(&server_first).unwrap();
    assert_eq!(challenge.iterations, 4096);
    let keys = Keys::derive("guess", &challenge.salt, challenge.iterations);
    assert_eq!(
        server.last(&client.last(&keys)).unwrap_err(),
        ScramError::Mismatch
    );
}

#[test]
fn channel_binding_and_other_identities_are_refused_by_name() {
    let first = |message: &str| rfc_server().first(message.as_bytes(), &rfc_verifier());
    assert!(first("y,,n=,r=abc").is_ok());
    assert_eq!(
        first("p=tls-server-end-point,,n=,r=abc"),
        Err(ScramError::Unsupported("channel binding"))
    );
    assert_eq!(
        first("n,a=postgres,n=,r=abc"),
        Err(ScramError::Unsupported("authorization identity"))
    );
    assert_eq!(
        first("n,,m=x,n=,r=abc"),
        Err(ScramError::Unsupported("mandatory extension"))
    );
}

#[test]
fn a_flag_changed_between_the_messages_is_refused() {
    // "y" in the first message and the header of "n" in the second: what somebody
    // in the middle would do to keep a client from binding.
    let mut server = rfc_server();
    server
        .first(
            CLIENT_FIRST.replacen('n', "y", 1).as_bytes(),
            &rfc_verifier(),
        )
        .unwrap();
    assert_eq!(
        server.last(CLIENT_FINAL.as_bytes()).unwrap_err(),
        ScramError::Malformed("binding differs from the first message")
    );
}

#[test]
fn work_asked_for_by_a_server_is_bounded() {
    for iterations in ["0", "-1", "1000001", "99999999999", "", "4096x", "+1"] {
        let message = SERVER_FIRST.replace("4096", iterations);
        assert_eq!(
            rfc_client().challenge(message.as_bytes()),
            Err(ScramError::Malformed("iterations")),
            "{iterations}"
        );
    }
}

#[test]
fn a_server_that_repeats_our_nonce_alone_is_refused() {
    let message = "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_eq!(
        rfc_client().challenge(message.as_bytes()),
        Err(ScramError::Malformed("nonce does not continue ours"))
    );
}

#[test]
fn an_error_of_the_server_is_told_apart_from_a_wrong_signature() {
    let proved = || {
        let mut client = rfc_client();
        let challenge = client.challenge(SERVER_FIRST.as_bytes()).unwrap();
        let _ = client.last(&Keys::derive("pencil", &challenge.salt, 4096));
        client
    };
    assert_eq!(
        proved().verify(b"e=invalid-proof"),
        Err(ScramError::Refused)
    );
    assert_eq!(
        proved().verify(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        Err(ScramError::Mismatch)
    );
}

#[test]
fn messages_out_of_order_are_refused() {
    assert_eq!(
        rfc_server().last(CLIENT_FINAL.as_bytes()).unwrap_err(),
        ScramError::Order
    );
    let mut server = rfc_server();
    server
        .first(CLIENT_FIRST.as_bytes(), &rfc_verifier())
        .unwrap();
    assert_eq!(
        server.first(CLIENT_FIRST.as_bytes(), &rfc_verifier()),
        Err(ScramError::Order)
    );
    // What failed stays failed.
    assert_eq!(
        server.last(CLIENT_FINAL.as_bytes()).unwrap_err(),
        ScramError::Order
    );
    assert_eq!(
        rfc_client().verify(SERVER_FINAL.as_bytes()),
        Err(ScramError::Order)
    );
    let keys = Keys::derive("pencil", b"salt", 1);
    assert!(rfc_client().last(&keys).is_empty());
}

#[test]
fn debug_shows_no_secret() {
    let mut client = rfc_client();
    let mut server = rfc_server();
    server
        .first(CLIENT_FIRST.as_bytes(), &rfc_verifier())
        .unwrap();
    client.challenge(SERVER_FIRST.as_bytes()).unwrap();
    assert_eq!(format!("{server:?}"), "ServerExchange(challenged)");
    assert_eq!(format!("{client:?}"), "ClientExchange(challenged)");
}

/// Runs a login in which `tamper` may change each message, 0 to 3.
fn login(
    client_password: &str,
    server_password: &str,
    tamper: &dyn Fn(usize, Vec<u8>) -> Vec<u8>,
) -> Result<(), ScramError> {
    // Two iterations: the number does not matter here, time does.
    let verifier = Verifier::derive(server_password, b"0123456789abcdef", 2);
    let mut client = ClientExchange::new(&[3; 18]);
    let mut server = ServerExchange::new(&[4; 18]);
    let server_first = server.first(&tamper(0, client.first()), &verifier)?;
    let challenge = client.challenge(&tamper(1, server_first))?;
    let keys = Keys::derive(client_password, &challenge.salt, challenge.iterations);
    let (server_final, client_key) = server.last(&tamper(2, client.last(&keys)))?;
    client.verify(&tamper(3, server_final))?;
    assert_eq!(Keys::recovered(client_key, &verifier), keys);
    Ok(())
}

#[test]
fn every_cut_of_every_message_ends_the_exchange() {
    for message in 0..4 {
        for cut in 0..200 {
            let tamper = |index: usize, mut bytes: Vec<u8>| {
                if index == message && cut < bytes.len() {
                    bytes.truncate(cut);
                } else if index == message {
                    bytes.clear();
                }
                bytes
            };
            assert!(
                login("pencil", "pencil", &tamper).is_err(),
                "message {message} cut at {cut}"
            );
        }
    }
}

proptest! {
    #[test]
    fn client_and_server_agree_on_every_password(password in ".*") {
        prop_assert_eq!(login(&password, &password, &|_, bytes| bytes), Ok(()));
    }

    #[test]
    fn another_password_is_a_mismatch(password in "[a-z]{1,20}", other in "[a-z]{1,20}") {
        prop_assume!(password != other);
        prop_assert_eq!(
            login(&other, &password, &|_, bytes| bytes),
            Err(ScramError::Mismatch)
        );
    }

    #[test]
    fn a_changed_byte_in_any_message_ends_the_exchange(
        message in 0_usize..4,
        place in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let tamper = |index: usize, mut bytes: Vec<u8>| {
            if index == message {
                let place = place.index(bytes.len());
                bytes[place] ^= change;
            }
            bytes
        };
        prop_assert!(login("pencil", "pencil", &tamper).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let verifier = Verifier::mock(b"", "", 1);
        let _ = rfc_server().first(&bytes, &verifier);
        let _ = rfc_client().challenge(&bytes);
        let mut server = rfc_server();
        server.first(CLIENT_FIRST.as_bytes(), &verifier).unwrap();
        prop_assert!(server.last(&bytes).is_err());
        let _ = Verifier::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_follows_the_grammar_and_is_long_is_refused(length in 4000_usize..10_000) {
        let message = format!("n,,n=,r={}", "a".repeat(length));
        let refused = rfc_server().first(message.as_bytes(), &Verifier::mock(b"", "", 1));
        prop_assert_eq!(refused.is_err(), message.len() > 4096);
    }
}
