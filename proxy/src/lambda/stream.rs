//! A streamed answer: event stream frames -> the HTTP head, then the body as it comes.
//!
//! Input: bytes of `application/vnd.amazon.eventstream`, in any pieces. Output: pieces of the response. Must not: hold more than one
//! frame and the prelude.
//!
//! Source: AWS Lambda API Reference, InvokeWithResponseStream; "Response streaming": the prelude is JSON, eight zero bytes, then
//! the body.

use super::answer::{Head, Malformed, prelude};
use aws_smithy_eventstream::frame::read_message_from;
use bytes::{Bytes, BytesMut};
use serde_json::Value;

/// A frame is at least its two lengths and two checksums, and at most 16 MiB by its format; AWS sends kilobytes.
const FRAME_MIN: usize = 16;
const FRAME_MAX: usize = 16 << 20;
/// Without a prelude it is the answer of a function that does not stream, and those end at Lambda's 6 MB.
const UNHEADED_MAX: usize = 6 << 20;
const SEPARATOR: [u8; 8] = [0; 8];

#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Head(Head),
    Body(Bytes),
    /// No prelude came at all: the function does not stream, and this is its whole payload.
    Whole(Bytes),
    /// The function ended with an error: its code and words.
    Failed {
        code: String,
        detail: String,
    },
    /// The end, with the log's tail where it was asked for.
    End {
        log: Option<String>,
    },
}

#[derive(Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// The body's beginning until the prelude is found in it.
    start: BytesMut,
    headed: bool,
}

impl Decoder {
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Piece>) -> Result<(), Malformed> {
        self.buffer.extend_from_slice(bytes);
        while let Some(length) =
            self.buffer.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize)
        {
            if !(FRAME_MIN..=FRAME_MAX).contains(&length) {
                return Err(Malformed(format!("a frame of {length} bytes")));
            }
            if self.buffer.len() < length {
                return Ok(());
            }
            let frame = self.buffer.split_to(length).freeze();
            let message =
                read_message_from(frame).map_err(|error| Malformed(format!("the event stream: {error}")))?;
            let header = |name: &str| {
                let found = message.headers().iter().find(|header| header.name().as_str() == name)?;
                Some(found.value().as_string().ok()?.as_str().to_owned())
            };
            let named = header(":exception-type").or_else(|| header(":error-code"));
            // One that says no name is one all the same.
            let unnamed = || header(":message-type").filter(|kind| matches!(&**kind, "exception" | "error"));
            if let Some(exception) = named.or_else(unnamed) {
                let detail = String::from_utf8_lossy(message.payload()).into_owned();
                out.push(Piece::Failed { code: exception, detail });
                continue;
            }
            match header(":event-type").as_deref() {
                Some("PayloadChunk") => self.chunk(message.payload().clone(), out)?,
                Some("InvokeComplete") => self.complete(message.payload(), out),
                // A kind of event that is not known yet says nothing about the body.
                _ => {}
            }
        }
        Ok(())
    }

    fn chunk(&mut self, payload: Bytes, out: &mut Vec<Piece>) -> Result<(), Malformed> {
        if self.headed {
            if !payload.is_empty() {
                out.push(Piece::Body(payload));
            }
            return Ok(());
        }
        let from = self.start.len().saturating_sub(SEPARATOR.len() - 1);
        self.start.extend_from_slice(&payload);
        let found = self.start[from..].windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
        let Some(at) = found.map(|at| from + at) else {
            if self.start.len() > UNHEADED_MAX {
                return Err(Malformed("no prelude in the first 6 MiB".into()));
            }
            return Ok(());
        };
        let start = self.start.split().freeze();
        out.push(Piece::Head(prelude(&start[..at])?));
        self.headed = true;
        let rest = start.slice(at + SEPARATOR.len()..);
        if !rest.is_empty() {
            out.push(Piece::Body(rest));
        }
        Ok(())
    }

    fn complete(&mut self, payload: &[u8], out: &mut Vec<Piece>) {
        let json: Value = serde_json::from_slice(payload).unwrap_or(Value::Null);
        if let Some(code) = json["ErrorCode"].as_str().filter(|code| !code.is_empty()) {
            let detail = json["ErrorDetails"].as_str().unwrap_or_default().to_owned();
            out.push(Piece::Failed { code: code.to_owned(), detail });
            return;
        }
        if !self.headed {
            out.push(Piece::Whole(self.start.split().freeze()));
        }
        out.push(Piece::End { log: json["LogResult"].as_str().map(str::to_owned) });
    }
}
