//! What is needed of AWS: where its services are, who we are, and signatures that prove it.

pub mod endpoint;
pub mod credentials;
pub mod sign;
pub mod secrets;
