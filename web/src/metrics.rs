//! The form of series: name, type, unit, labels, meaning. Each program declares
//! its own in one table, from which its [`Page`] and its part of docs/metrics.md
//! are made; nowhere else is a metric named.
//!
//! Names end in their unit, units are base units (seconds, bytes), and counters
//! end in `_total`, as Prometheus asks:
//! <https://prometheus.io/docs/practices/naming/>.

use std::collections::HashSet;

mod page;

pub use page::Page;

/// Declares each series and the list of them all, `ALL`, in one place, so that
/// none is forgotten on the page.
#[macro_export]
macro_rules! series {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: $crate::metrics::Series = $crate::metrics::Series {
                name: $name,
                kind: $crate::metrics::Kind::$kind,
                unit: $crate::metrics::Unit::$unit,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// Every series, in the order of the page.
        pub static ALL: &[&$crate::metrics::Series] = &[$(&$constant),*];
    };
}

/// How a series behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations below bounds.
    Histogram,
}

impl Kind {
    const fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a series counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A bare number.
    None,
    /// Seconds; the name ends in `_seconds` or `_seconds_total`.
    Seconds,
    /// Bytes; the name ends in `_bytes` or `_bytes_total`.
    Bytes,
}

impl Unit {
    const fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

/// One series, as documented and as exposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// Name, unique among all programs.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it counts in.
    pub unit: Unit,
    /// Label names, in the order in which samples give the values.
    pub labels: &'static [&'static str],
    /// One sentence, plain text.
    pub help: &'static str,
}

/// A program's part of the reference page, which [`with_part`] puts there.
#[must_use]
pub fn markdown(title: &str, introduction: &str, table: &[&Series]) -> String {
    let mut out = format!(
        "\n## {title}\n\n{introduction}\n\n| Name | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|\n"
    );
    for one in table {
        let labels: Vec<String> = one.labels.iter().map(|name| format!("`{name}`")).collect();
        out.push_str(&format!(
            "| `{}` | {} | {} | {} | {} |\n",
            one.name,
            one.kind.text(),
            one.unit.text(),
            labels.join(", "),
            one.help
        ));
    }
    out
}

/// The reference page with the part of the same title replaced, or added: each
/// program's own test sees to its part.
#[must_use]
pub fn with_part(page: &str, part: &str) -> String {
    let heading = part.find("\n\n").map_or(part, |end| &part[..=end]);
    let Some(begin) = page.find(heading) else {
        return [page, part].concat();
    };
    let rest = &page[begin + heading.len()..];
    let after = rest.find("\n## ").map_or("", |next| &rest[next..]);
    [&page[..begin], part, after].concat()
}

/// What is wrong with the names and texts of `table`, whose names are to begin
/// with `prefix`; for the test of whoever declares it.
#[must_use]
pub fn faults(prefix: &str, table: &[&Series]) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut faults = Vec::new();
    for series in table {
        let name = series.name;
        let bare = name.strip_suffix("_total").unwrap_or(name);
        let rules = [
            (name.starts_with(prefix), "has another prefix"),
            (seen.insert(name), "is there twice"),
            (
                (series.kind == Kind::Counter) == name.ends_with("_total"),
                "_total is for counters, and for all of them",
            ),
            (
                (series.unit == Unit::Seconds) == bare.ends_with("_seconds"),
                "_seconds is for seconds, and for all of them",
            ),
            (
                (series.unit == Unit::Bytes) == bare.ends_with("_bytes"),
                "_bytes is for bytes, and for all of them",
            ),
            (series.help.ends_with('.'), "help is a sentence"),
            (
                !series.help.contains(['\n', '|', '\\']),
                "help is plain text",
            ),
        ];
        let broken = rules.iter().filter(|(holds, _)| !holds);
        faults.extend(broken.map(|(_, fault)| format!("{name}: {fault}")));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    static GOOD: Series = Series {
        name: "x_time_seconds_total",
        kind: Kind::Counter,
        unit: Unit::Seconds,
        labels: &["who", "what"],
        help: "Time.",
    };
    static BAD: Series = Series {
        name: "y_size_total",
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        labels: &[],
        help: "a|b",
    };

    #[test]
    fn every_broken_rule_is_named() {
        assert_eq!(faults("x_", &[&GOOD]), [""; 0]);
        assert_eq!(faults("x_", &[&GOOD, &GOOD]).len(), 1);
        assert_eq!(faults("x_", &[&BAD]).len(), 5);
    }

    #[test]
    fn reference_is_a_table() {
        let page = markdown("X", "Served.", &[&GOOD]);
        assert!(
            page.starts_with("\n## X\n\nServed.\n\n| Name | Type |"),
            "{page}"
        );
        let row = "\n| `x_time_seconds_total` | counter | seconds | `who`, `what` | Time. |\n";
        assert!(page.ends_with(row), "{page}");
    }

    #[test]
    fn a_part_takes_the_place_of_the_one_before() {
        let [x, y, z] = ["X", "Y", "Z"].map(|title| markdown(title, "Served.", &[&GOOD]));
        let new = markdown("Y", "Served elsewhere.", &[&GOOD]);
        let page = ["# Metrics\n", &x, &y].concat();
        assert_eq!(with_part(&page, &new), ["# Metrics\n", &x, &new].concat());
        let page = with_part(&page, &z);
        assert_eq!(page, ["# Metrics\n", &x, &y, &z].concat());
        assert_eq!(
            with_part(&page, &new),
            ["# Metrics\n", &x, &new, &z].concat()
        );
    }
}
