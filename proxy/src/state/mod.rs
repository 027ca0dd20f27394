//! State that is not in the rules.

pub mod fleet;
pub mod kill;
pub mod store;
