//! The airline's data: flights, sessions, bookings, payments, loyalty points, and a ledger of every write received.
//!
//! Input: calls of both sides. Output: values. Must not: be shared by two airlines in one process; each owns one store.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes the ledger keeps; older ones are counted only.
const LEDGER_MAX: usize = 10_000;

/// An id that is never the same: version 4 in form, by a counter and the clock in fact.
pub fn fresh_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mix = |seed: u64| {
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    let (a, b) = (mix(nanos), mix(nanos ^ NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(1)));
    let (d, e) = (a & 0xfff, b & 0xffff_ffff_ffff);
    format!("{:08x}-{:04x}-4{d:03x}-a{:03x}-{e:012x}", a >> 32, (a >> 16) & 0xffff, b >> 52)
}

/// `12:03:59.120`, in UTC.
pub fn wall_clock() -> String {
    let millis =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis()) % 86_400_000;
    let seconds = millis / 1_000;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60, millis % 1_000)
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flight {
    pub id: String,
    pub from: &'static str,
    pub to: &'static str,
    /// Minutes after midnight.
    pub departs: u32,
    pub minutes: u32,
    pub price_cents: u32,
    pub seats: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Booking {
    pub id: String,
    pub flight: String,
    pub passenger: String,
    pub member: Option<String>,
    pub paid: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct LedgerEntry {
    pub side: &'static str,
    pub what: String,
    /// The client's own id of the write, from `Idempotency-Key`.
    pub key: Option<String>,
}

#[derive(Default)]
struct Data {
    sessions: BTreeMap<String, String>,
    bookings: BTreeMap<String, Booking>,
    points: BTreeMap<String, u32>,
    ledger: Vec<LedgerEntry>,
    writes: u64,
    next: u64,
}

pub struct Store {
    flights: Vec<Flight>,
    data: Mutex<Data>,
}

/// Minutes after midnight as people read them.
pub fn clock(minutes: u32) -> String {
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

const AIRPORTS: [&str; 8] = ["ICN", "NRT", "FRA", "JFK", "LHR", "SIN", "CDG", "SYD"];

impl Default for Store {
    fn default() -> Self {
        Store::new()
    }
}

impl Store {
    /// Three flights a day between every pair of airports, always the same.
    pub fn new() -> Store {
        let mut flights = Vec::new();
        for (a, from) in AIRPORTS.iter().enumerate() {
            for (b, to) in AIRPORTS.iter().enumerate().filter(|(b, _)| *b != a) {
                for slot in 0..3u32 {
                    let number = (a * 100 + b * 10) as u32 + slot;
                    flights.push(Flight {
                        id: format!("BA{number:03}"),
                        from,
                        to,
                        departs: 360 + slot * 300 + (number * 7) % 60,
                        minutes: 120 + (number * 37) % 700,
                        price_cents: 9_900 + (number * 1_337) % 90_000,
                        seats: 40 + number % 160,
                    });
                }
            }
        }
        Store { flights, data: Mutex::default() }
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn flight(&self, id: &str) -> Option<&Flight> {
        self.flights.iter().find(|flight| flight.id == id)
    }

    /// In order of departure.
    pub fn search(&self, from: &str, to: &str) -> Vec<&Flight> {
        let fits =
            |flight: &&Flight| (from.is_empty() || flight.from == from) && (to.is_empty() || flight.to == to);
        self.flights.iter().filter(fits).collect()
    }

    pub fn login(&self, user: &str) -> String {
        let mut data = self.data();
        data.next += 1;
        let session = format!("s{:08x}{:04x}", data.next.wrapping_mul(0x9e37_79b9) as u32, data.next);
        data.sessions.insert(session.clone(), user.to_owned());
        session
    }

    pub fn user(&self, session: &str) -> Option<String> {
        self.data().sessions.get(session).cloned()
    }

    /// Writes down that a write arrived, before anything else is done with it.
    pub fn record(&self, side: &'static str, what: String, key: Option<String>) {
        let mut data = self.data();
        data.writes += 1;
        if data.ledger.len() < LEDGER_MAX {
            data.ledger.push(LedgerEntry { side, what, key });
        }
    }

    pub fn ledger(&self) -> (u64, Vec<LedgerEntry>) {
        let data = self.data();
        (data.writes, data.ledger.clone())
    }

    pub fn book(&self, flight: &str, passenger: &str, member: Option<String>) -> Option<Booking> {
        self.flight(flight)?;
        let mut data = self.data();
        data.next += 1;
        let id = format!("PNR{:05}", data.next);
        let booking = Booking {
            id: id.clone(),
            flight: flight.into(),
            passenger: passenger.into(),
            member,
            paid: false,
        };
        data.bookings.insert(id, booking.clone());
        Some(booking)
    }

    pub fn booking(&self, id: &str) -> Option<Booking> {
        self.data().bookings.get(id).cloned()
    }

    /// Pays a booking and credits its member: one point per euro.
    pub fn pay(&self, id: &str) -> Option<Booking> {
        let price = self.booking(id).and_then(|booking| Some(self.flight(&booking.flight)?.price_cents))?;
        let mut data = self.data();
        let booking = data.bookings.get_mut(id)?;
        let first = !std::mem::replace(&mut booking.paid, true);
        let booking = booking.clone();
        if let Some(member) = booking.member.clone().filter(|_| first) {
            *data.points.entry(member).or_default() += price / 100;
        }
        Some(booking)
    }

    pub fn points(&self, member: &str) -> u32 {
        // Members begin with points that follow from their name, so that reads have something to say.
        let start = member.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)))
            % 50_000;
        start + self.data().points.get(member).copied().unwrap_or(0)
    }
}
