//! What a client asks for in its start-up packet.

use super::{Interner, Parameters};
use crate::wire::StartupParameters;

/// A start-up parameter that can be neither followed nor ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported startup parameter: {0}")]
pub struct UnsupportedParameter(String);

impl UnsupportedParameter {
    /// How to be let in with it.
    #[must_use]
    pub fn hint(&self) -> String {
        let name = self.0.strip_prefix("options=").unwrap_or(&self.0);
        format!(
            "Add it to ignore_startup_parameters to drop it: ignore_startup_parameters = {name}."
        )
    }
}

/// The values of tracked parameters in a start-up packet, those inside `options`
/// too. The names in `ignored` (`ignore_startup_parameters`), in any case, are
/// dropped.
///
/// # Errors
/// The first parameter that is neither tracked nor ignored.
pub fn wanted(
    interner: &Interner,
    packet: &StartupParameters,
    ignored: &[String],
) -> Result<Parameters, UnsupportedParameter> {
    let is_ignored = |name: &str| ignored.iter().any(|known| known.eq_ignore_ascii_case(name));
    let unsupported = |name: &str| UnsupportedParameter(name.to_owned());
    let mut wanted = interner.empty();
    for (name, value) in packet.pairs() {
        if matches!(name, "user" | "database" | "replication") || name.starts_with("_pq_.") {
            continue;
        }
        if let Some(index) = interner.tracked().index(name.as_bytes()) {
            wanted = interner.with(&wanted, index, value);
        } else if name == "options" && !is_ignored("options") {
            for (name, value) in startup_options(value).ok_or_else(|| unsupported("options"))? {
                match interner.tracked().index(name.as_bytes()) {
                    Some(index) => wanted = interner.with(&wanted, index, &value),
                    None if is_ignored(&name) => {}
                    None => return Err(unsupported(&format!("options={name}"))),
                }
            }
        } else if !is_ignored(name) {
            return Err(unsupported(name));
        }
    }
    Ok(wanted)
}

/// `-c name=value` and `--name=value` of the start-up parameter `options`;
/// `None` if there is anything else in it.
fn startup_options(text: &str) -> Option<Vec<(String, String)>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars();
    // A backslash keeps the next character, a blank above all.
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.push(chars.next()?),
            c if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    let mut pairs = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let pair = if word == "-c" {
            words.next()?
        } else {
            let pair = word
                .strip_prefix("--")
                .or_else(|| word.strip_prefix("-c"))?;
            pair.to_owned()
        };
        let (name, value) = pair.split_once('=')?;
        pairs.push((name.replace('-', "_"), value.to_owned()));
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parameters::Tracked,
        wire::{self, FirstPacket, first_packet},
    };

    /// What `pairs` ask for, as SET would say it.
    fn asked(pairs: &[(&str, &str)]) -> Result<String, UnsupportedParameter> {
        let Ok(Some((FirstPacket::Startup(packet), _))) = first_packet(&wire::startup(pairs))
        else {
            panic!("no start-up packet");
        };
        let interner = Interner::new(Tracked::new([]));
        let wanted = wanted(&interner, &packet, &["Extra_Float_Digits".to_owned()])?;
        let set = interner.set_statements(&wanted, &interner.empty());
        Ok(set.unwrap_or_default())
    }

    #[test]
    fn what_is_tracked_is_taken_and_what_is_ignored_dropped() {
        let pairs = [
            ("user", "ann"),
            ("timezone", "UTC"),
            ("extra_float_digits", "3"),
            ("_pq_.new", "x"),
            ("options", "-c datestyle=ISO -c extra_float_digits=3"),
        ];
        let set = asked(&pairs).unwrap();
        assert!(
            set.contains("TimeZone='UTC'") && set.contains("DateStyle='ISO'"),
            "{set}"
        );
        assert!(!set.contains("digits"), "{set}");
    }

    #[test]
    fn what_is_neither_is_named_with_what_to_do() {
        for (pair, name, setting) in [
            (("work_mem", "1"), "work_mem", "= work_mem."),
            (
                ("options", "-c work_mem=1"),
                "options=work_mem",
                "= work_mem.",
            ),
            (("options", "-B 3"), "options", "= options."),
        ] {
            let error = asked(&[("user", "ann"), pair]).unwrap_err();
            let text = format!("unsupported startup parameter: {name}");
            assert_eq!(error.to_string(), text);
            assert!(error.hint().ends_with(setting), "{}", error.hint());
        }
    }

    #[test]
    fn options_are_read_as_postgresql_reads_them() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            startup_options("-c TimeZone=UTC  --DateStyle=ISO\\ x"),
            Some(vec![pair("TimeZone", "UTC"), pair("DateStyle", "ISO x")])
        );
        assert_eq!(startup_options("-B 3"), None);
        assert_eq!(startup_options("-c"), None);
        assert_eq!(startup_options(""), Some(vec![]));
    }
}
