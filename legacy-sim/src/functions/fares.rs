//! The fare service. Difference: a fare has no more decimals than it needs.

use crate::event::{Answer, Event};
use crate::soap;
use crate::store::{Flight, Store};
use std::collections::BTreeMap;

pub fn handle(event: &Event, store: &Store) -> Answer {
    let fare = |flight: &Flight| (f64::from(flight.price_cents) / 100.0).to_string();
    let (status_code, body) = soap::answer(store, event.body.as_deref().unwrap_or_default().as_bytes(), fare);
    let headers = BTreeMap::from([("content-type".to_owned(), soap::TYPE.to_owned())]);
    Answer { status_code, headers, body, ..Answer::default() }
}
