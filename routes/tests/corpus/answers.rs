//! What stands before the body: statuses, headers, character sets; and forms and parts.
//!
//! Input: none. Output: pairs that say one thing in two ways, and pairs of which a client would notice the difference. Must not: name a header that is
//! compared by a rule only.

use crate::{FORM, HTML, JSON, Pair, Side, TEXT, XML};

/// Values of a header that say one thing, and values that do not. An empty one is not there, a line is a header of its own.
struct Header {
    name: &'static str,
    kind: &'static str,
    same: &'static [(&'static str, &'static str)],
    real: &'static [(&'static str, &'static str)],
}

const HOST: &str = "shop.example";

const HEADERS: [Header; 16] = [
    Header {
        name: "location",
        kind: "redirect",
        same: &[
            ("http://shop.example/a?b=1", "https://shop.example/a?b=1"),
            ("/a", "https://shop.example/a"),
            ("https://SHOP.example:443/a", "/a"),
            ("http://shop.example:80/a#top", "//shop.example/a#top"),
            ("HTTPS://login.example/x", "https://login.example:443/x"),
        ],
        real: &[
            ("/a", "/b"),
            ("/a", ""),
            ("", "/a"),
            ("/a", "https://evil.example/a"),
            ("/a", "//evil.example/a"),
            ("https://login.example/x", "https://evil.example/x"),
            ("https://login.example/x", "http://login.example/x"),
            ("https://login.example/x", "https://login.example:8443/x"),
            ("/a?page=1", "/a?page=2"),
            ("/a?page=1", "/a"),
            ("/a#top", "/a"),
            ("/login?next=https://shop.example/x", "/logout?next=https://shop.example/x"),
            ("/A", "/a"),
            ("/검색", "/검사"),
            ("/a", "/a/"),
        ],
    },
    Header {
        name: "set-cookie",
        kind: "cookie",
        same: &[
            ("sid=1; Path=/; HttpOnly", "sid=2; HttpOnly; Path=/"),
            ("sid=1; path=/;Secure", "sid=99; Path=/; secure"),
            ("sid=1; SameSite=Lax", "sid=2; samesite=lax"),
            ("a=1\nb=2", "b=3\na=4"),
            ("sid=1; Expires=Thu, 01 Jan 2099 00:00:00 GMT", "sid=1; expires=Friday, 02-Jan-68 00:00:01 GMT"),
            (
                "sid=; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
                "sid=\"\"; expires=Thursday, 01-Jan-70 00:00:10 GMT",
            ),
        ],
        real: &[
            ("sid=1", ""),
            ("", "sid=1"),
            ("sid=1", "session=1"),
            ("sid=1", "SID=1"),
            ("sid=1; HttpOnly", "sid=1"),
            ("sid=1; Secure", "sid=1"),
            ("sid=1; SameSite=Strict", "sid=1; SameSite=None"),
            ("sid=1; Path=/", "sid=1; Path=/app"),
            ("sid=1; Path=/App", "sid=1; Path=/app"),
            ("sid=1; Domain=shop.example", "sid=1"),
            ("sid=1; Max-Age=3600", "sid=1; Max-Age=0"),
            ("sid=1; Max-Age=3600", "sid=1"),
            ("sid=1", "sid="),
            ("sid=1; Expires=Thu, 01 Jan 2099 00:00:00 GMT", "sid=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
            ("sid=1; Expires=Thu, 01 Jan 2099 00:00:00 GMT", "sid=1; expires=Thu, 01-Jan-70 00:00:01 GMT"),
            ("a=1\nb=2", "a=1"),
            ("a=1", "a=1\na=2"),
            ("a=한; Path=/", "글=1; Path=/"),
        ],
    },
    Header {
        name: "cache-control",
        kind: "caching",
        same: &[
            ("no-cache, private", "Private,no-cache"),
            ("max-age=60", "max-age=60 "),
            ("no-store\nprivate", "private, no-store"),
        ],
        real: &[
            ("no-store", ""),
            ("", "public"),
            ("max-age=60", "max-age=600"),
            ("private", "public"),
            ("no-store, private", "private"),
            ("max-age=60", "max-age=60, immutable"),
        ],
    },
    Header {
        name: "vary",
        kind: "vary",
        same: &[
            ("Accept, Cookie", "cookie,accept"),
            ("Accept\nCookie", "Accept, Cookie"),
            ("Accept,,", "Accept"),
        ],
        real: &[("Cookie", ""), ("Accept, Cookie", "Accept"), ("Accept", "*"), ("", "Origin")],
    },
    Header {
        name: "allow",
        kind: "methods allowed",
        same: &[("GET, HEAD", "HEAD,GET")],
        real: &[("GET, HEAD", "GET"), ("GET", "GET, DELETE"), ("GET", "")],
    },
    Header {
        name: "etag",
        kind: "validator",
        same: &[("\"a1\"", "\"b2\""), ("\"a1\"", "W/\"b2\"")],
        real: &[("\"a1\"", ""), ("", "\"a1\"")],
    },
    Header {
        name: "last-modified",
        kind: "date of change",
        same: &[("Mon, 23 Nov 2026 00:00:00 GMT", "Tue, 24 Nov 2026 00:00:00 GMT")],
        real: &[("Mon, 23 Nov 2026 00:00:00 GMT", "")],
    },
    Header {
        name: "content-language",
        kind: "language",
        same: &[("ko", "ko")],
        real: &[("ko", "en"), ("ko", ""), ("", "ko")],
    },
    Header {
        name: "content-disposition",
        kind: "name of a download",
        same: &[("attachment; filename=\"공지.pdf\"", "attachment; filename=\"공지.pdf\"")],
        real: &[
            ("attachment; filename=\"공지.pdf\"", "attachment; filename=\"공고.pdf\""),
            ("attachment; filename=a.pdf", "inline; filename=a.pdf"),
            ("attachment", ""),
        ],
    },
    Header {
        name: "www-authenticate",
        kind: "scheme of authentication",
        same: &[
            ("Digest realm=\"a\", nonce=\"1\"", "digest nonce=\"2\", realm=\"a\""),
            ("Negotiate\nBasic realm=\"x, y\"", "Basic realm=\"x, y\", Negotiate"),
        ],
        real: &[
            ("Basic realm=\"x\"", "Bearer realm=\"x\""),
            ("Negotiate, Basic realm=\"x\"", "Negotiate"),
            ("Basic", ""),
        ],
    },
    Header {
        name: "link",
        kind: "pages of a list",
        same: &[
            (
                "<http://shop.example/o?page=2>; rel=\"next\", </o?page=9>; rel=last",
                "</o?page=9>; rel=\"last\"\n</o?page=2>; rel=next",
            ),
            ("</a>;rel=next;title=x", "<https://shop.example/a>; title=\"x\"; rel=\"next\""),
        ],
        real: &[
            ("</o?page=2>; rel=next", "</o?page=3>; rel=next"),
            ("</o?page=2>; rel=next", "</o?page=2>; rel=prev"),
            ("</o?page=2>; rel=next", ""),
            ("</o?page=2>; rel=next", "<https://evil.example/o?page=2>; rel=next"),
            ("</o?page=2>; rel=next, </o?page=9>; rel=last", "</o?page=2>; rel=next"),
        ],
    },
    Header {
        name: "access-control-allow-origin",
        kind: "origin that may read",
        same: &[("https://app.example", "https://app.example")],
        real: &[
            ("https://app.example", ""),
            ("https://app.example", "*"),
            ("", "*"),
            ("https://app.example", "http://app.example"),
        ],
    },
    Header {
        name: "access-control-allow-methods",
        kind: "methods of other origins",
        same: &[("GET, PUT", "PUT,GET")],
        real: &[("GET, PUT", "GET"), ("GET", ""), ("GET", "GET, DELETE"), ("PATCH", "patch")],
    },
    Header {
        name: "strict-transport-security",
        kind: "transport security",
        same: &[("max-age=31536000; includeSubDomains", "includesubdomains;max-age=31536000")],
        real: &[
            ("max-age=31536000; includeSubDomains", "max-age=31536000"),
            ("max-age=31536000", "max-age=0"),
            ("max-age=31536000", ""),
        ],
    },
    Header {
        name: "x-frame-options",
        kind: "framing",
        same: &[("DENY", "deny")],
        real: &[("DENY", "SAMEORIGIN"), ("DENY", "")],
    },
    Header {
        name: "content-security-policy",
        kind: "policy of a page",
        same: &[
            ("script-src 'self' 'nonce-aB3'; img-src *", "script-src  'self' 'nonce-Zz9' ;img-src *;"),
            ("default-src 'self'", "default-src 'self';"),
        ],
        real: &[
            ("script-src 'self'", "script-src 'self' 'unsafe-inline'"),
            ("script-src 'nonce-aB3'", "script-src 'nonce-'"),
            ("script-src 'nonce-aB3'", "script-src *"),
            ("default-src 'self'; frame-ancestors 'none'", "default-src 'self'"),
            ("default-src 'self'", ""),
        ],
    },
];

/// What says nothing to a client.
const UNSEEN: [(&str, &str, &str); 9] = [
    ("date", "Mon, 23 Nov 2026 00:00:00 GMT", "Mon, 23 Nov 2026 00:00:01 GMT"),
    ("server", "Apache-Coyote/1.1", ""),
    ("x-powered-by", "Servlet/3.0", ""),
    ("x-amzn-requestid", "", "9b1c9c9e-6a6d-4a55-8a1c-0d1d4b0c2f11"),
    ("via", "1.1 proxy7", "1.1 cloud"),
    ("age", "7", ""),
    ("connection", "close", "keep-alive"),
    ("content-length", "2", ""),
    ("keep-alive", "timeout=5", ""),
];

const STATUSES: [(u16, u16); 14] = [
    (200, 201),
    (200, 204),
    (200, 206),
    (200, 302),
    (200, 400),
    (200, 404),
    (200, 429),
    (200, 500),
    (200, 503),
    (301, 302),
    (302, 307),
    (401, 403),
    (404, 200),
    (500, 200),
];

/// Media types with what may follow them; and others.
const TYPES_SAME: [(&str, &str); 4] = [
    (JSON, "Application/JSON"),
    (TEXT, "text/plain;charset=UTF-8"),
    (XML, "text/xml; charset=\"utf-8\""),
    (HTML, "text/html ; charset=Utf-8"),
];
const TYPES_REAL: [(&str, &str); 5] = [
    (JSON, "text/html"),
    (JSON, "text/plain"),
    (TEXT, "application/octet-stream"),
    ("image/png", "image/webp"),
    (HTML, "application/xhtml+xml"),
];

/// Texts in the character sets that old systems have.
const SETS: [(&str, &str, &str); 6] = [
    ("euc-kr", "예약 확인", "예약 취소"),
    ("shift_jis", "予約確認", "予約取消"),
    ("big5", "訂單", "訂位"),
    ("gb18030", "订单", "订位"),
    ("windows-1252", "Straße", "Strasse"),
    ("iso-8859-2", "Łódź", "Lodz"),
];

const FORMS_SAME: [(&str, &str); 4] = [
    ("a=1&b=x+y", "b=x%20y&a=1"),
    ("name=%EC%84%9C%EC%9A%B8", "name=서울"),
    ("a=1&a=2&b=3", "b=3&a=1&a=2"),
    ("q=%7e", "q=~"),
];
const FORMS_REAL: [(&str, &str, &str); 7] = [
    ("form.b", "a=1&b=2", "a=1&b=3"),
    ("form.b", "a=1&b=2", "a=1"),
    ("form.c", "a=1", "a=1&c=2"),
    ("form.a", "a=1&a=2", "a=2&a=1"),
    ("form.a", "a=%ff", "a=%fe"),
    ("form.a", "a=1%262", "a=1"),
    ("form.a", "a=x+y", "a=x%2By"),
];

fn part(boundary: &str, name: &str, media_type: &str, body: &str) -> String {
    format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\nContent-Type: {media_type}\r\n\r\n{body}\r\n"
    )
}

fn parts(boundary: &str, parts: &[(&str, &str, &str)]) -> Side {
    let all: String = parts.iter().map(|(name, kind, body)| part(boundary, name, kind, body)).collect();
    Side::new(&format!("multipart/form-data; boundary={boundary}"), &format!("{all}--{boundary}--\r\n"))
}

pub fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for Header { name, kind, same, real } in &HEADERS {
        let side = |value: &str| Side::new(JSON, "{}").with(name, value);
        let path = format!("header.{name}");
        pairs.extend(same.iter().map(|(a, b)| Pair::new(kind, None, side(a), side(b)).asked(HOST)));
        pairs.extend(real.iter().map(|(a, b)| Pair::new(kind, Some(&path), side(a), side(b)).asked(HOST)));
    }
    for (name, a, b) in UNSEEN {
        let side = |value: &str| Side::new(JSON, "{}").with(name, value);
        pairs.push(Pair::new("headers of transport", None, side(a), side(b)));
    }
    for (a, b) in STATUSES {
        let side = |status| Side::new(JSON, r#"{"a":1}"#).with_status(status);
        pairs.push(Pair::new("status", Some("status"), side(a), side(b)));
    }
    for (a, b) in TYPES_SAME {
        pairs.push(Pair::new("media type", None, Side::new(a, "1"), Side::new(b, "1")));
    }
    for (a, b) in TYPES_REAL {
        pairs.push(Pair::new(
            "media type",
            Some("header.content-type"),
            Side::new(a, "1"),
            Side::new(b, "1"),
        ));
    }
    for (set, text, other) in SETS {
        let named = format!("text/plain; charset={set}");
        let side = |text: &str| Side::new(&named, text).in_set(set);
        let document = |text: &str| {
            Side::new(
                "text/xml",
                &format!("<?xml version=\"1.0\" encoding=\"{set}\"?><a at=\"{text}\">{text}</a>"),
            )
            .in_set(set)
        };
        let page = |text: &str| {
            Side::new("text/html", &format!("<meta charset={set}><title>x</title><p>{text}")).in_set(set)
        };
        pairs.push(Pair::new("character set", None, side(text), side(text)));
        pairs.push(Pair::new("character set", Some("line 1"), side(text), side(other)));
        pairs.push(Pair::new("character set", None, document(text), document(text)));
        pairs.push(Pair::new("character set", Some("/a"), document(text), document(other)));
        pairs.push(Pair::new("character set", None, page(text), page(text)));
        pairs.push(Pair::new("character set", Some("/html/body/p"), page(text), page(other)));
        let unicode = Side::new("text/plain; charset=utf-8", text);
        pairs.push(Pair::new("another character set", Some("header.content-type"), side(text), unicode));
        // Bytes of one set under the name of another.
        let misnamed = Side::new(&named, text);
        pairs.push(Pair::new("bytes of another character set", Some(""), side(text), misnamed));
    }
    for (a, b) in FORMS_SAME {
        pairs.push(Pair::new("form", None, Side::new(FORM, a), Side::new(FORM, b)));
    }
    for (path, a, b) in FORMS_REAL {
        pairs.push(Pair::new("form", Some(path), Side::new(FORM, a), Side::new(FORM, b)));
    }
    let (file, meta) = (("file", "text/plain", "one\ntwo"), ("meta", JSON, r#"{"a":1,"b":2}"#));
    let whole = || parts("A", &[file, meta]);
    let same = [
        parts("Bb", &[file, meta]),
        parts("A", &[meta, file]),
        parts("A", &[file, ("meta", JSON, r#"{ "b": 2, "a": 1 }"#)]),
    ];
    pairs.extend(same.into_iter().map(|other| Pair::new("parts", None, whole(), other)));
    let real = [
        ("part.meta", parts("A", &[file])),
        ("part.file", parts("A", &[("file", "text/plain", "one\nTWO"), meta])),
        ("part.file", parts("A", &[("file", "text/html", "one\ntwo"), meta])),
        ("part.meta", parts("A", &[file, ("meta", JSON, r#"{"a":1,"b":3}"#)])),
        ("part.data", parts("A", &[file, ("data", JSON, r#"{"a":1,"b":2}"#)])),
        ("part.more", parts("A", &[file, meta, ("more", "text/plain", "x")])),
    ];
    pairs.extend(real.into_iter().map(|(path, other)| Pair::new("parts", Some(path), whole(), other)));
    pairs
}
