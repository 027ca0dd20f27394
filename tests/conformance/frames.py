"""HTTP/2 as frames of our own making: what a well-behaved library would not send. Judged is what comes out as HTTP/1.1."""

import dataclasses
import socket
import struct
import time

from hpack import Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
INNER = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    name: str
    # Fields in the order they are sent, pseudo fields among them.
    fields: tuple
    body: bytes | None = None
    trailers: tuple = ()
    expect: str = "refuse"
    absent: tuple = ()
    # The request's line and Host as the origin must see them, where it is forwarded.
    target: bytes | None = None
    host: bytes | None = None


def get(*fields, method=b"GET", path=b"/case", authority=b"h", scheme=b"http"):
    pseudo = [(b":method", method), (b":path", path), (b":authority", authority), (b":scheme", scheme)]
    return tuple((name, value) for name, value in pseudo if value is not None) + fields


def post(*fields, **how):
    return get(*fields, method=b"POST", **how)


# The framework's parser of HTTP/2 cuts fragments off, and puts a slash before a query: what is left is matched and forwarded alike.
LOST = (b"*", b"/a#b", b"/a?b#c", b"?a")


def cases():
    size = b"%d" % len(INNER)
    for name, value in [
        (b"x", b"a\r\nTransfer-Encoding: chunked"), (b"x", b"a\nTransfer-Encoding: chunked"), (b"x", b"a\rb"), (b"x", b"a\r\n\r\n" + INNER), (b"x", b"a\0b"), (b"x", b"\x01"), (b"x", b"\x7f"), (b"x", b" a"), (b"x", b"a "),
        (b"x\r\ny", b"a"), (b"x: a\r\ny", b"b"), (b"x y", b"a"), (b"x:", b"a"), (b"x(y)", b"a"), (b"x\0", b"a"), (b"", b"a"), (b"X-Upper", b"a"), (b"x\xe9", b"a"), (b"transfer-encoding: chunked\r\nx", b"a"), (b":x", b"a"),
    ]:
        yield Case("h2 field", f"{name!r}: {value!r}"[:60], get((name, value)), expect="either" if value in (b" a", b"a ") else "refuse")
    for name, value in [
        (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"identity"), (b"connection", b"close"), (b"connection", b"x-secret"), (b"keep-alive", b"timeout=5"), (b"proxy-connection", b"keep-alive"), (b"upgrade", b"h2c"), (b"upgrade", b"websocket"), (b"te", b"gzip"), (b"te", b"trailers, chunked"),
        (b"http2-settings", b"AAMAAABkAARAAAAAAAIAAAAA"),
    ]:
        yield Case("h2 hop", f"{name.decode()}: {value.decode()}", get((name, value)), expect="either", absent=(name,))
        yield Case("h2 hop", f"{name.decode()}: {value.decode()} with a body", post((name, value)), body=b"0\r\n\r\n" + INNER, expect="either", absent=() if name == b"transfer-encoding" else (name,))
    yield Case("h2 hop", "te: trailers", get((b"te", b"trailers")), expect="either", absent=(b"te",))
    for value in [b"0", b"1", b"5, 5", b"+%s" % size, b"0x10", b"-1", b"", b"99999999999999999999", b"%s " % size, b"\n%s" % size]:
        yield Case("h2 length", f"{value!r} for {size.decode()}", post((b"content-length", value)), body=INNER, expect={b"%s " % size: "either", b"0": "cut", b"1": "cut"}.get(value, "refuse"))
    yield Case("h2 length", "right", post((b"content-length", size)), body=INNER, expect="forward")
    yield Case("h2 length", "twice", post((b"content-length", size), (b"content-length", size)), body=INNER, expect="either")
    yield Case("h2 length", "twice, other", post((b"content-length", size), (b"content-length", b"1")), body=INNER)
    yield Case("h2 length", "of a GET without a body", get((b"content-length", b"5")))
    yield Case("h2 length", "none", post(), body=INNER, expect="forward")
    yield Case("h2 length", "none, GET with a body", get(), body=INNER, expect="either")
    for path in [
        b"", b"case", b"*", b"http://evil/case", b"//evil/case", b"/a b", b"/a HTTP/1.1\r\nHost: evil\r\n\r\n", b"/a\r\nX: y", b"/a\n", b"/a\0", b"/a#b", b"/a\tb", b"/\xe9", b"/a\\b", b"/a\"b", b"/<a>", b"/../a", b"/%2e%2e/a", b"/a//b", b"/%00", b"/a%2fb", b"/a;b/c", b"/{a}", b"/a|b", b"/a?b c", b"/a?b#c", b"?a", b"h:80",
    ]:
        yield Case("h2 path", f"{path!r}", get(path=path), expect="either" if path in LOST else "refuse")
    yield Case("h2 path", "none", get(path=None))
    yield Case("h2 path", "none, no authority, but a host", get((b"host", b"h"), path=None, authority=None), expect="either", target=b"/")
    yield Case("h2 path", "bytes outside ASCII in the query", get(path=b"/case?\xc3\xa9"))
    yield Case("h2 path", "twice", get((b":path", b"/evil")))
    yield Case("h2 path", "good", get(path=b"/case?a=%20b"), expect="forward", target=b"/case?a=%20b")
    for method in [b"", b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\nGET", b"G T", b"GET\r\n", b"TRACE", b"get", b"G(T", b"FOO\0", b"PRI", b"CONNECT", b"\xe9"]:
        yield Case("h2 method", f"{method!r}"[:40], get(method=method))
    yield Case("h2 method", "none", get(method=None))
    yield Case("h2 method", "extended CONNECT", get((b":protocol", b"websocket"), method=b"CONNECT"))
    for authority in [b"", b"h evil", b"h\r\nX: y", b"h/evil", b"h@evil", b"user@h", b"h:x", b"h,evil", b"h\0", b"h#x", b"h?x", b"[h]", b"h\\evil", b"*"]:
        yield Case("h2 authority", f"{authority!r}", get(authority=authority))
    yield Case("h2 authority", "none", get(authority=None))
    yield Case("h2 authority", "none, but a host", get((b"host", b"h"), authority=None), expect="either", host=b"h")
    yield Case("h2 authority", "and the same host", get((b"host", b"h")), expect="either", host=b"h")
    yield Case("h2 authority", "and another host", get((b"host", b"evil")))
    yield Case("h2 authority", "and two hosts", get((b"host", b"h"), (b"host", b"evil")))
    yield Case("h2 authority", "twice", get((b":authority", b"evil")))
    yield Case("h2 authority", "good", get(authority=b"h.example:8080"), expect="forward", host=b"h.example:8080")
    for scheme in [b"", b"ftp", b"http://evil/?", b"http\r\n", b"h t"]:
        yield Case("h2 scheme", f"{scheme!r}", get(scheme=scheme), expect="either")
    yield Case("h2 scheme", "none", get(scheme=None))
    yield Case("h2 scheme", "https on plain", get(scheme=b"https"), expect="either")
    yield Case("h2 order", "pseudo field behind a field", ((b":method", b"GET"), (b"x", b"y"), (b":path", b"/case"), (b":authority", b"h"), (b":scheme", b"http")))
    yield Case("h2 order", "unknown pseudo field", get((b":status", b"200")))
    yield Case("h2 order", "pseudo field in trailers", post(), body=b"a", trailers=((b":path", b"/evil"),), expect="cut")
    for name, value in [(b"content-length", b"3"), (b"transfer-encoding", b"chunked"), (b"host", b"evil"), (b"x", b"a\r\nb: c"), (b"x-forwarded-for", b"6.6.6.6")]:
        yield Case("h2 trailers", f"{name.decode()}: {value!r}", post(), body=b"hello", trailers=((name, value),), expect="cut")
    for name in [b"x_forwarded_for", b"x-forwarded-for", b"x-real-ip", b"content_length", b"transfer_encoding", b"x_banyan_override"]:
        yield Case("h2 identity", name.decode(), get((name, b"6.6.6.6")), expect="either", absent=() if name == b"x-forwarded-for" else (name,))
    yield Case("h2 size", "200 fields", get(*[(b"x-%d" % n, b"y") for n in range(200)]))
    yield Case("h2 size", "a value of 70 kB", get((b"x", b"y" * 70_000)))
    yield Case("h2 size", "90 fields", get(*[(b"x-%d" % n, b"y") for n in range(90)]), expect="forward")
    yield Case("h2 size", "cookies in pieces", get((b"cookie", b"a=1"), (b"cookie", b"b=2")), expect="forward")


def exchange(port, case):
    """(status, or 0 where the stream or the connection was ended without one; whether it was ended)."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        encoder = Encoder()
        block = encoder.encode([(name, value) for name, value in case.fields], huffman=False)
        last = END_STREAM if case.body is None and not case.trailers else 0
        data = PREFACE + frame(SETTINGS, 0, 0) + headers_frames(block, last)
        if case.body is not None:
            data += frame(DATA, 0 if case.trailers else END_STREAM, 1, case.body)
        if case.trailers:
            data += headers_frames(encoder.encode(list(case.trailers), huffman=False), END_STREAM)
        try:
            client.sendall(data)
        except OSError:
            pass
        return answer(client)


def headers_frames(block, flags, stream=1):
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)] or [b""]
    out = b""
    for number, piece in enumerate(pieces):
        end = END_HEADERS if number == len(pieces) - 1 else 0
        out += frame(HEADERS if number == 0 else CONTINUATION, end | (flags if number == 0 else 0), stream, piece)
    return out


def answer(client):
    from hpack import Decoder

    decoder, buffer, status = Decoder(max_header_list_size=1 << 20), b"", 0
    end = time.monotonic() + 2
    while time.monotonic() < end:
        client.settimeout(max(0.01, end - time.monotonic()))
        try:
            chunk = client.recv(65536)
        except TimeoutError:
            return status, False
        except OSError:
            return status, True
        if not chunk:
            return status, True
        buffer += chunk
        while len(buffer) >= 9:
            length = int.from_bytes(buffer[:3], "big")
            if len(buffer) < 9 + length:
                break
            kind, flags, stream = buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big") & 0x7FFFFFFF
            payload, buffer = buffer[9 : 9 + length], buffer[9 + length :]
            if kind == SETTINGS and not flags & 1:
                client.sendall(frame(SETTINGS, 1, 0))
            if kind == HEADERS and stream == 1:
                found = dict((bytes(n), bytes(v)) for n, v in decoder.decode(payload, raw=True))
                status = int(found.get(b":status", b"%d" % status))
            if kind in (HEADERS, DATA) and stream == 1 and flags & END_STREAM:
                return status, True
            if kind == RST_STREAM and stream == 1 or kind == GOAWAY:
                return status, True
    return status, False
