//! The types a setting can have: text to value and back.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::config::Secret;

/// How a type is told to people.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// What is accepted: `a whole number`.
    pub(super) expected: &'static str,
    /// Whether a value may hold a secret and must not be repeated.
    pub(super) sensitive: bool,
}

impl Kind {
    pub(super) const fn of(expected: &'static str) -> Self {
        Self {
            expected,
            sensitive: false,
        }
    }
}

/// A type of setting.
pub(super) trait Value: Sized + PartialEq {
    const KIND: Kind;

    /// Reads the text of the file, spaces around it already taken away.
    ///
    /// The error says more than "invalid" where there is more to say.
    fn parse(text: &str) -> Result<Self, Option<String>>;

    /// The value of a key that is not written and has no default.
    fn unset() -> Self;

    /// The value as SHOW CONFIG prints it.
    fn format(&self) -> String;

    /// The number that the range limits, in the key's own unit.
    fn measure(&self) -> Option<f64> {
        None
    }
}

impl Value for String {
    const KIND: Kind = Kind::of("text");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Ok(text.to_owned())
    }

    fn unset() -> Self {
        Self::new()
    }

    fn format(&self) -> String {
        self.clone()
    }
}

/// An empty text is unset too, as in PgBouncer.
impl Value for Option<String> {
    const KIND: Kind = String::KIND;

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn unset() -> Self {
        None
    }

    fn format(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

/// Separated by commas; spaces around an item do not count.
impl Value for Vec<String> {
    const KIND: Kind = Kind::of("a list separated by commas");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Ok(text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect())
    }

    fn unset() -> Self {
        Self::new()
    }

    fn format(&self) -> String {
        self.join(", ")
    }
}

/// Where to listen. Names are not looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `*`: everywhere, by IPv4 and, where the host has it, IPv6.
    All,
    /// One address; `localhost` is 127.0.0.1.
    One(IpAddr),
}

impl Value for ListenAddress {
    const KIND: Kind = Kind::of("an IP address, or * for all");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text {
            "*" => Ok(Self::All),
            "localhost" => Ok(Self::One(Ipv4Addr::LOCALHOST.into())),
            _ => text
                .parse()
                .map(Self::One)
                .map_err(|_| Some("names are not looked up".to_owned())),
        }
    }

    fn unset() -> Self {
        Self::One(Ipv4Addr::LOCALHOST.into())
    }

    fn format(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::One(ip) => ip.fmt(f),
        }
    }
}

impl Value for Vec<ListenAddress> {
    const KIND: Kind = Kind::of("IP addresses separated by commas, * for all");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let items = Vec::<String>::parse(text)?;
        items
            .iter()
            .map(|item| ListenAddress::parse(item))
            .collect()
    }

    fn unset() -> Self {
        Self::new()
    }

    fn format(&self) -> String {
        let items: Vec<String> = self.iter().map(Value::format).collect();
        items.join(", ")
    }
}

/// As C's strtol with base 0: decimal, 0x for hexadecimal, a leading 0 for octal.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    // from_str_radix takes a sign of its own, which would be a second one here.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    i64::from_str_radix(digits, radix)
        .ok()
        .and_then(|number| number.checked_mul(sign))
}

impl Value for bool {
    const KIND: Kind = Kind::of("0 or 1");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        integer(text).map(|number| number != 0).ok_or(None)
    }

    fn unset() -> Self {
        false
    }

    fn format(&self) -> String {
        u8::from(*self).to_string()
    }
}

macro_rules! whole_number {
    ($($type:ty),+) => {$(
        impl Value for $type {
            const KIND: Kind = Kind::of("a whole number");

            fn parse(text: &str) -> Result<Self, Option<String>> {
                integer(text).and_then(|number| number.try_into().ok()).ok_or(None)
            }

            fn unset() -> Self {
                0
            }

            fn format(&self) -> String {
                self.to_string()
            }

            fn measure(&self) -> Option<f64> {
                Some(*self as f64)
            }
        }

        /// Empty or -1 means unset, the latter as in PgBouncer.
        impl Value for Option<$type> {
            const KIND: Kind = <$type>::KIND;

            fn parse(text: &str) -> Result<Self, Option<String>> {
                if text.is_empty() || text == "-1" {
                    return Ok(None);
                }
                <$type>::parse(text).map(Some)
            }

            fn unset() -> Self {
                None
            }

            fn format(&self) -> String {
                self.as_ref().map(Value::format).unwrap_or_default()
            }

            fn measure(&self) -> Option<f64> {
                self.as_ref().and_then(Value::measure)
            }
        }
    )+};
}

whole_number!(u16, u32, u64);

/// A number of seconds, fractions allowed.
impl Value for Duration {
    const KIND: Kind = Kind::of("a number of seconds");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let plain = text.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '+');
        text.parse::<f64>()
            .ok()
            .filter(|_| plain)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            // Microseconds are PgBouncer's resolution, and print without noise.
            .map(|duration| Duration::from_micros(duration.as_micros() as u64))
            .ok_or(None)
    }

    fn unset() -> Self {
        Duration::ZERO
    }

    fn format(&self) -> String {
        self.as_secs_f64().to_string()
    }

    fn measure(&self) -> Option<f64> {
        Some(self.as_secs_f64())
    }
}

/// Empty or -1 means unset, the latter as in PgBouncer.
impl Value for Option<Duration> {
    const KIND: Kind = Duration::KIND;

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if text.is_empty() || text == "-1" {
            return Ok(None);
        }
        Duration::parse(text).map(Some)
    }

    fn unset() -> Self {
        None
    }

    fn format(&self) -> String {
        self.as_ref().map(Value::format).unwrap_or_default()
    }

    fn measure(&self) -> Option<f64> {
        self.as_ref().and_then(Value::measure)
    }
}

/// A time that the file gives in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Milliseconds(pub Duration);

impl Value for Milliseconds {
    const KIND: Kind = Kind::of("a whole number of milliseconds");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        u64::parse(text).map(|ms| Self(Duration::from_millis(ms)))
    }

    fn unset() -> Self {
        Self::default()
    }

    fn format(&self) -> String {
        self.0.as_millis().to_string()
    }

    fn measure(&self) -> Option<f64> {
        Some(self.0.as_millis() as f64)
    }
}

/// Permission bits of a file, 0 to 0777.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Value for FileMode {
    const KIND: Kind = Kind::of("an octal mode with its leading 0, such as 0777");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        integer(text)
            .and_then(|mode| u32::try_from(mode).ok())
            .filter(|mode| *mode <= 0o777)
            .map(Self)
            .ok_or(None)
    }

    fn unset() -> Self {
        Self(0o777)
    }

    fn format(&self) -> String {
        format!("0{:o}", self.0)
    }
}

/// Text that may hold a secret; Debug and SHOW CONFIG say only whether it is set.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive(pub String);

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(..)")
    }
}

const SENSITIVE_TEXT: Kind = Kind {
    expected: "text",
    sensitive: true,
};

impl Value for Option<Sensitive> {
    const KIND: Kind = SENSITIVE_TEXT;

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Ok((!text.is_empty()).then(|| Sensitive(text.to_owned())))
    }

    fn unset() -> Self {
        None
    }

    fn format(&self) -> String {
        self.as_ref().map_or("", |_| "(set)").to_owned()
    }
}

impl Value for Option<Secret> {
    const KIND: Kind = SENSITIVE_TEXT;

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Ok((!text.is_empty()).then(|| Secret::read(text)))
    }

    fn unset() -> Self {
        None
    }

    fn format(&self) -> String {
        self.as_ref().map_or("", |_| "(set)").to_owned()
    }
}
