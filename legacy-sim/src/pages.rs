//! Server-rendered pages: HTML in UTF-8, and one in EUC-KR as the Korean desk has had it for twenty years.
//!
//! Input: values of the store. Output: bytes. Must not: take anything from a request unescaped.

use crate::store::{Flight, clock};

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
    )
}

pub fn home(user: Option<&str>) -> String {
    let greeting = user.map_or("Welcome".to_owned(), |user| format!("Welcome back, {}", escape(user)));
    page(
        "Banyan Air",
        &format!(
            "<p>{greeting}</p>\n<form action=\"/flights\"><input name=\"from\"><input name=\"to\"><button>Search</button></form>"
        ),
    )
}

pub fn flights(flights: &[&Flight]) -> String {
    let row = |flight: &&Flight| {
        let price = format!("{}.{:02}", flight.price_cents / 100, flight.price_cents % 100);
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{price}</td></tr>\n",
            flight.id,
            flight.from,
            flight.to,
            clock(flight.departs)
        )
    };
    page("Flights", &format!("<table>\n{}</table>", flights.iter().map(row).collect::<String>()))
}

/// "Notice: check-in closes 60 minutes before departure", in EUC-KR.
pub fn korean_notice() -> Vec<u8> {
    let text = "<!doctype html>\n<html lang=\"ko\"><head><meta charset=\"euc-kr\"><title>공지</title></head>\n<body><h1>공지</h1><p>탑승 수속은 출발 60분 전에 마감됩니다.</p></body></html>\n";
    encoding_rs::EUC_KR.encode(text).0.into_owned()
}
