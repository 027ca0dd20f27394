//! A Lambda function as it runs: the API's address, path and signature, prepared.
//!
//! Input: a compiled target, the process's settings. Output: the request that invokes it. Must not: send anything.

use crate::aws::credentials::CredentialStore;
use crate::aws::endpoint::{AwsSettings, Price, env};
use crate::aws::sign::{self, Scope};
use aws_credential_types::Credentials;
use banyan_routes::backend::{LambdaTarget, Origin};
use banyan_routes::file::Architecture;
use http::{HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pingora_http::RequestHeader;
use std::sync::Arc;
use std::time::SystemTime;

/// RFC 3986's unreserved characters stay as they are.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What one synchronous call may carry, both ways.
pub const PAYLOAD_MAX: usize = 6 << 20;

pub struct RunningFunction {
    pub target: LambdaTarget,
    /// `orders:live`: the label in metrics.
    pub label: Box<str>,
    pub region: Box<str>,
    pub origin: Origin,
    path: Box<str>,
    scope: Scope,
    price: Price,
    pub credentials: Arc<CredentialStore>,
}

impl std::fmt::Debug for RunningFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunningFunction({})", self.label)
    }
}

impl RunningFunction {
    pub fn new(
        target: &LambdaTarget,
        aws: &AwsSettings,
        credentials: Arc<CredentialStore>,
    ) -> Result<RunningFunction, String> {
        let region = aws.region(target, env)?;
        let origin = aws.lambda(target, &region, env)?;
        let name = utf8_percent_encode(target.arn.as_deref().unwrap_or(&target.function), UNRESERVED);
        let mut path = if target.stream {
            format!("/2021-11-15/functions/{name}/response-streaming-invocations")
        } else {
            format!("/2015-03-31/functions/{name}/invocations")
        };
        if let Some(qualifier) = &target.qualifier {
            path = format!("{path}?Qualifier={}", utf8_percent_encode(qualifier, UNRESERVED));
        }
        Ok(RunningFunction {
            target: target.clone(),
            label: target.label().into(),
            path: path.into(),
            scope: Scope {
                service: "lambda".into(),
                region: region.as_str().into(),
                move_authorization_to: None,
            },
            price: aws.price(&region),
            region: region.into(),
            origin,
            credentials,
        })
    }

    /// The signed head of a call with this event.
    pub fn request(
        &self,
        host: &str,
        event: &[u8],
        trace: Option<HeaderValue>,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<RequestHeader, String> {
        let build = || -> pingora_error::Result<RequestHeader> {
            let mut head = RequestHeader::build("POST", self.path.as_bytes(), Some(12))?;
            head.insert_header(header::HOST, host)?;
            head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
            head.insert_header(header::CONTENT_LENGTH, event.len())?;
            head.insert_header("X-Amz-Invocation-Type", HeaderValue::from_static("RequestResponse"))?;
            if self.target.log_tail {
                head.insert_header("X-Amz-Log-Type", HeaderValue::from_static("Tail"))?;
            }
            if let Some(trace) = trace {
                head.insert_header("X-Amzn-Trace-Id", trace)?;
            }
            Ok(head)
        };
        let mut head = build().map_err(|error| error.to_string())?;
        sign::apply(&self.scope, credentials, &mut head, event, now)?;
        Ok(head)
    }

    /// The account of its ARN; `anonymous`, as in events of public Function URLs, where the rule does not say.
    pub fn account(&self) -> &str {
        self.target.account.as_deref().unwrap_or("anonymous")
    }

    /// Price of a million requests and of a GB-second.
    pub fn prices(&self) -> (f64, f64) {
        let gb_second = match self.target.architecture {
            Architecture::X86 => self.price.gb_second_x86,
            Architecture::Arm64 => self.price.gb_second_arm,
        };
        (self.price.requests_per_million, gb_second)
    }
}
