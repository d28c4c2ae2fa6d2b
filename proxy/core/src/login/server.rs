//! We log in to PostgreSQL.

use crate::{
    auth::{
        md5,
        scram::{self, Challenge, ClientExchange, Keys, ScramError},
    },
    config::Secret,
    wire::{self, ErrorFields, Frame, backend},
};

/// Longest message accepted before the server is ready.
pub const MESSAGE_LENGTH_MAX: usize = 64 * 1024;

/// Most ParameterStatus messages kept.
const PARAMETERS_MAX: usize = 256;

/// A login under way. Debug shows no secret.
#[derive(Debug)]
pub struct Login {
    user: String,
    secret: Option<Secret>,
    exchange: Option<Box<ClientExchange>>,
    authenticated: bool,
    welcome: Welcome,
}

/// What a server said of itself when we logged in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// ParameterStatus messages, in order.
    pub parameters: Vec<(String, String)>,
    /// BackendKeyData: process id and secret key. Not shown anywhere.
    pub cancel_key: Option<wire::CancelKey>,
    /// Process id of the backend, 0 if it gave none.
    pub process_id: u32,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Nothing; the next message decides.
    Continue,
    /// Send this.
    Send(Vec<u8>),
    /// Derive keys for this challenge and pass them to [`Login::prove`].
    NeedsKeys(Challenge),
    /// Logged in.
    Ready(Box<Welcome>),
}

/// Why a login failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The server refused. `code` and `text` are its own.
    #[error("server refused the login: {text} ({code})")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// The server's message.
        text: String,
    },
    /// There is no TLS with the server: what is wrong.
    #[error("{0}")]
    Tls(String),
    /// The server asks for a kind of proof that we cannot give.
    #[error("server asks for {0}")]
    Method(String),
    /// The server does not know the password that we know.
    #[error("server failed to prove itself: {0}")]
    Scram(#[from] ScramError),
    /// Not what PostgreSQL would say here.
    #[error("server broke the protocol: {0}")]
    Protocol(&'static str),
}

impl LoginError {
    /// Whether waiting helps: the server is starting, stopping, or full.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Refused { code, .. }
            if matches!(code.as_str(), "57P01" | "57P02" | "57P03" | "53300" | "53400"))
    }
}

impl Login {
    /// A login as `user` with what is known of its password.
    #[must_use]
    pub fn new(user: &str, secret: Option<Secret>) -> Self {
        Self {
            user: user.to_owned(),
            secret,
            exchange: None,
            authenticated: false,
            welcome: Welcome::default(),
        }
    }

    /// The user it logs in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What is known of the password.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    /// Takes the server's next message. `random` is fresh at each call.
    ///
    /// # Errors
    /// See [`LoginError`]; the connection is of no further use.
    pub fn message(
        &mut self,
        frame: Frame<'_>,
        random: &[u8; scram::NONCE_LENGTH],
    ) -> Result<Step, LoginError> {
        match frame.kind {
            backend::ERROR_RESPONSE => {
                let fields = ErrorFields::read(frame.body);
                Err(LoginError::Refused {
                    code: String::from_utf8_lossy(fields.code).into_owned(),
                    text: String::from_utf8_lossy(fields.text).into_owned(),
                })
            }
            backend::NOTICE_RESPONSE | backend::NEGOTIATE_PROTOCOL_VERSION => Ok(Step::Continue),
            backend::AUTHENTICATION => self.authentication(frame.body, random),
            _ if !self.authenticated => Err(LoginError::Protocol(
                "a message other than an authentication request",
            )),
            backend::PARAMETER_STATUS => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let pair = wire::cstr(frame.body)
                    .and_then(|(name, rest)| Some((text(name), text(wire::cstr(rest)?.0))));
                let pair = pair.ok_or(LoginError::Protocol("malformed ParameterStatus"))?;
                if self.welcome.parameters.len() < PARAMETERS_MAX {
                    self.welcome.parameters.push(pair);
                }
                Ok(Step::Continue)
            }
            backend::BACKEND_KEY_DATA => {
                let key = wire::CancelKey::new(frame.body)
                    .ok_or(LoginError::Protocol("malformed BackendKeyData"))?;
                let id = key.bytes().first_chunk::<4>().expect("a key has 8 bytes");
                self.welcome.process_id = u32::from_be_bytes(*id);
                self.welcome.cancel_key = Some(key);
                Ok(Step::Continue)
            }
            backend::READY_FOR_QUERY => {
                Ok(Step::Ready(Box::new(std::mem::take(&mut self.welcome))))
            }
            _ => Err(LoginError::Protocol("an unexpected message")),
        }
    }

    fn authentication(
        &mut self,
        body: &[u8],
        random: &[u8; scram::NONCE_LENGTH],
    ) -> Result<Step, LoginError> {
        let Some((code, rest)) = body.split_first_chunk::<4>() else {
            return Err(LoginError::Protocol("malformed authentication request"));
        };
        match u32::from_be_bytes(*code) {
            0 => {
                self.authenticated = true;
                Ok(Step::Continue)
            }
            3 => match &self.secret {
                Some(Secret::Plain(password)) => {
                    Ok(Step::Send(wire::password(password.as_bytes())))
                }
                _ => Err(self.lacks("a password in clear text")),
            },
            5 => {
                let salt = *rest
                    .first_chunk::<4>()
                    .ok_or(LoginError::Protocol("md5 request without a salt"))?;
                let hash = match &self.secret {
                    Some(Secret::Plain(password)) => md5::hash(&self.user, password),
                    Some(Secret::Md5(hash)) => hash.clone(),
                    _ => return Err(self.lacks("an md5 password")),
                };
                let answer = md5::response(&hash, salt);
                Ok(Step::Send(wire::password(answer.as_bytes())))
            }
            10 => {
                if !rest
                    .split(|&byte| byte == 0)
                    .any(|name| name == scram::MECHANISM.as_bytes())
                {
                    return Err(LoginError::Method(
                        "a SASL mechanism other than SCRAM-SHA-256".into(),
                    ));
                }
                if !matches!(self.secret, Some(Secret::Plain(_) | Secret::Scram(_))) {
                    return Err(self.lacks("a SCRAM password"));
                }
                let exchange = ClientExchange::new(random);
                let message = wire::sasl_initial(scram::MECHANISM, &exchange.first());
                self.exchange = Some(Box::new(exchange));
                Ok(Step::Send(message))
            }
            11 => {
                let exchange = self
                    .exchange
                    .as_mut()
                    .ok_or(LoginError::Protocol("SASL message out of order"))?;
                Ok(Step::NeedsKeys(exchange.challenge(rest)?))
            }
            12 => {
                let exchange = self
                    .exchange
                    .as_mut()
                    .ok_or(LoginError::Protocol("SASL message out of order"))?;
                exchange.verify(rest)?;
                Ok(Step::Continue)
            }
            code => Err(LoginError::Method(format!(
                "authentication of kind {code}, which is not supported"
            ))),
        }
    }

    /// Answers the challenge with keys derived for it.
    ///
    /// # Errors
    /// No challenge is open.
    pub fn prove(&mut self, keys: &Keys) -> Result<Vec<u8>, LoginError> {
        let exchange = self
            .exchange
            .as_mut()
            .ok_or(LoginError::Protocol("SASL message out of order"))?;
        Ok(wire::sasl_response(&exchange.last(keys)))
    }

    fn lacks(&self, what: &str) -> LoginError {
        let known = match self.secret {
            None => "none is known",
            Some(Secret::Plain(_)) => "a plain password is known",
            Some(Secret::Md5(_)) => "only its md5 hash is known",
            Some(Secret::Scram(_)) => "only its SCRAM verifier is known",
        };
        LoginError::Method(format!("{what} of user \"{}\", and {known}", self.user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame {
            kind: bytes[0],
            body: &bytes[5..],
        }
    }

    #[test]
    fn welcome_collects_what_the_server_says() {
        let mut login = Login::new("ann", None);
        let random = [0; scram::NONCE_LENGTH];
        for bytes in [
            wire::authentication_ok(),
            wire::parameter_status("server_version", "15.1"),
            wire::backend_key_data(&[0, 0, 0, 9, 1, 2, 3, 4]),
        ] {
            let step = login.message(frame(&bytes), &random).unwrap();
            assert!(matches!(step, Step::Continue));
        }
        let step = login.message(frame(&wire::ready_for_query(b'I')), &random);
        let Ok(Step::Ready(welcome)) = step else {
            panic!("not ready");
        };
        assert_eq!(welcome.process_id, 9);
        assert_eq!(
            welcome.parameters,
            [("server_version".to_owned(), "15.1".to_owned())]
        );
    }

    #[test]
    fn what_is_lacking_is_said() {
        let mut login = Login::new("ann", Some(Secret::Md5(md5::hash("ann", "x"))));
        let offer = wire::authentication_sasl(&[scram::MECHANISM]);
        let error = login
            .message(frame(&offer), &[0; scram::NONCE_LENGTH])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "server asks for a SCRAM password of user \"ann\", and only its md5 hash is known"
        );
    }

    #[test]
    fn a_server_that_starts_up_is_worth_waiting_for() {
        let refuse = |code| LoginError::Refused {
            code: String::from(code),
            text: String::new(),
        };
        assert!(refuse("57P03").is_passing());
        assert!(!refuse("28P01").is_passing());
    }
}
