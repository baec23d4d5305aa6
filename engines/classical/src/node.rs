//! What does an operator learn of its node when a graph is compiled?
//!
//! Attributes with their checks, the types of what it reads, and the values of what it reads where those are weights.

use bytes::Bytes;
use tiltyard_runtime::engine::EngineError;

use crate::value::{Slice, Type, Value, View};
use crate::weights::{self, External};
use crate::wire;

/// What a node does at each run: reads `inputs` and writes every one of the outputs.
pub(crate) type Kernel = Box<dyn Fn(&[View<'_>], &mut [Value]) -> Result<(), EngineError> + Send + Sync>;

/// An operator that is ready to run.
pub(crate) struct Built {
    pub(crate) kernel: Kernel,
    /// The type of each output that the operator has, wanted or not.
    pub(crate) outputs: Vec<Type>,
    /// Whether the only output is the first input as it is: such a node never runs.
    pub(crate) passes: bool,
}

impl Built {
    pub(crate) fn new(
        outputs: &[Type],
        kernel: impl Fn(&[View<'_>], &mut [Value]) -> Result<(), EngineError> + Send + Sync + 'static,
    ) -> Result<Built, EngineError> {
        Ok(Built { kernel: Box::new(kernel), outputs: outputs.to_vec(), passes: false })
    }

    /// An operator that changes nothing.
    pub(crate) fn pass(kind: Type) -> Result<Built, EngineError> {
        Ok(Built { kernel: Box::new(|_, _| Ok(())), outputs: vec![kind], passes: true })
    }
}

/// A node under compilation.
pub(crate) struct Node<'a> {
    pub(crate) wire: &'a wire::Node,
    pub(crate) attributes: &'a [wire::Attribute],
    /// The type of each input; `None` for one that is left out.
    pub(crate) types: Vec<Option<Type>>,
    /// The value of each input that is a weight.
    pub(crate) weights: Vec<Option<&'a Value>>,
    /// How many columns each input has, where it is a matrix of the request of which that is known.
    pub(crate) widths: Vec<Option<usize>>,
    /// The version of the operator set that the operator is of.
    pub(crate) opset: i64,
    pub(crate) external: &'a External,
}

/// Labels of classes, as operators of `ai.onnx.ml` have them.
#[derive(Clone, Debug)]
pub(crate) enum Labels {
    Numbers(Vec<i64>),
    Texts(Vec<Bytes>),
}

impl Labels {
    pub(crate) fn len(&self) -> usize {
        match self {
            Labels::Numbers(labels) => labels.len(),
            Labels::Texts(labels) => labels.len(),
        }
    }

    pub(crate) fn kind(&self) -> Type {
        match self {
            Labels::Numbers(_) => Type::I64,
            Labels::Texts(_) => Type::Text,
        }
    }

    /// Writes the label of one class for each row. Fails where `class_of` names a class that has none.
    pub(crate) fn write(
        &self,
        rows: usize,
        out: &mut Value,
        mut class_of: impl FnMut(usize) -> usize,
    ) -> Result<(), EngineError> {
        let missing = |class: usize| EngineError::Failed(format!("class {class} has no label"));
        let shape = tiltyard_types::Shape::from([rows]);
        match self {
            Labels::Numbers(labels) => {
                for (row, label) in out.fill::<i64>(shape)?.iter_mut().enumerate() {
                    let class = class_of(row);
                    *label = *labels.get(class).ok_or_else(|| missing(class))?;
                }
            }
            Labels::Texts(labels) => {
                let written = out.start::<Bytes>(shape)?;
                for row in 0..rows {
                    let class = class_of(row);
                    written.push(labels.get(class).ok_or_else(|| missing(class))?.clone());
                }
            }
        }
        Ok(())
    }
}

impl<'a> Node<'a> {
    /// The operator as messages name it.
    pub(crate) fn operator(&self) -> String {
        match self.wire.domain.as_str() {
            "" | "ai.onnx" => self.wire.op_type.clone(),
            domain => format!("{domain}.{}", self.wire.op_type),
        }
    }

    /// The model is at fault.
    pub(crate) fn bad(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::BadModel(format!("node {:?} ({}): {what}", self.wire.name, self.operator()))
    }

    /// Another engine may have what is missing here.
    pub(crate) fn unsupported(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::Unsupported(format!("the classical engine does not have {} with {what}", self.operator()))
    }

    /// The type of an input that must be there.
    pub(crate) fn kind(&self, input: usize) -> Result<Type, EngineError> {
        let kind = self.types.get(input).copied().flatten();
        kind.ok_or_else(|| self.bad(format_args!("its input {input} is missing")))
    }

    pub(crate) fn width(&self, input: usize) -> Option<usize> {
        self.widths.get(input).copied().flatten()
    }

    pub(crate) fn has(&self, input: usize) -> bool {
        self.types.get(input).copied().flatten().is_some()
    }

    /// The type of the first input, where it is one of `kinds`.
    pub(crate) fn one_of(&self, kinds: &[Type]) -> Result<Type, EngineError> {
        let kind = self.kind(0)?;
        if kinds.contains(&kind) { Ok(kind) } else { Err(self.unsupported(format_args!("{}", kind.dtype()))) }
    }

    /// The integers of an input that is a weight; `None` where it is left out. Fails where it is computed.
    pub(crate) fn constant_ints(&self, input: usize) -> Result<Option<Vec<i64>>, EngineError> {
        if !self.has(input) {
            return Ok(None);
        }
        let value = self.weights.get(input).copied().flatten();
        let value = value.ok_or_else(|| self.unsupported(format_args!("an input {input} that is computed")))?;
        match value.view().data {
            Slice::I64(elements) => Ok(Some(elements.to_vec())),
            Slice::I32(elements) => Ok(Some(elements.iter().map(|&element| element.into()).collect())),
            _ => Err(self.bad(format_args!("its input {input} is not of integers"))),
        }
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&'a wire::Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i)
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.f)
    }

    pub(crate) fn has_attribute(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    pub(crate) fn text(&self, name: &str, default: &'static str) -> Bytes {
        self.attribute(name)
            .map_or(Bytes::from_static(default.as_bytes()), |attribute| Bytes::copy_from_slice(&attribute.s))
    }

    pub(crate) fn ints(&self, name: &str) -> &'a [i64] {
        self.attribute(name).map_or(&[], wire::Attribute::ints)
    }

    pub(crate) fn floats(&self, name: &str) -> &'a [f32] {
        self.attribute(name).map_or(&[], wire::Attribute::floats)
    }

    /// Texts as they lie in the file.
    pub(crate) fn texts(&self, name: &str) -> &'a [Bytes] {
        self.attribute(name).map_or(&[], wire::Attribute::strings)
    }

    /// Texts that may be kept: copies, which do not keep the file in memory.
    pub(crate) fn kept_texts(&self, name: &str) -> Vec<Bytes> {
        self.texts(name).iter().map(|text| Bytes::copy_from_slice(text)).collect()
    }

    /// A tensor among the attributes.
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<Value>, EngineError> {
        let tensor = self.attribute(name).and_then(|attribute| attribute.t.as_ref());
        tensor.map(|tensor| weights::read(tensor, self.external)).transpose()
    }

    /// The labels of classes. Fails where there are none, and where there are two kinds.
    pub(crate) fn labels(&self, numbers: &str, texts: &str) -> Result<Labels, EngineError> {
        match (self.ints(numbers), self.texts(texts)) {
            ([], []) => Err(self.bad(format_args!("neither {numbers} nor {texts} is there"))),
            (labels, []) => Ok(Labels::Numbers(labels.to_vec())),
            ([], _) => Ok(Labels::Texts(self.kept_texts(texts))),
            _ => Err(self.bad(format_args!("both {numbers} and {texts} are there"))),
        }
    }
}

/// The axis that a number counted from either end means.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// The error of a request whose shapes an operator cannot work with.
pub(crate) fn bad_shape(what: impl std::fmt::Display) -> EngineError {
    EngineError::BadInput(what.to_string())
}
