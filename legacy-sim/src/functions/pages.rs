//! Server-rendered pages. Differences: another title of the flight list; the Korean notice is in UTF-8.

use super::not_found;
use crate::event::{Answer, Event};
use crate::pages;
use crate::store::Store;
use std::collections::BTreeMap;

pub fn handle(event: &Event, store: &Store) -> Answer {
    let body = match event.raw_path.trim_end_matches('/') {
        "/flights" => pages::flights("Flight search", &store.search(event.query("from"), event.query("to"))),
        "/kr/notice" => String::from_utf8_lossy(&pages::korean_notice("utf-8")).into_owned(),
        _ => return not_found(),
    };
    let headers = BTreeMap::from([("content-type".to_owned(), "text/html; charset=utf-8".to_owned())]);
    Answer { status_code: 200, headers, body, ..Answer::default() }
}
