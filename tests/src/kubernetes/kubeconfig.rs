//! Kubeconfig files: which API server, whom to trust, who we are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What every kubeconfig of one control plane has in common.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// `https://ADDRESS:PORT`
    pub(crate) server: String,
    /// PEM file of the API server's authority.
    pub(crate) authority: PathBuf,
}

/// Who a kubeconfig logs in as.
#[derive(Debug)]
pub(crate) struct Login<'a> {
    pub(crate) token: &'a str,
    /// Whom to act as, with which groups, instead of as the token's owner.
    pub(crate) acting_as: Option<(&'a str, &'a [&'a str])>,
}

impl Cluster {
    /// Writes a kubeconfig that only its owner may read: it holds a token. The
    /// authority is in it, so that it works wherever it is copied to.
    pub(crate) fn write(&self, path: &Path, login: &Login<'_>) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.kubeconfig(login)?)?;
        // JSON is YAML.
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path, private)?;
        Ok(())
    }

    fn kubeconfig(&self, login: &Login<'_>) -> Result<Value> {
        let authority = fs::read(&self.authority)
            .with_context(|| format!("cannot read {}", self.authority.display()))?;
        let mut user = json!({ "token": login.token });
        if let Some((name, groups)) = login.acting_as {
            user["as"] = name.into();
            user["as-groups"] = groups.into();
        }
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "poolkeeper",
                "cluster": {
                    "server": self.server,
                    "certificate-authority-data": base64(&authority),
                },
            }],
            "users": [{ "name": "poolkeeper", "user": user }],
            "contexts": [{
                "name": "poolkeeper",
                "context": { "cluster": "poolkeeper", "user": "poolkeeper" },
            }],
            "current-context": "poolkeeper",
        }))
    }
}

/// RFC 4648, with padding. Here because the harness depends on no crate for it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            if digit <= three.len() {
                let value = bits >> (18 - 6 * digit) & 63;
                text.push(char::from(DIGITS[value as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4648, section 10.
    #[test]
    fn base64_is_the_rfcs() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
