"""Paths that may lead around a guard: what a backend reads as the guarded place must have been judged by the guard's route.

A guarded prefix and an open route lead to two backends. Whatever the open one is sent must not mean the guarded place by any of the
readings below, which are those of servers in the field.
"""

import itertools
import posixpath
import re
import unicodedata

GUARDED = b"/admin"


def variants():
    """Targets; all of them name, or nearly name, the guarded place."""
    plain = [b"/admin", b"/admin/", b"/admin/users", b"/admin?x=1", b"/admin;x", b"/admin/users;x=1"]
    letters = [b"/%61dmin", b"/adm%69n", b"/%61%64%6d%69%6e", b"/%41dmin", b"/ADMIN", b"/Admin", b"/aDmIn/users", b"/%2561dmin", b"/%252561dmin", b"/%u0061dmin", b"/%c1%a1dmin", b"/%e1%80%a1", b"/\xc1\xa1dmin", b"/%ef%bd%81dmin", b"/%EF%BC%A1dmin", b"/adm%c4%b1n", b"/adm%C4%B0N", b"/%x61dmin", b"/a%64min%2f", b"/admin%20", b"/admin%09", b"/admin.", b"/admin%2e", b"/admin::$DATA", b"/admin~1", b"/admi%6e%00", b"/admin%00", b"/admin%00.png", b"/admin\0", b"/admin%0a", b"/admin%0d%0a", b"/%e2%93%90dmin", b"/%f0%9d%92%b6dmin", b"/adm%e2%81%b1n"]
    slashes = [b"//admin", b"///admin", b"/.//admin", b"/%2fadmin", b"/%2Fadmin/", b"%2fadmin", b"/%252fadmin", b"/%5cadmin", b"/%5Cadmin", b"/\\admin", b"\\admin", b"/.%5cadmin", b"/open\\..\\admin", b"/open%5c..%5cadmin", b"//evil/admin", b"/%c0%afadmin", b"/%e0%80%afadmin", b"/%f0%80%80%afadmin", b"/%ef%bc%8fadmin", b"/%e2%88%95admin", b"/%e2%81%84admin", b"/admin%2fusers", b"/admin%5cusers", b"/admin//users", b"/admin\\users", b"//admin//users//", b"/open//../admin", b"/%2f%2fadmin", b"/%25%32%66admin"]
    dots = [b"/./admin", b"/%2e/admin", b"/.%2fadmin", b"/open/../admin", b"/open/%2e%2e/admin", b"/open/.%2e/admin", b"/open/%2e./admin", b"/open/..%2fadmin", b"/open/%2e%2e%2fadmin", b"/open/..%5cadmin", b"/open/%252e%252e/admin", b"/open/%252e%252e%252fadmin", b"/open/..;/admin", b"/open/..;a=b/admin", b"/open/%2e%2e;/admin", b"/open/.;/../admin", b"/open/...//admin", b"/open/..%00/admin", b"/open/..%ff/../admin", b"/open/..%c0%af../admin", b"/open/%c0%ae%c0%ae/admin", b"/open/%e0%80%ae%e0%80%ae/admin", b"/open/%ef%bc%8e%ef%bc%8e/admin", b"/open/%e2%80%a5/admin", b"/../admin", b"/..//admin", b"/open/../../admin", b"/open/x/../../admin", b"/open/./../admin", b"/admin/../open/../admin", b"/admin/..", b"/admin/../open", b"/admin/.", b"/admin/%2e", b"/open/..admin", b"/open/.. /admin", b"/open/..%20/admin", b"/open/..%09/admin", b"/open/%u002e%u002e/admin", b"/open/%%32%65%%32%65/admin", b"/open/%2%65%2%65/admin"]
    params = [b"/;/admin", b"/;a=b/admin", b"/a;/../admin", b"/admin;/", b"/admin;/users", b"/admin;jsessionid=1/users", b"/admin%3b", b"/admin%3ba=b", b"/%3b/admin", b"/open;/../admin", b"/open;/..;/admin", b"/;%2f..%2fadmin", b"/admin,x", b"/admin,x/users"]
    forms = [b"http://h/admin", b"http://h/%61dmin", b"http://h//admin", b"http://h/open/../admin", b"http://h", b"HTTP://h/admin", b"http://h\\admin", b"http:/admin", b"http:admin", b"http:///admin", b"h/admin", b"admin", b"./admin", b"../admin", b"?/admin", b"#/admin", b"/open?/../admin", b"/open#/../admin", b"/open/#/admin", b"/?/admin", b"*/admin", b"*"]
    yield from plain + letters + slashes + dots + params + forms
    # And what comes of putting two together.
    for before, step, after in itertools.product([b"/open", b"/open;x", b"/%6fpen", b"//open"], [b"/..", b"/%2e%2e", b"/..;", b"/.%2e", b"/..%2f", b"\\..", b"%2f..", b"/%252e%252e"], [b"/admin", b"/%61dmin", b"//admin", b"/admin;x"]):
        yield before + step + after


# --- Readings: bytes of a target -> the path a server would look up.


def decoded(path):
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), path)


def resolved(path):
    """Dots resolved by segments; slashes stay."""
    out = []
    for segment in path.split(b"/")[1:]:
        if segment == b"..":
            out = out[:-1]
        elif segment != b".":
            out.append(segment)
    return b"/" + b"/".join(out)


def merged(path):
    return re.sub(rb"/+", b"/", path)


def without_params(path):
    return b"/".join(segment.split(b";")[0] for segment in path.split(b"/"))


def overlong(path):
    """UTF-8 in more bytes than it needs, as careless decoders take it."""
    path = re.sub(rb"[\xc0\xc1]([\x80-\xbf])", lambda found: bytes([((found[0][0] & 0x1F) << 6 | found[1][0] & 0x3F) & 0x7F]), path)
    path = re.sub(rb"\xe0\x80([\x80-\xbf])", lambda found: bytes([found[1][0] & 0x3F]), path)
    return re.sub(rb"\xf0\x80\x80([\x80-\xbf])", lambda found: bytes([found[1][0] & 0x3F]), path)


def compatible(path):
    return unicodedata.normalize("NFKC", path.decode("utf-8", "replace")).encode()


def unicode_escapes(path):
    return re.sub(rb"%u([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)).encode("utf-8", "replace"), path)


def of_target(target):
    """The path of a target in any form, without its query."""
    found = re.match(rb"[A-Za-z]+://[^/?#]*", target)
    path = target[found.end() :] if found else target
    return re.split(rb"[?#]", path)[0] or b"/"


READINGS = {
    "raw": lambda p: p,
    "decoded once": decoded,
    "decoded twice": lambda p: decoded(decoded(p)),
    "decoded three times": lambda p: decoded(decoded(decoded(p))),
    "dots resolved": resolved,
    "decoded, dots resolved": lambda p: resolved(decoded(p)),
    "dots resolved, decoded": lambda p: decoded(resolved(p)),
    "decoded twice, dots resolved": lambda p: resolved(decoded(decoded(p))),
    "slashes merged": merged,
    "nginx": lambda p: resolved(merged(decoded(p))),
    "nginx, dots first": lambda p: merged(resolved(decoded(p))),
    "parameters cut": without_params,
    "Tomcat": lambda p: posixpath.normpath(decoded(without_params(p)).decode("latin-1")).encode("latin-1"),
    "Jetty": lambda p: resolved(without_params(decoded(p))),
    "backslashes are slashes": lambda p: resolved(merged(decoded(p).replace(b"\\", b"/"))),
    "IIS": lambda p: resolved(merged(unicode_escapes(decoded(p)).replace(b"\\", b"/"))).lower().rstrip(b". "),
    "case folded": lambda p: resolved(merged(decoded(p))).lower(),
    "NUL cuts": lambda p: resolved(merged(decoded(p).split(b"\0")[0])),
    "overlong": lambda p: resolved(merged(overlong(decoded(p)).replace(b"\\", b"/"))),
    "NFKC": lambda p: resolved(merged(compatible(decoded(p)))),
    "NFKC, case folded": lambda p: resolved(merged(compatible(decoded(p)))).lower(),
    "line cuts": lambda p: resolved(merged(re.split(rb"[\r\n]", decoded(p))[0])),
    "spaces trimmed": lambda p: resolved(merged(decoded(p))).strip(b" \t\r\n"),
}

def is_guarded(path):
    return path == GUARDED or path.startswith(GUARDED + b"/") or path.startswith(GUARDED + b";")


def readings_that_arrive(target, names=READINGS):
    """The readings by which a forwarded target is the guarded place."""
    path = of_target(target)
    return [name for name in names if is_guarded(READINGS[name](path))]
