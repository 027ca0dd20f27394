//! Test runs: recorded requests, asked of both sides or read with their answers, compared by the same engine as live traffic.
//!
//! ```text
//! file -> input -> Recorded -> play (target, pace) -> Outcome -> score -> Report -> text, JSON, JUnit, Markdown, HTML
//! ```

pub mod record;
pub mod input;
pub mod target;
pub mod play;
pub mod score;
pub mod report;
