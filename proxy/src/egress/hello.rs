//! The first words of a TLS client: whom it wants to speak to.
//!
//! Input: a stream. Output: the name, and everything that was read, which goes on to the server. Must not: answer, or read on behind the hello.

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longer than any client's.
const HELLO_MAX: usize = 32 << 10;
/// Most are shorter.
const PART: usize = 2 << 10;

/// The error is the cause for the log.
pub async fn hello<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Vec<u8>, Option<String>), &'static str> {
    const NO_TLS: &str = "egress_not_tls";
    let (mut acceptor, mut seen) = (Acceptor::default(), Vec::new());
    loop {
        // Not in an array: it would stay with the tunnel for as long as that is open.
        seen.reserve(PART);
        let count = stream.read_buf(&mut seen).await.map_err(|_| NO_TLS)?;
        let mut bytes = &seen[seen.len() - count..];
        if bytes.is_empty() || seen.len() > HELLO_MAX {
            return Err(NO_TLS);
        }
        while !bytes.is_empty() {
            if acceptor.read_tls(&mut bytes).map_err(|_| NO_TLS)? == 0 {
                return Err(NO_TLS);
            }
        }
        if let Some(accepted) = acceptor.accept().map_err(|_| NO_TLS)? {
            let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
            return Ok((seen, name));
        }
    }
}
