//! Loyalty points. Difference, and a real bug to be found by comparing: GOLD begins one point too late.

use super::{not_found, segments};
use crate::event::{Answer, Event};
use crate::store::Store;
use serde_json::json;

pub fn handle(event: &Event, store: &Store) -> Answer {
    match segments(event).as_slice() {
        ["loyalty", member] => {
            let points = store.points(member);
            Answer::json(200, &json!({ "member": member, "points": points, "tier": tier(points) }))
        }
        _ => not_found(),
    }
}

fn tier(points: u32) -> &'static str {
    match points {
        0..10_000 => "BLUE",
        10_000..=30_000 => "SILVER",
        _ => "GOLD",
    }
}
