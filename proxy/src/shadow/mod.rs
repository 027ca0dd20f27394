//! The worker's part of shadow traffic: what is kept of a request while it is served, and the hand-over that never waits.

pub mod tee;
pub mod queue;
