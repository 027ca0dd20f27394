//! Messages told apart, faults found in their place, and the same verdict however the bytes are cut.
//!
//! Input: bytes. Output: verdicts. Must not: depend on chance; what is random has a fixed seed.

use super::*;

/// The verdict on bytes fed in pieces of `size`: how many came before the fault.
fn read(bytes: &[u8], size: usize) -> Result<u32, (Fault, u32)> {
    let mut strict = Strict::new(false);
    for piece in bytes.chunks(size) {
        strict.feed(piece).map_err(|found| (found.fault, found.message))?;
    }
    Ok(strict.message)
}

/// The same verdict however the bytes are cut.
fn verdict(bytes: &[u8]) -> Result<u32, (Fault, u32)> {
    let whole = read(bytes, bytes.len());
    for size in 1..bytes.len() {
        assert_eq!(read(bytes, size), whole, "in pieces of {size}");
    }
    whole
}

#[test]
fn messages_are_told_apart() {
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nGET /";
    let chunks = "POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0A \r\n0123456789\r\n0\r\nX: y\r\n\r\n";
    assert_eq!(verdict([get, get, post, chunks, get].concat().as_bytes()), Ok(6));
    assert_eq!(verdict(format!("\r\n{get}\r\n{get}").as_bytes()), Ok(3));
}

#[test]
fn a_fault_is_found_in_its_message() {
    let good = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    for (bad, fault) in [
        ("GET / HTTP/1.1\nHost: h\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\n X: a\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\nX\r\n\r\n", Fault::Line),
        ("GET /a b HTTP/1.1\r\n\r\n", Fault::Target),
        ("GET /a#b HTTP/1.1\r\n\r\n", Fault::Target),
        ("GET a HTTP/1.1\r\n\r\n", Fault::Target),
        ("GET h:80 HTTP/1.1\r\n\r\n", Fault::Target),
        ("GET /{a} HTTP/1.1\r\n\r\n", Fault::Target),
        ("GET /a?\u{1} HTTP/1.1\r\n\r\n", Fault::Target),
        ("GET /\u{e9} HTTP/1.1\r\n\r\n", Fault::Target),
        ("GET /\r\n\r\n", Fault::RequestLine),
        ("G(T / HTTP/1.1\r\n\r\n", Fault::RequestLine),
        ("GET / HTTP/1.2\r\n\r\n", Fault::Version),
        ("POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.1\r\nContent-Length: 010\r\n\r\n", Fault::Framing),
        ("\r\n\r\n\r\n", Fault::RequestLine),
        ("POST / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.1\r\nContent_Length: 5\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.1\r\nTransfer_encoding: chunked\r\n\r\n", Fault::Framing),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", Fault::Chunk),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n", Fault::Chunk),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\n", Fault::Chunk),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000000\r\n", Fault::Chunk),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX y\r\n\r\n", Fault::Trailer),
    ] {
        assert_eq!(verdict(bad.as_bytes()), Err((fault, 1)), "{bad:?}");
        assert_eq!(verdict(format!("{good}{bad}").as_bytes()), Err((fault, 2)), "{bad:?}");
    }
}

#[test]
fn a_good_target_is_taken_as_it_came() {
    for good in ["/", "/a?b=%20\"|", "*", "http://h/x", "HTTP://h/x"] {
        assert!(is_plain_target(good.as_bytes()), "{good}");
    }
}

#[test]
fn what_comes_before_a_fault_in_a_body_is_good() {
    let mut strict = Strict::new(false);
    let bytes = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n";
    let found = strict.feed(bytes).expect_err("zz is no size");
    assert_eq!(found.good, bytes.len() - 4);
}

/// Bytes of good messages with some of them changed, dropped or doubled; the same ones with each run.
#[test]
fn whatever_comes_is_judged_alike_in_any_pieces_and_never_panics() {
    const SEEDS: [&str; 3] = [
        "GET /a HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ];
    const ODD: &[u8] = b"\r\n\0 \t:;,0g\xff_-";
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..20_000 {
        let mut bytes = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = ODD[random(ODD.len())],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, ODD[random(ODD.len())]),
            }
        }
        let (one, some) = (1, 2 + random(9));
        let whole = read(&bytes, bytes.len());
        let both = [read(&bytes, one), read(&bytes, some)];
        // What is cut off in a line is judged when its end has come, or earlier; never otherwise.
        for pieces in both {
            let same = pieces == whole || matches!((pieces, whole), (Err((_, a)), Err((_, b))) if a == b);
            assert!(same, "{:?}: {whole:?} whole, {pieces:?} in pieces", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn http2_is_left_alone_where_it_may_come() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04";
    assert_eq!(Strict::new(true).feed(preface), Ok(()));
    assert_eq!(Strict::new(false).feed(preface).map_err(|found| found.fault), Err(Fault::Version));
}
