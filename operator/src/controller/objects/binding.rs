//! Secrets that tell applications how to connect, a user each, in the form of
//! <https://servicebinding.io/spec/core/1.1.0/>: a client for it, or a Pod's own
//! environment, takes them as they are.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use sha2::{Digest as _, Sha256};

use super::metadata::Family;
use crate::controller::build::{Binding, Tier};

/// What is connected to.
const TYPE: &str = "postgresql";
/// By whom it is there.
const PROVIDER: &str = "poolkeeper";
/// Bytes of a user's hash in a name that the user alone cannot make.
const HASH_LENGTH: usize = 16;
/// All but what stands for itself in a URI: RFC 3986, 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What the names of a cluster's Secrets of this kind begin with.
fn prefix(cluster: &str) -> String {
    format!("{cluster}-binding-")
}

/// Whether a cluster's Secret of this name is one of them.
#[must_use]
pub fn is_binding_name(cluster: &str, name: &str) -> bool {
    name.starts_with(&prefix(cluster))
}

/// Name of the Secret with which applications connect as a user: the user at its
/// end; of one with other characters than names may have, those that may be, and
/// after a dot, which no other name has, its hash.
fn binding_name(cluster: &str, user: &str) -> String {
    let may_be = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let replaced = user.to_ascii_lowercase().replace(|c| !may_be(c), "-");
    let word = replaced.trim_matches('-');
    if word == user {
        return format!("{}{user}", prefix(cluster));
    }
    let digest = Sha256::digest(user.as_bytes());
    let hash: String = digest[..HASH_LENGTH]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let word = if word.is_empty() { "user" } else { word };
    format!("{}{word}.{hash}", prefix(cluster))
}

pub(super) fn secrets(family: &Family<'_>, tier: &Tier) -> Vec<Secret> {
    let bindings = tier.bindings.iter();
    bindings
        .map(|binding| secret(family, tier.service_port, binding))
        .collect()
}

fn secret(family: &Family<'_>, port: u16, binding: &Binding) -> Secret {
    let Binding {
        user,
        password,
        database,
    } = binding;
    let host = family.host(family.name);
    let mut uri = format!("postgresql://{}:", encoded(user.as_bytes()));
    uri.push_str(&encoded(password.bytes()));
    uri.push_str(&format!("@{host}:{port}/"));
    let mut data = BTreeMap::from([
        ("type", TYPE.as_bytes().to_vec()),
        ("provider", PROVIDER.as_bytes().to_vec()),
        ("host", host.into_bytes()),
        ("port", port.to_string().into_bytes()),
        ("username", user.as_bytes().to_vec()),
        ("password", password.bytes().to_vec()),
    ]);
    if let Some(database) = database {
        uri.push_str(&encoded(database.as_bytes()));
        data.insert("database", database.as_bytes().to_vec());
    }
    data.insert("uri", uri.into_bytes());
    let data = data
        .into_iter()
        .map(|(key, value)| (key.to_owned(), ByteString(value)));
    Secret {
        metadata: family.metadata_of(binding_name(family.name, user), "binding"),
        type_: Some(format!("servicebinding.io/{TYPE}")),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

fn encoded(bytes: &[u8]) -> String {
    percent_encoding::percent_encode(bytes, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_name_that_kubernetes_takes_and_no_other_user_has() {
        let (horses, cluster) = ("\u{1F40E}".repeat(63), "c".repeat(40));
        let longest = "_".repeat(63);
        let mut names = std::collections::BTreeSet::new();
        for (user, wanted) in [
            ("app", "app"),
            ("app-2", "app-2"),
            ("app_2", "app-2."),
            ("app 2", "app-2."),
            ("app.2", "app-2."),
            ("App", "app."),
            ("-app", "app."),
            ("app-", "app."),
            ("жан", "user."),
            (&longest, "user."),
            (&horses, "user."),
        ] {
            let name = binding_name(&cluster, user);
            assert!(
                is_binding_name(&cluster, &name) && name.len() <= 253,
                "{name}"
            );
            // RFC 1123: labels, and dots between them.
            for label in name.split('.') {
                let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                assert!(label.starts_with(ends) && label.ends_with(ends), "{name}");
                assert!(label.chars().all(|c| ends(c) || c == '-'), "{name}");
            }
            let own = name.strip_prefix(&prefix(&cluster)).unwrap();
            let hash = own.strip_prefix(wanted).unwrap_or_else(|| panic!("{own}"));
            let is_hashed = wanted.ends_with('.');
            assert_eq!(
                hash.len(),
                if is_hashed { 2 * HASH_LENGTH } else { 0 },
                "{own}"
            );
            assert!(names.insert(name), "{user:?} has another's");
        }
    }

    #[test]
    fn a_uri_has_all_that_is_no_letter_encoded() {
        assert_eq!(
            encoded("p@s:/?#[]%é".as_bytes()),
            "p%40s%3A%2F%3F%23%5B%5D%25%C3%A9"
        );
        assert_eq!(encoded(b"a-b.c_d~e"), "a-b.c_d~e");
    }
}
