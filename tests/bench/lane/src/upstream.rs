//! Connections to backends, and those that rest.
//!
//! Input: a backend's number and address. Output: a connection. Must not: hand out one that the backend has closed or written to.

use std::cell::RefCell;
use std::io::{ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

const RESTING_MAX: usize = 8_192;
const CONNECT: Duration = Duration::from_secs(5);

pub struct Pool(Vec<RefCell<Vec<TcpStream>>>);

pub struct Taken {
    pub stream: TcpStream,
    pub reused: bool,
}

impl Pool {
    pub fn new(backends: usize) -> Pool {
        Pool((0..backends).map(|_| RefCell::default()).collect())
    }

    /// One that rests, or a new one.
    pub async fn take(&self, backend: usize, address: SocketAddr, fresh: bool) -> Result<Taken> {
        while let Some(stream) = if fresh { None } else { self.0[backend].borrow_mut().pop() } {
            let quiet =
                stream.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            if quiet {
                return Ok(Taken { stream, reused: true });
            }
        }
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Taken { stream, reused: false })
    }

    pub fn rest(&self, backend: usize, stream: TcpStream) {
        let mut resting = self.0[backend].borrow_mut();
        if resting.len() < RESTING_MAX {
            resting.push(stream);
        }
    }
}
