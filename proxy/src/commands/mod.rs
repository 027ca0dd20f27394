//! One file per command or family of commands. Data goes to stdout, everything else to stderr.

pub mod rules;
pub mod changes;
pub mod check;
pub mod compare;
pub mod explain;
pub mod plan;
pub mod layout;
pub mod remote;
pub mod run;
pub mod size;
pub mod tap;
pub mod top;
pub mod demo;
