//! Changes of state by the API.
//!
//! Input: a path such as `/routes/{id}/promote` or `/kill`, and a JSON body. Output: what the control thread says of it. Must not:
//! change anything itself, or take a field it does not know for nothing.

use crate::admin::access::{Caller, role_missing};
use crate::admin::{Answer, json_answer, problem, problem_answer, problem_value};
use crate::change::{ChangeAsked, NotChanged, Scope, What};
use crate::control::Request;
use crate::metrics::Metrics;
use crate::settings::Role;
use crate::targets::live_breaker::Hand;
use banyan_routes::audit::verify;
use banyan_routes::life::Change;
use banyan_routes::plan::CONTROLLER;
use banyan_routes::units::Percent;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// Who asks, as long as nobody proves who they are.
const UNNAMED: &str = "api";
/// Of a name or a reason.
const TEXT_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default)]
    reason: String,
    actor: Option<String>,
    if_revision: Option<u64>,
    #[serde(default)]
    dry_run: bool,
    /// Of `share`: `25%`.
    share: Option<String>,
    /// Of `breaker`.
    state: Option<String>,
    /// Of `kill` and `unkill`: `all`, `group:<name>` or a route's id.
    scope: Option<String>,
}

/// `None`: no such resource.
pub async fn change(
    control: &mpsc::Sender<Request>,
    path: &str,
    body: &Value,
    caller: &Caller,
    metrics: &Metrics,
) -> Option<Answer> {
    let rest = path.strip_prefix("/api/v1/")?;
    let below = rest.strip_prefix("routes/").or_else(|| rest.strip_prefix("backends/"));
    let (id, action) = match below {
        Some(rest) => rest.rsplit_once('/').map(|(id, action)| (Some(id), action))?,
        None => (None, rest),
    };
    let known = ["promote", "hold", "resume", "share", "approve", "rollback"];
    let is_change = match rest.starts_with("backends/") {
        true => action == "breaker",
        false => matches!(action, "kill" | "unkill") || (id.is_some() && known.contains(&action)),
    };
    if !is_change {
        return None;
    }
    let mut asked = match asked(id, action, body) {
        Ok(asked) => asked,
        Err(text) => return Some(problem(400, "not a change", &text)),
    };
    // All routes at once move to serverless: not for everybody who may move one.
    let everything = asked.what == What::Kill { scope: Scope::All, on: false };
    if everything && caller.role < Role::Admin {
        return Some(role_missing(metrics, caller.role, Role::Admin));
    }
    if let Some(name) = &caller.name {
        asked.actor.clone_from(name);
    }
    let (done, answer) = oneshot::channel();
    let sent = control.send(Request::Change(Box::new(asked), done)).await.is_ok();
    Some(match answer.await {
        Ok(Ok(changed)) if sent => json_answer(200, &changed),
        Ok(Err(why)) => refused(&why),
        _ => problem(503, "stopping", "the process is on its way out"),
    })
}

fn asked(id: Option<&str>, action: &str, body: &Value) -> Result<ChangeAsked, String> {
    let body: Body =
        serde_path_to_error::deserialize(body).map_err(|error| match error.path().to_string() {
            whole if whole == "." => error.inner().to_string(),
            field => format!("`{field}`: {}", error.inner()),
        })?;
    if body.reason.len() > TEXT_MAX || body.actor.as_ref().is_some_and(|actor| actor.len() > TEXT_MAX) {
        return Err(format!("`reason` and `actor` hold {TEXT_MAX} bytes at most"));
    }
    if let Some(field) = [("reason", Some(&body.reason)), ("actor", body.actor.as_ref())]
        .iter()
        .find_map(|(name, text)| text.filter(|text| text.contains(char::is_control)).map(|_| name))
    {
        return Err(format!("`{field}` holds a control character; expected one line of text"));
    }
    if body.actor.as_deref() == Some(CONTROLLER) {
        return Err(format!("`{CONTROLLER}` is the name of Banyan's own"));
    }
    let given = [
        ("share", body.share.is_some(), action == "share"),
        ("scope", body.scope.is_some(), id.is_none()),
        ("state", body.state.is_some(), action == "breaker"),
    ];
    if let Some((field, ..)) = given.iter().find(|(_, given, fits)| *given && !fits) {
        return Err(format!("`{field}` is not a field of {action}"));
    }
    let share = || {
        let text =
            body.share.as_deref().ok_or("`share` is missing; expected for example {\"share\": \"25%\"}")?;
        text.parse::<Percent>().map(|share| share.0)
    };
    let what = match (id, action) {
        (Some(id), "kill" | "unkill") => {
            What::Kill { scope: Scope::Route(id.to_owned()), on: action == "kill" }
        }
        (None, _) => {
            What::Kill { scope: Scope::parse(body.scope.as_deref().unwrap_or("all")), on: action == "kill" }
        }
        (Some(id), "breaker") => {
            let hand = match body.state.as_deref() {
                Some("open") => Hand::Open,
                Some("close") => Hand::Close,
                Some("auto") => Hand::Auto,
                _ => return Err("not a state: expected {\"state\": \"open\"}, \"close\" or \"auto\"".into()),
            };
            What::Breaker { backend: id.to_owned(), hand }
        }
        (Some(id), _) => {
            let change = match action {
                "promote" => Change::Promote,
                "hold" => Change::Hold,
                "resume" => Change::Resume,
                "approve" => Change::Approve,
                "rollback" => Change::Rollback,
                _ => Change::Share(share()?),
            };
            What::Route { id: id.to_owned(), change }
        }
    };
    Ok(ChangeAsked {
        what,
        actor: body.actor.filter(|actor| !actor.is_empty()).unwrap_or_else(|| UNNAMED.to_owned()),
        reason: body.reason,
        if_revision: body.if_revision,
        dry_run: body.dry_run,
    })
}

pub fn another_revision(is: u64) -> Answer {
    let mut value = problem_value(409, "another revision", &format!("the state is at revision {is}"));
    value["state_revision"] = json!(is);
    problem_answer(409, &value)
}

fn refused(why: &NotChanged) -> Answer {
    match why {
        NotChanged::Unknown(name) => problem(404, "no such route, group or backend", name),
        NotChanged::NoBreaker(_) => problem(409, "no breaker", "the rules give this backend none"),
        NotChanged::Revision { is } => another_revision(*is),
        NotChanged::Refused(why) => {
            let mut value = problem_value(409, "refused", &why.to_string());
            value["code"] = json!(why.code());
            problem_answer(409, &value)
        }
        NotChanged::Store(error) => problem(503, "not kept, and not changed", error),
        NotChanged::Unsure(error) => problem(503, "not known to be kept", error),
        NotChanged::NoRules => problem(503, "no valid rule set", "nothing serves yet"),
    }
}

/// The log with what its chain says of it.
pub async fn audit(control: &mpsc::Sender<Request>) -> Answer {
    let (done, answer) = oneshot::channel();
    let sent = control.send(Request::Audit(done)).await.is_ok();
    match answer.await {
        Ok(Ok(entries)) if sent => {
            let broken = verify(&entries).err();
            json_answer(
                200,
                &json!({ "version": 1, "verified": broken.is_none(), "broken_at": broken, "entries": entries }),
            )
        }
        Ok(Err(error)) => problem(503, "the audit log cannot be read", &error),
        _ => problem(503, "stopping", "the process is on its way out"),
    }
}
