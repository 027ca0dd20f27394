//! Functions: events in, answers out, and what went wrong in between. Pure: no network, no clock.
//!
//! ```text
//! request -> event (v2, v1, alb) -> Invoke -> payload -> answer -> response
//!                                         \-> stream -> head, chunks
//!                                         \-> fault;  log tail -> report
//! ```

pub mod event;
pub mod v2;
pub mod v1;
pub mod alb;
pub mod authorize;
pub mod answer;
pub mod stream;
pub mod fault;
pub mod report;
pub mod usage;
