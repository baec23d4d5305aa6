//! How do BYTES elements travel in binary? Each is its length in four little-endian bytes, then its bytes.

use bytes::{BufMut, Bytes};
use tiltyard_types::{Error, Result, Shape, Tensor};

/// Cuts a binary buffer into its elements, without a copy. Fails when lengths lie or the count is not the shape's.
pub(crate) fn decode(name: &str, shape: Shape, raw: &Bytes) -> Result<Tensor> {
    const PREFIX: usize = 4;
    let mut elements = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let lie = |what: String| Error::invalid(format!("input {name:?}: BYTES element {}: {what}", elements.len()));
        let prefix = raw.get(at..at + PREFIX).ok_or_else(|| lie("its length prefix is cut short".to_owned()))?;
        let length = prefix.iter().rev().fold(0usize, |length, &byte| length << 8 | usize::from(byte));
        let start = at + PREFIX;
        let left = raw.len() - start;
        if length > left {
            return Err(lie(format!("its prefix says {length} bytes, but {left} are left")));
        }
        elements.push(raw.slice(start..start + length));
        at = start + length;
    }
    Tensor::strings(shape, elements).map_err(|error| Error::invalid(format!("input {name:?}: {error}")))
}

/// Bytes that [`encode`] writes for these elements.
pub(crate) fn encoded_len(elements: &[Bytes]) -> usize {
    elements.iter().map(|element| 4 + element.len()).sum()
}

/// Writes elements in the binary form.
pub(crate) fn encode(elements: &[Bytes]) -> Bytes {
    let mut buffer = Vec::with_capacity(encoded_len(elements));
    write(elements, &mut buffer);
    Bytes::from(buffer)
}

/// Appends elements in the binary form.
pub(crate) fn write(elements: &[Bytes], buffer: &mut Vec<u8>) {
    for element in elements {
        // Bodies are bounded far below what 32 bits can say.
        buffer.put_u32_le(u32::try_from(element.len()).unwrap_or(u32::MAX));
        buffer.extend_from_slice(element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lying_lengths_are_told() {
        let check = |raw: &'static [u8], expected: &str| {
            let error = decode("x", Shape::from([1]), &Bytes::from_static(raw)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(b"\x05\0\0\0abc", "input \"x\": BYTES element 0: its prefix says 5 bytes, but 3 are left");
        check(b"\x01\0\0\0a\x01\0", "input \"x\": BYTES element 1: its length prefix is cut short");
        check(b"\xff\xff\xff\xffa", "input \"x\": BYTES element 0: its prefix says 4294967295 bytes, but 1 are left");
        check(b"\0\0\0\0\0\0\0\0", "input \"x\": shape [1] has 1 elements, got 2");
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9)) {
            let words: Vec<Bytes> = words.into_iter().map(Bytes::from).collect();
            let decoded = decode("x", Shape::from([words.len()]), &encode(&words)).unwrap();
            prop_assert_eq!(decoded.as_strings().unwrap(), words);
        }

        #[test]
        fn noise_never_panics(raw in prop::collection::vec(any::<u8>(), 0..64), count in 0usize..5) {
            drop(decode("x", Shape::from([count]), &Bytes::from(raw)));
        }
    }
}
