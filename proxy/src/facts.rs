//! pingora's request -> the facts that routes may see.
//!
//! Input: a parsed request head, the connection it came by, and whom we trust. Output: borrowed `RequestFacts`, the client's
//! address and the scheme it used. Must not: believe a forwarding header from anyone who is not listed.

use banyan_routes::path::split_target;
use banyan_routes::request::RequestFacts;
use http::{HeaderMap, HeaderValue, Uri, Version, header};
use ipnet::IpNet;
use pingora_http::RequestHeader;
use std::net::IpAddr;

pub const X_FORWARDED_FOR: &str = "x-forwarded-for";
pub const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
pub const X_FORWARDED_HOST: &str = "x-forwarded-host";

/// Who really asked, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Whoever the connection is with: the client itself, or a proxy of ours.
    pub peer: IpAddr,
    pub address: IpAddr,
    /// The peer itself is trusted to say for whom it asks.
    pub trusted: bool,
    pub https: bool,
}

impl Client {
    /// The rightmost forwarded address that is not one of our own proxies.
    pub fn new(peer: IpAddr, tls: bool, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Client {
        let ours = |address: &IpAddr| trusted_proxies.iter().any(|network| network.contains(address));
        let peer = peer.to_canonical();
        if !ours(&peer) {
            return Client { peer, address: peer, trusted: false, https: tls };
        }
        let mut address = peer;
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev().filter_map(|line| line.to_str().ok());
        for hop in lines.flat_map(|line| line.rsplit(',')) {
            // What is not an address ends the chain: nothing left of it can be believed.
            let Ok(hop) = hop.trim().parse::<IpAddr>() else { break };
            address = hop.to_canonical();
            if !ours(&address) {
                break;
            }
        }
        let proto = headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
        Client {
            peer,
            address,
            trusted: true,
            https: proto.map_or(tls, |proto| proto.eq_ignore_ascii_case(b"https")),
        }
    }

    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
}

/// The headers that `Connection` names as belonging to this hop, in lower case.
pub fn nominated(headers: &HeaderMap) -> Vec<String> {
    // What nearly every message says is passed over before a copy is made of it.
    let usual = |text: &[u8]| {
        ["", "close", "keep-alive", "content-length"]
            .iter()
            .any(|it| text.eq_ignore_ascii_case(it.as_bytes()))
    };
    let lines = headers.get_all(header::CONNECTION).iter().filter(|line| !usual(line.as_bytes()));
    let tokens = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim);
    tokens.filter(|token| !usual(token.as_bytes())).map(str::to_ascii_lowercase).collect()
}

/// The raw path and query. Origin-form is taken as the bytes that came; other forms by their parsed URI.
pub fn target(request: &pingora_http::RequestHeader) -> Option<(&str, Option<&str>)> {
    let raw = std::str::from_utf8(request.raw_path()).ok()?;
    if raw.starts_with('/') {
        return Some(split_target(raw));
    }
    let path = request.uri.path();
    Some((if path.is_empty() { "/" } else { path }, request.uri.query()))
}

/// The host a request is for: `:authority` in HTTP/2, `Host` in HTTP/1. `None` when HTTP/1.1 or later has none.
pub fn host(request: &RequestHeader) -> Option<&str> {
    let named = match request.headers.get(header::HOST) {
        // What is no text is no host, not even a missing one.
        Some(host) => Some(host.to_str().ok()?),
        None => request.uri.authority().map(|authority| authority.as_str()),
    };
    match named {
        Some(host) if !host.is_empty() => Some(host),
        Some(_) | None if request.version <= Version::HTTP_10 => Some(""),
        Some(_) | None => None,
    }
}

/// Whether a Host is a name or an address, with at most a port (RFC 3986 section 3.2.2, without percent encoding).
pub fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            Some(_) | None => return false,
        },
        None => host.bytes().position(|b| b == b':').map_or((host, ""), |at| host.split_at(at)),
    };
    // As if a dot came before it: a name begins with none, and has no two in a row.
    let mut last = b'.';
    for byte in name.bytes() {
        match byte {
            b'.' if last == b'.' => return false,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => last = byte,
            _ => return false,
        }
    }
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    !name.is_empty() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// A websocket handshake: the only upgrade there is. Anything else that says `Upgrade` is an ordinary request.
pub fn is_websocket(request: &RequestHeader) -> bool {
    let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let connection = request.headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let bodyless = !request.headers.contains_key(header::CONTENT_LENGTH)
        && !request.headers.contains_key(header::TRANSFER_ENCODING);
    request.version == Version::HTTP_11
        && request.method == http::Method::GET
        && bodyless
        && request.headers.contains_key(header::SEC_WEBSOCKET_KEY)
        && text(header::UPGRADE).eq_ignore_ascii_case("websocket")
        && connection
            .flat_map(|line| line.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Messages over one long body.
pub fn is_grpc(request: &RequestHeader) -> bool {
    let kind = || request.headers.get(header::CONTENT_TYPE);
    request.version == Version::HTTP_2
        && kind().is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The facts of a request. `path` comes apart because the framework may have rewritten the URI's own.
pub fn facts<'a>(
    request: &'a RequestHeader,
    host: &'a str,
    uri: &'a Uri,
    client: &Client,
    listener: &'a str,
) -> RequestFacts<'a> {
    RequestFacts {
        method: &request.method,
        host,
        path: if uri.path().is_empty() { "/" } else { uri.path() },
        query: uri.query(),
        headers: &request.headers,
        client_ip: Some(client.address),
        endpoint: None,
        listener,
        claims: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port() {
        for good in [
            "h",
            "shop.example.com",
            "shop.example.com.",
            "a_b-c.d:8080",
            "10.0.0.1:80",
            "[::1]",
            "[::1]:8443",
        ] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "", "a/b", "a b", "<x>", "a?b", "a#b", "a\\b", "a,b", "a:xx", "a:99999", "[::1", "..", "a..b",
            "a:80/x", "a:+80", "u@h", "a:1:2",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    fn client(peer: &str, forwarded: &[&str]) -> Client {
        let trusted = ["10.0.0.0/8".parse().expect("network")];
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(X_FORWARDED_FOR, line.parse().expect("header"));
        }
        headers.append(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        Client::new(peer.parse().expect("address"), false, &headers, &trusted)
    }

    #[test]
    fn a_stranger_cannot_say_who_he_is() {
        let client = client("203.0.113.9", &["198.51.100.1"]);
        assert_eq!(
            (client.address.to_string().as_str(), client.trusted, client.https),
            ("203.0.113.9", false, false)
        );
    }

    #[test]
    fn the_rightmost_address_that_is_not_ours_is_the_client() {
        let found = |lines: &[&str]| client("10.0.0.1", lines).address.to_string();
        assert_eq!(found(&["1.2.3.4"]), "1.2.3.4");
        assert_eq!(found(&["6.6.6.6, 1.2.3.4, 10.0.0.7"]), "1.2.3.4");
        assert_eq!(found(&["6.6.6.6", "1.2.3.4", "10.0.0.7"]), "1.2.3.4");
        assert_eq!(found(&["6.6.6.6, junk, 10.0.0.7"]), "10.0.0.7");
        assert_eq!(found(&[]), "10.0.0.1");
        assert_eq!(found(&["::ffff:1.2.3.4"]), "1.2.3.4");
        assert!(client("10.0.0.1", &[]).https);
    }
}
