"""Requests of HTTP/1.1 as bytes: what means harm, and what must get through although it looks strange.

Each case says what is allowed: `refuse` (an answer of 4xx or 5xx or none, the connection closed, nothing forwarded), `forward` (it
is answered by the origin), or `either` (forwarded clean, or refused). Whatever is forwarded is judged by all readers.
"""

import dataclasses

INNER = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    name: str
    data: bytes
    expect: str = "refuse"
    # With `refuse`: the status must be one of these, where an answer comes at all.
    statuses: tuple = (400,)
    # With `forward`: header names the origin must not see, and headers that it must.
    absent: tuple = ()
    present: tuple = ()
    # The body the origin must see.
    body: bytes | None = None


def request(line=b"GET /case HTTP/1.1", *fields, body=b"", host=b"Host: h"):
    lines = [line] + ([host] if host is not None else []) + list(fields)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def post(*fields, body=b"", **how):
    return request(b"POST /case HTTP/1.1", *fields, body=body, **how)


def chunks(*parts):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked"


def text(data):
    """A name for bytes."""
    return repr(data)[2:-1]


def lengths():
    whole = len(INNER)
    for value in [
        b"%d,%d" % (whole, whole), b"%d, %d" % (whole, whole), b"0,%d" % whole, b"%d,0" % whole, b"+%d" % whole, b"-1", b"-%d" % whole, b"0x%x" % whole, b"%d " % whole + b"x",
        b"%d.0" % whole, b"%de0" % whole, b"3_5", b"", b" ", b"\"%d\"" % whole, b"%d;" % whole, b"99999999999999999999999", b"18446744073709551616", b"18446744073709551615",
        b"9223372036854775808", b"%d\x0b" % whole, b"\x0b%d" % whole, b"\x0c%d" % whole, b"%d\0" % whole, b"\xa0%d" % whole, b"%d\x85" % whole, b"chunked", b"0 %d" % whole, b"%d %d" % (whole, whole),
    ]:
        yield Case("length", f"value {text(value)}", post(b"Content-Length: " + value, body=INNER), statuses=(400, 413))
    for name in [b"content-length", b"CONTENT-LENGTH", b"cOnTeNt-LeNgTh"]:
        yield Case("length", f"name {text(name)}", post(name + b": 5", body=b"12345"), "forward", body=b"12345")
    for value in [b"005", b"010", b"5\t", b"\t5", b"  5  "]:
        yield Case("length", f"read alike {text(value)}", post(b"Content-Length:" + value, body=b"12345"), "either")
    for name in [b"Content-Length ", b"Content-Length\t", b" Content-Length", b"Content_Length", b"Content-Length\x0b", b"Content-Length\0", b"Content-Length\xa0", b"Content\xadLength", b"Content-Lengt\xc4\xa5", b"Content Length"]:
        yield Case("length", f"almost its name {text(name)}", post(b"X: y", name + b": %d" % whole, body=INNER + INNER), "either")
    for first, second in [(b"5", b"6"), (b"0", b"%d" % whole), (b"%d" % whole, b"0"), (b"5", b"5, 6"), (b"5", b"x"), (b"", b"5")]:
        yield Case("length", f"twice {text(first)} {text(second)}", post(b"Content-Length: " + first, b"Content-Length: " + second, body=INNER))
    yield Case("length", "twice the same", post(b"Content-Length: 5", b"Content-Length: 5", body=b"12345"), "either")
    yield Case("length", "three times, the last is other", post(b"Content-Length: 5", b"Content-Length: 5", b"Content-Length: 6", body=INNER))
    yield Case("length", "without a host", post(b"Content-Length: %d" % whole, body=INNER, host=None))
    yield Case("length", "more than comes", post(b"Content-Length: 100000", body=INNER), "either", statuses=(400, 408, 499))
    yield Case("length", "GET with a body", request(b"GET /case HTTP/1.1", b"Content-Length: %d" % whole, body=INNER), "either", body=INNER)
    yield Case("length", "none, and bytes follow", post(body=b"junk" + INNER), "either", statuses=(400, 411))
    yield Case("length", "PUT", request(b"PUT /case HTTP/1.1", b"Content-Length: %d" % whole, body=INNER), "forward", body=INNER)
    yield Case("length", "body in HTTP/1.0", request(b"POST /case HTTP/1.0", b"Content-Length: %d" % whole, body=INNER), "forward", body=INNER)


def codings():
    smuggle = b"0\r\n\r\n" + INNER
    for value in [
        b"chunked,chunked", b"chunked, chunked", b",chunked", b"chunked,", b", chunked", b"chunked ,", b"identity", b"identity, chunked", b"chunked, identity", b"gzip, chunked", b"chunked, gzip", b"gzip", b"xchunked", b"chunkedx",
        b"\"chunked\"", b"'chunked'", b"chunked;q=1", b"chunked; foo=bar", b"chunked foo", b"x chunked", b"chunk", b"chun ked", b"chunked\0", b"\0chunked", b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"chunked\x0c", b"\xa0chunked", b"chunked\x85",
        b"chun\xc2\xadked", b"\xef\xbb\xbfchunked", b"chunKed\x00x", b"", b"cow", b"trailers, chunked", b"CHUNKED\xc4\xb1", b"chunked\r", b"deflate, chunked", b"compress,chunked", b"chunked, cow", b"cow, chunked", b"[chunked]", b"chunked/1", b"\\chunked",
    ]:
        yield Case("coding", f"value {text(value)}", post(b"Transfer-Encoding: " + value, body=smuggle), statuses=(400, 501))
        yield Case("coding", f"value {text(value)} with a length", post(b"Content-Length: %d" % len(smuggle), b"Transfer-Encoding: " + value, body=smuggle), statuses=(400, 501))
    for value in [b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"\tchunked", b"chunked ", b"chunked\t"]:
        yield Case("coding", f"good {text(value)}", post(b"Transfer-Encoding:" + value, body=chunks(b"hello", INNER)), "forward" if value.strip() == value or value[:1] == b" " else "either", body=b"hello" + INNER)
    for name in [b"Transfer-Encoding ", b"Transfer-Encoding\t", b" Transfer-Encoding", b"Transfer_Encoding", b"Transfer-Encoding\x0b", b"Transfer-Encoding\0", b"Transfer Encoding", b"X: y\nTransfer-Encoding", b"X: y\rTransfer-Encoding", b"X:\x0bTransfer-Encoding", b"TransferEncoding", b"Transfer-Encod\xc4\xb1ng"]:
        yield Case("coding", f"almost its name {text(name)}", post(b"Content-Length: %d" % len(smuggle), name + b": chunked", body=smuggle), "either")
    for order in [(b"Content-Length: %d" % len(smuggle), CHUNKED), (CHUNKED, b"Content-Length: %d" % len(smuggle)), (b"Content-Length: 4", CHUNKED), (CHUNKED, b"Content-Length: 0"), (CHUNKED, b"Content-Length: 3")]:
        yield Case("coding", f"and a length {text(order[0])}", post(*order, body=smuggle))
    for pair in [(b"chunked", b"chunked"), (b"chunked", b"identity"), (b"identity", b"chunked"), (b"chunked", b"cow"), (b"cow", b"chunked"), (b"gzip", b"chunked"), (b"", b"chunked")]:
        yield Case("coding", f"twice {text(pair[0])} {text(pair[1])}", post(*[b"Transfer-Encoding: " + value for value in pair], body=smuggle), statuses=(400, 501))
    yield Case("coding", "in HTTP/1.0", request(b"POST /case HTTP/1.0", CHUNKED, body=smuggle))
    yield Case("coding", "in HTTP/1.0, with a length", request(b"POST /case HTTP/1.0", CHUNKED, b"Content-Length: 5", body=smuggle))
    yield Case("coding", "folded", post(b"Transfer-Encoding:\r\n chunked", body=smuggle))
    yield Case("coding", "folded with a length", post(b"Content-Length: %d" % len(smuggle), b"Transfer-Encoding:\r\n\tchunked", body=smuggle))
    yield Case("coding", "nominated by Connection", post(CHUNKED, b"Connection: Transfer-Encoding", body=chunks(INNER)), "either", body=INNER)
    yield Case("coding", "length nominated by Connection", post(b"Content-Length: %d" % len(INNER), b"Connection: content-length", body=INNER), "either", body=INNER)
    yield Case("coding", "GET", request(b"GET /case HTTP/1.1", CHUNKED, body=chunks(INNER)), "either", body=INNER)
    yield Case("coding", "after a bare LF", b"POST /case HTTP/1.1\r\nHost: h\r\nX: a\nTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(smuggle) + smuggle, "either")


def chunking():
    def sized(line, rest=b"", **how):
        return post(CHUNKED, body=line + rest, **how)

    tail = b"0\r\n\r\n"
    bad = {
        "empty line for a size": b"\r\n" + tail,
        "empty line between": b"5\r\nhello\r\n\r\n" + tail,
        "size 0x5": b"0x5\r\nhello\r\n" + tail,
        "size +5": b"+5\r\nhello\r\n" + tail,
        "size -5": b"-5\r\nhello\r\n" + tail,
        "size -1": b"-1\r\nhello\r\n" + tail,
        "size with a space before": b" 5\r\nhello\r\n" + tail,
        "size with a tab before": b"\t5\r\nhello\r\n" + tail,
        "size 5 5": b"5 5\r\nhello\r\n" + tail,
        "size 5,5": b"5,5\r\nhello\r\n" + tail,
        "size 5_0": b"5_0\r\nhello\r\n" + tail,
        "size g": b"g\r\nhello\r\n" + tail,
        "size 5g": b"5g\r\nhello\r\n" + tail,
        "size of 17 digits": b"10000000000000005\r\nhello\r\n" + tail,
        "size of 9 digits": b"100000005\r\nhello\r\n" + tail,
        "size ffffffffffffffff": b"ffffffffffffffff\r\nhello\r\n" + tail,
        "size fffffffffffffffe": b"fffffffffffffffe\r\nhello\r\n" + tail,
        "size 7fffffffffffffff": b"7fffffffffffffff\r\nhello\r\n" + tail,
        "size with NUL": b"5\0\r\nhello\r\n" + tail,
        "size with VT": b"5\x0b\r\nhello\r\n" + tail,
        "size 5.0": b"5.0\r\nhello\r\n" + tail,
        "size 'five'": b"five\r\nhello\r\n" + tail,
        "bare LF after the size": b"5\nhello\r\n" + tail,
        "bare CR after the size": b"5\rhello\r\n" + tail,
        "CR CR LF after the size": b"5\r\r\nhello\r\n" + tail,
        "no end after the data": b"5\r\nhello" + tail,
        "bare LF after the data": b"5\r\nhello\n" + tail,
        "bare CR after the data": b"5\r\nhello\r" + tail,
        "LF CR after the data": b"5\r\nhello\n\r" + tail,
        "two bytes after the data": b"5\r\nhelloXX" + tail,
        "longer than its size": b"3\r\nhello\r\n" + tail,
        "shorter than its size": b"8\r\nhello\r\n" + tail,
        "bare LF after the last size": b"5\r\nhello\r\n0\n\r\n",
        "bare LF at the end": b"5\r\nhello\r\n0\r\n\n",
        "bare CR at the end": b"5\r\nhello\r\n0\r\n\rX",
        "extension with a bare LF": b"5;a\nb\r\nhello\r\n" + tail,
        "extension with a bare CR": b"5;a\rb\r\nhello\r\n" + tail,
        "extension with NUL": b"5;a\0b\r\nhello\r\n" + tail,
        "extension with a bare LF and a size": b"2;\nxx\r\n45\r\n0\r\n\r\n" + INNER + b"\r\n0\r\n\r\n",
        "extension without an end": b"5;" + b"a" * 70_000,
        "extension of 20 kB": b"5;" + b"a" * 20_000 + b"\r\nhello\r\n" + tail,
        "size of many zeros": b"0" * 20_000 + b"5\r\nhello\r\n" + tail,
        "trailer with a bare LF": b"5\r\nhello\r\n0\r\nX: y\n\r\n",
        "trailer with a space before the colon": b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "trailer that is folded": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
        "trailer without a colon": b"5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        "trailers without an end": b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 20_000,
    }
    for name, body in bad.items():
        # Of what comes after the head, some is forwarded before the fault is seen: then both sides are cut off.
        yield Case("chunk", name, sized(body + INNER), "cut", statuses=(400, 408, 413))
    good = {
        "sizes in upper case": (b"A\r\n0123456789\r\n" + tail, b"0123456789"),
        "sizes in lower case": (b"a\r\n0123456789\r\n" + tail, b"0123456789"),
        "zeros before a size": (b"0005\r\nhello\r\n" + tail, b"hello"),
        "several zeros for the last": (b"5\r\nhello\r\n000\r\n\r\n", b"hello"),
        "extension": (b"5;a=b\r\nhello\r\n" + tail, b"hello"),
        "extension with a quoted value": (b"5;a=\"b c\"\r\nhello\r\n" + tail, b"hello"),
        "extension of the last": (b"5\r\nhello\r\n0;a=b\r\n\r\n", b"hello"),
        "space before an extension": (b"5 ;a=b\r\nhello\r\n" + tail, b"hello"),
        "space after a size": (b"5 \r\nhello\r\n" + tail, b"hello"),
        "trailer": (b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", b"hello"),
        "trailer that names a length": (b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n", b"hello"),
        "trailer that names a coding": (b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", b"hello"),
        "trailer that names a host": (b"5\r\nhello\r\n0\r\nHost: evil\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n", b"hello"),
        "no data": (tail, b""),
        "one byte each": (b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello") + tail, b"hello"),
        "lines inside": (b"4\r\n\r\n\r\n\r\n" + tail, b"\r\n\r\n"),
        "a last chunk inside": (b"7\r\n\r\n0\r\n\r\n\r\n" + tail, b"\r\n0\r\n\r\n"),
    }
    for name, (data, body) in good.items():
        yield Case("chunk", name, sized(data), "either" if "space" in name or "trailer" in name else "forward", body=body)
    yield Case("chunk", "cut off in a size", sized(b"5"), "cut", statuses=(400, 408, 499))
    yield Case("chunk", "cut off in the data", sized(b"5\r\nhel"), "cut", statuses=(400, 408, 499))
    yield Case("chunk", "cut off before the last", sized(b"5\r\nhello\r\n"), "cut", statuses=(400, 408, 499))


def lines():
    head = b"GET /case HTTP/1.1\r\nHost: h\r\n"
    bad = {
        "bare LF after the request line": b"GET /case HTTP/1.1\nHost: h\r\n\r\n",
        "bare LF after a field": b"GET /case HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
        "bare LF everywhere": b"GET /case HTTP/1.1\nHost: h\n\n",
        "bare LF at the end": head + b"X: y\r\n\n",
        "bare CR after a field": head + b"X: y\rZ: w\r\n\r\n",
        "bare CR for lines": b"GET /case HTTP/1.1\rHost: h\r\r",
        "CR CR LF": head + b"X: y\r\r\n\r\n",
        "bare CR in a value": head + b"X: a\rb\r\n\r\n",
        "bare CR and a request in a value": head + b"X: a\r\rGET /smuggled HTTP/1.1\rHost: h\r\r\r\n\r\n",
        "LF in a value": head + b"X: a\nb\r\n\r\n",
        "folded field": head + b"X: a\r\n b\r\n\r\n",
        "folded by a tab": head + b"X: a\r\n\tb\r\n\r\n",
        "folded host": b"GET /case HTTP/1.1\r\nHost:\r\n h\r\n\r\n",
        "folded first line": b"GET /case HTTP/1.1\r\n Host: h\r\n\r\n",
        "space alone on a line": head + b" \r\nX: y\r\n\r\n",
        "no colon": head + b"X\r\n\r\n",
        "no name": head + b": y\r\n\r\n",
        "space before the colon": head + b"X : y\r\n\r\n",
        "tab before the colon": head + b"X\t: y\r\n\r\n",
        "space in a name": head + b"X Y: z\r\n\r\n",
        "parenthesis in a name": head + b"X(Y): z\r\n\r\n",
        "quote in a name": head + b"X\"Y: z\r\n\r\n",
        "slash in a name": head + b"X/Y: z\r\n\r\n",
        "at in a name": head + b"X@Y: z\r\n\r\n",
        "NUL in a name": head + b"X\0Y: z\r\n\r\n",
        "DEL in a name": head + b"X\x7fY: z\r\n\r\n",
        "byte outside ASCII in a name": head + b"X\xe9: z\r\n\r\n",
        "NUL in a value": head + b"X: a\0b\r\n\r\n",
        "NUL at the end of a value": head + b"X: a\0\r\n\r\n",
        "SOH in a value": head + b"X: a\x01b\r\n\r\n",
        "VT in a value": head + b"X: a\x0bb\r\n\r\n",
        "DEL in a value": head + b"X: a\x7fb\r\n\r\n",
        "ESC in a value": head + b"X: a\x1bb\r\n\r\n",
        "BOM before": b"\xef\xbb\xbfGET /case HTTP/1.1\r\nHost: h\r\n\r\n",
        "space before": b" GET /case HTTP/1.1\r\nHost: h\r\n\r\n",
        "NUL before": b"\0GET /case HTTP/1.1\r\nHost: h\r\n\r\n",
        "nothing but a line": b"GET /case HTTP/1.1\r\n\r\n",
        "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        "binary": bytes(range(256)) + b"\r\n\r\n",
        "PRI to HTTP/1": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SIP": b"OPTIONS sip:h SIP/2.0\r\nHost: h\r\n\r\n",
        "an answer for a request": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    }
    for name, data in bad.items():
        yield Case("line", name, data, statuses=(400, 405, 501, 505))
    good = {
        "tab in a value": head + b"X: a\tb\r\n\r\n",
        "empty value": head + b"X:\r\n\r\n",
        "no space after the colon": b"GET /case HTTP/1.1\r\nHost:h\r\nX:y\r\n\r\n",
        "spaces around a value": head + b"X: \t y \t \r\n\r\n",
        "Latin-1 in a value": head + b"X: \xe9\r\n\r\n",
        "UTF-8 in a value": head + b"X: \xc3\xa9\r\n\r\n",
        "all signs a name may hold": head + b"!#$%&'*+-.^`|~09Az: z\r\n\r\n",
        "empty lines before": b"\r\n\r\nGET /case HTTP/1.1\r\nHost: h\r\n\r\n",
        "a colon in a value": head + b"X: a:b:c\r\n\r\n",
    }
    for name, data in good.items():
        yield Case("line", name, data, "either" if "empty lines" in name or "signs" in name else "forward")


def first_lines():
    for version in [b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/2", b"HTTP/0.9", b"HTTP/3", b"http/1.1", b"HTTP/1.1 x", b"HTTP/01.1", b"HTTP/1.01", b"HTTP/1,1", b"HTTP /1.1", b"HTTPS/1.1", b"XTTP/1.1", b"HTTP/1.1\t", b"HTTP/", b"HTTP/1.", b"HTTP/11", b"HTTP/-1.1", b"ICY/1.1", b""]:
        yield Case("first line", f"version {text(version)}", request(b"GET /case " + version), statuses=(400, 505))
    for line in [b"GET /case", b"GET", b"", b"GET  /case HTTP/1.1", b"GET\t/case\tHTTP/1.1", b"GET /case  HTTP/1.1", b"GET /case HTTP/1.1 ", b"GET /case\x0bHTTP/1.1", b"GET /case\x0cHTTP/1.1", b"/case GET HTTP/1.1", b"GET\xa0/case HTTP/1.1", b"GET /case HTTP/1.1 HTTP/1.1", b"GET /case\0 HTTP/1.1"]:
        yield Case("first line", f"form {text(line)}", request(line), statuses=(400, 405, 501, 505))
    for target in [
        b"/a b", b"/a\tb", b"/a\0b", b"/a\x01", b"/a\x7f", b"/a\x0bb", b"/\xe9", b"/\xc3\xa9", b"/a\"b", b"/<a>", b"/a\\b", b"/a^b", b"/a`b", b"/a{b}", b"/a|b", b"/a#b", b"#/a", b"case", b"h:80", b"?a", b"../a", b"//evil/..;/", b"ftp://h/a", b"javascript:a", b"http:/a", b"http:///a",
        b"http://", b"http://h:99999/", b"http://user@h/a", b"http://h\\a", b"http://other/a", b"*", b"*/a", b"/a?b c", b"/a?\0", b"/a?\x7f", b"/a?b#c", b"/%", b"/%4", b"/%zz", b"/%00", b"/a%0d%0ab", b"/%2e%2e/a", b"/a/../b", b"/./a", b"/a//b", b"/a;b=c/d", b"/%5ca", b"/a%2fb", b"/%u0041", b"/\xef\xbc\x8fa", b"/%ef%bc%8f..",
    ]:
        allowed = "either" if target in (b"*", b"/%ef%bc%8f..") else "refuse"
        yield Case("target", text(target), request(b"GET " + target + b" HTTP/1.1"), allowed, statuses=(400, 404, 405, 421))
    for target in [b"/", b"/case?a=b&c=%20", b"/case?", b"/case?a=/../b", b"/case/%7Euser", b"/a,b", b"/a:b@c", b"/a!$&'()*+,=", b"/" + b"a" * 4000, b"/case?a=\"b\"", b"/%C3%A9"]:
        yield Case("target", f"good {text(target)[:40]}", request(b"GET " + target + b" HTTP/1.1"), "either" if b'"' in target else "forward", statuses=(400, 414))
    for target in [b"http://h/case", b"HTTP://h/case", b"http://h", b"https://h/case", b"http://h?a=b"]:
        yield Case("target", f"absolute {text(target)}", request(b"GET " + target + b" HTTP/1.1"), "either")
    for method in [b"TRACE", b"TRACK", b"DEBUG", b"CONNECT", b"get", b"Get", b"G(T", b"G\"T", b"G\xe9T", b"G\0T", b"FOO\x0b", b"A" * 300, b"G{T", b"GET:", b"PRI"]:
        yield Case("method", text(method)[:40], request(method + b" /case HTTP/1.1"), statuses=(400, 405, 501))
    for method in [b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"PROPFIND", b"PATCH"]:
        yield Case("method", f"good {text(method)}", request(method + b" /case HTTP/1.1"), "forward" if method != b"PROPFIND" else "either", statuses=(400, 405, 501))
    yield Case("method", "CONNECT to an authority", b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n" + INNER, statuses=(400, 405, 501))
    yield Case("method", "OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "either", statuses=(400, 404))


def hosts():
    for value in [b"", b" ", b"h, evil", b"h evil", b"h\tevil", b"h/evil", b"h?evil", b"h#evil", b"h@evil", b"user@h", b"h\\evil", b"h:80:80", b"h:x", b"h:-1", b"h:99999", b"[::1", b"::1", b"[h]", b"h\0evil", b"<h>", b"\"h\"", b"h%00", b"h%2fevil", b"..", b".h", b"h..evil", b"h\xe9", b"http://h", b"*", b"h;evil", b"h|evil", b"(h)", b"h\x0b"]:
        yield Case("host", text(value) or "empty", request(host=b"Host: " + value))
    yield Case("host", "missing", request(host=None))
    yield Case("host", "missing, and a length", request(b"POST /case HTTP/1.1", b"Content-Length: 0", host=None))
    for second in [b"Host: h", b"Host: evil", b"host: evil", b"HOST: h", b"Host:"]:
        yield Case("host", f"twice {text(second)}", request(b"GET /case HTTP/1.1", second))
    for name in [b"Host ", b"Host\t", b" Host", b"Host\x0b", b"Host\0"]:
        yield Case("host", f"almost its name {text(name)}", request(b"GET /case HTTP/1.1", name + b": evil"))
    yield Case("host", "absolute form says another", request(b"GET http://evil/case HTTP/1.1"), statuses=(400, 421))
    yield Case("host", "absolute form with a user", request(b"GET http://h@evil/case HTTP/1.1"), statuses=(400, 421))
    yield Case("host", "absolute form with another port", request(b"GET http://h:8080/case HTTP/1.1", host=b"Host: h:80"), statuses=(400, 421))
    yield Case("host", "absolute form and no host", request(b"GET http://h/case HTTP/1.1", host=None))
    for value in [b"h:80", b"H.Example.Com", b"10.0.0.1:8080", b"[::1]:80", b"[2001:db8::1]", b"xn--bcher-kva.example", b"h."]:
        yield Case("host", f"good {text(value)}", request(host=b"Host: " + value), "forward")
    yield Case("host", "none in HTTP/1.0", request(b"GET /case HTTP/1.0", host=None), "either")


def identities():
    """Headers of this hop, and headers that say who somebody is."""
    ours = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"via", b"traceparent")
    for name in [b"X_Forwarded_For", b"X-Forwarded_For", b"x_forwarded_for", b"X_Real_IP", b"X_Forwarded_Host", b"X_Forwarded_Proto", b"Forwarded", b"X-Forwarded-For", b"X-Real-IP", b"X-Forwarded-Port", b"X-Forwarded-Prefix", b"X_Banyan_Override", b"X_Amzn_Trace_Id"]:
        absent = () if name in (b"X-Forwarded-For",) else (name.lower(),)
        yield Case("identity", f"claimed by {text(name)}", request(b"GET /case HTTP/1.1", name + b": 6.6.6.6"), "either", absent=absent)
    yield Case("identity", "claimed twice", request(b"GET /case HTTP/1.1", b"X-Forwarded-For: 6.6.6.6", b"X_Forwarded_For: 7.7.7.7"), "either", absent=(b"x_forwarded_for",))
    for name in ours:
        yield Case("hop", f"Connection names {text(name)}", request(b"GET /case HTTP/1.1", b"Connection: " + name), "either", present=(name,))
    for names in [b"X-Secret", b"x-secret", b"close, X-Secret", b"X-Secret, keep-alive", b"keep-alive,X-SECRET", b"X-Secret,,", b"\tX-Secret\t"]:
        yield Case("hop", f"Connection: {text(names)}", request(b"GET /case HTTP/1.1", b"X-Secret: 1", b"Connection: " + names), "either", absent=(b"x-secret",))
    yield Case("hop", "two Connection lines", request(b"GET /case HTTP/1.1", b"X-Secret: 1", b"Y-Secret: 1", b"Connection: X-Secret", b"Connection: Y-Secret"), "either", absent=(b"x-secret", b"y-secret"))
    for name in [b"Host", b"Cookie", b"Authorization", b"Content-Type", b"Accept"]:
        field = name + b": v"
        yield Case("hop", f"Connection names {text(name)}", request(b"GET /case HTTP/1.1", *([] if name == b"Host" else [field]), b"Connection: " + name), "either")
    for field in [b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers", b"TE: gzip", b"Trailer: X", b"Upgrade: h2c", b"Upgrade: websocket", b"Upgrade: foo", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", b"Proxy-Authorization: Basic eDp5", b"Proxy-Authenticate: Basic"]:
        name = field.partition(b":")[0].lower()
        yield Case("hop", text(field), request(b"GET /case HTTP/1.1", field), "either", absent=() if name == b"proxy-authorization" else (name,))
    yield Case("hop", "upgrade to h2c", request(b"GET /case HTTP/1.1", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), "either", absent=(b"upgrade", b"http2-settings"))
    yield Case("hop", "upgrade that brings a body", post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: %d" % len(INNER), body=INNER), "either", body=INNER)
    yield Case("hop", "websocket handshake that brings a body", request(b"GET /case HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13", b"Content-Length: %d" % len(INNER), body=INNER), "either")
    for value in [b"100-continue", b"100-Continue", b"200-ok", b"100-continue, x", b""]:
        yield Case("hop", f"Expect: {text(value)}", post(b"Expect: " + value, b"Content-Length: %d" % len(INNER), body=INNER), "either", statuses=(400, 417), body=INNER)
    yield Case("hop", "Expect without a body", request(b"GET /case HTTP/1.1", b"Expect: 100-continue"), "either", statuses=(400, 417))


def sizes():
    yield Case("size", "101 fields", request(b"GET /case HTTP/1.1", *[b"X-%d: y" % n for n in range(101)]), statuses=(431,))
    yield Case("size", "300 fields", request(b"GET /case HTTP/1.1", *[b"X-%d: y" % n for n in range(300)]), statuses=(400, 431))
    yield Case("size", "5,000 fields", request(b"GET /case HTTP/1.1", *[b"X: y"] * 5000), statuses=(400, 431))
    yield Case("size", "a value of 64 KiB", request(b"GET /case HTTP/1.1", b"X: " + b"y" * 65_600), statuses=(400, 431))
    yield Case("size", "a value of 1 MiB", request(b"GET /case HTTP/1.1", b"X: " + b"y" * (1 << 20)), statuses=(400, 431))
    yield Case("size", "a name of 70 kB", request(b"GET /case HTTP/1.1", b"x" * 70_000 + b": y"), statuses=(400, 431))
    yield Case("size", "a target of 70 kB", request(b"GET /" + b"a" * 70_000 + b" HTTP/1.1"), statuses=(400, 414, 431))
    yield Case("size", "a query of 70 kB", request(b"GET /?" + b"a" * 70_000 + b" HTTP/1.1"), statuses=(400, 414, 431))
    yield Case("size", "90 fields", request(b"GET /case HTTP/1.1", *[b"X-%d: y" % n for n in range(90)]), "forward")
    yield Case("size", "a value of 32 KiB", request(b"GET /case HTTP/1.1", b"X: " + b"y" * 32_768), "forward")
    yield Case("size", "a cookie of 16 KiB", request(b"GET /case HTTP/1.1", b"Cookie: a=" + b"y" * 16_384), "forward")


def sequences():
    """Several requests on one connection: what is behind a refused one is never read as a request."""
    good = request(b"GET /first HTTP/1.1")
    yield Case("sequence", "two", good + request(b"GET /second HTTP/1.1"), "forward")
    yield Case("sequence", "five", good * 5, "forward")
    yield Case("sequence", "post and get", post(b"Content-Length: 5", body=b"hello") + good, "forward")
    yield Case("sequence", "chunks and get", post(CHUNKED, body=chunks(b"hello")) + good, "forward")
    for name, bad in {
        "two hosts": request(b"GET /case HTTP/1.1", b"Host: x"),
        "a length and a coding": post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"),
        "odd coding": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
        "odd length": post(b"Content-Length: 5, 5", body=b"hello"),
        "no host": request(host=None),
        "bad target": request(b"GET /../a HTTP/1.1"),
        "large body": post(b"Content-Length: 99999999999", body=b"hello"),
        "many fields": request(b"GET /case HTTP/1.1", *[b"X: y"] * 150),
        "TRACE": request(b"TRACE /case HTTP/1.1"),
        "version": request(b"GET /case HTTP/1.7"),
        "bad chunk": post(CHUNKED, body=b"zz\r\nhello\r\n0\r\n\r\n"),
        "folded": request(b"GET /case HTTP/1.1", b"X: a\r\n b"),
    }.items():
        yield Case("sequence", f"{name}, and another behind", bad + INNER, "cut" if "chunk" in name else "refuse", statuses=(400, 405, 413, 431, 501, 505))
        yield Case("sequence", f"one before, {name}, another behind", good + bad + INNER, "after", statuses=(400, 405, 413, 431, 501, 505))


def all_cases():
    families = [lengths, codings, chunking, lines, first_lines, hosts, identities, sizes, sequences]
    return [case for family in families for case in family()]


if __name__ == "__main__":
    import collections

    print(collections.Counter(case.family for case in all_cases()), len(all_cases()))
