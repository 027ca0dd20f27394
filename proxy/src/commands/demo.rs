//! `banyan demo`: the legacy airline, the serverless airline, the proxy and traffic, in one process.
//!
//! Input: two addresses. Output: a running demo with rules in a folder that can be edited, and a table of the live routes.
//! Must not: need anything installed, or touch a file outside its own folder in the temporary directory.

use crate::admin::api;
use crate::boot::Running;
use crate::commands::remote::table;
use crate::commands::run::{announce, launch};
use crate::exit::Exit;
use crate::proxy::Shared;
use crate::say;
use crate::say_raw;
use crate::settings::{Flags, LogTarget, Settings};
use bytes::Bytes;
use legacy_sim::airline::{Addresses, services};
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const RULES: &str = include_str!("../../../routes/rules/airline.yaml");
const SCHEMA: &str = include_str!("../../../routes/rules/schema.json");

/// Simulated passengers; each makes about two requests a second.
const PASSENGERS: usize = 24;
/// A member with exactly 30,000 points, who is GOLD on one side only.
const GOLDEN: &str = "member-12382";
const PAUSE: Duration = Duration::from_millis(500);

pub fn run(listen: SocketAddr, admin: SocketAddr, traffic: bool) -> Exit {
    let running = match prepare(listen, admin) {
        Ok(running) => running,
        Err(exit) => return exit,
    };
    announce(&running);
    let shared = running.shared().clone();
    let address = shared.settings.listeners[0].address;
    let admin = shared.settings.admin;
    say!("Banyan demo");
    say!("  proxy      http://{address}/        try: curl -i http://{address}/api/flights/BA010");
    say!("  admin      http://{admin}/api/v1/routes   metrics: http://{admin}/metrics");
    say!("  rules      {}   change a share and save", shared.settings.rules_dir.display());
    say!("  kill       touch {}", shared.settings.state_dir.join("KILL").display());
    say!("");
    let started = std::thread::Builder::new()
        .name("demo".into())
        .spawn(move || show(&shared, traffic.then_some(address)));
    if let Err(error) = started {
        eprintln!("banyan: {error}");
        return Exit::Internal;
    }
    running.run();
    Exit::Ok
}

fn prepare(listen: SocketAddr, admin: SocketAddr) -> Result<Box<Running>, Exit> {
    let fail = |error: io::Error| {
        eprintln!("banyan: {error}");
        Exit::Internal
    };
    // Held together, so that no two are the same.
    let (legacy, serverless, control) = {
        let held: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>().map_err(fail)?;
        let port = |at: usize| held[at].local_addr();
        (port(0).map_err(fail)?, port(1).map_err(fail)?, port(2).map_err(fail)?)
    };
    let folder = std::env::temp_dir().join(format!("banyan-demo-{}", listen.port()));
    write_rules(&folder, legacy, serverless).map_err(fail)?;
    let flags = Flags {
        listen: vec![listen],
        admin: Some(admin),
        rules: Some(folder.join("rules")),
        state: Some(folder.join("state")),
        attribution: true,
    };
    let mut settings = Settings::load(None, &flags).map_err(|error| {
        eprintln!("banyan: {error}");
        Exit::Usage
    })?;
    settings.observe.access = LogTarget::File(folder.join("access.log"));
    say!("airline: legacy http://{legacy}, functions http://{serverless}, faults http://{control}");
    launch(settings, false, services(Addresses { legacy, serverless, control }))
}

fn write_rules(folder: &Path, legacy: SocketAddr, serverless: SocketAddr) -> io::Result<PathBuf> {
    let rules = folder.join("rules");
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(&rules)?;
    let text = RULES
        .replace("127.0.0.1:9001", &legacy.to_string())
        .replace("127.0.0.1:9002", &serverless.to_string());
    std::fs::write(rules.join("airline.yaml"), text)?;
    std::fs::write(rules.join("schema.json"), SCHEMA)?;
    Ok(rules)
}

/// Traffic, and the table: every two seconds in place on a terminal, every ten as text elsewhere.
fn show(shared: &Arc<Shared>, traffic: Option<SocketAddr>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        if let Some(address) = traffic {
            for number in 0..PASSENGERS {
                tokio::spawn(passenger(address, number));
            }
        }
        let terminal = io::stdout().is_terminal();
        let every = Duration::from_secs(if terminal { 2 } else { 10 });
        let mut lines = 0;
        loop {
            tokio::time::sleep(every).await;
            let Some(live) = shared.live.load() else { continue };
            let value = api::routes(&live);
            let text = table(value["routes"].as_array().map_or(&[][..], Vec::as_slice));
            if terminal && lines > 0 {
                say_raw!("\x1b[{lines}A\x1b[J");
            }
            say!("{text}");
            lines = text.lines().count() + 1;
            let _ = io::stdout().flush();
        }
    });
}

/// Logs in, then searches, looks, books and pays for ever.
async fn passenger(address: SocketAddr, number: usize) {
    // One after the other, and not before the listener is there: people do not come all at once.
    tokio::time::sleep(Duration::from_millis(1_000 + number as u64 * 20)).await;
    let connector = Connector::<()>::new(None);
    let peer = HttpPeer::new(address, false, String::new());
    let session = format!("demo-passenger-{number}");
    let mut booking = String::new();
    // Each begins elsewhere, so that all routes have traffic all the time.
    for turn in number.. {
        let flight = format!("BA{:03}", (number % 7 + 1) * 10 + turn % 3);
        let (method, path, body) = match turn % 12 {
            0 => ("GET", "/".to_owned(), String::new()),
            8 => ("GET", "/flights?from=ICN&to=NRT".to_owned(), String::new()),
            9 => ("GET", "/kr/notice".to_owned(), String::new()),
            10 => ("POST", "/soap/fares".to_owned(), fare_request("BA010")),
            11 => ("GET", format!("/api/loyalty/{GOLDEN}"), String::new()),
            1 | 2 => ("GET", "/api/flights?from=ICN&to=NRT".to_owned(), String::new()),
            3 | 4 => ("GET", format!("/api/flights/{flight}"), String::new()),
            5 => (
                "POST",
                "/api/bookings".to_owned(),
                format!("{{\"flight\":\"{flight}\",\"passenger\":\"{session}\",\"member\":\"{session}\"}}"),
            ),
            6 => ("POST", "/api/payments".to_owned(), format!("{{\"booking\":\"{booking}\"}}")),
            _ => ("GET", format!("/api/loyalty/{session}"), String::new()),
        };
        if let Ok(answer) = exchange(&connector, &peer, method, &path, &session, body).await
            && turn % 12 == 5
        {
            let value: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
            booking = value["id"].as_str().unwrap_or_default().to_owned();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn fare_request(flight: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><q:GetFareQuote xmlns:q=\"urn:banyan-air:fares\"><q:Flight>{flight}</q:Flight></q:GetFareQuote></s:Body></s:Envelope>"
    )
}

async fn exchange(
    connector: &Connector,
    peer: &HttpPeer,
    method: &str,
    path: &str,
    session_id: &str,
    body: String,
) -> pingora_error::Result<Vec<u8>> {
    let (mut session, _) = connector.get_http_session(peer).await?;
    let mut request = RequestHeader::build(method, path.as_bytes(), Some(5))?;
    request.insert_header("Host", "air.example")?;
    request.insert_header("Cookie", format!("SESSIONID={session_id}"))?;
    request.insert_header("User-Agent", "banyan-demo")?;
    if !body.is_empty() {
        let xml = body.starts_with('<');
        request.insert_header(
            "Content-Type",
            if xml { "text/xml; charset=utf-8" } else { "application/json" },
        )?;
        request.insert_header("Content-Length", body.len())?;
    }
    session.write_request_header(Box::new(request)).await?;
    if !body.is_empty() {
        session.write_request_body(Bytes::from(body), true).await?;
    }
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let mut answer = Vec::new();
    while let Some(chunk) = session.read_response_body().await? {
        answer.extend_from_slice(&chunk);
    }
    connector.release_http_session(session, peer, None).await;
    Ok(answer)
}
