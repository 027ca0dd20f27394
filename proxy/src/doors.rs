//! Listening sockets: opened by us or taken over from a predecessor, lent to the framework, kept for a successor.
//!
//! Input: the addresses of the settings. Output: sockets, and services that begin with them. Must not: let a socket go while somebody may
//! stand in its queue.

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use pingora_core::services::listening::Service as ListeningService;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::pin::pin;
use std::task::Poll;
use tokio::sync::mpsc;

/// A socket, with the name of its listener and the address as it was asked for.
#[derive(Debug)]
pub struct Socket {
    pub name: String,
    pub asked: SocketAddr,
    pub listener: TcpListener,
}

/// All sockets of the process.
#[derive(Debug, Default)]
pub struct Sockets {
    pub open: Vec<Socket>,
    /// A predecessor's, not asked for yet.
    inherited: Vec<Socket>,
}

impl Sockets {
    pub fn inherited(inherited: Vec<Socket>) -> Sockets {
        Sockets { open: Vec::new(), inherited }
    }

    /// The address a listener has: its predecessor's socket where there is one; the port is the kernel's choice where 0 was asked for.
    pub fn open(&mut self, name: &str, asked: SocketAddr) -> Result<SocketAddr> {
        let known =
            self.inherited.iter().position(|it| it.asked == asked && (asked.port() != 0 || it.name == name));
        let listener = match known {
            Some(at) => self.inherited.swap_remove(at).listener,
            // The framework would try a taken address for 30 s and then panic in a task, leaving a process without its listener.
            None => TcpListener::bind(asked).with_context(|| format!("cannot listen on {asked}"))?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.open.push(Socket { name: name.to_owned(), asked, listener });
        Ok(address)
    }

    /// A second handle of the socket that listens on `address`.
    pub fn lend(&self, address: SocketAddr) -> Result<TcpListener> {
        let has = |socket: &&Socket| socket.listener.local_addr().is_ok_and(|it| it == address);
        let socket = self.open.iter().find(has).with_context(|| format!("no socket for {address}"))?;
        Ok(socket.listener.try_clone()?)
    }
}

/// A service that begins with sockets which are there already, and says when it takes connections.
pub struct Door<A> {
    pub inner: ListeningService<A>,
    pub sockets: Vec<(SocketAddr, TcpListener)>,
    pub open: mpsc::UnboundedSender<()>,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Service for Door<A> {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, per_fd: usize) {
        if let Some(table) = &fds {
            for (address, listener) in self.sockets.drain(..) {
                table.lock().add(address.to_string(), listener.into_raw_fd());
            }
        }
        let mut serving = pin!(Service::start_service(&mut self.inner, fds, shutdown, per_fd));
        // With sockets at hand, one poll is enough to begin accepting.
        let begun = poll_fn(|cx| Poll::Ready(serving.as_mut().poll(cx))).await;
        // Whoever waits for it may be gone.
        let _ = self.open.send(());
        if begun.is_pending() {
            serving.await;
        }
    }

    fn name(&self) -> &str {
        Service::name(&self.inner)
    }

    fn threads(&self) -> Option<usize> {
        Service::threads(&self.inner)
    }
}
