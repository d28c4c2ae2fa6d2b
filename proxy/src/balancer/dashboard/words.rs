//! Values as people read them, and text as HTML takes it.

use std::{
    fmt::{self, Display, Write},
    time::Duration,
};

/// Text with what HTML would read as markup escaped, in content and in quoted
/// attributes.
pub(super) fn e(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// See [`e`].
#[derive(Clone, Copy)]
pub(super) struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A number in groups of three: `12,345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the largest decimal unit that leaves a whole number before the
/// point: `1.5 MB`.
pub(super) fn bytes(number: u64) -> String {
    let units = [
        ("EB", 18),
        ("PB", 15),
        ("TB", 12),
        ("GB", 9),
        ("MB", 6),
        ("kB", 3),
    ];
    for (unit, exponent) in units {
        let size = 10_u64.pow(exponent);
        if number >= size {
            return format!("{:.1} {unit}", number as f64 / size as f64);
        }
    }
    format!("{number} B")
}

/// A duration in its two largest units: `3d 4h`, `12m 5s`, `7s`.
pub(super) fn span(duration: Duration) -> String {
    let total_s = duration.as_secs();
    let (days, hours) = (total_s / 86_400, total_s / 3_600 % 24);
    let (minutes, seconds) = (total_s / 60 % 60, total_s % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

/// A short duration: `0.4 ms`, `12 ms`, `1.2 s`.
pub(super) fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    match ms {
        ms if ms >= 1e3 => format!("{:.1} s", ms / 1e3),
        ms if ms >= 10.0 => format!("{ms:.0} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(
            e("<b a='1' b=\"2\">&</b>").to_string(),
            "&lt;b a=&#39;1&#39; b=&quot;2&quot;&gt;&amp;&lt;/b&gt;"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn sizes_and_times_have_their_units() {
        for (number, text) in [(999, "999 B"), (1500, "1.5 kB"), (u64::MAX, "18.4 EB")] {
            assert_eq!(bytes(number), text);
        }
        for (seconds, text) in [
            (59, "59s"),
            (61, "1m 1s"),
            (3_660, "1h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        for (micros, text) in [(400, "0.4 ms"), (12_300, "12 ms"), (1_200_000, "1.2 s")] {
            assert_eq!(milliseconds(Duration::from_micros(micros)), text);
        }
    }
}
