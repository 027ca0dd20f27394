//! `banyan top`: routes and their sides on a terminal, a snapshot a second.
//!
//! Input: the admin API's stream, and keys. Output: a table in place; elsewhere than on a terminal one table, or the API's JSON. Must not: leave a
//! terminal in another state than it was found in.

use crate::admin_client::{AdminClient, Unreachable};
use crate::commands::remote::{finish, plain, refused};
use crate::exit::Exit;
use crate::say;
use crate::say_raw;
use banyan_routes::ids::SharePpm;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// How soon a key is noticed.
const LOOK: Duration = Duration::from_millis(100);
const HEAD: [&str; 11] =
    ["ROUTE", "STAGE", "SHARE", "LEGACY", "FAILED", "P95", "SERVERLESS", "FAILED", "P95", "DIFFER", "STATE"];

/// What is shown of it, and how.
#[derive(Default)]
struct View {
    order: Order,
    /// Rows above the first that is shown.
    above: usize,
    /// When the last snapshot came.
    heard: Option<Instant>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Name,
    Traffic,
    Trouble,
}

impl Order {
    fn next(self) -> Order {
        match self {
            Order::Name => Order::Traffic,
            Order::Traffic => Order::Trouble,
            Order::Trouble => Order::Name,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Order::Name => "name",
            Order::Traffic => "traffic",
            Order::Trouble => "trouble",
        }
    }
}

pub fn run(client: &AdminClient, json: bool, once: bool) -> Exit {
    if json || once || !std::io::stdout().is_terminal() {
        return one(client, json);
    }
    let (send, snapshots) = channel();
    // What is streamed comes by a thread of its own: keys are not to wait for it, and neither is leaving.
    let client = client.clone();
    let reader = std::thread::spawn(move || {
        let ended = client.stream("/api/v1/events", |line| match data(line) {
            Some(value) => send.send(value).is_ok(),
            None => true,
        });
        ended.map(|(status, value)| if status == 200 { Exit::Ok } else { refused(status, &value, json) })
    });
    match watch(&snapshots) {
        Ok(Left::ByKey) => Exit::Ok,
        Ok(Left::StreamEnded) => finish(match reader.join() {
            Ok(Ok(Exit::Ok)) => Err(Unreachable("the stream ended".into())),
            Ok(ended) => ended,
            Err(_) => Err(Unreachable("the reader broke".into())),
        }),
        Err(error) => {
            eprintln!("banyan: {error}");
            Exit::Internal
        }
    }
}

/// `data: {...}` of a server-sent event.
fn data(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_prefix("data: ")?).ok()
}

fn one(client: &AdminClient, json: bool) -> Exit {
    let mut found = None;
    let streamed = client.stream("/api/v1/events?count=1", |line| {
        found = found.take().or_else(|| data(line));
        true
    });
    finish(streamed.map(|(status, value)| match (status, &found) {
        (200, Some(snapshot)) if json => {
            say!("{snapshot:#}");
            Exit::Ok
        }
        (200, Some(snapshot)) if snapshot["revision"].is_null() => {
            eprintln!("banyan: no valid rule set serves yet");
            Exit::No
        }
        (200, Some(snapshot)) => {
            say_raw!("{}", plain_table(snapshot));
            Exit::Ok
        }
        (200, None) => Exit::Internal,
        (status, _) => refused(status, &value, json),
    }))
}

enum Left {
    ByKey,
    StreamEnded,
}

fn watch(snapshots: &Receiver<Value>) -> std::io::Result<Left> {
    let mut terminal = ratatui::try_init()?;
    let mut view = View::default();
    let mut latest = None;
    let left = loop {
        match snapshots.try_recv() {
            Ok(snapshot) => (latest, view.heard) = (Some(snapshot), Some(Instant::now())),
            Err(TryRecvError::Disconnected) => break Ok(Left::StreamEnded),
            Err(TryRecvError::Empty) => {}
        }
        if let Err(error) = terminal.draw(|frame| draw(frame, latest.as_ref(), &mut view)) {
            break Err(error);
        }
        match event::poll(LOOK).and_then(|ready| if ready { event::read().map(Some) } else { Ok(None) }) {
            Ok(Some(Event::Key(key))) if key.kind == KeyEventKind::Press => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => break Ok(Left::ByKey),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => break Ok(Left::ByKey),
                KeyCode::Char('s') => view.order = view.order.next(),
                KeyCode::Down => view.above += 1,
                KeyCode::Up => view.above = view.above.saturating_sub(1),
                KeyCode::PageDown => view.above += 20,
                KeyCode::PageUp => view.above = view.above.saturating_sub(20),
                KeyCode::Home => view.above = 0,
                _ => {}
            },
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    ratatui::restore();
    left
}

fn draw(frame: &mut Frame<'_>, snapshot: Option<&Value>, view: &mut View) {
    let areas = Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]);
    let [top, middle, bottom] = areas.areas(frame.area());
    let Some(snapshot) = snapshot else {
        return frame.render_widget(Paragraph::new("waiting for the first snapshot"), top);
    };
    frame.render_widget(Paragraph::new(summary(snapshot).map(Line::from).to_vec()), top);
    let rows = rows(snapshot, view.order);
    let height = usize::from(middle.height.saturating_sub(1));
    view.above = view.above.min(rows.len().saturating_sub(height));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let cells = |(trouble, cells): &(bool, [String; 11])| {
        let row = Row::new(cells.iter().map(|cell| Cell::from(cell.clone())));
        if *trouble { row.style(bold) } else { row }
    };
    let shown: Vec<Row<'_>> = rows.iter().skip(view.above).take(height).map(cells).collect();
    let widths = [24, 10, 8, 9, 7, 8, 10, 7, 8, 9, 24].map(Constraint::Max);
    frame.render_widget(Table::new(shown, widths).header(Row::new(HEAD).style(bold)), middle);
    let silent = view.heard.map_or(0, |at| at.elapsed().as_secs());
    let silent = if silent > 2 { format!("NO NEWS FOR {silent} s   ") } else { String::new() };
    let keys =
        format!("{silent}q quit   s order ({})   up, down, page   {} routes", view.order.word(), rows.len());
    frame.render_widget(Paragraph::new(keys), bottom);
}

fn summary(snapshot: &Value) -> [String; 2] {
    let about = &snapshot["revision"];
    let kills: Vec<String> = about["kill"].as_array().into_iter().flatten().map(plain).collect();
    let killed = if kills.is_empty() { "kill off".to_owned() } else { format!("KILL {}", kills.join(", ")) };
    let rules = if about["last_reload_accepted"] == json!(true) { "rules accepted" } else { "RULES REFUSED" };
    let store = if about["store"]["up"] == json!(true) { "store ok" } else { "STORE AWAY" };
    let total = |side: &str| -> f64 {
        let routes = snapshot["routes"].as_array().into_iter().flatten();
        routes.filter_map(|route| route["now"][side]["rate"].as_f64()).fold(0.0, |sum, rate| sum + rate)
    };
    if about.is_null() {
        return ["no valid rule set serves yet".into(), String::new()];
    }
    [
        format!(
            "banyan {}   revision {}   {rules}   {killed}   {store}",
            plain(&about["banyan"]),
            plain(&about["revision"])
        ),
        format!("{:.1} requests/s on legacy, {:.1} on serverless", total("legacy"), total("serverless")),
    ]
}

/// Whether a route is in trouble, and its cells.
fn rows(snapshot: &Value, order: Order) -> Vec<(bool, [String; 11])> {
    let mut routes: Vec<&Value> = snapshot["routes"].as_array().into_iter().flatten().collect();
    let rate = |route: &Value| -> f64 {
        ["legacy", "serverless"].iter().filter_map(|side| route["now"][side]["rate"].as_f64()).sum()
    };
    match order {
        Order::Name => routes.sort_by_key(|route| plain(&route["id"])),
        Order::Traffic => routes.sort_by(|a, b| rate(b).total_cmp(&rate(a))),
        Order::Trouble => routes.sort_by_key(|route| (trouble(route).is_empty(), plain(&route["id"]))),
    }
    routes.into_iter().map(|route| (!trouble(route).is_empty(), cells(route))).collect()
}

fn trouble(route: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    if route["killed"] == json!(true) {
        words.push("killed".into());
    }
    if route["state"]["rolled_back"] == json!(true) {
        words.push("rolled back".into());
    }
    for side in ["legacy", "serverless"] {
        if route["health"][side]["available"] == json!(false) {
            words.push(format!("{side} away"));
        }
        if route["now"][side]["failed"].as_f64().is_some_and(|failed| failed > 0.01) {
            words.push(format!("{side} fails"));
        }
    }
    words.join(", ")
}

fn cells(route: &Value) -> [String; 11] {
    let share = route["share_ppm"].as_u64().and_then(|ppm| SharePpm::new(ppm as u32));
    let side = |side: &str| {
        let now = &route["now"][side];
        let dash = || "-".to_owned();
        let failed = now["failed"].as_f64().map_or_else(dash, |failed| format!("{:.2}%", failed * 100.0));
        let p95 = now["p95"].as_f64().map_or_else(dash, |p95| format!("{:.1}ms", p95 * 1_000.0));
        [format!("{:.1}/s", now["rate"].as_f64().unwrap_or_default()), failed, p95]
    };
    let ([legacy, legacy_failed, legacy_p95], [serverless, failed, p95]) =
        (side("legacy"), side("serverless"));
    let differ = route["parity"]["upper_bound"].as_f64();
    let state = match (trouble(route), route["gate"]["verdict"].as_str(), &route["state"]["hold"]) {
        (words, _, _) if !words.is_empty() => words,
        (_, _, hold) if hold.is_object() => "held".into(),
        (_, Some(verdict), _) => verdict.replace('_', " "),
        _ => String::new(),
    };
    [
        plain(&route["id"]),
        plain(&route["stage"]),
        share.map_or_else(String::new, |share| share.to_string()),
        legacy,
        legacy_failed,
        legacy_p95,
        serverless,
        failed,
        p95,
        differ.map_or_else(|| "-".into(), |bound| format!("<={:.2}%", bound * 100.0)),
        state,
    ]
}

/// The same for a pipe.
fn plain_table(snapshot: &Value) -> String {
    let all: Vec<[String; 11]> = std::iter::once(HEAD.map(str::to_owned))
        .chain(rows(snapshot, Order::Name).into_iter().map(|(_, cells)| cells))
        .collect();
    let width = |at: usize| all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; 11]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let [first, second] = summary(snapshot);
    format!("{first}\n{second}\n{}", all.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn snapshot() -> Value {
        let side =
            |rate: f64, failed: f64| json!({ "rate": rate, "failed": failed, "p50": 0.001, "p95": 0.0025 });
        let quiet = json!({ "rate": 0.0, "failed": null, "p50": null, "p95": null });
        json!({
            "version": 1,
            "revision": { "banyan": "0.1.0", "revision": "abc", "kill": [], "last_reload_accepted": true, "store": { "up": true } },
            "routes": [
                { "id": "orders", "stage": "ramp", "share_ppm": 250_000, "now": { "legacy": side(7.5, 0.0), "serverless": side(2.5, 0.2) }, "parity": { "upper_bound": 0.0012 } },
                { "id": "alone", "stage": "legacy", "share_ppm": 0, "now": { "legacy": quiet, "serverless": quiet } },
            ],
        })
    }

    #[test]
    fn a_terminal_shows_each_route_with_both_sides() {
        let mut terminal = Terminal::new(TestBackend::new(130, 8)).expect("a terminal");
        let mut view = View { above: 99, ..View::default() };
        terminal.draw(|frame| draw(frame, Some(&snapshot()), &mut view)).expect("drawn");
        let shown: Vec<String> = terminal
            .backend()
            .buffer()
            .content()
            .chunks(130)
            .map(|line| {
                line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned()
            })
            .collect();
        assert_eq!(shown[1], "7.5 requests/s on legacy, 2.5 on serverless");
        assert!(shown[3].starts_with("alone ") && shown[4].starts_with("orders "), "{shown:#?}");
        for word in ["ramp", "25%", "7.5/s", "20.00%", "2.5ms", "<=0.12%", "serverless fails"] {
            assert!(shown[4].contains(word), "{word} in {}", shown[4]);
        }
        assert!(shown[7].contains("2 routes"));
    }

    #[test]
    fn trouble_comes_first_when_asked_for_and_a_narrow_terminal_does_no_harm() {
        assert_eq!(rows(&snapshot(), Order::Trouble)[0].1[0], "orders");
        let mut terminal = Terminal::new(TestBackend::new(3, 2)).expect("a terminal");
        terminal.draw(|frame| draw(frame, Some(&snapshot()), &mut View::default())).expect("drawn");
        terminal.draw(|frame| draw(frame, Some(&json!({})), &mut View::default())).expect("drawn");
        assert!(plain_table(&snapshot()).lines().count() == 5);
    }
}
