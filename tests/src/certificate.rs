//! Throwaway certificates for TLS, made with Debian's `openssl`, which
//! PostgreSQL's packages bring along.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::Scratch;

/// A certificate and its key.
#[derive(Debug)]
pub struct Certificate {
    /// PEM file of the certificate.
    pub cert: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
    dir: Scratch,
}

impl Certificate {
    /// A self-signed one for `localhost` and 127.0.0.1, which is its own authority.
    ///
    /// # Errors
    /// When openssl is missing or fails.
    pub fn new() -> Result<Self> {
        Self::self_signed("localhost", &["-addext", NAMES])
    }

    fn self_signed(name: &str, options: &[&str]) -> Result<Self> {
        let made = Self::place()?;
        let subject = format!("/CN={name}");
        openssl(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
                .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-subj", &subject])
                .args(options)
                .arg("-out")
                .arg(&made.cert)
                .arg("-keyout")
                .arg(&made.key),
        )?;
        made.open_key()?;
        Ok(made)
    }

    fn place() -> Result<Self> {
        let dir = Scratch::new()?;
        Ok(Self {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
            dir,
        })
    }

    /// The stand-in for the pooler may run as another user.
    fn open_key(&self) -> Result<()> {
        fs::set_permissions(&self.key, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }
}

const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

/// Whether a certificate is valid today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// For two days from now on.
    Today,
    /// In January 2020.
    Expired,
}

/// An authority that issues certificates. Two of one name differ in their keys.
#[derive(Debug)]
pub struct Authority {
    /// PEM file of its own certificate, to be trusted.
    pub cert: PathBuf,
    own: Certificate,
}

impl Authority {
    /// # Errors
    /// When openssl is missing or fails.
    pub fn new() -> Result<Self> {
        let own = Certificate::self_signed("Test authority", &[])?;
        let dir = own.dir.path();
        fs::write(dir.join("index.txt"), "")?;
        let settings = format!(
            "[ca]\ndefault_ca=a\n[a]\ndatabase={0}/index.txt\nnew_certs_dir={0}\nrand_serial=yes\n\
             default_md=sha256\npolicy=p\nunique_subject=no\ncopy_extensions=copy\nx509_extensions=e\n\
             [p]\ncommonName=supplied\n[e]\nbasicConstraints=CA:FALSE\n",
            dir.display()
        );
        fs::write(dir.join("ca.cnf"), settings)?;
        Ok(Self {
            cert: own.cert.clone(),
            own,
        })
    }

    /// Issues a certificate for the common name `name`; `names` are its
    /// subjectAltName as openssl writes them: `DNS:localhost,IP:127.0.0.1`.
    ///
    /// # Errors
    /// When openssl fails.
    pub fn issue(&self, name: &str, names: &str, validity: Validity) -> Result<Certificate> {
        let made = Certificate::place()?;
        let request = made.dir.path().join("request.pem");
        openssl(
            Command::new("openssl")
                .args(["req", "-new", "-newkey", "ec", "-nodes"])
                .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-subj", &format!("/CN={name}")])
                .args(["-addext", &format!("subjectAltName={names}")])
                .arg("-out")
                .arg(&request)
                .arg("-keyout")
                .arg(&made.key),
        )?;
        let dates: &[&str] = match validity {
            Validity::Today => &["-days", "2"],
            Validity::Expired => &[
                "-startdate",
                "20200101000000Z",
                "-enddate",
                "20200201000000Z",
            ],
        };
        openssl(
            Command::new("openssl")
                .args(["ca", "-batch", "-notext"])
                .args(dates)
                .arg("-config")
                .arg(self.own.dir.path().join("ca.cnf"))
                .args(["-cert".as_ref(), self.own.cert.as_path()])
                .args(["-keyfile".as_ref(), self.own.key.as_path()])
                .args(["-in".as_ref(), request.as_path()])
                .args(["-out".as_ref(), made.cert.as_path()]),
        )?;
        made.open_key()?;
        Ok(made)
    }
}

fn openssl(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("openssl does not start")?;
    ensure!(
        output.status.success(),
        "openssl failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
