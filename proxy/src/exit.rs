//! Exit codes, the same for every command.
//!
//! Input: none. Output: named codes. Must not: be renumbered; scripts rely on them.

use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    /// Invalid rules, unhealthy, refused.
    No = 1,
    /// Not enough evidence.
    CannotTell = 2,
    /// A target or the admin API cannot be reached.
    Unreachable = 3,
    Usage = 64,
    Internal = 70,
}

impl Exit {
    /// `plan --detailed-exitcode`, as diff tools have it.
    pub const CHANGES: Exit = Exit::CannotTell;
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A line on stdout. A reader that has gone (`| head`) is not an error, and nothing to panic about.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// The same without the end of the line.
#[macro_export]
macro_rules! say_raw {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stdout(), $($text)*);
    }};
}
