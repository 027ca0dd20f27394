//! What the attribution header says, by route and decision.
//!
//! Input: a route, a decision, the revision. Output: `route=..., side=..., reason=..., revision=...`. Must not: be put together twice: each is made with
//! the first answer that carries it, and kept as long as the rules.

use banyan_routes::decide::{Reason, SLOTS, slot};
use banyan_routes::ids::{Revision, Side};
use banyan_routes::table::Route;
use http::HeaderValue;
use std::sync::OnceLock;

type OfRoute = Box<[OnceLock<Option<HeaderValue>>; SLOTS]>;

/// In the order of the routes; what nobody has asked for takes two words.
pub struct Attributions(Box<[OnceLock<OfRoute>]>);

impl Attributions {
    pub fn new(routes: usize) -> Attributions {
        Attributions((0..routes).map(|_| OnceLock::new()).collect())
    }

    /// `decision` is none where no backend was chosen.
    pub fn of(
        &self,
        index: u32,
        route: &Route,
        decision: Option<(Side, Reason)>,
        revision: &Revision,
    ) -> Option<HeaderValue> {
        let of_route = self.0.get(index as usize)?.get_or_init(Box::default);
        of_route[slot(decision)].get_or_init(|| text(route, decision, revision)).clone()
    }
}

fn text(route: &Route, decision: Option<(Side, Reason)>, revision: &Revision) -> Option<HeaderValue> {
    let (side, reason) = decision.map_or(("none", "none"), |(side, reason)| (side.as_str(), reason.as_str()));
    let text = ["route=", &route.id, ", side=", side, ", reason=", reason, ", revision=", revision.as_str()]
        .concat();
    HeaderValue::try_from(text).ok()
}
