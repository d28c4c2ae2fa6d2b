//! Every series of both proxies: name, type, unit, labels, meaning. Nowhere
//! else is a metric named; docs/metrics.md is generated from these tables.
//!
//! Names end in their unit, units are base units (seconds, bytes), and counters
//! end in `_total`, as Prometheus asks:
//! <https://prometheus.io/docs/practices/naming/>.

/// Declares each series and the list of them all in one place, so that none is
/// forgotten on the page.
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

pub mod balancer;
mod page;
pub mod pooler;

pub use page::Page;

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
    /// Name, unique among both proxies.
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

/// The reference page: both tables as Markdown.
#[must_use]
pub fn markdown() -> String {
    use std::fmt::Write;

    let mut out = String::from(
        "# Metrics\n\n<!-- Generated from proxy/src/metrics.rs by `cargo xtask generate`; do not edit. -->\n",
    );
    for (title, introduction, series) in [
        (
            "Pooler",
            "Served on `http_port` (9127) at `/metrics`.",
            pooler::ALL,
        ),
        (
            "Balancer",
            "Served on `http.bind` (8404) at `/metrics`.",
            balancer::ALL,
        ),
    ] {
        let write_to_string = "writing to a String succeeds";
        write!(
            out,
            "\n## {title}\n\n{introduction}\n\n| Name | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|\n"
        )
        .expect(write_to_string);
        for one in series {
            let labels: Vec<String> = one.labels.iter().map(|name| format!("`{name}`")).collect();
            writeln!(
                out,
                "| `{}` | {} | {} | {} | {} |",
                one.name,
                one.kind.text(),
                one.unit.text(),
                labels.join(", "),
                one.help
            )
            .expect(write_to_string);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let mut seen = HashSet::new();
        for (prefix, table) in [
            ("poolkeeper_pooler_", pooler::ALL),
            ("poolkeeper_balancer_", balancer::ALL),
        ] {
            for series in table {
                let name = series.name;
                assert!(name.starts_with(prefix), "{name}");
                assert!(seen.insert(name), "{name} is there twice");
                assert_eq!(
                    series.kind == Kind::Counter,
                    name.ends_with("_total"),
                    "{name}"
                );
                let bare = name.strip_suffix("_total").unwrap_or(name);
                assert_eq!(
                    series.unit == Unit::Seconds,
                    bare.ends_with("_seconds"),
                    "{name}"
                );
                assert_eq!(
                    series.unit == Unit::Bytes,
                    bare.ends_with("_bytes"),
                    "{name}"
                );
                assert!(series.help.ends_with('.'), "{name}: help is a sentence");
                assert!(
                    !series.help.contains(['\n', '|', '\\']),
                    "{name}: plain text"
                );
            }
        }
    }

    #[test]
    fn reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        if std::env::var_os("POOLKEEPER_UPDATE").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/metrics.md is not what proxy/src/metrics.rs says: run `cargo xtask generate`"
        );
    }
}
