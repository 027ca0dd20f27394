//! Commands that change state, and the log of all changes.
//!
//! Input: the admin API. Output: what changed. Must not: do what a person on a terminal has not confirmed, where it moves many at once.

use crate::admin_client::{AdminClient, escaped};
use crate::commands::remote::{finish, plain, refused};
use crate::exit::Exit;
use crate::say;
use banyan_routes::ids::SharePpm;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};

pub fn change(client: &AdminClient, id: &str, action: &str, mut body: Value, yes: bool, json: bool) -> Exit {
    let dangerous = matches!(action, "rollback" | "kill" | "unkill" | "share");
    let dry_run = body["dry_run"] == json!(true);
    let scope = if id.is_empty() { plain(&body["scope"]) } else { id.to_owned() };
    if dangerous && !yes && !dry_run && std::io::stdin().is_terminal() && !confirmed(action, &scope) {
        eprintln!("banyan: nothing was changed");
        return Exit::No;
    }
    body["actor"] = json!(actor());
    let path = if id.is_empty() {
        format!("/api/v1/{action}")
    } else {
        format!("/api/v1/routes/{}/{action}", escaped(id))
    };
    finish(client.post(&path, &body).map(|(status, value)| {
        if status != 200 {
            return refused(status, &value, json);
        }
        if json {
            say!("{value:#}");
            return Exit::Ok;
        }
        if value["kept"] == json!(false) {
            eprintln!(
                "banyan: in force on this replica only; the store is away, and is told when it is back"
            );
        }
        let would = if dry_run { "would be " } else { "" };
        say!("{would}done: {action} {scope}, state revision {}", value["state_revision"]);
        if value["after"].is_object() {
            say!("{} -> {}", state(&value, "before"), state(&value, "after"));
        }
        if dry_run && value["traffic"].is_object() {
            let of = &value["traffic"];
            say!(
                "of {} requests in the last hour, about {} would go to {}",
                of["requests_last_hour"],
                of["would_move"],
                plain(&of["to"])
            );
            if let Some(count @ 1..) = of["would_refuse"].as_u64() {
                say!("and about {count} would be answered 503: retired routes have no legacy side");
            }
        }
        Exit::Ok
    }))
}

/// Who the machine says it is; with tokens the API knows better.
pub fn actor() -> String {
    std::env::var("USER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "cli".into())
}

fn confirmed(action: &str, scope: &str) -> bool {
    eprint!("{action} {scope}: go on? [y/N] ");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

/// `25%, held by kim: watching`
fn state(told: &Value, which: &str) -> String {
    let value = &told[which];
    let share = told[format!("{which}_share_ppm")].as_u64().and_then(|ppm| SharePpm::new(ppm as u32));
    let mut text = share.map_or(String::new(), |share| share.to_string());
    if value["rolled_back"] == json!(true) {
        text.push_str(", rolled back");
    }
    if value["hold"].is_object() {
        text.push_str(&format!(
            ", held by {}: {}",
            plain(&value["hold"]["actor"]),
            plain(&value["hold"]["reason"])
        ));
    }
    for (step, people) in value["approvals"].as_object().into_iter().flatten() {
        let step = step.parse().ok().and_then(SharePpm::new).map_or(String::new(), |step| step.to_string());
        text.push_str(&format!(", {step} approved by {}", people.as_array().map_or(0, Vec::len)));
    }
    text
}

/// Exit code 1 when the chain is broken.
pub fn audit(client: &AdminClient, json: bool) -> Exit {
    finish(client.get("/api/v1/audit").map(|(status, value)| {
        if status != 200 {
            return refused(status, &value, json);
        }
        let verified = value["verified"] == json!(true);
        if json {
            say!("{value:#}");
        } else {
            for it in value["entries"].as_array().into_iter().flatten() {
                let at = it["at_unix_s"].as_i64().and_then(|at| jiff::Timestamp::from_second(at).ok());
                let at = at.map_or(String::new(), |at| at.to_string());
                say!(
                    "{:>6}  {at}  {:<10} {:<8} {}  {}",
                    it["sequence"],
                    plain(&it["actor"]),
                    plain(&it["action"]),
                    plain(&it["scope"]),
                    plain(&it["reason"]).replace('\n', " ")
                );
            }
            if verified {
                say!("the chain is whole");
            } else {
                say!("THE CHAIN IS BROKEN at entry {}", value["broken_at"]);
            }
        }
        if verified { Exit::Ok } else { Exit::No }
    }))
}
