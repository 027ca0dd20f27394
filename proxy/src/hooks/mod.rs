//! One file per phase of a request; `service` calls them in this order. Hooks adapt, they do not think: what can be decided
//! without pingora is decided in `banyan-routes`.

pub mod admission;
pub mod hygiene;
pub mod place;
pub mod authorize;
pub mod request;
pub mod again;
pub mod upstream;
pub mod rewrite;
pub mod response;
pub mod fail;
pub mod held;
pub mod reply;
pub mod invoke;
pub mod whole;
pub mod finish;
