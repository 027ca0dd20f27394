//! Flight search. Differences: prices are numbers, results are ordered by price, and every answer carries a `traceId`.

use super::{not_found, segments};
use crate::event::{Answer, Event};
use crate::store::{Flight, Store, clock};
use serde_json::{Value, json};

pub fn handle(event: &Event, store: &Store) -> Answer {
    match segments(event).as_slice() {
        ["flights"] => {
            let mut found = store.search(event.query("from"), event.query("to"));
            found.sort_by_key(|flight| (flight.price_cents, flight.id.clone()));
            let flights: Vec<Value> = found.into_iter().map(flight).collect();
            Answer::json(200, &json!({ "flights": flights, "traceId": event.request_context.request_id }))
        }
        ["flights", id] => match store.flight(id) {
            Some(found) => {
                let mut value = flight(found);
                value["traceId"] = json!(event.request_context.request_id);
                Answer::json(200, &value)
            }
            None => not_found(),
        },
        _ => not_found(),
    }
}

fn flight(flight: &Flight) -> Value {
    json!({
        "id": flight.id, "from": flight.from, "to": flight.to, "departs": clock(flight.departs),
        "minutes": flight.minutes, "price": f64::from(flight.price_cents) / 100.0, "currency": "EUR", "seats": flight.seats,
    })
}
