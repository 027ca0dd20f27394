//! How many connections lead to one place, and who is next when there are too many.
//!
//! Input: callers that want one, and sockets as they are opened, used, left alone and closed. Output: a permit, in turn, or why not; room for a
//! socket, made by closing one that rests. Must not: let more sockets be open than was said, let one caller's queue keep another's waiting, or let
//! anybody wait longer than was said.
//!
//! A permit is the right to use a connection, or a hundredth of one where the backend is said to speak HTTP/2; a place is a connection that is open,
//! used or not. There are as many of both, so whoever has a permit and no connection finds a place, or a socket that rests and can be closed for it.

use banyan_routes::file::Connections;
use rustix::net::{Shutdown, shutdown};
use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How long somebody waits where the rule does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(1);

/// What a permit of a whole connection costs; a request that shares one costs 1.
pub const WHOLE: u32 = 100;

/// As long as what is under way between a pool and its users may take.
pub const SOON: Duration = Duration::from_millis(1);

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// So many wait already.
    Queue,
    /// Its turn did not come in time.
    Late,
}

/// All caps of a process, by name: they go on over a reload, with what is open.
#[derive(Debug, Default)]
pub struct Caps {
    all: Mutex<HashMap<Box<str>, Arc<Cap>>>,
}

impl Caps {
    /// Of the pool that is named, or of its owner alone.
    pub fn of(&self, rule: &Connections, owner: &str) -> Arc<Cap> {
        let name = rule.pool.as_ref().map_or_else(|| owner.into(), |pool| format!("pool {pool}"));
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cap) = all.get(&*name) {
            return cap.clone();
        }
        // What nobody has any more is gone with the rules that named it.
        all.retain(|_, cap| Arc::strong_count(cap) > 1);
        all.entry(name.into()).or_default().clone()
    }
}

#[derive(Debug, Default)]
pub struct Cap {
    state: Mutex<State>,
    left: Notify,
    /// Somebody waits who cannot do without.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By the rules of whoever came last.
    max: u32,
    /// In parts of a connection.
    used: u32,
    waiting: u32,
    /// Callers that wait, each once, in the order of their turns.
    turns: VecDeque<Box<str>>,
    queues: HashMap<Box<str>, VecDeque<Waiting>>,
    open: u32,
    serial: u64,
    /// Those that may rest between requests.
    sockets: HashMap<RawFd, Socket>,
}

#[derive(Debug)]
struct Waiting {
    cost: u32,
    turn: oneshot::Sender<Permit>,
    since: Instant,
}

/// Whose pool of connections a socket is in: those of one pool find each other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The framework's, of all listeners but h2c ones.
    Main,
    /// Of our own client, for bodies that are held whole.
    Whole,
    /// Any other: nobody is sent there to find one.
    Alone,
}

/// What a socket is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub to: SocketAddr,
    pub pool: Pool,
    /// It takes more than one request at a time.
    pub shared: bool,
}

#[derive(Debug)]
struct Socket {
    /// Descriptors are used again, this is not.
    serial: u64,
    /// The same socket once more: to be closed by whoever needs its place. Without a descriptor to spare it is never closed for that.
    handle: Option<OwnedFd>,
    opened: Opened,
    users: u32,
    /// Nobody has had it yet; whoever opened it is about to.
    fresh: bool,
    closing: bool,
}

impl Socket {
    fn rests(&self) -> bool {
        self.users == 0 && !self.fresh && !self.closing && self.handle.is_some()
    }
}

/// Connections of a cap, and who waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub in_use: u32,
    pub idle: u32,
    pub queued: u32,
    /// Of whoever waits longest.
    pub wait: Duration,
}

/// Given back when it is dropped: to whoever is next.
#[derive(Debug)]
pub struct Permit {
    cap: Option<Arc<Cap>>,
    cost: u32,
}

/// A socket's, until it is dropped.
#[derive(Debug)]
pub struct Place {
    cap: Arc<Cap>,
    wanted: Opened,
    socket: Option<RawFd>,
}

/// A request's, on a socket.
#[derive(Debug)]
pub struct Use {
    cap: Arc<Cap>,
    socket: RawFd,
    serial: u64,
}

/// The socket was given up for another one in the meantime, or has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Closing;

/// There is no room for another connection, but one in the asker's pool that takes more requests.
#[derive(Debug, PartialEq, Eq)]
pub struct Shared;

impl Cap {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn figures(&self) -> Figures {
        let state = self.lock();
        let idle = state.sockets.values().filter(|socket| socket.rests()).count() as u32;
        let longest =
            state.queues.values().filter_map(VecDeque::front).map(|first| first.since.elapsed()).max();
        Figures {
            in_use: state.open.saturating_sub(idle),
            idle,
            queued: state.waiting,
            wait: longest.unwrap_or_default(),
        }
    }

    /// In the order they came for one caller, by turns between callers.
    pub async fn enter(
        self: &Arc<Self>,
        rule: &Connections,
        cost: u32,
        caller: &(impl Display + ?Sized),
    ) -> Result<Permit, Full> {
        let (turn, caller) = {
            let mut state = self.lock();
            state.adopt(rule.max);
            if state.waiting == 0 && state.fits(cost) {
                return Ok(self.permit(&mut state, cost));
            }
            if state.waiting >= rule.queue.unwrap_or(rule.max) {
                return Err(Full::Queue);
            }
            let caller = caller.to_string();
            (state.wait(&caller, cost), caller)
        };
        self.wanted.notify_waiters();
        // However this ends: late, or given up by whoever waits.
        let leaves = Leaves { cap: self, caller: &caller };
        // The rules may have become wider since.
        self.hand_out();
        let wait = rule.queue_wait.map_or(WAIT_DEFAULT, |span| span.0);
        match tokio::time::timeout(wait, turn).await {
            Ok(Ok(permit)) => {
                // Its place in the queue is gone already.
                std::mem::forget(leaves);
                Ok(permit)
            }
            // Our end is dropped first: a permit that comes meanwhile goes on to the next.
            Ok(Err(_)) | Err(_) => Err(Full::Late),
        }
    }

    /// Ends when somebody waits; whoever can do without gives back what it has then. Counts from when it was made, and polled or enabled.
    pub fn wanted(&self) -> Notified<'_> {
        self.wanted.notified()
    }

    /// For who can do without: only when nobody waits.
    pub fn try_enter(self: &Arc<Self>, rule: &Connections, cost: u32) -> Option<Permit> {
        let mut state = self.lock();
        state.adopt(rule.max);
        (state.waiting == 0 && state.fits(cost)).then(|| self.permit(&mut state, cost))
    }

    fn permit(self: &Arc<Self>, state: &mut State, cost: u32) -> Permit {
        state.used += cost;
        Permit { cap: Some(self.clone()), cost }
    }

    /// Where a connection rests, when no other can be opened without closing one.
    pub fn rests_at(&self) -> Option<SocketAddr> {
        let state = self.lock();
        let full = state.open >= state.max;
        let resting = || state.sockets.values().find(|socket| socket.rests());
        full.then(resting)?.map(|socket| socket.opened.to)
    }

    /// Waits until a socket may be opened; who rests makes room. Bounded by whoever connects.
    pub async fn place(self: &Arc<Self>, rule: &Connections, wanted: Opened) -> Result<Place, Shared> {
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            {
                let mut state = self.lock();
                state.adopt(rule.max);
                if state.open < state.max {
                    state.open += 1;
                    return Ok(Place { cap: self.clone(), wanted, socket: None });
                }
                if state.shared(wanted).any(|socket| socket.users == 0) {
                    return Err(Shared);
                }
                state.make_room();
            }
            left.await;
            // A request on it has ended, or it has just been made.
            if self.lock().shared(wanted).next().is_some() {
                return Err(Shared);
            }
        }
    }

    /// A request begins on a socket; `None` where it is nobody else's either.
    pub fn begin(self: &Arc<Self>, socket: RawFd) -> Result<Option<Use>, Closing> {
        if socket < 0 {
            return Ok(None);
        }
        let mut state = self.lock();
        let known = state.sockets.get_mut(&socket).filter(|known| !known.closing).ok_or(Closing)?;
        let (first, serial) = (known.fresh, known.serial);
        known.fresh = false;
        known.users += 1;
        drop(state);
        if first {
            self.left.notify_waiters();
        }
        Ok(Some(Use { cap: self.clone(), socket, serial }))
    }

    /// Gives permits to those who wait, as long as there are any.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let (next, cost) = {
                let mut state = self.lock();
                let Some(cost) = state.next_cost().filter(|cost| state.fits(*cost)) else { return };
                let Some(next) = state.next() else { return };
                state.used += cost;
                (next, cost)
            };
            if let Err(mut back) = next.send(Permit { cap: Some(self.clone()), cost }) {
                // It waits no longer; its permit is ours again.
                back.cap = None;
                self.lock().used -= cost;
            }
        }
    }
}

impl State {
    fn fits(&self, cost: u32) -> bool {
        self.used.saturating_add(cost) <= self.max.saturating_mul(WHOLE)
    }

    /// What rests and is one too many by the rules goes.
    fn adopt(&mut self, max: u32) {
        if self.max != max {
            self.max = max;
            self.shed();
        }
    }

    fn shed(&mut self) {
        if self.open <= self.max {
            return;
        }
        let mut leaving = self.leaving();
        while self.open.saturating_sub(leaving) > self.max && self.close_one() {
            leaving += 1;
        }
    }

    fn leaving(&self) -> u32 {
        self.sockets.values().filter(|socket| socket.closing).count() as u32
    }

    /// Those that whoever wants such a socket could share instead, in its own pool.
    fn shared(&self, wanted: Opened) -> impl Iterator<Item = &Socket> {
        let asks = wanted.shared && wanted.pool != Pool::Alone;
        self.sockets
            .values()
            .filter(move |socket| asks && socket.opened == wanted && !socket.closing && !socket.fresh)
    }

    /// One that is on its way out already is waited for before another one has to go.
    fn make_room(&mut self) {
        if self.leaving() == 0 {
            self.close_one();
        }
    }

    fn close_one(&mut self) -> bool {
        let Some(socket) = self.sockets.values_mut().find(|socket| socket.rests()) else { return false };
        socket.closing = true;
        // Whoever keeps it sees its end and drops it; one that has ended by itself is dropped as well.
        let _ = socket.handle.as_ref().map(|handle| shutdown(handle, Shutdown::Both));
        true
    }

    fn wait(&mut self, caller: &str, cost: u32) -> oneshot::Receiver<Permit> {
        let (sender, turn) = oneshot::channel();
        let waiting = Waiting { cost, turn: sender, since: Instant::now() };
        self.waiting += 1;
        match self.queues.get_mut(caller) {
            Some(queue) => queue.push_back(waiting),
            None => {
                self.queues.insert(caller.into(), VecDeque::from([waiting]));
                self.turns.push_back(caller.into());
            }
        }
        turn
    }

    /// Takes those out of a caller's queue who wait no longer.
    fn forget(&mut self, caller: &str) {
        let Some(queue) = self.queues.get_mut(caller) else { return };
        let before = queue.len();
        queue.retain(|waiting| !waiting.turn.is_closed());
        self.waiting -= (before - queue.len()) as u32;
        if queue.is_empty() {
            self.queues.remove(caller);
            self.turns.retain(|it| **it != *caller);
        }
    }

    fn next_cost(&self) -> Option<u32> {
        Some(self.queues.get(self.turns.front()?)?.front()?.cost)
    }

    /// The next in turn; `None`: nobody waits.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        let caller = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&caller)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        self.waiting -= u32::from(first.is_some());
        first.map(|waiting| waiting.turn)
    }
}

impl Place {
    /// It may rest between requests from now on, and be closed while it does.
    pub fn pooled(&mut self, socket: &impl AsFd) {
        let number = socket.as_fd().as_raw_fd();
        let handle = socket.as_fd().try_clone_to_owned().ok();
        let mut state = self.cap.lock();
        state.serial += 1;
        let serial = state.serial;
        state.sockets.insert(
            number,
            Socket { serial, handle, opened: self.wanted, users: 0, fresh: true, closing: false },
        );
        self.socket = Some(number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.cap.lock();
        let socket = self.socket.and_then(|number| state.sockets.remove(&number));
        // The other side is to hear of this end before it hears of the next one's beginning.
        if let Some(handle) = socket.and_then(|socket| socket.handle) {
            let _ = shutdown(handle, Shutdown::Both);
        }
        state.open -= 1;
        drop(state);
        self.cap.left.notify_waiters();
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut state = self.cap.lock();
        let Some(socket) = state.sockets.get_mut(&self.socket).filter(|it| it.serial == self.serial) else {
            return;
        };
        socket.users -= 1;
        state.shed();
        drop(state);
        self.cap.left.notify_waiters();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(cap) = self.cap.take() else { return };
        cap.lock().used -= self.cost;
        cap.hand_out();
    }
}

impl Permit {
    /// It is good for this as well.
    pub fn is_for(&self, cap: &Arc<Cap>, cost: u32) -> bool {
        self.cost == cost && self.cap.as_ref().is_some_and(|own| Arc::ptr_eq(own, cap))
    }
}

/// Who waits no longer is not counted, and keeps nobody behind it waiting.
struct Leaves<'a> {
    cap: &'a Arc<Cap>,
    caller: &'a str,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.cap.lock().forget(self.caller);
        self.cap.hand_out();
    }
}

#[cfg(test)]
mod tests;
