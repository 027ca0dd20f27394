//! The fare service: SOAP 1.1, one operation, `GetFareQuote`.
//!
//! Input: an envelope. Output: an envelope, or a fault with status 500 as SOAP 1.1 section 6.2 wants it. Must not: resolve
//! entities.

use crate::store::{Flight, Store, fresh_id};
use quick_xml::Reader;
use quick_xml::events::Event;

pub const TYPE: &str = "text/xml; charset=utf-8";

/// Status and envelope; `fare` is how this side writes what a flight costs.
pub fn answer(store: &Store, body: &[u8], fare: impl Fn(&Flight) -> String) -> (u16, String) {
    match flight_number(body).and_then(|id| store.flight(&id)) {
        Some(flight) => {
            let inner = format!(
                "<f:GetFareQuoteResponse xmlns:f=\"urn:banyan-air:fares\"><f:Flight>{}</f:Flight><f:Fare currency=\"EUR\">{}</f:Fare></f:GetFareQuoteResponse>",
                flight.id,
                fare(flight)
            );
            (200, envelope(&inner))
        }
        None => (
            500,
            envelope(
                "<soap:Fault><faultcode>soap:Client</faultcode><faultstring>unknown flight</faultstring></soap:Fault>",
            ),
        ),
    }
}

fn envelope(inner: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Header><m:MessageID xmlns:m=\"urn:banyan-air:trace\">{}</m:MessageID></soap:Header><soap:Body>{inner}</soap:Body></soap:Envelope>\n",
        fresh_id()
    )
}

/// The text of the first element called `Flight`, whatever its prefix.
fn flight_number(body: &[u8]) -> Option<String> {
    let mut reader = Reader::from_reader(body);
    let mut buffer = Vec::new();
    let mut inside = false;
    loop {
        match reader.read_event_into(&mut buffer).ok()? {
            Event::Start(start) => inside = start.local_name().as_ref() == b"Flight",
            Event::Text(text) if inside => return Some(String::from_utf8_lossy(&text).trim().to_owned()),
            Event::Eof => return None,
            _ => {}
        }
        buffer.clear();
    }
}
