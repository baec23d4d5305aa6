//! How are rows watched that are too wide to be watched column by column: embeddings, images?
//!
//! By a few numbers for each row: random projections, and its length. Who is far from whom stays about so under random projections
//! (Johnson and Lindenstrauss, 1984), also where each takes but some of the elements, with random signs (Li, Hastie and Church, "Very Sparse
//! Random Projections", KDD 2006). So where rows come to lie elsewhere, some of the projections do. The elements and their signs follow from a
//! seed: the same artifact has the same projections everywhere.

use tiltyard_types::Tensor;

use crate::values::{Eye, Number, Values, columns, mixed};

/// Projections of a row.
pub const PROJECTIONS: usize = 8;

/// Elements of a row that make its length; of wider rows so many stand for all.
const LENGTH_OF: usize = 4_096;

/// Elements of a projection, at least, where the row has as many. Of wider rows it is the root of their width, as in the paper.
const ELEMENTS_MIN: usize = 256;

/// What makes a few numbers of a wide row.
#[derive(Clone, Debug, PartialEq)]
pub struct Projections {
    width: usize,
    /// Of each projection, its elements with their signs.
    projections: Vec<Vec<(u32, f64)>>,
    length_of: Vec<u32>,
}

impl Projections {
    /// For rows of `width` elements. The same seed and width make the same.
    pub fn new(seed: u64, width: usize) -> Projections {
        let count = ((width as f64).sqrt().ceil() as usize).max(ELEMENTS_MIN).min(width);
        let one = |number: usize| {
            let salt = mixed(seed, number as u64 + 1);
            let scale = 1.0 / (count.max(1) as f64).sqrt();
            let sign = |place: u32| if mixed(u64::from(place), salt) & 1 == 0 { scale } else { -scale };
            sample(salt, width, count).into_iter().map(|place| (place, sign(place))).collect()
        };
        let projections = (0..PROJECTIONS).map(one).collect();
        Projections { width, projections, length_of: sample(seed, width, LENGTH_OF.min(width)) }
    }

    /// What the numbers are called, of a tensor of this name.
    pub fn names(tensor: &str) -> Vec<String> {
        let projections = (1..=PROJECTIONS).map(|number| format!("{tensor}[projection {number}]"));
        projections.chain([format!("{tensor}[length]")]).collect()
    }

    /// The numbers of each row as a tensor of as many rows. A row with an element that is no number has no numbers. `None` where the
    /// tensor's rows are not as wide, or hold texts.
    pub fn of(&self, tensor: &Tensor) -> Option<Tensor> {
        let rows = tensor.shape().first().copied().unwrap_or(1);
        if columns(tensor) != self.width || tensor.dtype().width().is_none() {
            return None;
        }
        let wide = PROJECTIONS + 1;
        let mut sums = vec![0.0; rows * wide];
        let mut add = |at: usize, place: u32, weight: f64, is_squared: bool| {
            let mut adder = Adder { sums: &mut sums[at..], wide, row: 0, weight, is_squared };
            Values::at(tensor, place as usize, self.width).visit(&mut adder);
        };
        for (at, elements) in self.projections.iter().enumerate() {
            elements.iter().for_each(|&(place, sign)| add(at, place, sign, false));
        }
        let each = self.width as f64 / self.length_of.len().max(1) as f64;
        self.length_of.iter().for_each(|&place| add(PROJECTIONS, place, each, true));
        sums.iter_mut().skip(PROJECTIONS).step_by(wide).for_each(|sum| *sum = sum.sqrt());
        Tensor::from_slice([rows, wide], &sums).ok()
    }
}

/// Different places below `width`, `count` of them, in order: those whose hashes are smallest.
fn sample(salt: u64, width: usize, count: usize) -> Vec<u32> {
    let mut places: Vec<(u64, u32)> = (0..width as u32).map(|place| (mixed(u64::from(place), !salt), place)).collect();
    if count < places.len() {
        places.select_nth_unstable(count);
        places.truncate(count);
    }
    let mut places: Vec<u32> = places.into_iter().map(|(_, place)| place).collect();
    places.sort_unstable();
    places
}

/// Adds an element of each row to one of its numbers.
struct Adder<'a> {
    sums: &'a mut [f64],
    wide: usize,
    row: usize,
    weight: f64,
    is_squared: bool,
}

impl Adder<'_> {
    fn add(&mut self, x: f64) {
        if let Some(sum) = self.sums.get_mut(self.row * self.wide) {
            *sum += self.weight * if self.is_squared { x * x } else { x };
        }
        self.row += 1;
    }
}

impl Eye for Adder<'_> {
    fn number<N: Number>(&mut self, number: N) {
        self.add(number.value());
    }

    fn text(&mut self, _: &[u8]) {
        self.add(f64::NAN);
    }

    fn missing(&mut self, rows: u64) {
        (0..rows).for_each(|_| self.add(f64::NAN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: usize = 3_000;

    /// Rows whose elements are normal, about, with this mean.
    fn rows(count: usize, seed: u64, mean: impl Fn(usize) -> f64) -> Tensor {
        let even = |at: u64| (mixed(at, seed) >> 11) as f64 / (1u64 << 53) as f64;
        let normal = |at: u64| (0..12).map(|part| even(at * 12 + part)).sum::<f64>() - 6.0;
        let values: Vec<f32> = (0..count * WIDE).map(|at| (normal(at as u64) + mean(at % WIDE)) as f32).collect();
        Tensor::from_slice([count, WIDE], &values).expect("rows")
    }

    fn column(tensor: &Tensor, at: usize) -> Vec<f64> {
        let wide = PROJECTIONS + 1;
        let bytes = tensor.bytes().expect("numbers");
        bytes.chunks_exact(8).skip(at).step_by(wide).map(|b| f64::from_le_bytes(b.try_into().expect("8"))).collect()
    }

    fn mean_sd(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, (values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn projections_keep_how_large_rows_are_and_the_same_seed_makes_the_same() {
        let projections = Projections::new(7, WIDE);
        assert_eq!(projections, Projections::new(7, WIDE));
        assert_ne!(projections, Projections::new(8, WIDE));
        let made = projections.of(&rows(200, 1, |_| 0.0)).expect("numbers");
        for at in 0..PROJECTIONS {
            let (mean, sd) = mean_sd(&column(&made, at));
            assert!(mean.abs() < 0.3 && (0.8..1.2).contains(&sd), "{mean} {sd}");
        }
        let (length, _) = mean_sd(&column(&made, PROJECTIONS));
        assert!((length / (WIDE as f64).sqrt() - 1.0).abs() < 0.02, "{length}");
    }

    #[test]
    fn rows_that_come_to_lie_elsewhere_are_seen() {
        let projections = Projections::new(7, WIDE);
        let still = projections.of(&rows(200, 1, |_| 0.0)).expect("numbers");
        // Each element moves by a fifth of its standard deviation, up or down.
        let moved =
            projections.of(&rows(200, 2, |at| if mixed(at as u64, 3) & 1 == 0 { 0.2 } else { -0.2 })).expect("numbers");
        let largest = (0..=PROJECTIONS).map(|at| {
            let ((before, sd), (after, _)) = (mean_sd(&column(&still, at)), mean_sd(&column(&moved, at)));
            ((after - before) / sd).abs()
        });
        assert!(largest.fold(0.0, f64::max) > 0.5, "of one of them, by half a standard deviation");
    }

    #[test]
    fn what_is_no_such_row_has_no_numbers() {
        let projections = Projections::new(7, 4);
        let of = |tensor: Tensor| projections.of(&tensor);
        assert!(of(Tensor::from_slice([1, 5], &[1.0f32; 5]).expect("a row")).is_none());
        let odd = of(Tensor::from_slice([2, 4], &[1.0f32, f32::NAN, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]).expect("rows"))
            .expect("numbers");
        let lengths = column(&odd, PROJECTIONS);
        assert!(lengths[0].is_nan() && lengths[1] == 4.0, "{lengths:?}");
        assert_eq!(Projections::names("e").len(), PROJECTIONS + 1);
    }
}
