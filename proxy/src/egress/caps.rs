//! How many connections one rule has open, and who is next when there are too many.
//!
//! Input: callers that want one. Output: a permit, in turn, or why not. Must not: let one caller's queue keep another's waiting, or wait longer
//! than was said.

use banyan_routes::file::Connections;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long somebody waits where the rule does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// So many wait already.
    Queue,
    /// Its turn did not come in time.
    Late,
}

impl Full {
    pub fn cause(self) -> &'static str {
        match self {
            Full::Queue => "egress_queue_full",
            Full::Late => "egress_queue_timeout",
        }
    }
}

pub struct Cap {
    pub rule: Connections,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: u32,
    waiting: u32,
    /// Callers that wait, each once, in the order of their turns.
    turns: VecDeque<Box<str>>,
    queues: HashMap<Box<str>, VecDeque<oneshot::Sender<Permit>>>,
}

/// Given back when it is dropped: to whoever is next.
pub struct Permit {
    cap: Option<Arc<Cap>>,
}

impl Cap {
    pub fn new(rule: &Connections) -> Arc<Cap> {
        Arc::new(Cap { rule: rule.clone(), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open, and waiting.
    #[cfg(test)]
    pub fn figures(&self) -> (u32, u32) {
        let state = self.lock();
        (state.used, state.waiting)
    }

    /// In the order they came for one caller, by turns between callers.
    pub async fn enter(self: &Arc<Self>, caller: &str) -> Result<Permit, Full> {
        let turn = {
            let mut state = self.lock();
            if state.used < self.rule.max {
                state.used += 1;
                return Ok(Permit { cap: Some(self.clone()) });
            }
            if state.waiting >= self.rule.queue.unwrap_or(self.rule.max) {
                return Err(Full::Queue);
            }
            state.wait(caller)
        };
        let wait = self.rule.queue_wait.map_or(WAIT_DEFAULT, |span| span.0);
        match tokio::time::timeout(wait, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            // Dropping our end first: a permit that comes meanwhile goes on to the next.
            Ok(Err(_)) | Err(_) => {
                self.lock().forget(caller);
                Err(Full::Late)
            }
        }
    }
}

impl State {
    fn wait(&mut self, caller: &str) -> oneshot::Receiver<Permit> {
        let (sender, turn) = oneshot::channel();
        self.waiting += 1;
        match self.queues.get_mut(caller) {
            Some(queue) => queue.push_back(sender),
            None => {
                self.queues.insert(caller.into(), VecDeque::from([sender]));
                self.turns.push_back(caller.into());
            }
        }
        turn
    }

    /// Takes those out of a caller's queue who wait no longer.
    fn forget(&mut self, caller: &str) {
        let Some(queue) = self.queues.get_mut(caller) else { return };
        let before = queue.len();
        queue.retain(|sender| !sender.is_closed());
        self.waiting -= (before - queue.len()) as u32;
        if queue.is_empty() {
            self.queues.remove(caller);
            self.turns.retain(|it| **it != *caller);
        }
    }

    /// The next in turn; `None`: nobody waits.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        let caller = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&caller)?;
        let sender = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        self.waiting -= u32::from(sender.is_some());
        sender
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(cap) = self.cap.take() else { return };
        loop {
            let next = {
                let mut state = cap.lock();
                let next = state.next();
                if next.is_none() && state.turns.is_empty() {
                    state.used -= 1;
                    return;
                }
                next
            };
            let Some(next) = next else { continue };
            match next.send(Permit { cap: Some(cap.clone()) }) {
                Ok(()) => return,
                // It waits no longer; its permit is ours again.
                Err(mut back) => mem::forget(back.cap.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banyan_routes::units::Span;

    fn cap(max: u32, queue: u32, wait_ms: u64) -> Arc<Cap> {
        Cap::new(&Connections {
            max,
            queue: Some(queue),
            queue_wait: Some(Span(Duration::from_millis(wait_ms))),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn callers_take_turns_and_one_caller_is_served_in_its_order() {
        let cap = cap(1, 10, 60_000);
        let first = cap.enter("x").await.ok();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in ["a1", "a2", "a3", "b1", "c1", "b2"] {
            let (cap, order) = (cap.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let permit = cap.enter(&name[..1]).await;
                order.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                drop(permit);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(cap.figures(), (1, 6));
        drop(first);
        for task in tasks {
            assert!(task.await.is_ok());
        }
        assert_eq!(
            *order.lock().unwrap_or_else(PoisonError::into_inner),
            ["a1", "b1", "c1", "a2", "b2", "a3"]
        );
        assert_eq!(cap.figures(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_and_a_late_turn_are_told_apart_and_nothing_is_lost() {
        let cap = cap(2, 1, 100);
        let held = [cap.enter("a").await.ok(), cap.enter("b").await.ok()];
        let waits = tokio::spawn({
            let cap = cap.clone();
            async move { cap.enter("c").await.err() }
        });
        tokio::task::yield_now().await;
        assert_eq!(cap.enter("d").await.err(), Some(Full::Queue));
        assert_eq!(waits.await.ok().flatten(), Some(Full::Late));
        assert_eq!(cap.figures(), (2, 0));
        drop(held);
        assert_eq!(cap.figures(), (0, 0));
        // Many that come and go, some of them late.
        let mut tasks = Vec::new();
        for n in 0..300_u64 {
            let cap = cap.clone();
            tasks.push(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(n % 17 * 10)).await;
                let permit = cap.enter(&(n % 5).to_string()).await;
                tokio::time::sleep(Duration::from_millis(n % 13 * 9)).await;
                drop(permit);
            }));
        }
        for task in tasks {
            assert!(task.await.is_ok());
        }
        assert_eq!(cap.figures(), (0, 0));
    }
}
