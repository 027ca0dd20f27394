//! One JSON line per request, built in one buffer and handed to a writer thread through a bounded queue.
//!
//! Input: the facts of a finished request, or of a route's minute. Output: bytes on stdout or in a file; a counted drop when the writer is behind.
//! Must not: block a worker, or write what the client sent unescaped or unredacted: query strings, cookies and
//! Authorization never stand in a line.

use crate::settings::LogTarget;
use banyan_routes::address::AddressText;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use pingora_prometheus::prometheus::IntCounter;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Lines that may wait: at 1 KiB each, 16,384 hold 16 MiB, and 70 MiB at the most, since what clients send is cut.
const QUEUE_LINES: usize = 16_384;
/// The writer collects up to this much for one write call.
const BATCH_BYTES: usize = 64 << 10;

/// How long lines are left to gather when fewer than that have come. A writer that waited for the next line would be woken by each: to wake a thread
/// and to write one line cost a worker more than all else that is logged and counted.
const GATHER: Duration = Duration::from_millis(10);

/// At the end of the process, a writer that is stuck is not waited for longer.
const FLUSH_TIME: Duration = Duration::from_secs(2);

enum Item {
    Line(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(Sender<()>),
}

/// The sending side; cheap to clone into every service.
#[derive(Clone)]
pub struct LogSender {
    items: Option<Sender<Item>>,
    reopen: Arc<AtomicBool>,
    dropped: IntCounter,
}

impl LogSender {
    /// Starts the writer thread.
    pub fn start(target: &LogTarget, dropped: IntCounter) -> io::Result<LogSender> {
        let reopen = Arc::new(AtomicBool::new(false));
        if *target == LogTarget::Off {
            return Ok(LogSender { items: None, reopen, dropped });
        }
        let (items, queue) = bounded(QUEUE_LINES);
        let (target, again) = (target.clone(), reopen.clone());
        let out = open(&target)?;
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&queue, out, &target, &again))?;
        Ok(LogSender { items: Some(items), reopen, dropped })
    }

    pub fn is_on(&self) -> bool {
        self.items.is_some()
    }

    /// Hands a line over, or drops and counts it.
    pub fn send(&self, line: Vec<u8>) {
        let Some(items) = &self.items else { return };
        match items.try_send(Item::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.inc(),
        }
    }

    /// After HUP: the file is opened again, so that it can be rotated.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Waits, bounded, until what was handed over is written: at the end of the process.
    pub fn flush(&self) {
        let Some(items) = &self.items else { return };
        let (done, written) = bounded(1);
        if items.send_timeout(Item::Flush(done), FLUSH_TIME).is_ok() {
            let _ = written.recv_timeout(FLUSH_TIME);
        }
    }
}

fn open(target: &LogTarget) -> io::Result<Box<dyn Write + Send>> {
    fn append(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(path)
    }
    Ok(match target {
        LogTarget::File(path) => Box::new(append(path)?),
        LogTarget::Stdout | LogTarget::Off => Box::new(io::stdout()),
    })
}

fn write_all(
    queue: &Receiver<Item>,
    mut out: Box<dyn Write + Send>,
    target: &LogTarget,
    reopen: &AtomicBool,
) {
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    while let Ok(item) = queue.recv() {
        let mut next = Some(item);
        let mut flushed = None;
        while let Some(item) = next.take() {
            match item {
                Item::Line(line) => batch.extend_from_slice(&line),
                Item::Flush(done) => flushed = Some(done),
            }
            next = if batch.len() < BATCH_BYTES && flushed.is_none() { queue.try_recv().ok() } else { None };
        }
        if reopen.swap(false, Ordering::Relaxed) {
            match open(target) {
                Ok(fresh) => out = fresh,
                Err(error) => {
                    tracing::error!(%error, "access log cannot be opened again; the old file is kept")
                }
            }
        }
        // A full disk or a closed pipe must not end the thread: later lines may be writable again.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        let full = batch.len() >= BATCH_BYTES;
        batch.clear();
        match flushed {
            Some(done) => drop(done.send(())),
            None if !full => std::thread::park_timeout(GATHER),
            None => {}
        }
    }
}

/// The beginning of what a client sent, of `max` bytes at most: lines wait in queues, and a request's head may be as large as its limits allow.
pub fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// Of a path, and of a name that a client sent.
pub const PATH_MAX: usize = 2_048;
pub const NAME_MAX: usize = 512;

/// A name as it stands in a line, put together when the program is compiled.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(crate) use key;

/// Builds a line field by field; keys are made by `key!`.
pub struct Line {
    bytes: Vec<u8>,
}

impl Line {
    pub fn new() -> Line {
        // Most lines are 700 to 900 bytes: none grows twice.
        Line { bytes: Vec::with_capacity(1_024) }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A string that holds nothing to be escaped: a word or a name of ours, digits.
    pub fn clean(&mut self, key: &'static str, value: impl AsRef<[u8]>) {
        self.put(key.as_bytes());
        self.bytes.push(b'"');
        self.put(value.as_ref());
        self.bytes.push(b'"');
    }

    /// A string, escaped; bytes that are not printable ASCII or UTF-8 become replacement characters.
    pub fn text(&mut self, key: &'static str, value: &str) {
        if !value.bytes().fold(false, |found, byte| found | is_odd(byte)) {
            return self.clean(key, value);
        }
        self.put(key.as_bytes());
        self.bytes.push(b'"');
        let mut rest = value.as_bytes();
        while let Some(at) = rest.iter().position(|byte| is_odd(*byte)) {
            let (clean, odd) = rest.split_at(at);
            self.put(clean);
            match odd[0] {
                b @ (b'"' | b'\\') => self.put(&[b'\\', b]),
                b => {
                    let hex = b"0123456789abcdef";
                    self.put(b"\\u00");
                    self.put(&[hex[usize::from(b >> 4)], hex[usize::from(b & 15)]]);
                }
            }
            rest = &odd[1..];
        }
        self.put(rest);
        self.bytes.push(b'"');
    }

    pub fn address(&mut self, key: &'static str, address: IpAddr) {
        self.clean(key, AddressText::of(address).as_bytes());
    }

    pub fn number(&mut self, key: &'static str, value: u64) {
        self.put(key.as_bytes());
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = value;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }

    /// A value that is JSON already, under a name that holds nothing to be escaped.
    pub fn raw(&mut self, name: &str, json: &str) {
        self.put(b",\"");
        self.put(name.as_bytes());
        self.put(b"\":");
        self.put(json.as_bytes());
    }

    pub fn flag(&mut self, key: &'static str) {
        self.put(key.as_bytes());
        self.put(b"true");
    }

    /// Seconds with microseconds.
    pub fn seconds(&mut self, key: &'static str, value: Duration) {
        self.number(key, value.as_secs());
        let mut micros = value.subsec_micros();
        let mut digits = *b".000000";
        for digit in digits[1..].iter_mut().rev() {
            *digit = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
        self.put(&digits);
    }

    pub fn end(mut self) -> Vec<u8> {
        // Every field begins with a comma; the first one's is where the object begins.
        match self.bytes.first_mut() {
            Some(first) => *first = b'{',
            None => self.bytes.push(b'{'),
        }
        self.put(b"}\n");
        self.bytes
    }
}

/// What JSON does not let stand in a string.
fn is_odd(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f | 0x7f)
}

impl Default for Line {
    fn default() -> Self {
        Line::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_still_text() {
        assert_eq!((cut("abc", 3), cut("abcd", 3), cut("aé", 2), cut("", 0)), ("abc", "abc", "a", ""));
    }

    #[test]
    fn a_line_is_json_whatever_the_client_sent() {
        let mut line = Line::new();
        line.text(key!("path"), "/a\"b\\c\n\u{7f}é");
        line.text(key!("host"), "é.example");
        line.address(key!("client"), [192, 0, 2, 7].into());
        line.number(key!("zero"), 0);
        line.number(key!("max"), u64::MAX);
        line.seconds(key!("took"), Duration::from_micros(1_000_042));
        line.flag(key!("retried"));
        let bytes = line.end();
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(value["path"], "/a\"b\\c\n\u{7f}é");
        assert_eq!((&value["host"], &value["client"]), (&"é.example".into(), &"192.0.2.7".into()));
        assert_eq!(value["max"], u64::MAX);
        assert_eq!(value["took"], 1.000_042);
        assert_eq!(value["retried"], true);
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(Line::new().end(), b"{}\n");
    }
}
