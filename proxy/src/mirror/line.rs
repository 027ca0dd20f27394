//! Exchanges taken from the queue that wait for a place: one backend's, which is slow, do not hold up another's.
//!
//! Input: exchanges in the order of their requests. Output: the first whose backend has a place. Must not: grow beyond its bounds.

use crate::live::RouteRuntime;
use crate::shadow::queue::Exchange;
use crate::targets::backend::RunningBackend;
use banyan_routes::ids::Side;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of all backends together, beside the first few of each; `targets::places` bounds those of one.
const LINE: usize = 4_096;
const FIRST: u32 = 4;

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
    /// One that finds no room comes back.
    pub fn push(&self, exchange: Exchange) -> Option<Exchange> {
        let mut line = self.line();
        // Who waits for nobody yet finds room even then.
        let most = if line.len() < LINE { u32::MAX } else { FIRST };
        let fits = target(&exchange).is_none_or(|backend| backend.places.wait(most));
        if !fits {
            return Some(exchange);
        }
        line.push_back(exchange);
        None
    }

    pub fn is_empty(&self) -> bool {
        self.line().is_empty()
    }

    /// The first whose backend has a place, which are so many at most.
    pub fn next(&self, most: u32) -> Option<(Exchange, Option<Place>)> {
        let mut line = self.line();
        let at = line.iter().position(|exchange| target(exchange).is_none_or(|it| it.places.begin(most)))?;
        let exchange = line.remove(at)?;
        let place = target(&exchange).cloned().map(Place);
        Some((exchange, place))
    }

    /// Of those that wait, those that could begin.
    pub fn ready(&self, most: u32) -> usize {
        self.line()
            .iter()
            .filter(|exchange| target(exchange).is_none_or(|it| it.places.has_room(most)))
            .count()
    }

    /// A step is over, and the next begins: whose copies did nobody come for? `false`: those of all that wait.
    pub fn step(&self, most: u32) -> bool {
        let line = self.line();
        let targets = || line.iter().filter_map(target);
        targets().for_each(|backend| backend.places.look(most));
        targets().for_each(|backend| backend.places.begin_step());
        targets().any(|backend| !backend.places.is_behind())
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Exchange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the copy goes. A write that is read on both sides has been served by legacy, as its reads will be.
fn target(exchange: &Exchange) -> Option<&Arc<RunningBackend>> {
    backend(exchange, exchange.capture.shadow.unwrap_or(Side::Serverless))
}

pub fn backend(exchange: &Exchange, side: Side) -> Option<&Arc<RunningBackend>> {
    let serving = &exchange.ask.live.serving;
    let at = serving.table.route(exchange.ask.found.route).backend(side)?;
    serving.backends.get(at as usize)
}

pub fn runtime(exchange: &Exchange) -> &RouteRuntime {
    &exchange.ask.live.serving.routes[exchange.ask.found.route as usize]
}
