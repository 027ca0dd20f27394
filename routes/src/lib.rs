//! What a route is, and all that can be decided about it: pure, without clock, randomness, files or network.
//!
//! ```text
//! YAML texts -> read -> RuleFile -> compile -> RouteTable ----> find -> decide -> Decision
//!                  \________problems_______/        \--> explain, diff, tests of the rules
//! ```
//!
//! Modules stand in reading order, and a file uses only files above it.

pub mod ids;
pub mod address;
pub mod units;
pub mod terms;
pub mod forms;
pub mod values;
pub mod file;
pub mod locate;
pub mod problem;
pub mod items;
pub mod read;
pub mod request;
pub mod path;
pub mod pattern;
pub mod lookup;
pub mod guard;
pub mod bucket;
pub mod rewrite;
pub mod cors;
pub mod backend;
pub mod compare;
pub mod redact;
pub mod stats;
pub mod noise;
pub mod evidence;
pub mod read_back;
pub mod egress;
pub mod table;
pub mod decide;
pub mod life;
pub mod audit;
pub mod state;
pub mod plan;
pub mod discover;
pub mod override_header;
pub mod automata;
pub mod overlap;
pub mod compile;
pub mod request_line;
pub mod explain;
pub mod explain_egress;
pub mod rule_tests;
pub mod diff;
pub mod fmt;
pub mod size;
pub mod schema;
