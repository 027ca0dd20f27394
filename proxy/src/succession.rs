//! One process after the other on the same sockets: the old one starts the new one, hands it its sockets, and leaves when the new one is ready.
//!
//! Input: our sockets; on the other side, standard input. Output: a successor that serves, or an error and nothing changed. Must not: stop
//! accepting before the successor has said that it does, or leave a half-started one behind.
//!
//! The channel is a socket pair of which the new process has one end as its standard input: nobody else can have it, and there is no path
//! to guard.

use crate::doors::{Socket, Sockets};
use anyhow::{Context as _, Result, anyhow, bail};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Set for a successor.
const MARK: &str = "BANYAN_SUCCEEDS";
const READY: &[u8] = b"ready\n";
/// Rules, addresses and warm functions may take their time; nobody waits for it but the operator.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sockets of one process: the kernel passes at most 253 at once.
const SOCKETS_MAX: usize = 200;
const MESSAGE_MAX: usize = 64 << 10;

const ENDED: &str = "the new process ended before it was ready; its log says why";

#[derive(Serialize, Deserialize)]
struct Named {
    name: String,
    asked: SocketAddr,
}

/// What is not ready is no process to leave beside us: it may hold our files. Dropped before it is, it is ended.
struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the same program with the same arguments, from the disk as it is now, and waits until it serves. Dropped before that, it ends it.
pub async fn succeed(sockets: Arc<Sockets>) -> Result<u32> {
    let (child, ours) = start()?;
    let pid = child.id();
    let mut starting = Starting(Some(child));
    match hand(&ours, &sockets) {
        Err(error) if error.downcast_ref() == Some(&Errno::PIPE) => bail!(ENDED),
        handed => handed?,
    }
    ours.set_nonblocking(true)?;
    let mut ours = tokio::net::UnixStream::from_std(ours)?;
    let mut word = [0; READY.len()];
    match tokio::time::timeout(PATIENCE, ours.read_exact(&mut word)).await {
        Ok(Ok(_)) if word == *READY => {
            starting.0 = None;
            Ok(pid)
        }
        Ok(Ok(_)) => bail!("the new process says something else than that it is ready"),
        Ok(Err(_)) => bail!(ENDED),
        Err(_) => bail!("the new process was not ready within {} s", PATIENCE.as_secs()),
    }
}

/// The new process, and our end of the channel.
fn start() -> Result<(Child, UnixStream)> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().context("the name of the program is not known")?;
    let (ours, theirs) = UnixStream::pair()?;
    // The command holds the other end too until it is dropped here; the end of the process would not be seen.
    let mut command = Command::new(program);
    command.args(arguments).env(MARK, "1").stdin(Stdio::from(OwnedFd::from(theirs)));
    Ok((command.spawn().context("the new process cannot be started")?, ours))
}

fn hand(channel: &UnixStream, sockets: &Sockets) -> Result<()> {
    if sockets.open.len() > SOCKETS_MAX {
        bail!("{} sockets are more than the {SOCKETS_MAX} that can be handed over", sockets.open.len());
    }
    let named = |socket: &Socket| Named { name: socket.name.clone(), asked: socket.asked };
    let message = serde_json::to_vec(&sockets.open.iter().map(named).collect::<Vec<Named>>())?;
    let fds: Vec<BorrowedFd<'_>> = sockets.open.iter().map(|socket| socket.listener.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        bail!("the sockets do not fit into a message");
    }
    let sent = sendmsg(channel, &[IoSlice::new(&message)], &mut control, SendFlags::empty())?;
    if sent == message.len() {
        Ok(())
    } else {
        Err(anyhow!("the names of the sockets do not fit into a message"))
    }
}

/// The sockets of the process that has started us; none where nobody has.
pub fn inherit() -> Result<Vec<Socket>> {
    if !is_successor() {
        return Ok(Vec::new());
    }
    let mut message = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let stdin = std::io::stdin();
    let received =
        recvmsg(&stdin, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .context("standard input is not a predecessor's")?;
    let named: Vec<Named> = serde_json::from_slice(&message[..received.bytes])?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if fds.len() != named.len() {
        bail!("{} sockets came for {} names", fds.len(), named.len());
    }
    let pairs = named.into_iter().zip(fds);
    Ok(pairs
        .map(|(it, fd)| Socket { name: it.name, asked: it.asked, listener: TcpListener::from(fd) })
        .collect())
}

fn is_successor() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Tells the predecessor that it may go.
pub fn say_ready() {
    if !is_successor() {
        return;
    }
    if let Err(error) = rustix::io::write(std::io::stdin(), READY) {
        tracing::warn!(%error, "the process before this one is gone already");
    }
}
