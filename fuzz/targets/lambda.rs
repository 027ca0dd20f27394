//! What functions answer: a response or a fault, whole or streamed, and the same however a stream is cut.
#![no_main]

use banyan::lambda::answer::answer;
use banyan::lambda::fault::{function_error, refusal};
use banyan::lambda::report::Report;
use banyan::lambda::stream::{Decoder, Piece};
use banyan_routes::backend::EventFormat;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// What came of a stream: the bytes of its body, and how many other pieces.
fn decoded(bytes: &[u8], size: usize) -> Result<(Vec<u8>, usize), ()> {
    let (mut decoder, mut pieces) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(size.max(1)) {
        decoder.feed(piece, &mut pieces).map_err(|_| ())?;
    }
    let (mut body, mut others) = (Vec::new(), 0);
    for piece in pieces {
        match piece {
            Piece::Body(bytes) => body.extend_from_slice(&bytes),
            _ => others += 1,
        }
    }
    Ok((body, others))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let payload = Bytes::copy_from_slice(bytes);
    for format in [
        EventFormat::V2,
        EventFormat::V1,
        EventFormat::Alb { multi_value: false },
        EventFormat::Alb { multi_value: true },
    ] {
        if let Ok(answer) = answer(format, &payload) {
            assert!((100..1000).contains(&answer.head.status));
        }
    }
    refusal(u16::from(size) + 400, None, bytes);
    function_error(bytes);
    Report::read(bytes);
    assert_eq!(decoded(bytes, usize::from(size)), decoded(bytes, bytes.len()));
});
