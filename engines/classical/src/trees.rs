//! What does a forest of decision trees say of rows of numbers?
//!
//! Formats tell a [`Forest`]: neutral, and believed in nothing. [`Ensemble::new`] checks it (`check.rs`) and lays it out for
//! the kernel that its shape asks for:
//!
//! - `generic.rs`: any test, shared nodes too. One step at a time; the reference for all others.
//! - `walk.rs`: trees of ordered tests (`plain.rs`), however deep; several walks at once, without branches on the data.
//! - `word.rs`: small trees. All tests of a tree are one instruction over ranks of the inputs, and their outcome is one word
//!   of 64 bits.
//!
//! A kernel finds the leaf of each tree; `leaves.rs` makes scores of that, always in the order of the trees, so that all
//! kernels say the same bits. What they say is what ONNX Runtime says on one thread: sums in the precision of the input, a test is
//! true or else false for NaN, but for nodes that send missing values to `then`.

mod check;
mod generic;
mod leaves;
mod plain;
mod scalar;
#[allow(unsafe_code)]
mod simd;
#[cfg(test)]
mod tests;
mod walk;
mod word;

use smallvec::SmallVec;

pub(crate) use self::generic::Question;

use self::generic::Generic;
use self::leaves::Leaves;
use self::scalar::Scalar;
use self::walk::Walk;
use self::word::Word;

/// A forest as formats tell it, not yet checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forest {
    /// Values in a row.
    pub columns: usize,
    /// Scores of a row: outputs of a regressor, classes of a classifier.
    pub targets: usize,
    /// The trees, in the order in which they are summed.
    pub trees: Vec<Tree>,
    /// What is added to scores by whoever makes answers of them: nothing here reads it.
    pub base: Vec<f64>,
}

/// One tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// The first is the root. Children are indices into this list.
    pub nodes: Vec<Node>,
}

/// A node of a tree.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// Goes on to one of two nodes.
    Branch {
        /// Which value of the row is looked at.
        column: u32,
        /// What is asked of it.
        test: Test,
        /// Where it goes on if the test is true.
        then: u32,
        /// Where it goes on if it is not.
        other: u32,
        /// NaN goes on to `then`, whatever the test says. Otherwise the test decides: all but [`Test::Neq`] are false of NaN.
        missing_then: bool,
    },
    /// The end.
    Leaf {
        /// What is said of which target. Where a forest has one target, the first counts, whatever target it names, as ONNX
        /// Runtime has it.
        weights: Weights,
    },
}

/// The weights of a leaf, each for a target. Most leaves have one.
pub type Weights = SmallVec<[(u32, f64); 1]>;

/// A question about a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// At most this.
    Leq(f64),
    /// Less than this.
    Lt(f64),
    /// More than this.
    Gt(f64),
    /// At least this.
    Geq(f64),
    /// Equal to this.
    Eq(f64),
    /// Not equal to this; true of NaN.
    Neq(f64),
    /// Equal to one of these: set membership of opset 5.
    Member(Vec<f64>),
    /// Its whole part is the number of a bit that is set, lowest bit of the first word first: categories of native formats.
    In(Box<[u64]>),
}

/// Of inputs, thresholds, weights and sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

/// What becomes of the trees' weights for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// They are added.
    Sum,
    /// They are added, and divided by the number of trees.
    Average,
    /// The least of them counts; 0 where there is none.
    Min,
    /// The greatest of them counts; 0 where there is none.
    Max,
}

/// Whether a row gets a weight for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Whatever its values.
    Always,
    /// It depends on its values.
    Sometimes,
    /// No leaf has one.
    Never,
}

/// Why a forest is not one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "each says it in its message")]
pub enum ForestError {
    #[error("a forest of {found} {what}, of which at most {most} are possible")]
    TooMany { what: &'static str, found: usize, most: usize },
    #[error("a forest without {what}: one at least is expected")]
    None { what: &'static str },
    #[error("tree {tree} has no nodes: one at least is expected")]
    Empty { tree: usize },
    #[error("node {node} of tree {tree} leads to node {child}, but the tree has {nodes} nodes")]
    Child { tree: usize, node: usize, child: u32, nodes: usize },
    #[error("node {node} of tree {tree} is reached again from itself: a tree has no cycles")]
    Cycle { tree: usize, node: usize },
    #[error("node {node} of tree {tree} looks at column {column}, but rows have {columns} columns")]
    Column { tree: usize, node: usize, column: u32, columns: usize },
    #[error("leaf {node} of tree {tree} has a weight for target {target}, but there are {targets} targets")]
    Target { tree: usize, node: usize, target: u32, targets: usize },
}

/// A forest that was checked and laid out: it scores rows.
#[derive(Debug)]
pub struct Ensemble {
    columns: usize,
    targets: usize,
    scorer: Scorer,
}

#[derive(Debug)]
enum Scorer {
    F32(Laid<f32>),
    F64(Laid<f64>),
}

/// One precision's layout: what finds leaves, and what they are worth.
#[derive(Debug)]
struct Laid<S: Scalar> {
    kernel: Kernel<S>,
    leaves: Leaves<S>,
    /// Where rows get a weight for some targets that others do not get.
    given: Option<Generic<S>>,
}

#[derive(Debug)]
enum Kernel<S: Scalar> {
    Generic(Generic<S>),
    Walk(Walk<S>),
    Word(Word<S>),
}

impl Forest {
    /// Fails where no [`Ensemble`] can be made of it.
    pub(crate) fn check(&self) -> Result<(), ForestError> {
        check::check(self)
    }
}

impl Ensemble {
    /// Checks the forest and lays it out.
    ///
    /// Takes time and memory in proportion to the forest, whatever it holds.
    ///
    /// # Errors
    ///
    /// Where the forest is not one: [`ForestError`] says where and why.
    pub fn new(forest: Forest, precision: Precision, aggregate: Aggregate) -> Result<Ensemble, ForestError> {
        check::check(&forest)?;
        let (columns, targets) = (forest.columns, forest.targets);
        let scorer = match precision {
            Precision::F32 => Scorer::F32(Laid::new(forest, aggregate)),
            Precision::F64 => Scorer::F64(Laid::new(forest, aggregate)),
        };
        Ok(Ensemble { columns, targets, scorer })
    }

    /// Values in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Scores of a row.
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// Whether rows get a weight for each target.
    ///
    /// Where some do and others do not, [`given_f32`](Self::given_f32) tells it of a row: ONNX Runtime's classifier does not
    /// choose a class that no tree spoke of.
    pub fn gives(&self) -> &[Gives] {
        match &self.scorer {
            Scorer::F32(laid) => laid.leaves.gives(),
            Scorer::F64(laid) => laid.leaves.gives(),
        }
    }

    /// Writes the scores of rows: rows × targets, row by row, without base values.
    ///
    /// `rows` is rows × columns values, row by row. An ensemble of double precision takes them widened and rounds its scores.
    ///
    /// # Panics
    ///
    /// If `rows` is no whole number of rows, or `scores` has another number of them.
    pub fn score_f32(&self, rows: &[f32], scores: &mut [f32]) {
        self.assert_shapes(rows.len(), scores.len());
        match &self.scorer {
            Scorer::F32(laid) => laid.score(rows, self.columns, scores),
            Scorer::F64(laid) => {
                let rows: Vec<f64> = rows.iter().map(|&value| f64::from(value)).collect();
                let mut wide = vec![0.0; scores.len()];
                laid.score(&rows, self.columns, &mut wide);
                scores.iter_mut().zip(wide).for_each(|(score, wide)| *score = wide as f32);
            }
        }
    }

    /// Writes the scores of rows: rows × targets, row by row, without base values.
    ///
    /// `rows` is rows × columns values, row by row. An ensemble of single precision takes them rounded.
    ///
    /// # Panics
    ///
    /// If `rows` is no whole number of rows, or `scores` has another number of them.
    pub fn score_f64(&self, rows: &[f64], scores: &mut [f64]) {
        self.assert_shapes(rows.len(), scores.len());
        match &self.scorer {
            Scorer::F64(laid) => laid.score(rows, self.columns, scores),
            Scorer::F32(laid) => {
                let rows: Vec<f32> = rows.iter().map(|&value| value as f32).collect();
                let mut narrow = vec![0.0; scores.len()];
                laid.score(&rows, self.columns, &mut narrow);
                scores.iter_mut().zip(narrow).for_each(|(score, narrow)| *score = f64::from(narrow));
            }
        }
    }

    /// Writes which targets got a weight, rows × targets, row by row. Slow where a target is one that
    /// [`gives`](Self::gives) says [`Sometimes`](Gives::Sometimes) of; not wanted elsewhere.
    ///
    /// # Panics
    ///
    /// If `rows` is no whole number of rows, or `given` has another number of them.
    pub fn given_f32(&self, rows: &[f32], given: &mut [bool]) {
        self.assert_shapes(rows.len(), given.len());
        match &self.scorer {
            Scorer::F32(laid) => laid.given(rows, self.columns, given),
            Scorer::F64(laid) => {
                let rows: Vec<f64> = rows.iter().map(|&value| f64::from(value)).collect();
                laid.given(&rows, self.columns, given);
            }
        }
    }

    /// As [`given_f32`](Self::given_f32).
    ///
    /// # Panics
    ///
    /// If `rows` is no whole number of rows, or `given` has another number of them.
    pub fn given_f64(&self, rows: &[f64], given: &mut [bool]) {
        self.assert_shapes(rows.len(), given.len());
        match &self.scorer {
            Scorer::F64(laid) => laid.given(rows, self.columns, given),
            Scorer::F32(laid) => {
                let rows: Vec<f32> = rows.iter().map(|&value| value as f32).collect();
                laid.given(&rows, self.columns, given);
            }
        }
    }

    fn assert_shapes(&self, values: usize, scores: usize) {
        let rows = values / self.columns;
        assert_eq!(rows * self.columns, values, "{values} values are no rows of {}", self.columns);
        assert_eq!(rows * self.targets, scores, "{rows} rows have {} scores each", self.targets);
    }
}

impl<S: Scalar> Laid<S> {
    fn new(forest: Forest, aggregate: Aggregate) -> Laid<S> {
        let mut leaves = Leaves::new(&forest, aggregate);
        let given = leaves.gives().contains(&Gives::Sometimes).then(|| Generic::new(&forest));
        let kernel = if plain::is_plain(&forest) {
            let trees = plain::plain(forest);
            let word = Word::new(&trees, &leaves).map(Kernel::Word);
            word.unwrap_or_else(|| Kernel::Walk(Walk::new(&trees, &leaves)))
        } else {
            Kernel::Generic(Generic::new(&forest))
        };
        if !matches!(kernel, Kernel::Generic(_)) {
            leaves.told();
        }
        Laid { kernel, leaves, given }
    }

    fn score(&self, rows: &[S], columns: usize, scores: &mut [S]) {
        if rows.is_empty() {
            return;
        }
        scores.fill(S::default());
        match &self.kernel {
            Kernel::Generic(generic) => generic.score(&self.leaves, rows, columns, scores),
            Kernel::Walk(walk) => walk.score(&self.leaves, rows, columns, scores),
            Kernel::Word(word) => word.score(&self.leaves, rows, columns, scores),
        }
        self.leaves.finish(scores);
    }

    fn given(&self, rows: &[S], columns: usize, given: &mut [bool]) {
        let targets = self.leaves.targets();
        for (row, given) in rows.chunks_exact(columns).zip(given.chunks_exact_mut(targets)) {
            let gives = self.leaves.gives().iter();
            given.iter_mut().zip(gives).for_each(|(given, gives)| *given = *gives == Gives::Always);
            if let Some(generic) = &self.given {
                generic.leaves_of(row).for_each(|leaf| self.leaves.mark(leaf, given));
            }
        }
    }
}
