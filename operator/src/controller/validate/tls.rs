//! Certificate and key: whether a pooler could use them.

use rustls::{crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::controller::build::{TLS_CERTIFICATE, TLS_KEY};

/// Checks that both can be read and belong together. The error names the key of
/// the Secret that is wrong.
pub(super) fn check_pair(certificate: &[u8], key: &[u8]) -> Result<(), (&'static str, String)> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| (TLS_CERTIFICATE, "is not PEM".to_owned()))?;
    if chain.is_empty() {
        return Err((TLS_CERTIFICATE, "holds no certificate in PEM".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| (TLS_KEY, "holds no private key in PEM".to_owned()))?;
    // The error's text is dropped: it could repeat parts of the key.
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map(drop)
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
        assert_eq!(check_pair(certificate.as_bytes(), key.as_bytes()), Ok(()));
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
