//! The Service that applications connect to.

use std::net::IpAddr;

use super::Validator;
use crate::api::Service;

/// Keys that are the operator's.
const OWN: [&str; 2] = ["app.kubernetes.io/", "poolkeeper.dev/"];

impl Validator<'_> {
    pub(super) fn service(&mut self, service: &Service) -> Service {
        for (field, map) in [
            ("annotations", &service.annotations),
            ("labels", &service.labels),
        ] {
            for key in map.keys() {
                let path = format!("spec.service.{field}.{key}");
                let own = OWN.iter().find(|own| key.starts_with(**own));
                if let Some(own) = own.filter(|own| field == "labels" || **own == OWN[1]) {
                    self.fault(path, format!("begins with {own}, which is the operator's"));
                } else if !is_key(key) {
                    self.fault(
                        path,
                        "is not a key: at most 63 letters, digits, - _ . that begin and end in a letter or digit, after a DNS name and / if wanted",
                    );
                }
            }
        }
        for (index, network) in service.load_balancer_source_ranges.iter().enumerate() {
            if !is_network(network) {
                let path = format!("spec.service.loadBalancerSourceRanges[{index}]");
                self.fault(
                    path,
                    format!("{network:?} is not a network, such as 10.0.0.0/8"),
                );
            }
        }
        service.clone()
    }
}

/// Whether Kubernetes takes it for the key of a label or an annotation.
pub(super) fn is_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let dns = |prefix: &str| {
        prefix.len() <= 253
            && prefix.split('.').all(|part| {
                !part.is_empty()
                    && part.chars().all(label)
                    && !part.starts_with('-')
                    && !part.ends_with('-')
            })
    };
    name.len() <= 63
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && end(name.chars().next())
        && end(name.chars().next_back())
        && prefix.is_none_or(dns)
}

fn is_network(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let longest = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_networks_are_those_of_kubernetes() {
        for key in [
            "a",
            "example.org/a",
            "service.beta.kubernetes.io/aws-load-balancer-type",
            "A_b.c-1",
        ] {
            assert!(is_key(key), "{key}");
        }
        for key in [
            "",
            "/a",
            "a/",
            "-a",
            "a-",
            "Ex.org/a",
            "a b",
            "a/b/c",
            "a..b/c",
            &"x".repeat(64),
        ] {
            assert!(!is_key(key), "{key}");
        }
        for network in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/64"] {
            assert!(is_network(network), "{network}");
        }
        for network in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "a/8"] {
            assert!(!is_network(network), "{network}");
        }
    }
}
