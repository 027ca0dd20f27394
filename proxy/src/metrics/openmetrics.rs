//! The OpenMetrics text format, with exemplars: the registry's figures as they are, and the traces behind some of them.
//!
//! Input: gathered families, and exemplars by route and side. Output: text. Must not: be asked for by a request of traffic. Source: OpenMetrics 1.0,
//! "Text Format": a counter's family is named without `_total`, samples may be followed by `# {labels} value timestamp`, and the last line is `# EOF`.

use super::Exemplar;
use pingora_prometheus::prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::fmt::Write;
use std::time::UNIX_EPOCH;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `exemplars(route, side)`: the last that failed, and the slowest of late.
pub fn text(families: &[MetricFamily], exemplars: impl Fn(&str, &str) -> [Option<Exemplar>; 2]) -> String {
    let mut out = String::with_capacity(64 << 10);
    for family in families {
        let kind = family.get_field_type();
        let name = match kind {
            MetricType::COUNTER => family.name().trim_end_matches("_total"),
            _ => family.name(),
        };
        let word = match kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "unknown",
        };
        let _ = writeln!(out, "# TYPE {name} {word}");
        let _ = write!(out, "# HELP {name} ");
        escape(&mut out, family.help());
        out.push('\n');
        for metric in family.get_metric() {
            let found = || match (label(metric, "route"), label(metric, "side")) {
                (Some(route), Some(side)) => exemplars(route, side),
                _ => [None, None],
            };
            match kind {
                MetricType::COUNTER => {
                    sample(
                        &mut out,
                        &format!("{name}_total"),
                        metric.get_label(),
                        None,
                        metric.get_counter().value(),
                    );
                    let [failed, _] =
                        if family.name() == "banyan_requests_total" { found() } else { [None, None] };
                    let of = |it: &Exemplar| {
                        label(metric, "code") == Some(&*it.code.to_string())
                            && label(metric, "reason") == Some(it.reason)
                    };
                    exemplar(&mut out, failed.filter(of), Some(1.0));
                    out.push('\n');
                }
                MetricType::HISTOGRAM => {
                    let found = if family.name() == "banyan_request_duration_seconds" {
                        found()
                    } else {
                        [None, None]
                    };
                    histogram(&mut out, name, metric, found);
                }
                MetricType::GAUGE => {
                    sample(&mut out, name, metric.get_label(), None, metric.get_gauge().value());
                    out.push('\n');
                }
                // None of ours.
                MetricType::SUMMARY | MetricType::UNTYPED => {}
            }
        }
    }
    out.push_str("# EOF\n");
    out
}

fn histogram(out: &mut String, name: &str, metric: &Metric, exemplars: [Option<Exemplar>; 2]) {
    let histogram = metric.get_histogram();
    let bucket = format!("{name}_bucket");
    let (mut above, mut has_infinity) = (f64::NEG_INFINITY, false);
    let mut line = |out: &mut String, bound: f64, count: u64| {
        sample(out, &bucket, metric.get_label(), Some(bound), count as f64);
        // Of each bucket one: the failure before the slow one.
        let inside = |it: &&Exemplar| it.seconds > above && it.seconds <= bound;
        exemplar(out, exemplars.iter().flatten().find(inside).copied(), None);
        out.push('\n');
        above = bound;
    };
    for it in histogram.get_bucket() {
        has_infinity |= it.upper_bound().is_infinite();
        line(out, it.upper_bound(), it.cumulative_count());
    }
    if !has_infinity {
        line(out, f64::INFINITY, histogram.get_sample_count());
    }
    sample(out, &format!("{name}_sum"), metric.get_label(), None, histogram.get_sample_sum());
    out.push('\n');
    sample(out, &format!("{name}_count"), metric.get_label(), None, histogram.get_sample_count() as f64);
    out.push('\n');
}

/// A line without its end.
fn sample(out: &mut String, name: &str, labels: &[LabelPair], bound: Option<f64>, value: f64) {
    out.push_str(name);
    if !labels.is_empty() || bound.is_some() {
        out.push('{');
        for (number, label) in labels.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            let _ = write!(out, "{comma}{}=\"", label.name());
            escape(out, label.value());
            out.push('"');
        }
        if let Some(bound) = bound {
            let comma = if labels.is_empty() { "" } else { "," };
            let _ = if bound.is_infinite() {
                write!(out, "{comma}le=\"+Inf\"")
            } else {
                write!(out, "{comma}le=\"{bound:?}\"")
            };
        }
        out.push('}');
    }
    let _ = write!(out, " {value:?}");
}

fn exemplar(out: &mut String, exemplar: Option<Exemplar>, value: Option<f64>) {
    let Some(it) = exemplar else { return };
    let at = it.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let id = u128::from_be_bytes(it.trace_id);
    let _ = write!(out, " # {{trace_id=\"{id:032x}\"}} {:?} {at:.3}", value.unwrap_or(it.seconds));
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

fn label<'a>(metric: &'a Metric, name: &str) -> Option<&'a str> {
    metric.get_label().iter().find(|label| label.name() == name).map(LabelPair::value)
}
