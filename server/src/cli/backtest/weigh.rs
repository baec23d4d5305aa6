//! What do the labels say of the two versions, over all rows and in each slice?
//!
//! Rows become blocks of evidence, as pairs of a shadow would, and the judge of rollouts reads them. Nothing is decided here
//! but what its figures mean without any live traffic: [`Verdict`].

use std::collections::BTreeMap;

use serde::Serialize;
use tiltyard_rollout::cohort::design;
use tiltyard_rollout::evidence::{Arms, Block, Labels, Moments, Share};
use tiltyard_rollout::interval::Interval;
use tiltyard_rollout::judge::{Event, Judge};
use tiltyard_rollout::kernel::e_bh;
use tiltyard_rollout::plan::{Arm, Design, Gain, KeySource, MILLION, Missing, Plan, Policy, Primary, Role, Step};
use tiltyard_rollout::preview::{bounded_labels, paired_labels};

use super::options::Options;

/// Labels in a block: few, since bounds are wider for every label that a block has more (docs/statistics.md, SIM-9).
const BLOCK_LABELS: u64 = 10;

/// Labels between two looks at whether it is decided yet.
const LOOK_LABELS: u64 = 200;

/// Values of one slice column at most.
pub(super) const SLICE_VALUES_MAX: usize = 100;

/// What is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The challenger is better, or not worse by more than the margin.
    Promote,
    /// It is worse, by more than the margin.
    Worse,
    /// Neither is shown.
    NotEnough,
    /// It would be promoted, but a slice is worse: a person decides.
    Halted,
    /// Pairs say nothing of quality, since the label depends on the decision.
    Refused,
}

/// What one row came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Row {
    /// Champion's and challenger's, 0 to 1.
    pub(super) losses: [f64; 2],
    /// Whether each answered with what is no number.
    pub(super) no_answer: [bool; 2],
    /// How far apart the two answers are, 0 to 1.
    pub(super) distance: f64,
}

/// The rows of one group, counted and judged.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    judge: Judge,
    margin: f64,
    /// The next block.
    labels: Labels,
    is_binary: bool,
    /// (d + 1)/2 of all rows.
    paired: Moments,
    /// Rows that count.
    pub(super) n: u64,
    /// The losses' sums.
    losses: [Moments; 2],
    pub(super) no_answer: Arms,
    /// Rows whose loss is a whole one, by version.
    pub(super) whole: Arms,
    /// Rows on which the two differ at all.
    pub(super) differ: u64,
    distance: Moments,
    /// What was decided first, and after how many labels.
    pub(super) decided: Option<(Verdict, u64)>,
}

impl Scale {
    /// Nothing yet, to be judged as `plan` says.
    pub(super) fn new(plan: &Plan, is_binary: bool) -> Result<Scale, String> {
        Ok(Scale {
            judge: Judge::new(plan.clone()).map_err(|error| error.to_string())?,
            margin: plan.policy.primary.as_ref().and_then(|primary| primary.margin).unwrap_or(0.0),
            labels: Labels { is_binary, ..Labels::default() },
            is_binary,
            paired: Moments::default(),
            n: 0,
            losses: [Moments::default(); 2],
            no_answer: [0; 2],
            whole: [0; 2],
            differ: 0,
            distance: Moments::default(),
            decided: None,
        })
    }

    /// Takes in a row.
    pub(super) fn add(&mut self, row: Row) -> Result<(), String> {
        let [champion, challenger] = row.losses;
        let x = (champion - challenger + 1.0) / 2.0;
        self.n += 1;
        self.paired.add(x);
        self.labels.paired.add(x);
        if self.is_binary {
            self.labels.discordant[0] += u64::from(champion < challenger);
            self.labels.discordant[1] += u64::from(challenger < champion);
        }
        for side in 0..2 {
            self.losses[side].add(row.losses[side]);
            self.no_answer[side] += u64::from(row.no_answer[side]);
            self.whole[side] += u64::from(row.losses[side] >= 1.0);
        }
        self.differ += u64::from(row.distance > 0.0);
        self.distance.add(row.distance);
        if self.labels.paired.n >= BLOCK_LABELS {
            self.close_block()?;
            if self.decided.is_none() && self.n.is_multiple_of(LOOK_LABELS) {
                self.note_decision();
            }
        }
        Ok(())
    }

    /// Hands over what is left. To be called once all rows are in.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        if self.labels.paired.n > 0 {
            self.close_block()?;
        }
        if self.decided.is_none() {
            self.note_decision();
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), String> {
        let metric = self.judge.plan().policy.primary.as_ref().map(|primary| primary.metric.clone());
        let empty = Labels { is_binary: self.is_binary, ..Labels::default() };
        let mut block = Block::new(self.judge.blocks() + 1, 0, Share::of(0));
        block.labels.insert(metric.unwrap_or_default(), std::mem::replace(&mut self.labels, empty));
        self.judge.feed(&Event::Block(block)).map(|_| ()).map_err(|error| error.to_string())
    }

    fn note_decision(&mut self) {
        let verdict = self.verdict();
        if verdict != Verdict::NotEnough {
            self.decided = Some((verdict, self.n));
        }
    }

    /// What the rows show, slices aside.
    pub(super) fn verdict(&self) -> Verdict {
        if self.refusal().is_some() {
            return Verdict::Refused;
        }
        let (Some(quality), Some(paired)) = (self.judge.quality(), self.judge.paired()) else {
            return Verdict::NotEnough;
        };
        // With a margin it is worse where it is worse by more than that.
        match (quality.passes, paired.ln_e_below(-self.margin) >= quality.threshold) {
            (true, _) => Verdict::Promote,
            (false, true) => Verdict::Worse,
            (false, false) => Verdict::NotEnough,
        }
    }

    /// Why pairs say nothing here, where they do not.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        design(self.judge.plan().policy.primary.as_ref()?).1
    }

    /// The mean loss of champion and challenger; 0 of no rows.
    pub(super) fn mean_losses(&self) -> [f64; 2] {
        self.losses.map(|moments| moments.x.value() / moments.n.max(1) as f64)
    }

    /// The mean distance between the two answers.
    pub(super) fn mean_distance(&self) -> f64 {
        self.distance.x.value() / self.distance.n.max(1) as f64
    }

    /// The mean gain of the challenger.
    pub(super) fn gain(&self) -> f64 {
        self.judge.paired().map_or(0.0, |paired| paired.gain())
    }

    /// Its bounds, each missed with a chance of at most alpha.
    pub(super) fn interval(&self) -> Option<Interval> {
        self.judge.paired().and_then(|paired| paired.interval())
    }

    /// Rows where the champion alone, and where the challenger alone was right.
    pub(super) fn discordant(&self) -> Arms {
        self.judge.paired().map_or([0; 2], |paired| paired.discordant())
    }

    /// ln E against "it is not better than by −margin", and against "it is not worse than by that".
    pub(super) fn ln_e(&self) -> [f64; 2] {
        let gain = -self.margin;
        self.judge.paired().map_or([0.0; 2], |paired| [paired.ln_e_above(gain), paired.ln_e_below(gain)])
    }

    /// How many labels it takes, in the median, until somebody who looks now and then sees a verdict, if what was seen so far
    /// is how it is. `None`: more than can be told.
    pub(super) fn labels_needed(&self) -> Option<u64> {
        let (alpha, gain) = (self.judge.plan().policy.alpha_primary, self.gain());
        if self.is_binary && self.margin == 0.0 {
            let discordant: u64 = self.discordant().iter().sum();
            let disagreement = discordant as f64 / self.n.max(1) as f64;
            return (gain != 0.0).then(|| paired_labels(gain.abs(), disagreement, alpha, LOOK_LABELS))?;
        }
        let (n, mean) = (self.paired.n.max(1) as f64, (gain + 1.0) / 2.0);
        let sd = 2.0 * (self.paired.xx.value() / n - mean * mean).max(0.0).sqrt();
        match gain > -self.margin {
            true => bounded_labels(gain, sd, -self.margin, alpha, BLOCK_LABELS),
            false => bounded_labels(-gain, sd, self.margin, alpha, BLOCK_LABELS),
        }
    }
}

/// The judge's plan: a shadow whose pairs decide.
pub(super) fn plan(options: &Options, versions: [(String, u64); 2]) -> Plan {
    let [champion, challenger] = versions;
    let arm = |name: &str, (model, version): (String, u64), role| Arm {
        name: name.into(),
        model,
        version,
        digest: None,
        role,
    };
    let endpoint = champion.0.clone();
    let primary = Primary {
        metric: options.label.clone(),
        design: Design::PairedShadow,
        gain: Gain::default(),
        output: None,
        threshold: None,
        scale: None,
        label_depends_on_decision: options.depends_on_decision,
        horizon_ms: options.maturity.as_ref().map_or(0, |maturity| maturity.horizon_ms),
        missing: Missing::Exclude,
        margin: options.margin,
        least_gain: None,
        harm: None,
        planned_units: LOOK_LABELS,
    };
    let policy = Policy { alpha_primary: options.alpha, primary: Some(primary), ..Policy::default() };
    Plan {
        endpoint,
        revision: 1,
        arms: vec![
            arm("champion", champion, Role::Champion),
            arm("challenger", challenger, Role::Challenger { weight: 0, final_weight: MILLION }),
        ],
        key: KeySource::PerRequest,
        salt: "backtest".into(),
        headers: Vec::new(),
        steps: vec![Step { share: MILLION, min_time_ms: 0, min_units: 0, gates: Vec::new() }],
        policy,
        watched: false,
    }
}

/// All rows, and those of each slice.
#[derive(Clone, Debug)]
pub(super) struct Weighed {
    pub(super) all: Scale,
    /// By slice column, then by its value.
    pub(super) slices: Vec<(String, BTreeMap<String, Scale>)>,
    plan: Plan,
    is_binary: bool,
}

impl Weighed {
    /// Nothing yet.
    pub(super) fn new(plan: Plan, is_binary: bool, slices: &[String]) -> Result<Weighed, String> {
        let slices = slices.iter().map(|name| (name.clone(), BTreeMap::new())).collect();
        Ok(Weighed { all: Scale::new(&plan, is_binary)?, slices, plan, is_binary })
    }

    /// Takes in a row of these slices, in the order of the columns.
    pub(super) fn add<'a>(&mut self, row: Row, slices: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
        self.all.add(row)?;
        for ((column, scales), value) in self.slices.iter_mut().zip(slices) {
            if let Some(scale) = scales.get_mut(value) {
                scale.add(row)?;
                continue;
            }
            if scales.len() == SLICE_VALUES_MAX {
                return Err(format!(
                    "slice {column:?} has more than {SLICE_VALUES_MAX} values, such as {value:?}: slices are groups of many rows, \
                     such as a region; put numbers into ranges first"
                ));
            }
            let mut scale = Scale::new(&self.plan, self.is_binary)?;
            scale.add(row)?;
            scales.insert(value.to_owned(), scale);
        }
        Ok(())
    }

    /// To be called once all rows are in.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.all.finish()?;
        self.slices.iter_mut().flat_map(|(_, scales)| scales.values_mut()).try_for_each(Scale::finish)
    }

    /// The slices that are shown to be worse, all slices taken together: (column, value).
    pub(super) fn worse_slices(&self) -> Vec<(&str, &str)> {
        if self.all.refusal().is_some() {
            return Vec::new();
        }
        let all: Vec<(&str, &str, f64)> = self
            .slices
            .iter()
            .flat_map(|(column, scales)| {
                scales.iter().map(|(value, scale)| (column.as_str(), value.as_str(), scale.ln_e()[1]))
            })
            .collect();
        let ln_e: Vec<f64> = all.iter().map(|(.., ln_e)| *ln_e).collect();
        e_bh(&ln_e, self.plan.policy.alpha_primary).into_iter().map(|at| (all[at].0, all[at].1)).collect()
    }

    /// What is found, slices and all.
    pub(super) fn verdict(&self) -> Verdict {
        match self.all.verdict() {
            Verdict::Promote if !self.worse_slices().is_empty() => Verdict::Halted,
            verdict => verdict,
        }
    }
}

#[cfg(test)]
mod tests;
