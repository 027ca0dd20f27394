//! Bytes, both ways, until both sides have ended or neither says anything.
//!
//! Input: two streams. Output: how many bytes went each way. Must not: hold more than a buffer a direction, or keep what rests for longer than a
//! balancer does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::time::Instant;
use tokio_util::io::InspectReader;

/// A direction.
const BUFFER: usize = 16 << 10;
/// Network load balancers forget a flow after 350 s, and reset it with the next byte.
const IDLE_MAX: Duration = Duration::from_secs(340);

pub struct Passed {
    pub up: u64,
    pub down: u64,
    /// Neither side said anything for too long.
    pub idle: bool,
}

pub async fn through<A, B>(client: A, server: B) -> Passed
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    // Milliseconds since then.
    let heard = AtomicU64::new(0);
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let note = |bytes: &[u8], direction: &AtomicU64| {
        direction.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        heard.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    };
    let mut client = InspectReader::new(client, |bytes| note(bytes, &up));
    let mut server = InspectReader::new(server, |bytes| note(bytes, &down));
    let rests = async {
        loop {
            let last = heard.load(Ordering::Relaxed);
            tokio::time::sleep_until(begun + Duration::from_millis(last) + IDLE_MAX).await;
            if heard.load(Ordering::Relaxed) == last {
                return;
            }
        }
    };
    let idle = tokio::select! {
        // How a connection ended is both sides' business.
        _ = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER) => false,
        () = rests => true,
    };
    let (up, down) = (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed));
    Passed { up, down, idle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn bytes_go_through_and_what_rests_is_ended_in_time() {
        let ((mut a, client), (mut b, server)) = (duplex(64), duplex(64));
        let passing = tokio::spawn(through(client, server));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(a.write_all(b"hello").await.is_ok());
        let mut bytes = [0; 5];
        assert!(b.read_exact(&mut bytes).await.is_ok() && bytes == *b"hello");
        let heard = Instant::now();
        let passed = passing.await.unwrap_or(Passed { up: 0, down: 0, idle: false });
        assert_eq!((passed.up, passed.down, passed.idle), (5, 0, true));
        let rested = heard.elapsed();
        assert!(rested >= Duration::from_secs(339) && rested < Duration::from_secs(345), "{rested:?}");
    }
}
