//! What does the judge see of the traffic?
//!
//! Blocks of counts, never events. A block is closed by time or by count, and whenever the share changes. Blocks of the
//! same stretch from several replicas merge into one, in any order and to the bit: everything in them is an integer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tiltyard_types::{Error, Result};

use crate::plan::MILLION;
use crate::sample::Sample;

/// A count for the champion and one for the challenger, in this order.
pub type Arms = [u64; 2];

/// First events of one metric in one block: who has more closes the block earlier.
pub const FIRSTS_MAX: usize = 1 << 16;

/// What was in force when something happened: the two arms' shares of the traffic, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The champion's.
    pub champion: u32,
    /// The challenger's.
    pub challenger: u32,
}

impl Share {
    /// The challenger's `millionths`, and the rest for the champion.
    pub fn of(millionths: u32) -> Share {
        Share { champion: MILLION.saturating_sub(millionths), challenger: millionths }
    }

    /// w: the chance that something of these two arms is the challenger's, 0 to 1.
    pub fn challengers(self) -> f64 {
        f64::from(self.challenger) / (f64::from(self.challenger) + f64::from(self.champion))
    }

    /// Whether both arms have some: only then does an event tell anything by whose it is.
    pub fn is_split(self) -> bool {
        self.champion > 0 && self.challenger > 0
    }
}

/// A sum of observations in units of 2⁻⁴⁸: integers add up to the same in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sum(i128);

impl Sum {
    const UNIT: f64 = (1u64 << 48) as f64;

    /// One observation, to 2⁻⁴⁹; NaN counts as nothing. Observations of more than 10²³ are cut.
    pub fn of(x: f64) -> Sum {
        Sum((x * Sum::UNIT).round() as i128)
    }

    /// What it adds up to.
    pub fn value(self) -> f64 {
        self.0 as f64 / Sum::UNIT
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Sum) -> Sum {
        Sum(self.0.saturating_add(other.0))
    }
}

impl From<Sum> for String {
    fn from(sum: Sum) -> String {
        sum.0.to_string()
    }
}

impl TryFrom<String> for Sum {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Sum, String> {
        text.parse().map(Sum).map_err(|_| format!("{text:?} is not a sum: expected an integer in units of 2^-48"))
    }
}

/// n, Σx and Σx² of some observations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// How many.
    pub n: u64,
    /// Σx.
    pub x: Sum,
    /// Σx².
    pub xx: Sum,
}

impl Moments {
    /// Takes in `x`.
    pub fn add(&mut self, x: f64) {
        *self = self.plus(Moments { n: 1, x: Sum::of(x), xx: Sum::of(x * x) });
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Moments) -> Moments {
        Moments { n: self.n + other.n, x: self.x.plus(other.x), xx: self.xx.plus(other.xx) }
    }
}

/// Outcomes y of some units, each with a covariate z that was known before: n, Σy, Σy², Σz, Σz², Σyz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcomes {
    /// How many.
    pub n: u64,
    /// Σy.
    pub y: Sum,
    /// Σy².
    pub yy: Sum,
    /// Σz.
    #[serde(default)]
    pub z: Sum,
    /// Σz².
    #[serde(default)]
    pub zz: Sum,
    /// Σyz.
    #[serde(default)]
    pub yz: Sum,
}

impl Outcomes {
    /// Takes in an outcome `y` and its covariate `z`; 0 where there is none.
    pub fn add(&mut self, y: f64, z: f64) {
        let sums = [y, y * y, z, z * z, y * z].map(Sum::of);
        let [y, yy, z, zz, yz] = sums;
        *self = self.plus(Outcomes { n: 1, y, yy, z, zz, yz });
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Outcomes) -> Outcomes {
        Outcomes {
            n: self.n + other.n,
            y: self.y.plus(other.y),
            yy: self.yy.plus(other.yy),
            z: self.z.plus(other.z),
            zz: self.zz.plus(other.zz),
            yz: self.yz.plus(other.yz),
        }
    }
}

/// Events of one metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Events {
    /// Each request is on its own: every event counts.
    Every {
        /// Requests that could have been one.
        of: Arms,
        /// Events.
        events: Arms,
    },
    /// Requests stick to arms by key: the first event of each key counts, and the judge knows which keys had theirs.
    Firsts {
        /// Keys that came to the arm for the first time.
        of: Arms,
        /// Hashes of the keys that had an event, sorted, each once.
        keys: [Vec<u64>; 2],
    },
    /// Runs, in groups of like condition: who was exposed stands in for the share. Sorted.
    Runs(Vec<Group>),
}

impl Events {
    fn merge(self, other: Events) -> Option<Events> {
        match (self, other) {
            (Events::Every { of: a, events: x }, Events::Every { of: b, events: y }) => {
                Some(Events::Every { of: plus(a, b), events: plus(x, y) })
            }
            (Events::Firsts { of: a, keys: [x0, x1] }, Events::Firsts { of: b, keys: [y0, y1] }) => {
                Some(Events::Firsts { of: plus(a, b), keys: [union(x0, y0), union(x1, y1)] })
            }
            (Events::Runs(a), Events::Runs(b)) => Some(Events::Runs(merged(a, b))),
            (Events::Every { .. } | Events::Firsts { .. } | Events::Runs(_), _) => None,
        }
    }
}

/// Bins of one output.
pub const BINS_MAX: usize = 1 << 10;

/// Groups of one metric in one block.
pub const GROUPS_MAX: usize = 1 << 12;

/// Runs of like condition (the same batch size, as long idle before), or of any, where that makes no difference: how many each
/// arm had, and how many of them the event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Runs.
    pub of: Arms,
    /// Those with the event.
    pub events: Arms,
}

impl Group {
    /// All of them as one.
    pub(crate) fn sum(groups: &[Group]) -> Group {
        let plus = |a: Group, b: &Group| Group { of: plus(a.of, b.of), events: plus(a.events, b.events) };
        groups.iter().fold(Group::default(), plus)
    }
}

/// What pairs of champion's and shadow's answers to the same rows show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pairs {
    /// Requests that were sampled for the shadow.
    pub sampled: u64,
    /// Those of them that it never saw.
    pub dropped: u64,
    /// Values from 0 (alike) to 1, by metric.
    pub values: BTreeMap<String, Moments>,
}

impl Pairs {
    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: Pairs) -> Pairs {
        for (metric, moments) in other.values {
            let held = self.values.entry(metric).or_default();
            *held = held.plus(moments);
        }
        Pairs { sampled: self.sampled + other.sampled, dropped: self.dropped + other.dropped, ..self }
    }
}

/// Units of one share whose labels are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matured {
    /// What was in force when they were answered.
    pub share: Share,
    /// Their outcomes, by arm.
    pub outcomes: [Outcomes; 2],
    /// How many of them had got a label of their own.
    pub arrived: Arms,
}

/// What labels say of one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Labels {
    /// Live arms, each row answered by one; by share, each share once, sorted.
    pub matured: Vec<Matured>,
    /// Champion and shadow on the same rows: (d + 1)/2 for d = loss of the champion − loss of the challenger in [−1, 1].
    pub paired: Moments,
    /// Rows where one of these two alone was right.
    pub discordant: Arms,
    /// Whether every loss is 0 or 1, so that the discordant pairs say all.
    pub is_binary: bool,
}

/// The evidence of a stretch of traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Counts from 1 without a gap.
    pub sequence: u64,
    /// When it was closed, in milliseconds since 1970.
    pub time_ms: u64,
    /// What was in force all the while.
    pub share: Share,
    /// Units that came for the first time: keys, or requests where each is on its own.
    #[serde(default)]
    pub units: Arms,
    /// By metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<String, Events>,
    /// The same by cause, by metric: a run that fails is one event, whoever was in it, and so is a row of runs that one
    /// disturbance slowed. In each group who was exposed stands in for the share. Sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub causes: BTreeMap<String, Vec<Group>>,
    /// First outputs by frozen bin, by metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bins: BTreeMap<String, Vec<Arms>>,
    /// Comparisons with a shadow.
    #[serde(default)]
    pub pairs: Pairs,
    /// By metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Labels>,
}

impl Block {
    /// An empty one.
    pub fn new(sequence: u64, time_ms: u64, share: Share) -> Block {
        Block {
            sequence,
            time_ms,
            share,
            units: [0; 2],
            events: BTreeMap::new(),
            causes: BTreeMap::new(),
            bins: BTreeMap::new(),
            pairs: Pairs::default(),
            labels: BTreeMap::new(),
        }
    }

    /// Two replicas' blocks of one stretch as one. They must have the same sequence, share, kinds of events and numbers
    /// of bins.
    pub fn merge(mut self, other: Block) -> Result<Block> {
        if (self.sequence, self.share) != (other.sequence, other.share) {
            return Err(Error::invalid(format!(
                "block {} at {:?} and block {} at {:?} are not of one stretch: expected the same sequence and share",
                self.sequence, self.share, other.sequence, other.share
            )));
        }
        self.time_ms = self.time_ms.max(other.time_ms);
        self.units = plus(self.units, other.units);
        merge_maps(&mut self.events, other.events, Events::merge)?;
        merge_maps(&mut self.causes, other.causes, |a, b| Some(merged(a, b)))?;
        merge_maps(&mut self.bins, other.bins, |a, b| {
            (a.len() == b.len()).then(|| a.into_iter().zip(b).map(|(a, b)| plus(a, b)).collect())
        })?;
        self.pairs = self.pairs.plus(other.pairs);
        merge_maps(&mut self.labels, other.labels, |a, b| Some(a.merge(b)))?;
        Ok(self)
    }

    /// Whether a judge can take it in.
    pub fn validate(&self) -> Result<()> {
        for (metric, events) in &self.events {
            if let Events::Firsts { keys, .. } = events {
                let count = keys.iter().map(Vec::len).sum::<usize>();
                if count > FIRSTS_MAX || !keys.iter().all(|keys| keys.is_sorted_by(|a, b| a < b)) {
                    return Err(Error::invalid(format!(
                        "block {}, {metric}: expected at most {FIRSTS_MAX} keys, sorted and each once; there are {count}",
                        self.sequence
                    )));
                }
            }
        }
        for (metric, bins) in &self.bins {
            if bins.len() > BINS_MAX {
                let count = bins.len();
                return Err(Error::invalid(format!(
                    "block {}, bins of {metric}: expected at most {BINS_MAX}; there are {count}",
                    self.sequence
                )));
            }
        }
        let runs = self.events.iter().filter_map(|(metric, events)| match events {
            Events::Runs(groups) => Some(("runs", metric, groups)),
            Events::Every { .. } | Events::Firsts { .. } => None,
        });
        let causes = self.causes.iter().map(|(metric, groups)| ("causes", metric, groups));
        for (what, metric, groups) in causes.chain(runs) {
            let is_good = |group: &Group| (0..2).all(|arm| group.events[arm] <= group.of[arm]);
            if groups.len() > GROUPS_MAX || !groups.iter().all(is_good) || !groups.is_sorted() {
                return Err(Error::invalid(format!(
                    "block {}, {what} of {metric}: expected at most {GROUPS_MAX} groups, sorted, with no more events than runs",
                    self.sequence
                )));
            }
        }
        Ok(())
    }
}

impl Labels {
    /// Takes in a pair, or the mean of some that count as one: d = loss of the champion − loss of the challenger, −1 to 1.
    pub fn add_pair(&mut self, d: f64) {
        self.paired.add((d + 1.0) / 2.0);
        self.discordant = plus(self.discordant, [u64::from(d == -1.0), u64::from(d == 1.0)]);
        self.is_binary &= [-1.0, 0.0, 1.0].contains(&d);
    }

    /// Both together.
    #[must_use]
    pub fn merge(self, other: Labels) -> Labels {
        let mut by_share = BTreeMap::new();
        for matured in self.matured.into_iter().chain(other.matured) {
            let held = by_share.entry(matured.share).or_insert(Matured {
                share: matured.share,
                outcomes: [Outcomes::default(); 2],
                arrived: [0; 2],
            });
            held.outcomes = std::array::from_fn(|arm| held.outcomes[arm].plus(matured.outcomes[arm]));
            held.arrived = plus(held.arrived, matured.arrived);
        }
        Labels {
            matured: by_share.into_values().collect(),
            paired: self.paired.plus(other.paired),
            discordant: plus(self.discordant, other.discordant),
            is_binary: self.is_binary && other.is_binary,
        }
    }
}

fn merge_maps<T>(
    into: &mut BTreeMap<String, T>,
    from: BTreeMap<String, T>,
    merge: impl Fn(T, T) -> Option<T>,
) -> Result<()> {
    for (metric, theirs) in from {
        let merged = match into.remove(&metric) {
            None => theirs,
            Some(ours) => merge(ours, theirs)
                .ok_or_else(|| Error::invalid(format!("{metric} is not counted the same way in both blocks")))?,
        };
        into.insert(metric, merged);
    }
    Ok(())
}

/// Both together.
pub(crate) fn plus(a: Arms, b: Arms) -> Arms {
    [a[0] + b[0], a[1] + b[1]]
}

/// The groups of both, sorted.
fn merged(mut a: Vec<Group>, b: Vec<Group>) -> Vec<Group> {
    a.extend(b);
    a.sort_unstable();
    a
}

/// What is in one of two sorted lists, sorted, each once.
fn union(mut a: Vec<u64>, b: Vec<u64>) -> Vec<u64> {
    a.extend(b);
    a.sort_unstable();
    a.dedup();
    a
}

/// Which keys had their first event: exact up to a bound, and beyond it of a sample of the keys, ever smaller.
#[derive(Clone, Debug)]
pub struct Seen(Sample<()>);

impl Seen {
    /// Room for `keys_max` keys of 8 bytes.
    pub fn new(keys_max: usize) -> Seen {
        Seen(Sample::new(keys_max))
    }

    /// Whether `key` counts: it is in the sample and was not there before.
    pub fn is_first(&mut self, key: u64) -> bool {
        self.0.takes(key) && self.0.get(key).is_none() && self.0.insert(key, ())
    }

    /// The share of the keys that count.
    pub fn sampling(&self) -> f64 {
        self.0.sampling()
    }
}

#[cfg(test)]
mod tests;
