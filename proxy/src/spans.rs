//! Spans of sampled requests and their shadows, on their way to a collector.
//!
//! Input: finished requests. Output: OTLP over HTTP, in its JSON encoding, from a task of its own. Must not: wait for the collector: what does not
//! fit into the queue is dropped and counted; or say more than the access log does. Source: opentelemetry-proto 1.x, `trace/v1`, and the OTLP
//! specification, "JSON Protobuf encoding" (ids in hex, 64-bit numbers as text).

use crate::client::dns::Resolver;
use crate::client::exchange::Client;
use crate::client::fetch::fetch;
use crate::metrics::Metrics;
use crate::trace::Trace;
use bytes::Bytes;
use http::{Request, Uri, header};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Spans that may wait: at some 600 bytes each, 1.2 MB; 6 MB at the most, since what clients send is cut.
const QUEUE: usize = 2_048;
/// Sent at once.
const BATCH: usize = 512;
/// How long a batch gathers: less than what the end of the process waits for spans.
const GATHER: Duration = Duration::from_secs(1);
/// For one batch, whatever the collector does.
const DEADLINE: Duration = Duration::from_secs(12);
/// A collector in trouble is not written about more often.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Who has asked whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client us.
    Server,
    /// We a backend: a shadow.
    Client,
}

pub struct Span {
    pub trace: Trace,
    pub kind: Kind,
    /// A span of the same trace that it belongs to without being waited for.
    pub linked: Option<[u8; 8]>,
    /// The client's `tracestate`, of a trace that goes on with it.
    pub state: Option<Box<str>>,
    pub name: Box<str>,
    pub start: SystemTime,
    pub took: Duration,
    pub failed: bool,
    pub attributes: Vec<(&'static str, Attribute)>,
}

pub enum Attribute {
    Text(Box<str>),
    Number(u64),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Attribute {
        Attribute::Text(text.into())
    }
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Attribute {
        Attribute::Number(number)
    }
}

/// The workers' end.
#[derive(Clone)]
pub struct SpanSender {
    queue: Option<Sender<Span>>,
    /// Handed over, and neither sent nor given up yet.
    under_way: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl SpanSender {
    /// With the other end where there is a collector.
    pub fn new(wanted: bool, metrics: Arc<Metrics>) -> (SpanSender, Option<Receiver<Span>>) {
        let (sender, receiver) = channel(QUEUE);
        let under_way = Arc::default();
        match wanted {
            true => (SpanSender { queue: Some(sender), under_way, metrics }, Some(receiver)),
            false => (SpanSender { queue: None, under_way, metrics }, None),
        }
    }

    /// Whether a request's span is kept: when its trace is sampled, and when it failed.
    pub fn wants(&self, trace: &Trace, failed: bool) -> bool {
        self.queue.is_some() && (trace.sampled || failed)
    }

    /// Hands over, or drops and counts.
    pub fn offer(&self, span: Span) {
        let Some(queue) = &self.queue else { return };
        self.under_way.fetch_add(1, Ordering::Relaxed);
        if queue.try_send(span).is_err() {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            self.metrics.spans.spans.with_label_values(&["dropped"]).inc();
        }
    }

    /// Whether any is still on its way: asked at the end of the process.
    pub fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }
}

/// Sends what is offered until the queue is closed.
pub async fn run(
    mut queue: Receiver<Span>,
    collector: Uri,
    client: Arc<Client>,
    resolver: Arc<Resolver>,
    sender: SpanSender,
) {
    let metrics = &sender.metrics;
    let mut batch = Vec::with_capacity(BATCH);
    let mut said: Option<tokio::time::Instant> = None;
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH {
            tokio::time::sleep(GATHER).await;
            let room = BATCH - batch.len();
            if !queue.is_empty() {
                queue.recv_many(&mut batch, room).await;
            }
        }
        let count = batch.len() as u64;
        let body = Bytes::from(document(&batch).to_string());
        batch.clear();
        let sent = tokio::time::timeout(DEADLINE, send(&collector, body, &client, &resolver)).await;
        let error = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some("no answer in time".to_owned()),
        };
        let word = if error.is_none() { "sent" } else { "failed" };
        metrics.spans.spans.with_label_values(&[word]).inc_by(count);
        sender.under_way.fetch_sub(count, Ordering::Relaxed);
        if let Some(error) = error
            && said.is_none_or(|at| at.elapsed() > SAY_EVERY)
        {
            said = Some(tokio::time::Instant::now());
            tracing::warn!(error, spans = count, "the collector does not take spans; they are dropped");
        }
    }
}

async fn send(collector: &Uri, body: Bytes, client: &Client, resolver: &Resolver) -> Result<(), String> {
    let request = Request::post(collector).header(header::CONTENT_TYPE, "application/json").body(body);
    let request = request.map_err(|error| error.to_string())?;
    match fetch(client, resolver, request).await {
        Ok((status, _, _)) if status.is_success() => Ok(()),
        Ok((status, _, _)) => Err(format!("status {status}")),
        Err(error) => Err(error.to_string()),
    }
}

/// An `ExportTraceServiceRequest`.
fn document(spans: &[Span]) -> Value {
    let spans: Vec<Value> = spans.iter().map(one).collect();
    let scope = json!({ "name": "banyan", "version": env!("CARGO_PKG_VERSION") });
    let resource = [
        ("service.name", Attribute::from("banyan")),
        ("service.version", Attribute::from(env!("CARGO_PKG_VERSION"))),
        ("process.pid", Attribute::from(u64::from(std::process::id()))),
    ];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource.iter().map(attribute).collect::<Vec<_>>() },
        "scopeSpans": [{ "scope": scope, "spans": spans }],
    }] })
}

fn one(span: &Span) -> Value {
    let text = |id: u64| format!("{id:016x}");
    let trace_id = format!("{:032x}", u128::from_be_bytes(span.trace.trace_id));
    let start = span.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut value = json!({
        "traceId": trace_id,
        "spanId": text(u64::from_be_bytes(span.trace.span_id)),
        "name": span.name,
        "kind": match span.kind { Kind::Server => 2, Kind::Client => 3 },
        "startTimeUnixNano": start.as_nanos().to_string(),
        "endTimeUnixNano": (start + span.took).as_nanos().to_string(),
        "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
        "status": if span.failed { json!({ "code": 2 }) } else { json!({}) },
    });
    if let Some(parent) = span.trace.parent {
        value["parentSpanId"] = json!(text(u64::from_be_bytes(parent)));
    }
    if let Some(state) = &span.state {
        value["traceState"] = json!(state);
    }
    if let Some(linked) = span.linked {
        value["links"] = json!([{ "traceId": value["traceId"], "spanId": text(u64::from_be_bytes(linked)) }]);
    }
    value
}

fn attribute((key, value): &(&'static str, Attribute)) -> Value {
    let value = match value {
        Attribute::Text(text) => json!({ "stringValue": text }),
        Attribute::Number(number) => json!({ "intValue": number.to_string() }),
    };
    json!({ "key": key, "value": value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use banyan_routes::ids::SharePpm;

    fn span(trace: Trace) -> Span {
        let (start, took) = (UNIX_EPOCH + Duration::from_secs(1), Duration::from_millis(5));
        let attributes = vec![("route", "orders".into()), ("http.response.status_code", 502.into())];
        let (kind, linked, name) = (Kind::Client, trace.parent, "GET orders".into());
        let state = Some("vendor=1".into());
        Span { trace, kind, linked, state, name, start, took, failed: true, attributes }
    }

    #[test]
    fn a_span_is_written_as_the_protocol_says() {
        let live = Trace::begin(None, SharePpm::ALL);
        let value = document(&[span(live.child())]);
        let it = &value["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(it["traceId"], hex(&live.trace_id));
        assert_eq!(it["parentSpanId"], hex(&live.span_id));
        assert_eq!(it["links"][0]["spanId"], hex(&live.span_id));
        assert_ne!(it["spanId"], it["parentSpanId"]);
        assert_eq!(it["traceState"], "vendor=1");
        assert_eq!(
            (&it["startTimeUnixNano"], &it["endTimeUnixNano"]),
            (&json!("1000000000"), &json!("1005000000"))
        );
        assert_eq!(
            it["attributes"][1],
            json!({ "key": "http.response.status_code", "value": { "intValue": "502" } })
        );
        assert_eq!((&it["kind"], &it["status"]["code"]), (&json!(3), &json!(2)));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let metrics = Arc::new(Metrics::new());
        let (sender, receiver) = SpanSender::new(true, metrics.clone());
        let trace = Trace::begin(None, SharePpm::ZERO);
        assert!(!sender.wants(&trace, false) && sender.wants(&trace, true));
        (0..QUEUE + 7).for_each(|_| sender.offer(span(trace)));
        assert_eq!(metrics.spans.spans.with_label_values(&["dropped"]).get(), 7);
        assert_eq!(receiver.map(|it| it.len()), Some(QUEUE));
        assert!(!SpanSender::new(false, metrics).0.wants(&trace, true));
    }
}
