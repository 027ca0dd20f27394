//! What others are told of requests: access log, embedded metrics, spans.
//!
//! Input: `logs:` and `tracing:` of the settings. Output: where each goes, how much of it, how often. Must not: open anything.

use banyan_routes::ids::SharePpm;
use banyan_routes::units::{Percent, Span};
use http::Uri;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of the traces that Banyan begins itself, where there is a collector and nothing else is said.
const TRACES: SharePpm = SharePpm::ONE_PERCENT;
/// How often a route's figures are written for CloudWatch, which keeps them by the minute.
const EMF_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLogs {
    access: Option<String>,
    sample: Option<Percent>,
    emf: Option<RawEmf>,
}

/// `off`, `stdout`, a file, or all that can be said of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RawEmf {
    Switch(bool),
    To(String),
    Whole(RawEmfWhole),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEmfWhole {
    to: String,
    every: Option<Span>,
    namespace: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTracing {
    otlp: Option<String>,
    sample: Option<Percent>,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Off,
    Stdout,
    File(PathBuf),
}

/// Embedded metrics, one object for each route and period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emf {
    pub to: LogTarget,
    pub every: Duration,
    pub namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observe {
    pub access: LogTarget,
    /// The part of successful requests that is logged; failures always are.
    pub sample: SharePpm,
    pub emf: Option<Emf>,
    /// The collector's `/v1/traces`.
    pub otlp: Option<Uri>,
    /// The part of the traces that begin here that is sampled.
    pub traces: SharePpm,
}

pub(super) fn lower(
    logs: RawLogs,
    tracing: RawTracing,
    resolve: &impl Fn(PathBuf) -> PathBuf,
) -> Result<Observe, String> {
    let target = |text: &str| match text {
        "stdout" => LogTarget::Stdout,
        "off" => LogTarget::Off,
        path => LogTarget::File(resolve(PathBuf::from(path))),
    };
    let emf = match logs.emf {
        None | Some(RawEmf::Switch(false)) => None,
        Some(RawEmf::Switch(true)) => Some(emf("stdout", None, None, &target)?),
        Some(RawEmf::To(to)) => Some(emf(&to, None, None, &target)?),
        Some(RawEmf::Whole(it)) => Some(emf(&it.to, it.every, it.namespace, &target)?),
    };
    let emf = emf.filter(|emf| emf.to != LogTarget::Off);
    let access = logs.access.as_deref().map_or(LogTarget::Stdout, target);
    if let (LogTarget::File(one), Some(LogTarget::File(other))) = (&access, emf.as_ref().map(|emf| &emf.to))
        && one == other
    {
        return Err(format!("logs.emf: {} is the access log; expected a file of its own", one.display()));
    }
    let otlp = tracing.otlp.as_deref().map(collector).transpose()?;
    let traces = match (tracing.sample, &otlp) {
        (Some(share), _) => share.0,
        (None, Some(_)) => TRACES,
        (None, None) => SharePpm::ZERO,
    };
    Ok(Observe { access, sample: logs.sample.map_or(SharePpm::ALL, |it| it.0), emf, otlp, traces })
}

fn emf(
    to: &str,
    every: Option<Span>,
    namespace: Option<String>,
    target: &impl Fn(&str) -> LogTarget,
) -> Result<Emf, String> {
    let every = every.map_or(EMF_EVERY, |span| span.0);
    if every < Duration::from_secs(1) {
        return Err("logs.emf.every: expected 1s or more".into());
    }
    let namespace = namespace.unwrap_or_else(|| "Banyan".into());
    let fits = !namespace.is_empty()
        && namespace.len() <= 255
        && namespace.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_/#:".contains(&byte));
    if !fits {
        return Err(format!(
            "logs.emf.namespace: `{namespace}` is none of CloudWatch's; expected letters, digits and .-_/#:"
        ));
    }
    Ok(Emf { to: target(to), every, namespace })
}

/// A collector's base URL, to which `/v1/traces` is added, or the whole URL where it names a path.
fn collector(text: &str) -> Result<Uri, String> {
    let wrong =
        |why: &str| format!("tracing.otlp: `{text}` {why}; expected for example http://127.0.0.1:4318");
    let uri: Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(wrong("is not an http or https URL"));
    }
    if Path::new(uri.path()) != Path::new("/") {
        return Ok(uri);
    }
    let whole = format!("{}/v1/traces", text.trim_end_matches('/'));
    whole.parse().map_err(|_| wrong("is not a URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(logs: &str, tracing: &str) -> Result<Observe, String> {
        let logs = serde_yaml::from_str(logs).map_err(|error| error.to_string())?;
        let tracing = serde_yaml::from_str(tracing).map_err(|error| error.to_string())?;
        lower(logs, tracing, &|path| Path::new("/etc/banyan").join(path))
    }

    #[test]
    fn everything_has_a_default_and_a_switch() {
        let observe = read("{}", "{}").expect("nothing is needed");
        assert_eq!((observe.access, observe.emf, observe.otlp), (LogTarget::Stdout, None, None));
        assert_eq!((observe.sample, observe.traces), (SharePpm::ALL, SharePpm::ZERO));
        assert_eq!(read("{emf: off}", "{otlp: null}").expect("off").emf, None);
        let emf = read("{access: off, emf: emf.log}", "{}").expect("a file").emf.expect("on");
        assert_eq!((emf.to, emf.every), (LogTarget::File("/etc/banyan/emf.log".into()), EMF_EVERY));
        let emf = read("{emf: {to: stdout, every: 2s, namespace: Bank/Edge}}", "{}").expect("all").emf;
        assert_eq!(emf.expect("on").namespace, "Bank/Edge");
    }

    #[test]
    fn a_collector_is_a_base_or_a_whole_url() {
        let url = |text: &str| read("{}", text).map(|it| it.otlp.expect("one").to_string());
        assert_eq!(url("{otlp: 'http://c:4318'}").as_deref(), Ok("http://c:4318/v1/traces"));
        assert_eq!(url("{otlp: 'https://c/'}").as_deref(), Ok("https://c/v1/traces"));
        assert_eq!(url("{otlp: 'https://c/x/y'}").as_deref(), Ok("https://c/x/y"));
        assert_eq!(read("{}", "{otlp: 'http://c'}").map(|it| it.traces), Ok(TRACES));
        assert_eq!(read("{}", "{otlp: 'http://c', sample: 50%}").map(|it| it.traces.get()), Ok(500_000));
        for odd in [
            "{otlp: c:4317}",
            "{otlp: 'grpc://c:4317'}",
            "{otlp: ''}",
            "{otlp: /v1/traces}",
            "{oltp: 'http://c'}",
        ] {
            assert!(read("{}", odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        for odd in [
            "{emf: {to: x, every: 10ms}}",
            "{emf: {to: x, namespace: 'a b'}}",
            "{access: x, emf: x}",
            "{emf: {every: 1m}}",
        ] {
            assert!(read(odd, "{}").is_err(), "{odd}");
        }
    }
}
