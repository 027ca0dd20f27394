//! What makes a backend serverless: Lambda functions, signatures, tokens, and the knobs of private APIs.
//!
//! Input: raw backends. Output: the parts of a compiled `Backend`. Must not: know credentials or regions of the process;
//! what a rule leaves out is filled in by the settings.

use super::Lowering;
use crate::backend::{BackendToken, EventFormat, LambdaTarget, Origin, Signature, Target, Warming};
use crate::file::{self, Payload, TokenSource};
use http::{HeaderName, HeaderValue, header};
use std::fmt;
use std::time::Duration;

/// What a Lambda payload may be, and what a Function URL or API Gateway takes at most (10 MB).
const SIGNED_BODY_MAX: u64 = 10 << 20;
/// More calls at once than this would be a load test, not warming.
const WARM_CALLS_MAX: u32 = 100;

/// The parts of `arn:aws:lambda:eu-west-1:123456789012:function:orders:live`.
struct FunctionName<'a> {
    region: Option<&'a str>,
    account: Option<&'a str>,
    name: &'a str,
    qualifier: Option<&'a str>,
}

impl FunctionName<'_> {
    fn parse(text: &str) -> Option<FunctionName<'_>> {
        let account_like = |part: &str| part.len() == 12 && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = text.split(':').collect();
        let (region, account, rest) = match parts.as_slice() {
            ["arn", partition, "lambda", region, account, "function", rest @ ..]
                if partition.starts_with("aws") && is_region(region) && account_like(account) =>
            {
                (Some(*region), Some(*account), rest)
            }
            [account, "function", rest @ ..] if account_like(account) => (None, Some(*account), rest),
            rest => (None, None, rest),
        };
        let (name, qualifier) = match rest {
            [name] => (*name, None),
            [name, qualifier] => (*name, Some(*qualifier)),
            _ => return None,
        };
        let plain = |text: &str| {
            (1..=140).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let valid = plain(name) && qualifier.is_none_or(is_qualifier);
        valid.then_some(FunctionName { region, account, name, qualifier })
    }
}

impl Lowering {
    pub(super) fn lambda(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Backend) -> Target {
        let Some(lambda) = &raw.lambda else { return Target::Urls(Vec::new()) };
        let at = format_args!("{at}.lambda");
        let parsed = FunctionName::parse(&lambda.function);
        if parsed.is_none() {
            let text = format!("`{}` is not a function", lambda.function);
            let expected = "a name, `account:function:name` or an ARN, with letters, digits, `-` and `_`";
            self.error("lambda_function", file, format_args!("{at}.function"), text, expected);
        }
        let FunctionName { region, account, name, qualifier } =
            parsed.unwrap_or(FunctionName { region: None, account: None, name: "", qualifier: None });
        if let (Some(arn), Some(given)) = (region, &lambda.region)
            && arn != given
        {
            let text = format!("the ARN is in `{arn}` and the region given is `{given}`");
            self.error("lambda_region", file, format_args!("{at}.region"), text, "one region");
        }
        if let (Some(first), Some(second)) = (qualifier, &lambda.qualifier) {
            let text = format!("the function names `{first}` and `qualifier` names `{second}`");
            self.error("lambda_qualifier", file, format_args!("{at}.qualifier"), text, "one of them");
        }
        if let Some(given) = lambda.region.as_deref().filter(|region| !is_region(region)) {
            let text = format!("`{given}` is not a region");
            self.error("lambda_region", file, format_args!("{at}.region"), text, "such as `eu-west-1`");
        }
        if let Some(given) = lambda.qualifier.as_deref().filter(|qualifier| !is_qualifier(qualifier)) {
            let text = format!("`{given}` is neither a version nor an alias");
            let expected = "`$LATEST`, a number, or letters, digits, `-` and `_`";
            self.error("lambda_qualifier", file, format_args!("{at}.qualifier"), text, expected);
        }
        let named = qualifier.map(|qualifier| format!(":{qualifier}")).unwrap_or_default();
        let arn = lambda.function.strip_suffix(&named).unwrap_or(&lambda.function);
        let format = match lambda.payload.unwrap_or(Payload::V2) {
            Payload::V2 => EventFormat::V2,
            Payload::V1 => EventFormat::V1,
            Payload::Alb => EventFormat::Alb { multi_value: lambda.multi_value.unwrap_or(false) },
        };
        if lambda.multi_value.is_some() && !matches!(format, EventFormat::Alb { .. }) {
            let text = "`multi_value` is a choice of ALB events; v1 has both maps always, v2 has none";
            self.error("lambda_multi_value", file, format_args!("{at}.multi_value"), text, "`payload: alb`");
        }
        let stream = lambda.stream.unwrap_or(false);
        if stream && format != EventFormat::V2 {
            let text = "answers are streamed with events of format v2 only";
            self.error("lambda_stream", file, format_args!("{at}.stream"), text, "`payload: v2`");
        }
        let warm = lambda.warm.as_ref().map(|warm| self.warm(file, format_args!("{at}.warm"), warm));
        let endpoint = lambda.endpoint.as_ref().and_then(|url| {
            let parsed = Origin::parse(url);
            parsed
                .map_err(|text| {
                    let expected = "`http://` or `https://`, a host and optionally a port";
                    self.error("url_invalid", file, format_args!("{at}.endpoint"), text, expected);
                })
                .ok()
        });
        for (given, field) in [(raw.sign.is_some(), "sign"), (raw.health.is_some(), "health")] {
            if given {
                let text = format!(
                    "`{field}` has no meaning for a function; calls are signed and judged one by one"
                );
                let path = format_args!("{}", at).to_string();
                let path = format!("{}.{field}", path.trim_end_matches(".lambda"));
                self.error("lambda_field", file, path, text, "no such field beside `lambda`");
            }
        }
        Target::Lambda(Box::new(LambdaTarget {
            function: name.into(),
            arn: arn.contains(':').then(|| arn.into()),
            account: account.map(Into::into),
            qualifier: qualifier.or(lambda.qualifier.as_deref()).map(Into::into),
            region: region.or(lambda.region.as_deref()).map(Into::into),
            endpoint,
            format,
            stream,
            log_tail: lambda.log_tail.unwrap_or(false),
            warm,
            architecture: lambda.architecture.unwrap_or_default(),
        }))
    }

    fn warm(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Warm) -> Warming {
        if raw.concurrency == 0 || raw.concurrency > WARM_CALLS_MAX {
            let text = format!("{} calls at once", raw.concurrency);
            self.error("warm_concurrency", file, format_args!("{at}.concurrency"), text, "1 to 100");
        }
        if raw.every.is_some_and(|every| every.0 < Duration::from_secs(1)) {
            let text = "calls this often are load, and cost money";
            self.error("warm_every", file, format_args!("{at}.every"), text, "1s or more; 5m is usual");
        }
        let path = raw.path.as_deref().unwrap_or("/");
        if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let text = format!("`{path}` is not a path");
            self.error("warm_path", file, format_args!("{at}.path"), text, "a path such as `/healthz`");
        }
        Warming { concurrency: raw.concurrency, every: raw.every.map(|every| every.0), path: path.into() }
    }

    /// A signature for another service or region than the URL's own is refused by AWS with a message that names neither.
    pub(super) fn signature(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Sign,
        target: &Target,
    ) -> Signature {
        let at = format_args!("{at}.sign");
        let plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        for (field, value) in [("service", &raw.service), ("region", &raw.region)] {
            if !plain(value) {
                let text = format!("`{value}` is not a {field}");
                self.error(
                    "sign_scope",
                    file,
                    format_args!("{at}.{field}"),
                    text,
                    "such as `execute-api` and `eu-west-1`",
                );
            }
        }
        let hosts = match target {
            Target::Urls(origins) => origins.as_slice(),
            Target::Lambda(_) => &[],
        };
        for (service, region) in hosts.iter().filter_map(|origin| aws_scope(&origin.host)) {
            if service != raw.service {
                let text = format!(
                    "the URL belongs to service `{service}` and the signature is for `{}`",
                    raw.service
                );
                self.error("sign_service", file, format_args!("{at}.service"), text, service);
            }
            if region != raw.region {
                let text =
                    format!("the URL is in region `{region}` and the signature is for `{}`", raw.region);
                self.error("sign_region", file, format_args!("{at}.region"), text, region);
            }
        }
        let move_to = raw.move_authorization_to.as_deref().and_then(|name| {
            let path = format_args!("{at}.move_authorization_to");
            let parsed = self.editable(file, path, name)?;
            if parsed == header::AUTHORIZATION || parsed.as_str().starts_with("x-amz-") {
                let text = format!("`{name}` is part of the signature");
                self.error("header_reserved", file, path, text, "such as `X-Client-Authorization`");
                return None;
            }
            Some(parsed)
        });
        if raw.max_body.is_some_and(|size| size.0 == 0) {
            let text = "no body at all could be signed";
            self.error("sign_max_body", file, format_args!("{at}.max_body"), text, "1B or more");
        }
        Signature {
            service: raw.service.as_str().into(),
            region: raw.region.as_str().into(),
            move_authorization_to: move_to,
            body_max_bytes: raw.max_body.map_or(SIGNED_BODY_MAX, |size| size.0),
        }
    }

    pub(super) fn token(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Backend,
    ) -> Option<BackendToken> {
        let token = raw.token.as_deref()?;
        let at = format_args!("{at}.token");
        if raw.lambda.is_some() {
            let text = "a function is called by a signature, not by a token";
            self.error("token_target", file, format_args!("{at}"), text, "`token` on a backend with `urls`");
        }
        let name = token.header.as_deref().unwrap_or("Authorization");
        let name = self.editable(file, format_args!("{at}.header"), name).unwrap_or(header::AUTHORIZATION);
        if raw.sign.is_some() && name == header::AUTHORIZATION {
            let text = "the signature and the token both want the header Authorization";
            self.error(
                "token_header",
                file,
                format_args!("{at}.header"),
                text,
                "another header for the token",
            );
        }
        let needed = match token.source {
            TokenSource::GoogleIdToken => "audience",
            TokenSource::File => "path",
            TokenSource::Env => "variable",
            TokenSource::SecretsManager => "secret",
        };
        let fields = [
            ("audience", &token.audience),
            ("path", &token.path),
            ("variable", &token.variable),
            ("secret", &token.secret),
        ];
        let value = fields.iter().find(|(name, _)| *name == needed).and_then(|(_, value)| value.as_deref());
        if value.is_none_or(|value| value.is_empty() || value.contains(char::is_control)) {
            let text = format!("this source needs `{needed}`");
            self.error("token_fields", file, format_args!("{at}"), text, needed);
        }
        for (other, _) in fields.iter().filter(|(name, value)| *name != needed && value.is_some()) {
            let text = format!("`{other}` has no meaning for this source");
            self.error("token_fields", file, format_args!("{at}.{other}"), text, needed);
        }
        let value = value.unwrap_or_default().into();
        Some(BackendToken { source: token.source, value, header: name })
    }

    /// `/prod`, without its trailing slash; empty when there is none.
    pub(super) fn path_prefix(&mut self, file: usize, at: fmt::Arguments<'_>, raw: Option<&str>) -> Box<str> {
        let Some(prefix) = raw else { return "".into() };
        let fine = prefix.starts_with('/')
            && !prefix.contains("//")
            && prefix.split('/').all(|segment| segment != "." && segment != "..")
            && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@".contains(&b));
        if !fine {
            let text = format!("`{prefix}` cannot stand before a path");
            self.error("path_prefix", file, format_args!("{at}.path_prefix"), text, "such as `/prod`");
        }
        prefix.strip_suffix('/').unwrap_or(prefix).into()
    }

    pub(super) fn backend_headers(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Backend,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let pairs = self.pairs(file, format_args!("{at}.headers"), &raw.headers);
        let token = raw.token.as_ref().map(|token| token.header.as_deref().unwrap_or("Authorization"));
        const SIGNED: [&str; 3] = ["authorization", "x-amz-date", "x-amz-security-token"];
        for (name, _) in &pairs {
            let signed = raw.sign.is_some() && SIGNED.contains(&name.as_str());
            if signed || token.is_some_and(|token| token.eq_ignore_ascii_case(name.as_str())) {
                let text = format!("`{name}` is set by the {}", if signed { "signature" } else { "token" });
                self.error("header_reserved", file, format_args!("{at}.headers"), text, "another header");
            }
        }
        if raw.lambda.is_none() {
            return pairs;
        }
        if !pairs.is_empty() {
            let text = "a function sees the request, not the call; `request_headers` of a route edits it";
            self.error(
                "lambda_field",
                file,
                format_args!("{at}.headers"),
                text,
                "no such field beside `lambda`",
            );
        }
        Vec::new()
    }
}

fn is_qualifier(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_$".contains(&b))
}

/// `eu-west-1`: it becomes a part of host names and of what is signed.
fn is_region(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Service and region of an address of AWS that shows both.
fn aws_scope(host: &str) -> Option<(&'static str, &str)> {
    let host = host.strip_suffix(".cn").unwrap_or(host);
    if let Some(front) = host.strip_suffix(".on.aws") {
        let (front, region) = front.rsplit_once('.')?;
        return front.ends_with(".lambda-url").then_some(("lambda", region));
    }
    let front = host.strip_suffix(".amazonaws.com")?;
    let front = front.strip_suffix(".vpce").unwrap_or(front);
    let (front, region) = front.rsplit_once('.')?;
    front.ends_with(".execute-api").then_some(("execute-api", region))
}
