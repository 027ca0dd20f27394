//! Heads: how a message is framed, which of its lines go on, and where chunks end.
//!
//! Input: the lines of a parsed head; bytes of a body. Output: framing, or nothing where it is not beyond doubt. Must not: allocate.

use httparse::Header;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Of lines that say it twice or oddly, none.
pub fn framing(headers: &[Header<'_>]) -> Option<Framing> {
    let mut found = Framing::None;
    for header in headers {
        let framing = if header.name.eq_ignore_ascii_case("content-length") {
            let digits = !header.value.is_empty() && header.value.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(header.value).ok().filter(|_| digits)?;
            Framing::Length(text.parse().ok()?)
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            header.value.eq_ignore_ascii_case(b"chunked").then_some(Framing::Chunked)?
        } else {
            continue;
        };
        if std::mem::replace(&mut found, framing) != Framing::None {
            return None;
        }
    }
    Some(found)
}

/// Headers of one connection; whoever passes them on speaks for another.
pub fn is_hop(name: &str) -> bool {
    match name.len() {
        2 => name.eq_ignore_ascii_case("te"),
        7 => name.eq_ignore_ascii_case("upgrade") || name.eq_ignore_ascii_case("trailer"),
        10 => name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("keep-alive"),
        16 => name.eq_ignore_ascii_case("proxy-connection"),
        18 => name.eq_ignore_ascii_case("proxy-authenticate"),
        19 => name.eq_ignore_ascii_case("proxy-authorization"),
        _ => false,
    }
}

/// What the `Connection` lines say.
#[derive(Default)]
pub struct Connection<'h> {
    pub close: bool,
    pub keep: bool,
    /// Other tokens, up to eight; more is a flood.
    pub named: [&'h str; 8],
    pub count: usize,
}

impl<'h> Connection<'h> {
    pub fn read(headers: &[Header<'h>]) -> Option<Connection<'h>> {
        let mut found = Connection::default();
        for header in headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection")) {
            for token in std::str::from_utf8(header.value).ok()?.split(',').map(str::trim) {
                match token {
                    _ if token.eq_ignore_ascii_case("close") => found.close = true,
                    _ if token.eq_ignore_ascii_case("keep-alive") => found.keep = true,
                    "" => {}
                    _ => {
                        *found.named.get_mut(found.count)? = token;
                        found.count += 1;
                    }
                }
            }
        }
        Some(found)
    }

    pub fn names(&self, name: &str) -> bool {
        self.named[..self.count].iter().any(|it| it.eq_ignore_ascii_case(name))
    }
}

/// Where a body of chunks ends. Bytes go on as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    Size(u64, u8),
    Extension(u64, u16),
    SizeEnd(u64),
    Data(u64),
    DataEnd(bool),
    /// In the trailers: the length of the line so far, and of all.
    Trailer(u32, u32),
    TrailerEnd(u32, u32),
    Done,
}

impl Chunks {
    pub const START: Chunks = Chunks::Size(0, 0);

    /// How many of the bytes belong to the body; nothing where they are no chunks.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() && *self != Chunks::Done {
            if let Chunks::Data(left) = *self {
                let here = left.min((bytes.len() - at) as u64);
                at += here as usize;
                *self = if left == here { Chunks::DataEnd(false) } else { Chunks::Data(left - here) };
                continue;
            }
            let byte = bytes[at];
            at += 1;
            *self = match (*self, byte) {
                (Chunks::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                    let digit = char::from(byte).to_digit(16)?;
                    Chunks::Size(size << 4 | u64::from(digit), digits + 1)
                }
                (Chunks::Size(size, 1..), b'\r') | (Chunks::Extension(size, _), b'\r') => {
                    Chunks::SizeEnd(size)
                }
                (Chunks::Size(size, 1..), b';') => Chunks::Extension(size, 0),
                (Chunks::Extension(size, length @ ..4096), b'\t' | b' '..=b'~' | 0x80..) => {
                    Chunks::Extension(size, length + 1)
                }
                (Chunks::SizeEnd(0), b'\n') => Chunks::Trailer(0, 0),
                (Chunks::SizeEnd(size), b'\n') => Chunks::Data(size),
                (Chunks::DataEnd(false), b'\r') => Chunks::DataEnd(true),
                (Chunks::DataEnd(true), b'\n') => Chunks::START,
                (Chunks::Trailer(line, all), b'\r') => Chunks::TrailerEnd(line, all),
                (Chunks::Trailer(line, all @ ..65_536), b'\t' | b' '..=b'~' | 0x80..) => {
                    Chunks::Trailer(line + 1, all + 1)
                }
                (Chunks::TrailerEnd(0, _), b'\n') => Chunks::Done,
                (Chunks::TrailerEnd(_, all), b'\n') => Chunks::Trailer(0, all),
                _ => return None,
            };
        }
        Some(at)
    }
}

/// How much of a body is still to come.
pub enum Left {
    Nothing,
    Length(u64),
    Chunks(Chunks),
    UntilClosed,
}

impl Left {
    pub fn of(framing: Framing) -> Left {
        match framing {
            Framing::None | Framing::Length(0) => Left::Nothing,
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunks(Chunks::START),
        }
    }

    /// How many of these bytes belong to it; nothing where they are no chunks.
    pub fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Left::Nothing => Some(0),
            Left::UntilClosed => Some(bytes.len()),
            Left::Length(left) => {
                let here = (*left).min(bytes.len() as u64);
                *left -= here;
                Some(here as usize)
            }
            Left::Chunks(chunks) => chunks.feed(bytes),
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Left::Nothing | Left::Length(0) | Left::Chunks(Chunks::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_where_they_end_in_any_pieces() {
        let body = b"4;a=b\r\nwiki\r\n0\r\nX: y\r\n\r\n";
        for cut in 0..body.len() {
            let mut chunks = Chunks::START;
            assert_eq!(chunks.feed(&body[..cut]), Some(cut));
            assert_eq!(chunks.feed(&[&body[cut..], b"GET"].concat()), Some(body.len() - cut));
            assert_eq!(chunks, Chunks::Done);
        }
        for bad in ["\r\n", "4\nwiki", "4\r\nwikix\r\n", "g\r\n", "4 \r\n", "0\r\nX\n"] {
            let mut chunks = Chunks::START;
            assert_eq!(chunks.feed(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
