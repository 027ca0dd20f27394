//! Exchanges taken from the queue that wait for a place: one backend's, which is slow, do not hold up another's.
//!
//! Input: exchanges in the order of their requests. Output: the first whose backend has a place. Must not: grow beyond its bound.

use crate::live::RouteRuntime;
use crate::shadow::queue::Exchange;
use crate::targets::backend::RunningBackend;
use banyan_routes::ids::Side;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// As many as the queue holds: what has been taken from it waits within the same bound.
const LINE: usize = 1_024;

#[derive(Default)]
pub struct Line(Mutex<VecDeque<Exchange>>);

/// A place at a backend, given back however the copy ends.
pub struct Place(Arc<RunningBackend>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.end();
    }
}

impl Line {
    /// Those that found no room come back.
    pub fn extend(&self, batch: &mut Vec<Exchange>) {
        let mut line = self.line();
        let fits = batch.len().min(LINE.saturating_sub(line.len()));
        for exchange in batch.drain(..fits) {
            if let Some(backend) = target(&exchange) {
                backend.places.wait();
            }
            line.push_back(exchange);
        }
    }

    pub fn len(&self) -> usize {
        self.line().len()
    }

    pub fn is_empty(&self) -> bool {
        self.line().is_empty()
    }

    /// A write that is read on both sides needs no place.
    pub fn next(&self) -> Option<(Exchange, Option<Place>)> {
        let mut line = self.line();
        let at =
            line.iter().position(|exchange| target(exchange).is_none_or(|backend| backend.places.begin()))?;
        let exchange = line.remove(at)?;
        let place = target(&exchange).cloned().map(Place);
        Some((exchange, place))
    }

    /// For a whole step nobody has come.
    pub fn fall_behind(&self) {
        for exchange in self.line().iter() {
            if let Some(backend) = target(exchange) {
                backend.places.fall_behind();
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Exchange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the copy goes; `None`: it is a write to be read on both sides.
fn target(exchange: &Exchange) -> Option<&Arc<RunningBackend>> {
    backend(exchange, exchange.capture.shadow?)
}

pub fn backend(exchange: &Exchange, side: Side) -> Option<&Arc<RunningBackend>> {
    let serving = &exchange.ask.live.serving;
    let at = serving.table.route(exchange.ask.found.route).backend(side)?;
    serving.backends.get(at as usize)
}

pub fn runtime(exchange: &Exchange) -> &RouteRuntime {
    &exchange.ask.live.serving.routes[exchange.ask.found.route as usize]
}
