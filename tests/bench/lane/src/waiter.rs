//! Waiting for a limited time.
//!
//! Input: how long, and for what. Output: it, or that the time is over. Must not: register a timer for each wait.

use std::future::poll_fn;
use std::io::{ErrorKind, Result};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// One timer for all that a connection waits for: it is set anew when it ends too early, not with every wait.
pub struct Waiter(pub Pin<Box<Sleep>>);

impl Waiter {
    pub async fn within<T>(&mut self, time: Duration, what: impl Future<Output = Result<T>>) -> Result<T> {
        let (until, mut what) = (Instant::now() + time, pin!(what));
        poll_fn(|cx| {
            if let Poll::Ready(done) = what.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            loop {
                if self.0.deadline() > until {
                    self.0.as_mut().reset(until);
                }
                match self.0.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if Instant::now() >= until => {
                        return Poll::Ready(Err(ErrorKind::TimedOut.into()));
                    }
                    Poll::Ready(()) => self.0.as_mut().reset(until),
                }
            }
        })
        .await
    }
}
