//! Where requests are sent: backends by URL, their addresses, health and TLS.

pub mod tls_files;
pub mod backend;
pub mod resolve;
pub mod health;
