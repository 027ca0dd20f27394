//! Commands that ask a running proxy: status, routes, show, reload, healthcheck.
//!
//! Input: the admin API. Output: tables or the API's JSON. Must not: change anything but by `reload`.

use crate::admin_client::{AdminClient, Unreachable, escaped};
use crate::exit::Exit;
use crate::say;
use crate::say_raw;
use banyan_routes::ids::SharePpm;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::Duration;

/// As often as people look.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Prints and turns "cannot be reached" into its exit code.
pub fn finish(result: Result<Exit, Unreachable>) -> Exit {
    result.unwrap_or_else(|error| {
        eprintln!("banyan: {error}");
        Exit::Unreachable
    })
}

/// An API answer that is not a success: its problem on stderr, and on stdout for who reads JSON.
pub fn refused(status: u16, value: &Value, json: bool) -> Exit {
    if json && value.is_object() {
        say!("{value:#}");
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    eprintln!("banyan: {status} {}: {}", text("title"), text("detail"));
    Exit::No
}

/// What probes wait for at most.
const PROBE: Duration = Duration::from_secs(5);

/// An answer, as long as it is one of Banyan's.
fn known(result: Result<(u16, Value), Unreachable>, field: &str) -> Result<(u16, Value), Unreachable> {
    let (status, value) = result?;
    match status {
        200 if value.get(field).is_none() => {
            Err(Unreachable("what answers is not the admin API of Banyan".into()))
        }
        _ => Ok((status, value)),
    }
}

pub fn healthcheck(client: &AdminClient, json: bool) -> Exit {
    finish(known(client.get_within("/readyz", PROBE), "ready").map(|(status, mut value)| {
        if json && value.is_object() {
            value["version"] = json!(1);
        }
        say!("{value}");
        if status == 200 { Exit::Ok } else { Exit::No }
    }))
}

pub fn status(client: &AdminClient, json: bool) -> Exit {
    finish(known(client.get("/api/v1/revision"), "banyan").map(|(status, value)| {
        if status != 200 {
            return refused(status, &value, json);
        }
        if json {
            say!("{value:#}");
            return Exit::Ok;
        }
        say!("banyan     {}", plain(&value["banyan"]));
        say!("revision   {}", plain(&value["revision"]));
        let stages =
            value["stages"].as_object().into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
        let stages: Vec<String> = stages.map(|(name, count)| format!("{count} {name}")).collect();
        say!("routes     {} ({})", value["routes"], stages.join(", "));
        say!(
            "reload     {}",
            if value["last_reload_accepted"] == json!(true) {
                "accepted"
            } else {
                "REFUSED; the last good rules serve"
            }
        );
        let kills: Vec<String> = value["kill"].as_array().into_iter().flatten().map(plain).collect();
        say!("kill       {}", if kills.is_empty() { "off".into() } else { kills.join(", ") });
        let store = &value["store"];
        let away = match store["unsent"].as_u64() {
            Some(1..) => "AWAY; what was done meanwhile is told when it is back",
            _ => "AWAY; the last state serves, and nothing is raised",
        };
        let up = if store["up"] == json!(true) { "ok" } else { away };
        say!("store      {}, {up}", plain(&store["kind"]));
        for it in value["fleet"]["replicas"].as_array().into_iter().flatten() {
            let leads = if it["leads"] == json!(true) { ", controller" } else { "" };
            let same =
                it["rules_revision"] == value["revision"] && it["state_revision"] == value["state_revision"];
            say!(
                "replica    {} {} state {}{leads}{}",
                plain(&it["admin"]),
                plain(&it["rules_revision"]),
                it["state_revision"],
                if same { "" } else { ", NOT AS HERE" }
            );
        }
        say!("draining   {}", if value["draining"] == json!(true) { "yes" } else { "no" });
        Exit::Ok
    }))
}

/// Status and routes, in place on a terminal. Ends when it is interrupted, or when the proxy cannot be reached.
#[expect(clippy::disallowed_methods, reason = "a command of its own, which serves nobody")]
pub fn watch(client: &AdminClient, json: bool) -> Exit {
    let in_place = std::io::stdout().is_terminal() && !json;
    loop {
        if in_place {
            say_raw!("\x1b[H\x1b[J");
        }
        let shown = [status(client, json), routes(client, json)];
        if let Some(failed) = shown.into_iter().find(|exit| *exit != Exit::Ok) {
            return failed;
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

pub fn routes(client: &AdminClient, json: bool) -> Exit {
    finish(client.get("/api/v1/routes").map(|(status, value)| {
        if status != 200 {
            return refused(status, &value, json);
        }
        if json {
            say!("{value:#}");
        } else {
            say_raw!("{}", table(value["routes"].as_array().map_or(&[][..], Vec::as_slice)));
        }
        Exit::Ok
    }))
}

/// One line a route.
pub fn table(routes: &[Value]) -> String {
    let header = [
        "ROUTE",
        "STAGE",
        "SHARE",
        "KILL",
        "LEGACY",
        "ANSWERED",
        "FAILED",
        "SERVERLESS",
        "ANSWERED",
        "FAILED",
    ];
    let mut rows: Vec<Vec<String>> = vec![header.iter().map(|name| (*name).to_owned()).collect()];
    for route in routes {
        let share = route["share_ppm"]
            .as_u64()
            .and_then(|ppm| SharePpm::new(ppm as u32))
            .map_or(String::new(), |share| share.to_string());
        let count = |side: &str, what: &str| route["requests"][side][what].to_string();
        rows.push(vec![
            plain(&route["id"]),
            plain(&route["stage"]),
            share,
            if route["killed"] == json!(true) { "yes".into() } else { "-".into() },
            plain(&route["legacy"]),
            count("legacy", "answered"),
            count("legacy", "failed"),
            plain(&route["serverless"]),
            count("serverless", "answered"),
            count("serverless", "failed"),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

pub fn plain(value: &Value) -> String {
    match value {
        // Nothing that came over the network moves a terminal's cursor.
        Value::String(text) => text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "?"),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

pub fn show(client: &AdminClient, id: &str, json: bool) -> Exit {
    finish(client.get(&format!("/api/v1/routes/{}", escaped(id))).map(|(status, value)| {
        if status != 200 {
            return refused(status, &value, json);
        }
        if json {
            say!("{value:#}");
            return Exit::Ok;
        }
        say_raw!("{}", table(std::slice::from_ref(&value)));
        for field in ["owner", "group", "cohort", "file", "revision"] {
            say!("{field:<10} {}", plain(&value[field]));
        }
        if let Some(verdict) = value["gate"]["verdict"].as_str() {
            say!("{:<10} {verdict}", "gate");
            for it in value["gate"]["reasons"].as_array().into_iter().flatten() {
                say!("{:<10} {}: {}", "", plain(&it["gate"]), plain(&it["text"]));
            }
        }
        if value["silence"].is_object() {
            silence(&value["silence"]);
        }
        if let Ok((200, evidence)) = client.get(&format!("/api/v1/evidence/{}", escaped(id)))
            && evidence["eligible"] != json!(0)
        {
            shadowed(client, id, &evidence);
        }
        value["functions"].as_array().into_iter().flatten().for_each(function);
        if value["rule"].is_null() {
            // The default is made of `defaults.legacy`, and stands nowhere.
            return Exit::Ok;
        }
        say!("rule\n{}", serde_yaml::to_string(&value["rule"]).unwrap_or_default().trim_end());
        Exit::Ok
    }))
}

/// Paths that no route claims, as templates; with `yaml`, as the rules they would need.
pub fn unclaimed(client: &AdminClient, json: bool, yaml: bool) -> Exit {
    finish(client.get("/api/v1/unclaimed").map(|(status, value)| {
        if status != 200 {
            return refused(status, &value, json);
        }
        let templates = value["templates"].as_array().map_or(&[][..], Vec::as_slice);
        if json {
            say!("{value:#}");
        } else if yaml {
            say!("routes:");
            for it in templates {
                say!("# {} requests seen", it["requests"]);
                say_raw!("{}", plain(&it["rule"]));
            }
        } else {
            for it in templates {
                let methods: Vec<String> =
                    it["methods"].as_array().into_iter().flatten().map(plain).collect();
                say!(
                    "{:>9}  {:<16} {}{}",
                    it["requests"],
                    methods.join(","),
                    plain(&it["host"]),
                    plain(&it["path"])
                );
            }
            say!("{} requests looked at, {} not kept", value["seen"], value["not_kept"]);
        }
        Exit::Ok
    }))
}

/// Whether legacy may be switched off, and who would miss it.
fn silence(value: &Value) {
    let number = |field: &str| value[field].as_u64().unwrap_or(0);
    let proved = if value["proved"] == json!(true) { "proved" } else { "not proved" };
    say!(
        "{:<10} legacy silent for {} s of {} s: {proved}; {} requests since it is watched",
        "retire",
        number("quiet_seconds"),
        number("needed_seconds"),
        number("legacy_requests"),
    );
    for it in value["callers"].as_array().into_iter().flatten() {
        let at = it["last_unix_s"].as_i64().and_then(|at| jiff::Timestamp::from_second(at).ok());
        say!(
            "{:<10} {} {} x {} ({}) {}",
            "caller",
            at.map_or(String::new(), |at| at.to_string()),
            it["requests"],
            plain(&it["address"]),
            plain(&it["reason"]),
            plain(&it["user_agent"])
        );
    }
}

/// The proposals of a route as the lines of YAML that pin them: to be put under the route, by a person.
pub fn patch(client: &AdminClient, id: &str, json: bool) -> Exit {
    finish(client.get(&format!("/api/v1/proposals?route={}", escaped(id))).map(|(status, value)| {
        if status != 200 {
            return refused(status, &value, json);
        }
        let patch = &value["patches"][id];
        if json {
            say!(
                "{:#}",
                json!({ "version": 1, "route": id, "patch": patch, "proposals": value["proposals"] })
            );
        } else if patch.is_null() {
            eprintln!("banyan: nothing is proposed for `{id}`");
        } else {
            say!("# {id}: legacy differs from itself here. Put this under the route in its file;");
            say!("# where it has `shadow` or `rules` already, put the lines below them into those.");
            say_raw!("{}", serde_yaml::to_string(patch).unwrap_or_default());
        }
        if patch.is_null() { Exit::CannotTell } else { Exit::Ok }
    }))
}

/// How far the two sides agree, and in what they do not.
fn shadowed(client: &AdminClient, id: &str, evidence: &Value) {
    let number = |field: &str| evidence[field].as_u64().unwrap_or(0);
    say!(
        "{:<10} {} compared of {} eligible, {} differ, {} inconclusive, {} dropped",
        "shadow",
        number("compared"),
        number("eligible"),
        number("mismatched"),
        number("inconclusive"),
        number("dropped"),
    );
    let bound = evidence["parity_upper_bound"].as_f64().unwrap_or(1.0) * 100.0;
    say!("{:<10} at most {bound:.3} % of the answers differ (95 % confidence)", "parity");
    let Ok((200, found)) = client.get(&format!("/api/v1/differences?route={}", escaped(id))) else { return };
    for it in found["differences"].as_array().into_iter().flatten().take(10) {
        let text = |field: &str| plain(&it[field]);
        say!(
            "{:<10} {} x {} {}: {} -> {} ({})",
            "differs",
            text("count"),
            text("path"),
            text("kind"),
            text("legacy"),
            text("serverless"),
            text("state"),
        );
    }
    let Ok((200, found)) = client.get(&format!("/api/v1/proposals?route={}", escaped(id))) else { return };
    for it in found["proposals"].as_array().into_iter().flatten() {
        let text = |field: &str| plain(&it[field]);
        say!(
            "{:<10} {}: {} (legacy differs from itself in {} of {})",
            "proposed",
            text("path"),
            text("rule"),
            text("controls_differing"),
            text("controls"),
        );
    }
}

/// What a function costs, where its log tail is asked for.
fn function(value: &Value) {
    let name =
        format!("{} ({}, {})", plain(&value["function"]), plain(&value["side"]), plain(&value["region"]));
    say!("{:<10} {name}", "function");
    let Some(reports) = value["reports"].as_u64() else {
        let why = if value["log_tail"] == json!(true) {
            "no report yet"
        } else {
            "unknown; `log_tail: true` brings it"
        };
        say!("{:<10} {why}", "cost");
        return;
    };
    let number = |field: &str| value[field].as_f64().unwrap_or(0.0);
    say!(
        "{:<10} {:.1} ms billed on average, {} MB configured, {} MB used, {} cold of {reports} calls",
        "used",
        number("billed_seconds_mean") * 1e3,
        value["memory_configured_mb"],
        value["memory_used_mb"],
        value["cold_starts"],
    );
    say!("{:<10} {:.2} per million requests (estimate)", "cost", number("cost_per_million_requests"));
    if let Some(hint) = value["hint"].as_str() {
        say!("{:<10} {hint}", "hint");
    }
}

pub fn reload(client: &AdminClient, json: bool, body: &Value) -> Exit {
    finish(client.post("/api/v1/reload", body).map(|(status, value)| {
        if json {
            say!("{value:#}");
        } else if status == 200 {
            let what = if value["changed"] == json!(true) { "accepted" } else { "accepted; nothing changed" };
            say!("{what}, revision {}", plain(&value["revision"]));
        } else {
            for problem in value["problems"].as_array().into_iter().flatten() {
                let place = match (&problem["file"], &problem["line"]) {
                    (Value::String(file), line) if line.is_number() => format!("{file}:{line}: "),
                    _ => String::new(),
                };
                say!("{place}{}: {}", plain(&problem["code"]), plain(&problem["message"]));
            }
        }
        if status == 200 { Exit::Ok } else { refused(status, &value, false) }
    }))
}

pub fn breaker(client: &AdminClient, json: bool, backend: &str, body: &Value) -> Exit {
    let path = format!("/api/v1/backends/{}/breaker", escaped(backend));
    finish(client.post(&path, body).map(|(status, value)| {
        if status != 200 {
            return refused(status, &value, json);
        }
        if json {
            say!("{value:#}");
            return Exit::Ok;
        }
        let held = if value["held"] == json!(true) { ", held by hand" } else { "" };
        let would = if value["dry_run"] == json!(true) { "would be " } else { "" };
        say!("{backend}: {would}{}{held}", plain(&value["state"]));
        if value["kept"] == json!(false) && would.is_empty() {
            eprintln!("banyan: in force, and not in the audit log: the store is away");
        }
        Exit::Ok
    }))
}
