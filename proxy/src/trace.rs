//! Trace identity of a request: W3C `traceparent` read or made, and given on with a span of our own.
//!
//! Input: the client's headers and randomness. Output: the id under which the request is logged, and the header to send.
//! Must not: format through `fmt` per request; the hex digits are written into a fixed buffer. Source: W3C Trace Context,
//! section 3.2.

use http::HeaderValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    sampled: bool,
}

impl Trace {
    /// Continues the client's trace, or begins one.
    pub fn begin(header: Option<&HeaderValue>) -> Trace {
        let parent = header.and_then(|value| parse(value.as_bytes()));
        let (trace_id, sampled) = parent.unwrap_or_else(|| (rand::random(), false));
        Trace { trace_id, span_id: rand::random(), sampled }
    }

    /// The same trace, another span.
    pub fn child(&self) -> Trace {
        Trace { span_id: rand::random(), ..*self }
    }

    /// The trace id in 32 hex digits: the id that stands in error bodies and in the log.
    pub fn id(&self) -> [u8; 32] {
        let mut text = [0; 32];
        hex(&self.trace_id, &mut text);
        text
    }

    /// `traceparent` for a backend.
    pub fn header(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&self.trace_id, &mut text[3..35]);
        hex(&self.span_id, &mut text[36..52]);
        text[54] = if self.sampled { b'1' } else { b'0' };
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

fn hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn unhex(text: &[u8], bytes: &mut [u8]) -> Option<()> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    for (pair, byte) in text.chunks_exact(2).zip(bytes) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

/// Trace id and sampled flag of a valid header; anything else is as if it were absent.
fn parse(value: &[u8]) -> Option<([u8; 16], bool)> {
    let separated = value.len() >= 55 && value[2] == b'-' && value[35] == b'-' && value[52] == b'-';
    // Version 00 has exactly this length; later ones may go on after another dash.
    if !separated || &value[..2] == b"ff" || (&value[..2] == b"00" && value.len() != 55) {
        return None;
    }
    let (mut trace_id, mut span_id, mut flags) = ([0; 16], [0; 8], [0; 1]);
    unhex(&value[3..35], &mut trace_id)?;
    unhex(&value[36..52], &mut span_id)?;
    unhex(&value[53..55], &mut flags)?;
    (trace_id != [0; 16] && span_id != [0; 8]).then_some((trace_id, flags[0] & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).expect("header")
    }

    #[test]
    fn a_valid_parent_is_continued_with_a_new_span() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = Trace::begin(Some(&header(parent)));
        assert_eq!(&trace.id(), b"4bf92f3577b34da6a3ce929d0e0e4736");
        let sent = trace.header();
        let sent = sent.to_str().expect("text");
        assert!(sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && sent.ends_with("-01"), "{sent}");
        assert_ne!(sent, parent);
        assert!(parse(sent.as_bytes()).is_some());
    }

    #[test]
    fn an_invalid_parent_is_replaced() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
