//! A token for one backend: from a file, a variable or Secrets Manager, or a Google ID token from the metadata server.
//!
//! Input: the rule's `token`. Output: a header value that is good right now. Must not: be waited for by a request, or show the
//! token in a log.
//!
//! Source: Google Cloud, "Get an ID token", metadata server.

use crate::aws::endpoint::env;
use crate::aws::secrets;
use crate::client::fetch::fetch;
use crate::targets::supplies::Supplies;
use arc_swap::ArcSwapOption;
use banyan_routes::backend::BackendToken;
use banyan_routes::file::TokenSource;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A secret that was rotated is seen within this.
const FILE_AGAIN: Duration = Duration::from_secs(2);
/// Fetched again this long before the end; the metadata server gives a fresh one from then on.
const BEFORE_EXPIRY: Duration = Duration::from_secs(240);
const AGAIN: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_secs(2);

struct Good {
    value: HeaderValue,
    until: Option<SystemTime>,
}

pub struct RunningToken {
    pub header: HeaderName,
    source: TokenSource,
    value: Box<str>,
    path: PathBuf,
    current: ArcSwapOption<Good>,
}

impl std::fmt::Debug for RunningToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunningToken({})", self.header)
    }
}

impl RunningToken {
    /// `base` is what a relative path counts from.
    pub fn new(definition: &BackendToken, base: &Path) -> RunningToken {
        RunningToken {
            header: definition.header.clone(),
            source: definition.source,
            value: definition.value.clone(),
            path: base.join(&*definition.value),
            current: ArcSwapOption::empty(),
        }
    }

    /// What to put into the header, while it is good.
    pub fn get(&self, now: SystemTime) -> Option<HeaderValue> {
        let current = self.current.load();
        let good = current.as_ref().filter(|good| good.until.is_none_or(|until| until > now))?;
        Some(good.value.clone())
    }

    /// Fetches, waiting a bounded time, then keeps it fresh until the backend is gone.
    pub async fn start(self: &Arc<Self>, supplies: &Arc<Supplies>) {
        let first = tokio::time::timeout(FIRST_WAIT, self.refresh(supplies)).await;
        let again = first.unwrap_or(AGAIN);
        let (token, supplies) = (Arc::downgrade(self), supplies.clone());
        tokio::spawn(async move { follow(token, supplies, again).await });
    }

    async fn refresh(&self, supplies: &Supplies) -> Duration {
        let fetched = match self.source {
            TokenSource::File => self.file().await,
            TokenSource::GoogleIdToken => self.google(supplies).await,
            TokenSource::Env => {
                env(&self.value).map(|text| (text, None)).ok_or_else(|| format!("{} is not set", self.value))
            }
            TokenSource::SecretsManager => supplies.secrets.value(&self.value).await.map(|text| (text, None)),
        };
        match fetched {
            Ok((text, until)) => {
                let bearer = self.header == header::AUTHORIZATION;
                let value = HeaderValue::from_str(&if bearer { format!("Bearer {text}") } else { text });
                let Ok(mut value) = value else {
                    tracing::error!(header = %self.header, "token: holds a byte that no header may hold; the last one stays");
                    return AGAIN;
                };
                value.set_sensitive(true);
                self.current.store(Some(Arc::new(Good { value, until })));
                let left = until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
                let again =
                    if self.source == TokenSource::SecretsManager { secrets::AGAIN } else { FILE_AGAIN };
                left.map_or(again, |left| left.saturating_sub(BEFORE_EXPIRY).max(left / 4).max(AGAIN))
            }
            Err(error) => {
                tracing::error!(header = %self.header, error, "token not fetched; the last one stays until it expires");
                AGAIN
            }
        }
    }

    async fn file(&self) -> Result<(String, Option<SystemTime>), String> {
        let shown = self.path.display();
        let text =
            tokio::fs::read_to_string(&self.path).await.map_err(|error| format!("{shown}: {error}"))?;
        let text = text.trim().to_owned();
        if text.is_empty() { Err(format!("{shown}: holds no token")) } else { Ok((text, None)) }
    }

    async fn google(&self, supplies: &Supplies) -> Result<(String, Option<SystemTime>), String> {
        let host = env("GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".into());
        let audience = utf8_percent_encode(&self.value, NON_ALPHANUMERIC);
        let uri = format!(
            "http://{host}/computeMetadata/v1/instance/service-accounts/default/identity?audience={audience}&format=full"
        );
        let request = http::Request::get(&uri).header("Metadata-Flavor", "Google").body(Bytes::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = fetch(&supplies.client, &supplies.resolver, request).await;
        let (status, _, body) = answer.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("{host} answered {status}"));
        }
        let token = String::from_utf8_lossy(&body).trim().to_owned();
        let expiry = expiry(&token).ok_or_else(|| format!("{host} answered something that is no token"))?;
        Ok((token, Some(expiry)))
    }
}

/// `exp` of a JWT; the signature is for whom the token is for.
fn expiry(token: &str) -> Option<SystemTime> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims["exp"].as_u64()?))
}

async fn follow(token: Weak<RunningToken>, supplies: Arc<Supplies>, mut again: Duration) {
    loop {
        tokio::time::sleep(again).await;
        let Some(token) = token.upgrade() else { return };
        again = token.refresh(&supplies).await;
    }
}
