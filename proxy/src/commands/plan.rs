//! `banyan plan`: what changes between two rule directories, and what that does to recorded requests.
//!
//! Input: two directories, and optionally a file of requests: `METHOD URL` a line, or JSON lines with `method`, `url` and
//! `headers`. Output: text or JSON. Must not: send anything.

use crate::commands::check::load_or_report;
use crate::exit::Exit;
use crate::say;
use crate::say_raw;
use banyan_routes::diff::{Diff, diff, replay};
use banyan_routes::request_line::OwnedRequest;
use serde_json::Value;
use std::path::Path;

pub fn run(from: &Path, to: &Path, requests: Option<&Path>, detailed: bool, json: bool) -> Exit {
    let (from, to) = match (load_or_report(from, json), load_or_report(to, json)) {
        (Ok(from), Ok(to)) => (from, to),
        // With detailed exit codes 1 is every error: a script asks three questions, not four.
        (Err(exit), _) | (_, Err(exit)) => return if detailed { Exit::No } else { exit },
    };
    let mut changes = diff((&from.table, &from.files), (&to.table, &to.files));
    if let Some(path) = requests {
        match recorded(path) {
            Ok(requests) => changes.replay = Some(replay(&from.table, &to.table, &requests)),
            Err(error) => {
                eprintln!("banyan: {error}");
                return Exit::No;
            }
        }
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&changes).unwrap_or_default());
    } else {
        say_raw!("{}", text(&changes));
    }
    if detailed && !changes.is_empty() { Exit::CHANGES } else { Exit::Ok }
}

fn recorded(path: &Path) -> Result<Vec<OwnedRequest>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let parse = |(number, line): (usize, &str)| {
        let request =
            if line.trim_start().starts_with('{') { from_json(line) } else { OwnedRequest::parse(line) };
        request.map_err(|error| format!("{}:{}: {error}", path.display(), number + 1))
    };
    lines.map(parse).collect()
}

fn from_json(line: &str) -> Result<OwnedRequest, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let text =
        |field: &str| value.get(field).and_then(Value::as_str).ok_or_else(|| format!("`{field}` is missing"));
    let mut request = OwnedRequest::new(text("method")?, text("url")?)?;
    for (name, value) in value.get("headers").and_then(Value::as_object).into_iter().flatten() {
        request
            .header(name, value.as_str().ok_or_else(|| format!("the header `{name}` is not a string"))?)?;
    }
    Ok(request)
}

fn text(changes: &Diff) -> String {
    let mut lines = vec![format!("revision {} -> {}", changes.from, changes.to)];
    lines.extend(changes.added.iter().map(|id| format!("+ {id}")));
    lines.extend(changes.removed.iter().map(|id| format!("- {id}")));
    for changed in &changes.changed {
        lines.push(format!("~ {}", changed.route));
        lines.extend(
            changed.fields.iter().map(|field| format!("    {}: {} -> {}", field.field, field.from, field.to)),
        );
    }
    lines.extend(changes.other.iter().map(|name| format!("~ {name}")));
    if changes.is_empty() {
        lines.push("no change".into());
    }
    if let Some(replay) = &changes.replay {
        lines.push(format!(
            "replayed {} requests: {} change route, {} change side",
            replay.requests, replay.route_changed, replay.side_changed
        ));
        lines.extend(
            replay
                .examples
                .iter()
                .map(|moved| format!("    {}: {} -> {}", moved.request, moved.from, moved.to)),
        );
    }
    lines.join("\n") + "\n"
}
