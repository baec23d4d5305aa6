//! What is a tensor here, and how is it cut into rows without a copy?

use std::ops::Range;

use bytes::Bytes;

use crate::{Buffer, DataType, Element, Shape};

/// An immutable tensor, row major, cheap to clone: its bytes are shared.
///
/// Invariant: the data holds exactly as many elements as the shape says.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DataType,
    shape: Shape,
    data: TensorData,
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// Little-endian numbers without padding. The first byte may be unaligned.
    Fixed(Bytes),
    /// One byte string per element, for [`DataType::Bytes`].
    Strings(Vec<Bytes>),
}

/// Why bytes and a shape do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The number of elements does not fit into memory, whatever the data.
    #[error("shape {0} has more elements than memory can address")]
    TooManyElements(Shape),
    /// A fixed-width type with the wrong number of bytes.
    #[error("{dtype} of shape {shape} is {expected} bytes, got {actual}")]
    Length {
        /// The element type.
        dtype: DataType,
        /// The declared shape.
        shape: Shape,
        /// Bytes that the shape asks for.
        expected: usize,
        /// Bytes that were there.
        actual: usize,
    },
    /// A string tensor with the wrong number of elements.
    #[error("shape {shape} has {expected} elements, got {actual}")]
    Count {
        /// The declared shape.
        shape: Shape,
        /// Elements that the shape asks for.
        expected: usize,
        /// Elements that were there.
        actual: usize,
    },
    /// Numbers were given for BYTES, or strings for numbers.
    #[error("the data is not of datatype {0}")]
    Kind(DataType),
    /// A BOOL element that is neither 0 nor 1.
    #[error("BOOL element {index} is {value}, expected 0 or 1")]
    NotBool {
        /// Position of the element, row major.
        index: usize,
        /// The byte found there.
        value: u8,
    },
}

impl Tensor {
    /// A tensor of numbers over `bytes`, without a copy. Fails when the length is not what the shape asks for,
    /// and for a BOOL byte other than 0 and 1, which engines may not be given.
    pub fn fixed(dtype: DataType, shape: Shape, bytes: impl Into<Bytes>) -> Result<Tensor, TensorError> {
        let bytes = bytes.into();
        let width = dtype.width().ok_or(TensorError::Kind(dtype))?;
        let expected = shape
            .elements()
            .and_then(|elements| elements.checked_mul(width))
            .ok_or_else(|| TensorError::TooManyElements(shape.clone()))?;
        if bytes.len() != expected {
            return Err(TensorError::Length { dtype, shape, expected, actual: bytes.len() });
        }
        if dtype == DataType::Bool
            && let Some(index) = bytes.iter().position(|&byte| byte > 1)
        {
            return Err(TensorError::NotBool { index, value: bytes[index] });
        }
        Ok(Tensor { dtype, shape, data: TensorData::Fixed(bytes) })
    }

    /// A BYTES tensor. Fails when the number of elements is not what the shape asks for.
    pub fn strings(shape: Shape, elements: Vec<Bytes>) -> Result<Tensor, TensorError> {
        let expected = shape.elements().ok_or_else(|| TensorError::TooManyElements(shape.clone()))?;
        if elements.len() != expected {
            return Err(TensorError::Count { shape, expected, actual: elements.len() });
        }
        Ok(Tensor { dtype: DataType::Bytes, shape, data: TensorData::Strings(elements) })
    }

    /// A tensor with an aligned copy of `elements`. Fails when their number is not what the shape asks for.
    pub fn from_slice<T: Element>(shape: impl Into<Shape>, elements: &[T]) -> Result<Tensor, TensorError> {
        Tensor::fixed(T::DTYPE, shape.into(), Buffer::copy_of(bytemuck::cast_slice(elements)))
    }

    /// The element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// The lengths of the axes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        match &self.data {
            TensorData::Fixed(bytes) => bytes.len() / self.dtype.width().unwrap_or(1),
            TensorData::Strings(elements) => elements.len(),
        }
    }

    /// Bytes of payload: what the tensor costs in memory, not counting string headers.
    pub fn size(&self) -> usize {
        match &self.data {
            TensorData::Fixed(bytes) => bytes.len(),
            TensorData::Strings(elements) => elements.iter().map(Bytes::len).sum(),
        }
    }

    /// The bytes of a fixed-width tensor; `None` for BYTES.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.data {
            TensorData::Fixed(bytes) => Some(bytes),
            TensorData::Strings(_) => None,
        }
    }

    /// The elements of a BYTES tensor; `None` for numbers.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            TensorData::Fixed(_) => None,
            TensorData::Strings(elements) => Some(elements),
        }
    }

    /// The elements as numbers, without a copy; `None` when the width differs or the bytes are unaligned
    /// (see [`Tensor::aligned`]). A BOOL tensor can be read as `u8`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        let same_type = T::DTYPE == self.dtype || (self.dtype == DataType::Bool && T::DTYPE == DataType::Uint8);
        match &self.data {
            TensorData::Fixed(bytes) if same_type => bytemuck::try_cast_slice(bytes).ok(),
            _ => None,
        }
    }

    /// The elements as numbers, copied; `None` when the type differs.
    pub fn to_vec<T: Element>(&self) -> Option<Vec<T>> {
        self.aligned().as_slice().map(<[T]>::to_vec)
    }

    /// The same tensor with its first byte aligned: itself where it is already, else a copy.
    pub fn aligned(&self) -> Tensor {
        match &self.data {
            TensorData::Fixed(bytes) if !Buffer::is_aligned(bytes) => {
                let data = TensorData::Fixed(Buffer::copy_of(bytes).into());
                Tensor { dtype: self.dtype, shape: self.shape.clone(), data }
            }
            _ => self.clone(),
        }
    }

    /// The same elements under another shape. Fails when the number of elements differs.
    pub fn reshaped(&self, shape: Shape) -> Result<Tensor, TensorError> {
        match &self.data {
            TensorData::Fixed(bytes) => Tensor::fixed(self.dtype, shape, bytes.clone()),
            TensorData::Strings(elements) => Tensor::strings(shape, elements.clone()),
        }
    }

    /// Rows `range` of the outermost axis, sharing the bytes. `None` for a scalar or rows that are not there.
    pub fn rows(&self, range: Range<usize>) -> Option<Tensor> {
        let total = self.shape.rows()?;
        if range.start > range.end || range.end > total {
            return None;
        }
        let shape = self.shape.with_rows(range.len());
        let per_row = self.elements().checked_div(total).unwrap_or(0);
        let elements = range.start * per_row..range.end * per_row;
        let data = match &self.data {
            TensorData::Fixed(bytes) => {
                let width = self.dtype.width().unwrap_or(1);
                TensorData::Fixed(bytes.slice(elements.start * width..elements.end * width))
            }
            TensorData::Strings(strings) => TensorData::Strings(strings[elements].to_vec()),
        };
        Some(Tensor { dtype: self.dtype, shape, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_slices() {
        let tensor = Tensor::from_slice([3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
        let middle = tensor.rows(1..3).unwrap();
        assert_eq!(middle.shape(), &Shape::from([2, 2]));
        assert_eq!(middle.to_vec::<f32>().unwrap(), [3., 4., 5., 6.]);
        assert_eq!(tensor.rows(2..4), None);
        let empty = tensor.rows(1..1).unwrap();
        assert_eq!((empty.elements(), empty.shape().rows()), (0, Some(0)));
    }

    #[test]
    fn lengths_must_agree() {
        let short = Tensor::fixed(DataType::Fp32, Shape::from([2]), vec![0; 7]);
        assert_eq!(short.unwrap_err().to_string(), "FP32 of shape [2] is 8 bytes, got 7");
        let absurd = Tensor::fixed(DataType::Fp32, Shape::from([1 << 62, 30]), vec![0; 7]);
        assert!(matches!(absurd, Err(TensorError::TooManyElements(_))));
        let nearly = Tensor::fixed(DataType::Fp64, Shape::from([1 << 61]), vec![]);
        assert!(matches!(nearly, Err(TensorError::TooManyElements(_))));
    }

    #[test]
    fn bool_is_zero_or_one() {
        let wild = Tensor::fixed(DataType::Bool, Shape::from([3]), vec![0, 1, 2]);
        assert_eq!(wild, Err(TensorError::NotBool { index: 2, value: 2 }));
    }

    #[test]
    fn unaligned_bytes_are_read_after_a_copy() {
        let mut raw = vec![0u8];
        raw.extend_from_slice(bytemuck::cast_slice(&[1.5f64, -2.0]));
        let tensor = Tensor::fixed(DataType::Fp64, Shape::from([2]), Bytes::from(raw).slice(1..)).unwrap();
        assert_eq!(tensor.to_vec::<f64>().unwrap(), [1.5, -2.0]);
        assert_eq!(tensor.to_vec::<i64>(), None);
    }
}
