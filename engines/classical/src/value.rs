//! What is a value between two operators?
//!
//! A shape and a vector of one of six types. A session keeps its values from run to run, so that their memory is used
//! again; operators see what they read as slices, whether it is a request's tensor, a weight or another's output.

use bytes::Bytes;
use tiltyard_runtime::engine::EngineError;
use tiltyard_types::{DataType, Shape, Tensor};

/// The most elements that a value may have: what a request or a model makes larger is refused instead of taking the
/// process's memory.
pub(crate) const ELEMENTS_MAX: usize = 1 << 27;

/// The element types that this engine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    F32,
    F64,
    I64,
    I32,
    Bool,
    Text,
}

impl Type {
    /// The type of `TensorProto.DataType`; `None` for those that are not known here.
    pub(crate) fn of_wire(number: i64) -> Option<Type> {
        Some(match number {
            1 => Type::F32,
            6 => Type::I32,
            7 => Type::I64,
            8 => Type::Text,
            9 => Type::Bool,
            11 => Type::F64,
            _ => return None,
        })
    }

    pub(crate) fn of(dtype: DataType) -> Option<Type> {
        Some(match dtype {
            DataType::Fp32 => Type::F32,
            DataType::Fp64 => Type::F64,
            DataType::Int64 => Type::I64,
            DataType::Int32 => Type::I32,
            DataType::Bool => Type::Bool,
            DataType::Bytes => Type::Text,
            _ => return None,
        })
    }

    pub(crate) fn dtype(self) -> DataType {
        match self {
            Type::F32 => DataType::Fp32,
            Type::F64 => DataType::Fp64,
            Type::I64 => DataType::Int64,
            Type::I32 => DataType::Int32,
            Type::Bool => DataType::Bool,
            Type::Text => DataType::Bytes,
        }
    }
}

/// Elements that somebody else owns. A bool is a byte, 0 or 1.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slice<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    Bool(&'a [u8]),
    Text(&'a [Bytes]),
    /// An optional input that a node does without.
    Absent,
}

/// What an operator reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) dims: &'a [usize],
    pub(crate) data: Slice<'a>,
}

/// Elements of one type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    Bool(Vec<u8>),
    Text(Vec<Bytes>),
}

/// What an operator writes: as many elements as the shape says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    pub(crate) shape: Shape,
    pub(crate) data: Data,
}

impl Default for Value {
    fn default() -> Value {
        Value { shape: Shape::from([0]), data: Data::F32(Vec::new()) }
    }
}

/// A Rust type that elements have.
pub(crate) trait Item: Clone + Default + PartialEq + Send + Sync + 'static {
    const TYPE: Type;
    /// The elements of a slice of this type.
    fn of<'a>(data: &Slice<'a>) -> Option<&'a [Self]>;
    /// The vector to write to, with whatever it held before, of this type from now on.
    fn vector(data: &mut Data) -> &mut Vec<Self>;
}

macro_rules! item {
    ($type:ty, $variant:ident) => {
        impl Item for $type {
            const TYPE: Type = Type::$variant;
            fn of<'a>(data: &Slice<'a>) -> Option<&'a [$type]> {
                match data {
                    Slice::$variant(elements) => Some(elements),
                    _ => None,
                }
            }
            fn vector(data: &mut Data) -> &mut Vec<$type> {
                if !matches!(data, Data::$variant(_)) {
                    *data = Data::$variant(Vec::new());
                }
                match data {
                    Data::$variant(elements) => elements,
                    _ => unreachable!("it was made so above"),
                }
            }
        }
    };
}

item!(f32, F32);
item!(f64, F64);
item!(i64, I64);
item!(i32, I32);
item!(u8, Bool);
item!(Bytes, Text);

impl Value {
    /// The elements to write, as many as `shape` says, each `T::default()` or what an earlier run left. Fails where they are
    /// too many.
    pub(crate) fn fill<T: Item>(&mut self, shape: Shape) -> Result<&mut [T], EngineError> {
        let count = checked_count(&shape)?;
        self.shape = shape;
        let elements = T::vector(&mut self.data);
        elements.resize(count, T::default());
        Ok(elements)
    }

    /// An empty vector to push as many elements to as `shape` says.
    pub(crate) fn start<T: Item>(&mut self, shape: Shape) -> Result<&mut Vec<T>, EngineError> {
        let count = checked_count(&shape)?;
        self.shape = shape;
        let elements = T::vector(&mut self.data);
        elements.clear();
        elements.reserve(count);
        Ok(elements)
    }

    pub(crate) fn of<T: Item>(shape: Shape, elements: Vec<T>) -> Value {
        let mut value = Value { shape, data: Data::Bool(Vec::new()) };
        *T::vector(&mut value.data) = elements;
        value
    }

    /// How many elements it has.
    pub(crate) fn len(&self) -> usize {
        self.shape.elements().unwrap_or(usize::MAX)
    }

    pub(crate) fn kind(&self) -> Type {
        match self.data {
            Data::F32(_) => Type::F32,
            Data::F64(_) => Type::F64,
            Data::I64(_) => Type::I64,
            Data::I32(_) => Type::I32,
            Data::Bool(_) => Type::Bool,
            Data::Text(_) => Type::Text,
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        let data = match &self.data {
            Data::F32(elements) => Slice::F32(elements),
            Data::F64(elements) => Slice::F64(elements),
            Data::I64(elements) => Slice::I64(elements),
            Data::I32(elements) => Slice::I32(elements),
            Data::Bool(elements) => Slice::Bool(elements),
            Data::Text(elements) => Slice::Text(elements),
        };
        View { dims: &self.shape, data }
    }
}

fn checked_count(shape: &Shape) -> Result<usize, EngineError> {
    match shape.elements() {
        Some(count) if count <= ELEMENTS_MAX => Ok(count),
        _ => Err(EngineError::OutOfMemory(format!(
            "a value of shape {shape} would have more than {ELEMENTS_MAX} elements"
        ))),
    }
}

impl<'a> View<'a> {
    pub(crate) const ABSENT: View<'static> = View { dims: &[], data: Slice::Absent };

    /// The elements, where they are of type `T`. Types are settled when a graph is compiled, so that this fails only
    /// where this engine is wrong.
    pub(crate) fn get<T: Item>(&self) -> Result<&'a [T], EngineError> {
        T::of(&self.data).ok_or_else(|| EngineError::Failed(format!("an operator was given other than {:?}", T::TYPE)))
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.data, Slice::Absent)
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape::from(self.dims)
    }

    /// Rows and columns as the operators of `ai.onnx.ml` understand a shape: a vector is one row, axes beyond the second
    /// belong to the columns. Fails for a scalar.
    pub(crate) fn matrix(&self) -> Result<(usize, usize), EngineError> {
        match *self.dims {
            [] => Err(EngineError::BadInput("a scalar was given where rows of columns are expected".into())),
            [columns] => Ok((1, columns)),
            [rows, ref rest @ ..] => Ok((rows, rest.iter().product())),
        }
    }

    /// What a request's tensor holds. Fails where it is not aligned or of another type than the engine knows.
    pub(crate) fn of_tensor(tensor: &'a Tensor) -> Result<View<'a>, EngineError> {
        let data = match tensor.dtype() {
            DataType::Fp32 => tensor.as_slice().map(Slice::F32),
            DataType::Fp64 => tensor.as_slice().map(Slice::F64),
            DataType::Int64 => tensor.as_slice().map(Slice::I64),
            DataType::Int32 => tensor.as_slice().map(Slice::I32),
            DataType::Bool => tensor.as_slice().map(Slice::Bool),
            DataType::Bytes => tensor.as_strings().map(Slice::Text),
            _ => None,
        };
        let data = data.ok_or_else(|| EngineError::Failed(format!("a tensor of {} is not aligned", tensor.dtype())))?;
        Ok(View { dims: tensor.shape(), data })
    }

    /// A tensor with a copy, in memory of its own.
    pub(crate) fn to_tensor(self) -> Result<Tensor, EngineError> {
        let shape = self.shape();
        let tensor = match self.data {
            Slice::F32(elements) => Tensor::from_slice(shape, elements),
            Slice::F64(elements) => Tensor::from_slice(shape, elements),
            Slice::I64(elements) => Tensor::from_slice(shape, elements),
            Slice::I32(elements) => Tensor::from_slice(shape, elements),
            Slice::Bool(elements) => Tensor::fixed(DataType::Bool, shape, tiltyard_types::Buffer::copy_of(elements)),
            Slice::Text(elements) => Tensor::strings(shape, elements.to_vec()),
            Slice::Absent => return Err(EngineError::Failed("an output was never written".into())),
        };
        tensor.map_err(|error| EngineError::Failed(error.to_string()))
    }
}
