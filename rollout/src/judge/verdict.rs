//! What can the judge say, and what does it give as its reasons?

use std::fmt;

use serde::Serialize;

use crate::evidence::Arms;
use crate::interval::Interval;
use crate::kernel::Ratio;
use crate::plan::{Agreement, Design};

use super::{Command, Trip};

/// Where a rollout is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Written, not begun.
    Draft,
    /// The challenger is loaded and proved.
    Validating,
    /// It sees traffic, its answers are not returned.
    Shadow,
    /// It answers the share of the step of this index, from 0.
    Canary(usize),
    /// It has reached its last share, and the promotion is what is left.
    Baking,
}

/// The state of a rollout: the one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Evidence leads on.
    Running(Stage),
    /// A person stopped it here.
    Paused(Stage),
    /// The comparison is broken; a person decides.
    Halted(Stage),
    /// The time was over before anything was shown; a person decides.
    Inconclusive(Stage),
    /// The challenger is the champion. The end, though guardrails still watch it.
    Promoted,
    /// The challenger did harm. The end.
    RolledBack,
    /// The challenger is not worth a promotion. The end.
    Futile,
    /// A person ended it. The end.
    Aborted,
}

impl State {
    /// Whether nothing leads away from here.
    pub fn is_terminal(self) -> bool {
        self.stage().is_none()
    }

    /// The stage that it is in, or was stopped in.
    pub fn stage(self) -> Option<Stage> {
        match self {
            State::Running(stage) | State::Paused(stage) | State::Halted(stage) | State::Inconclusive(stage) => {
                Some(stage)
            }
            State::Promoted | State::RolledBack | State::Futile | State::Aborted => None,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Draft => f.write_str("draft"),
            Stage::Validating => f.write_str("validating"),
            Stage::Shadow => f.write_str("shadow"),
            Stage::Canary(step) => write!(f, "canary({})", step + 1),
            Stage::Baking => f.write_str("baking"),
        }
    }
}

impl fmt::Display for State {
    /// For people: steps count from 1, as in `paused(canary(2))`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Running(stage) => stage.fmt(f),
            State::Paused(stage) => write!(f, "paused({stage})"),
            State::Halted(stage) => write!(f, "halted({stage})"),
            State::Inconclusive(stage) => write!(f, "inconclusive({stage})"),
            State::Promoted => f.write_str("promoted"),
            State::RolledBack => f.write_str("rolled_back"),
            State::Futile => f.write_str("futile"),
            State::Aborted => f.write_str("aborted"),
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The challenger becomes the champion.
    Promote,
    /// All traffic back to the champion, or, after the promotion, to the previous one.
    RollBack,
    /// Nothing moves until a person has looked.
    Halt,
    /// It ends, the champion stays.
    Futile,
    /// The time is over; a person decides.
    Inconclusive,
    /// On to the next stage.
    Advance,
    /// What a person said is done.
    Obey,
    /// It goes on as it is.
    NotYet,
}

/// One entry of a rollout's record: what was decided, in which state that leaves it, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Counts from 1, one for each event.
    pub sequence: u64,
    /// The time that the judge was told, in milliseconds since 1970.
    pub time_ms: u64,
    /// What is to be done.
    pub decision: Decision,
    /// The state from here on.
    pub state: State,
    /// The challenger's share of the traffic from here on, in millionths.
    pub share: u32,
    /// Of a decision: what led to it. Of `not_yet`: what is waited for.
    pub reasons: Vec<Reason>,
}

/// A reason, with the figures behind it. E-values are given as natural logarithms: they may be larger than any number.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// What a guardrail reads.
    Guardrail(Reading),
    /// Slices whose guardrails are found by e-BH.
    Slices {
        /// What each of them reads.
        found: Vec<Reading>,
    },
    /// The frozen profile of the previous version is left behind.
    Regression {
        /// The guardrail.
        metric: String,
        /// ln of the e-CUSUM.
        ln_m: f64,
        /// It alarms from here on.
        threshold: f64,
    },
    /// Units do not come as they were dealt.
    SampleRatio {
        /// ln E.
        ln_e: f64,
        /// It alarms from here on.
        threshold: f64,
        /// Units by arm.
        units: Arms,
    },
    /// Labels do not arrive alike for both arms.
    LabelArrival {
        /// ln E.
        ln_e: f64,
        /// It alarms from here on.
        threshold: f64,
    },
    /// Something broke at once.
    Trip {
        /// What it was.
        trip: Trip,
    },
    /// What pairs of answers show.
    Comparison {
        /// Its metric.
        metric: String,
        /// What is asked.
        rule: Agreement,
        /// Pairs.
        n: u64,
        /// Their mean difference, 0 to 1.
        mean: f64,
        /// At most this.
        upper: f64,
        /// Blocks that were left out, since more than 5 % of their pairs were dropped.
        paused_blocks: u64,
        /// Whether what is asked is shown.
        passes: bool,
    },
    /// The answers fall elsewhere.
    Output(Shift),
    /// What the outcomes show.
    Primary(Quality),
    /// Pairs of answers are no evidence of quality here.
    PairsRefused {
        /// The outcome.
        metric: String,
        /// Why.
        why: String,
    },
    /// Too many pairs were dropped for a verdict on quality.
    Drops {
        /// Pairs that were sampled.
        sampled: u64,
        /// Those of them that were dropped.
        dropped: u64,
    },
    /// Not long enough, or too long.
    Time {
        /// So long it has been.
        elapsed_ms: u64,
        /// So long it must be, or may be at most.
        limit_ms: u64,
    },
    /// Too few units.
    Units {
        /// Units by arm.
        units: Arms,
        /// So many are needed.
        needed: u64,
    },
    /// A gate that is not passed.
    Gate {
        /// Its name.
        gate: String,
        /// Whether it was refused; otherwise nobody has answered.
        refused: bool,
    },
    /// The challenger could not be made ready.
    Invalid {
        /// Why not.
        fault: String,
    },
    /// A person said so.
    Person {
        /// Who.
        by: String,
        /// What.
        command: Command,
    },
}

/// What a guardrail reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Its metric.
    pub metric: String,
    /// ln E against "at most 1 + tolerance as often as the champion".
    pub ln_e: f64,
    /// It alarms from here on.
    pub threshold: f64,
    /// The always-valid p-value: of the largest E so far.
    pub p: f64,
    /// Events by arm.
    pub events: Arms,
    /// Units that could have been one, by arm.
    pub of: Arms,
    /// How much more often than the champion, within bounds.
    pub ratio: Ratio,
    /// To pass, the ratio is shown to be at most this.
    pub ratio_bound: f64,
    /// How often at most, by the challenger's own count.
    pub rate_upper: f64,
    /// Or the rate is shown to be at most this.
    pub floor: Option<f64>,
    /// Whether it passes.
    pub passes: bool,
}

/// What the outcomes show of challenger − champion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// The outcome.
    pub metric: String,
    /// How the arms were compared.
    pub design: Design,
    /// Units, or pairs.
    pub n: u64,
    /// The mean gain.
    pub gain: f64,
    /// Its bounds, each on its own; `None` where there are too few.
    pub interval: Option<Interval>,
    /// Rows where the champion alone, and where the challenger alone was right.
    pub discordant: Arms,
    /// ln E of the discordant pairs against "the challenger is not better".
    pub ln_e: Option<f64>,
    /// The threshold of that.
    pub threshold: f64,
    /// The gain must be shown to be above this.
    pub needed: f64,
    /// Whether it is.
    pub passes: bool,
    /// Whether a gain that would be worth it is excluded.
    pub is_futile: bool,
    /// Whether the challenger is shown to be worse; `None` where the plan rolls nobody back for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub harm: Option<Harm>,
}

/// Whether outcomes roll back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Harm {
    /// They do where the gain is shown to be below this.
    pub below: f64,
    /// The gain is at most this, as surely as a guardrail's alarm; `None` where there are too few, and of pairs.
    pub upper: Option<f64>,
    /// Whether it is shown.
    pub is_shown: bool,
}

/// How the challenger's answers fall beside the champion's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shift {
    /// ln E against "in each bin at most 1 + tolerance as often, and at least 1/(1 + tolerance)".
    pub ln_e: f64,
    /// It alarms from here on.
    pub threshold: f64,
    /// Units by bin, each by arm.
    pub bins: Vec<Arms>,
    /// The share of the answers that would have to fall elsewhere to make both alike: total variation, 0 to 1.
    pub distance: f64,
}
