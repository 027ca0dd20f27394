//! Which of the headers that hooks look for a head brings, found in one pass over it.
//!
//! Input: a head. Output: flags, and the head's size. Must not: say of a header that it is not there when it is: what is not known counts as
//! there. To ask the map for each of them would cost a request more than all that is decided about it.

use banyan_routes::override_header::OVERRIDE_HEADER;
use http::Method;
use http::header::{self, HeaderMap};
use pingora_http::RequestHeader;

/// By which some frameworks take another method than the request's own.
pub const METHOD_OVERRIDES: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    // As some servers read the same names.
    "x_http_method_override",
    "x_http_method",
    "x_method_override",
];

/// The method by which is judged what a request may do: one that names another may do anything.
pub fn acts_as<'a>(method: &'a Method, headers: &HeaderMap) -> &'a Method {
    if METHOD_OVERRIDES.iter().any(|name| headers.contains_key(*name)) { &Method::POST } else { method }
}

/// What is looked for, of requests and of answers.
#[derive(Clone, Copy)]
pub enum Header {
    Connection,
    Upgrade,
    ContentLength,
    TransferEncoding,
    Expect,
    Cookie,
    TraceParent,
    TraceState,
    XRay,
    Override,
    /// One that its sender may not use.
    Refused,
    /// It asks for less than the whole answer.
    Condition,
    /// One of `METHOD_OVERRIDES`.
    Method,
    /// It belongs to the connection, beside the first five. Nobody looks for it among a client's headers.
    HopByHop,
}

#[derive(Clone, Copy)]
pub struct Brings {
    flags: u16,
    /// Of a request, as HTTP/1.1 would carry it: what `limits.header_bytes` counts.
    pub bytes: u64,
}

impl Brings {
    /// Nobody has looked.
    pub const UNKNOWN: Brings = Brings { flags: u16::MAX, bytes: 0 };

    /// `refused` says which other names are not for this client to use.
    pub fn of(request: &RequestHeader, refused: impl Fn(&str) -> bool) -> Brings {
        let (mut flags, mut bytes) = (0, request.raw_path().len());
        for (name, value) in &request.headers {
            bytes += name.as_str().len() + value.len() + 4;
            flags |= match *name {
                header::HOST | header::USER_AGENT | header::ACCEPT | header::CONTENT_TYPE => 0,
                header::CONNECTION => bit(Header::Connection),
                header::UPGRADE => bit(Header::Upgrade),
                header::CONTENT_LENGTH => bit(Header::ContentLength),
                header::TRANSFER_ENCODING => bit(Header::TransferEncoding),
                header::EXPECT => bit(Header::Expect),
                header::COOKIE => bit(Header::Cookie),
                header::IF_MATCH
                | header::IF_NONE_MATCH
                | header::IF_MODIFIED_SINCE
                | header::IF_UNMODIFIED_SINCE
                | header::IF_RANGE
                | header::RANGE => bit(Header::Condition),
                _ => match name.as_str() {
                    "traceparent" => bit(Header::TraceParent),
                    "tracestate" => bit(Header::TraceState),
                    "x-amzn-trace-id" => bit(Header::XRay),
                    OVERRIDE_HEADER => bit(Header::Override),
                    other if METHOD_OVERRIDES.contains(&other) => bit(Header::Method),
                    other if refused(other) => bit(Header::Refused),
                    _ => 0,
                },
            };
        }
        Brings { flags, bytes: bytes as u64 }
    }

    /// Of any message: what belongs to its connection.
    pub fn of_hop(headers: &HeaderMap) -> Brings {
        let mut flags = 0;
        for name in headers.keys() {
            flags |= match *name {
                header::CONNECTION => bit(Header::Connection),
                header::UPGRADE => bit(Header::Upgrade),
                header::CONTENT_LENGTH => bit(Header::ContentLength),
                header::TRANSFER_ENCODING => bit(Header::TransferEncoding),
                header::EXPECT => bit(Header::Expect),
                header::PROXY_AUTHENTICATE | header::PROXY_AUTHORIZATION | header::TE | header::TRAILER => {
                    bit(Header::HopByHop)
                }
                _ if matches!(name.as_str(), "keep-alive" | "proxy-connection") => bit(Header::HopByHop),
                _ => 0,
            };
        }
        Brings { flags, bytes: 0 }
    }

    pub fn has(self, header: Header) -> bool {
        self.flags & bit(header) != 0
    }
}

fn bit(header: Header) -> u16 {
    1 << header as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_nothing_else() {
        let mut request = RequestHeader::build("GET", b"/a?b", None).expect("head");
        request.append_header("Cookie", "a=b").expect("header");
        request.append_header("X-Banyan-Override", "v").expect("header");
        request.append_header("X-Mine", "v").expect("header");
        let brings = Brings::of(&request, |name| name == "x-mine");
        assert_eq!(brings.bytes, 4 + 13 + 22 + 11);
        let found = |it| brings.has(it);
        assert!(found(Header::Cookie) && found(Header::Override) && found(Header::Refused));
        assert!(!found(Header::Upgrade) && !found(Header::TraceParent) && !found(Header::HopByHop));
        assert!(Brings::UNKNOWN.has(Header::Expect));
    }

    #[test]
    fn what_belongs_to_the_connection_is_found() {
        for (name, header) in [
            ("keep-alive", Header::HopByHop),
            ("proxy-connection", Header::HopByHop),
            ("te", Header::HopByHop),
            ("trailer", Header::HopByHop),
            ("proxy-authenticate", Header::HopByHop),
            ("connection", Header::Connection),
            ("upgrade", Header::Upgrade),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, "v".parse().expect("value"));
            assert!(Brings::of_hop(&headers).has(header), "{name}");
        }
        assert!(!Brings::of_hop(&HeaderMap::new()).has(Header::HopByHop));
    }
}
