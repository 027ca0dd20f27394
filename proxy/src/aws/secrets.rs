//! Secrets Manager: what a secret holds, fetched before it is needed and again in case it was rotated.
//!
//! Input: `NAME`, an ARN, or either with `#FIELD` of a JSON secret. Output: its text. Must not: be waited for by a request, or show a secret.

use super::credentials::CredentialStore;
use super::endpoint::{AwsSettings, env};
use super::sign::{self, Scope};
use crate::client::dns::Resolver;
use crate::client::exchange::Client;
use crate::client::fetch::fetch;
use arc_swap::ArcSwap;
use bytes::Bytes;
use pingora_http::RequestHeader;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// A secret that was rotated is seen within this.
pub const AGAIN: Duration = Duration::from_secs(60);
/// After one could not be had.
const SOON: Duration = Duration::from_secs(5);
/// How long a start waits for the first answers.
const FIRST_WAIT: Duration = Duration::from_secs(5);

const SERVICE: &str = "secretsmanager";

pub struct SecretsManager {
    client: Arc<Client>,
    resolver: Arc<Resolver>,
    credentials: Arc<CredentialStore>,
    aws: AwsSettings,
}

impl SecretsManager {
    pub fn new(
        client: Arc<Client>,
        resolver: Arc<Resolver>,
        credentials: Arc<CredentialStore>,
        aws: AwsSettings,
    ) -> SecretsManager {
        SecretsManager { client, resolver, credentials, aws }
    }

    /// What the secret holds now.
    pub async fn value(&self, reference: &str) -> Result<String, String> {
        self.credentials.start().await;
        let now = SystemTime::now();
        let credentials = self.credentials.get(now).ok_or("no AWS credentials")?;
        let (id, field) =
            reference.split_once('#').map_or((reference, None), |(id, field)| (id, Some(field)));
        let region = match id.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(2)) {
            Some(region) => region.to_owned(),
            None => self
                .aws
                .own_region(env)
                .ok_or("no region is known; expected an ARN, `aws.region` in the settings, or AWS_REGION")?,
        };
        let origin = self.aws.service(SERVICE, "AWS_ENDPOINT_URL_SECRETS_MANAGER", &region, env)?;
        let body = Bytes::from(serde_json::json!({ "SecretId": id }).to_string());
        let scope = Scope { service: SERVICE.into(), region: region.into(), move_authorization_to: None };
        let signed = |error: Box<pingora_error::Error>| error.to_string();
        let mut head = RequestHeader::build("POST", b"/", Some(8)).map_err(signed)?;
        for (name, value) in [
            ("Host", origin.authority()),
            ("Content-Type", "application/x-amz-json-1.1".into()),
            ("X-Amz-Target", "secretsmanager.GetSecretValue".into()),
        ] {
            head.insert_header(name, value).map_err(signed)?;
        }
        sign::apply(&scope, &credentials, &mut head, &body, now)?;
        let scheme = if origin.tls { "https" } else { "http" };
        let mut request = http::Request::post(format!("{scheme}://{}/", origin.authority()));
        for (name, value) in &head.headers {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| error.to_string())?;
        let answer = fetch(&self.client, &self.resolver, request).await;
        let (status, _, body) = answer.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            // The name of the error; its text may repeat what was sent.
            let kind =
                answer["__type"].as_str().and_then(|kind| kind.rsplit('#').next()).unwrap_or("no type");
            return Err(format!("Secrets Manager answered {status}: {kind}"));
        }
        let text = answer["SecretString"].as_str().ok_or("the secret holds no text")?;
        let Some(field) = field else { return Ok(text.trim().to_owned()) };
        let fields: Value = serde_json::from_str(text).map_err(|_| "the secret is not JSON".to_owned())?;
        let value = fields[field].as_str().ok_or_else(|| format!("the secret has no text `{field}`"))?;
        Ok(value.trim().to_owned())
    }
}

/// Secrets that files of the settings name, at hand.
#[derive(Default)]
pub struct Secrets {
    known: ArcSwap<BTreeMap<String, String>>,
    wanted: Mutex<BTreeSet<String>>,
    wake: Notify,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// `None`: not yet; it is fetched from now on.
    pub fn get(&self, reference: &str) -> Option<String> {
        let known = self.known.load().get(reference).cloned();
        if known.is_none() {
            self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.to_owned());
        }
        known
    }

    /// Looks again at once: on HUP.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// Keeps them fresh for ever; `changed` is called whenever one is another. The first answers are waited for, within reason.
    pub async fn start(self: &Arc<Self>, from: Arc<SecretsManager>, changed: impl Fn() + Send + 'static) {
        let first = tokio::time::timeout(FIRST_WAIT, self.refresh(&from)).await;
        if first.is_ok_and(|(news, _)| news) {
            changed();
        }
        let secrets = self.clone();
        tokio::spawn(async move {
            let mut rest = SOON;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(rest) => {}
                    () = secrets.wake.notified() => {}
                }
                let (news, all) = secrets.refresh(&from).await;
                rest = if all { AGAIN } else { SOON };
                if news {
                    changed();
                }
            }
        });
    }

    /// Whether one is another than before, and whether all could be had. What cannot be had stays as it was.
    async fn refresh(&self, from: &SecretsManager) -> (bool, bool) {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut known, mut news, mut all) = (BTreeMap::clone(&self.known.load()), false, true);
        for reference in wanted {
            match from.value(&reference).await {
                Ok(value) => news |= known.insert(reference, value.clone()) != Some(value),
                Err(error) => {
                    all = false;
                    tracing::error!(secret = reference, error, "secret not read; what it was stays");
                }
            }
        }
        if news {
            self.known.store(Arc::new(known));
        }
        (news, all)
    }
}
