//! Into which bin does a value fall?
//!
//! Bins are made once, from a baseline, and never change: counts of different hours, replicas and months add up. The last four
//! slots of every feature are for what is no value.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Cuts of a numeric feature, at most: its smallest value, 19 quantiles, its largest.
pub const CUTS_MAX: usize = 21;

/// Values of a categorical feature that are counted one by one.
pub const TOP_MAX: usize = 64;

/// Further values that are known to have been seen, and counted together.
pub const OTHERS_MAX: usize = 1_024;

/// Distinct numbers up to which each is a category.
pub const DISTINCT_MAX: usize = 20;

/// Slots behind the bins: see [`NULL`] and so on.
pub const KINDS: usize = 4;

/// The slot behind the bins that counts rows without a value.
pub const NULL: usize = 0;

/// The slot behind the bins that counts what is not a number.
pub const NAN: usize = 1;

/// The slot behind the bins that counts +∞.
pub const ABOVE_ALL: usize = 2;

/// The slot behind the bins that counts −∞.
pub const BELOW_ALL: usize = 3;

/// How many cuts are looked at, whatever there are: one less than a power of two, the rest of them at infinity.
const PADDED: usize = 32;

/// Units of a standard deviation in which values are added up, as integers: see [`Numeric::scaled`].
const UNITS: f64 = 65_536.0;

/// Units beyond which a value counts as being there, 16,384 standard deviations away.
const UNITS_MAX: f64 = (1u64 << 30) as f64;

/// The bins of a feature.
#[derive(Clone, Debug, PartialEq)]
pub enum Bins {
    /// Of a number that has many values.
    Numeric(Box<Numeric>),
    /// Of texts, truth values, and numbers that have few.
    Categories(Box<Categories>),
}

impl Bins {
    /// How many bins: what is no value aside.
    pub fn bins(&self) -> usize {
        match self {
            Bins::Numeric(numeric) => numeric.cuts.len() + 1,
            Bins::Categories(categories) => categories.top.len() + 2,
        }
    }

    /// How many counts a feature needs.
    pub fn slots(&self) -> usize {
        self.bins() + KINDS
    }

    /// The bins that hold what the baseline never saw: below its smallest and above its largest, or unseen categories.
    pub fn strange(&self) -> Vec<usize> {
        match self {
            Bins::Numeric(numeric) if numeric.cuts.is_empty() => Vec::new(),
            Bins::Numeric(numeric) => vec![0, numeric.cuts.len()],
            Bins::Categories(categories) if categories.are_open() => Vec::new(),
            Bins::Categories(categories) => vec![categories.top.len() + 1],
        }
    }

    /// Whether it is numeric.
    pub fn are_numeric(&self) -> bool {
        matches!(self, Bins::Numeric(_))
    }

    /// What people call a bin.
    pub fn name(&self, bin: usize) -> String {
        match self {
            Bins::Numeric(numeric) => {
                match (bin.checked_sub(1).and_then(|at| numeric.cuts.get(at)), numeric.cuts.get(bin)) {
                    (Some(from), Some(to)) => format!("{from} to {to}"),
                    (None, Some(to)) => format!("below {to}"),
                    (Some(from), None) => format!("above {from}"),
                    (None, None) => "all".to_owned(),
                }
            }
            Bins::Categories(categories) => match bin.checked_sub(categories.top.len()) {
                None => categories.top[bin].name.clone(),
                Some(0) => "others".to_owned(),
                Some(_) => "unseen".to_owned(),
            },
        }
    }
}

/// The bins of a number: x is in bin b where cut b−1 < x ≤ cut b. The first ends just below the smallest value, the last begins
/// above the largest.
#[derive(Clone, Debug, PartialEq)]
pub struct Numeric {
    /// The smallest value, quantiles that rise, the largest: as they were seen.
    cuts: Vec<f64>,
    /// The same with the first a little lower, and infinity behind them.
    padded: [f64; PADDED],
    mean: f64,
    sd: f64,
    /// Units for one: see [`UNITS`].
    scale: f64,
}

impl Numeric {
    /// Bins between `cuts`, which rise; `mean` and `sd` say in which units values are added up.
    pub(crate) fn new(cuts: Vec<f64>, mean: f64, sd: f64) -> Result<Numeric, String> {
        let rise = cuts.windows(2).all(|pair| pair[0] < pair[1]) && cuts.iter().all(|cut| cut.is_finite());
        if !rise || cuts.len() < 2 || cuts.len() > CUTS_MAX {
            return Err(format!("{} cuts of a number, which must be 2 to {CUTS_MAX}, rise and be finite", cuts.len()));
        }
        if !(mean.is_finite() && sd.is_finite() && sd > 0.0) {
            return Err(format!(
                "the mean {mean} and standard deviation {sd} of a number must be finite, the latter above 0"
            ));
        }
        let mut padded = [f64::INFINITY; PADDED];
        padded[..cuts.len()].copy_from_slice(&cuts);
        padded[0] = cuts[0].next_down();
        Ok(Numeric { cuts, padded, mean, sd, scale: UNITS / sd })
    }

    /// The cuts.
    pub fn cuts(&self) -> &[f64] {
        &self.cuts
    }

    /// The baseline's mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The baseline's standard deviation.
    pub fn sd(&self) -> f64 {
        self.sd
    }

    /// What counting needs of it.
    pub(crate) fn ruler(&self) -> Ruler {
        Ruler { cuts: self.padded, mean: self.mean, scale: self.scale }
    }

    /// The bin of a finite number.
    pub(crate) fn bin(&self, x: f64) -> usize {
        self.ruler().bin(x)
    }

    /// The mean of `n` numbers whose scaled ones add up to `sum`.
    pub(crate) fn mean_of(&self, n: u64, sum: i128) -> f64 {
        self.mean + sum as f64 / n as f64 / UNITS * self.sd
    }

    /// Their standard deviation, with the sum of the squares.
    pub(crate) fn sd_of(&self, n: u64, sum: i128, squares: u128) -> f64 {
        let mean = sum as f64 / n as f64;
        (squares as f64 / n as f64 - mean * mean).max(0.0).sqrt() / UNITS * self.sd
    }
}

/// What counting needs of a number's bins, by itself: those of a thousand features lie one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ruler {
    cuts: [f64; PADDED],
    mean: f64,
    scale: f64,
}

impl Ruler {
    /// The bin of a finite number: how many cuts are below it. No branch depends on the number.
    pub(crate) fn bin(&self, x: f64) -> usize {
        let mut below = 0;
        for step in [16, 8, 4, 2, 1] {
            below += usize::from(x > self.cuts[(below + step - 1) % PADDED]) * step;
        }
        below
    }

    /// How far a finite number is from the mean, in integers that add up to the same in any order.
    pub(crate) fn scaled(&self, x: f64) -> i64 {
        ((x - self.mean) * self.scale).clamp(-UNITS_MAX, UNITS_MAX) as i64
    }
}

/// The bins of a category: one for each of the commonest values, one for others that were seen, one for those that were not.
#[derive(Clone, Debug, PartialEq)]
pub struct Categories {
    top: Vec<Category>,
    others: Vec<u64>,
    lookup: Lookup,
}

/// What counting needs of a category's bins, by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lookup {
    /// Identities with their bins, each at its place or behind it; 0 where there is none.
    places: Arc<[(u64, u8)]>,
    /// Bins of single values.
    top: u8,
    is_open: bool,
}

/// A value of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// How people write it, shortened.
    pub name: String,
    /// What tells it from others, as 16 hexadecimal digits in JSON.
    #[serde(with = "crate::exact::hex")]
    pub identity: u64,
}

impl Categories {
    /// A bin for each of `top`, and one for `others`. Open: there were more others than were kept, and nothing is known to be unseen.
    pub(crate) fn new(top: Vec<Category>, mut others: Vec<u64>, is_open: bool) -> Result<Categories, String> {
        others.sort_unstable();
        if top.len() > TOP_MAX || others.len() > OTHERS_MAX {
            let (top, others) = (top.len(), others.len());
            return Err(format!("{top} and {others} categories, of which {TOP_MAX} and {OTHERS_MAX} are allowed"));
        }
        let mut places = vec![(0, 0); ((top.len() + others.len()) * 2).next_power_of_two()];
        let all = top.iter().map(|category| category.identity).enumerate();
        let all = all.chain(others.iter().map(|&identity| (top.len(), identity)));
        for (bin, identity) in all {
            let at = place(&places, identity);
            if identity == 0 || places[at].0 == identity {
                return Err(format!("the category {identity:016x} is there twice, or is none"));
            }
            places[at] = (identity, bin as u8);
        }
        let lookup = Lookup { places: places.into(), top: top.len() as u8, is_open };
        Ok(Categories { top, others, lookup })
    }

    /// The values that have bins of their own.
    pub fn top(&self) -> &[Category] {
        &self.top
    }

    /// Identities of further ones that were seen.
    pub(crate) fn others(&self) -> &[u64] {
        &self.others
    }

    /// Whether more values were seen than are kept: a name or a number of something, rather than a category.
    pub fn are_open(&self) -> bool {
        self.lookup.is_open
    }

    /// What counting needs of it.
    pub(crate) fn lookup(&self) -> &Lookup {
        &self.lookup
    }
}

impl Lookup {
    /// The bin of a value, and whether it was never seen.
    pub(crate) fn bin(&self, identity: u64) -> (usize, bool) {
        let (found, bin) = self.places[place(&self.places, identity)];
        match found == identity {
            true => (usize::from(bin), false),
            false => (usize::from(self.top) + usize::from(!self.is_open), !self.is_open),
        }
    }
}

/// Where `identity` is, or would be. At least half of the places are empty.
fn place(places: &[(u64, u8)], identity: u64) -> usize {
    let mask = places.len() - 1;
    // It is a hash already.
    let mut at = identity as usize & mask;
    while places[at].0 != identity && places[at].0 != 0 {
        at = (at + 1) & mask;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_the_bin_that_its_cuts_say() {
        for count in 2..=CUTS_MAX {
            let cuts: Vec<f64> = (0..count).map(|at| at as f64 * 1.5 - 7.0).collect();
            let numeric = Numeric::new(cuts.clone(), 0.0, 1.0).unwrap();
            let tries = cuts.iter().flat_map(|&cut| [cut.next_down(), cut, cut.next_up(), cut + 0.7]);
            for x in tries.chain([f64::MIN, f64::MAX, -0.0]) {
                let expected = usize::from(x >= cuts[0]) + cuts[1..].iter().filter(|&&cut| x > cut).count();
                assert_eq!(numeric.bin(x), expected, "{x} of {cuts:?}");
            }
        }
        assert!(Numeric::new(vec![1.0, 1.0], 0.0, 1.0).is_err() && Numeric::new(vec![1.0], 0.0, 1.0).is_err());
    }

    #[test]
    fn moments_come_back_from_integers() {
        let numeric = Numeric::new(vec![0.0, 10.0], 5.0, 2.0).unwrap();
        let values = [1.0, 4.5, 5.25, 9.0, 1e300];
        let scaled = values[..4].iter().map(|&x| numeric.ruler().scaled(x));
        let (sum, squares) = scaled.fold((0i128, 0u128), |(sum, squares), s| {
            (sum + i128::from(s), squares + u128::from(s.unsigned_abs()) * u128::from(s.unsigned_abs()))
        });
        assert!((numeric.mean_of(4, sum) - 4.9375).abs() < 1e-4);
        assert!((numeric.sd_of(4, sum, squares) - 2.841_5).abs() < 1e-3, "{}", numeric.sd_of(4, sum, squares));
        assert_eq!(numeric.ruler().scaled(1e300), 1 << 30);
    }

    #[test]
    fn categories_are_told_apart() {
        let named = |name: &str, identity| Category { name: name.into(), identity };
        let bins = Categories::new(vec![named("a", 7), named("b", 9)], vec![11, 5], false).unwrap();
        assert_eq!(
            [7, 9, 5, 11, 6].map(|identity| bins.lookup().bin(identity)),
            [(0, false), (1, false), (2, false), (2, false), (3, true)]
        );
        let open = Categories::new(vec![named("a", 7)], vec![], true).unwrap();
        assert_eq!(open.lookup().bin(6), (1, false));
        assert_eq!(Categories::new(vec![], vec![], false).unwrap().lookup().bin(3), (1, true));
        assert!(Categories::new(vec![named("a", 7), named("b", 7)], vec![], false).is_err());
        let bins = Bins::Categories(Box::new(bins));
        assert_eq!((bins.bins(), bins.slots(), bins.strange()), (4, 8, vec![3]));
        assert_eq!([0, 2, 3].map(|bin| bins.name(bin)), ["a", "others", "unseen"]);
    }
}
