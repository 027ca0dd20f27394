//! The admin listener: health, metrics, the API and the console. Its own address, loopback by default.
//!
//! Input: requests from operators, probes and Prometheus. Output: JSON, text, pages, streams. Must not: share a listener with traffic, or
//! be steered from a web page: names in Host are checked against DNS rebinding, and changes need a JSON content type.

pub mod access;
mod board;
pub mod api;
mod changes;
mod console;
mod egress;
mod openapi;
pub mod stream;

use crate::admin::access::{Caller, HotTokens};
use crate::admin::stream::{Events, Viewer, Watcher};
use crate::control::Request;
use crate::metrics::{NONE, OPENMETRICS, openmetrics};
use crate::proxy::Shared;
use crate::settings::Role;
use crate::tap::{Filter, Reader, Status};
use async_trait::async_trait;
use banyan_routes::decide::Reason;
use banyan_routes::ids::Side;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// How long a connection may rest between requests.
const KEEPALIVE_S: u64 = 60;
/// Requests to the API are small.
const BODY_MAX: usize = 1 << 20;

pub struct Admin {
    pub shared: Arc<Shared>,
    pub requests: mpsc::Sender<Request>,
    pub tokens: Option<Arc<HotTokens>>,
    pub events: Arc<Events>,
}

/// A finished answer.
pub type Answer = Response<Vec<u8>>;

/// What a request gets.
enum Reply {
    Whole(Box<Answer>),
    /// A snapshot a second, so many of them.
    Events(Viewer, Watcher),
    Tap(Reader, Watcher),
}

#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.unwrap_or_default() {
            return None;
        }
        session.set_keepalive(if *shutdown.borrow() { None } else { Some(KEEPALIVE_S) });
        let method = session.req_header().method.clone();
        match self.reply(&mut session).await {
            Reply::Whole(answer) => {
                let (parts, body) = finish(&method, *answer).into_parts();
                session.write_response_header(Box::new(parts.into())).await.ok()?;
                if !body.is_empty() {
                    session.write_response_body(body.into(), true).await.ok()?;
                }
            }
            Reply::Events(viewer, watcher) => {
                stream::events(&mut session, &self.shared, viewer, watcher, shutdown).await;
            }
            Reply::Tap(reader, watcher) => stream::tap(&mut session, reader, watcher, shutdown).await,
        }
        let settings = HttpPersistentSettings::for_session(&session);
        session.finish().await.ok()?.map(|it| ReusedHttpStream::from_reusable_stream(it, settings))
    }
}

impl Admin {
    async fn reply(&self, session: &mut ServerSession) -> Reply {
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let query = head.uri.query().map(str::to_owned);
        let is_read = matches!(method, Method::GET | Method::HEAD);
        let answer = match (method.as_str(), path.as_str()) {
            ("GET" | "HEAD", "/livez") => json_answer(200, &json!({ "live": true })),
            ("GET" | "HEAD", "/readyz") => self.ready(),
            ("GET" | "HEAD", "/metrics") => self.metrics(session),
            (_, "/livez" | "/readyz" | "/metrics") => not_allowed(READ),
            _ if !host_allowed(session) => {
                let answer = problem(403, "host not allowed", "the Host must be an address or localhost");
                access::refuse(&self.shared.metrics, "host", answer)
            }
            _ if let Some(file) = console::file(&path) => {
                if is_read {
                    file
                } else {
                    not_allowed(READ)
                }
            }
            _ if !path.starts_with("/api/v1/") => problem(404, "no such page", &path),
            (method @ ("GET" | "HEAD" | "POST"), _) => {
                // To explain is to look; lines of the log are not for everybody who may look.
                let changes = method == "POST" && path != "/api/v1/explain";
                let operates = changes || path == "/api/v1/tap";
                let role = if operates { Role::Operator } else { Role::Viewer };
                let tokens = self.tokens.as_deref();
                match access::check(tokens, session, role, changes, &self.shared.metrics) {
                    Err(answer) => *answer,
                    Ok(_) if allowed(&path).is_none_or(|known| !known.contains(method)) => wrong(&path),
                    Ok(caller) if method == "POST" => self.change(session, &path, &caller).await,
                    Ok(_) if path == "/api/v1/audit" => changes::audit(&self.requests).await,
                    Ok(caller) if path == "/api/v1/whoami" => api::whoami(&caller),
                    Ok(_) if method == "GET" && path == "/api/v1/events" => {
                        return self.events(session, query.as_deref());
                    }
                    Ok(_) if method == "GET" && path == "/api/v1/tap" => {
                        return self.tap(session, query.as_deref());
                    }
                    Ok(_) => self.read(&path, query.as_deref()),
                }
            }
            _ => wrong(&path),
        };
        Reply::Whole(Box::new(answer))
    }

    /// Who watches, for as long as they may.
    fn watcher(&self, session: &ServerSession, role: Role, count: Option<u64>) -> Watcher {
        let proof = self.tokens.clone().zip(access::bearer(session).map(str::to_owned));
        Watcher::new(count, move || proof.as_ref().is_none_or(|(tokens, token)| tokens.allows(token, role)))
    }

    fn events(&self, session: &ServerSession, query: Option<&str>) -> Reply {
        let refused = |answer| Reply::Whole(Box::new(answer));
        match number(query, "count=") {
            Err(answer) => refused(*answer),
            Ok(count) => match self.events.view() {
                Some(viewer) => Reply::Events(viewer, self.watcher(session, Role::Viewer, count)),
                None => refused(problem(503, "too many viewers", "as many watch as may")),
            },
        }
    }

    fn tap(&self, session: &ServerSession, query: Option<&str>) -> Reply {
        let refused = |answer| Reply::Whole(Box::new(answer));
        let text = |name| parameter(query, name).map(Cow::into_owned);
        let status = text("status=").map(|text| (Status::parse(&text), text));
        let odd = |field: &str, value: &str, expected: &str| {
            refused(problem(400, "not a filter", &format!("{field} `{value}`; expected {expected}")))
        };
        if let Some((None, text)) = &status {
            return odd("status", text, "for example 502 or 5xx");
        }
        let route = text("route=");
        let live = self.shared.live.load();
        let known = |id: &str| {
            id == NONE || live.as_ref().is_some_and(|live| live.serving.table.position(id).is_some())
        };
        if let Some(id) = route.as_deref().filter(|id| !known(id)) {
            return refused(problem(404, "no such route", id));
        }
        let side = text("side=");
        if let Some(side) = side.as_deref().filter(|it| !["legacy", "serverless", "none"].contains(it)) {
            return odd("side", side, "legacy, serverless or none");
        }
        let reason = text("reason=");
        let reasons = || Reason::ALL.into_iter().map(Reason::as_str).chain([NONE]);
        if let Some(reason) = reason.as_deref().filter(|it| !reasons().any(|known| known == *it)) {
            return odd("reason", reason, &format!("one of {}", reasons().collect::<Vec<_>>().join(", ")));
        }
        let status = status.and_then(|(status, _)| status);
        let filter = Filter { route, side, reason, status };
        match number(query, "count=") {
            Err(answer) => refused(*answer),
            Ok(count) => match self.shared.taps.open(filter) {
                Some(reader) => Reply::Tap(reader, self.watcher(session, Role::Operator, count)),
                None => refused(problem(503, "too many taps", "as many are open as may")),
            },
        }
    }

    /// Prometheus's text, or OpenMetrics with exemplars for who asks for that.
    fn metrics(&self, session: &ServerSession) -> Answer {
        let metrics = &self.shared.metrics;
        let accept = session.get_header_bytes(header::ACCEPT);
        if memchr::memmem::find(accept, b"application/openmetrics-text").is_none() {
            return text_answer("text/plain; version=0.0.4; charset=utf-8", metrics.text());
        }
        let live = self.shared.live.load();
        let exemplars = |route: &str, side: &str| {
            let slot = Side::ALL.into_iter().find(|it| it.as_str() == side).map_or(2, Side::index);
            let serving = live.as_ref().map(|live| &live.serving);
            let runtime = serving.and_then(|it| Some(&it.routes[it.table.position(route)? as usize]));
            runtime.map(|runtime| runtime.metrics.exemplars(slot)).unwrap_or_default()
        };
        text_answer(OPENMETRICS, openmetrics(&metrics.registry.gather(), exemplars))
    }
}

/// Of `reload`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    reason: String,
    actor: Option<String>,
    if_revision: Option<u64>,
}

impl Admin {
    fn ready(&self) -> Answer {
        if self.shared.is_draining() {
            return json_answer(503, &json!({ "ready": false, "reason": "draining" }));
        }
        if !self.shared.listening.load(Ordering::Relaxed) {
            return json_answer(503, &json!({ "ready": false, "reason": "starting" }));
        }
        match self.shared.live.load() {
            Some(live) => {
                let store = api::store(&self.shared);
                let revision = &live.serving.table.revision;
                json_answer(200, &json!({ "ready": true, "revision": revision, "store": store }))
            }
            None => json_answer(503, &json!({ "ready": false, "reason": "no valid rule set" })),
        }
    }

    fn read(&self, path: &str, query: Option<&str>) -> Answer {
        if path == "/api/v1/openapi.json" {
            return json_answer(200, &openapi::document());
        }
        let Some(live) = self.shared.live.load() else {
            return problem(503, "no valid rule set", "nothing serves yet");
        };
        match path.strip_prefix("/api/v1/").unwrap_or_default() {
            "revision" => json_answer(200, &api::revision(&self.shared, &live)),
            "routes" => json_answer(200, &api::routes(&live)),
            "unclaimed" => json_answer(200, &api::unclaimed(&self.shared, &live)),
            "backends" => json_answer(200, &api::backends(&self.shared, &live)),
            "egress" => json_answer(200, &egress::egress(&self.shared, &live)),
            // Streams have no end that their head could tell.
            "events" | "tap" => json_answer(200, &json!({})),
            what @ ("differences" | "proposals") => {
                let id = parameter(query, "route=");
                let found = match what {
                    "differences" => api::differences(&live, id.as_deref()),
                    _ => api::proposals(&live, id.as_deref()),
                };
                match found {
                    Some(found) => json_answer(200, &found),
                    None => problem(404, "no such route", &id.unwrap_or_default()),
                }
            }
            rest => {
                let found = match rest.split_once('/') {
                    Some(("routes", id)) => api::route(&live, &self.shared.settings.rules_dir, id),
                    Some(("history", id)) => board::history(&self.shared, &live, id),
                    Some(("evidence", id)) => match parameter(query, "hours=")
                        .map(|it| it.parse())
                        .transpose()
                    {
                        Ok(hours) => api::evidence(&live, id, hours),
                        Err(_) => return problem(400, "not a number of hours", query.unwrap_or_default()),
                    },
                    _ => return problem(404, "no such resource", path),
                };
                found.map_or_else(|| problem(404, "no such route", path), |found| json_answer(200, &found))
            }
        }
    }

    async fn change(&self, session: &mut ServerSession, path: &str, caller: &Caller) -> Answer {
        let kind = session.get_header_bytes(header::CONTENT_TYPE).split(|byte| *byte == b';').next();
        if !kind.unwrap_or_default().trim_ascii().eq_ignore_ascii_case(b"application/json") {
            let answer = problem(415, "not JSON", "expected Content-Type: application/json");
            return access::refuse(&self.shared.metrics, "content_type", answer);
        }
        let body = match body(session).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        match path {
            "/api/v1/explain" => match self.shared.live.load() {
                Some(live) => api::explain(&live, &body),
                None => problem(503, "no valid rule set", "nothing serves yet"),
            },
            "/api/v1/reload" => match self.may_reload(&body, caller) {
                Ok(()) => self.reload().await,
                Err(answer) => *answer,
            },
            _ => {
                let metrics = &self.shared.metrics;
                let answer = changes::change(&self.requests, path, &body, caller, metrics).await;
                answer.unwrap_or_else(|| problem(404, "no such resource", path))
            }
        }
    }

    /// What is asked for fits, and only if the state is where the caller thinks it is.
    fn may_reload(&self, body: &Value, caller: &Caller) -> Result<(), Box<Answer>> {
        let refused = |answer| Err(Box::new(answer));
        let asked = match Asked::deserialize(body) {
            Ok(asked) => asked,
            Err(error) => return refused(problem(400, "not a reload", &error.to_string())),
        };
        let is = self.shared.live.load().map_or(0, |live| live.state.revision);
        if asked.if_revision.is_some_and(|wanted| wanted != is) {
            return refused(changes::another_revision(is));
        }
        let actor = caller.name.as_ref().or(asked.actor.as_ref());
        tracing::info!(actor, reason = ?asked.reason, "reload asked for");
        Ok(())
    }

    async fn reload(&self) -> Answer {
        let (done, outcome) = tokio::sync::oneshot::channel();
        let asked = self.requests.send(Request::Reload(done)).await.is_ok();
        match outcome.await {
            Ok(outcome) if asked && outcome.accepted => json_answer(200, &outcome),
            Ok(outcome) => {
                let mut answer = problem_value(422, "rules refused", "the last good ones keep serving");
                answer["problems"] = json!(outcome.problems);
                answer["revision"] = json!(outcome.revision);
                problem_answer(422, &answer)
            }
            Err(_) => problem(503, "stopping", "the process is on its way out"),
        }
    }
}

const READ: &str = "GET, HEAD";

/// The methods of a path of the API; `None` where there is no such path.
fn allowed(path: &str) -> Option<&'static str> {
    let below = path.strip_prefix("/api/v1/").unwrap_or_default();
    match below.split_once('/') {
        None => match below {
            "explain" | "reload" | "kill" | "unkill" => Some("POST"),
            "openapi.json" | "revision" | "routes" | "unclaimed" | "backends" | "differences"
            | "proposals" | "audit" | "egress" | "events" | "tap" | "whoami" => Some(READ),
            _ => None,
        },
        Some(("routes", rest)) => Some(if rest.contains('/') { "POST" } else { READ }),
        Some(("evidence" | "history", _)) => Some(READ),
        Some(("backends", _)) => breaker_of(path).map(|_| "POST"),
        Some(_) => None,
    }
}

/// The backend in `/api/v1/backends/{id}/breaker`.
fn breaker_of(path: &str) -> Option<&str> {
    path.strip_prefix("/api/v1/backends/")?.strip_suffix("/breaker")
}

/// No such path, or not by this method.
fn wrong(path: &str) -> Answer {
    allowed(path).map_or_else(|| problem(404, "no such resource", path), not_allowed)
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = problem(405, "method not allowed", &format!("expected {methods}"));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

async fn body(session: &mut ServerSession) -> Result<Value, Answer> {
    let mut bytes = Vec::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > BODY_MAX => {
                return Err(problem(413, "body too large", "expected at most 1 MiB"));
            }
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) => return Err(problem(400, "body not readable", "the connection broke")),
        }
    }
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(Value::Object(fields)),
        Ok(_) => Err(problem(400, "not an object", "expected a JSON object")),
        Err(error) => Err(problem(400, "not JSON", &error.to_string())),
    }
}

/// An address or localhost: a name that a stranger's DNS can point at us is neither.
fn host_allowed(session: &ServerSession) -> bool {
    let head = session.req_header();
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = banyan_routes::request::bare_host(host.unwrap_or_default());
    host.eq_ignore_ascii_case("localhost") || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

pub fn json_answer(status: u16, value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).unwrap_or_default();
    build(status, "application/json", [body, b"\n".to_vec()].concat())
}

fn text_answer(content_type: &'static str, body: String) -> Answer {
    build(200, content_type, body.into_bytes())
}

/// An RFC 9457 problem document.
pub fn problem(status: u16, title: &str, detail: &str) -> Answer {
    problem_answer(status, &problem_value(status, title, detail))
}

pub fn problem_value(status: u16, title: &str, detail: &str) -> Value {
    json!({ "type": "about:blank", "title": title, "status": status, "detail": detail })
}

pub fn problem_answer(status: u16, value: &Value) -> Answer {
    build(status, "application/problem+json", serde_json::to_vec(value).unwrap_or_default())
}

fn build(status: u16, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    response
}

/// The framework neither counts the body nor leaves it out for HEAD.
fn finish(method: &Method, mut answer: Answer) -> Answer {
    let length = answer.body().len();
    answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if *method == Method::HEAD {
        answer.body_mut().clear();
    }
    answer
}

/// A value of the query, decoded; `name` with its `=`.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix(name))?;
    let decoded = percent_encoding::percent_decode_str(value).decode_utf8().ok()?;
    Some(decoded).filter(|value| !value.is_empty())
}

/// The same as a number.
fn number(query: Option<&str>, name: &str) -> Result<Option<u64>, Box<Answer>> {
    let parse = |text: Cow<'_, str>| {
        text.parse().map_err(|_| Box::new(problem(400, "not a number", &format!("{name}{text}"))))
    };
    parameter(query, name).map(parse).transpose()
}
