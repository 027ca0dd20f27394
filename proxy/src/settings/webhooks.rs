//! Whom to tell, and whom to ask, when a share moves.
//!
//! Input: `webhooks:` of the settings. Output: where to, for what, and with which key it is signed. Must not: call anybody.

use banyan_routes::units::Span;
use http::Uri;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// What a webhook can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The controller is about to raise a share: anything but a 2xx, and it waits.
    BeforeRaise,
    AfterRaise,
    RolledBack,
    Held,
}

impl Event {
    pub fn as_str(self) -> &'static str {
        match self {
            Event::BeforeRaise => "before_raise",
            Event::AfterRaise => "after_raise",
            Event::RolledBack => "rolled_back",
            Event::Held => "held",
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWebhook {
    name: String,
    url: String,
    secret: PathBuf,
    on: Vec<Event>,
    timeout: Option<Span>,
}

#[derive(Clone)]
pub struct Webhook {
    pub name: String,
    pub url: Uri,
    /// Of the HMAC.
    pub secret: Vec<u8>,
    pub on: Vec<Event>,
    pub timeout: Duration,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).field("on", &self.on).finish_non_exhaustive()
    }
}

const TIMEOUT: Duration = Duration::from_secs(5);
const SECRET_MIN: usize = 16;

pub(super) fn lower(
    raw: Vec<RawWebhook>,
    resolve: &impl Fn(PathBuf) -> PathBuf,
) -> Result<Vec<Webhook>, String> {
    let mut all: Vec<Webhook> = Vec::new();
    for (number, hook) in raw.into_iter().enumerate() {
        let at = format!("webhooks[{number}]");
        if !banyan_routes::ids::valid_name(&hook.name) || all.iter().any(|other| other.name == hook.name) {
            return Err(format!("{at}.name: `{}`; expected a name of its own", hook.name));
        }
        if hook.on.is_empty() {
            return Err(format!(
                "{at}.on: expected at least one of before_raise, after_raise, rolled_back, held"
            ));
        }
        let url: Uri = hook.url.parse().map_err(|error| format!("{at}.url: `{}`: {error}", hook.url))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
            return Err(format!("{at}.url: `{}`; expected http:// or https:// and a host", hook.url));
        }
        let file = resolve(hook.secret);
        let mut secret =
            std::fs::read(&file).map_err(|error| format!("{at}.secret: {}: {error}", file.display()))?;
        while secret.last().is_some_and(u8::is_ascii_whitespace) {
            secret.pop();
        }
        if secret.len() < SECRET_MIN {
            return Err(format!(
                "{at}.secret: {} holds {} bytes; expected {SECRET_MIN} or more",
                file.display(),
                secret.len()
            ));
        }
        let timeout = hook.timeout.map_or(TIMEOUT, |span| span.0);
        all.push(Webhook { name: hook.name, url, secret, on: hook.on, timeout });
    }
    Ok(all)
}
