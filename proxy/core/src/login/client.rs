//! A client proves who it is.

use crate::{
    auth::{
        md5, same,
        scram::{self, Keys, ScramError, ServerExchange, Verifier},
    },
    config::{AuthType, Secret, SecretKind},
    wire::{self, cstr},
};

/// Random bytes that one login needs.
pub const RANDOM_LENGTH: usize = scram::NONCE_LENGTH + 4;

/// Longest message a client may send while it logs in.
pub const MESSAGE_LENGTH_MAX: usize = 4_096;

/// How a login begins.
#[derive(Debug)]
pub enum Begin {
    /// No proof is asked for.
    Accepted,
    /// Send this and pass the answer to [`Proof::answer`].
    Ask(Vec<u8>, Proof),
}

/// A proof under way.
#[derive(Debug)]
pub struct Proof(Method);

#[derive(Debug)]
enum Method {
    Cleartext,
    Md5 {
        salt: [u8; 4],
    },
    /// SASL was offered; the client has to choose a mechanism.
    ScramOffered(Option<Box<ServerExchange>>),
    ScramChallenged {
        exchange: Box<ServerExchange>,
        verifier: Box<Verifier>,
    },
}

/// What a client's answer leads to.
#[derive(Debug)]
pub enum Verdict {
    /// It is who it says. Send `last` (it may be empty); with SCRAM, `keys` are
    /// what its proof revealed.
    Accepted {
        /// The exchange's last message.
        last: Vec<u8>,
        /// Keys that log in wherever the same verifier is stored.
        keys: Option<Keys>,
    },
    /// Send this and wait for the next answer.
    Continue(Vec<u8>),
    /// Derive a verifier and repeat the same answer: of the user's plain password
    /// or, where only a SCRAM verifier is known and the password came in clear
    /// text, of that password under the verifier's salt.
    NeedsVerifier,
    /// It is not, for this reason (for the log; the client is told no more than
    /// that it failed).
    Refused(&'static str),
}

/// Starts a login of a user with such a secret, or who would be asked as if: for
/// a user who does not exist, no proof is good enough, and nothing else tells.
#[must_use]
pub fn begin(auth_type: AuthType, secret: SecretKind, random: &[u8; RANDOM_LENGTH]) -> Begin {
    let (salt, nonce) = random.split_at(4);
    let scram = || {
        Begin::Ask(
            wire::authentication_sasl(&[scram::MECHANISM]),
            Proof(Method::ScramOffered(Some(Box::new(ServerExchange::new(
                nonce,
            ))))),
        )
    };
    match (auth_type, secret) {
        (AuthType::Trust | AuthType::Any, _) => Begin::Accepted,
        (AuthType::Plain, _) => {
            Begin::Ask(wire::authentication_cleartext(), Proof(Method::Cleartext))
        }
        (AuthType::Md5, SecretKind::Scram) => scram(),
        (AuthType::Md5, _) => {
            let salt = [salt[0], salt[1], salt[2], salt[3]];
            Begin::Ask(wire::authentication_md5(salt), Proof(Method::Md5 { salt }))
        }
        // Every other type is refused when the configuration is read.
        _ => scram(),
    }
}

impl Proof {
    /// Judges `body`, the body of the client's PasswordMessage.
    ///
    /// `verifier` is what SCRAM checks against: the stored one, one derived
    /// from the plain password, or a mock for a user who does not exist.
    #[must_use]
    pub fn answer(
        &mut self,
        body: &[u8],
        user: &str,
        secret: Option<&Secret>,
        verifier: Option<&Verifier>,
    ) -> Verdict {
        match &mut self.0 {
            Method::Cleartext => match cstr(body) {
                Some((password, [])) => cleartext(password, user, secret, verifier),
                _ => Verdict::Refused("malformed PasswordMessage"),
            },
            Method::Md5 { salt } => match cstr(body) {
                Some((answer, [])) => md5_answer(answer, *salt, user, secret),
                _ => Verdict::Refused("malformed PasswordMessage"),
            },
            Method::ScramOffered(_) => self.scram_first(body, secret, verifier),
            Method::ScramChallenged { exchange, verifier } => match exchange.last(body) {
                Ok((message, client_key)) => Verdict::Accepted {
                    last: wire::authentication_sasl_final(&message),
                    keys: Some(Keys::recovered(client_key, verifier)),
                },
                Err(error) => Verdict::Refused(reason(error)),
            },
        }
    }

    fn scram_first(
        &mut self,
        body: &[u8],
        secret: Option<&Secret>,
        verifier: Option<&Verifier>,
    ) -> Verdict {
        let Some((mechanism, rest)) = cstr(body) else {
            return Verdict::Refused("malformed SASLInitialResponse");
        };
        if mechanism != scram::MECHANISM.as_bytes() {
            return Verdict::Refused("SASL mechanism that was not offered");
        }
        let Some((length, data)) = rest.split_first_chunk::<4>() else {
            return Verdict::Refused("malformed SASLInitialResponse");
        };
        if u32::from_be_bytes(*length) as usize != data.len() {
            return Verdict::Refused("malformed SASLInitialResponse");
        }
        let verifier = match (secret, verifier) {
            (Some(Secret::Scram(stored)), _) => stored,
            (_, Some(derived)) => derived,
            (Some(Secret::Plain(_)), None) => return Verdict::NeedsVerifier,
            (_, None) => return Verdict::Refused("nothing is stored that SCRAM can check"),
        };
        let Method::ScramOffered(offered) = &mut self.0 else {
            return Verdict::Refused("SCRAM message out of order");
        };
        let Some(mut exchange) = offered.take() else {
            return Verdict::Refused("SCRAM message out of order");
        };
        match exchange.first(data, verifier) {
            Ok(message) => {
                self.0 = Method::ScramChallenged {
                    exchange,
                    verifier: Box::new(verifier.clone()),
                };
                Verdict::Continue(wire::authentication_sasl_continue(&message))
            }
            Err(error) => Verdict::Refused(reason(error)),
        }
    }
}

const ACCEPTED: Verdict = Verdict::Accepted {
    last: Vec::new(),
    keys: None,
};

fn cleartext(
    password: &[u8],
    user: &str,
    secret: Option<&Secret>,
    derived: Option<&Verifier>,
) -> Verdict {
    let Ok(text) = std::str::from_utf8(password) else {
        return Verdict::Refused("password is not UTF-8");
    };
    let right = match secret {
        // An empty plain password: the user exists and nothing fits.
        Some(Secret::Plain(known)) => !known.is_empty() && same(known.as_bytes(), password),
        Some(Secret::Md5(known)) => same(known.as_bytes(), md5::hash(user, text).as_bytes()),
        // A clear-text password against a SCRAM verifier.
        Some(Secret::Scram(known)) => match derived {
            Some(derived) => same(&known.stored_key, &derived.stored_key),
            None => return Verdict::NeedsVerifier,
        },
        None => false,
    };
    if right {
        ACCEPTED
    } else {
        Verdict::Refused("password does not match")
    }
}

fn md5_answer(answer: &[u8], salt: [u8; 4], user: &str, secret: Option<&Secret>) -> Verdict {
    let hash = match secret {
        Some(Secret::Plain(known)) if !known.is_empty() => Some(md5::hash(user, known)),
        Some(Secret::Md5(known)) => Some(known.clone()),
        _ => None,
    };
    // The same work for a user without one: time must not tell either.
    let fits = match &hash {
        Some(hash) => md5::check(hash, salt, answer),
        None => md5::check(&md5::hash(user, ""), salt, answer),
    };
    match (hash, fits) {
        (Some(_), true) => ACCEPTED,
        (Some(_), false) => Verdict::Refused("password does not match"),
        (None, _) => Verdict::Refused("no such user, or nothing is stored that md5 can check"),
    }
}

fn reason(error: ScramError) -> &'static str {
    match error {
        ScramError::Malformed(_) => "malformed SCRAM message",
        ScramError::Unsupported(_) => "SCRAM message asks for what is not offered",
        ScramError::Mismatch => "password does not match",
        ScramError::Refused => "client ended the SCRAM exchange",
        ScramError::Order => "SCRAM message out of order",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::ClientExchange;

    const RANDOM: [u8; RANDOM_LENGTH] = [7; RANDOM_LENGTH];

    fn scram_login(
        password: &str,
        secret: Option<&Secret>,
        verifier: Option<&Verifier>,
    ) -> Verdict {
        let Begin::Ask(_, mut proof) = begin(AuthType::ScramSha256, SecretKind::Plain, &RANDOM)
        else {
            panic!("no proof asked for");
        };
        let mut client = ClientExchange::new(&[1; scram::NONCE_LENGTH]);
        let first = wire::sasl_initial(scram::MECHANISM, &client.first());
        let Verdict::Continue(message) = proof.answer(&first[5..], "ann", secret, verifier) else {
            panic!("refused at the first message");
        };
        let challenge = client.challenge(&message[9..]).unwrap();
        let keys = Keys::derive(password, &challenge.salt, challenge.iterations);
        let last = wire::sasl_response(&client.last(&keys));
        proof.answer(&last[5..], "ann", secret, verifier)
    }

    #[test]
    fn scram_accepts_the_password_and_reveals_its_keys() {
        let verifier = Verifier::derive("right", b"0123456789abcdef", 4096);
        let stored = Secret::Scram(verifier.clone());
        let Verdict::Accepted { keys, .. } = scram_login("right", Some(&stored), None) else {
            panic!("refused");
        };
        assert_eq!(keys, Some(Keys::derive("right", &verifier.salt, 4096)));
        assert!(matches!(
            scram_login("wrong", Some(&stored), None),
            Verdict::Refused(_)
        ));
        let plain = Secret::Plain("right".into());
        assert!(matches!(
            scram_login("right", Some(&plain), Some(&verifier)),
            Verdict::Accepted { .. }
        ));
    }

    #[test]
    fn an_unknown_user_fails_at_the_end_only() {
        let mock = Verifier::mock(b"secret", "ann", 4096);
        assert!(matches!(
            scram_login("any", None, Some(&mock)),
            Verdict::Refused("password does not match")
        ));
    }

    #[test]
    fn md5_accepts_plain_and_hashed_secrets() {
        let hash = md5::hash("ann", "right");
        for secret in [Secret::Plain("right".into()), Secret::Md5(hash.clone())] {
            let Begin::Ask(_, mut proof) = begin(AuthType::Md5, SecretKind::Md5, &RANDOM) else {
                panic!("no proof asked for");
            };
            let answer = |password: &str| {
                let hash = md5::hash("ann", password);
                wire::password(md5::response(&hash, [7; 4]).as_bytes())
            };
            let verdict = proof.answer(&answer("right")[5..], "ann", Some(&secret), None);
            assert!(matches!(verdict, Verdict::Accepted { .. }));
            let verdict = proof.answer(&answer("wrong")[5..], "ann", Some(&secret), None);
            assert!(matches!(verdict, Verdict::Refused(_)));
        }
    }

    #[test]
    fn a_user_without_a_secret_fails_md5_as_with_a_wrong_one() {
        for stored in [None, Some(Secret::Plain(String::new()))] {
            let Begin::Ask(_, mut proof) = begin(AuthType::Md5, SecretKind::Md5, &RANDOM) else {
                panic!("no proof asked for");
            };
            // Of the password that is worked with instead.
            let answer = md5::response(&md5::hash("ann", ""), [7; 4]);
            let message = wire::password(answer.as_bytes());
            let verdict = proof.answer(&message[5..], "ann", stored.as_ref(), None);
            assert!(matches!(verdict, Verdict::Refused(_)));
        }
    }

    #[test]
    fn an_empty_password_fits_nobody() {
        let secret = Secret::Plain(String::new());
        let Begin::Ask(_, mut proof) = begin(AuthType::Plain, SecretKind::Plain, &RANDOM) else {
            panic!("no proof asked for");
        };
        let verdict = proof.answer(b"\0", "ann", Some(&secret), None);
        assert!(matches!(verdict, Verdict::Refused(_)));
    }

    #[test]
    fn cut_messages_are_refused() {
        let secret = Secret::Scram(Verifier::derive("x", b"0123456789abcdef", 1));
        let client = ClientExchange::new(&[1; scram::NONCE_LENGTH]);
        let first = wire::sasl_initial(scram::MECHANISM, &client.first());
        for cut in 5..first.len() {
            let Begin::Ask(_, mut proof) = begin(AuthType::ScramSha256, SecretKind::Scram, &RANDOM)
            else {
                panic!("no proof asked for");
            };
            let verdict = proof.answer(&first[5..cut], "ann", Some(&secret), None);
            assert!(matches!(verdict, Verdict::Refused(_)), "cut at {cut}");
        }
    }
}
