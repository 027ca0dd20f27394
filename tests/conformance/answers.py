"""Answers of a backend that servers and clients read differently. Judged is what reaches the client, and whether the next client gets
somebody else's bytes."""

import dataclasses

BODY = b"hello"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Evil: 1\r\n\r\nEVIL"


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    name: str
    answer: bytes
    # forward: status 200 and this body. refuse: 502, or cut off. either: one of both.
    expect: str = "either"
    body: bytes = BODY
    method: bytes = b"GET"
    # The backend closes after it.
    close: bool = False


def answer(*fields, status=b"200 OK", body=BODY, version=b"HTTP/1.1"):
    return version + b" " + status + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def cases():
    length = b"Content-Length: 5"
    chunks = b"5\r\nhello\r\n0\r\n\r\n"
    chunked = b"Transfer-Encoding: chunked"
    yield Case("answer", "length", answer(length), "forward")
    yield Case("answer", "chunks", answer(chunked, body=chunks), "forward")
    yield Case("answer", "to the end of the connection", answer(), "forward", close=True)
    yield Case("answer", "HTTP/1.0", answer(length, version=b"HTTP/1.0"), "forward")
    yield Case("answer", "bytes behind it", answer(length) + EVIL, "either")
    yield Case("answer", "bytes behind chunks", answer(chunked, body=chunks) + EVIL, "either")
    yield Case("answer", "bytes behind a 204", answer(status=b"204 No Content", body=EVIL), "either", body=b"")
    yield Case("answer", "bytes behind a 304", answer(status=b"304 Not Modified", body=EVIL), "either", body=b"")
    yield Case("answer", "body of a HEAD", answer(length) + b"", "either", body=b"", method=b"HEAD")
    yield Case("answer", "another answer behind a HEAD", answer(length, body=b"") + EVIL, "either", body=b"", method=b"HEAD")
    yield Case("answer", "length of a 204", answer(b"Content-Length: 4", status=b"204 No Content", body=b"EVIL"), "either", body=b"")
    yield Case("answer", "chunks of a 204", answer(chunked, status=b"204 No Content", body=chunks), "either", body=b"")
    for value in [b"5, 5", b"5,6", b"+5", b"-5", b"0x5", b"5 5", b"", b"five", b"99999999999999999999", b"5\x0b"]:
        yield Case("answer length", repr(value), answer(b"Content-Length: " + value), "either", close=True)
    yield Case("answer length", "twice the same", answer(length, length), "either")
    yield Case("answer length", "twice, other", answer(length, b"Content-Length: 3"), "refuse")
    yield Case("answer length", "and chunks", answer(length, chunked, body=chunks), "either")
    yield Case("answer length", "and chunks, longer", answer(b"Content-Length: 500", chunked, body=chunks), "either")
    yield Case("answer length", "more than comes", answer(b"Content-Length: 500"), "cut", close=True)
    for value in [b"chunked, chunked", b"identity", b"gzip, chunked", b"xchunked", b"chunked\x0b", b"cow", b"", b"chunked, identity"]:
        yield Case("answer coding", repr(value), answer(b"Transfer-Encoding: " + value, body=chunks), "either", close=True)
    yield Case("answer coding", "in HTTP/1.0", answer(chunked, body=chunks, version=b"HTTP/1.0"), "either", close=True)
    for name, body in {
        "empty size": b"\r\n0\r\n\r\n", "size 0x5": b"0x5\r\nhello\r\n0\r\n\r\n", "size -1": b"-1\r\nhello\r\n0\r\n\r\n", "bare LF": b"5\nhello\n0\n\n", "no end of data": b"5\r\nhello0\r\n\r\n", "huge": b"ffffffffffffffff\r\nhello\r\n", "extension": b"5;a=b\r\nhello\r\n0\r\n\r\n",
        "trailer": b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", "trailer of framing": b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n", "cut off": b"5\r\nhel", "cut off before the last": b"5\r\nhello\r\n", "bytes behind": b"5\r\nhello\r\n0\r\n\r\n" + EVIL,
    }.items():
        yield Case("answer chunk", name, answer(chunked, body=body), "cut" if "cut" in name else "either", close=True)
    for name, field in {
        "folded": b"X: a\r\n b", "bare LF": b"X: a\nX-Lf: 1", "bare CR": b"X: a\rX-Evil: 1", "space before the colon": b"X : a", "no colon": b"X", "NUL": b"X: a\0b", "name with a space": b"X Y: a", "many": b"\r\n".join(b"X-%d: y" % n for n in range(300)), "huge": b"X: " + b"y" * 300_000,
    }.items():
        yield Case("answer head", name, answer(length, field), "either")
    for status in [b"999 Odd", b"99 Odd", b"1000 Odd", b"abc OK", b"", b"200", b"200 \xe9", b"-200 OK", b"000 Odd"]:
        yield Case("answer head", f"status {status!r}", answer(length, status=status), "either")
    for version in [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"ICY", b"http/1.1", b""]:
        yield Case("answer head", f"version {version!r}", answer(length, version=version), "either", close=True)
    yield Case("answer head", "none", b"hello", "refuse", close=True)
    yield Case("answer head", "nothing", b"", "refuse", close=True)
    yield Case("answer head", "TLS", b"\x15\x03\x01\x00\x02\x02\x46", "refuse", close=True)
    yield Case("answer interim", "100 and the answer", b"HTTP/1.1 100 Continue\r\n\r\n" + answer(length), "forward")
    yield Case("answer interim", "103 and the answer", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(length), "forward")
    yield Case("answer interim", "101 unasked", answer(b"Upgrade: x", b"Connection: Upgrade", status=b"101 Switching Protocols", body=EVIL), "refuse")
    yield Case("answer interim", "102 with a length", b"HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n" + answer(length), "either")
    yield Case("answer interim", "200 times 100", b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + answer(length), "either")
    yield Case("answer hop", "Connection names a header", answer(length, b"Connection: X-Secret", b"X-Secret: 1"), "forward")
    yield Case("answer hop", "Keep-Alive and others", answer(length, b"Keep-Alive: timeout=5", b"Proxy-Connection: x", b"Upgrade: h2c", b"Proxy-Authenticate: Basic"), "forward")
    yield Case("answer hop", "Connection: close", answer(length, b"Connection: close") + EVIL, "forward", close=True)
