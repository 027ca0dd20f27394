//! Cross-origin rules of a route, compiled to header values.
//!
//! Input: the `Origin` of a request. Output: the headers to add, or the whole answer to a preflight. Must not: let a
//! disallowed origin see anything; the request itself still goes on, as browsers do the blocking. Source: Fetch standard,
//! section "CORS protocol".

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `None`: every origin.
    pub origins: Option<Vec<HeaderValue>>,
    pub methods: Option<HeaderValue>,
    pub headers: Option<HeaderValue>,
    pub expose: Option<HeaderValue>,
    pub credentials: bool,
    pub max_age: Option<HeaderValue>,
}

/// Headers to put on a response.
pub type Added = Vec<(HeaderName, HeaderValue)>;

impl Cors {
    /// A preflight: OPTIONS with `Origin` and `Access-Control-Request-Method`.
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    fn allowed<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.origins.as_ref().is_none_or(|origins| origins.contains(origin)).then_some(origin)
    }

    /// What every response to this request gets.
    pub fn response(&self, request: &HeaderMap) -> Added {
        let mut added = vec![(header::VARY, HeaderValue::from_static("Origin"))];
        let Some(origin) = self.allowed(request) else { return added };
        let any = self.origins.is_none() && !self.credentials;
        let value = if any { HeaderValue::from_static("*") } else { origin.clone() };
        added.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, value));
        if self.credentials {
            added.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        if let Some(expose) = &self.expose {
            added.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone()));
        }
        added
    }

    /// The headers of the 204 that answers a preflight.
    pub fn preflight(&self, request: &HeaderMap) -> Added {
        let mut added = self.response(request);
        if self.allowed(request).is_some() {
            let more = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, &self.headers),
                (header::ACCESS_CONTROL_MAX_AGE, &self.max_age),
            ];
            added.extend(
                more.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value))),
            );
        }
        added
    }
}
