//! Certificates, keys and authorities: whether a pooler could use them.

use std::time::Duration;

use rustls::{crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{ClientTls, Pair, ServerTls, Validator};
use crate::{
    api::{self, CaSecretRef, SecretRef, TlsMode},
    controller::{
        Fault,
        build::{TLS_AUTHORITY, TLS_CERTIFICATE, TLS_KEY},
        certificates::{Certificate, Holds, WARN_BEFORE, WARN_BEFORE_KEPT},
        dereference::SecretValue,
    },
};

impl Validator<'_> {
    pub(super) fn client_tls(&mut self, client: &api::ClientTls) -> Option<ClientTls> {
        if client.mode == TlsMode::Disable {
            return None;
        }
        let path = "spec.tls.client";
        let Some(secret) = &client.cert_secret_ref else {
            self.fault(
                format!("{path}.certSecretRef"),
                "is needed unless mode is disable",
            );
            return None;
        };
        let pair = self.pair(&format!("{path}.certSecretRef.name"), secret)?;
        let authority = client.ca_secret_ref.as_ref();
        Some(ClientTls {
            mode: client.mode,
            pair,
            authority: authority.and_then(|it| {
                let path = format!("{path}.caSecretRef");
                self.authority(&path, it, WARN_BEFORE)
            }),
        })
    }

    pub(super) fn server_tls(&mut self, spec: &api::PgPoolClusterSpec) -> ServerTls {
        let server = &spec.tls.server;
        let path = "spec.tls.server";
        let pair = server.cert_secret_ref.as_ref();
        let cnpg = spec.upstream.cnpg_cluster_ref.as_ref();
        let authority = match (&server.ca_secret_ref, cnpg) {
            (Some(authority), _) => {
                let path = format!("{path}.caSecretRef");
                self.authority(&path, authority, WARN_BEFORE)
            }
            (None, Some(cnpg)) if server.checks_authority() => {
                let authority = CaSecretRef {
                    name: cnpg.ca_secret(),
                    key: TLS_AUTHORITY.to_owned(),
                };
                let path = "spec.upstream.cnpgClusterRef.name";
                self.authority(path, &authority, WARN_BEFORE_KEPT)
            }
            (None, _) if server.checks_authority() => {
                let message = "is needed with verify-ca and verify-full";
                self.fault(format!("{path}.caSecretRef"), message);
                None
            }
            (None, _) => None,
        };
        ServerTls {
            mode: server.mode,
            pair: pair.and_then(|it| self.pair(&format!("{path}.certSecretRef.name"), it)),
            authority,
        }
    }

    fn pair(&mut self, path: &str, secret: &SecretRef) -> Option<Pair> {
        let certificate = self.secret(path, &secret.name, TLS_CERTIFICATE);
        let key = self.secret(path, &secret.name, TLS_KEY);
        let (certificate, key) = certificate.zip(key)?;
        match check_pair(certificate.bytes(), key.bytes()) {
            Ok(chain) => {
                let place = (&*secret.name, TLS_CERTIFICATE);
                self.certificate(place, Holds::Chain, &chain, WARN_BEFORE);
            }
            Err((key, message)) => {
                self.faults
                    .push(Fault::secret(&secret.name, key, 1, message));
                return None;
            }
        }
        Some(Pair { certificate, key })
    }

    fn authority(
        &mut self,
        path: &str,
        secret: &CaSecretRef,
        warn_before: Duration,
    ) -> Option<SecretValue> {
        let value = self.secret(path, &secret.name, &secret.key)?;
        match certificates(value.bytes()) {
            Ok(authorities) => {
                let place = (&*secret.name, &*secret.key);
                self.certificate(place, Holds::Authorities, &authorities, warn_before);
            }
            Err(message) => {
                self.faults
                    .push(Fault::secret(&secret.name, &secret.key, 1, message));
                return None;
            }
        }
        Some(value)
    }

    /// Remembers a file of certificates, once.
    fn certificate(
        &mut self,
        (secret, key): (&str, &str),
        holds: Holds,
        certificates: &[CertificateDer<'_>],
        warn_before: Duration,
    ) {
        let known = |one: &Certificate| one.is_of(secret, key);
        if !self.certificates.iter().any(known) {
            let read = Certificate::new((secret, key), holds, certificates, warn_before);
            self.certificates.extend(read);
        }
    }
}

/// The certificates of a PEM file, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| "is not PEM")?;
    if chain.is_empty() {
        return Err("holds no certificate in PEM");
    }
    Ok(chain)
}

/// The chain, if both can be read and belong together. The error names the key
/// of the Secret that is wrong.
fn check_pair(
    certificate: &[u8],
    key: &[u8],
) -> Result<Vec<CertificateDer<'static>>, (&'static str, String)> {
    let chain =
        certificates(certificate).map_err(|message| (TLS_CERTIFICATE, message.to_owned()))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| (TLS_KEY, "holds no private key in PEM".to_owned()))?;
    // The error's text is dropped: it could repeat parts of the key.
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map(|pair| pair.cert)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => (
                TLS_KEY,
                format!("does not belong to the certificate in {TLS_CERTIFICATE}"),
            ),
            rustls::Error::InvalidCertificate(_) => {
                (TLS_CERTIFICATE, "is not a certificate".to_owned())
            }
            _ => (TLS_KEY, "is of a kind that is not supported".to_owned()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pair_passes() {
        let one = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap();
        let (certificate, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let chain = check_pair(certificate.as_bytes(), key.as_bytes());
        assert_eq!(chain, Ok(vec![one.cert.der().clone()]));
        let stranger = other.signing_key.serialize_pem();
        for (certificate, key, wrong) in [
            (certificate.as_str(), stranger.as_str(), TLS_KEY),
            (certificate.as_str(), "hunter2", TLS_KEY),
            ("hunter2", key.as_str(), TLS_CERTIFICATE),
            ("", key.as_str(), TLS_CERTIFICATE),
        ] {
            let (name, message) = check_pair(certificate.as_bytes(), key.as_bytes()).unwrap_err();
            assert_eq!(name, wrong, "{message}");
            assert!(!message.contains("hunter2"));
        }
    }
}
