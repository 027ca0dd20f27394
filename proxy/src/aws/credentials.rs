//! Who we are to AWS: environment, profile, web identity, container, instance, in the SDKs' own order.
//!
//! Input: the process's environment, files and metadata services, through our HTTP client. Output: credentials that are good
//! right now, and a state that says why there are none. Must not: be waited for by a request; they are fetched before they
//! are needed and again before they expire.

use crate::client::dns::Resolver;
use crate::client::exchange::Client;
use crate::client::fetch::{Unfetched, fetch};
use crate::metrics::Metrics;
use arc_swap::ArcSwapOption;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use aws_types::region::Region;
use bytes::Bytes;
use serde::Serialize;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Fetched again this long before they expire: STS and IMDS give fresh ones from about then on.
const BEFORE_EXPIRY: Duration = Duration::from_secs(300);
/// Credentials without an end are looked at again: a profile file may have been rotated.
const WITHOUT_EXPIRY: Duration = Duration::from_secs(300);
/// Between two refreshes, whatever they say, and after the first failure; doubled up to a minute.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// How long a rule set waits for the first answer before it is published without.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// How it stands, for the admin API.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CredentialState {
    /// `unused`, `available`, `expired` or `unavailable`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// Unix time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

pub struct CredentialStore {
    current: ArcSwapOption<Credentials>,
    error: Mutex<Option<String>>,
    started: AtomicBool,
    first: Notify,
    tried: AtomicBool,
    region: Option<String>,
    http: HttpForAws,
    metrics: Arc<Metrics>,
}

impl CredentialStore {
    pub fn new(
        client: Arc<Client>,
        resolver: Arc<Resolver>,
        region: Option<String>,
        metrics: Arc<Metrics>,
    ) -> CredentialStore {
        CredentialStore {
            current: ArcSwapOption::empty(),
            error: Mutex::default(),
            started: AtomicBool::new(false),
            first: Notify::new(),
            tried: AtomicBool::new(false),
            region,
            http: HttpForAws { client, resolver },
            metrics,
        }
    }

    /// Credentials that have not expired.
    pub fn get(&self, now: SystemTime) -> Option<Arc<Credentials>> {
        self.current.load_full().filter(|credentials| credentials.expiry().is_none_or(|expiry| expiry > now))
    }

    pub fn state(&self, now: SystemTime) -> CredentialState {
        if !self.started.load(Ordering::Relaxed) {
            return CredentialState { state: "unused", ..CredentialState::default() };
        }
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(current) = self.current.load_full() else {
            return CredentialState { state: "unavailable", error, ..CredentialState::default() };
        };
        let expired = current.expiry().is_some_and(|expiry| expiry <= now);
        CredentialState {
            state: if expired { "expired" } else { "available" },
            access_key: Some(redacted(current.access_key_id())),
            source: Some(provider_name(&current)),
            expires: current.expiry().map(unix_seconds),
            error,
        }
    }

    /// Begins to fetch, once per process, and waits a bounded time for the first result.
    pub async fn start(self: &Arc<Self>) {
        if !self.started.swap(true, Ordering::Relaxed) {
            let store = Arc::clone(self);
            tokio::spawn(async move { store.follow().await });
        }
        let first = self.first.notified();
        if !self.tried.load(Ordering::Acquire) {
            let _ = tokio::time::timeout(FIRST_WAIT, first).await;
        }
    }

    async fn follow(&self) {
        let mut pause = AGAIN_MIN;
        loop {
            let fetched = self.fetch().await;
            let now = SystemTime::now();
            let wait = match &fetched {
                Ok(credentials) => {
                    pause = AGAIN_MIN;
                    let left = credentials.expiry().map(|at| at.duration_since(now).unwrap_or_default());
                    left.map_or(WITHOUT_EXPIRY, |left| left.saturating_sub(BEFORE_EXPIRY).max(left / 4))
                }
                Err(_) => {
                    pause = (pause * 2).min(AGAIN_MAX);
                    pause
                }
            };
            self.settle(fetched);
            self.metrics.credentials_available.set(i64::from(self.get(now).is_some()));
            self.tried.store(true, Ordering::Release);
            self.first.notify_waiters();
            tokio::time::sleep(wait.max(AGAIN_MIN)).await;
        }
    }

    fn settle(&self, fetched: Result<Credentials, String>) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(credentials) => {
                let expires = credentials.expiry().map_or(0, unix_seconds);
                self.metrics.credentials_expiry.set(expires as i64);
                let source = provider_name(&credentials);
                let known = self.current.load().as_ref().is_some_and(|known| **known == credentials);
                if !known {
                    tracing::info!(
                        source,
                        access_key = redacted(credentials.access_key_id()),
                        expires,
                        "AWS credentials"
                    );
                }
                self.current.store(Some(Arc::new(credentials)));
                *error = None;
            }
            Err(text) => {
                self.metrics.credentials_failures.inc();
                tracing::error!(
                    error = text,
                    "no AWS credentials; functions and signed backends cannot be called once the last ones expire"
                );
                *error = Some(text);
            }
        }
    }

    /// The chain is built anew each time: it would keep the profile files it has read.
    async fn fetch(&self) -> Result<Credentials, String> {
        let http = self.http.clone();
        let client = http_client_fn(move |_, _| SharedHttpConnector::new(http.clone()));
        let mut config = ProviderConfig::without_region()
            .with_http_client(client)
            .with_retry_config(RetryConfig::standard().with_max_attempts(2));
        // Left open, the chain would ask the instance's metadata for it first. It is used for STS only, whose tokens are good
        // everywhere.
        let region = self.region.clone().or_else(|| super::endpoint::env("AWS_REGION"));
        let region = region.or_else(|| super::endpoint::env("AWS_DEFAULT_REGION"));
        let region = Region::new(region.unwrap_or_else(|| "us-east-1".into()));
        config = config.with_region(Some(region.clone()));
        let chain = DefaultCredentialsChain::builder().region(region).configure(config).build().await;
        chain.provide_credentials().await.map_err(|error| {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            // What a helper of the profile printed may be anything, secrets among it.
            let lower = text.to_ascii_lowercase();
            text[..lower.find("stderr").unwrap_or(text.len())].chars().take(300).collect()
        })
    }
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Enough of a key's id to find it again in IAM.
fn redacted(key: &str) -> String {
    let shown: String = key.chars().take(8).collect();
    format!("{shown}...")
}

impl std::fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialStore")
    }
}

/// Which link of the chain gave them.
fn provider_name(credentials: &Credentials) -> &'static str {
    let text = format!("{credentials:?}");
    const NAMES: [(&str, &str); 6] = [
        ("EnvironmentVariable", "environment"),
        ("WebIdentity", "web_identity"),
        ("IMDS", "instance"),
        ("Ecs", "container"),
        ("Profile", "profile"),
        ("CredentialProcess", "process"),
    ];
    NAMES.iter().find(|(mark, _)| text.contains(mark)).map_or("chain", |(_, name)| name)
}

/// The SDK's requests over our client.
#[derive(Clone)]
struct HttpForAws {
    client: Arc<Client>,
    resolver: Arc<Resolver>,
}

impl std::fmt::Debug for HttpForAws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HttpForAws")
    }
}

impl HttpConnector for HttpForAws {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = self.clone();
        HttpConnectorFuture::new(async move { http.send(request).await })
    }
}

impl HttpForAws {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let user = |text: String| ConnectorError::user(text.into());
        let request = request.try_into_http1x().map_err(|error| user(error.to_string()))?;
        let body = Bytes::copy_from_slice(request.body().bytes().unwrap_or_default());
        let answer = fetch(&self.client, &self.resolver, request.map(|_| body)).await;
        let (status, headers, body) = answer.map_err(|failed| match failed {
            Unfetched::Timeout(text) => ConnectorError::timeout(text.into()),
            Unfetched::Other(text) => ConnectorError::io(text.into()),
        })?;
        let mut response = http::Response::new(SdkBody::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        HttpResponse::try_from(response).map_err(|error| user(error.to_string()))
    }
}
