//! `GET https://shop.example.com/orders/42?x=1` as a request that owns its parts: for rule tests, `explain` and `plan`.
//!
//! Input: a method, an absolute URL and headers as text. Output: `RequestFacts`. Must not: normalise the path; how it is
//! read is what is being asked.

use crate::path::split_target;
use crate::request::RequestFacts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::net::IpAddr;

#[derive(Clone, Debug)]
pub struct OwnedRequest {
    pub method: Method,
    pub scheme: String,
    pub host: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub client_ip: Option<IpAddr>,
    pub listener: String,
}

impl OwnedRequest {
    /// `METHOD URL`; the error says which part is wrong.
    pub fn parse(line: &str) -> Result<OwnedRequest, String> {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(method), Some(url), None) => OwnedRequest::new(method, url),
            _ => Err(format!(
                "`{line}` is not a method and a URL; expected for example `GET https://shop.example.com/orders/42`"
            )),
        }
    }

    pub fn new(method: &str, url: &str) -> Result<OwnedRequest, String> {
        let parsed = Method::from_bytes(method.as_bytes())
            .ok()
            .filter(|_| !method.bytes().any(|b| b.is_ascii_lowercase()));
        let method =
            parsed.ok_or_else(|| format!("`{method}` is not a method; expected upper case such as `GET`"))?;
        let hint = || {
            format!(
                "`{url}` is not an absolute URL; expected for example `https://shop.example.com/orders/42`"
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(hint)?;
        if !matches!(scheme, "http" | "https") {
            return Err(hint());
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(end);
        if host.is_empty() {
            return Err(hint());
        }
        let target = target.split('#').next().unwrap_or_default();
        let (path, query) = split_target(target);
        let path = if path.is_empty() { "/" } else { path };
        Ok(OwnedRequest {
            method,
            scheme: scheme.into(),
            host: host.into(),
            path: path.into(),
            query: query.map(str::to_owned),
            headers: HeaderMap::new(),
            client_ip: None,
            listener: String::new(),
        })
    }

    /// Adds a header, after those of the same name.
    pub fn header(&mut self, name: &str, value: &str) -> Result<(), String> {
        let parsed = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| format!("`{name}` is not a header name"))?;
        let value = HeaderValue::from_str(value.trim())
            .map_err(|_| format!("the value of `{name}` holds a byte no header may hold"))?;
        self.headers.append(parsed, value);
        Ok(())
    }

    pub fn facts(&self) -> RequestFacts<'_> {
        RequestFacts {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            client_ip: self.client_ip,
            endpoint: None,
            listener: &self.listener,
            claims: None,
        }
    }
}
