//! How do counts become few bytes, and come back whatever those bytes are?

use std::fmt;

/// Why bytes are not what they are said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub(crate) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// Appends `value`, seven bits a byte: small ones are short.
pub(crate) fn put(bytes: &mut Vec<u8>, mut value: u128) {
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Appends a number that may be negative.
pub(crate) fn put_signed(bytes: &mut Vec<u8>, value: i128) {
    put(bytes, ((value << 1) ^ (value >> 127)).cast_unsigned());
}

/// Appends a float as it is.
pub(crate) fn put_float(bytes: &mut Vec<u8>, value: f64) {
    bytes.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// Appends some bytes with their length.
pub(crate) fn put_bytes(bytes: &mut Vec<u8>, some: &[u8]) {
    put(bytes, some.len() as u128);
    bytes.extend_from_slice(some);
}

/// What is left to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Broken> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(|| Broken("it ends too early".into()))?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Bytes with their length, which is at most `most`.
    pub(crate) fn measured(&mut self, most: usize) -> Result<&'a [u8], Broken> {
        let count = self.number()?;
        if count > most as u64 {
            return Err(Broken(format!("{count} bytes where at most {most} may be")));
        }
        self.bytes(count as usize)
    }

    /// A number of up to 128 bits.
    pub(crate) fn wide(&mut self) -> Result<u128, Broken> {
        let mut value = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.bytes(1)?[0];
            let part = u128::from(byte & 127);
            value |= part << shift;
            if (part << shift) >> shift != part {
                break;
            }
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(Broken("a number is too large".into()))
    }

    /// A number of up to 64 bits.
    pub(crate) fn number(&mut self) -> Result<u64, Broken> {
        u64::try_from(self.wide()?).map_err(|_| Broken("a number is too large".into()))
    }

    /// A number that may be negative.
    pub(crate) fn signed(&mut self) -> Result<i128, Broken> {
        let value = self.wide()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// A float.
    pub(crate) fn float(&mut self) -> Result<f64, Broken> {
        Ok(f64::from_bits(u64::from_le_bytes(self.bytes(8)?.try_into().unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let numbers = [0, 1, 127, 128, u128::from(u64::MAX), u128::MAX];
        let signed = [0, -1, 1, 63, -64, i128::MIN, i128::MAX];
        let mut bytes = Vec::new();
        numbers.iter().for_each(|&number| put(&mut bytes, number));
        signed.iter().for_each(|&number| put_signed(&mut bytes, number));
        put_float(&mut bytes, -0.5);
        let mut reader = Reader(&bytes);
        assert!(numbers.iter().all(|&number| reader.wide() == Ok(number)));
        assert!(signed.iter().all(|&number| reader.signed() == Ok(number)));
        assert_eq!((reader.float(), reader.float().is_err()), (Ok(-0.5), true));
        assert!(Reader(&[255; 19]).wide().is_err());
    }
}
