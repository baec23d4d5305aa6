//! How many different keys sent the rows?
//!
//! HyperLogLog with 1,024 registers (Flajolet and others 2007, without their large-range correction, as hashes have 64 bits): 1 KB,
//! to about 3 %, and few keys nearly exactly. Registers merge by the larger of two, in any order.

use crate::code::{Broken, Reader, put};
use crate::values::mixed;

/// Bits of a hash that choose the register.
const BITS: u32 = 10;

const REGISTERS: usize = 1 << BITS;

/// Keys that were seen: nothing but how many different ones, about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distinct(Option<Box<[u8; REGISTERS]>>);

impl Distinct {
    /// Takes in a key by any hash of it.
    pub(crate) fn add(&mut self, key: u64) {
        let hash = mixed(key, 6);
        let rank = ((hash << BITS) | (1 << (BITS - 1))).leading_zeros() as u8 + 1;
        let registers = self.0.get_or_insert_with(|| Box::new([0; REGISTERS]));
        let register = &mut registers[(hash >> (64 - BITS)) as usize];
        *register = rank.max(*register);
    }

    /// Takes in all that the other saw.
    pub(crate) fn merge(&mut self, other: &Distinct) {
        let Some(theirs) = &other.0 else { return };
        match &mut self.0 {
            None => self.0 = Some(theirs.clone()),
            Some(ours) => ours.iter_mut().zip(theirs.iter()).for_each(|(ours, theirs)| *ours = (*ours).max(*theirs)),
        }
    }

    /// About how many different keys; `None` where none was given.
    pub fn count(&self) -> Option<f64> {
        let registers = self.0.as_ref()?;
        let m = REGISTERS as f64;
        let sum: f64 = registers.iter().map(|&register| 1.0 / (1u64 << register) as f64).sum();
        let rough = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
        let empty = registers.iter().filter(|&&register| register == 0).count();
        Some(if rough <= 2.5 * m && empty > 0 { m * crate::numbers::ln(m / empty as f64) } else { rough })
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Few keys are few bytes: the registers that are not 0, each after how many are.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        let Some(registers) = &self.0 else { return put(bytes, 0) };
        let used = registers.iter().filter(|&&register| register > 0).count();
        put(bytes, used as u128);
        let mut empty = 0;
        for &register in registers.iter() {
            if register == 0 {
                empty += 1;
            } else {
                put(bytes, empty);
                bytes.push(register);
                empty = 0;
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Distinct, Broken> {
        let used = reader.number()?;
        let mut distinct = Distinct::default();
        let mut at = 0usize;
        for _ in 0..used {
            let registers = distinct.0.get_or_insert_with(|| Box::new([0; REGISTERS]));
            at = at.saturating_add(usize::try_from(reader.number()?).unwrap_or(usize::MAX));
            let rank = reader.bytes(1)?[0];
            let register = registers.get_mut(at).filter(|_| (1..=64 - BITS as u8 + 1).contains(&rank));
            *register.ok_or_else(|| Broken(format!("register {at} of keys cannot hold {rank}")))? = rank;
            at += 1;
        }
        Ok(distinct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_to_a_few_parts_in_a_hundred() {
        for keys in [1u64, 10, 200, 3_000, 100_000, 1_000_000] {
            let mut distinct = Distinct::default();
            (0..keys * 2).for_each(|key| distinct.add(key % keys));
            let found = distinct.count().unwrap();
            assert!((found / keys as f64 - 1.0).abs() < 0.08, "{keys}: {found}");
            let mut bytes = Vec::new();
            distinct.write(&mut bytes);
            assert_eq!(Distinct::read(&mut Reader(&bytes)), Ok(distinct));
        }
        assert_eq!(Distinct::default().count(), None);
    }

    #[test]
    fn those_of_two_places_are_counted_once() {
        let [mut a, mut b, mut both] = [(); 3].map(|()| Distinct::default());
        (0..500u64).for_each(|key| a.add(key));
        (250..750u64).for_each(|key| b.add(key));
        (0..750u64).for_each(|key| both.add(key));
        a.merge(&b);
        assert_eq!(a, both);
    }
}
