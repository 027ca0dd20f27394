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
pub struct Line(Mutex<Rows>);

/// Of all backends for which something waits, in turns.
#[derive(Default)]
struct Rows {
    rows: VecDeque<Row>,
    waiting: usize,
}

/// What waits for one backend, in the order of the requests; it is never empty.
struct Row {
    /// `None`: what has nowhere to go, which is told of each when its turn comes.
    target: Option<Arc<RunningBackend>>,
    waiting: VecDeque<Exchange>,
}

impl Row {
    fn is_of(&self, target: Option<&Arc<RunningBackend>>) -> bool {
        self.target.as_ref().map(Arc::as_ptr) == target.map(Arc::as_ptr)
    }

    /// How many of it could begin.
    fn ready(&self, most: u32) -> usize {
        let room = self.target.as_ref().map_or(u32::MAX, |it| it.places.room(most));
        self.waiting.len().min(room as usize)
    }
}

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
        let target = target(&exchange);
        // Who waits for nobody yet finds room even then.
        let most = if line.waiting < LINE { u32::MAX } else { FIRST };
        if target.is_some_and(|backend| !backend.places.wait(most)) {
            return Some(exchange);
        }
        line.waiting += 1;
        match line.rows.iter().position(|row| row.is_of(target)) {
            Some(at) => line.rows[at].waiting.push_back(exchange),
            None => {
                let target = target.cloned();
                line.rows.push_back(Row { target, waiting: VecDeque::from([exchange]) });
            }
        }
        None
    }

    pub fn is_empty(&self) -> bool {
        self.line().rows.is_empty()
    }

    /// The first of a backend that has a place, which are so many at most; the backends take turns.
    pub fn next(&self, most: u32) -> Option<(Exchange, Option<Place>)> {
        let mut line = self.line();
        let may_begin = |row: &Row| row.target.as_ref().is_none_or(|it| it.places.begin(most));
        let at = line.rows.iter().position(may_begin)?;
        let mut row = line.rows.remove(at)?;
        line.waiting -= 1;
        let exchange = row.waiting.pop_front()?;
        let place = row.target.clone().map(Place);
        if !row.waiting.is_empty() {
            line.rows.push_back(row);
        }
        Some((exchange, place))
    }

    /// Of those that wait, those that could begin.
    pub fn ready(&self, most: u32) -> usize {
        self.line().rows.iter().map(|row| row.ready(most)).sum()
    }

    /// A step is over, and the next begins: whose copies did nobody come for? `false`: those of all that wait.
    pub fn step(&self, most: u32) -> bool {
        let line = self.line();
        let mut any_moves = false;
        for target in line.rows.iter().map(|row| row.target.as_ref()) {
            if let Some(backend) = target {
                backend.places.look(most);
                backend.places.begin_step();
            }
            any_moves |= target.is_none_or(|it| !it.places.is_behind() || it.places.room(most) > 0);
        }
        any_moves
    }

    fn line(&self) -> MutexGuard<'_, Rows> {
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
