//! Which URLs messages are posted to.

use std::net::IpAddr;

use reqwest::Url;

/// What the examples hold where a real webhook's URL belongs.
pub const PLACEHOLDER: &str = "https://hooks.slack.com/services/REPLACE/ME/PLEASE";

/// Which URLs are posted to. Tenants choose the URLs, so whoever runs the
/// operator chooses the hosts.
#[derive(Clone, Debug)]
pub struct WebhookPolicy {
    /// Hosts that HTTPS is spoken to.
    pub hosts: Vec<String>,
    /// Whether plain HTTP to this machine itself is let through, for tests and
    /// for trying things out.
    pub loopback_http: bool,
}

impl WebhookPolicy {
    /// Slack's own hosts.
    pub const HOSTS_DEFAULT: [&str; 2] = ["hooks.slack.com", "slack.com"];
}

impl Default for WebhookPolicy {
    fn default() -> Self {
        Self {
            hosts: Self::HOSTS_DEFAULT.map(str::to_owned).to_vec(),
            loopback_http: false,
        }
    }
}

impl WebhookPolicy {
    /// Reads a URL and judges it.
    ///
    /// # Errors
    /// What is wrong with it, without any part of it.
    pub fn url(&self, text: &str) -> Result<Url, String> {
        let url = Url::parse(text.trim()).map_err(|_| "is not a URL".to_owned())?;
        let host = url.host_str().unwrap_or_default();
        match url.scheme() {
            "https"
                if self
                    .hosts
                    .iter()
                    .any(|allowed| allowed.eq_ignore_ascii_case(host)) => {}
            "https" => {
                return Err(format!(
                    "is of a host that is not allowed; allowed by --webhook-hosts: {}",
                    self.hosts.join(", ")
                ));
            }
            "http" if self.loopback_http && is_loopback(host) => {}
            "http" if self.loopback_http => {
                return Err("must be https, or http to this machine itself".to_owned());
            }
            _ => return Err("must be https".to_owned()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user or password".to_owned());
        }
        Ok(url)
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_hosts_and_schemes_pass() {
        let strict = WebhookPolicy::default();
        let local = WebhookPolicy {
            loopback_http: true,
            ..WebhookPolicy::default()
        };
        let cases = [
            ("https://hooks.slack.com/services/T0/B0/s3cret", true, true),
            ("https://HOOKS.slack.com/services/T0/B0/s3cret", true, true),
            ("https://hooks.slack.com.evil.example/s3cret", false, false),
            ("https://10.0.0.1/s3cret", false, false),
            ("http://hooks.slack.com/s3cret", false, false),
            ("http://127.0.0.1:9999/s3cret", false, true),
            ("http://localhost:9999/s3cret", false, true),
            ("http://[::1]:9999/s3cret", false, true),
            ("http://169.254.169.254/s3cret", false, false),
            ("https://u:s3cret@hooks.slack.com/x", false, false),
            ("file:///s3cret", false, false),
            ("s3cret", false, false),
        ];
        for (url, with_strict, with_local) in cases {
            for (policy, allowed) in [(&strict, with_strict), (&local, with_local)] {
                let result = policy.url(url).map(|_| ());
                assert_eq!(result.is_ok(), allowed, "{url}");
                let shown = format!("{result:?}");
                assert!(!shown.contains("s3cret"), "{shown}");
            }
        }
    }
}
