//! Which labels may be compared yet, when labels arrive late and good ones later than bad ones?
//!
//! A unit counts once it is as old as the horizon, and by then once and for all: with the label that it had at that age,
//! or with what was declared for those without. Otherwise an arm whose labels are merely quicker would look better (or
//! worse) than it is. Units mature in the order in which they were exposed.

use std::collections::{BTreeMap, VecDeque};

use crate::evidence::{Arms, Labels, Matured, Outcomes, Share};
use crate::kernel::{Tally, ln_e_two_sided};
use crate::plan::{Design, Gain, Missing, Primary};

/// Units that wait for their horizon, in memory with a bound.
#[derive(Clone, Debug)]
pub struct Cohort {
    horizon_ms: u64,
    missing: Missing,
    /// Whether a loss is 0 or 1.
    is_binary: bool,
    waiting: VecDeque<u64>,
    units: BTreeMap<u64, Unit>,
    units_max: usize,
}

#[derive(Clone, Debug)]
struct Unit {
    exposed_ms: u64,
    share: Share,
    is_challengers: bool,
    covariate: f64,
    rows: Box<[Option<Told>]>,
}

/// What was last observed of a row: its outcome, or that there is none after all.
#[derive(Clone, Copy, Debug)]
struct Told {
    observed_ms: u64,
    value: Option<f64>,
}

/// What became of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It counts, unless another one comes that was observed later.
    Counts,
    /// One that was observed later is there already.
    Older,
    /// It was observed after the unit's horizon.
    OutOfTime,
    /// No such row waits: never exposed, matured, or there was no room.
    Unknown,
}

impl Cohort {
    /// For the labels of `primary`, with room for `units_max` units that wait (about 150 bytes each, and 32 for each row).
    pub fn new(primary: &Primary, units_max: usize) -> Cohort {
        let Primary { horizon_ms, missing, gain, .. } = *primary;
        let is_binary = gain == Gain::Accuracy;
        Cohort { horizon_ms, missing, is_binary, waiting: VecDeque::new(), units: BTreeMap::new(), units_max }
    }

    /// A unit of so many rows was answered at `now_ms`. Its first exposure counts; `covariate` was known before (such as the
    /// champion's own prediction), 0 where there is none. False where it does not count: seen before, or no room.
    pub fn expose(
        &mut self,
        key: u64,
        rows: usize,
        now_ms: u64,
        share: Share,
        is_challengers: bool,
        covariate: f64,
    ) -> bool {
        let counts = self.units.len() < self.units_max && !self.units.contains_key(&key);
        if counts {
            // In order, whatever clocks do: who comes late in line matures with those before.
            let last = self.waiting.back().and_then(|key| self.units.get(key)).map_or(0, |unit| unit.exposed_ms);
            let exposed_ms = now_ms.max(last);
            let rows = vec![None; rows].into_boxed_slice();
            self.units.insert(key, Unit { exposed_ms, share, is_challengers, covariate, rows });
            self.waiting.push_back(key);
        }
        counts
    }

    /// A row's outcome, or that it has none after all, as it was at `observed_ms`. A doubled one changes nothing, a later one
    /// corrects. What was observed before the exposure counts too: clocks differ, and it was known at the horizon.
    pub fn label(&mut self, key: u64, row: usize, observed_ms: u64, value: Option<f64>) -> Joined {
        let Some(unit) = self.units.get_mut(&key) else { return Joined::Unknown };
        let Some(told) = unit.rows.get_mut(row) else { return Joined::Unknown };
        if observed_ms > unit.exposed_ms.saturating_add(self.horizon_ms) {
            return Joined::OutOfTime;
        }
        if told.is_some_and(|held| held.observed_ms > observed_ms) {
            return Joined::Older;
        }
        *told = Some(Told { observed_ms, value });
        Joined::Counts
    }

    /// Units that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The units that have reached their horizon since the last call, by share. A unit's outcome is the mean of its rows'.
    pub fn mature(&mut self, now_ms: u64) -> Vec<Matured> {
        let mut by_share: BTreeMap<Share, Matured> = BTreeMap::new();
        while let Some(unit) = self.next(now_ms) {
            let (has_label, outcome) = unit.outcome(self.missing);
            let (arm, covariate) = (usize::from(unit.is_challengers), unit.covariate);
            let empty = Matured { share: unit.share, outcomes: [Outcomes::default(); 2], arrived: [0; 2] };
            let matured = by_share.entry(unit.share).or_insert(empty);
            matured.arrived[arm] += u64::from(has_label);
            if let Some(outcome) = outcome {
                matured.outcomes[arm].add(outcome, covariate);
            }
        }
        by_share.into_values().collect()
    }

    /// The same where both answered every row, and a row's outcome is d = loss of the champion − loss of the challenger, −1 to 1.
    /// What is not known says nothing of who was right: units without a label are left out, whatever was declared.
    pub fn mature_pairs(&mut self, now_ms: u64) -> Labels {
        let mut labels = Labels { is_binary: self.is_binary, ..Labels::default() };
        while let Some(unit) = self.next(now_ms) {
            let (_, d) = unit.outcome(Missing::Exclude);
            d.into_iter().for_each(|d| labels.add_pair(d));
        }
        labels
    }

    /// Takes out the oldest unit if it has reached its horizon.
    fn next(&mut self, now_ms: u64) -> Option<Unit> {
        let key = *self.waiting.front()?;
        let exposed_ms = self.units.get(&key)?.exposed_ms;
        if exposed_ms.saturating_add(self.horizon_ms) > now_ms {
            return None;
        }
        self.waiting.pop_front();
        self.units.remove(&key)
    }
}

impl Unit {
    /// Whether any of its rows has a label, and the mean outcome of those that count.
    fn outcome(&self, missing: Missing) -> (bool, Option<f64>) {
        let told = |row: &Option<Told>| row.and_then(|told| told.value);
        let has_label = self.rows.iter().any(|row| told(row).is_some());
        let counts = |row: &Option<Told>| match (told(row), missing) {
            (Some(value), _) | (None, Missing::Value(value)) => Some(value),
            (None, Missing::Exclude) => None,
        };
        let (sum, n) = self.rows.iter().filter_map(counts).fold((0.0, 0u32), |(sum, n), value| (sum + value, n + 1));
        (has_label, (n > 0).then(|| sum / f64::from(n)))
    }
}

/// ln E against "both arms get as many labels": an arm that loses labels is a broken comparison.
#[derive(Clone, Debug, Default)]
pub struct Arrival(Tally);

impl Arrival {
    /// Takes in labels that arrived in time.
    pub fn add(&mut self, share: Share, arrived: Arms) {
        self.0.add(share, arrived);
    }

    /// By arm, so far.
    pub fn total(&self) -> Arms {
        self.0.total()
    }

    /// The evidence that they do not arrive alike.
    pub fn ln_e(&self) -> f64 {
        ln_e_two_sided(&self.0)
    }
}

/// Whether pairs of answers to the same rows decide.
pub fn is_paired(primary: &Primary) -> bool {
    design(primary).0 == Design::PairedShadow
}

/// How `primary` is really decided, and why not as it was declared. Where the prediction changes its own label, a shadow's
/// answer was never acted on: the label is that of the champion's decision, and says nothing of the challenger's.
pub fn design(primary: &Primary) -> (Design, Option<&'static str>) {
    match primary.design {
        Design::PairedShadow if primary.label_depends_on_decision => (
            Design::Split,
            Some(
                "the label depends on the decision, and the shadow's decision was never carried out: pairs are no \
                 evidence of quality, and only a split of live traffic decides",
            ),
        ),
        design => (design, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary() -> Primary {
        Primary {
            metric: "default_90d".into(),
            design: Design::Split,
            gain: Gain::Value,
            output: None,
            threshold: None,
            scale: None,
            label_depends_on_decision: false,
            horizon_ms: 100,
            missing: Missing::Value(0.0),
            margin: None,
            least_gain: None,
            harm: None,
            planned_units: 1_000,
        }
    }

    fn half() -> Share {
        Share::of(500_000)
    }

    #[test]
    fn units_count_when_they_are_old_enough_and_then_once() {
        let mut cohort = Cohort::new(&primary(), 10);
        assert!(cohort.expose(1, 1, 0, half(), true, 0.5));
        assert!(!cohort.expose(1, 1, 5, half(), true, 0.5), "the first exposure counts");
        assert!(cohort.expose(2, 1, 10, Share::of(10_000), false, 0.0));
        assert_eq!(cohort.label(1, 0, 40, Some(1.0)), Joined::Counts);
        assert_eq!(cohort.mature(99), []);
        let matured = cohort.mature(100);
        let mut outcomes = Outcomes::default();
        outcomes.add(1.0, 0.5);
        let expected = Matured { share: half(), outcomes: [Outcomes::default(), outcomes], arrived: [0, 1] };
        assert_eq!(matured, [expected]);
        assert_eq!(cohort.label(1, 0, 60, Some(0.0)), Joined::Unknown, "it has counted already");
        assert_eq!((cohort.waiting(), cohort.mature(1_000)[0].outcomes[0].n, cohort.waiting()), (1, 1, 0));
    }

    #[test]
    fn the_last_label_within_the_horizon_counts_whenever_it_is_told() {
        let mut cohort = Cohort::new(&primary(), 10);
        cohort.expose(7, 1, 1_000, half(), false, 0.0);
        assert_eq!(cohort.label(7, 0, 900, Some(2.0)), Joined::Counts, "by another clock, or known before");
        assert_eq!(cohort.label(7, 0, 1_060, Some(1.0)), Joined::Counts);
        assert_eq!(cohort.label(7, 0, 1_060, Some(1.0)), Joined::Counts, "doubled");
        assert_eq!(cohort.label(7, 0, 1_050, Some(9.0)), Joined::Older, "told late, observed before");
        assert_eq!(cohort.label(7, 0, 1_070, Some(3.0)), Joined::Counts, "corrected");
        assert_eq!(cohort.label(7, 0, 1_101, Some(5.0)), Joined::OutOfTime);
        assert_eq!(cohort.label(8, 0, 1_000, Some(5.0)), Joined::Unknown);
        assert_eq!(cohort.mature(5_000)[0].outcomes[0].y.value(), 3.0);
    }

    #[test]
    fn who_has_no_label_counts_as_declared() {
        let matured = |missing| {
            let mut cohort = Cohort::new(&Primary { missing, ..primary() }, 10);
            cohort.expose(1, 1, 0, half(), true, 0.0);
            cohort.label(1, 0, 1, Some(1.0));
            assert_eq!(cohort.label(1, 0, 3, None), Joined::Counts, "withdrawn");
            assert_eq!(cohort.label(1, 0, 2, Some(1.0)), Joined::Older, "what was withdrawn later stays so");
            let [matured] = cohort.mature(100)[..] else { panic!("one share") };
            (matured.outcomes[1].n, matured.outcomes[1].y.value(), matured.arrived)
        };
        assert_eq!(matured(Missing::Value(0.25)), (1, 0.25, [0, 0]));
        assert_eq!(matured(Missing::Exclude), (0, 0.0, [0, 0]));
    }

    #[test]
    fn a_unit_of_several_rows_counts_once_with_their_mean() {
        let matured = |missing| {
            let mut cohort = Cohort::new(&Primary { missing, ..primary() }, 10);
            cohort.expose(1, 4, 0, half(), false, 0.0);
            cohort.label(1, 0, 5, Some(1.0));
            cohort.label(1, 2, 6, Some(0.5));
            assert_eq!(cohort.label(1, 4, 6, Some(0.5)), Joined::Unknown);
            let [matured] = cohort.mature(100)[..] else { panic!("one share") };
            (matured.outcomes[0].n, matured.outcomes[0].y.value(), matured.arrived)
        };
        assert_eq!(matured(Missing::Exclude), (1, 0.75, [1, 0]));
        assert_eq!(matured(Missing::Value(0.0)), (1, 0.375, [1, 0]));
    }

    #[test]
    fn pairs_count_with_a_label_and_without_one_never() {
        let primary = Primary { design: Design::PairedShadow, gain: Gain::Accuracy, ..primary() };
        let mut cohort = Cohort::new(&primary, 10);
        for (key, rows) in [(1, 1), (2, 1), (3, 1), (4, 1), (5, 3)] {
            cohort.expose(key, rows, 0, half(), false, 0.0);
        }
        for (key, d) in [(1, 1.0), (2, -1.0), (3, 0.0)] {
            assert_eq!(cohort.label(key, 0, 5, Some(d)), Joined::Counts);
        }
        assert_eq!((cohort.mature_pairs(99).paired.n, cohort.waiting()), (0, 5));
        cohort.label(5, 0, 5, Some(1.0));
        cohort.label(5, 2, 5, Some(0.0));
        let labels = cohort.mature_pairs(100);
        let moments = labels.paired;
        assert_eq!((moments.n, moments.x.value(), labels.discordant), (4, 2.25, [1, 1]));
        assert!(!labels.is_binary, "the mean of some rows is between");
        assert_eq!((cohort.waiting(), cohort.mature_pairs(1_000).is_binary), (0, true));
    }

    #[test]
    fn memory_has_a_bound() {
        let mut cohort = Cohort::new(&primary(), 2);
        assert_eq!([1, 2, 3].map(|key| cohort.expose(key, 1, 0, half(), true, 0.0)), [true, true, false]);
        cohort.mature(100);
        assert!(cohort.expose(3, 1, 100, half(), true, 0.0));
    }

    #[test]
    fn an_arm_that_loses_labels_is_seen() {
        let mut arrival = Arrival::default();
        arrival.add(half(), [1_000, 1_000]);
        assert!(arrival.ln_e() < 0.0);
        arrival.add(half(), [1_000, 700]);
        assert!(arrival.ln_e() > 6.9, "{}", arrival.ln_e());
    }

    #[test]
    fn pairs_do_not_decide_where_the_decision_makes_the_label() {
        let paired = |label_depends_on_decision| {
            design(&Primary { design: Design::PairedShadow, label_depends_on_decision, ..primary() })
        };
        assert_eq!(paired(false), (Design::PairedShadow, None));
        let (decided, why) = paired(true);
        assert!(decided == Design::Split && why.is_some_and(|why| why.contains("the label depends on the decision")));
        assert_eq!(design(&primary()), (Design::Split, None));
    }
}
