//! How long is each axis of a tensor, and how many elements is that?

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

/// The concrete lengths of a tensor's axes, outermost first. A scalar has none.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(SmallVec<[usize; 4]>);

impl Shape {
    /// The number of elements, or `None` when it does not fit into a `usize`.
    ///
    /// A zero among the axes makes it zero however absurd the others are.
    pub fn elements(&self) -> Option<usize> {
        if self.0.contains(&0) {
            return Some(0);
        }
        self.0.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis))
    }

    /// The length of the outermost axis; `None` for a scalar.
    pub fn rows(&self) -> Option<usize> {
        self.0.first().copied()
    }

    /// The same shape with `rows` on the outermost axis. A scalar stays a scalar.
    pub fn with_rows(&self, rows: usize) -> Shape {
        let mut shape = self.clone();
        if let Some(first) = shape.0.first_mut() {
            *first = rows;
        }
        shape
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<&[usize]> for Shape {
    fn from(axes: &[usize]) -> Shape {
        Shape(SmallVec::from_slice(axes))
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(axes: [usize; N]) -> Shape {
        Shape(SmallVec::from_slice(&axes))
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(axes: I) -> Shape {
        Shape(axes.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (position, axis) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{axis}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_shapes_do_not_overflow() {
        assert_eq!(Shape::from([1 << 40, 1 << 40]).elements(), None);
        assert_eq!(Shape::from([1 << 40, 1 << 40, 0]).elements(), Some(0));
        assert_eq!(Shape::from([]).elements(), Some(1));
        assert_eq!(Shape::from([2, 3]).to_string(), "[2, 3]");
    }
}
