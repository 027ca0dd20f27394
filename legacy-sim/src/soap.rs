//! The fare service: SOAP 1.1, one operation, `GetFareQuote`.
//!
//! Input: an envelope. Output: an envelope, or a fault with status 500 as SOAP 1.1 section 6.2 wants it. Must not: resolve
//! entities.

use crate::reply::{Reply, reply};
use crate::store::Store;
use quick_xml::Reader;
use quick_xml::events::Event;

const TYPE: &str = "text/xml; charset=utf-8";

pub fn handle(store: &Store, body: &[u8]) -> Reply {
    match flight_number(body).and_then(|id| store.flight(&id)) {
        Some(flight) => {
            let price = format!("{}.{:02}", flight.price_cents / 100, flight.price_cents % 100);
            let inner = format!(
                "<f:GetFareQuoteResponse xmlns:f=\"urn:banyan-air:fares\"><f:Flight>{}</f:Flight><f:Fare currency=\"EUR\">{price}</f:Fare></f:GetFareQuoteResponse>",
                flight.id
            );
            reply(200, TYPE, envelope(&inner))
        }
        None => reply(
            500,
            TYPE,
            envelope(
                "<soap:Fault><faultcode>soap:Client</faultcode><faultstring>unknown flight</faultstring></soap:Fault>",
            ),
        ),
    }
}

fn envelope(inner: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>{inner}</soap:Body></soap:Envelope>\n"
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
