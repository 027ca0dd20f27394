//! Which routes have series under their own names.
//!
//! Input: route ids, as they first count something. Output: the id, or `other` once there are as many as may be. Must not: be asked on the hot
//! path: whoever counts keeps what was found.

use super::ROUTES_NAMED_MAX;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The label of all routes without a name of their own.
pub const OTHER: &str = "other";

#[derive(Default)]
pub struct Names(Mutex<HashSet<Box<str>>>);

impl Names {
    /// The label of a route.
    pub fn of<'a>(&self, route: &'a str) -> &'a str {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if named.contains(route) {
            return route;
        }
        if named.len() >= ROUTES_NAMED_MAX {
            return OTHER;
        }
        named.insert(route.into());
        route
    }

    /// Its label is another's to have.
    pub fn forget(&self, route: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_have_names_as_may_and_a_place_that_is_given_back_is_anothers() {
        let names = Names::default();
        let ids: Vec<String> = (0..=ROUTES_NAMED_MAX).map(|number| format!("r{number}")).collect();
        assert!(ids[..ROUTES_NAMED_MAX].iter().all(|id| names.of(id) == id));
        assert_eq!(names.of(&ids[ROUTES_NAMED_MAX]), OTHER);
        assert_eq!(names.of("r0"), "r0", "whoever has a name keeps it");
        names.forget("r0");
        names.forget("unheard-of");
        assert_eq!(names.of(&ids[ROUTES_NAMED_MAX]), ids[ROUTES_NAMED_MAX]);
    }
}
