//! What does a thread count by itself?
//!
//! Each thread that serves has a shard of its own, so that none waits for another; now and then somebody empties them all into the
//! open hour ([`crate::windows::Windows::absorb`]).

use tiltyard_types::Tensor;

use crate::baseline::Baseline;
use crate::bins::{ABOVE_ALL, BELOW_ALL, Bins, CUTS_MAX, KINDS, Lookup, NAN, NULL, Numeric, Ruler};
use crate::counts::{Counts, Moments};
use crate::distinct::Distinct;
use crate::newcomers::Newcomers;
use crate::values::{Eye, Number, Values, columns, text_identity, text_name};

/// Rows after which a shard must be emptied: its counts have 32 bits.
pub const ROWS_MAX: u64 = 1 << 31;

/// Counts of all features since they were taken last.
#[derive(Clone, Debug)]
pub struct Shard {
    pub(crate) baseline: Baseline,
    places: Vec<Place>,
    pub(crate) keys: Distinct,
    pub(crate) rows: u64,
}

impl Shard {
    /// Nothing yet, of what this baseline watches.
    pub fn new(baseline: &Baseline) -> Shard {
        let places = baseline.features().iter().map(|feature| Place::new(&feature.bins)).collect();
        Shard { baseline: baseline.clone(), places, keys: Distinct::default(), rows: 0 }
    }

    /// Whether there is room for `rows` more; otherwise it has to be emptied first.
    pub fn has_room(&self, rows: usize) -> bool {
        self.rows + (rows as u64) < ROWS_MAX
    }

    /// Counts that there were `rows` rows; their values come by themselves.
    pub fn rows(&mut self, rows: usize) {
        self.rows += rows as u64;
    }

    /// Says whose a row was, by any hash of its key.
    pub fn key(&mut self, key: u64) {
        self.keys.add(key);
    }

    /// Counts values of the feature at this position of the baseline. One that is not there counts nothing.
    pub fn count(&mut self, feature: usize, values: &Values<'_>) {
        match self.places.get_mut(feature) {
            Some(Place::Numeric(counter)) => values.visit(&mut **counter),
            Some(Place::Categories(sorter)) => values.visit(sorter),
            None => {}
        }
    }

    /// Counts the columns of a tensor, each as the feature at its place in `features`: as many as a row has values.
    pub fn tensor(&mut self, features: &[Option<usize>], tensor: &Tensor) {
        let stride = columns(tensor);
        for (column, feature) in features.iter().enumerate().take(stride) {
            if let Some(feature) = feature {
                self.count(*feature, &Values::at(tensor, column, stride));
            }
        }
    }

    /// Adds what was counted of each feature, and forgets it.
    pub(crate) fn take(&mut self, to: &mut [Counts]) {
        self.places.iter_mut().zip(to).for_each(|(place, counts)| place.take(counts));
        self.rows = 0;
        self.keys.clear();
    }
}

/// What is counted of a feature, with what counting needs.
#[derive(Clone, Debug)]
enum Place {
    Numeric(Box<Counter>),
    Categories(Sorter),
}

impl Place {
    fn new(bins: &Bins) -> Place {
        match bins {
            Bins::Numeric(numeric) => Place::Numeric(Box::new(Counter::new(numeric))),
            Bins::Categories(categories) => {
                let (lookup, slots) = (categories.lookup().clone(), vec![0; bins.slots()]);
                Place::Categories(Sorter { lookup, slots, newcomers: None })
            }
        }
    }

    fn take(&mut self, counts: &mut Counts) {
        match self {
            Place::Numeric(counter) => {
                let bins = counts.slots.len() - KINDS;
                add(&mut counts.slots[..bins], &counter.bins);
                add(&mut counts.slots[bins..], &counter.kinds);
                let Counter { sum, squares, min, max, .. } = **counter;
                counts.moments.merge(&Moments { sum: sum.into(), squares, min, max });
                counter.clear();
            }
            Place::Categories(Sorter { slots, newcomers, .. }) => {
                add(&mut counts.slots, slots);
                counts.meet(newcomers.take().as_deref());
                slots.fill(0);
            }
        }
    }
}

fn add(sums: &mut [u64], counts: &[u32]) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(u64::from(*count)));
}

/// Counts numbers. All of it is in seven lines of the processor's cache.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Counter {
    ruler: Ruler,
    /// Of so few rows that they do not overflow.
    sum: i64,
    squares: u128,
    min: f64,
    max: f64,
    bins: [u32; CUTS_MAX + 1],
    kinds: [u32; KINDS],
}

impl Counter {
    fn new(numeric: &Numeric) -> Counter {
        let ruler = numeric.ruler();
        let (bins, kinds) = ([0; CUTS_MAX + 1], [0; KINDS]);
        Counter { ruler, sum: 0, squares: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, bins, kinds }
    }

    fn clear(&mut self) {
        (self.sum, self.squares, self.min, self.max) = (0, 0, f64::INFINITY, f64::NEG_INFINITY);
        (self.bins, self.kinds) = ([0; CUTS_MAX + 1], [0; KINDS]);
    }
}

impl Eye for Counter {
    fn number<N: Number>(&mut self, number: N) {
        let x = number.value();
        if !x.is_finite() {
            self.kinds[kind(x)] += 1;
            return;
        }
        self.bins[self.ruler.bin(x).min(CUTS_MAX)] += 1;
        let scaled = self.ruler.scaled(x);
        self.sum = self.sum.wrapping_add(scaled);
        // At most 2⁶⁰.
        self.squares += u128::from((scaled * scaled).cast_unsigned());
        // −0 would be less than 0 in one order and not in the other.
        let x = x + 0.0;
        self.min = if x < self.min { x } else { self.min };
        self.max = if x > self.max { x } else { self.max };
    }

    /// A text where numbers were: what is not a number.
    fn text(&mut self, _: &[u8]) {
        self.kinds[NAN] += 1;
    }

    fn missing(&mut self, rows: u64) {
        self.kinds[NULL] = self.kinds[NULL].saturating_add(u32::try_from(rows).unwrap_or(u32::MAX));
    }
}

/// What kind of none this is.
fn kind(x: f64) -> usize {
    if x.is_nan() {
        NAN
    } else if x > 0.0 {
        ABOVE_ALL
    } else {
        BELOW_ALL
    }
}

/// Counts categories.
#[derive(Clone, Debug)]
struct Sorter {
    lookup: Lookup,
    slots: Vec<u32>,
    newcomers: Option<Box<Newcomers>>,
}

impl Sorter {
    fn count(&mut self, identity: u64, name: impl FnOnce() -> String) {
        let (bin, is_new) = self.lookup.bin(identity);
        self.slots[bin] += 1;
        if is_new {
            self.newcomers.get_or_insert_default().add(identity, name);
        }
    }

    fn none(&mut self, kind: usize, rows: u64) {
        let bins = self.slots.len() - KINDS;
        let count = &mut self.slots[bins + kind];
        *count = count.saturating_add(u32::try_from(rows).unwrap_or(u32::MAX));
    }
}

impl Eye for Sorter {
    fn number<N: Number>(&mut self, number: N) {
        let x = number.value();
        if x.is_finite() {
            self.count(number.identity(), || number.name());
        } else {
            self.none(kind(x), 1);
        }
    }

    fn text(&mut self, text: &[u8]) {
        self.count(text_identity(text), || text_name(text));
    }

    fn missing(&mut self, rows: u64) {
        self.none(NULL, rows);
    }
}
