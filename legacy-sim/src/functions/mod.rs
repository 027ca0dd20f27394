//! The serverless airline: six functions, event in, answer out.
//!
//! Input: API Gateway v2 events. Output: answers. Must not: know HTTP; real Lambda runtimes call the same handlers.
//!
//! They differ from the monolith on purpose, and the list is in the README of this crate.

pub mod booking;
pub mod catalog;
pub mod fares;
pub mod loyalty;
pub mod pages;
pub mod payment;

use crate::event::{Answer, Event};
use crate::store::Store;

pub const NAMES: [&str; 6] = ["catalog", "booking", "payment", "loyalty", "fares", "pages"];

/// The function called `name`, or `None`.
pub fn call(name: &str, event: &Event, store: &Store) -> Option<Answer> {
    Some(match name {
        "catalog" => catalog::handle(event, store),
        "booking" => booking::handle(event, store),
        "payment" => payment::handle(event, store),
        "loyalty" => loyalty::handle(event, store),
        "fares" => fares::handle(event, store),
        "pages" => pages::handle(event, store),
        _ => return None,
    })
}

/// The segments of the event's path, without the API's own prefix.
fn segments(event: &Event) -> Vec<&str> {
    let path = event.raw_path.trim_matches('/');
    path.strip_prefix("api/").unwrap_or(path).split('/').collect()
}

fn not_found() -> Answer {
    Answer::json(404, &serde_json::json!({ "message": "Not Found" }))
}
