//! Bookings. Difference: an unknown flight is 400, not 422.

use super::{not_found, segments};
use crate::event::{Answer, Event};
use crate::store::Store;
use serde_json::json;

pub fn handle(event: &Event, store: &Store) -> Answer {
    let method = event.request_context.http.method.as_str();
    match (method, segments(event).as_slice()) {
        ("POST", ["bookings"]) => {
            let body = event.json();
            let text = |field: &str| body[field].as_str().unwrap_or_default();
            match store.book(text("flight"), text("passenger"), body["member"].as_str().map(str::to_owned)) {
                Some(booking) => {
                    let mut answer = Answer::json(201, &json!(booking));
                    answer.headers.insert("location".into(), format!("/api/bookings/{}", booking.id));
                    answer
                }
                None => Answer::json(400, &json!({ "message": "unknown flight" })),
            }
        }
        ("GET" | "HEAD", ["bookings", id]) => {
            store.booking(id).map_or_else(not_found, |booking| Answer::json(200, &json!(booking)))
        }
        _ => not_found(),
    }
}
