//! Every setting: its name, type, unit, default, range and meaning, once.
//!
//! A table (macro `settings!`) lists the keys of one section of pgbouncer.ini. From it
//! come the typed struct, the checks, SHOW CONFIG and the reference page
//! docs/settings.md. To honour one more key, change its last word in the table.

mod choice;
mod global;
mod markdown;
mod network;
mod peers;
mod per_entry;
mod release;
mod value;

pub use choice::{AuthType, LoadBalanceHosts, LogFormat, PoolMode, SslMode, TlsProtocols};
pub use global::{Global, SETTINGS};
pub use markdown::markdown;
pub use network::{Network, ProxyProtocol};
pub use peers::{AdvertisedAddress, PeerName};
pub use per_entry::{DATABASE_KEYS, Database, PEER_KEYS, Peer, USER_KEYS, User};
pub use release::Release;
pub use value::{FileMode, ListenAddress, Milliseconds, Sensitive};

use super::nearest;
use value::{Kind, Value};

/// What is said of values that wait for being built.
const NOT_SUPPORTED: &str = "is not supported yet";

/// One key of the configuration.
#[derive(Debug)]
pub struct Setting {
    /// The key as written in the file.
    pub name: &'static str,
    /// What it means, in Markdown.
    pub doc: &'static str,
    /// The default as it would be written; `None` where the key is unset.
    pub default: Option<&'static str>,
    /// Smallest and largest value in the key's own unit, both included.
    pub range: Option<(u64, u64)>,
    /// Whether RELOAD applies a new value; otherwise a restart does.
    pub changeable: bool,
    /// What we do with it.
    pub support: Support,
    /// The first version that knows the key: earlier ones refuse a file with it.
    pub since: Release,
    kind: Kind,
    check: fn(&Setting, &str) -> Result<(), String>,
}

/// What we do with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Every accepted value has its effect.
    Honoured,
    /// Every valid value is accepted and changes nothing, for the reason given.
    NoEffect(&'static str),
    /// Only these values are accepted yet, besides the default.
    Only(&'static [&'static str], &'static str),
    /// Only the default is accepted yet.
    NotSupported(&'static str),
}

impl Setting {
    /// Checks a value as it would be written in the file.
    ///
    /// # Errors
    /// A message that names the key, the value and what would be right.
    pub fn check(&self, value: &str) -> Result<(), String> {
        (self.check)(self, value)
    }

    /// Whether a value is more than is built yet: of the right form, and
    /// refused all the same.
    #[must_use]
    pub fn waits_for_support(&self, value: &str) -> bool {
        let waits = match self.support {
            Support::Honoured | Support::NoEffect(_) => false,
            Support::Only(..) | Support::NotSupported(_) => true,
        };
        // What is built accepts it, or its form is what is wrong.
        waits
            && self
                .check(value)
                .is_err_and(|message| message.contains(NOT_SUPPORTED))
    }

    fn read<T: Value>(&self, text: &str) -> Result<T, String> {
        let value = T::parse(text).map_err(|detail| self.refuse(text, detail.as_deref()))?;
        if let (Some((low, high)), Some(measure)) = (self.range, value.measure())
            && !(low as f64..=high as f64).contains(&measure)
        {
            return Err(self.refuse(text, None));
        }
        let is_default = match self.default {
            Some(default) => T::parse(default).is_ok_and(|default| default == value),
            None => value == T::unset(),
        };
        if is_default {
            return Ok(value);
        }
        match self.support {
            Support::Honoured | Support::NoEffect(_) => Ok(value),
            Support::Only(values, _)
                if values
                    .iter()
                    .any(|accepted| accepted.eq_ignore_ascii_case(text)) =>
            {
                Ok(value)
            }
            Support::Only(values, reason) => Err(format!(
                "{} {NOT_SUPPORTED}: {reason}; accepted are {}",
                self.shown(text),
                values.join(", ")
            )),
            Support::NotSupported(reason) => Err(format!(
                "{} {NOT_SUPPORTED}: {reason}; accepted is {}",
                self.shown(text),
                match self.default {
                    Some("") | None => "only to leave it unset".to_owned(),
                    Some(default) => format!("only the default, {default}"),
                }
            )),
        }
    }

    fn refuse(&self, text: &str, detail: Option<&str>) -> String {
        let expected = self.expected();
        match detail {
            Some(detail) => format!(
                "{} is invalid ({detail}), expected {expected}",
                self.shown(text)
            ),
            None => format!("{} is invalid, expected {expected}", self.shown(text)),
        }
    }

    /// `key = value`, without the value where it may hold a secret.
    fn shown(&self, text: &str) -> String {
        if self.kind.sensitive {
            format!("{} (value not shown)", self.name)
        } else if text.is_empty() {
            format!("empty {}", self.name)
        } else {
            format!("{} = {}", self.name, super::excerpt(text))
        }
    }

    /// What is accepted, in words: `a whole number from 1 to 64`.
    #[must_use]
    pub fn expected(&self) -> String {
        let kind = self.kind.expected;
        match self.range {
            Some((low, high)) => format!("{kind} from {low} to {high}"),
            None => kind.to_owned(),
        }
    }
}

/// A line of SHOW CONFIG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRow {
    /// The key.
    pub key: &'static str,
    /// The value in force, empty where unset. Never a secret.
    pub value: String,
    /// The default as it would be written; `None` where the key is unset.
    pub default: Option<&'static str>,
    /// Whether RELOAD applies a new value.
    pub changeable: bool,
}

/// Makes the struct, the table and what lies between from one list of keys.
///
/// Each line: doc comment, `name: Type = default, [smallest, largest], when, support;`
/// where default is a literal or `unset`, the range may be empty, and when is
/// `reload` or `restart`. Of a key that came after the first release, `since (0, 2)`
/// is behind support.
macro_rules! settings {
    (
        $(#[$struct_doc:meta])* $struct:ident
        $(#[$table_doc:meta])* $table:ident
        $(
            $(#[doc = $doc:literal])+
            $name:ident : $type:ty = $default:tt, [$($low:literal, $high:literal)?], $when:ident, $support:expr
            $(, since $since:tt)?;
        )+
    ) => {
        $(#[$struct_doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $struct {
            $( $(#[doc = $doc])+ pub $name: $type, )+
        }

        $(#[$table_doc])*
        pub static $table: &[Setting] = &[$(
            Setting {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                default: settings!(@default $default),
                range: settings!(@range $($low, $high)?),
                changeable: settings!(@when $when),
                support: $support,
                since: settings!(@since $($since)?),
                kind: <$type as Value>::KIND,
                check: |setting, text| setting.read::<$type>(text).map(drop),
            },
        )+];

        impl Default for $struct {
            fn default() -> Self {
                Self {$(
                    $name: match settings!(@default $default) {
                        Some(text) => <$type as Value>::parse(text)
                            .expect("a default of the table is a value of its type"),
                        None => <$type as Value>::unset(),
                    },
                )+}
            }
        }

        impl $struct {
            /// Sets one key from its text.
            ///
            /// # Errors
            /// A message that names the key, the value and what would be right.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
                let Some(setting) = $table.iter().find(|setting| setting.name == key) else {
                    let key = crate::config::excerpt(key);
                    return Err(match nearest($table.iter().map(|setting| setting.name), &key) {
                        Some(known) => format!("unknown key {key}, did you mean {known}?"),
                        None => format!("unknown key {key}"),
                    });
                };
                match key {
                    $( stringify!($name) => self.$name = setting.read(value)?, )+
                    _ => unreachable!("the table and this match are made of one list"),
                }
                Ok(())
            }

            /// Key, value, default and whether RELOAD applies it, in table order.
            #[must_use]
            pub fn rows(&self) -> Vec<ConfigRow> {
                let values = [$( self.$name.format() ),+];
                $table
                    .iter()
                    .zip(values)
                    .map(|(setting, value)| ConfigRow {
                        key: setting.name,
                        value,
                        default: setting.default,
                        changeable: setting.changeable,
                    })
                    .collect()
            }

            /// Keys whose values differ.
            #[must_use]
            pub fn changes(&self, newer: &Self) -> Vec<&'static Setting> {
                let same = [$( self.$name == newer.$name ),+];
                $table
                    .iter()
                    .zip(same)
                    .filter_map(|(setting, same)| (!same).then_some(setting))
                    .collect()
            }
        }
    };
    (@default unset) => { None };
    (@default $text:literal) => { Some($text) };
    (@range) => { None };
    (@range $low:literal, $high:literal) => { Some(($low, $high)) };
    (@since) => { crate::config::settings::Release::FIRST };
    (@since ($major:literal, $minor:literal)) => {
        crate::config::settings::Release::new($major, $minor)
    };
    (@when reload) => { true };
    (@when restart) => { false };
}
use settings;

#[cfg(test)]
#[allow(
    unreachable_pub,
    reason = "a table is as public as the others, also in a test"
)]
mod tests {
    use super::{
        ConfigRow, DATABASE_KEYS, Database, Global, PEER_KEYS, Peer, Release, SETTINGS, Setting,
        Support::{self, Honoured},
        USER_KEYS, User, Value, nearest,
    };

    settings! {
        /// A section that has grown.
        Grown

        /// Its keys.
        GROWN_KEYS

        /// One that was always there.
        always: u32 = "1", [0, 9], reload, Honoured;

        /// One that came later.
        later: bool = "0", [], reload, Honoured, since (0, 2);
    }

    #[test]
    fn a_key_says_since_when_it_is_known() {
        let since: Vec<Release> = GROWN_KEYS.iter().map(|key| key.since).collect();
        assert_eq!(since, [Release::FIRST, Release::new(0, 2)]);
        let mut grown = Grown::default();
        assert_eq!(grown.set("later", "1"), Ok(()));
        assert_eq!((grown.always, grown.later), (1, true));
        let rows = (grown.rows().len(), grown.changes(&Grown::default()).len());
        assert_eq!(rows, (2, 1));
        // A key of a version to come would be refused by this one.
        let tables = [SETTINGS, DATABASE_KEYS, USER_KEYS, PEER_KEYS];
        let mut keys = tables.into_iter().flatten();
        assert!(keys.all(|key| key.since <= Release::ours()));
    }

    #[test]
    fn keys_are_in_alphabetical_order() {
        for table in [SETTINGS, DATABASE_KEYS, USER_KEYS, PEER_KEYS] {
            assert!(
                table.is_sorted_by_key(|setting| setting.name),
                "{:?}",
                table.windows(2).find(|pair| pair[0].name > pair[1].name)
            );
        }
    }

    #[test]
    fn defaults_are_values_of_their_own_settings() {
        for setting in SETTINGS
            .iter()
            .chain(DATABASE_KEYS)
            .chain(USER_KEYS)
            .chain(PEER_KEYS)
        {
            let default = setting.default.unwrap_or_default();
            if setting.default.is_some() {
                assert_eq!(setting.check(default), Ok(()));
            }
            assert!(setting.doc.trim().ends_with('.'), "{}", setting.name);
        }
        let _ = (
            Global::default(),
            Database::default(),
            User::default(),
            Peer::default(),
        );
    }

    #[test]
    fn what_show_config_prints_can_be_written_in_the_file() {
        let mut global = Global::default();
        for (key, value) in [
            ("client_tls_protocols", "tlsv1.3"),
            ("unix_socket_mode", "0700"),
            ("server_lifetime", "1234567.25"),
            ("tcp_user_timeout", "100"),
            ("listen_addr", "*, ::1"),
            ("log_format", "JSON"),
        ] {
            global.set(key, value).unwrap();
        }
        let mut copy = Global::default();
        for row in global.rows() {
            copy.set(row.key, &row.value).unwrap();
        }
        assert_eq!(copy, global);
        assert!(copy.rows().iter().any(|row| row.value == "1234567.25"));
    }

    #[test]
    fn values_that_are_not_supported_are_in_the_range_of_their_type() {
        for setting in SETTINGS {
            if let Support::Only(values, _) = setting.support {
                for value in values {
                    assert_eq!(setting.check(value), Ok(()), "{}", setting.name);
                }
            }
        }
    }

    #[test]
    fn an_unset_value_is_accepted_where_only_the_default_is() {
        let mut global = Global::default();
        for key in [
            "auth_user",
            "resolv_conf",
            "auth_ldap_options",
            "max_memory",
        ] {
            assert_eq!(global.set(key, ""), Ok(()), "{key}");
        }
        assert!(global.set("auth_user", "x").is_err());
    }
}
