//! State that is not in the rules.

pub mod kill;
pub mod store;
