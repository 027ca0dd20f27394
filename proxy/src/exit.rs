//! Exit codes, the same for every command.
//!
//! Input: none. Output: named codes. Must not: be renumbered; scripts rely on them.

use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    /// Invalid rules, unhealthy, refused.
    No = 1,
    /// `plan --detailed-exitcode` with changes.
    Changes = 2,
    /// A target or the admin API cannot be reached.
    Unreachable = 3,
    Usage = 64,
    Internal = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
