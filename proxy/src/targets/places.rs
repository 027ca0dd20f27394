//! How many copies a backend is being sent, and whether it comes to what waits for it.
//!
//! Input: copies that wait, begin and end, told by the shadow's thread. Output: one flag for the workers. Must not: be locked or waited for.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Copies under way to one backend at a time.
pub const PLACES: u32 = 64;

/// Written by the shadow's thread alone, which is why no step here is one with the next.
#[derive(Debug, Default)]
pub struct Places {
    waiting: AtomicU32,
    under_way: AtomicU32,
    behind: AtomicBool,
}

impl Places {
    /// What is kept for it now could only grow old: nobody comes for what waits.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    pub fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a place for one that waits, while there is one.
    pub fn begin(&self) -> bool {
        if self.under_way.load(Ordering::Relaxed) >= PLACES {
            return false;
        }
        self.under_way.fetch_add(1, Ordering::Relaxed);
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.behind.store(false, Ordering::Relaxed);
        }
        true
    }

    pub fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// For a whole step nobody has come for what waits here.
    pub fn fall_behind(&self) {
        self.behind.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_behind_until_the_last_that_waits_has_a_place() {
        let places = Places::default();
        for _ in 0..PLACES + 2 {
            places.wait();
        }
        let begun = (0..PLACES + 2).filter(|_| places.begin()).count();
        assert_eq!(begun, PLACES as usize);
        places.fall_behind();
        places.end();
        assert!(places.begin() && places.is_behind() && !places.begin());
        places.end();
        assert!(places.begin() && !places.is_behind());
    }
}
