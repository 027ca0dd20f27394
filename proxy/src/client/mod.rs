//! Requests that Banyan makes itself: names resolved, one exchange at a time, over pingora's connector.
//!
//! Everything that is not the framework's own proxying goes through here: functions, whole bodies, credentials, tokens.

pub mod dns;
pub mod exchange;
pub mod fetch;
