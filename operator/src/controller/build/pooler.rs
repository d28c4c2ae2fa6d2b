//! A pooler's pgbouncer.ini.

use std::borrow::Cow;

use super::{
    Entry, Peers, PoolerAddresses, PoolerPlace, TLS_CERTIFICATE, TLS_KEY, Tier, USERLIST, setting,
};

/// An ini file that knows where each line is from.
#[derive(Clone, Debug, Default)]
pub struct Ini {
    /// The file.
    pub text: String,
    /// By line, the field of the manifest that says so.
    origins: Vec<Option<String>>,
}

impl Ini {
    /// The field of the manifest that line `line`, counted from 1, is from.
    #[must_use]
    pub fn origin(&self, line: u32) -> Option<&str> {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        self.origins.get(index)?.as_deref()
    }

    fn line(&mut self, text: &str, origin: Option<&str>) {
        self.text.push_str(text);
        self.text.push('\n');
        self.origins.push(origin.map(str::to_owned));
    }

    fn section(&mut self, name: &str) {
        self.line("", None);
        self.line(&format!("[{name}]"), None);
    }

    fn entry(&mut self, entry: &Entry) {
        let pairs: Vec<String> = entry
            .settings
            .iter()
            .map(|setting| format!("{}={}", setting.key, quoted_value(&setting.value)))
            .collect();
        let text = format!("{} = {}", quoted_key(&entry.name), pairs.join(" "));
        self.line(&text, Some(&entry.origin));
    }

    fn setting(&mut self, key: &str, value: &str, origin: Option<&str>) {
        self.line(format!("{key} = {value}").trim_end(), origin);
    }
}

/// The file of one pooler.
#[must_use]
pub fn pooler_ini(tier: &Tier, place: &PoolerPlace<'_>) -> Ini {
    let mut ini = Ini::default();
    ini.line(
        &format!(
            "; Written by the operator from PgPoolCluster {}. What is changed here is lost.",
            tier.name
        ),
        None,
    );
    ini.section("databases");
    for entry in &tier.pooler.databases {
        ini.entry(entry);
    }
    if !tier.pooler.users.is_empty() {
        ini.section("users");
        for entry in &tier.pooler.users {
            ini.entry(entry);
        }
    }
    if let Some(Peers { all, .. }) = place.peers {
        peers(&mut ini, all);
    }
    ini.section("pgbouncer");
    let PoolerAddresses { data, http } = place.addresses;
    ini.setting("listen_addr", &data.ip().to_string(), None);
    ini.setting("listen_port", &data.port().to_string(), None);
    ini.setting("http_addr", &http.ip().to_string(), None);
    ini.setting("http_port", &http.port().to_string(), None);
    if let Some(Peers { own, .. }) = place.peers {
        ini.setting("peer_id", &peer_id(own).to_string(), None);
    }
    if let Some(revision) = place.revision {
        ini.setting("config_revision", revision, None);
    }
    let file = |name: &str| place.files.join(name).display().to_string();
    let userlist = "spec.auth.userlistSecretRef";
    ini.setting("auth_file", &file(USERLIST), Some(userlist));
    if tier.pooler.client_tls {
        let origin = Some("spec.tls.client.certSecretRef");
        ini.setting("client_tls_cert_file", &file(TLS_CERTIFICATE), origin);
        ini.setting("client_tls_key_file", &file(TLS_KEY), origin);
    }
    for setting in &tier.pooler.settings {
        ini.setting(&setting.key, &setting.value, Some(&setting.origin));
    }
    ini
}

/// A cancel request may arrive at any pooler; the peers tell it whose it is.
fn peers(ini: &mut Ini, all: &[PoolerAddresses]) {
    ini.section("peers");
    for (index, peer) in all.iter().enumerate() {
        ini.entry(&Entry {
            name: peer_id(index).to_string(),
            settings: vec![
                setting("host", &peer.data.ip(), ""),
                setting("port", &peer.data.port(), ""),
            ],
            origin: "spec.poolers".to_owned(),
        });
    }
}

/// Number of a pooler among its peers; 0 would mean none.
const fn peer_id(index: usize) -> usize {
    index + 1
}

/// A key that holds other than letters, digits and `_.-` is quoted.
fn quoted_key(key: &str) -> Cow<'_, str> {
    let plain = key
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if plain || key == "*" {
        Cow::Borrowed(key)
    } else {
        Cow::Owned(format!("\"{}\"", key.replace('"', "\"\"")))
    }
}

/// A value of a pair that holds spaces or quotes, or nothing, is quoted.
fn quoted_value(value: &str) -> Cow<'_, str> {
    let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'');
    if plain {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(format!("'{}'", value.replace('\'', "''")))
    }
}
