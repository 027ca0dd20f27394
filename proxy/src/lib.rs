//! Banyan's proxy: pingora's phases, bound to the decisions of `banyan-routes`.
//!
//! ```text
//! request_filter -> upstream_peer -> upstream_request_filter -> upstream_response_filter -> response_filter -> logging
//! hooks/request     hooks/upstream   hooks/rewrite              hooks/response (received)   hooks/response     hooks/finish
//!                     ^  failed: hooks/again  <------------------------/
//! ```
//!
//! Modules stand in reading order, and a file uses only files above it.

pub mod metrics;
pub mod caps;
pub mod client;
pub mod aws;
pub mod lambda;
pub mod settings;
pub mod targets;
pub mod private;
pub mod state;
pub mod evidence;
pub mod silence;
pub mod memory;
pub mod callers;
pub mod ceiling;
pub mod rate;
pub mod api_keys;
pub mod recent;
pub mod fleet_limit;
pub mod tokens;
pub mod authorizers;
pub mod attribution;
pub mod live;
pub mod figures;
pub mod change;
pub mod discovery;
pub mod rule_dir;
pub mod reload;
pub mod leaving;
pub mod doors;
pub mod succession;
pub mod control;
pub mod wire;
pub mod trace;
pub mod spans;
pub mod facts;
pub mod claims;
pub mod brings;
pub mod access_log;
pub mod emf;
pub mod tap;
pub mod shadow;
pub mod context;
pub mod answers;
pub mod proxy_protocol;
pub mod arrival;
pub mod proxy;
pub mod certificates;
pub mod egress;
pub mod hooks;
pub mod decode;
pub mod mirror;
pub mod testrun;
pub mod service;
pub mod front;
pub mod admin;
pub mod listen;
pub mod boot;
pub mod admin_client;
pub mod exit;
pub mod commands;
pub mod cli;
