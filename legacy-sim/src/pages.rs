//! Server-rendered pages: HTML in UTF-8, and one in EUC-KR as the Korean desk has had it for twenty years.
//!
//! Input: values of the store. Output: bytes. Must not: take anything from a request unescaped.

use crate::store::{Flight, clock, wall_clock};

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

pub fn flights(title: &str, flights: &[&Flight]) -> String {
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
    let rows = flights.iter().map(row).collect::<String>();
    page(title, &format!("<table>\n{rows}</table>\n<footer>Generated at {}</footer>", wall_clock()))
}

/// "Notice: check-in closes 60 minutes before departure", in EUC-KR or what else a side writes.
pub fn korean_notice(charset: &str) -> Vec<u8> {
    let text = format!(
        "<!doctype html>\n<html lang=\"ko\"><head><meta charset=\"{charset}\"><title>공지</title></head>\n<body><h1>공지</h1><p>탑승 수속은 출발 60분 전에 마감됩니다.</p></body></html>\n"
    );
    let encoding = encoding_rs::Encoding::for_label(charset.as_bytes()).unwrap_or(encoding_rs::UTF_8);
    encoding.encode(&text).0.into_owned()
}
