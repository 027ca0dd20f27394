//! External authorizers: asked over HTTP, their verdicts kept for a while.
//!
//! Input: who a client says it is, for which route. Output: a verdict, kept or fresh. Must not: allow anything when there is no answer, or ask
//! more at a time than an authorizer can be expected to bear.

use crate::client::fetch::fetch;
use crate::lambda::authorize::{Answer, Verdict, read};
use crate::metrics::Metrics;
use crate::recent::Recent;
use crate::settings::Authorizer;
use crate::targets::supplies::Supplies;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// Verdicts that are kept, of all authorizers together.
const PLACES: usize = 16_384;
/// Questions at one time, for each.
const AT_ONCE: usize = 256;

/// Why a client is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not say who it is.
    NoIdentity,
    Unknown,
    Denied,
    /// Nobody could be asked, or the answer made no sense.
    Away,
}

impl Refused {
    /// A metric label and the cause in the log.
    pub fn cause(self) -> &'static str {
        match self {
            Refused::NoIdentity => "authorizer_no_identity",
            Refused::Unknown => "authorizer_unknown",
            Refused::Denied => "authorizer_denied",
            Refused::Away => "authorizer_away",
        }
    }
}

#[derive(Clone)]
struct Kept {
    until: Instant,
    verdict: Arc<Verdict>,
}

pub struct Running {
    pub settings: Authorizer,
    places: Semaphore,
}

pub struct Authorizers {
    all: Vec<Running>,
    recent: Recent<Kept>,
    metrics: Arc<Metrics>,
}

impl Authorizers {
    pub fn new(settings: &[Authorizer], metrics: Arc<Metrics>) -> Authorizers {
        let running =
            |settings: &Authorizer| Running { settings: settings.clone(), places: Semaphore::new(AT_ONCE) };
        let places = if settings.is_empty() { 1 } else { PLACES };
        Authorizers { all: settings.iter().map(running).collect(), recent: Recent::new(places), metrics }
    }

    pub fn find(&self, name: &str) -> Option<&Running> {
        self.all.iter().find(|it| it.settings.name == name)
    }

    /// What was said lately.
    pub fn known(&self, key: &[u8]) -> Option<Arc<Verdict>> {
        self.recent.get(key).filter(|kept| Instant::now() < kept.until).map(|kept| kept.verdict)
    }

    /// On HUP: everybody is asked about again.
    pub fn forget(&self) {
        self.recent.forget_all();
    }

    pub async fn ask(
        &self,
        authorizer: &Running,
        key: &[u8],
        question: Vec<u8>,
        supplies: &Supplies,
    ) -> Result<Arc<Verdict>, Refused> {
        let asked = tokio::time::timeout(authorizer.settings.timeout, authorizer.answer(question, supplies));
        let answer = asked.await.unwrap_or_else(|_| Err("no answer in time".into()));
        let (outcome, result) = match answer {
            Ok(Answer::Verdict(verdict)) => {
                let verdict = Arc::new(verdict);
                if !authorizer.settings.ttl.is_zero() {
                    let until = Instant::now() + authorizer.settings.ttl;
                    self.recent.put(key, Kept { until, verdict: verdict.clone() });
                }
                ("verdict", Ok(verdict))
            }
            Ok(Answer::Unauthorized) => ("unknown", Err(Refused::Unknown)),
            Err(error) => {
                tracing::warn!(authorizer = authorizer.settings.name, error, "an authorizer gave no verdict");
                ("failed", Err(Refused::Away))
            }
        };
        self.metrics.authorizer_calls.with_label_values(&[&authorizer.settings.name, outcome]).inc();
        result
    }
}

impl Running {
    async fn answer(&self, question: Vec<u8>, supplies: &Supplies) -> Result<Answer, String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let request = http::Request::post(&self.settings.url)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .body(Bytes::from(question))
            .map_err(|error| error.to_string())?;
        let (status, headers, body) =
            fetch(&supplies.client, &supplies.resolver, request).await.map_err(|error| error.to_string())?;
        // As an HTTP service says it; a function says it in its error.
        if status == http::StatusCode::UNAUTHORIZED {
            return Ok(Answer::Unauthorized);
        }
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        match read(&body) {
            Ok(Answer::Verdict(_)) if headers.contains_key("x-amz-function-error") => {
                Err("the function failed".into())
            }
            answer => answer,
        }
    }
}
