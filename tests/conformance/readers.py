"""Readers of HTTP/1.1 requests: a strict one (RFC 9112) and others that read some bytes as servers in the field do.

A reader turns the bytes of a connection into the requests it sees. Where two readers see different requests in what a proxy has
sent, somebody can smuggle. A reader never looks further than it must: what it cannot read is the view `Stuck`.
"""

import dataclasses
import re

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
TARGET = re.compile(rb"[\x21-\x7e]+")
# A name, an address, or an address of version 6, with at most a port.
HOST = re.compile(rb"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a server would act on."""

    method: bytes
    target: bytes
    host: bytes
    body: bytes
    # Who the request says it comes from, by the names that backends believe.
    client: bytes


@dataclasses.dataclass(frozen=True)
class Stuck:
    """The rest of the connection cannot be read, or is not there."""

    why: str


class Unreadable(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class Reader:
    name: str
    # Lines may also end so.
    bare_lf: bool = False
    bare_cr: bool = False
    # What follows a NUL in a line is not seen.
    nul_cuts: bool = False
    # A line that begins with a space belongs to the one before; otherwise it is a field of its own, or refused when strict.
    fold: str = "refuse"  # refuse | join | own | cut
    # Spaces before the colon: refuse | strip | other (another field, that nobody knows)
    name_space: str = "refuse"
    # `Transfer-Encoding` counts when: final (RFC), exact, contains, first, last
    coding: str = "final"
    length_wins: bool = False
    # Of several lengths: refuse | first | last
    lengths: str = "refuse"
    # A length: strict | prefix (digits at the beginning) | c (signs, spaces, 0x) | lenient (underscores)
    number: str = "strict"
    bits: int = 64
    # Of a line of a chunk: strict | prefix | c; and an empty one: refuse | zero | skip
    chunk: str = "strict"
    chunk_empty: str = "refuse"
    # The end of a chunk's data is looked at.
    chunk_end: bool = True
    # The target ends at: first or last space.
    target_end: str = "strict"
    underscores: bool = False
    any_space_trims: bool = False
    old_has_chunks: bool = True
    duplicates: str = "refuse"  # of Host: refuse | first | last

    def read(self, data):
        """The requests in the bytes, and where reading ended."""
        seen, at = [], 0
        while at < len(data):
            try:
                request, at = self._request(data, at)
            except Unreadable as why:
                seen.append(Stuck(str(why)))
                break
            seen.append(request)
        return seen

    def _line(self, data, at):
        ends = [(data.find(b"\r\n", at), 2)]
        if self.bare_lf:
            ends.append((data.find(b"\n", at), 1))
        if self.bare_cr:
            found = data.find(b"\r", at)
            if found >= 0 and data[found + 1 : found + 2] != b"\n":
                ends.append((found, 1))
        ends = [end for end in ends if end[0] >= 0]
        if not ends:
            raise Unreadable("a line does not end")
        end, size = min(ends)
        line = data[at:end]
        if self.bare_lf and line.endswith(b"\r"):
            line = line[:-1]
        if self.nul_cuts:
            line = line.split(b"\0")[0]
        return line, end + size

    def _request(self, data, at):
        line, at = self._line(data, at)
        if self.target_end == "strict":
            parts = line.split(b" ")
            if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not TARGET.fullmatch(parts[1]) or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
                raise Unreadable("the request line is none")
            method, target, version = parts
        else:
            words = line.split()
            if len(words) < 2:
                raise Unreadable("the request line is none")
            method, target = words[0], words[1]
            version = words[-1] if words[-1].startswith(b"HTTP/") else b"HTTP/0.9"
            if self.target_end == "last" and len(words) > 3:
                target = b" ".join(words[1:-1])
        fields, at = self._fields(data, at)
        hosts = [value for name, value in fields if name == b"host"]
        if self.duplicates == "refuse":
            if len(hosts) != 1 and not (version == b"HTTP/1.0" and not hosts):
                raise Unreadable(f"{len(hosts)} hosts")
            if hosts and not HOST.fullmatch(hosts[0]):
                raise Unreadable("the host is none")
        host = (hosts or [b""])[0 if self.duplicates != "last" else -1]
        body, at = self._body(data, at, fields, version)
        client = b",".join(value for name, value in fields if name in (b"x-forwarded-for", b"x-real-ip", b"forwarded"))
        return Seen(method, target, host, body, client), at

    def _fields(self, data, at):
        fields = []
        while True:
            line, at = self._line(data, at)
            if not line:
                return fields, at
            if line[:1] in b" \t":
                if self.fold == "refuse" or not fields:
                    raise Unreadable("a folded line")
                if self.fold == "join":
                    fields[-1] = (fields[-1][0], fields[-1][1] + b" " + line.strip())
                    continue
                if self.fold == "cut":
                    continue
                line = line.strip()
            name, colon, value = line.partition(b":")
            if not colon:
                if self.fold == "refuse" and self.name_space == "refuse":
                    raise Unreadable("a line without a colon")
                continue
            if name != name.strip():
                if self.name_space == "refuse":
                    raise Unreadable("a space before the colon")
                if self.name_space == "strip":
                    name = name.strip()
            elif self.name_space == "refuse" and not TOKEN.fullmatch(name):
                raise Unreadable("a name that is none")
            value = value.strip(b" \t\r\n\x0b\x0c\0\x85\xa0") if self.any_space_trims else value.strip(b" \t")
            if self.fold == "refuse" and not FIELD_VALUE.fullmatch(value):
                raise Unreadable("a byte that no value may hold")
            name = name.lower()
            if self.underscores:
                name = name.replace(b"_", b"-")
            fields.append((name, value))

    def _chunked(self, fields, version):
        values = [value.lower() for name, value in fields if name == b"transfer-encoding"]
        if not values or (version == b"HTTP/1.0" and not self.old_has_chunks):
            return False
        codings = [coding.strip() for value in values for coding in value.split(b",")]
        if self.coding == "final":
            if version == b"HTTP/1.0":
                raise Unreadable("a coding in HTTP/1.0")
            if codings != [b"chunked"]:
                raise Unreadable("codings other than chunked")
            return True
        return {
            "exact": values == [b"chunked"],
            "contains": any(b"chunked" in value for value in values),
            "first": codings[0] == b"chunked",
            "last": codings[-1] == b"chunked",
        }[self.coding]

    def _number(self, text, how, base):
        digits = rb"[0-9]+" if base == 10 else rb"[0-9A-Fa-f]+"
        if how == "strict":
            if not re.fullmatch(digits, text):
                raise Unreadable("a number that is none")
        elif how == "prefix":
            text = (re.match(rb"\s*(" + digits + rb")?", text)[1]) or b"0"
        elif how == "c":
            found = re.match(rb"\s*([+-]?)(0[xX])?(" + digits + rb")?", text)
            text = found[3] or b"0"
            base = 16 if found[2] else base
            if found[1] == b"-":
                return (-int(text, base)) % (1 << self.bits)
        elif how == "lenient":
            text = text.replace(b"_", b"").strip().lstrip(b"+") or b"0"
            if not re.fullmatch(digits, text):
                raise Unreadable("a number that is none")
        number = int(text, base)
        if number >= 1 << self.bits:
            if self.bits == 64:
                raise Unreadable("a number too large")
            number %= 1 << self.bits
        return number

    def _body(self, data, at, fields, version):
        lengths = [value for name, value in fields if name == b"content-length"]
        chunked = self._chunked(fields, version)
        if chunked and lengths and self.coding == "final" and not self.length_wins:
            raise Unreadable("a length and a coding")
        if chunked and not (self.length_wins and lengths):
            return self._chunks(data, at)
        if not lengths:
            return b"", at
        if len(lengths) > 1 and self.lengths == "refuse":
            raise Unreadable("several lengths")
        text = lengths[-1 if self.lengths == "last" else 0]
        if self.lengths == "last" and self.number != "strict":
            text = text.split(b",")[-1].strip()
        length = self._number(text, self.number, 10)
        if len(data) - at < length:
            raise Unreadable("the body is not all there")
        return data[at : at + length], at + length

    def _chunks(self, data, at):
        body = b""
        while True:
            line, at = self._line(data, at)
            size, semicolon, extension = line.partition(b";")
            if self.chunk == "strict":
                if semicolon and not FIELD_VALUE.fullmatch(extension):
                    raise Unreadable("an extension of a chunk that is none")
                size = size.rstrip(b" \t") if semicolon else size
            if not size.strip() and self.chunk_empty != "refuse":
                if self.chunk_empty == "skip":
                    continue
                length = 0
            else:
                length = self._number(size, self.chunk, 16)
            if length == 0:
                break
            if len(data) - at < length:
                raise Unreadable("a chunk is not all there")
            body += data[at : at + length]
            at += length
            if self.chunk_end:
                end, at = self._line(data, at)
                if end:
                    raise Unreadable("a chunk does not end where it says")
            else:
                at += 2
        _, at = self._fields(data, at)
        return body, at


STRICT = Reader("strict")


def lenient(name, **how):
    """Takes what servers commonly take, and one thing more."""
    common = dict(fold="join", name_space="strip", lengths="first", duplicates="first", target_end="first", number="prefix", chunk="prefix", coding="contains")
    return Reader(name, **{**common, **how})


DEVIANT = [
    lenient("lenient"),
    lenient("length wins", length_wins=True),
    lenient("last length", lengths="last"),
    lenient("coding exact", coding="exact"),
    lenient("coding first", coding="first"),
    lenient("coding last", coding="last"),
    lenient("coding after any space", coding="exact", any_space_trims=True),
    lenient("no coding in 1.0", old_has_chunks=False),
    lenient("bare LF", bare_lf=True),
    lenient("bare CR", bare_cr=True),
    lenient("bare CR and LF", bare_cr=True, bare_lf=True),
    lenient("NUL cuts", nul_cuts=True),
    lenient("32 bits", bits=32),
    lenient("numbers of C", number="c", chunk="c"),
    lenient("numbers of Python", number="lenient", chunk="lenient"),
    lenient("32 bits of C", number="c", chunk="c", bits=32),
    lenient("folds are fields", fold="own"),
    lenient("folds are cut", fold="cut"),
    lenient("names keep spaces", name_space="other"),
    lenient("last host", duplicates="last"),
    lenient("target to the last space", target_end="last"),
    lenient("names of CGI", underscores=True),
    lenient("empty chunk line ends", chunk_empty="zero"),
    lenient("empty chunk line is nothing", chunk_empty="skip"),
    lenient("chunk ends unread", chunk_end=False),
]

# What belongs to one connection only; `Connection` itself may say close or keep-alive.
HOP_BY_HOP = {b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"proxy-authenticate", b"http2-settings"}


def verdict(data):
    """What is wrong with the bytes a proxy has sent on one connection: nothing, or a list of sentences."""
    if not data:
        return []
    strict = STRICT.read(data)
    wrong = [f"invalid: {it.why}" for it in strict if isinstance(it, Stuck)]
    for reader in DEVIANT:
        seen = reader.read(data)
        if seen != strict:
            wrong.append(f"ambiguous: `{reader.name}` sees {short(seen)}, strict sees {short(strict)}")
    for head in heads(data):
        names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
        hops = sorted(names & HOP_BY_HOP)
        if hops and b"websocket" not in head.lower():
            wrong.append(f"invalid: hop-by-hop {hops}")
    return wrong


def heads(data):
    """The heads a strict reader finds, as bytes."""
    found, at = [], 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            break
        try:
            _, after = STRICT._request(data, at)
        except Unreadable:
            found.append(data[at:end])
            break
        found.append(data[at:end])
        at = after
    return found


def short(seen):
    return [it.why if isinstance(it, Stuck) else f"{it.method.decode('latin-1')} {it.target.decode('latin-1')} +{len(it.body)}" for it in seen]
