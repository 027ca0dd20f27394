//! The serverless airline as Lambda functions: one binary for `provided.al2023`, which function it is says its handler's name.
//!
//! Input: `_HANDLER` (or the function's own name): catalog, booking, payment, loyalty, badge, departures. Output: answers of format
//! 2.0; `badge` gives back the picture it gets; `departures` streams. Must not: keep what has to outlive an instance: bookings live in memory, as the demo's do. `AIRLINE_LEDGER`
//! names a file to which every write received is added, one JSON line each, so that tests can count executions.

use lambda_runtime::streaming::{Body, Response, channel};
use lambda_runtime::{Error, LambdaEvent, MetadataPrelude, service_fn};
use legacy_sim::event::{Answer, Event};
use legacy_sim::functions;
use legacy_sim::store::{Store, clock};
use serde_json::json;
use std::collections::BTreeMap;
use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let named = env::var("_HANDLER").ok().filter(|handler| known(handler));
    let name = named.or_else(|| env::var("AWS_LAMBDA_FUNCTION_NAME").ok()).unwrap_or_default();
    if !known(&name) {
        return Err(format!(
            "`{name}` is no function of the airline; expected _HANDLER to be one of {}, badge, departures",
            functions::NAMES.join(", ")
        )
        .into());
    }
    let store = Store::new();
    let (name, store) = (name.as_str(), &store);
    if name == "departures" {
        return lambda_runtime::run(service_fn(|event: LambdaEvent<Event>| async move {
            departures(&event.payload, store)
        }))
        .await;
    }
    lambda_runtime::run(service_fn(
        |event: LambdaEvent<Event>| async move { call(name, &event.payload, store) },
    ))
    .await
}

fn known(name: &str) -> bool {
    matches!(name, "badge" | "departures") || functions::NAMES.contains(&name)
}

fn call(name: &str, event: &Event, store: &Store) -> Result<Answer, Error> {
    let method = event.request_context.http.method.as_str();
    println!("{method} {}", event.raw_path);
    if matches!(method, "POST" | "PUT" | "PATCH" | "DELETE") {
        written(name, event)?;
    }
    if event.headers.contains_key("x-airline-fail") {
        return Err("asked to fail".into());
    }
    if name == "badge" {
        return Ok(badge(event));
    }
    functions::call(name, event, store).ok_or_else(|| format!("no function {name}").into())
}

/// A picture as it came, in the words of format 2.0: bytes are base64 both ways.
fn badge(event: &Event) -> Answer {
    let kind =
        event.headers.get("content-type").cloned().unwrap_or_else(|| "application/octet-stream".into());
    Answer {
        status_code: 200,
        headers: BTreeMap::from([("content-type".to_owned(), kind)]),
        cookies: vec!["badge=1; Path=/".into()],
        body: event.body.clone().unwrap_or_default(),
        is_base64_encoded: event.is_base64_encoded,
    }
}

/// Before anything is done with it, as the demo's ledger has it.
fn written(name: &str, event: &Event) -> Result<(), Error> {
    let Ok(path) = env::var("AIRLINE_LEDGER") else { return Ok(()) };
    let http = &event.request_context.http;
    let key = event.headers.get("idempotency-key");
    let line = json!({ "function": name, "what": format!("{} {}", http.method, http.path), "key": key });
    // One write call of a short line: lines of several instances do not mix.
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

/// The departures of an airport, one line each, sent as they are found; 20 ms apart, so that a reader sees them come.
/// `?fail=start` and `?fail=middle` end it with an error.
fn departures(event: &Event, store: &Store) -> Result<Response<Body>, Error> {
    if event.query("fail") == "start" {
        return Err("asked to fail".into());
    }
    let fails = event.query("fail") == "middle";
    let lines: Vec<String> = store
        .search(event.query("from"), "")
        .into_iter()
        .map(|flight| format!("{} {} {}\n", clock(flight.departs), flight.id, flight.to))
        .collect();
    let (mut sender, stream) = channel();
    tokio::spawn(async move {
        for (number, line) in lines.into_iter().enumerate() {
            if fails && number == 3 {
                sender.abort();
                return;
            }
            if sender.send_data(line.into()).await.is_err() {
                // The reader is gone; so is the reason to go on.
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut metadata_prelude =
        MetadataPrelude { cookies: vec!["seen=departures".into()], ..MetadataPrelude::default() };
    metadata_prelude.headers.insert("content-type", "text/plain; charset=utf-8".parse()?);
    Ok(Response { metadata_prelude, stream })
}
