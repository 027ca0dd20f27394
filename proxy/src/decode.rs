//! Content codings undone, within bounds.
//!
//! Input: a body and its `Content-Encoding`. Output: the bytes behind it. Must not: grow past a size, or past a ratio: a
//! kilobyte that becomes a gigabyte is an attack, not an answer.

use bytes::Bytes;
use http::{HeaderMap, header};
use std::io::Read;

/// More than any body that is kept can honestly become.
const DECODED_MAX: u64 = 16 << 20;

/// Why there are no bytes behind a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// It is not what it says it is: no client can read it.
    Broken,
    /// A coding that is not known here.
    Unknown,
    /// It grows beyond `DECODED_MAX`.
    TooLarge,
}

pub fn decoded(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, Undecoded> {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let codings: Vec<String> = lines
        .flat_map(|line| line.split(','))
        .map(|coding| coding.trim().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != "identity")
        .collect();
    if body.is_empty() {
        return Ok(body.clone());
    }
    // The last one was put on last.
    codings.iter().rev().try_fold(body.clone(), |body, coding| match coding.as_str() {
        "gzip" | "x-gzip" => match read(flate2::read::MultiGzDecoder::new(&*body)) {
            // Clients take no notice of what stands behind it.
            Err(Undecoded::Broken) => read(flate2::read::GzDecoder::new(&*body)),
            read => read,
        },
        "deflate" => match read(flate2::read::ZlibDecoder::new(&*body)) {
            Err(Undecoded::Broken) => read(flate2::read::DeflateDecoder::new(&*body)),
            read => read,
        },
        "br" => read(brotli::Decompressor::new(&*body, 4096)),
        "zstd" => read(zstd::stream::read::Decoder::new(&*body).map_err(|_| Undecoded::Broken)?),
        _ => Err(Undecoded::Unknown),
    })
}

fn read(decoder: impl Read) -> Result<Bytes, Undecoded> {
    let mut out = Vec::new();
    decoder.take(DECODED_MAX + 1).read_to_end(&mut out).map_err(|_| Undecoded::Broken)?;
    if out.len() as u64 > DECODED_MAX { Err(Undecoded::TooLarge) } else { Ok(Bytes::from(out)) }
}
