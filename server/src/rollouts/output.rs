//! Where do the champion's answers fall, and where do the challenger's?
//!
//! One output is watched: of each answer what its first row says, a number or a class. The champion's first ones say where the bins
//! are, and from then on they stand: no answer is put into a bin that it had a part in.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tiltyard_rollout::evidence::{Arms, Share};
use tiltyard_rollout::plan::Output;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::job::Answer;
use tiltyard_types::{Signature, Tensor};

use super::feedback::notes::numbers;
use super::observer::Side;

/// Units of the champion that say where the bins are.
const SAMPLES: usize = 500;

/// Bins of numbers, each with about as many of those; classes that are told apart.
const BINS: usize = 20;

/// Numbers of one row among which the largest is looked for: beyond that it is an image.
const SCORES_MAX: usize = 1 << 12;

/// Reads the output that is watched. Which of an arm's outputs that is, is found once.
#[derive(Debug)]
pub(super) struct Watched {
    name: Option<String>,
    places: [OnceLock<Option<usize>>; 2],
}

impl Watched {
    pub(super) fn new(output: &Output) -> Watched {
        Watched { name: output.name.clone(), places: Default::default() }
    }

    /// What an answer's first row says: its only number, the place of the largest of several, or a name as a number of its own.
    /// NaN where it says nothing, as where the client asked for other outputs.
    pub(super) fn read(&self, side: Side, deployment: &Deployment, answer: &Answer, wanted: &[usize]) -> f64 {
        let place = self.places[side as usize].get_or_init(|| place(&deployment.signature, self.name.as_deref()));
        let at = place.and_then(|place| wanted.iter().position(|&wanted| wanted == place));
        at.and_then(|at| says(answer.outputs.get(at)?, answer.rows)).unwrap_or(f64::NAN)
    }
}

/// The output of this name, or else the first of numbers with a fraction, or else the first.
fn place(signature: &Signature, name: Option<&str>) -> Option<usize> {
    let outputs = &signature.outputs;
    match name {
        Some(name) => outputs.iter().position(|output| output.name == name),
        None => {
            let first = outputs.iter().position(|output| output.dtype.is_float());
            first.or((!outputs.is_empty()).then_some(0))
        }
    }
}

fn says(tensor: &Tensor, rows: usize) -> Option<f64> {
    if rows == 0 || tensor.shape().rows() != Some(rows) {
        return None;
    }
    let width = tensor.elements() / rows;
    if width == 0 || width > SCORES_MAX {
        return None;
    }
    if let Some(scores) = tensor.as_slice::<f32>() {
        return Some(largest(scores[..width].iter().map(|&score| f64::from(score))));
    }
    let first = tensor.rows(0..1)?;
    if let Some([name]) = first.as_strings() {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        // As many digits as a number has.
        return Some((hasher.finish() >> 11) as f64);
    }
    let numbers = numbers(&first)?;
    // A row of several whole numbers is no score of anything.
    (width == 1 || tensor.dtype().is_float()).then(|| largest(numbers.into_iter()))
}

/// The only number, or the place of the largest, the first of equals.
fn largest(mut numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    if numbers.len() == 1 {
        return numbers.next().unwrap_or(f64::NAN);
    }
    let larger =
        |held: (f64, f64), (at, number): (usize, f64)| if number > held.1 { (at as f64, number) } else { held };
    numbers.enumerate().fold((f64::NAN, f64::NEG_INFINITY), larger).0
}

/// Where the answers of a rollout fall.
#[derive(Debug, Default)]
pub(super) struct Bins {
    /// What the champion's first ones said, until they are enough.
    samples: Vec<f64>,
    cuts: Option<Cuts>,
    open: BTreeMap<Share, Vec<Arms>>,
}

/// Where the bins are.
#[derive(Debug, PartialEq)]
enum Cuts {
    /// One for each of these, and one for all others.
    Classes(Vec<f64>),
    /// One up to each of these, it included, and one above.
    Numbers(Vec<f64>),
}

impl Cuts {
    /// Those of some values: few are told apart one by one, many by their order.
    fn of(mut values: Vec<f64>) -> Cuts {
        values.sort_by(f64::total_cmp);
        let mut each = values.clone();
        each.dedup();
        if each.len() <= BINS {
            return Cuts::Classes(each);
        }
        let mut cuts: Vec<f64> = (1..BINS).map(|part| values[part * values.len() / BINS]).collect();
        cuts.dedup();
        Cuts::Numbers(cuts)
    }

    fn at(&self) -> &[f64] {
        let (Cuts::Classes(at) | Cuts::Numbers(at)) = self;
        at
    }

    fn find(&self, value: f64) -> usize {
        let below = self.at().partition_point(|&cut| cut < value);
        match self {
            Cuts::Classes(classes) if classes.get(below) != Some(&value) => classes.len(),
            Cuts::Classes(_) | Cuts::Numbers(_) => below,
        }
    }
}

impl Bins {
    /// Takes in what a unit's first answer said.
    pub(super) fn count(&mut self, share: Share, side: Side, says: f64) {
        if says.is_nan() {
            return;
        }
        match &self.cuts {
            Some(cuts) => {
                let bins = self.open.entry(share).or_insert_with(|| vec![[0; 2]; cuts.at().len() + 1]);
                bins[cuts.find(says)][side as usize] += 1;
            }
            None if side == Side::Champion && self.samples.len() < SAMPLES => self.samples.push(says),
            None => {}
        }
    }

    /// From here on, bins stand where there were units enough for them.
    pub(super) fn freeze(&mut self) {
        if self.cuts.is_none() && self.samples.len() >= SAMPLES {
            self.cuts = Some(Cuts::of(std::mem::take(&mut self.samples)));
        }
    }

    /// What was counted since the last time, by share.
    pub(super) fn take(&mut self) -> BTreeMap<Share, Vec<Arms>> {
        std::mem::take(&mut self.open)
    }

    /// Where the bins are, for people; null until they stand.
    pub(super) fn form(&self) -> Value {
        match &self.cuts {
            None => Value::Null,
            Some(Cuts::Classes(at)) => json!({ "classes": at }),
            Some(Cuts::Numbers(at)) => json!({ "up_to": at }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HALF: Share = Share { champion: 500_000, challenger: 500_000 };

    #[test]
    fn a_first_row_says_a_number_or_a_class() {
        let score = Tensor::from_slice([2, 1], &[0.25f32, 0.75]).unwrap();
        assert_eq!((says(&score, 2), says(&score, 1)), (Some(0.25), None));
        let scores = Tensor::from_slice([2, 3], &[0.1f64, 0.7, 0.7, 9.0, 0.0, 0.0]).unwrap();
        assert_eq!(says(&scores, 2), Some(1.0));
        assert_eq!(says(&Tensor::from_slice([1], &[7i64]).unwrap(), 1), Some(7.0));
        assert_eq!(says(&Tensor::from_slice([1, 2], &[7i64, 8]).unwrap(), 1), None);
        let name = |name: &'static str| says(&Tensor::strings([1].into(), vec![name.into()]).unwrap(), 1).unwrap();
        assert!(name("late") == name("late") && name("late") != name("early") && name("a").fract() == 0.0);
        let none = Tensor::from_slice([1, 2], &[f32::NAN, f32::NAN]).unwrap();
        assert!(says(&none, 1).unwrap().is_nan());
    }

    #[test]
    fn numbers_fall_into_bins_of_equal_parts_of_the_champions() {
        let mut bins = Bins::default();
        for number in 0..SAMPLES {
            bins.count(HALF, Side::Champion, number as f64);
            bins.count(HALF, Side::Challenger, 1e9);
            bins.count(HALF, Side::Champion, f64::NAN);
        }
        assert!(bins.take().is_empty() && bins.form().is_null(), "there were no bins");
        bins.freeze();
        (0..SAMPLES).for_each(|number| bins.count(HALF, Side::Champion, number as f64));
        bins.count(HALF, Side::Challenger, -1e9);
        bins.count(HALF, Side::Challenger, 1e9);
        let taken = bins.take().remove(&HALF).unwrap();
        assert_eq!(taken.len(), BINS);
        assert!(taken.iter().all(|[champion, _]| (24..=26).contains(champion)), "{taken:?}");
        assert_eq!((taken[0][1], taken[BINS - 1][1]), (1, 1));
        assert!(bins.take().is_empty(), "each is told once");
    }

    #[test]
    fn few_values_are_classes_and_a_new_one_is_among_the_others() {
        let mut bins = Bins::default();
        (0..SAMPLES).for_each(|number| bins.count(HALF, Side::Champion, (number % 3) as f64));
        bins.freeze();
        for class in [0.0, 2.0, 2.0, 1.5, 7.0] {
            bins.count(HALF, Side::Challenger, class);
        }
        assert_eq!(bins.take()[&HALF], [[0, 1], [0, 0], [0, 2], [0, 2]]);
        assert_eq!(bins.form(), json!({ "classes": [0.0, 1.0, 2.0] }));
    }

    #[test]
    fn the_output_is_found_by_name_or_is_the_first_score() {
        let spec =
            |name: &str, dtype| tiltyard_types::TensorSpec { name: name.into(), dtype, dims: None, optional: false };
        use tiltyard_types::DataType::{Fp32, Int64};
        let both = Signature { inputs: Vec::new(), outputs: vec![spec("label", Int64), spec("score", Fp32)] };
        assert_eq!([None, Some("label"), Some("x")].map(|name| place(&both, name)), [Some(1), Some(0), None]);
        let label = Signature { inputs: Vec::new(), outputs: vec![spec("label", Int64)] };
        assert_eq!((place(&label, None), place(&Signature { outputs: Vec::new(), ..label }, None)), (Some(0), None));
    }

    /// Values that are tied leave fewer bins, none of which is empty by itself.
    #[test]
    fn ties_make_fewer_bins() {
        let values: Vec<f64> = (0..SAMPLES).map(|at| if at < 400 { 0.0 } else { at as f64 }).collect();
        let cuts = Cuts::of(values.clone());
        let found: BTreeSet<usize> = values.iter().map(|&value| cuts.find(value)).collect();
        assert_eq!(found.len(), cuts.at().len() + 1, "{cuts:?}");
        assert!(found.len() < BINS);
    }
}
