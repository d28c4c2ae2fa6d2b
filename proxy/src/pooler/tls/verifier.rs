//! Whether the certificate that PostgreSQL shows is the right one.

use std::{error::Error as _, io};

use jiff::Timestamp;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Most names of a wrong certificate that are told.
const NAMES_MAX: usize = 5;

/// Handshake signatures that are taken unseen where nothing is checked, beside
/// those that can be verified.
const UNSEEN: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED448,
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::ECDSA_SHA1_Legacy,
];

/// What is checked of PostgreSQL's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Checked {
    /// Nothing: whoever answers is believed.
    #[default]
    Nothing,
    /// That it is valid today and comes from an authority of the CA file.
    Issuer,
    /// And that it is for the host that was connected to.
    IssuerAndName,
}

/// Trusts the authorities of one file and no others.
#[derive(Debug)]
pub(super) struct Verifier {
    checked: Checked,
    roots: RootCertStore,
    /// The certificates that `roots` was made from.
    authorities: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// # Errors
    /// One of the authorities cannot be understood: which, and why.
    pub(super) fn new(
        checked: Checked,
        authorities: &[CertificateDer<'static>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for (index, authority) in authorities.iter().enumerate() {
            roots
                .add(authority.clone())
                .map_err(|error| format!("certificate {} in it: {error}", index + 1))?;
        }
        Ok(Self {
            checked,
            roots,
            authorities: authorities.to_vec(),
            algorithms,
        })
    }

    fn verify_issuer(
        &self,
        end_entity: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = self.algorithms.all;
        let result = verify_server_cert_signed_by_trust_anchor(
            parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        );
        match result {
            // What `openssl req -x509` makes for a server is an authority at the
            // same time; being in the CA file itself, it is trusted as it is.
            // Its dates have been looked at by then.
            Err(error) if is_authority(&error) && self.authorities.contains(end_entity) => Ok(()),
            result => result,
        }
    }
}

/// Whether all that is wrong is that an authority's certificate is a server's.
fn is_authority(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            // The library's own error type is not ours to name.
            other.0.to_string() == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.checked != Checked::Nothing {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            self.verify_issuer(end_entity, &parsed, intermediates, now)?;
            if self.checked == Checked::IssuerAndName {
                verify_server_name(&parsed, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.checked == Checked::Nothing {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // It would show that the other side has the key of a certificate that
        // anybody may have made; and old or rare certificates, which we cannot
        // read, are no reason to refuse what would be taken without TLS too.
        if self.checked == Checked::Nothing {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.algorithms.supported_schemes();
        if self.checked == Checked::Nothing {
            schemes.extend(UNSEEN);
        }
        schemes
    }
}

/// Why there is no session with PostgreSQL, for those who wait for it: what is
/// wrong, and with what.
pub(in crate::pooler) fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(reason)) => explain_certificate(reason),
        Some(Error::AlertReceived(alert)) => explain_alert(*alert),
        Some(other) => other.to_string(),
        None => match error.source() {
            Some(source) => source.to_string(),
            None => error.to_string(),
        },
    }
}

fn explain_certificate(reason: &CertificateError) -> String {
    let date = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |it| it.to_string())
    };
    match reason {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired at {}", date(not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid before {}", date(not_before))
        }
        CertificateError::UnknownIssuer => {
            "its certificate comes from no authority in server_tls_ca_file".to_owned()
        }
        CertificateError::BadSignature => {
            "its certificate comes from no authority in server_tls_ca_file, where one has the right name and another key".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            if presented.is_empty() {
                return format!(
                    "its certificate has no name in subjectAltName, so it is not for {expected}"
                );
            }
            let mut names = presented[..presented.len().min(NAMES_MAX)].join(", ");
            if presented.len() > NAMES_MAX {
                names.push_str(", ...");
            }
            format!("its certificate is for {names}, not for {expected}")
        }
        other => format!("its certificate is not good: {other}"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            "PostgreSQL does not know the authority of server_tls_cert_file".to_owned()
        }
        AlertDescription::CertificateRequired => {
            "PostgreSQL asks for a certificate: set server_tls_cert_file".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "PostgreSQL says that server_tls_cert_file has expired".to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError => {
            format!("PostgreSQL refuses server_tls_cert_file: {alert:?}")
        }
        AlertDescription::ProtocolVersion => {
            "PostgreSQL speaks none of server_tls_protocols".to_owned()
        }
        alert => format!("PostgreSQL ended the handshake: {alert:?}"),
    }
}
