//! Payments. Difference: the answer carries a `status` word beside `paid`.

use super::{not_found, segments};
use crate::event::{Answer, Event};
use crate::store::Store;
use serde_json::json;

pub fn handle(event: &Event, store: &Store) -> Answer {
    match (event.request_context.http.method.as_str(), segments(event).as_slice()) {
        ("POST", ["payments"]) => {
            let body = event.json();
            let paid = store.pay(body["booking"].as_str().unwrap_or_default());
            paid.map_or_else(not_found, |booking| {
                Answer::json(
                    200,
                    &json!({ "booking": booking.id, "paid": booking.paid, "status": "SETTLED" }),
                )
            })
        }
        _ => not_found(),
    }
}
