//! Content codings undone, within bounds.
//!
//! Input: a body and its `Content-Encoding`. Output: the bytes behind it. Must not: grow past a size, or past a ratio: a
//! kilobyte that becomes a gigabyte is an attack, not an answer.

use bytes::Bytes;
use http::{HeaderMap, header};
use std::io::Read;

/// More than any body that is kept can honestly become.
const DECODED_MAX: u64 = 16 << 20;

/// `None`: an unknown coding, a broken one, or one that grows too large.
pub fn decoded(headers: &HeaderMap, body: &Bytes) -> Option<Bytes> {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let codings: Vec<String> = lines
        .flat_map(|line| line.split(','))
        .map(|coding| coding.trim().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != "identity")
        .collect();
    if body.is_empty() {
        return Some(body.clone());
    }
    // The last one was put on last.
    codings.iter().rev().try_fold(body.clone(), |body, coding| match coding.as_str() {
        "gzip" | "x-gzip" => read(flate2::read::MultiGzDecoder::new(&*body)),
        "deflate" => read(flate2::read::ZlibDecoder::new(&*body))
            .or_else(|| read(flate2::read::DeflateDecoder::new(&*body))),
        "br" => read(brotli::Decompressor::new(&*body, 4096)),
        "zstd" => read(zstd::stream::read::Decoder::new(&*body).ok()?),
        _ => None,
    })
}

fn read(decoder: impl Read) -> Option<Bytes> {
    let mut out = Vec::new();
    decoder.take(DECODED_MAX + 1).read_to_end(&mut out).ok()?;
    (out.len() as u64 <= DECODED_MAX).then(|| Bytes::from(out))
}
