//! What does all the evidence so far say?

use std::collections::BTreeMap;

use crate::cohort::{Arrival, design, is_paired};
use crate::cusum::{Cusum, RUN_LENGTH};
use crate::evidence::{Arms, Block, Events, Group, Moments, Outcomes, Seen, Share, plus};
use crate::interval::{EmpiricalBernstein, Interval, difference};
use crate::kernel::{
    ROUNDING, Ratio, Tally, e_bh, is_ratio_at_most, ln_e_above, ln_e_bins, ln_e_sample_ratio, ln_e_shift, p_value,
    ratio,
};
use crate::numbers::ln;
use crate::paired::{PAIRS_EXPECTED, Paired};
use crate::plan::{Agreement, Comparison, Design, Guardrail, OUTPUT, Output, Policy, Primary};
use crate::rate;

use super::verdict::{Harm, Quality, Reading, Reason, Shift};

/// First events of keys that are remembered for one rollout: 8 MiB and what the tree needs.
const SEEN_MAX: usize = 1 << 20;

/// E from which a comparison is taken for broken.
const BROKEN: f64 = 1_000.0;

/// The share of dropped pairs above which a comparison pauses.
const DROPS_MAX: f64 = 0.05;

/// Outcomes of each arm from which on the normal approximation is trusted.
const OUTCOMES_MIN: u64 = 100;

/// Everything that was counted, by what it is for.
#[derive(Clone, Debug)]
pub(super) struct Scales {
    alpha: f64,
    /// How many tests share it.
    tests: usize,
    alpha_primary: f64,
    guardrails: Vec<Watch>,
    slices: Vec<Watch>,
    comparisons: Vec<Pairing>,
    shifts: BTreeMap<String, Vec<Tally>>,
    output: Option<Output>,
    primary: Option<Outcome>,
    pub(super) units: Arms,
    dealt: Tally,
    arrival: Arrival,
    sampled: u64,
    dropped: u64,
}

impl Scales {
    pub(super) fn new(policy: &Policy) -> Scales {
        let watched = policy.guardrails.len() + policy.slices.len();
        let watch = |rules: &[Guardrail]| rules.iter().map(|rule| Watch::new(rule, SEEN_MAX / watched)).collect();
        let pairing = |rule: &Comparison| Pairing::new(rule, policy.alpha_primary);
        Scales {
            alpha: policy.alpha_guardrails,
            tests: policy.alarms(),
            alpha_primary: policy.alpha_primary,
            guardrails: watch(&policy.guardrails),
            slices: watch(&policy.slices),
            comparisons: policy.comparisons.iter().map(pairing).collect(),
            shifts: BTreeMap::new(),
            output: policy.output.clone(),
            primary: policy.primary.as_ref().map(|primary| Outcome::new(primary, policy.alpha_primary)),
            units: [0; 2],
            dealt: Tally::default(),
            arrival: Arrival::default(),
            sampled: 0,
            dropped: 0,
        }
    }

    pub(super) fn add(&mut self, block: &Block) {
        self.units = plus(self.units, block.units);
        self.dealt.add(block.share, block.units);
        for watch in self.guardrails.iter_mut().chain(&mut self.slices) {
            let metric = &watch.rule.metric;
            watch.add(block.share, block.events.get(metric), block.causes.get(metric));
        }
        for (metric, bins) in &block.bins {
            let held = self.shifts.entry(metric.clone()).or_default();
            held.resize(held.len().max(bins.len()), Tally::default());
            held.iter_mut().zip(bins).for_each(|(tally, &bin)| tally.add(block.share, bin));
        }
        let pairs = &block.pairs;
        self.sampled += pairs.sampled;
        self.dropped += pairs.dropped;
        let is_paused = too_many(pairs.sampled, pairs.dropped);
        for comparison in &mut self.comparisons {
            match pairs.values.get(&comparison.rule.metric) {
                Some(_) if is_paused => comparison.paused_blocks += 1,
                Some(&values) => comparison.add(values),
                None => {}
            }
        }
        let Some(outcome) = &mut self.primary else { return };
        if let Some(labels) = block.labels.get(&outcome.rule.metric) {
            for matured in &labels.matured {
                self.arrival.add(matured.share, matured.arrived);
                outcome.add_split(matured.share, matured.outcomes);
            }
            outcome.paired.add(labels);
        }
    }

    /// ln(G/α).
    fn threshold(&self) -> f64 {
        ln(self.tests as f64 / self.alpha)
    }

    /// How the watched output shifts; `None` where none is watched.
    pub(super) fn shift(&self) -> Option<Shift> {
        let Output { tolerance, roll_back, .. } = self.output.as_ref()?;
        let bins = self.shifts.get(OUTPUT).map_or(&[][..], Vec::as_slice);
        let threshold = if *roll_back { self.threshold() } else { ln(1.0 / self.alpha) };
        let counts: Vec<Arms> = bins.iter().map(Tally::total).collect();
        let all = counts.iter().fold([0; 2], |sum, &bin| plus(sum, bin));
        let share = |bin: Arms, arm: usize| bin[arm] as f64 / all[arm].max(1) as f64;
        let distance = counts.iter().map(|&bin| (share(bin, 0) - share(bin, 1)).abs()).sum::<f64>() / 2.0;
        let distance = if all.contains(&0) { 0.0 } else { distance };
        Some(Shift { ln_e: ln_e_shift(bins, *tolerance), threshold, bins: counts, distance })
    }

    /// The same where it alarms.
    fn shift_alarm(&self, rolls_back: bool) -> Option<Reason> {
        self.output.as_ref().filter(|output| output.roll_back == rolls_back)?;
        self.shift().filter(|shift| shift.ln_e >= shift.threshold).map(Reason::Output)
    }

    /// Guardrails and outcomes that show harm.
    pub(super) fn alarms(&self) -> Vec<Reason> {
        let threshold = self.threshold();
        let alarmed = self.guardrails.iter().filter(|watch| watch.ln_e >= threshold);
        let alarmed = alarmed.map(|watch| Reason::Guardrail(watch.reading(self.alpha, threshold)));
        let is_refused = self.pairs_refused().is_some() && self.is_paired();
        let shows_harm = |quality: &Quality| !is_refused && quality.harm.is_some_and(|harm| harm.is_shown);
        let outcome = self.quality().filter(shows_harm).map(Reason::Primary);
        alarmed.chain(self.shift_alarm(true)).chain(outcome).collect()
    }

    /// What breaks the comparison itself, or harms a slice of the traffic.
    pub(super) fn halts(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let threshold = ln(BROKEN);
        let ln_e = ln_e_sample_ratio(&self.dealt);
        if ln_e >= threshold {
            reasons.push(Reason::SampleRatio { ln_e, threshold, units: self.dealt.total() });
        }
        let ln_e = self.arrival.ln_e();
        if ln_e >= threshold {
            reasons.push(Reason::LabelArrival { ln_e, threshold });
        }
        reasons.extend(self.shift_alarm(false));
        let slices: Vec<f64> = self.slices.iter().map(|watch| watch.ln_e).collect();
        let found = e_bh(&slices, self.alpha);
        if !found.is_empty() {
            let threshold = ln(slices.len() as f64 / (found.len() as f64 * self.alpha));
            let found = found.into_iter().map(|at| self.slices[at].reading(self.alpha, threshold)).collect();
            reasons.push(Reason::Slices { found });
        }
        reasons
    }

    /// What every guardrail reads.
    pub(super) fn readings(&self) -> Vec<Reading> {
        self.guardrails.iter().map(|watch| watch.reading(self.alpha, self.threshold())).collect()
    }

    /// What those guardrails read that do not pass.
    pub(super) fn unproven(&self) -> Vec<Reading> {
        let open = self.guardrails.iter().filter(|watch| !watch.passes(self.alpha));
        open.map(|watch| watch.reading(self.alpha, self.threshold())).collect()
    }

    /// What every comparison shows.
    pub(super) fn comparisons(&self) -> Vec<(bool, Reason)> {
        self.comparisons.iter().map(|comparison| comparison.reason(self.alpha)).collect()
    }

    /// ln E of every output distribution against "both arms answer alike": shown, and deciding nothing.
    pub(super) fn shifts(&self) -> BTreeMap<String, f64> {
        self.shifts.iter().map(|(metric, bins)| (metric.clone(), ln_e_bins(bins))).collect()
    }

    /// What the outcomes show; `None` where none are declared.
    pub(super) fn quality(&self) -> Option<Quality> {
        let alpha_harm = self.alpha / self.tests as f64;
        self.primary.as_ref().map(|outcome| outcome.quality(self.alpha_primary, alpha_harm))
    }

    /// The pairs that the outcomes are made of.
    pub(super) fn paired(&self) -> Option<&Paired> {
        self.primary.as_ref().map(|outcome| &outcome.paired)
    }

    /// Units by arm that had a label of their own, while both arms had a share.
    pub(super) fn labelled(&self) -> Arms {
        self.arrival.total()
    }

    /// Why pairs say nothing of quality, where they were asked to.
    pub(super) fn pairs_refused(&self) -> Option<Reason> {
        let outcome = self.primary.as_ref()?;
        let (decides, why) = design(&outcome.rule);
        if let Some(why) = why {
            return Some(Reason::PairsRefused { metric: outcome.rule.metric.clone(), why: why.into() });
        }
        let refused = decides == Design::PairedShadow && too_many(self.sampled, self.dropped);
        refused.then_some(Reason::Drops { sampled: self.sampled, dropped: self.dropped })
    }

    /// Whether pairs decide, or a split of live traffic, if anything.
    pub(super) fn is_paired(&self) -> bool {
        self.primary.as_ref().is_some_and(|outcome| is_paired(&outcome.rule))
    }

    /// A person has looked at a broken comparison: what was built on it begins anew, and the guardrails keep what they saw.
    pub(super) fn begin_anew(&mut self) {
        self.dealt = Tally::default();
        self.arrival = Arrival::default();
        self.shifts.clear();
        for slice in &mut self.slices {
            (slice.tally, slice.causes, slice.ln_e, slice.ln_e_max) = (None, None, 0.0, 0.0);
        }
        let alpha = self.alpha_primary;
        if let Some(outcome) = &mut self.primary {
            *outcome = Outcome::new(&outcome.rule, alpha);
        }
    }

    /// The challenger is the champion: from now on it is held against what the champion was.
    pub(super) fn freeze(&mut self) {
        let alpha = self.alpha;
        self.guardrails.iter_mut().for_each(|watch| watch.freeze(alpha));
    }

    /// What became worse since the promotion.
    pub(super) fn regressions(&self) -> Vec<Reason> {
        let threshold = ln(RUN_LENGTH);
        let each = self.guardrails.iter().filter_map(|watch| {
            let ln_m = watch.cusum.as_ref().filter(|cusum| cusum.is_alarm())?.ln_m();
            Some(Reason::Regression { metric: watch.rule.metric.clone(), ln_m, threshold })
        });
        each.collect()
    }
}

fn too_many(sampled: u64, dropped: u64) -> bool {
    dropped as f64 > DROPS_MAX * sampled as f64
}

/// One guardrail. What is counted both by request (or run) and by cause alarms where both do: a cause that fells many requests
/// is no proof by their number, nor is a disturbance that fells many runs of both arms by how many runs each had.
#[derive(Clone, Debug)]
struct Watch {
    rule: Guardrail,
    /// By request, key or run; none until a block has it.
    tally: Option<Tally>,
    /// By cause; none until a block has it.
    causes: Option<Tally>,
    /// Whether those of `tally` are runs, whose share is rounded as that of causes is.
    has_runs: bool,
    events: Arms,
    of: Arms,
    by_cause: Group,
    seen: Seen,
    ln_e: f64,
    /// The largest so far, which the p-value is made of.
    ln_e_max: f64,
    cusum: Option<Cusum>,
}

impl Watch {
    fn new(rule: &Guardrail, keys_max: usize) -> Watch {
        let (rule, seen) = (rule.clone(), Seen::new(keys_max));
        Watch {
            rule,
            tally: None,
            causes: None,
            has_runs: false,
            events: [0; 2],
            of: [0; 2],
            by_cause: Group::default(),
            seen,
            ln_e: 0.0,
            ln_e_max: 0.0,
            cusum: None,
        }
    }

    fn add(&mut self, share: Share, events: Option<&Events>, causes: Option<&Vec<Group>>) {
        let counts = self.tallies().count();
        let by_request = events.map(|events| self.count(share, events));
        let by_cause = causes.map(|groups| {
            let tally = self.causes.get_or_insert_default();
            groups.iter().for_each(|group| tally.add_exposed(*group));
            Group::sum(groups)
        });
        // Where there are both, what is told is by request.
        let told = if self.tally.is_some() { by_request } else { by_cause };
        let Group { of, events } = told.unwrap_or_default();
        let is_new = [by_request, by_cause].into_iter().flatten().any(|group| group.events != [0; 2]);
        if is_new || self.tallies().count() > counts {
            let each = self.tallies().map(|tally| ln_e_above(tally, self.rule.tolerance));
            self.ln_e = each.reduce(f64::min).unwrap_or(0.0);
            self.ln_e_max = self.ln_e_max.max(self.ln_e);
        }
        self.of = plus(self.of, of);
        self.events = plus(self.events, events);
        let by_cause = by_cause.unwrap_or_default();
        self.by_cause = Group::sum(&[self.by_cause, by_cause]);
        if let Some(cusum) = &mut self.cusum {
            // A disturbance that slows many runs is no more of a regression than one that slows one.
            let Group { of, events } = if self.has_runs { by_cause } else { Group { of, events } };
            cusum.add(events[1], of[1]);
        }
    }

    /// Counts events by request, key or run.
    fn count(&mut self, share: Share, events: &Events) -> Group {
        let tally = self.tally.get_or_insert_default();
        let group = match events {
            Events::Every { of, events } => Group { of: *of, events: *events },
            Events::Firsts { of, keys } => {
                let firsts = |keys: &Vec<u64>| keys.iter().filter(|&&key| self.seen.is_first(key)).count() as u64;
                Group { of: *of, events: keys.each_ref().map(firsts) }
            }
            Events::Runs(groups) => {
                self.has_runs = true;
                groups.iter().for_each(|group| tally.add_exposed(*group));
                return Group::sum(groups);
            }
        };
        tally.add(share, group.events);
        group
    }

    fn tallies(&self) -> impl Iterator<Item = &Tally> {
        self.tally.iter().chain(&self.causes)
    }

    /// Whatever may be true by either count.
    fn ratio(&self, alpha: f64) -> Ratio {
        let widened = |tally: &Tally, slack: f64| {
            let Ratio { lower, upper } = ratio(tally, alpha);
            Ratio { lower, upper: upper.map(|upper| upper * slack) }
        };
        let by_request = self.tally.as_ref().map(|tally| widened(tally, self.slack()));
        let by_cause = self.causes.as_ref().map(|tally| widened(tally, 1.0 + ROUNDING));
        let hull = |a: Ratio, b: Ratio| Ratio {
            lower: a.lower.min(b.lower),
            upper: a.upper.zip(b.upper).map(|(a, b)| a.max(b)),
        };
        by_request.into_iter().chain(by_cause).reduce(hull).unwrap_or(Ratio { lower: 0.0, upper: None })
    }

    fn reading(&self, alpha: f64, threshold: f64) -> Reading {
        let ratio = self.ratio(alpha);
        let ratio_bound = 1.0 + self.rule.margin;
        let rate_upper = self.rate_upper(1, alpha);
        let is_small = self.rule.floor.is_some_and(|floor| rate_upper <= floor);
        Reading {
            metric: self.rule.metric.clone(),
            ln_e: self.ln_e,
            threshold,
            p: p_value(self.ln_e_max),
            events: self.events,
            of: self.of,
            ratio,
            ratio_bound,
            rate_upper,
            floor: self.rule.floor,
            passes: is_small || ratio.upper.is_some_and(|upper| upper <= ratio_bound),
        }
    }

    /// Whether its reading passes, without the bounds themselves.
    fn passes(&self, alpha: f64) -> bool {
        let [events, of] = self.counted(1);
        let is_small = self.rule.floor.is_some_and(|floor| rate::is_at_most(events, of, alpha, floor));
        let bound = 1.0 + self.rule.margin;
        let is_at_most = |tally: &Option<Tally>, slack: f64| {
            tally.as_ref().is_none_or(|tally| is_ratio_at_most(tally, alpha, slack, bound))
        };
        let is_counted = self.tallies().next().is_some();
        let is_like = || is_at_most(&self.tally, self.slack()) && is_at_most(&self.causes, 1.0 + ROUNDING);
        is_small || (is_counted && is_like())
    }

    /// By how much the ratio of `tally` can be larger than it seems.
    fn slack(&self) -> f64 {
        if self.has_runs { 1.0 + ROUNDING } else { 1.0 }
    }

    /// The most that an arm's own rate can be.
    fn rate_upper(&self, arm: usize, alpha: f64) -> f64 {
        let [events, of] = self.counted(arm);
        rate::upper(events, of, alpha)
    }

    /// An arm's events, and how many could have been one. Where keys were thinned out, so were its events.
    fn counted(&self, arm: usize) -> [u64; 2] {
        let of = (self.of[arm] as f64 * self.seen.sampling()) as u64;
        [self.events[arm].min(of), of]
    }

    fn freeze(&mut self, alpha: f64) {
        let (Group { of, events }, upper) = match self.has_runs {
            true => (self.by_cause, rate::upper(self.by_cause.events[0], self.by_cause.of[0], alpha)),
            false => (Group { of: self.of, events: self.events }, self.rate_upper(0, alpha)),
        };
        let rate = events[0] as f64 / of[0].max(1) as f64;
        let fine = (rate * (1.0 + self.rule.tolerance)).max(self.rule.floor.unwrap_or(0.0));
        self.cusum = Some(Cusum::new(fine.max(upper)));
    }
}

/// One comparison of pairs.
#[derive(Clone, Debug)]
struct Pairing {
    rule: Comparison,
    sequence: EmpiricalBernstein,
    total: Moments,
    paused_blocks: u64,
}

impl Pairing {
    fn new(rule: &Comparison, alpha: f64) -> Pairing {
        let sequence = EmpiricalBernstein::new(2.0 * alpha, PAIRS_EXPECTED);
        Pairing { rule: rule.clone(), sequence, total: Moments::default(), paused_blocks: 0 }
    }

    fn add(&mut self, values: Moments) {
        self.sequence.add(values);
        self.total = self.total.plus(values);
    }

    fn reason(&self, alpha: f64) -> (bool, Reason) {
        let n = self.total.n;
        let (upper, passes) = match self.rule.rule {
            // Mismatches are 0 or 1: their sum counts them.
            Agreement::Refactor(bound) => {
                let upper = rate::upper(self.total.x.value().round() as u64, n, alpha);
                (upper, upper <= bound)
            }
            Agreement::Retrain(bound) => (self.sequence.interval().upper, self.sequence.interval().upper <= bound),
            Agreement::Report => (self.sequence.interval().upper, true),
        };
        let (metric, rule) = (self.rule.metric.clone(), self.rule.rule);
        let (mean, paused_blocks) = (self.sequence.mean(), self.paused_blocks);
        (passes, Reason::Comparison { metric, rule, n, mean, upper, paused_blocks, passes })
    }
}

/// The outcome by which the challenger must win.
#[derive(Clone, Debug)]
struct Outcome {
    rule: Primary,
    cohorts: BTreeMap<Share, [Outcomes; 2]>,
    paired: Paired,
}

impl Outcome {
    fn new(rule: &Primary, alpha: f64) -> Outcome {
        Outcome { rule: rule.clone(), cohorts: BTreeMap::new(), paired: Paired::new(alpha) }
    }

    fn add_split(&mut self, share: Share, outcomes: [Outcomes; 2]) {
        if share.is_split() {
            let held = self.cohorts.entry(share).or_default();
            *held = [held[0].plus(outcomes[0]), held[1].plus(outcomes[1])];
        }
    }

    fn quality(&self, alpha: f64, alpha_harm: f64) -> Quality {
        let needed = -self.rule.margin.unwrap_or(0.0);
        let threshold = -ln(alpha);
        let (design, _) = design(&self.rule);
        let (n, gain, interval, ln_e) = match design {
            Design::Split => self.split(alpha),
            Design::PairedShadow => self.pairs(),
        };
        let passes = match ln_e {
            // One test decides, not the better of two.
            Some(ln_e) if self.rule.margin.is_none() => ln_e >= threshold,
            _ => interval.is_some_and(|interval| interval.lower > needed),
        };
        // Pairs that show it to be worse need no more of it; how a split goes on is as it always was, since its records are proved by it.
        let least = self.rule.least_gain.or((design == Design::PairedShadow).then_some(needed));
        let is_futile = match (interval, least) {
            (Some(interval), Some(least)) => interval.upper < least,
            _ => false,
        };
        let (metric, discordant) = (self.rule.metric.clone(), self.paired.discordant());
        // Taken from zero, zero has no sign.
        let harm = self.rule.harm.map(|harm| self.harm(design, alpha_harm, 0.0 - harm));
        Quality { metric, design, n, gain, interval, discordant, ln_e, threshold, needed, passes, is_futile, harm }
    }

    fn harm(&self, design: Design, alpha: f64, below: f64) -> Harm {
        let (upper, is_shown) = match design {
            Design::Split => {
                let upper = self.split(alpha).2.map(|interval| interval.upper);
                (upper, upper.is_some_and(|upper| upper < below))
            }
            // Pairs are held as shares of the largest loss.
            Design::PairedShadow => (None, self.paired.ln_e_below(below / self.rule.loss_max()) >= -ln(alpha)),
        };
        Harm { below, upper, is_shown }
    }

    fn split(&self, alpha: f64) -> (u64, f64, Option<Interval>, Option<f64>) {
        let cohorts: Vec<_> = self.cohorts.iter().map(|(&share, &outcomes)| (share, outcomes)).collect();
        let counts = cohorts.iter().fold([0; 2], |sum, (_, [a, b])| plus(sum, [a.n, b.n]));
        let found = difference(&cohorts);
        let planned = self.rule.planned_units;
        let interval = Interval { lower: found.lower(alpha, planned), upper: found.upper(alpha, planned) };
        let is_enough = counts.iter().all(|&count| count >= OUTCOMES_MIN);
        (found.n, found.mean, is_enough.then_some(interval), None)
    }

    /// In the outcome's unit, as margin and least gain are.
    fn pairs(&self) -> (u64, f64, Option<Interval>, Option<f64>) {
        let (paired, unit) = (&self.paired, self.rule.loss_max());
        let interval = paired.interval().map(|found| Interval { lower: found.lower * unit, upper: found.upper * unit });
        (paired.n(), paired.gain() * unit, interval, paired.is_binary().then(|| paired.ln_e_above(0.0)))
    }
}
