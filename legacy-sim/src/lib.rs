//! An airline twice: the monolith that is being strangled, and the same domain as serverless functions.
//!
//! ```text
//! HTTP -> monolith  \
//!                    >- store (one database, as after a real first migration step)
//! HTTP -> function_url -> event (API Gateway v2) -> functions/{catalog, booking, payment, loyalty}
//! ```
//!
//! Modules stand in reading order, and a file uses only files above it. For tests and the demo; nothing here is production.

pub mod store;
pub mod faults;
pub mod reply;
pub mod pages;
pub mod soap;
pub mod monolith;
pub mod event;
pub mod functions;
pub mod function_url;
pub mod control;
pub mod airline;
