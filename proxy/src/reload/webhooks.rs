//! Webhooks: whom a moved share is told to, and who is asked before the controller raises one.
//!
//! Input: events of this replica. Output: signed POSTs, tried again for a while; the answer to a question when it is there. Must not: be
//! waited for by a change, least of all by a way back; keep more than a bounded number of deliveries.

use crate::client::fetch::fetch;
use crate::metrics::Metrics;
use crate::settings::{Event, Webhook};
use crate::targets::supplies::Supplies;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// Deliveries under way; what is more is lost, and counted.
const UNDER_WAY_MAX: usize = 64;
/// Before the second try, the third and so on.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(240),
];
/// A raise that was refused is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Yes,
    /// Who refuses, and how.
    No(String),
    NotYet,
}

/// One that was put, and the answer to it.
struct Question {
    to_ppm: u32,
    at: Instant,
    said: Said,
}

pub struct Webhooks {
    all: Vec<Arc<Webhook>>,
    supplies: Arc<Supplies>,
    room: Arc<Semaphore>,
    /// By route.
    asked: Arc<Mutex<HashMap<String, Question>>>,
}

impl Webhooks {
    pub fn new(all: &[Webhook], supplies: Arc<Supplies>) -> Webhooks {
        let all = all.iter().cloned().map(Arc::new).collect();
        let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        Webhooks { all, supplies, room, asked: Arc::default() }
    }

    fn of(&self, event: Event) -> impl Iterator<Item = &Arc<Webhook>> {
        self.all.iter().filter(move |hook| hook.on.contains(&event))
    }

    /// Delivered in the background, as often as it takes, for about five minutes.
    pub fn tell(&self, event: Event, what: &Value) {
        for hook in self.of(event) {
            let Ok(room) = self.room.clone().try_acquire_owned() else {
                count(&self.supplies.metrics, hook, "dropped");
                continue;
            };
            let (hook, supplies, body) = (hook.clone(), self.supplies.clone(), body(event, what));
            tokio::spawn(async move {
                let _room = room;
                let mut pauses = PAUSES.iter();
                while let Err(error) = deliver(&supplies, &hook, event, &body).await {
                    tracing::warn!(webhook = hook.name, event = event.as_str(), error, "not delivered");
                    match pauses.next() {
                        Some(pause) => tokio::time::sleep(*pause).await,
                        None => return count(&supplies.metrics, &hook, "failed"),
                    }
                }
                count(&supplies.metrics, &hook, "delivered");
            });
        }
    }

    /// Whether the controller may raise this route to this share. Asked once, and again a while after a refusal.
    pub fn may_raise(&self, route: &str, to_ppm: u32, what: impl FnOnce() -> Value) -> Said {
        let hooks: Vec<Arc<Webhook>> = self.of(Event::BeforeRaise).cloned().collect();
        if hooks.is_empty() {
            return Said::Yes;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = asked.get(route).filter(|question| {
            // An answer is one for its time.
            let settled = question.said != Said::NotYet && question.at.elapsed() >= ASK_AGAIN;
            question.to_ppm == to_ppm && !settled
        });
        if let Some(question) = known {
            return question.said.clone();
        }
        let new = move |said| Question { to_ppm, at: Instant::now(), said };
        asked.insert(route.to_owned(), new(Said::NotYet));
        let (answers, route, supplies) = (self.asked.clone(), route.to_owned(), self.supplies.clone());
        let body = body(Event::BeforeRaise, &what());
        tokio::spawn(async move {
            let mut said = Said::Yes;
            for hook in hooks {
                if let Err(error) = deliver(&supplies, &hook, Event::BeforeRaise, &body).await {
                    count(&supplies.metrics, &hook, "refused");
                    said = Said::No(format!("{}: {error}", hook.name));
                    break;
                }
                count(&supplies.metrics, &hook, "delivered");
            }
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.insert(route, new(said));
        });
        Said::NotYet
    }

    /// The question is settled; the next raise is another one.
    pub fn forget(&self, route: &str) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(route);
    }
}

fn body(event: Event, what: &Value) -> Bytes {
    let mut value = what.clone();
    value["version"] = json!(1);
    value["event"] = json!(event.as_str());
    // The same for every try, so that a receiver can tell a repetition.
    value["delivery"] = json!(format!("{:032x}", rand::random::<u128>()));
    Bytes::from(value.to_string())
}

async fn deliver(supplies: &Supplies, hook: &Webhook, event: Event, body: &Bytes) -> Result<(), String> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let request = http::Request::post(&hook.url)
        .header("Content-Type", "application/json")
        .header("X-Banyan-Event", event.as_str())
        .header("X-Banyan-Timestamp", at)
        .header("X-Banyan-Signature", signature(&hook.secret, at, body))
        .body(body.clone())
        .map_err(|error| error.to_string())?;
    let sent = fetch(&supplies.client, &supplies.resolver, request);
    match tokio::time::timeout(hook.timeout, sent).await {
        Ok(Ok((status, ..))) if status.is_success() => Ok(()),
        Ok(Ok((status, ..))) => Err(format!("answered {}", status.as_u16())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".into()),
    }
}

/// `sha256=` and the HMAC over the timestamp, a dot and the body: a delivery cannot be replayed at another time.
fn signature(secret: &[u8], at: u64, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(at.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

fn count(metrics: &Metrics, hook: &Webhook, result: &str) {
    metrics.webhooks.with_label_values(&[hook.name.as_str(), result]).inc();
}
