//! Where requests are sent: backends by URL and functions, with their addresses, health, TLS, signatures and tokens.

pub mod tls_files;
pub mod supplies;
pub mod token;
pub mod function;
pub mod breaker;
pub mod live_breaker;
pub mod dial;
pub mod tunnel;
pub mod places;
pub mod backend;
pub mod resolve;
pub mod health;
pub mod probe;
pub mod warm;
pub mod handshake;
