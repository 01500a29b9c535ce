//! The text format of Prometheus (version 0.0.4).

use std::fmt::Write;

/// Before every name.
const PREFIX: &str = "anabranch_";

/// Kinds of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page as it is written.
#[derive(Default)]
pub(super) struct Text {
    page: String,
    name: &'static str,
}

impl Text {
    /// Begins the samples of a name.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.line(format_args!("# HELP {PREFIX}{name} {help}"));
        self.line(format_args!("# TYPE {PREFIX}{name} {kind}"));
    }

    /// One value of the name begun last.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.value("", labels, value);
    }

    /// A histogram: bounds with the number up to each, the number of all, their sum.
    pub fn histogram(&mut self, (buckets, count, sum): (Vec<(f64, u64)>, u64, f64)) {
        for (bound, number) in buckets {
            self.value("_bucket", &[("le", &bound.to_string())], number as f64);
        }
        self.value("_bucket", &[("le", "+Inf")], count as f64);
        self.value("_sum", &[], sum);
        self.value("_count", &[], count as f64);
    }

    /// The page.
    pub fn finish(self) -> String {
        self.page
    }

    fn value(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let name = self.name;
        self.line(format_args!("{PREFIX}{name}{suffix}{labels} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        // Writing to a string does not fail.
        let _ = writeln!(self.page, "{line}");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let mut text = Text::default();
        text.family("computes", Kind::Gauge, "Computes.");
        text.sample(&[("state", "a\"b\\c\nd")], 2.0);
        text.sample(&[], 0.5);
        text.family("wake_seconds", Kind::Histogram, "Wakes.");
        text.histogram((vec![(0.1, 1), (2.5, 3)], 4, 9.25));
        assert_eq!(
            text.finish(),
            "# HELP anabranch_computes Computes.\n\
             # TYPE anabranch_computes gauge\n\
             anabranch_computes{state=\"a\\\"b\\\\c\\nd\"} 2\n\
             anabranch_computes 0.5\n\
             # HELP anabranch_wake_seconds Wakes.\n\
             # TYPE anabranch_wake_seconds histogram\n\
             anabranch_wake_seconds_bucket{le=\"0.1\"} 1\n\
             anabranch_wake_seconds_bucket{le=\"2.5\"} 3\n\
             anabranch_wake_seconds_bucket{le=\"+Inf\"} 4\n\
             anabranch_wake_seconds_sum 9.25\n\
             anabranch_wake_seconds_count 4\n"
        );
    }
}
