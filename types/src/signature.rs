//! What does a model take and give, and does a request fit?

use std::fmt;

use crate::{DataType, Error, NamedTensor, Result, Shape, Tensor};

/// One axis as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// Any length; the name, if there is one, ties axes together in the eyes of its author.
    Dynamic(Option<String>),
}

impl Dim {
    /// The wire's form: the length, or −1 for a dynamic axis.
    pub fn to_wire(&self) -> i64 {
        match self {
            Dim::Fixed(length) => i64::try_from(*length).unwrap_or(i64::MAX),
            Dim::Dynamic(_) => -1,
        }
    }

    /// Whether an axis of `length` fits.
    pub fn accepts(&self, length: usize) -> bool {
        match self {
            Dim::Fixed(expected) => *expected == length,
            Dim::Dynamic(_) => true,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(length) => write!(f, "{length}"),
            Dim::Dynamic(Some(name)) => f.write_str(name),
            Dim::Dynamic(None) => f.write_str("-1"),
        }
    }
}

/// Name, data type and axes of one input or output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    /// The name in the graph, which is the name on the wire.
    pub name: String,
    /// The element type.
    pub dtype: DataType,
    /// The axes; `None` where the model does not even declare a rank.
    pub dims: Option<Vec<Dim>>,
    /// Whether a request may leave this input out: the graph has a default for it.
    pub optional: bool,
}

impl TensorSpec {
    /// The axes in the wire's form, −1 for a dynamic one; empty where the rank is unknown.
    pub fn wire_dims(&self) -> Vec<i64> {
        self.dims.iter().flatten().map(Dim::to_wire).collect()
    }

    /// Whether `shape` fits the declared axes.
    pub fn accepts(&self, shape: &Shape) -> bool {
        match &self.dims {
            None => true,
            Some(dims) => dims.len() == shape.len() && dims.iter().zip(shape.iter()).all(|(dim, &n)| dim.accepts(n)),
        }
    }

    fn check(&self, tensor: &Tensor) -> Result<()> {
        if tensor.dtype() != self.dtype {
            return Err(Error::invalid(format!(
                "input {:?}: expected datatype {}, got {}",
                self.name,
                self.dtype,
                tensor.dtype()
            )));
        }
        if !self.accepts(tensor.shape()) {
            let rank = match &self.dims {
                Some(dims) if dims.len() != tensor.shape().len() => {
                    format!(" ({} axes, got {})", dims.len(), tensor.shape().len())
                }
                _ => String::new(),
            };
            return Err(Error::invalid(format!(
                "input {:?}: expected shape {}{rank}, got {}",
                self.name,
                Axes(self.dims.as_deref()),
                tensor.shape()
            )));
        }
        Ok(())
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.name, self.dtype, Axes(self.dims.as_deref()))
    }
}

/// Prints declared axes as a client would write them.
struct Axes<'a>(Option<&'a [Dim]>);

impl fmt::Display for Axes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(dims) = self.0 else { return f.write_str("[...]") };
        f.write_str("[")?;
        for (position, dim) in dims.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{dim}")?;
        }
        f.write_str("]")
    }
}

/// The contract of a model: its inputs and outputs in the order of its graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Signature {
    /// What it takes.
    pub inputs: Vec<TensorSpec>,
    /// What it gives.
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// Puts a request's tensors into the order of the inputs; an optional input that was left out is `None`.
    ///
    /// Fails on an unknown, doubled or missing input and on a data type, rank or axis that does not fit. The
    /// message says what was expected.
    pub fn arrange(&self, tensors: Vec<NamedTensor>) -> Result<Vec<Option<Tensor>>> {
        let mut arranged: Vec<Option<Tensor>> = Vec::with_capacity(self.inputs.len());
        arranged.resize_with(self.inputs.len(), || None);
        for NamedTensor { name, tensor } in tensors {
            let Some(position) = self.inputs.iter().position(|input| input.name == name) else {
                return Err(Error::invalid(format!(
                    "unknown input {name:?}: the model takes {}",
                    name_list(&self.inputs)
                )));
            };
            self.inputs[position].check(&tensor)?;
            if arranged[position].replace(tensor).is_some() {
                return Err(Error::invalid(format!("input {name:?} is given twice")));
            }
        }
        for (input, tensor) in self.inputs.iter().zip(&arranged) {
            if tensor.is_none() && !input.optional {
                return Err(Error::invalid(format!("missing input {:?}: expected {input}", input.name)));
            }
        }
        Ok(arranged)
    }

    /// The positions of the named outputs, or of all where none is named. Fails on an unknown or doubled name.
    pub fn select<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<usize>> {
        let mut selected = Vec::new();
        for name in names {
            let Some(position) = self.outputs.iter().position(|output| output.name == name) else {
                return Err(Error::invalid(format!(
                    "unknown output {name:?}: the model gives {}",
                    name_list(&self.outputs)
                )));
            };
            if selected.contains(&position) {
                return Err(Error::invalid(format!("output {name:?} is requested twice")));
            }
            selected.push(position);
        }
        if selected.is_empty() {
            selected.extend(0..self.outputs.len());
        }
        Ok(selected)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |specs: &[TensorSpec]| specs.iter().map(TensorSpec::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "({}) -> ({})", list(&self.inputs), list(&self.outputs))
    }
}

/// The names as a person reads them; long lists are cut, since they end up in error messages.
fn name_list(specs: &[TensorSpec]) -> String {
    const SHOWN_MAX: usize = 12;
    let mut names: Vec<String> = specs.iter().take(SHOWN_MAX).map(|spec| format!("{:?}", spec.name)).collect();
    if specs.len() > SHOWN_MAX {
        names.push(format!("… ({} in all)", specs.len()));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, optional: bool) -> TensorSpec {
        let dims = Some(vec![Dim::Dynamic(Some("batch".into())), Dim::Fixed(2)]);
        TensorSpec { name: name.into(), dtype: DataType::Fp32, dims, optional }
    }

    fn signature() -> Signature {
        Signature { inputs: vec![spec("x", false), spec("bias", true)], outputs: vec![spec("y", false)] }
    }

    fn named(name: &str, rows: usize) -> NamedTensor {
        NamedTensor { name: name.into(), tensor: Tensor::from_slice([rows, 2], &vec![0f32; rows * 2]).unwrap() }
    }

    #[track_caller]
    fn check(tensors: Vec<NamedTensor>, expected: &str) {
        assert_eq!(signature().arrange(tensors).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_good_request_is_put_in_order() {
        let arranged = signature().arrange(vec![named("bias", 1), named("x", 1)]).unwrap();
        assert!(arranged.iter().all(Option::is_some));
        let without_bias = signature().arrange(vec![named("x", 3)]).unwrap();
        assert!(without_bias[1].is_none());
    }

    #[test]
    fn a_bad_request_is_told_what_was_expected() {
        check(vec![], "missing input \"x\": expected x FP32[batch, 2]");
        check(vec![named("z", 1)], "unknown input \"z\": the model takes \"x\", \"bias\"");
        check(vec![named("x", 1), named("x", 1)], "input \"x\" is given twice");
        let flat = Tensor::from_slice([2], &[0f32; 2]).unwrap();
        check(
            vec![NamedTensor { name: "x".into(), tensor: flat }],
            "input \"x\": expected shape [batch, 2] (2 axes, got 1), got [2]",
        );
        let wide = Tensor::from_slice([1, 3], &[0f32; 3]).unwrap();
        check(
            vec![NamedTensor { name: "x".into(), tensor: wide }],
            "input \"x\": expected shape [batch, 2], got [1, 3]",
        );
        let integers = Tensor::from_slice([1, 2], &[0i64; 2]).unwrap();
        check(
            vec![NamedTensor { name: "x".into(), tensor: integers }],
            "input \"x\": expected datatype FP32, got INT64",
        );
    }

    #[test]
    fn outputs_are_chosen_by_name() {
        assert_eq!(signature().select([]).unwrap(), [0]);
        assert!(signature().select(["y", "y"]).is_err());
        assert_eq!(signature().select(["q"]).unwrap_err().to_string(), "unknown output \"q\": the model gives \"y\"");
    }
}
