//! An airline twice: the monolith that is being strangled, and the same domain as serverless functions.
//!
//! ```text
//! HTTP -> monolith  \
//!                    >- store (one database, as after a real first migration step)
//! HTTP -> function_url -> event (API Gateway v2) -> functions/{catalog, booking, payment, loyalty, fares, pages}
//! ```
//!
//! Without the feature `server` only the functions are left: what `deploy/functions` builds for Lambda has no HTTP server in it.
//!
//! Modules stand in reading order, and a file uses only files above it. For tests and the demo; nothing here is production.

pub mod store;
pub mod pages;
pub mod soap;
#[cfg(feature = "server")]
pub mod faults;
#[cfg(feature = "server")]
pub mod reply;
#[cfg(feature = "server")]
pub mod monolith;
pub mod event;
pub mod functions;
#[cfg(feature = "server")]
pub mod function_url;
#[cfg(feature = "server")]
pub mod control;
#[cfg(feature = "server")]
pub mod airline;
