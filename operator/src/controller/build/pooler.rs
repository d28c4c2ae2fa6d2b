//! A pooler's pgbouncer.ini.

use std::borrow::Cow;

use proxy_core::config::settings::SETTINGS;

use super::{Entry, Peers, PoolerAddresses, PoolerPlace, Tier, setting};

/// An ini file that knows where each line is from.
#[derive(Clone, Debug, Default)]
pub struct Ini {
    /// The file.
    pub text: String,
    /// By line.
    lines: Vec<Line>,
}

/// Where a line is from.
#[derive(Clone, Debug, Default)]
struct Line {
    /// The field of the manifest that says so.
    origin: Option<String>,
    /// Keys and values on it.
    settings: Vec<(String, String)>,
}

/// Which settings of section `[pgbouncer]` a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// All.
    Whole,
    /// Those that a reload applies, and databases, users and peers; the others
    /// are included from this file.
    Reloadable(&'a str),
    /// Those that only a restart applies.
    RestartOnly,
}

impl Part<'_> {
    fn holds(self, key: &str) -> bool {
        let changeable = SETTINGS
            .iter()
            .find(|setting| setting.name == key)
            .is_none_or(|setting| setting.changeable);
        match self {
            Self::Whole => true,
            Self::Reloadable(_) => changeable,
            Self::RestartOnly => !changeable,
        }
    }
}

impl Ini {
    /// The field of the manifest that line `line`, counted from 1, is from.
    #[must_use]
    pub fn origin(&self, line: u32) -> Option<&str> {
        self.at(line)?.origin.as_deref()
    }

    /// The keys and values on line `line`, counted from 1.
    #[must_use]
    pub fn settings(&self, line: u32) -> &[(String, String)] {
        self.at(line).map_or(&[], |line| &line.settings)
    }

    fn at(&self, line: u32) -> Option<&Line> {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        self.lines.get(index)
    }

    fn line(&mut self, text: &str, line: Line) {
        self.text.push_str(text);
        self.text.push('\n');
        self.lines.push(line);
    }

    fn plain(&mut self, text: &str) {
        self.line(text, Line::default());
    }

    fn section(&mut self, name: &str) {
        self.plain("");
        self.plain(&format!("[{name}]"));
    }

    fn entry(&mut self, entry: &Entry) {
        let pairs: Vec<String> = entry
            .settings
            .iter()
            .map(|setting| format!("{}={}", setting.key, quoted_value(&setting.value)))
            .collect();
        let text = format!("{} = {}", quoted_key(&entry.name), pairs.join(" "));
        let settings = entry.settings.iter();
        let line = Line {
            origin: Some(entry.origin.clone()),
            settings: settings
                .map(|setting| (setting.key.clone(), setting.value.clone()))
                .collect(),
        };
        self.line(&text, line);
    }

    fn setting(&mut self, part: Part<'_>, key: &str, value: &str, origin: Option<&str>) {
        if !part.holds(key) {
            return;
        }
        let line = Line {
            origin: origin.map(str::to_owned),
            settings: vec![(key.to_owned(), value.to_owned())],
        };
        self.line(format!("{key} = {value}").trim_end(), line);
    }
}

/// The file of one pooler.
#[must_use]
pub fn pooler_ini(tier: &Tier, place: &PoolerPlace<'_>) -> Ini {
    pooler_part(tier, place, Part::Whole)
}

/// A part of the file of one pooler.
#[must_use]
pub fn pooler_part(tier: &Tier, place: &PoolerPlace<'_>, part: Part<'_>) -> Ini {
    let mut ini = Ini::default();
    ini.plain(&format!(
        "; Written by the operator from PgPoolCluster {}. What is changed here is lost.",
        tier.name
    ));
    if part != Part::RestartOnly {
        entries(&mut ini, tier, place);
    }
    ini.section("pgbouncer");
    if let Part::Reloadable(file) = part {
        ini.plain(&format!("%include {file}"));
    }
    let PoolerPlace { data, http, .. } = place;
    ini.setting(part, "listen_addr", &data.address.to_string(), None);
    ini.setting(part, "listen_port", &data.port.to_string(), None);
    ini.setting(part, "http_addr", &http.address.to_string(), None);
    ini.setting(part, "http_port", &http.port.to_string(), None);
    match place.peers {
        Peers::Listed { own, .. } => {
            ini.setting(part, "peer_id", &peer_id(own).to_string(), None);
        }
        Peers::Found { dns, port } => {
            ini.setting(part, "peer_discovery", &format!("{dns}:{port}"), None);
        }
    }
    if place.reload_on_change {
        ini.setting(part, "reload_on_change", "1", None);
    }
    if let Some(file) = place.shared_key_file {
        ini.setting(part, "shared_key_file", &file.display().to_string(), None);
        ini.setting(part, "proxy_protocol", "mac", None);
    }
    if let Some(revision) = place.revision {
        ini.setting(part, "config_revision", revision, None);
    }
    for file in &tier.pooler.files {
        let (key, origin) = file.setting;
        let path = place.files.join(file.name).display().to_string();
        ini.setting(part, key, &path, Some(origin));
    }
    for setting in &tier.pooler.settings {
        // A default that is written down must not roll Pods.
        let is_default = part == Part::RestartOnly
            && !tier.pooler.restart_only.contains_key(setting.key.as_str());
        if !is_default {
            ini.setting(part, &setting.key, &setting.value, Some(&setting.origin));
        }
    }
    ini
}

/// Databases, users, peers.
fn entries(ini: &mut Ini, tier: &Tier, place: &PoolerPlace<'_>) {
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
    if let Peers::Listed { all, .. } = place.peers {
        peers(ini, all);
    }
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
