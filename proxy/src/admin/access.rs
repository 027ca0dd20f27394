//! Who may use the API: bearers of tokens by their role; without tokens, whoever calls from this machine.
//!
//! Input: a request's head. Output: who it is, or a refusal that is counted. Must not: say which of its parts was wrong with a token, or let
//! a name in a body stand for the one of a token.

use crate::admin::{Answer, problem};
use crate::aws::secrets::Secrets;
use crate::metrics::Metrics;
use crate::settings::{Bearer, Role, Tokens};
use arc_swap::ArcSwap;
use http::{HeaderValue, header};
use pingora_core::protocols::http::ServerSession;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The token file, read again on HUP and when a secret of it has changed.
pub struct HotTokens {
    path: PathBuf,
    secrets: Arc<Secrets>,
    current: ArcSwap<Tokens>,
}

impl HotTokens {
    pub fn load(path: &Path, secrets: Arc<Secrets>) -> Result<HotTokens, String> {
        let current = ArcSwap::from_pointee(Tokens::load(path, &secrets)?);
        Ok(HotTokens { path: path.to_owned(), secrets, current })
    }

    /// Whether a token is still somebody's with at least this role.
    pub fn allows(&self, token: &str, role: Role) -> bool {
        self.current.load().bearer(token).is_some_and(|bearer| bearer.role >= role)
    }

    /// A file with a fault keeps the tokens that were.
    pub fn reload(&self) {
        match Tokens::load(&self.path, &self.secrets) {
            Ok(tokens) => self.current.store(Arc::new(tokens)),
            Err(error) => tracing::error!(error, "tokens not read; the old ones stay"),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Of the token; `None` where there are no tokens.
    pub name: Option<String>,
    pub role: Role,
}

/// Of a request that needs `role` at least; `changes` when it is one.
pub fn check(
    tokens: Option<&HotTokens>,
    session: &ServerSession,
    role: Role,
    changes: bool,
    metrics: &Metrics,
) -> Result<Caller, Box<Answer>> {
    let Some(tokens) = tokens else {
        let peer = session.client_addr().and_then(|address| address.as_inet().map(|inet| inet.ip()));
        if changes && !peer.is_some_and(|ip| ip.to_canonical().is_loopback()) {
            let detail = "without `admin.tokens` in the settings, changes are taken from this machine only";
            return Err(Box::new(refuse(metrics, "remote", problem(403, "not from here", detail))));
        }
        return Ok(Caller { name: None, role: Role::Admin });
    };
    let Some(token) = bearer(session) else {
        let answer = challenge("expected Authorization: Bearer");
        return Err(Box::new(refuse(metrics, "token_missing", answer)));
    };
    let tokens = tokens.current.load();
    let Some(Bearer { name, role: has, .. }) = tokens.bearer(token) else {
        let answer = challenge("nobody has this token");
        return Err(Box::new(refuse(metrics, "token_unknown", answer)));
    };
    if *has < role {
        return Err(Box::new(role_missing(metrics, *has, role)));
    }
    Ok(Caller { name: Some(name.clone()), role: *has })
}

pub fn role_missing(metrics: &Metrics, has: Role, needs: Role) -> Answer {
    let detail = format!("this needs the role {}; the token has {}", needs.as_str(), has.as_str());
    refuse(metrics, "role", problem(403, "role not sufficient", &detail))
}

pub fn refuse(metrics: &Metrics, cause: &str, answer: Answer) -> Answer {
    metrics.admin_refused.with_label_values(&[cause]).inc();
    answer
}

fn challenge(detail: &str) -> Answer {
    let mut answer = problem(401, "token needed", detail);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

pub fn bearer(session: &ServerSession) -> Option<&str> {
    let value = session.req_header().headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
