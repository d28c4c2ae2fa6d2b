//! The settings that are one of a few words.

use std::fmt;

use super::value::{Kind, Value};

/// Makes an enum of words, any case accepted, the first one being the unset value.
macro_rules! choice {
    (
        $(#[$doc:meta])*
        $type:ident, $expected:literal {
            $( $(#[$variant_doc:meta])* $variant:ident = $word:literal, )+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $( $(#[$variant_doc])* $variant, )+
        }

        impl $type {
            /// The word in the file.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl Value for $type {
            const KIND: Kind = Kind::of($expected);

            fn parse(text: &str) -> Result<Self, Option<String>> {
                [$( Self::$variant ),+]
                    .into_iter()
                    .find(|choice| choice.word().eq_ignore_ascii_case(text))
                    .ok_or(None)
            }

            fn unset() -> Self {
                [$( Self::$variant ),+][0]
            }

            fn format(&self) -> String {
                self.word().to_owned()
            }
        }

        impl Value for Option<$type> {
            const KIND: Kind = $type::KIND;

            fn parse(text: &str) -> Result<Self, Option<String>> {
                $type::parse(text).map(Some)
            }

            fn unset() -> Self {
                None
            }

            fn format(&self) -> String {
                self.map_or("", $type::word).to_owned()
            }
        }
    };
}

choice! {
    /// When a server goes back to the pool.
    PoolMode, "session, transaction or statement" {
        /// When the client leaves.
        Session = "session",
        /// When the transaction ends.
        Transaction = "transaction",
        /// When the statement ends; transactions of several statements are refused.
        Statement = "statement",
    }
}

choice! {
    /// How clients prove who they are.
    AuthType, "any, trust, plain, md5, scram-sha-256, cert, hba, pam or ldap" {
        /// Not at all, and the name does not count either.
        Any = "any",
        /// Not at all; the name must be in the user list.
        Trust = "trust",
        /// Password in clear text.
        Plain = "plain",
        /// PostgreSQL's md5, or SCRAM for a user with a SCRAM secret.
        Md5 = "md5",
        /// SCRAM-SHA-256.
        ScramSha256 = "scram-sha-256",
        /// Client certificate.
        Cert = "cert",
        /// As a pg_hba.conf file says.
        Hba = "hba",
        /// PAM.
        Pam = "pam",
        /// LDAP.
        Ldap = "ldap",
    }
}

choice! {
    /// Whether a connection is encrypted and what is verified, as in libpq.
    SslMode, "disable, allow, prefer, require, verify-ca or verify-full" {
        /// Never.
        Disable = "disable",
        /// If the other side wants to.
        Allow = "allow",
        /// If possible.
        Prefer = "prefer",
        /// Always; certificates are not verified.
        Require = "require",
        /// Always, with a certificate of a known authority.
        VerifyCa = "verify-ca",
        /// The same, and the name in the certificate must fit.
        VerifyFull = "verify-full",
    }
}

choice! {
    /// How log lines look.
    LogFormat, "text or json" {
        /// For people.
        Text = "text",
        /// An object a line.
        Json = "json",
    }
}

choice! {
    /// Which host of a list a new connection goes to.
    LoadBalanceHosts, "disable or round-robin" {
        /// The same until it fails.
        Disable = "disable",
        /// The next.
        RoundRobin = "round-robin",
    }
}

/// TLS versions that may be used. At least one is set.
///
/// TLS 1.0 and 1.1 are never spoken; a list may name them beside a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsProtocols {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
    /// Whether TLS 1.0 or 1.1 was named.
    pub older: bool,
}

impl Value for TlsProtocols {
    const KIND: Kind = Kind::of(
        "secure, all, or a list of tlsv1.2 and tlsv1.3 separated by commas (tlsv1.0 and tlsv1.1 are never spoken)",
    );

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let mut protocols = Self {
            tls12: false,
            tls13: false,
            older: false,
        };
        for (index, word) in text.split([',', ':']).map(str::trim).enumerate() {
            let (on, name) = match word.strip_prefix('!') {
                Some(name) => (false, name),
                None => (true, word),
            };
            if !on && index == 0 {
                protocols = Self::unset();
            }
            match name.to_ascii_lowercase().as_str() {
                "secure" | "default" | "all" | "legacy" | "tlsv1" => {
                    (protocols.tls12, protocols.tls13) = (on, on);
                }
                "tlsv1.0" | "tlsv1.1" => protocols.older |= on,
                "tlsv1.2" => protocols.tls12 = on,
                "tlsv1.3" => protocols.tls13 = on,
                _ => return Err(None),
            }
        }
        if !protocols.tls12 && !protocols.tls13 {
            return Err(Some("no version is left that can be spoken".to_owned()));
        }
        Ok(protocols)
    }

    fn unset() -> Self {
        Self {
            tls12: true,
            tls13: true,
            older: false,
        }
    }

    fn format(&self) -> String {
        match (self.tls12, self.tls13) {
            (true, false) => "tlsv1.2",
            (false, true) => "tlsv1.3",
            _ => "secure",
        }
        .to_owned()
    }
}
