//! Where do tensor bytes live so that an engine can read them as numbers?

use bytes::Bytes;

use crate::live::{Kind, Live};

/// A growable run of bytes whose start is aligned for every element type.
///
/// Received tensors are slices of the network's buffer and begin anywhere; engines want them aligned. What is
/// gathered for an engine, or comes out of one, is therefore written here.
#[derive(Clone, Debug)]
pub struct Buffer {
    words: Vec<u64>,
    len: usize,
    _live: Live,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer::of(Vec::new(), 0)
    }
}

impl Buffer {
    /// The alignment of the first byte: that of the widest element.
    pub const ALIGNMENT: usize = align_of::<u64>();

    /// An empty buffer that can take `bytes` bytes without growing.
    pub fn with_capacity(bytes: usize) -> Buffer {
        Buffer::of(Vec::with_capacity(bytes.div_ceil(8)), 0)
    }

    /// A buffer of `bytes` zeros.
    pub fn zeroed(bytes: usize) -> Buffer {
        Buffer::of(vec![0; bytes.div_ceil(8)], bytes)
    }

    fn of(words: Vec<u64>, len: usize) -> Buffer {
        Buffer { words, len, _live: Live::new(Kind::Buffers) }
    }

    /// A buffer with a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::with_capacity(bytes.len());
        buffer.extend(bytes);
        buffer
    }

    /// Appends a copy of `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.words.resize(end.div_ceil(8), 0);
        bytemuck::cast_slice_mut(&mut self.words)[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    /// The bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    /// The bytes written so far, to be changed in place.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }

    /// Whether `bytes` begins at an address that every element type accepts.
    pub fn is_aligned(bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(Buffer::ALIGNMENT)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<Buffer> for Bytes {
    /// Shares the buffer without a copy; the address, and so the alignment, stays.
    fn from(buffer: Buffer) -> Bytes {
        Bytes::from_owner(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_and_stay_aligned() {
        let mut buffer = Buffer::with_capacity(3);
        buffer.extend(&[1, 2, 3]);
        buffer.extend(&[]);
        buffer.extend(&[4, 5, 6, 7, 8, 9]);
        assert_eq!(buffer.as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let bytes = Bytes::from(buffer);
        assert!(Buffer::is_aligned(&bytes));
        assert_eq!(bytes.len(), 9);
    }
}
