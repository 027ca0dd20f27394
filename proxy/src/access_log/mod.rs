//! One JSON line per request, written where the worker's lines gather and from there into a file by a thread of its own.
//!
//! Input: the facts of a finished request, or of a route's minute. Output: bytes on stdout or in a file; a counted drop when the writer is behind.
//! Must not: make a worker wait, neither for the disk nor for another worker.

mod line;

pub use line::{Key, Line, NAME_MAX, PATH_MAX, Quoted, cut, key, quoted};

use crate::settings::LogTarget;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use pingora_prometheus::prometheus::IntCounter;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// Of lines that wait for a writer that is behind; 20,000 of the usual 800 bytes.
const QUEUE_BYTES: usize = 16 << 20;
/// A buffer that had to grow beyond this, because the writer was behind, is given back when it is empty.
const KEPT_BYTES: usize = 1 << 20;

/// How long lines are left to gather once some have come. A writer that waited for the next line would be woken by each: to wake a thread
/// and to write one line cost a worker more than all else that is logged and counted.
const GATHER: Duration = Duration::from_millis(10);

/// Of what the writer is told; few lines ever go that way.
const ORDERS: usize = 1_024;

/// At the end of the process, a writer that is stuck is not waited for longer.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// Where lines gather: a buffer for each thread that writes any, and one more, so that whoever finds his own taken finds another that is free.
/// Nobody waits for one: when all are taken, the line goes as an order of its own.
struct Queue {
    slots: Box<[Slot]>,
    /// Bytes that one slot may hold.
    room: usize,
    /// The writer waits until it is told that there is a line.
    asleep: AtomicBool,
}

/// On a cache line of its own: its owner writes to it with each request.
#[repr(align(64))]
#[derive(Default)]
struct Slot(Mutex<Vec<u8>>);

impl Slot {
    /// None while somebody else is at it.
    fn try_take(&self) -> Option<MutexGuard<'_, Vec<u8>>> {
        match self.0.try_lock() {
            Ok(lines) => Some(lines),
            // Whoever panicked left a line without its end; the others are whole.
            Err(TryLockError::Poisoned(lines)) => Some(lines.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn take(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(|lines| lines.into_inner())
    }
}

impl Queue {
    fn new(threads: usize) -> Queue {
        let slots: Box<[Slot]> = (0..threads + 1).map(|_| Slot::default()).collect();
        let room = QUEUE_BYTES / slots.len();
        Queue { slots, room, asleep: AtomicBool::new(false) }
    }

    fn slot(&self) -> Option<MutexGuard<'_, Vec<u8>>> {
        let (before, from) = self.slots.split_at(thread_number() % self.slots.len());
        from.iter().chain(before).find_map(Slot::try_take)
    }

    /// False when there is no room for it.
    fn push(&self, orders: &Sender<Order>, build: impl FnOnce(&mut Line<'_>)) -> bool {
        let Some(mut lines) = self.slot() else { return orders.try_send(Order::Write(line(build))).is_ok() };
        if lines.len() >= self.room {
            return false;
        }
        let mut line = Line::begin(&mut lines);
        build(&mut line);
        line.end();
        true
    }
}

/// Threads are numbered as they come to write their first line.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<Option<usize>> = const { Cell::new(None) });
    NUMBER.with(|number| {
        number.get().unwrap_or_else(|| {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            number.set(Some(next));
            next
        })
    })
}

/// What the writer is told, beside the lines.
enum Order {
    /// A line that found no slot.
    Write(Vec<u8>),
    /// There is a line, or a file to be opened again.
    Wake,
    /// Answered once every line handed over before is written.
    Flush(Sender<()>),
}

/// The sending side; cheap to clone into every service.
#[derive(Clone)]
pub struct LogSender {
    to: Option<(Arc<Queue>, Sender<Order>)>,
    reopen: Arc<AtomicBool>,
    dropped: IntCounter,
}

impl LogSender {
    /// Starts the writer thread, for the lines of so many others.
    pub fn start(target: &LogTarget, threads: usize, dropped: IntCounter) -> io::Result<LogSender> {
        let reopen = Arc::new(AtomicBool::new(false));
        if *target == LogTarget::Off {
            return Ok(LogSender { to: None, reopen, dropped });
        }
        let queue = Arc::new(Queue::new(threads));
        let (orders, told) = bounded(ORDERS);
        let out = open(target)?;
        let writer = Writer { queue: queue.clone(), out, target: target.clone(), reopen: reopen.clone() };
        std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&told))?;
        Ok(LogSender { to: Some((queue, orders)), reopen, dropped })
    }

    pub fn is_on(&self) -> bool {
        self.to.is_some()
    }

    /// Writes a line among those of this thread, or drops and counts it.
    pub fn send(&self, build: impl FnOnce(&mut Line<'_>)) {
        let Some((queue, orders)) = &self.to else { return };
        if !queue.push(orders, build) {
            self.dropped.inc();
        }
        // The writer says that it sleeps before it looks at the slots for the last time: a line that it has not seen there sees it asleep.
        if queue.asleep.load(Ordering::Relaxed) && queue.asleep.swap(false, Ordering::AcqRel) {
            let _ = orders.try_send(Order::Wake);
        }
    }

    /// After HUP: the file is opened again, so that it can be rotated.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
        if let Some((_, orders)) = &self.to {
            let _ = orders.try_send(Order::Wake);
        }
    }

    /// Waits, bounded, until what was handed over is written: at the end of the process.
    pub fn flush(&self) {
        let Some((_, orders)) = &self.to else { return };
        let (done, written) = bounded(1);
        if orders.send_timeout(Order::Flush(done), FLUSH_TIME).is_ok() {
            let _ = written.recv_timeout(FLUSH_TIME);
        }
    }
}

/// A line that goes elsewhere.
pub fn line(build: impl FnOnce(&mut Line<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut line = Line::begin(&mut bytes);
    build(&mut line);
    line.end();
    bytes
}

fn open(target: &LogTarget) -> io::Result<Box<dyn Write + Send>> {
    fn append(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(path)
    }
    Ok(match target {
        LogTarget::File(path) => Box::new(append(path)?),
        LogTarget::Stdout | LogTarget::Off => Box::new(io::stdout()),
    })
}

struct Writer {
    queue: Arc<Queue>,
    out: Box<dyn Write + Send>,
    target: LogTarget,
    reopen: Arc<AtomicBool>,
}

/// What was found in the slots.
#[derive(PartialEq, Eq)]
enum Found {
    Nothing,
    /// Lines, or somebody who was writing one.
    Some,
}

impl Writer {
    /// Until nobody is left who could send anything.
    fn run(mut self, orders: &Receiver<Order>) {
        let mut spare = Vec::new();
        loop {
            let told = if self.write(&mut spare, false) == Found::Some {
                self.queue.asleep.store(false, Ordering::Relaxed);
                orders.recv_timeout(GATHER)
            } else if self.queue.asleep.swap(true, Ordering::AcqRel) {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                continue;
            };
            match told {
                Ok(Order::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Write(line)) => put(&mut self.out, &line),
                Ok(Order::Flush(done)) => {
                    self.write(&mut spare, true);
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.write(&mut spare, true);
                    return;
                }
            }
        }
    }

    /// Writes what has gathered. A slot that is being written to is waited for only where all must be `complete`.
    fn write(&mut self, spare: &mut Vec<u8>, complete: bool) -> Found {
        if self.reopen.swap(false, Ordering::Relaxed) {
            match open(&self.target) {
                Ok(fresh) => self.out = fresh,
                Err(error) => {
                    tracing::error!(%error, "access log cannot be opened again; the old file is kept")
                }
            }
        }
        let mut found = Found::Nothing;
        for slot in &self.queue.slots {
            let lines = if complete { Some(slot.take()) } else { slot.try_take() };
            if lines.as_ref().is_some_and(|lines| lines.is_empty()) {
                continue;
            }
            found = Found::Some;
            let Some(mut lines) = lines else { continue };
            mem::swap(&mut *lines, spare);
            drop(lines);
            put(&mut self.out, spare);
            spare.clear();
            spare.shrink_to(KEPT_BYTES);
        }
        found
    }
}

/// A full disk or a closed pipe must not end the thread: later lines may be writable again.
fn put(out: &mut dyn Write, lines: &[u8]) {
    let _ = out.write_all(lines).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fs;

    fn dropped() -> IntCounter {
        IntCounter::new("dropped", "lines").expect("a counter")
    }

    #[test]
    fn every_line_of_every_thread_is_written_whole_and_once_or_counted() {
        let path = std::env::temp_dir().join(format!("banyan-access-log-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let dropped = dropped();
        let log = LogSender::start(&LogTarget::File(path.clone()), 2, dropped.clone()).expect("a log");
        // More threads than slots, so that some meet.
        let (threads, lines) = (5, 4_000);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let log = &log;
                scope.spawn(move || {
                    for number in 0..lines {
                        log.send(|line| line.number(key!("n"), thread * lines + number));
                        if number % 1_000 == 0 {
                            // So that the writer falls asleep and has to be woken.
                            std::thread::park_timeout(Duration::from_millis(25));
                        }
                    }
                });
            }
        });
        log.flush();
        let text = fs::read_to_string(&path).expect("written");
        fs::remove_file(&path).expect("removed");
        let mut seen = HashSet::new();
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert!(seen.insert(value["n"].as_u64().expect("a number")), "{line} twice");
        }
        // Where a thread is stopped in the middle of a line, those that meet it there fill a bounded channel.
        assert_eq!(seen.len() as u64 + dropped.get(), threads * lines);
        assert!(dropped.get() < lines, "{} of {} dropped", dropped.get(), threads * lines);
    }

    #[test]
    fn a_line_that_finds_the_writer_asleep_is_written_without_another() {
        let path = std::env::temp_dir().join(format!("banyan-access-log-asleep-{}", std::process::id()));
        let log = LogSender::start(&LogTarget::File(path.clone()), 1, dropped()).expect("a log");
        for number in 1..=50_u64 {
            log.send(|line| line.number(key!("n"), number));
            let length = number as usize;
            let until = std::time::Instant::now() + Duration::from_secs(10);
            while fs::read_to_string(&path).expect("there").lines().count() < length {
                assert!(std::time::Instant::now() < until, "line {number} is not written");
                std::thread::park_timeout(Duration::from_millis(number % 15));
            }
        }
        fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn a_slot_that_is_full_takes_no_more() {
        let (orders, told) = bounded(1);
        let queue = Queue::new(1);
        let push = |text: &str| queue.push(&orders, |line| line.text(quoted!("x"), text));
        assert!(push(&"x".repeat(queue.room)));
        assert!(!push("y"), "this thread's slot is full");
        let taken = queue.slots[thread_number() % 2].take();
        assert_eq!(taken.len(), queue.room + "{\"x\":\"\"}\n".len());
        assert!(push("y"), "another is free");
        let other = queue.slots[(thread_number() + 1) % 2].take();
        assert_eq!(&**other, b"{\"x\":\"y\"}\n");
        assert!(push("z") && !push("no more"), "all are taken");
        assert!(matches!(told.try_recv(), Ok(Order::Write(line)) if line == b"{\"x\":\"z\"}\n"));
    }
}
