//! The old system: everything in one process, pages and APIs, sessions in memory.
//!
//! Input: HTTP. Output: what twenty years of it look like. Must not: know that anything stands in front of it.

use crate::faults::Faults;
use crate::pages;
use crate::reply::{Reply, Request, for_method, json, reply, with};
use crate::soap;
use crate::store::{Flight, Store};
use async_trait::async_trait;
use http::Method;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::{Value, json};
use std::sync::Arc;

/// Downloads are made in memory; larger ones are nginx's job in the tests.
const DOWNLOAD_MAX: usize = 64 << 20;

pub struct Monolith {
    pub store: Arc<Store>,
    pub faults: Arc<Faults>,
}

#[async_trait]
impl ServeHttp for Monolith {
    async fn response(&self, session: &mut ServerSession) -> Reply {
        let request = Request::read(session).await;
        if request.method == Method::POST || request.method == Method::PUT || request.method == Method::DELETE
        {
            let key = request.header("idempotency-key").map(str::to_owned);
            self.store.record("legacy", format!("{} {}", request.method, request.path), key);
        }
        let answer = match self.faults.apply(&request.path).await {
            Some(status) => reply(status, "text/plain", "fault\n"),
            None => self.answer(&request),
        };
        for_method(&request.method, with(answer, "server", "BanyanAir/4.2"))
    }
}

impl Monolith {
    fn answer(&self, request: &Request) -> Reply {
        let path = request.path.trim_end_matches('/');
        let get = request.method == Method::GET || request.method == Method::HEAD;
        let post = request.method == Method::POST;
        match path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
            [] if get => {
                let user = request.cookie("SESSIONID").and_then(|session| self.store.user(session));
                reply(200, "text/html; charset=utf-8", pages::home(user.as_deref()))
            }
            ["healthz"] => reply(200, "text/plain", "ok\n"),
            ["flights"] if get => {
                let found = self.store.search(request.query("from"), request.query("to"));
                reply(200, "text/html; charset=utf-8", pages::flights("Flights", &found))
            }
            ["api", "flights"] if get => {
                let found = self.store.search(request.query("from"), request.query("to"));
                json(200, &json!({ "flights": found.into_iter().map(flight).collect::<Vec<_>>() }))
            }
            ["api", "flights", id] if get => match self.store.flight(id) {
                Some(found) => json(200, &flight(found)),
                None => json(404, &json!({ "error": "no such flight" })),
            },
            ["login"] if post => self.login(request),
            ["api", "bookings"] if post => self.book(request),
            ["api", "bookings", id] if get => match self.store.booking(id) {
                Some(booking) => json(200, &json!(booking)),
                None => json(404, &json!({ "error": "no such booking" })),
            },
            ["api", "payments"] if post => {
                let id = request.json()["booking"].as_str().unwrap_or_default().to_owned();
                match self.store.pay(&id) {
                    Some(booking) => json(200, &json!({ "booking": booking.id, "paid": booking.paid })),
                    None => json(404, &json!({ "error": "no such booking" })),
                }
            }
            ["api", "loyalty", member] if get => {
                let points = self.store.points(member);
                json(200, &json!({ "member": member, "points": points, "tier": tier(points) }))
            }
            ["soap", "fares"] if post => {
                let price =
                    |flight: &Flight| format!("{}.{:02}", flight.price_cents / 100, flight.price_cents % 100);
                let (status, envelope) = soap::answer(&self.store, &request.body, price);
                reply(status, soap::TYPE, envelope)
            }
            ["kr", "notice"] if get => {
                reply(200, "text/html; charset=euc-kr", pages::korean_notice("euc-kr"))
            }
            ["upload"] if post || request.method == Method::PUT => {
                json(201, &json!({ "bytes": request.body_bytes }))
            }
            ["download", bytes] if get => {
                let bytes = bytes.parse().unwrap_or(0).min(DOWNLOAD_MAX);
                reply(200, "application/octet-stream", vec![b'b'; bytes])
            }
            ["index.do"] => with(reply(302, "text/plain", ""), "location", "/"),
            ["whoami"] => json(200, &whoami(request)),
            _ => reply(404, "text/html; charset=utf-8", "<h1>Not found</h1>\n"),
        }
    }

    fn login(&self, request: &Request) -> Reply {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let user = form.split('&').find_map(|pair| pair.strip_prefix("user=")).unwrap_or("guest");
        let session = self.store.login(user);
        let answer = with(reply(302, "text/plain", ""), "location", "/");
        with(answer, "set-cookie", &format!("SESSIONID={session}; Path=/; HttpOnly"))
    }

    fn book(&self, request: &Request) -> Reply {
        let body = request.json();
        let text = |field: &str| body[field].as_str().unwrap_or_default();
        let member = body["member"].as_str().map(str::to_owned);
        match self.store.book(text("flight"), text("passenger"), member) {
            Some(booking) => {
                with(json(201, &json!(booking)), "location", &format!("/api/bookings/{}", booking.id))
            }
            None => json(422, &json!({ "error": "unknown flight" })),
        }
    }
}

fn flight(flight: &Flight) -> Value {
    json!({
        "id": flight.id, "from": flight.from, "to": flight.to, "departs": crate::store::clock(flight.departs),
        "minutes": flight.minutes, "price": format!("{}.{:02}", flight.price_cents / 100, flight.price_cents % 100),
        "currency": "EUR", "seats": flight.seats,
    })
}

pub fn tier(points: u32) -> &'static str {
    match points {
        0..10_000 => "BLUE",
        10_000..30_000 => "SILVER",
        _ => "GOLD",
    }
}

/// What arrived, for tests of what a proxy sends.
fn whoami(request: &Request) -> Value {
    let headers = request
        .head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]));
    let target = String::from_utf8_lossy(request.head.raw_path()).into_owned();
    json!({
        "side": "legacy", "method": request.method.as_str(), "target": target,
        "headers": headers.collect::<Vec<_>>(), "body_bytes": request.body_bytes,
    })
}
