//! Connections for websockets: a backend's answer is not read before the request has been sent to its end.
//!
//! Input: an address. Output: a connection whose reads let whoever writes go first. Must not: be used for anything else, or be pooled with
//! other connections.
//!
//! The framework takes the end of the upgrade request's empty body for the end of the tunnel when the 101 is read before it (its issue
//! 946): with a quick backend, one websocket in some hundreds closes at once.

use crate::targets::dial::{Dial, traced};
use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_error::{Error, ErrorType, OrErr, Result};
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Apart from every other group of connections.
pub const GROUP: u64 = 0x7765_6273_6f63_6b65;

#[derive(Debug)]
pub struct TunnelConnect {
    dial: Arc<Dial>,
    handle: Arc<Mutex<Option<OwnedFd>>>,
}

impl TunnelConnect {
    /// With what closes the connection in the end, where it has not become a websocket's: nobody else is to have it.
    pub fn new(dial: Arc<Dial>) -> (TunnelConnect, Opened) {
        let handle = Arc::default();
        (TunnelConnect { dial, handle: Arc::clone(&handle) }, Opened(handle))
    }
}

/// Closed with it, unless it is to be kept.
#[derive(Debug)]
pub struct Opened(Arc<Mutex<Option<OwnedFd>>>);

impl Opened {
    /// It is a websocket's now, and ends with that.
    pub fn keep(self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(handle) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The pool sees its end. One that has ended already needs none.
            let _ = shutdown(handle, Shutdown::Both);
        }
    }
}

#[async_trait]
impl Connect for TunnelConnect {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let address = address.as_inet().ok_or_else(|| Error::new_up(ErrorType::ConnectError))?;
        let (stream, counted) = self.dial.tcp(address).await.map_err(Error::into_up)?;
        stream.set_nodelay(true).or_err(ErrorType::SocketError, "TCP_NODELAY")?;
        // Without a descriptor to spare it rests in the pool, as others do.
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) =
            stream.as_fd().try_clone_to_owned().ok();
        let patient = VirtualSocketStream::new(Box::new(Patient { stream, wrote: false }));
        Ok(traced(Stream::from(patient), counted))
    }
}

#[derive(Debug)]
struct Patient {
    stream: TcpStream,
    /// Since the last read.
    wrote: bool,
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.wrote) {
            // One turn for who writes: what is still to be sent is sent before the answer is seen.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wrote = true;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl VirtualSocket for Patient {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.stream.set_nodelay(true),
            // A websocket has its own pings.
            _ => Ok(()),
        }
    }
}
