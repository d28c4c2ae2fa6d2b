//! The text format of Prometheus:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4.

use std::fmt::Write;

use super::{Kind, Series};

/// A page of samples, filled in any order and written in the order of its table.
///
/// ```
/// web::series! {
///     CONNECTIONS = "x_connections", Gauge, None, ["target"], "Connections now.";
/// }
/// let mut page = web::metrics::Page::new(ALL);
/// page.sample(&CONNECTIONS, &["pooler-0"], 3.0);
/// assert!(page.finish().ends_with("\nx_connections{target=\"pooler-0\"} 3\n"));
/// ```
#[derive(Debug)]
pub struct Page {
    table: &'static [&'static Series],
    /// Lines of each series of the table.
    lines: Vec<String>,
}

impl Page {
    /// An empty page over `table`.
    #[must_use]
    pub fn new(table: &'static [&'static Series]) -> Self {
        Self {
            table,
            lines: vec![String::new(); table.len()],
        }
    }

    /// Adds a sample; `labels` are the values in the order of [`Series::labels`].
    ///
    /// # Panics
    /// `series` is not in the page's table, is a histogram, or has another
    /// number of labels: bugs of ours.
    pub fn sample(&mut self, series: &'static Series, labels: &[&str], value: f64) {
        assert!(
            series.kind != Kind::Histogram,
            "{}: not a histogram",
            series.name
        );
        let lines = self.lines(series);
        push(lines, series.name, "", series.labels, labels, None, value);
    }

    /// Adds a histogram. `buckets` are (upper bound, observations in this
    /// bucket alone), bounds growing; observations above the last bound are
    /// `above`; `sum` is the sum of all observed values.
    ///
    /// # Panics
    /// As [`Page::sample`], for a series that is no histogram.
    pub fn histogram(
        &mut self,
        series: &'static Series,
        labels: &[&str],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        above: u64,
        sum: f64,
    ) {
        assert!(
            series.kind == Kind::Histogram,
            "{}: a histogram",
            series.name
        );
        let lines = self.lines(series);
        let mut count = 0;
        for (bound, observations) in buckets {
            count += observations;
            let bound = bound.to_string();
            push(
                lines,
                series.name,
                "_bucket",
                series.labels,
                labels,
                Some(&bound),
                count as f64,
            );
        }
        count += above;
        push(
            lines,
            series.name,
            "_bucket",
            series.labels,
            labels,
            Some("+Inf"),
            count as f64,
        );
        push(lines, series.name, "_sum", series.labels, labels, None, sum);
        push(
            lines,
            series.name,
            "_count",
            series.labels,
            labels,
            None,
            count as f64,
        );
    }

    /// The page. Series without samples are left out.
    #[must_use]
    pub fn finish(self) -> String {
        let mut out = String::with_capacity(self.lines.iter().map(|lines| lines.len() + 200).sum());
        for (series, lines) in self.table.iter().zip(&self.lines) {
            if !lines.is_empty() {
                let Series {
                    name, kind, help, ..
                } = series;
                let kind = kind.text();
                out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
                out.push_str(lines);
            }
        }
        out
    }

    fn lines(&mut self, series: &'static Series) -> &mut String {
        let index = self
            .table
            .iter()
            .position(|one| one.name == series.name)
            .unwrap_or_else(|| panic!("{} is not in this page's table", series.name));
        &mut self.lines[index]
    }
}

fn push(
    out: &mut String,
    name: &str,
    suffix: &str,
    names: &[&str],
    values: &[&str],
    bound: Option<&str>,
    value: f64,
) {
    assert_eq!(names.len(), values.len(), "{name}: label values");
    out.push_str(name);
    out.push_str(suffix);
    let labels = names.iter().copied().zip(values.iter().copied());
    for (index, (label, text)) in labels.chain(bound.map(|bound| ("le", bound))).enumerate() {
        out.push_str(if index == 0 { "{" } else { "," });
        out.push_str(label);
        out.push_str("=\"");
        for character in text.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    if !names.is_empty() || bound.is_some() {
        out.push('}');
    }
    writeln!(out, " {value}").expect("writing to a String succeeds");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Unit;

    static REQUESTS: Series = Series {
        name: "x_requests_total",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["who", "what"],
        help: "Requests.",
    };
    static TIME: Series = Series {
        name: "x_time_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &[],
        help: "Time.",
    };
    static TABLE: [&Series; 2] = [&REQUESTS, &TIME];

    #[test]
    fn page_is_grouped_and_escaped() {
        let mut page = Page::new(&TABLE);
        page.histogram(&TIME, &[], [(0.5, 2), (1.0, 1)], 1, 4.25);
        page.sample(&REQUESTS, &["a\"b\\c\nd", "x"], 12.0);
        page.sample(&REQUESTS, &["e", "y"], 0.0);
        assert_eq!(
            page.finish(),
            "# HELP x_requests_total Requests.\n\
             # TYPE x_requests_total counter\n\
             x_requests_total{who=\"a\\\"b\\\\c\\nd\",what=\"x\"} 12\n\
             x_requests_total{who=\"e\",what=\"y\"} 0\n\
             # HELP x_time_seconds Time.\n\
             # TYPE x_time_seconds histogram\n\
             x_time_seconds_bucket{le=\"0.5\"} 2\n\
             x_time_seconds_bucket{le=\"1\"} 3\n\
             x_time_seconds_bucket{le=\"+Inf\"} 4\n\
             x_time_seconds_sum 4.25\n\
             x_time_seconds_count 4\n"
        );
    }

    #[test]
    #[should_panic(expected = "is not in this page's table")]
    fn a_stranger_is_refused() {
        Page::new(&TABLE[..1]).histogram(&TIME, &[], [], 0, 0.0);
    }
}
