//! Trace identity of a request: W3C `traceparent` or X-Ray's header read, or a trace begun, and given on in both forms with a span of our own.
//!
//! Input: the client's headers and randomness. Output: the ids under which the request is logged, and the headers to send. Must not: format
//! through `fmt` per request; the hex digits are written into buffers. Sources: W3C Trace Context, section 3.2; AWS X-Ray developer guide,
//! "Tracing header" (`Root=1-<8 hex of seconds>-<24 hex>;Parent=<16 hex>;Sampled=0|1`, beside fields of AWS's own: `Lineage`, `Self`).

use banyan_routes::ids::{PPM, SharePpm};
use http::{HeaderMap, HeaderValue};
use std::time::{SystemTime, UNIX_EPOCH};

pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";
pub const XRAY: &str = "x-amzn-trace-id";

/// Longer ones are not AWS's; their other fields are left out.
const XRAY_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// The span of whoever asked us.
    pub parent: Option<[u8; 8]>,
    pub sampled: bool,
    /// It goes on from a `traceparent`, whose `tracestate` goes on with it.
    pub from_w3c: bool,
}

impl Trace {
    /// Continues the client's trace, or begins one, of which `share` is sampled.
    pub fn begin(headers: Option<&HeaderMap>, share: SharePpm) -> Trace {
        // One of many: which one is meant, nobody can know.
        let the_one = |name| {
            let mut all = headers?.get_all(name).iter();
            all.next().filter(|_| all.next().is_none()).map(HeaderValue::as_bytes)
        };
        let span_id = new_span();
        if let Some((trace_id, parent, sampled)) = the_one(TRACEPARENT).and_then(parse) {
            return Trace { trace_id, span_id, parent: Some(parent), sampled, from_w3c: true };
        }
        if let Some(xray) = headers.and_then(|headers| headers.get(XRAY)).map(|it| Xray::parse(it.as_bytes()))
            && let Some(trace_id) = xray.root
        {
            let mut trace = Trace { trace_id, span_id, parent: xray.parent, sampled: false, from_w3c: false };
            // A load balancer names the trace and leaves this to whoever comes next.
            trace.sampled = xray.sampled.unwrap_or_else(|| trace.falls_in(share));
            return trace;
        }
        let mut trace_id = rand::random::<u128>().to_be_bytes();
        // X-Ray takes only ids that begin with the time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        trace_id[..4].copy_from_slice(&(now as u32).to_be_bytes());
        let mut trace = Trace { trace_id, span_id, parent: None, sampled: false, from_w3c: false };
        trace.sampled = trace.falls_in(share);
        trace
    }

    /// Nobody's: of no request.
    pub fn none() -> Trace {
        Trace { trace_id: [0; 16], span_id: [0; 8], parent: None, sampled: false, from_w3c: false }
    }

    pub fn is_none(&self) -> bool {
        self.trace_id == [0; 16]
    }

    /// Chosen by the trace, so that replicas agree; by its last bytes, which are random in every form of it.
    pub fn falls_in(&self, share: SharePpm) -> bool {
        let [.., a, b, c, d] = self.trace_id;
        share.get() >= PPM || u32::from_le_bytes([a, b, c, d]) % PPM < share.get()
    }

    /// The same trace, another span below this one.
    pub fn child(&self) -> Trace {
        Trace { span_id: new_span(), parent: Some(self.span_id), ..*self }
    }

    /// The trace id in 32 hex digits: the id that stands in error bodies and in the log.
    pub fn id(&self) -> [u8; 32] {
        let mut text = [0; 32];
        hex(&self.trace_id, &mut text);
        text
    }

    /// The span id in 16 hex digits.
    pub fn span(&self) -> [u8; 16] {
        let mut text = [0; 16];
        hex(&self.span_id, &mut text);
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

    /// `X-Amzn-Trace-Id` for a backend: the client's root where it named one, our span, and whatever else the client's header held.
    pub fn xray(&self, client: Option<&HeaderValue>) -> HeaderValue {
        let mut text = [0; XRAY_MAX + 80];
        text[..75]
            .copy_from_slice(b"Root=1-00000000-000000000000000000000000;Parent=0000000000000000;Sampled=0\0");
        let client = client.map(|value| value.as_bytes()).filter(|value| value.len() <= XRAY_MAX);
        let xray = client.map(Xray::parse).unwrap_or_default();
        let root = xray.root.unwrap_or(self.trace_id);
        hex(&root[..4], &mut text[7..15]);
        hex(&root[4..], &mut text[16..40]);
        hex(&self.span_id, &mut text[48..64]);
        text[73] = if self.sampled { b'1' } else { b'0' };
        let mut length = 74;
        if xray.has_more {
            for field in fields(client.unwrap_or_default()).filter(|field| !is_ours(field)) {
                text[length] = b';';
                text[length + 1..length + 1 + field.len()].copy_from_slice(field);
                length += 1 + field.len();
            }
        }
        HeaderValue::from_bytes(&text[..length]).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Drawn as one number: an array is drawn byte by byte.
fn new_span() -> [u8; 8] {
    rand::random::<u64>().to_be_bytes()
}

/// What an X-Ray header says; a part that is not well-formed is as if it were absent.
#[derive(Default)]
struct Xray {
    root: Option<[u8; 16]>,
    parent: Option<[u8; 8]>,
    /// `None`: it does not say, or asks (`?`).
    sampled: Option<bool>,
    has_more: bool,
}

impl Xray {
    fn parse(value: &[u8]) -> Xray {
        let mut xray = Xray::default();
        for field in fields(value) {
            if let Some(root) = field.strip_prefix(b"Root=") {
                xray.root = parse_root(root);
            } else if let Some(parent) = field.strip_prefix(b"Parent=") {
                let mut span = [0; 8];
                let valid = parent.len() == 16 && unhex(parent, &mut span).is_some() && span != [0; 8];
                xray.parent = valid.then_some(span);
            } else if let Some(sampled) = field.strip_prefix(b"Sampled=") {
                xray.sampled = match sampled {
                    b"0" => Some(false),
                    b"1" => Some(true),
                    _ => None,
                };
            } else {
                xray.has_more = true;
            }
        }
        xray
    }
}

fn fields(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|field| !field.is_empty())
}

fn is_ours(field: &[u8]) -> bool {
    [&b"Root="[..], b"Parent=", b"Sampled="].iter().any(|name| field.starts_with(name))
}

/// `1-5759e988-bd862e3fe1be46a994272793`
fn parse_root(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 35 || &text[..2] != b"1-" || text[10] != b'-' {
        return None;
    }
    let mut id = [0; 16];
    unhex(&text[2..10], &mut id[..4])?;
    unhex(&text[11..], &mut id[4..])?;
    (id != [0; 16]).then_some(id)
}

/// Both digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

fn hex(bytes: &[u8], text: &mut [u8]) {
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&HEX[usize::from(*byte)]);
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

/// Trace id, span and sampled flag of a valid header; anything else is as if it were absent.
fn parse(value: &[u8]) -> Option<([u8; 16], [u8; 8], bool)> {
    let separated = value.len() >= 55 && value[2] == b'-' && value[35] == b'-' && value[52] == b'-';
    // Version 00 has exactly this length; later ones may go on after another dash.
    let ends = value.len() == 55 || (value.get(55) == Some(&b'-') && &value[..2] != b"00");
    if !separated || !ends || &value[..2] == b"ff" {
        return None;
    }
    unhex(&value[..2], &mut [0; 1])?;
    let (mut trace_id, mut span_id, mut flags) = ([0; 16], [0; 8], [0; 1]);
    unhex(&value[3..35], &mut trace_id)?;
    unhex(&value[36..52], &mut span_id)?;
    unhex(&value[53..55], &mut flags)?;
    (trace_id != [0; 16] && span_id != [0; 8]).then_some((trace_id, span_id, flags[0] & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";

    fn begun(headers: &[(&'static str, &str)]) -> Trace {
        begun_with(headers, SharePpm::ZERO)
    }

    fn begun_with(headers: &[(&'static str, &str)], share: SharePpm) -> Trace {
        let value = |text: &str| HeaderValue::from_str(text).expect("header");
        let map = headers
            .iter()
            .map(|(name, text)| (HeaderName::from_static(name), value(text)))
            .collect::<HeaderMap>();
        Trace::begin(Some(&map), share)
    }

    fn xray(trace: &Trace, client: &str) -> String {
        trace.xray(Some(&HeaderValue::from_str(client).expect("header"))).to_str().expect("text").to_owned()
    }

    #[test]
    fn a_valid_parent_is_continued_with_a_new_span() {
        let trace = begun(&[(TRACEPARENT, PARENT)]);
        assert_eq!(&trace.id(), b"4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.parent, Some([0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]));
        let sent = trace.header();
        let sent = sent.to_str().expect("text");
        assert!(sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && sent.ends_with("-01"), "{sent}");
        assert_ne!(sent, PARENT);
        assert!(parse(sent.as_bytes()).is_some());
        let child = trace.child();
        assert_eq!((child.trace_id, child.parent), (trace.trace_id, Some(trace.span_id)));
        assert_ne!(child.span_id, trace.span_id);
    }

    #[test]
    fn of_a_trace_that_does_not_say_a_share_is_sampled() {
        for (text, all, none) in [
            (ROOT.to_owned(), true, false),
            (format!("{ROOT};Sampled=?"), true, false),
            (format!("{ROOT};Sampled=1"), true, true),
            (format!("{ROOT};Sampled=0"), false, false),
        ] {
            let sampled = |share| begun_with(&[(XRAY, &text)], share).sampled;
            assert_eq!((sampled(SharePpm::ALL), sampled(SharePpm::ZERO)), (all, none), "{text}");
        }
    }

    #[test]
    fn of_two_parents_neither_is_continued() {
        let other = PARENT.replace("4bf9", "5bf9");
        let mut map = HeaderMap::new();
        for text in [PARENT, &other] {
            map.append(TRACEPARENT, HeaderValue::from_str(text).expect("header"));
        }
        let trace = Trace::begin(Some(&map), SharePpm::ZERO);
        assert!(trace.parent.is_none() && !trace.from_w3c);
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
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "zz-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(parse(later.as_bytes()).is_some());
    }

    #[test]
    fn either_form_is_given_on_as_the_other() {
        let trace = begun(&[(XRAY, &format!("{ROOT};Parent=53995c3f42cd8ad8;Sampled=1"))]);
        assert_eq!(&trace.id(), b"5759e988bd862e3fe1be46a994272793");
        assert_eq!((trace.parent.map(|it| it[0]), trace.sampled, trace.from_w3c), (Some(0x53), true, false));
        let span = String::from_utf8(trace.span().to_vec()).expect("hex");
        assert_eq!(
            trace.header().to_str().ok(),
            Some(&*format!("00-5759e988bd862e3fe1be46a994272793-{span}-01"))
        );
        let trace = begun(&[(TRACEPARENT, PARENT)]);
        let span = String::from_utf8(trace.span().to_vec()).expect("hex");
        let expected = format!("Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent={span};Sampled=1");
        assert_eq!(trace.xray(None).to_str().ok(), Some(&*expected));
    }

    #[test]
    fn what_else_an_xray_header_holds_is_kept_and_a_root_of_its_own_too() {
        let others =
            "Lineage=a87bd80c:1|68fd508a:5|c512fbe3:2;Self=1-67891234-12456789abcdef012345678;CalledFrom=app";
        let trace = begun(&[(TRACEPARENT, PARENT), (XRAY, ROOT)]);
        assert_eq!(&trace.id(), b"4bf92f3577b34da6a3ce929d0e0e4736", "both are there: W3C's names the trace");
        let span = String::from_utf8(trace.span().to_vec()).expect("hex");
        let sent = xray(&trace, &format!("{ROOT}; Parent=53995c3f42cd8ad8 ;Sampled=0;{others}"));
        assert_eq!(sent, format!("{ROOT};Parent={span};Sampled=1;{others}"));
        // Only what is left of one that AWS would not have sent.
        assert_eq!(xray(&trace, &"x".repeat(XRAY_MAX)).len(), 75 + XRAY_MAX);
        assert_eq!(xray(&trace, &"x".repeat(XRAY_MAX + 1)).len(), 74);
    }

    #[test]
    fn an_invalid_root_is_replaced() {
        for text in [
            "",
            "Root=1-5759e988-bd862e3fe1be46a99427279",
            "Root=2-5759e988-bd862e3fe1be46a994272793",
            "Root=1-5759e988bd862e3fe1be46a994272793-",
            "Root=1-00000000-000000000000000000000000",
            "root=1-5759e988-bd862e3fe1be46a994272793",
            "Parent=53995c3f42cd8ad8;Sampled=1",
            ";;=;Root",
        ] {
            assert!(Xray::parse(text.as_bytes()).root.is_none(), "{text}");
            assert!(begun(&[(XRAY, text)]).parent.is_none());
        }
    }

    #[test]
    fn a_new_trace_begins_with_the_time_and_the_share_of_them_is_sampled() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as u32;
        let seconds = u32::from_be_bytes(begun(&[]).trace_id[..4].try_into().expect("four"));
        assert!(seconds.abs_diff(now) <= 1);
        let share = SharePpm::new(250_000).expect("a quarter");
        let sampled = (0..4_000).filter(|_| Trace::begin(None, share).sampled).count();
        assert!((800..1_200).contains(&sampled), "{sampled} of 4,000");
        assert!(Trace::begin(None, SharePpm::ALL).sampled);
    }
}
