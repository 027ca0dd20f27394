//! The requests, asked: in time, in the order of their sessions, of one side or both.
//!
//! Input: recorded requests and targets. Output: the same with answers. Must not: wait for an answer before the next session's request
//! is due (open loop), or send what is not safe to a host that is not declared a sandbox.

use crate::testrun::record::{Fault, Recorded, Stored};
use crate::testrun::target::Target;
use banyan_routes::ids::Side;
use pingora_error::{ErrorType, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

/// When the next request is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As recorded, times this: 0.5 is twice as fast.
    Original(f64),
    PerSecond(f64),
    /// As soon as there is room.
    Max,
}

impl std::str::FromStr for Pace {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Pace, String> {
        let wrong =
            || format!("`{text}` is not a pace; expected `max`, `original`, `original*0.5` or `100/s`");
        let positive = |it: &str| it.trim().parse::<f64>().ok().filter(|it| it.is_finite() && *it > 0.0);
        match text {
            "max" => Ok(Pace::Max),
            "original" => Ok(Pace::Original(1.0)),
            _ => match (text.strip_prefix("original*"), text.strip_suffix("/s")) {
                (Some(factor), _) => positive(factor).map(Pace::Original).ok_or_else(wrong),
                (None, Some(rate)) => positive(rate).map(Pace::PerSecond).ok_or_else(wrong),
                (None, None) => Err(wrong()),
            },
        }
    }
}

/// Under way at one time by a pace, which only bounds what a side that does not answer can bind.
const PACED_MAX: usize = 1_024;

pub struct Plan {
    pub legacy: Option<Target>,
    pub serverless: Option<Target>,
    pub pace: Pace,
    pub concurrency: usize,
    /// Hosts that writes may go to.
    pub sandboxes: Vec<String>,
    pub allow_unsafe: bool,
}

/// What came of the asking.
#[derive(Default)]
pub struct Played {
    /// In the order of the input.
    pub exchanges: Vec<Recorded>,
    pub skipped: BTreeMap<&'static str, u64>,
    /// Requests that a side did not answer, by `Side::index`.
    pub unanswered: [u64; 2],
    /// Of those, without a connection.
    pub unreachable: [u64; 2],
}

impl Plan {
    /// Why a request is not asked.
    pub fn skips(&self, recorded: &Recorded) -> Option<&'static str> {
        let needed = |stored: &Option<Stored>, target: &Option<Target>| stored.is_none() && target.is_none();
        if needed(&recorded.legacy, &self.legacy) || needed(&recorded.serverless, &self.serverless) {
            return Some("no recorded answer");
        }
        if recorded.is_safe() {
            return None;
        }
        let targets = || [&self.legacy, &self.serverless].into_iter().flatten();
        // Nothing is sent where both answers are recorded.
        targets().next()?;
        if !self.allow_unsafe {
            return Some("not safe");
        }
        let declared = |target: &Target| self.sandboxes.contains(&target.authority);
        (!targets().all(declared)).then_some("not a sandbox")
    }

    pub async fn play(
        self: Arc<Plan>,
        requests: Vec<Recorded>,
        progress: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Played {
        let mut played = Played::default();
        let mut due = Vec::new();
        for (number, recorded) in requests.into_iter().enumerate() {
            match self.skips(&recorded) {
                Some(why) => *played.skipped.entry(why).or_default() += 1,
                None => due.push((number, recorded)),
            }
        }
        let started = Instant::now();
        // By a pace, what is due is asked, however many wait: waiting for room would be the pace of the slower side.
        let most = if self.pace == Pace::Max { self.concurrency } else { self.concurrency.max(PACED_MAX) };
        let room = Arc::new(Semaphore::new(most));
        // Of each session, the end of the request before.
        let mut sessions: HashMap<String, oneshot::Receiver<()>> = HashMap::new();
        let (mut tasks, done) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        let mut answered = Vec::with_capacity(due.len());
        for (place, (number, recorded)) in due.into_iter().enumerate() {
            let wait = match self.pace {
                Pace::Max => Duration::ZERO,
                Pace::PerSecond(rate) => Duration::from_secs_f64(place as f64 / rate),
                Pace::Original(factor) => {
                    Duration::from_secs_f64(recorded.at_ms.unwrap_or(0) as f64 / 1e3 * factor)
                }
            };
            tokio::time::sleep_until((started + wait).into()).await;
            let (end, ended) = oneshot::channel::<()>();
            let before = recorded.session.as_ref().and_then(|id| sessions.insert(id.clone(), ended));
            let (plan, room, done, progress) = (self.clone(), room.clone(), done.clone(), progress.clone());
            if self.pace == Pace::Max {
                // As fast as possible is as fast as there is room.
                while tasks.len() >= self.concurrency * 2 {
                    if let Some(Ok(one)) = tasks.join_next().await {
                        answered.push(one);
                    }
                }
            }
            tasks.spawn(async move {
                if let Some(before) = before {
                    // Its end is that it is dropped.
                    let _ = before.await;
                }
                let _room = room.acquire_owned().await;
                let exchange = plan.ask(recorded).await;
                drop(end);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                (number, exchange)
            });
        }
        while let Some(one) = tasks.join_next().await {
            answered.extend(one.ok());
        }
        answered.sort_by_key(|(number, _)| *number);
        answered.into_iter().for_each(|(_, exchange)| played.push(exchange));
        played
    }

    async fn ask(&self, mut recorded: Recorded) -> Recorded {
        let (legacy, serverless) =
            tokio::join!(one(self.legacy.as_ref(), &recorded), one(self.serverless.as_ref(), &recorded));
        for (side, result) in [(Side::Legacy, legacy), (Side::Serverless, serverless)] {
            let Some(result) = result else { continue };
            let stored = match result {
                Ok(stored) => Some(stored),
                Err(error) => {
                    let connecting = matches!(
                        error.etype(),
                        ErrorType::ConnectTimedout
                            | ErrorType::ConnectRefused
                            | ErrorType::ConnectNoRoute
                            | ErrorType::ConnectError
                            | ErrorType::TLSHandshakeFailure
                            | ErrorType::TLSHandshakeTimedout
                    );
                    let fault = if connecting { Fault::Unreachable } else { Fault::NoAnswer };
                    recorded.faults[side.index()] = Some(fault);
                    None
                }
            };
            match side {
                Side::Legacy => recorded.legacy = stored,
                Side::Serverless => recorded.serverless = stored,
            }
        }
        recorded
    }
}

impl Played {
    /// One that was asked, and what its sides have not answered.
    pub fn push(&mut self, exchange: Recorded) {
        for (side, fault) in exchange.faults.iter().enumerate() {
            self.unanswered[side] += u64::from(fault.is_some());
            self.unreachable[side] += u64::from(*fault == Some(Fault::Unreachable));
        }
        self.exchanges.push(exchange);
    }
}

async fn one(target: Option<&Target>, recorded: &Recorded) -> Option<Result<Stored>> {
    Some(target?.ask(recorded).await)
}
