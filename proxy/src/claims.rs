//! Header names that a client may not use: they say who somebody is, or are read by some backend as another header.
//!
//! Input: a request's headers. Output: which of them are refused, and the request without them. Must not: allocate for a name that is usual.

use crate::settings::UnderscoreHeaders;
use banyan_routes::override_header::OVERRIDE_HEADER;
use http::HeaderName;
use pingora_http::RequestHeader;

/// Takes off what only we, or a proxy that we trust, may say.
pub fn strip(request: &mut RequestHeader, trusted: bool, underscores: UnderscoreHeaders) {
    let refused = |name: &&HeaderName| is_refused(name.as_str(), trusted, underscores);
    while let Some(name) = request.headers.keys().find(refused).cloned() {
        request.remove_header(&name);
    }
}

/// Whether only we, or a proxy that we trust, may send a header of this name, which is in lower case.
pub fn is_refused(name: &str, trusted: bool, underscores: UnderscoreHeaders) -> bool {
    match memchr::memchr(b'_', name.as_bytes()) {
        Some(_) => underscores == UnderscoreHeaders::Drop || is_guarded(&name.replace('_', "-")),
        None => is_ours(name) || (!trusted && is_claim(name)),
    }
}

/// Never anybody else's, trusted or not.
fn is_ours(name: &str) -> bool {
    match name.as_bytes().first() {
        // The hook that reads the override takes it off.
        Some(b'x') => name.starts_with("x-banyan-") && name != OVERRIDE_HEADER,
        // `Proxy` is read by CGI programs as the proxy that they shall use; the other is for the first proxy on the way.
        Some(b'p') => matches!(name, "proxy" | "proxy-authorization"),
        _ => false,
    }
}

/// Who the client is and what it asked for, as proxies in front say it.
fn is_claim(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'x') => {
            matches!(
                name,
                "x-real-ip"
                    | "x-client-ip"
                    | "x-client-cert"
                    | "x-cluster-client-ip"
                    | "x-originating-ip"
                    | "x-remote-ip"
                    | "x-remote-addr"
                    | "x-remote-user"
                    | "x-authenticated-user"
                    | "x-authenticated-userid"
                    | "x-original-url"
                    | "x-original-uri"
                    | "x-original-host"
                    | "x-rewrite-url"
                    | "x-forwarded-by"
                    | "x-forwarded-client-cert"
                    | "x-forwarded-port"
                    | "x-forwarded-prefix"
                    | "x-forwarded-server"
                    | "x-forwarded-ssl"
                    | "x-forwarded-user"
                    | "x-forwarded-email"
                    | "x-forwarded-scheme"
                    | "x-forwarded-uri"
            ) || name.starts_with("x-amzn-oidc-")
                || name.starts_with("x-amzn-mtls-")
                || name.starts_with("x-ssl-client-")
        }
        Some(b'c') => matches!(name, "cf-connecting-ip" | "client-ip"),
        Some(b'f') => matches!(name, "forwarded" | "fastly-client-ip" | "front-end-https"),
        Some(b't') => name == "true-client-ip",
        Some(b'r') => name == "remote-user",
        _ => false,
    }
}

/// What an underscore must not stand for.
pub fn is_guarded(name: &str) -> bool {
    let framing = matches!(
        name,
        "content-length"
            | "transfer-encoding"
            | "trailer"
            | "connection"
            | "keep-alive"
            | "upgrade"
            | "host"
            | "te"
            | "via"
            | "cookie"
            | "authorization"
            | "traceparent"
            | "x-api-key"
    );
    framing
        || name.starts_with("x-banyan-")
        || is_ours(name)
        || is_claim(name)
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-amz")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(trusted: bool, underscores: UnderscoreHeaders) -> Vec<String> {
        let mut request = RequestHeader::build("GET", b"/", None).expect("head");
        for name in [
            "X-Banyan-Override",
            "X_Banyan_Override",
            "X-Real-IP",
            "X_Real_IP",
            "X-Forwarded-For",
            "X_Forwarded_For",
            "Content_Length",
            "X-Tenant",
            "X_Tenant",
            "Proxy",
            "X-Amzn-Oidc-Identity",
        ] {
            request.append_header(name, "v").expect("header");
        }
        strip(&mut request, trusted, underscores);
        let mut names: Vec<String> = request.headers.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn nobody_says_what_only_we_may_say() {
        assert_eq!(
            kept(false, UnderscoreHeaders::Drop),
            ["x-banyan-override", "x-forwarded-for", "x-tenant"]
        );
        assert_eq!(
            kept(false, UnderscoreHeaders::Keep),
            ["x-banyan-override", "x-forwarded-for", "x-tenant", "x_tenant"]
        );
        let trusted =
            ["x-amzn-oidc-identity", "x-banyan-override", "x-forwarded-for", "x-real-ip", "x-tenant"];
        assert_eq!(kept(true, UnderscoreHeaders::Drop), trusted);
    }
}
