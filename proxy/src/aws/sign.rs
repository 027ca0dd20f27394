//! AWS Signature Version 4 over a request as it will be sent.
//!
//! Input: a head with its final path and Host, the whole body, credentials, the time. Output: `Authorization`, `X-Amz-Date`
//! and what belongs to them. Must not: sign what a hop may change: only Host, Content-Type and `x-amz-*` are covered.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderName, HeaderValue, header};
use pingora_http::RequestHeader;
use std::time::SystemTime;

/// What a signature is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub service: Box<str>,
    pub region: Box<str>,
    /// Where the client's own Authorization goes; `None` drops it.
    pub move_authorization_to: Option<HeaderName>,
}

/// Headers of an older signature: the client's, or an earlier try's.
const OURS: [&str; 4] = ["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"];

/// Signs `head` in place. The error says which part could not be signed.
pub fn apply(
    scope: &Scope,
    credentials: &Credentials,
    head: &mut RequestHeader,
    body: &[u8],
    now: SystemTime,
) -> Result<(), String> {
    if let Some(name) = &scope.move_authorization_to
        && let Some(own) = head.headers.get(header::AUTHORIZATION).cloned()
    {
        head.insert_header(name.clone(), own).map_err(|error| error.to_string())?;
    }
    for name in OURS {
        head.remove_header(name);
    }
    let covered = |name: &HeaderName| {
        name == header::HOST || name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-")
    };
    let mut headers: Vec<(&str, &str)> = Vec::new();
    for (name, value) in head.headers.iter().filter(|(name, _)| covered(name)) {
        let text = value.to_str().map_err(|_| format!("header {name} holds bytes that cannot be signed"))?;
        headers.push((name.as_str(), text));
    }
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let target = std::str::from_utf8(head.raw_path()).map_err(|_| "the path is not UTF-8".to_owned())?;
    // The scheme is not part of a signature.
    let uri = format!("https://{host}{target}");
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    // The body's hash is in the signature; as a header of its own some servers would believe it unread.
    settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&scope.region)
        .name(&scope.service)
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let request =
        SignableRequest::new(head.method.as_str(), uri, headers.into_iter(), SignableBody::Bytes(body))
            .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(request, &params).map_err(|error| error.to_string())?.into_parts();
    let (added, _) = instructions.into_parts();
    for header in added {
        let mut value = HeaderValue::from_str(header.value()).map_err(|error| error.to_string())?;
        value.set_sensitive(header.sensitive());
        head.insert_header(header.name(), value).map_err(|error| error.to_string())?;
    }
    Ok(())
}
