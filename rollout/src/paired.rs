//! Which of two models loses less on the same rows?
//!
//! For each row d = loss of the champion − loss of the challenger, in [−1, 1]. Where losses are 0 or 1, the rows on which one
//! alone was right say all there is to say: kernel A. Other losses: the confidence sequence of (d + 1)/2, and the e-value
//! that it is made of. Both are read in either direction, each with its own chance of error.

use crate::evidence::{Arms, Labels, plus};
use crate::interval::{EmpiricalBernstein, Interval};
use crate::kernel::ln_e_beta;

/// Values in a first block of pairs, about.
pub(crate) const PAIRS_EXPECTED: u64 = 256;

/// The prior of discordant pairs: Beta(5, 5), cut off at 1/2.
pub(crate) const DISCORDANT_PRIOR: [f64; 2] = [5.0, 5.0];

/// What pairs of losses show so far.
#[derive(Clone, Debug)]
pub struct Paired {
    sequence: EmpiricalBernstein,
    discordant: Arms,
    is_binary: bool,
}

impl Paired {
    /// Nothing yet. Each bound is missed, at whatever time, with a chance of at most `alpha`.
    pub fn new(alpha: f64) -> Paired {
        let sequence = EmpiricalBernstein::new(2.0 * alpha, PAIRS_EXPECTED);
        Paired { sequence, discordant: [0; 2], is_binary: true }
    }

    /// Takes in the pairs of a block of labels.
    pub fn add(&mut self, labels: &Labels) {
        self.is_binary &= labels.is_binary || labels.paired.n == 0;
        self.discordant = plus(self.discordant, labels.discordant);
        self.sequence.add(labels.paired);
    }

    /// Pairs.
    pub fn n(&self) -> u64 {
        self.sequence.n()
    }

    /// The mean of d: more is better for the challenger. 0 of none.
    pub fn gain(&self) -> f64 {
        2.0 * self.sequence.mean() - 1.0
    }

    /// The bounds of that mean, each on its own; `None` of none.
    pub fn interval(&self) -> Option<Interval> {
        let Interval { lower, upper } = self.sequence.interval();
        (self.n() > 0).then_some(Interval { lower: 2.0 * lower - 1.0, upper: 2.0 * upper - 1.0 })
    }

    /// Rows where the champion alone, and where the challenger alone was right.
    pub fn discordant(&self) -> Arms {
        self.discordant
    }

    /// Whether all losses were 0 or 1.
    pub fn is_binary(&self) -> bool {
        self.is_binary
    }

    /// ln E against "the gain is at most `gain`": with 0, that the challenger is not better.
    pub fn ln_e_above(&self, gain: f64) -> f64 {
        match self.is_binary && gain == 0.0 {
            true => ln_e_beta(self.discordant, 0.5, 0.0, DISCORDANT_PRIOR),
            false => self.sequence.ln_e_above((1.0 + gain) / 2.0),
        }
    }

    /// ln E against "the gain is at least `gain`": with 0, that the challenger is not worse.
    pub fn ln_e_below(&self, gain: f64) -> f64 {
        let [champion, challenger] = self.discordant;
        match self.is_binary && gain == 0.0 {
            true => ln_e_beta([challenger, champion], 0.5, 0.0, DISCORDANT_PRIOR),
            false => self.sequence.ln_e_below((1.0 + gain) / 2.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evidence::Moments;
    use crate::numbers::ln;

    fn labels(differences: &[f64], is_binary: bool) -> Labels {
        let mut labels = Labels { is_binary, ..Labels::default() };
        for &d in differences {
            labels.paired.add((d + 1.0) / 2.0);
            labels.discordant[0] += u64::from(d == -1.0);
            labels.discordant[1] += u64::from(d == 1.0);
        }
        labels
    }

    fn paired(blocks: &[Vec<f64>], is_binary: bool) -> Paired {
        let mut paired = Paired::new(0.01);
        blocks.iter().for_each(|block| paired.add(&labels(block, is_binary)));
        paired
    }

    #[test]
    fn nothing_is_known_of_no_rows() {
        let paired = Paired::new(0.01);
        assert_eq!((paired.n(), paired.gain(), paired.interval()), (0, 0.0, None));
        assert!(paired.ln_e_above(0.0).abs() < 1e-9 && paired.ln_e_below(0.0).abs() < 1e-9);
    }

    #[test]
    fn one_loss_that_is_no_bit_makes_all_of_them_lengths() {
        let mut paired = paired(&[vec![1.0; 50]], true);
        assert!(paired.is_binary() && paired.ln_e_above(0.0) > 20.0);
        paired.add(&Labels { paired: Moments::default(), ..Labels::default() });
        assert!(paired.is_binary(), "a block without pairs says nothing of their kind");
        paired.add(&labels(&[0.25], false));
        assert!(!paired.is_binary());
    }

    proptest! {
        /// Who swaps the two models gets the same figures with the other sign.
        #[test]
        fn directions_are_mirror_images(
            blocks in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 1..40), 1..30), is_binary: bool,
            bound in prop::sample::select(vec![0.0, 0.3, -0.01]),
        ) {
            let blocks: Vec<Vec<f64>> = match is_binary {
                true => blocks.iter().map(|block| block.iter().map(|d| d.round()).collect()).collect(),
                false => blocks,
            };
            let swapped: Vec<Vec<f64>> = blocks.iter().map(|block| block.iter().map(|d| -d).collect()).collect();
            let [a, b] = [paired(&blocks, is_binary), paired(&swapped, is_binary)];
            prop_assert!((a.gain() + b.gain()).abs() < 1e-9);
            prop_assert!((a.ln_e_above(bound) - b.ln_e_below(-bound)).abs() < 1e-6);
            let [x, y] = [&a, &b].map(|paired| paired.interval().expect("some"));
            prop_assert!((x.lower + y.upper).abs() < 1e-9 && (x.upper + y.lower).abs() < 1e-9);
        }

        /// The e-value and the bound are one test: a gain is shown by both or by none.
        #[test]
        fn bounds_exclude_what_the_e_value_excludes(
            shift in -0.9f64..0.9, bound in -0.9f64..0.9,
            blocks in prop::collection::vec(prop::collection::vec(-0.1f64..0.1, 1..40), 1..40),
        ) {
            let blocks: Vec<Vec<f64>> = blocks.iter().map(|block| block.iter().map(|d| d + shift).collect()).collect();
            let paired = paired(&blocks, false);
            let (threshold, interval) = (-ln(0.01), paired.interval().expect("some"));
            prop_assert_eq!(paired.ln_e_above(bound) > threshold, interval.lower > bound);
            prop_assert_eq!(paired.ln_e_below(bound) > threshold, interval.upper < bound);
        }
    }
}
