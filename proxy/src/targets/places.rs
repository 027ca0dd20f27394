//! How many copies a backend is being sent, and whether it comes to what waits for it.
//!
//! Input: copies that wait, begin and end, told by the shadow's thread. Output: one flag for the workers. Must not: be locked or waited for.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Copies under way to one backend at a time, unless it takes fewer connections than that.
const PLACES: u32 = 64;
/// Copies that may wait for a place at it.
const WAITING_MAX: u32 = 256;

/// Written by the shadow's thread alone, which is why no step here is one with the next.
#[derive(Debug)]
pub struct Places {
    max: u32,
    waiting: AtomicU32,
    under_way: AtomicU32,
    /// One has begun since it was last looked at.
    moves: AtomicBool,
    behind: AtomicBool,
}

impl Places {
    pub fn new(connections: Option<u32>) -> Places {
        let max = connections.unwrap_or(PLACES).clamp(1, PLACES);
        let (waiting, under_way) = Default::default();
        Places { max, waiting, under_way, moves: AtomicBool::new(false), behind: AtomicBool::new(false) }
    }

    /// What is kept for it now could only grow old: nobody comes for what waits, or too much does.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    /// Whether one more may wait, beside fewer than so many.
    pub fn wait(&self, most: u32) -> bool {
        let fits = self.waiting.load(Ordering::Relaxed) < most.min(WAITING_MAX);
        if fits {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.behind.store(true, Ordering::Relaxed);
        }
        fits
    }

    /// How many more may be under way, of so many at most.
    pub fn room(&self, most: u32) -> u32 {
        most.min(self.max).saturating_sub(self.under_way.load(Ordering::Relaxed))
    }

    /// Takes a place for one that waits.
    pub fn begin(&self, most: u32) -> bool {
        if self.room(most) == 0 {
            return false;
        }
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.moves.store(true, Ordering::Relaxed);
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.behind.store(false, Ordering::Relaxed);
        }
        true
    }

    pub fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Looked at after each step while something waits: all places that it may have are taken, and nobody has come.
    pub fn look(&self, most: u32) {
        if !self.moves.load(Ordering::Relaxed) && self.room(most) == 0 {
            self.behind.store(true, Ordering::Relaxed);
        }
    }

    pub fn begin_step(&self) {
        self.moves.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_behind_until_the_last_that_waits_has_a_place() {
        let places = Places::new(None);
        assert_eq!((0..PLACES + 2).filter(|_| places.wait(u32::MAX)).count(), PLACES as usize + 2);
        assert_eq!((0..PLACES + 2).filter(|_| places.begin(PLACES)).count(), PLACES as usize);
        places.look(PLACES);
        assert!(!places.is_behind(), "in this step some have begun");
        places.begin_step();
        places.look(PLACES);
        assert!(places.is_behind());
        places.end();
        assert!(places.begin(PLACES) && places.is_behind() && !places.begin(PLACES));
        places.end();
        assert!(places.begin(PLACES) && !places.is_behind());
    }

    #[test]
    fn one_with_a_place_is_not_behind() {
        let places = Places::new(Some(1_000));
        assert!(places.wait(u32::MAX) && places.wait(2) && places.begin(1) && !places.begin(1));
        places.begin_step();
        places.look(PLACES);
        assert!(!places.is_behind(), "others are in its way");
        places.look(1);
        assert!(places.is_behind(), "it may have no more");
    }

    #[test]
    fn what_waits_is_bounded_and_a_small_backend_has_few_places() {
        let places = Places::new(Some(4));
        assert_eq!((0..1_000).filter(|_| places.wait(u32::MAX)).count(), WAITING_MAX as usize);
        assert!(places.is_behind());
        assert_eq!((0..1_000).filter(|_| places.begin(PLACES)).count(), 4);
    }
}
