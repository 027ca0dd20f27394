//! The life of a route: what people and the controller may change beside the rules, and what forbids it.
//!
//! Input: a route, its state, a change, who wants it and when. Output: the state after it, or why not. Must not: read a clock, or store
//! anything: time and freezes come in as arguments.

use crate::ids::{PPM, SharePpm};
use crate::table::{Route, RouteTable, Stage};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is known of one route beside its rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteState {
    /// Of stage `ramp`; a canary's is in its rule.
    pub share_ppm: u32,
    /// When the share last changed, or a hold was lifted.
    pub since_unix_s: u64,
    /// The share stays where it is until a person lifts this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Nobody is sent to serverless but by an override or an `allow`, whatever the rule says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
    /// Share of a step -> who has approved it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub approvals: BTreeMap<u32, BTreeSet<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub actor: String,
    pub reason: String,
    pub at_unix_s: u64,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// To the next step of the ramp.
    Promote,
    Hold,
    /// Lifts a hold, and a rollback with it.
    Resume,
    Share(SharePpm),
    /// Of the next step that needs it.
    Approve,
    Rollback,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Promote => "promote",
            Change::Hold => "hold",
            Change::Resume => "resume",
            Change::Share(_) => "share",
            Change::Approve => "approve",
            Change::Rollback => "rollback",
        }
    }
}

/// Who, why, when, and what else is known.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub actor: &'a str,
    pub reason: &'a str,
    pub at_unix_s: u64,
    /// The name of a freeze that is on.
    pub frozen: Option<&'a str>,
    /// What the route's legacy backend would have to take back, and can.
    pub headroom: Option<Headroom>,
}

/// Requests a second: of all routes of a backend, on both sides, and what it is said to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    pub needs_rps: u64,
    pub capacity_rps: u64,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The route's stage has no share that could be changed.
    Stage {
        stage: &'static str,
        needs: &'static str,
    },
    Held {
        by: String,
        reason: String,
    },
    RolledBack,
    Frozen {
        name: String,
    },
    Approvals {
        share_ppm: u32,
        have: usize,
        need: u8,
    },
    /// The last step is reached; what comes next is another stage, in the rules.
    LastStep,
    /// More than the rules approve.
    OverSteps {
        last: SharePpm,
    },
    /// It is so already.
    Already,
    NotHeld,
    NothingToApprove,
    PointOfNoReturn,
    /// Legacy could not take back what serverless has now.
    Headroom(Headroom),
    /// A route that has to be at least as far is not.
    After {
        route: String,
    },
}

impl Refused {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Refused::Stage { .. } => "stage",
            Refused::Held { .. } => "held",
            Refused::RolledBack => "rolled_back",
            Refused::Frozen { .. } => "frozen",
            Refused::Approvals { .. } => "approvals",
            Refused::LastStep => "last_step",
            Refused::OverSteps { .. } => "over_steps",
            Refused::Already => "already",
            Refused::NotHeld => "not_held",
            Refused::NothingToApprove => "nothing_to_approve",
            Refused::PointOfNoReturn => "point_of_no_return",
            Refused::Headroom(_) => "headroom",
            Refused::After { .. } => "after",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Stage { stage, needs } => write!(f, "the route is in stage {stage}; expected {needs}"),
            Refused::Held { by, reason } => write!(f, "held by {by}: {reason}; `resume` lifts it"),
            Refused::RolledBack => f.write_str("rolled back; `resume` lifts it"),
            Refused::Frozen { name } => write!(f, "the freeze `{name}` is on; shares may be lowered only"),
            Refused::Approvals { share_ppm, have, need } => {
                let share = SharePpm::new(*share_ppm).unwrap_or(SharePpm::ALL);
                write!(f, "the step at {share} has {have} of {need} approvals")
            }
            Refused::LastStep => f.write_str("the last step is reached; the next stage is set in the rules"),
            Refused::OverSteps { last } => write!(f, "the last step of the rules is {last}"),
            Refused::Already => f.write_str("it is so already"),
            Refused::NotHeld => f.write_str("it is neither held nor rolled back"),
            Refused::NothingToApprove => f.write_str("no step that is left needs an approval"),
            Refused::PointOfNoReturn => {
                f.write_str("the rule says `point_of_no_return`: there is no way back")
            }
            Refused::Headroom(Headroom { needs_rps, capacity_rps }) => write!(
                f,
                "a way back would bring legacy {needs_rps} requests a second; its `capacity_rps` is {capacity_rps}"
            ),
            Refused::After { route } => write!(f, "`{route}` has to be at least as far, and is not"),
        }
    }
}

impl RouteState {
    pub fn share(&self) -> SharePpm {
        SharePpm::new(self.share_ppm).unwrap_or(SharePpm::ALL)
    }

    /// The part of the keys that goes to serverless now.
    pub fn effective(&self, route: &Route) -> SharePpm {
        match route.stage {
            _ if self.rolled_back => SharePpm::ZERO,
            // The last keys stay, so that what ails both sides is not blamed on one.
            Stage::Ramp => {
                let Some(rule) = &route.ramp else { return SharePpm::ZERO };
                // Never more than this replica's rules approve, whatever another one's did.
                let last = rule.steps.last().map_or(SharePpm::ZERO, |step| step.at);
                let most = SharePpm::new(PPM - rule.control.get()).unwrap_or(SharePpm::ALL);
                self.share().min(last).min(most)
            }
            Stage::Legacy | Stage::Shadow | Stage::Canary(_) | Stage::Serverless | Stage::Retired => {
                route.stage.share()
            }
        }
    }

    /// The state after a change.
    pub fn after(
        &self,
        change: Change,
        route: &Route,
        table: &RouteTable,
        asked: &Asked<'_>,
    ) -> Result<RouteState, Refused> {
        let mut next = self.clone();
        match change {
            Change::Promote => {
                let step = self.next_step(route)?;
                self.may_raise(route, table, asked, step.at)?;
                next.share_ppm = step.at.get();
            }
            Change::Share(share) => {
                ramp(route)?;
                if share == self.share() {
                    return Err(Refused::Already);
                }
                if share > self.share() {
                    let last = ramp(route)?.steps.last().map_or(SharePpm::ZERO, |step| step.at);
                    if share > last {
                        return Err(Refused::OverSteps { last });
                    }
                    self.may_raise(route, table, asked, share)?;
                }
                next.share_ppm = share.get();
            }
            Change::Hold => {
                moving(route)?;
                if self.hold.is_some() {
                    return Err(Refused::Already);
                }
                next.hold = Some(Hold::by(asked));
            }
            Change::Resume => {
                if self.hold.is_none() && !self.rolled_back {
                    return Err(Refused::NotHeld);
                }
                next.hold = None;
                next.rolled_back = false;
            }
            Change::Approve => {
                let rule = ramp(route)?;
                let step = rule.steps.iter().find(|step| {
                    step.at > self.share() && usize::from(step.approve) > self.approved(step.at)
                });
                let step = step.ok_or(Refused::NothingToApprove)?;
                let new = next.approvals.entry(step.at.get()).or_default().insert(asked.actor.to_owned());
                if !new {
                    return Err(Refused::Already);
                }
            }
            Change::Rollback => {
                moving(route)?;
                if route.point_of_no_return {
                    return Err(Refused::PointOfNoReturn);
                }
                if self.rolled_back {
                    return Err(Refused::Already);
                }
                // What was approved was approved for the way up that has just ended.
                next = RouteState { rolled_back: true, hold: Some(Hold::by(asked)), ..RouteState::default() };
            }
        }
        if next.share_ppm != self.share_ppm || change == Change::Resume || change == Change::Rollback {
            next.since_unix_s = asked.at_unix_s;
        }
        Ok(next)
    }

    /// Where the next step of its ramp leads.
    pub fn next_share(&self, route: &Route) -> Option<SharePpm> {
        self.next_step(route).ok().map(|step| step.at)
    }

    fn next_step<'a>(&self, route: &'a Route) -> Result<&'a crate::table::RampStep, Refused> {
        ramp(route)?.steps.iter().find(|step| step.at > self.share()).ok_or(Refused::LastStep)
    }

    fn approved(&self, share: SharePpm) -> usize {
        self.approvals.get(&share.get()).map_or(0, BTreeSet::len)
    }

    /// A raise needs all of this; lowering never does.
    fn may_raise(
        &self,
        route: &Route,
        table: &RouteTable,
        asked: &Asked<'_>,
        to: SharePpm,
    ) -> Result<(), Refused> {
        let rule = ramp(route)?;
        if self.rolled_back {
            return Err(Refused::RolledBack);
        }
        if let Some(hold) = &self.hold {
            return Err(Refused::Held { by: hold.actor.clone(), reason: hold.reason.clone() });
        }
        if let Some(name) = asked.frozen {
            return Err(Refused::Frozen { name: name.to_owned() });
        }
        if let Some(headroom) = asked.headroom.filter(|it| it.needs_rps > it.capacity_rps) {
            return Err(Refused::Headroom(headroom));
        }
        let rank = |stage: Stage| Stage::NAMES.iter().position(|name| *name == stage.as_str());
        let behind =
            |id: &str| table.position(id).is_some_and(|at| rank(table.route(at).stage) < rank(route.stage));
        if let Some(id) = route.after.iter().find(|id| behind(id)) {
            return Err(Refused::After { route: id.to_string() });
        }
        for step in rule.steps.iter().filter(|step| step.at > self.share() && step.at <= to) {
            let have = self.approved(step.at);
            if have < usize::from(step.approve) {
                return Err(Refused::Approvals { share_ppm: step.at.get(), have, need: step.approve });
            }
        }
        Ok(())
    }
}

impl Hold {
    fn by(asked: &Asked<'_>) -> Hold {
        Hold { actor: asked.actor.to_owned(), reason: asked.reason.to_owned(), at_unix_s: asked.at_unix_s }
    }
}

fn ramp(route: &Route) -> Result<&crate::table::RampRule, Refused> {
    let wrong = Refused::Stage { stage: route.stage.as_str(), needs: "ramp" };
    route.ramp.as_deref().filter(|_| route.stage == Stage::Ramp).ok_or(wrong)
}

/// Stages in which some are sent to serverless, and need not be.
fn moving(route: &Route) -> Result<(), Refused> {
    match route.stage {
        Stage::Canary(_) | Stage::Ramp | Stage::Serverless => Ok(()),
        Stage::Legacy | Stage::Shadow | Stage::Retired => {
            Err(Refused::Stage { stage: route.stage.as_str(), needs: "canary, ramp or serverless" })
        }
    }
}
