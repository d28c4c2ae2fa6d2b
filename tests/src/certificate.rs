//! A throwaway certificate for TLS.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::Scratch;

/// A self-signed certificate for `localhost` and 127.0.0.1, and its key.
#[derive(Debug)]
pub struct Certificate {
    /// PEM file of the certificate, which is its own authority.
    pub cert: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
    _dir: Scratch,
}

impl Certificate {
    /// Makes one with Debian's `openssl`, which PostgreSQL's packages bring along.
    ///
    /// # Errors
    /// When openssl is missing or fails.
    pub fn new() -> Result<Self> {
        let dir = Scratch::new()?;
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .arg("-out")
            .arg(&cert)
            .arg("-keyout")
            .arg(&key)
            .stdin(Stdio::null())
            .output()
            .context("openssl does not start")?;
        ensure!(
            output.status.success(),
            "openssl failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // The stand-in for the pooler may run as another user.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&key, readable)?;
        Ok(Self {
            cert,
            key,
            _dir: dir,
        })
    }
}
