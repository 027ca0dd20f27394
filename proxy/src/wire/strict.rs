//! Where each HTTP/1 message of a connection begins and ends, read strictly (RFC 9112); what is not beyond doubt is a fault.
//!
//! Input: the bytes of a connection, in any pieces. Output: nothing, or the first fault and how many of the bytes come before it. Must not:
//! repair, guess, or keep more than one unfinished line.

use memchr::{memchr, memchr2};
use std::mem;

/// An unfinished line may be this long; the limit on heads is the settings'.
const LINE_MAX: usize = 256 << 10;
/// A line of a chunk with its extensions, which nobody needs.
const CHUNK_LINE_MAX: usize = 4 << 10;
/// Empty lines before a request.
const BLANK_MAX: u8 = 2;
/// All trailers of one message.
const TRAILERS_MAX: usize = 64 << 10;

/// What a server might read otherwise than we do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// A line that does not end in CR LF, a CR elsewhere, a folded line, or no colon in it.
    Line = 1,
    /// Not method, space, target, space, version.
    RequestLine,
    Target,
    Version,
    /// Lengths and codings that servers read differently.
    Framing,
    Chunk,
    Trailer,
}

impl Fault {
    pub const ALL: [Fault; 7] = [
        Fault::Line,
        Fault::RequestLine,
        Fault::Target,
        Fault::Version,
        Fault::Framing,
        Fault::Chunk,
        Fault::Trailer,
    ];

    /// The status that answers it, and the cause in log and metrics.
    pub fn answer(self) -> (u16, &'static str) {
        match self {
            Fault::Line => (400, "malformed_line"),
            Fault::RequestLine => (400, "malformed_request_line"),
            Fault::Target => (400, "malformed_target"),
            Fault::Version => (505, "http_version"),
            Fault::Framing => (400, "malformed_framing"),
            Fault::Chunk => (400, "malformed_chunk"),
            Fault::Trailer => (400, "malformed_trailer"),
        }
    }
}

/// Where reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub fault: Fault,
    /// In which message of the connection, from 1.
    pub message: u32,
    /// The part of the bytes given that comes before it; all of them in a head, so that it can be answered like any other.
    pub good: usize,
    pub in_head: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line; empty lines may come first.
    Start,
    Fields,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    /// The CR LF behind a chunk's data.
    ChunkEnd,
    Trailers(usize),
    /// Not HTTP/1 any more, or at an end.
    Opaque,
}

#[derive(Clone, Copy, Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    old: bool,
}

#[derive(Debug)]
pub struct Strict {
    state: State,
    head: Head,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    message: u32,
    /// Empty lines since the last message: some clients send one.
    blank: u8,
    /// The connection may turn out to be HTTP/2.
    preface: bool,
    /// It has.
    http2: bool,
}

impl Strict {
    /// `preface`: what begins like HTTP/2 is HTTP/2.
    pub fn new(preface: bool) -> Strict {
        Strict {
            state: State::Start,
            head: Head::default(),
            line: Vec::new(),
            message: 1,
            blank: 0,
            preface,
            http2: false,
        }
    }

    pub fn is_http2(&self) -> bool {
        self.http2
    }

    /// Whether the head of that message is all there, as far as can be told.
    pub fn has_head(&self, message: u32) -> bool {
        self.message > message
            || (self.message == message && !matches!(self.state, State::Start | State::Fields))
    }

    /// Whether anything of a head has come, and not all.
    pub fn is_within_head(&self) -> bool {
        matches!(self.state, State::Fields) || (self.state == State::Start && !self.line.is_empty())
    }

    /// What follows is nobody's HTTP/1: a tunnel.
    pub fn stop(&mut self) {
        self.state = State::Opaque;
        self.line = Vec::new();
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Found> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.state {
                State::Opaque => return Ok(()),
                State::Body(left) | State::ChunkData(left) => {
                    let here = left.min(rest.len() as u64);
                    rest = &rest[here as usize..];
                    self.skipped(left - here);
                }
                State::Start | State::Fields | State::ChunkSize | State::ChunkEnd | State::Trailers(_) => {
                    let line_begins = bytes.len() - rest.len();
                    if let Err(fault) = self.line(&mut rest) {
                        let in_head = matches!(self.state, State::Start | State::Fields);
                        let good = if in_head { bytes.len() } else { line_begins };
                        let message = self.message;
                        self.stop();
                        return Err(Found { fault, message, good, in_head });
                    }
                }
            }
        }
        Ok(())
    }

    fn skipped(&mut self, left: u64) {
        self.state = match self.state {
            State::Body(_) if left == 0 => self.next_message(),
            State::Body(_) => State::Body(left),
            State::ChunkData(_) if left == 0 => State::ChunkEnd,
            _ => State::ChunkData(left),
        };
    }

    fn next_message(&mut self) -> State {
        self.message += 1;
        self.blank = 0;
        self.head = Head::default();
        State::Start
    }

    /// Takes one line off the front, or keeps what there is of it.
    fn line(&mut self, rest: &mut &[u8]) -> Result<(), Fault> {
        // What nearly every line is: all there, with its first CR before its first LF.
        if self.line.is_empty()
            && let Some(end) = memchr2(b'\r', b'\n', rest)
            && rest[end..].starts_with(b"\r\n")
        {
            self.state = self.line_of(&rest[..end])?;
            *rest = &rest[end + 2..];
            return Ok(());
        }
        self.odd_line(rest)
    }

    /// One that came in pieces, or whose end has not come, or that has a fault.
    fn odd_line(&mut self, rest: &mut &[u8]) -> Result<(), Fault> {
        let Some(end) = memchr(b'\n', rest) else {
            let most = if matches!(self.state, State::ChunkSize | State::ChunkEnd) {
                CHUNK_LINE_MAX
            } else {
                LINE_MAX
            };
            if self.line.len() + rest.len() > most {
                return Err(self.fault_of_state());
            }
            // What no line can become is not waited for.
            let bare_cr = memchr(b'\r', rest).is_some_and(|at| at + 1 < rest.len())
                || (self.line.last() == Some(&b'\r') && !rest.is_empty());
            self.line.extend_from_slice(rest);
            *rest = &[];
            let begins = |byte: &u8| is_token(*byte) || *byte == b'\r';
            if bare_cr {
                return Err(self.fault_of_state());
            }
            if self.state == State::Start && !self.line.first().is_none_or(begins) {
                return Err(Fault::RequestLine);
            }
            // What can be seen already is not waited for: the data behind a chunk must be CR LF.
            return if self.state == State::ChunkEnd && self.line != b"\r" {
                Err(Fault::Chunk)
            } else {
                Ok(())
            };
        };
        let (line, after) = rest.split_at(end + 1);
        if self.line.is_empty() {
            self.state = self.whole_line(line)?;
        } else {
            let mut kept = mem::take(&mut self.line);
            kept.extend_from_slice(line);
            self.state = self.whole_line(&kept)?;
        }
        *rest = after;
        Ok(())
    }

    fn fault_of_state(&self) -> Fault {
        match self.state {
            State::ChunkSize | State::ChunkEnd => Fault::Chunk,
            State::Trailers(_) => Fault::Trailer,
            _ => Fault::Line,
        }
    }

    /// The state after a line, which ends in LF.
    fn whole_line(&mut self, line: &[u8]) -> Result<State, Fault> {
        let Some(line) = line.strip_suffix(b"\r\n").filter(|line| memchr(b'\r', line).is_none()) else {
            return Err(self.fault_of_state());
        };
        self.line_of(line)
    }

    /// The state after a line, which is given without its end.
    fn line_of(&mut self, line: &[u8]) -> Result<State, Fault> {
        match self.state {
            State::Start if line.is_empty() => {
                self.blank += 1;
                if self.blank > BLANK_MAX { Err(Fault::RequestLine) } else { Ok(State::Start) }
            }
            State::Start if self.preface && self.message == 1 && line == b"PRI * HTTP/2.0" => {
                self.http2 = true;
                Ok(State::Opaque)
            }
            State::Start => {
                self.head.old = request_line(line)?;
                Ok(State::Fields)
            }
            State::Fields if line.is_empty() => self.end_of_head(),
            State::Fields => field(&mut self.head, line).map(|()| State::Fields),
            State::ChunkSize if line.len() > CHUNK_LINE_MAX => Err(Fault::Chunk),
            State::ChunkSize => Ok(match chunk_size(line).ok_or(Fault::Chunk)? {
                0 => State::Trailers(0),
                size => State::ChunkData(size),
            }),
            State::ChunkEnd if line.is_empty() => Ok(State::ChunkSize),
            State::ChunkEnd => Err(Fault::Chunk),
            State::Trailers(_) if line.is_empty() => Ok(self.next_message()),
            State::Trailers(so_far) => {
                let so_far = so_far + line.len() + 2;
                if so_far > TRAILERS_MAX || !is_field(line) {
                    return Err(Fault::Trailer);
                }
                Ok(State::Trailers(so_far))
            }
            State::Body(_) | State::ChunkData(_) | State::Opaque => Ok(self.state),
        }
    }

    fn end_of_head(&mut self) -> Result<State, Fault> {
        match self.head {
            Head { chunked: true, length: None, old: false } => Ok(State::ChunkSize),
            Head { chunked: true, .. } => Err(Fault::Framing),
            Head { length: None | Some(0), .. } => Ok(self.next_message()),
            Head { length: Some(length), .. } => Ok(State::Body(length)),
        }
    }
}

/// Whether it is of HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Fault> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Fault::RequestLine);
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || target.is_empty() {
        return Err(Fault::RequestLine);
    }
    if parts.next().is_some() || !is_plain_target(target) {
        return Err(Fault::Target);
    }
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        _ if version.starts_with(b"HTTP/") => Err(Fault::Version),
        _ => Err(Fault::RequestLine),
    }
}

/// Whether every server reads a target alike: the framework percent-encodes what is not allowed and cuts fragments off before anyone
/// else sees it.
fn is_plain_target(target: &[u8]) -> bool {
    let form = target.starts_with(b"/")
        || target == b"*"
        || target.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http://"))
        || target.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https://"));
    let (path, query) = target.split_at(memchr(b'?', target).unwrap_or(target.len()));
    form && path.iter().all(|byte| PATH[usize::from(*byte)]) && query.iter().all(|byte| is_of_target(*byte))
}

/// Whether a byte may stand in the path of a target.
static PATH: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let odd = matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
        table[byte as usize] = is_of_target(byte) && !odd;
        byte += 1;
    }
    table
};

const fn is_of_target(byte: u8) -> bool {
    0x20 < byte && byte < 0x7f && byte != b'#'
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let mark =
            matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        table[byte as usize] = byte.is_ascii_alphanumeric() || mark;
        byte += 1;
    }
    table
};

fn field(head: &mut Head, line: &[u8]) -> Result<(), Fault> {
    // A folded line begins with a space, which is no name.
    let (name, value) =
        memchr(b':', line).map(|colon| (&line[..colon], &line[colon + 1..])).ok_or(Fault::Line)?;
    if name.is_empty() || matches!(name[0], b' ' | b'\t') {
        return Err(Fault::Line);
    }
    if name.len() == 14 && name.eq_ignore_ascii_case(b"content-length") {
        let length = decimal(trimmed(value)).ok_or(Fault::Framing)?;
        return if head.length.replace(length).is_some() { Err(Fault::Framing) } else { Ok(()) };
    }
    if name.len() == 17 && name.eq_ignore_ascii_case(b"transfer-encoding") {
        let again = mem::replace(&mut head.chunked, true);
        let known = trimmed(value).eq_ignore_ascii_case(b"chunked");
        return if again || !known { Err(Fault::Framing) } else { Ok(()) };
    }
    // Who reads `_` as `-` would find another end of the message.
    match name.len() {
        14 if reads_as(name, b"content-length") => Err(Fault::Framing),
        17 if reads_as(name, b"transfer-encoding") => Err(Fault::Framing),
        _ => Ok(()),
    }
}

fn reads_as(name: &[u8], known: &[u8]) -> bool {
    let same = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    name.iter().zip(known).all(same)
}

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', inner @ ..] | [inner @ .., b' ' | b'\t'] = value {
        value = inner;
    }
    value
}

/// Digits only, no zero before others (which some read as octal), and a number that 63 bits hold.
fn decimal(text: &[u8]) -> Option<u64> {
    let octal = text.len() > 1 && text[0] == b'0';
    let digits = !octal && !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| digits)?.parse::<u64>().ok()?;
    (number <= i64::MAX as u64).then_some(number)
}

/// `1f`, `1F;name=value`; spaces may stand behind the size.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, more) = line.split_at(digits);
    let more = trimmed(more);
    let extension = more.is_empty() || more.starts_with(b";");
    if size.is_empty() || size.len() > 16 || !extension || !more.iter().all(|byte| is_value(*byte)) {
        return None;
    }
    let size = u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
    (size <= i64::MAX as u64).then_some(size)
}

fn is_field(line: &[u8]) -> bool {
    let Some(colon) = memchr(b':', line) else { return false };
    let (name, value) = line.split_at(colon);
    !name.is_empty() && name.iter().all(|byte| is_token(*byte)) && value.iter().all(|byte| is_value(*byte))
}

fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests;
