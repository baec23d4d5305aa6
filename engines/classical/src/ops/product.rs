//! How are matrices multiplied?

use std::ops::{Add, Mul};

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::arithmetic::{Places, same_type};
use crate::node::{Built, Node, bad_shape};
use crate::value::{Item, Type, Value, View};

/// Floats that matrices are of.
trait Float: Item + Copy + Add<Output = Self> + Mul<Output = Self> {
    fn of_single(value: f32) -> Self;
}

impl Float for f32 {
    fn of_single(value: f32) -> f32 {
        value
    }
}

impl Float for f64 {
    fn of_single(value: f32) -> f64 {
        value.into()
    }
}

/// Adds the product of a matrix of `rows` × `depth` and one of `depth` × `columns` to `out`.
fn multiply<T: Float>(left: &[T], right: &[T], (rows, depth, columns): (usize, usize, usize), out: &mut [T]) {
    if depth == 0 || columns == 0 {
        return;
    }
    for row in 0..rows {
        let out = &mut out[row * columns..(row + 1) * columns];
        for (&value, weights) in left[row * depth..(row + 1) * depth].iter().zip(right.chunks_exact(columns)) {
            out.iter_mut().zip(weights).for_each(|(out, &weight)| *out = *out + value * weight);
        }
    }
}

/// The same matrix, its rows as columns.
fn turned<T: Item>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column].clone())).collect()
}

/// `MatMul`: of vectors, matrices, and stacks of matrices that fit.
pub(super) fn matmul(node: &Node<'_>) -> Result<Built, EngineError> {
    fn run<T: Float>(inputs: &[View<'_>], out: &mut Value) -> Result<(), EngineError> {
        let (left, right) = (inputs[0].dims, inputs[1].dims);
        let misfit = || bad_shape(format_args!("{} and {} do not fit", inputs[0].shape(), inputs[1].shape()));
        let (left_stack, [rows, depth]) = match *left {
            [] => return Err(misfit()),
            [depth] => (&left[..0], [1, depth]),
            [ref stack @ .., rows, depth] => (stack, [rows, depth]),
        };
        let (right_stack, [own_depth, columns]) = match *right {
            [] => return Err(misfit()),
            [depth] => (&right[..0], [depth, 1]),
            [ref stack @ .., depth, columns] => (stack, [depth, columns]),
        };
        if depth != own_depth {
            return Err(misfit());
        }
        let stack = super::arithmetic::meet(left_stack, right_stack)?;
        let mut shape = stack.to_vec();
        if left.len() > 1 {
            shape.push(rows);
        }
        if right.len() > 1 {
            shape.push(columns);
        }
        let out = out.fill::<T>(Shape::from(&shape[..]))?;
        out.fill(T::default());
        let (a, b) = (inputs[0].get::<T>()?, inputs[1].get::<T>()?);
        let (mut of_left, mut of_right) = (Places::new(&stack, left_stack), Places::new(&stack, right_stack));
        for at in 0..stack.elements().unwrap_or(0) {
            let (left, right) = (of_left.next() * rows * depth, of_right.next() * depth * columns);
            let own = at * rows * columns..(at + 1) * rows * columns;
            let (left, right) = (&a[left..left + rows * depth], &b[right..right + depth * columns]);
            multiply(left, right, (rows, depth, columns), &mut out[own]);
        }
        Ok(())
    }
    if node.types.len() != 2 {
        return Err(node.bad("two inputs are expected"));
    }
    match same_type(node, &[Type::F32, Type::F64])? {
        Type::F32 => Built::new(&[Type::F32], |inputs, outputs| run::<f32>(inputs, &mut outputs[0])),
        _ => Built::new(&[Type::F64], |inputs, outputs| run::<f64>(inputs, &mut outputs[0])),
    }
}

/// `Gemm`: α·A·B + β·C.
#[derive(Clone, Copy)]
struct Gemm {
    alpha: f32,
    beta: f32,
    turns: [bool; 2],
}

pub(super) fn gemm(node: &Node<'_>) -> Result<Built, EngineError> {
    let turns = [node.int("transA", 0) != 0, node.int("transB", 0) != 0];
    let gemm = Gemm { alpha: node.float("alpha", 1.0), beta: node.float("beta", 1.0), turns };
    if !(2..=3).contains(&node.types.len()) || (node.has(2) && node.kind(2)? != node.kind(0)?) {
        return Err(node.bad("two or three inputs of one type are expected"));
    }
    if node.kind(1)? != node.kind(0)? {
        return Err(node.bad("two or three inputs of one type are expected"));
    }
    match node.one_of(&[Type::F32, Type::F64])? {
        Type::F32 => Built::new(&[Type::F32], move |inputs, outputs| gemm.run::<f32>(inputs, &mut outputs[0])),
        _ => Built::new(&[Type::F64], move |inputs, outputs| gemm.run::<f64>(inputs, &mut outputs[0])),
    }
}

impl Gemm {
    fn run<T: Float>(self, inputs: &[View<'_>], out: &mut Value) -> Result<(), EngineError> {
        let misfit = || bad_shape(format_args!("{} and {} do not fit", inputs[0].shape(), inputs[1].shape()));
        let (&[a, b], &[c, d]) = (inputs[0].dims, inputs[1].dims) else { return Err(misfit()) };
        let (rows, depth) = if self.turns[0] { (b, a) } else { (a, b) };
        let (own_depth, columns) = if self.turns[1] { (d, c) } else { (c, d) };
        if depth != own_depth {
            return Err(misfit());
        }
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let straight = |values: &mut Vec<T>, input: usize, turns: bool| -> Result<(), EngineError> {
            let &[rows, columns] = inputs[input].dims else { return Err(misfit()) };
            let elements = inputs[input].get::<T>()?;
            *values = if turns { turned(elements, rows, columns) } else { elements.to_vec() };
            Ok(())
        };
        straight(&mut left, 0, self.turns[0])?;
        straight(&mut right, 1, self.turns[1])?;
        let shape = Shape::from([rows, columns]);
        let out = out.fill::<T>(shape.clone())?;
        out.fill(T::default());
        multiply(&left, &right, (rows, depth, columns), out);
        let alpha = T::of_single(self.alpha);
        out.iter_mut().for_each(|out| *out = alpha * *out);
        if let Some(added) = inputs.get(2).filter(|view| !view.is_absent()) {
            if *super::arithmetic::meet(&shape, added.dims)? != *shape {
                return Err(bad_shape(format_args!("{} is added to {shape}", added.shape())));
            }
            let (elements, beta) = (added.get::<T>()?, T::of_single(self.beta));
            let mut places = Places::new(&shape, added.dims);
            out.iter_mut().for_each(|out| *out = *out + beta * elements[places.next()]);
        }
        Ok(())
    }
}
