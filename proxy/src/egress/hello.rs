//! The first words of a TLS client: whom it wants to speak to.
//!
//! Input: a stream. Output: the name, and everything that was read, which goes on to the server. Must not: answer, or read on behind the hello.

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longer than any client's.
const HELLO_MAX: usize = 32 << 10;

/// The error is the cause for the log.
pub async fn hello<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Vec<u8>, Option<String>), &'static str> {
    const NO_TLS: &str = "egress_not_tls";
    let (mut acceptor, mut seen) = (Acceptor::default(), Vec::new());
    let mut part = [0; 4 << 10];
    loop {
        let count = stream.read(&mut part).await.map_err(|_| NO_TLS)?;
        let mut bytes = &part[..count];
        seen.extend_from_slice(bytes);
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
