//! Which numbers are in a message of Thrift's compact form?
//!
//! Heads of pages are read with this alone, and a file's directory goes through it before anything makes room for what the
//! directory says that there is. Nothing here is sized by what is said, and nothing goes deeper than [`DEPTH_MAX`].

/// Structures within structures.
const DEPTH_MAX: usize = 32;

/// What is met on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// A whole number; 0 and 1 are what is false and true.
    Number(i64),
    /// The end of a structure.
    End,
}

/// Hears of what is met, with the fields that lead there. An error ends the walk.
type Visit<'a> = dyn FnMut(&[i16], Met) -> Result<(), String> + 'a;

/// Tells `visit` of each number and each end of a structure, with the fields that lead there (elements of a list have the path
/// of their list), and how long the message is. Fails on what is no such message, or not all of one.
pub(super) fn walk(bytes: &[u8], visit: &mut Visit<'_>) -> Result<usize, String> {
    let mut walk = Walk { bytes, at: 0, path: Vec::new(), visit };
    walk.structure()?;
    Ok(walk.at)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    path: Vec<i16>,
    visit: &'a mut Visit<'a>,
}

impl Walk<'_> {
    fn structure(&mut self) -> Result<(), String> {
        let mut field: i16 = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return (self.visit)(&self.path, Met::End);
            }
            let (step, kind) = (i16::from(head >> 4), head & 0x0f);
            let next = match step {
                0 => i16::try_from(self.signed()?).ok(),
                _ => field.checked_add(step),
            };
            field = next.ok_or("a field has a number that none can have")?;
            if self.path.len() == DEPTH_MAX {
                return Err(format!("more than {DEPTH_MAX} structures lie within each other"));
            }
            self.path.push(field);
            match kind {
                // Here alone a field's kind is its value.
                1 | 2 => (self.visit)(&self.path, Met::Number(i64::from(kind == 1)))?,
                _ => self.value(kind)?,
            }
            self.path.pop();
        }
    }

    fn value(&mut self, kind: u8) -> Result<(), String> {
        match kind {
            1..=3 => {
                let number = self.byte()?;
                (self.visit)(&self.path, Met::Number(i64::from(number as i8)))
            }
            4..=6 => {
                let number = self.signed()?;
                (self.visit)(&self.path, Met::Number(number))
            }
            7 => self.skip(8),
            8 => {
                let length = self.unsigned()?;
                self.skip(length)
            }
            9 | 10 => self.list(),
            12 => self.structure(),
            _ => Err(format!("a field is of kind {kind}, which is not used")),
        }
    }

    fn list(&mut self) -> Result<(), String> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.unsigned()? } else { u64::from(head >> 4) };
        if count > (self.bytes.len() - self.at) as u64 {
            return Err("a list has more elements than there are bytes".to_owned());
        }
        // Lists of lists have no fields between them.
        if self.path.len() == DEPTH_MAX || matches!(head & 0x0f, 9 | 10) && count > 0 {
            return Err("lists lie within lists".to_owned());
        }
        (0..count).try_for_each(|_| self.value(head & 0x0f))
    }

    fn byte(&mut self) -> Result<u8, String> {
        let byte = *self.bytes.get(self.at).ok_or("it ends too early")?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, count: u64) -> Result<(), String> {
        let left = (self.bytes.len() - self.at) as u64;
        if count > left {
            return Err("it ends too early".to_owned());
        }
        self.at += count as usize;
        Ok(())
    }

    fn unsigned(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number has too many bytes".to_owned())
    }

    fn signed(&mut self) -> Result<i64, String> {
        let number = self.unsigned()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number and the fields that lead to it.
    type Found = (Vec<i16>, i64);

    fn numbers(bytes: &[u8]) -> Result<(usize, Vec<Found>), String> {
        let mut found = Vec::new();
        let length = walk(bytes, &mut |path, met| {
            if let Met::Number(number) = met {
                found.push((path.to_vec(), number));
            }
            Ok(())
        })?;
        Ok((length, found))
    }

    #[test]
    fn numbers_have_paths() {
        // 1: 3, 2: { 1: true, 4: -1 }, 3: text, 20: [5, 6]; and a byte that is none of it.
        let bytes =
            [0x15, 0x06, 0x1c, 0x11, 0x35, 0x01, 0x00, 0x18, 0x02, b'a', b'b', 0x09, 0x28, 0x25, 0x0a, 0x0c, 0, 7];
        let (length, found) = numbers(&bytes).unwrap();
        assert_eq!(length, bytes.len() - 1);
        assert_eq!(found, [(vec![1], 3), (vec![2, 1], 1), (vec![2, 4], -1), (vec![20], 5), (vec![20], 6)]);
        for end in 0..length {
            assert!(numbers(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn nothing_is_believed() {
        let fails = |bytes: &[u8], words: &str| {
            let error = numbers(bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        fails(&[0x1c; 1000], "within each other");
        fails(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0x7f], "more elements");
        fails(&[0x19, 0x19, 0x19, 0x15, 0], "lists lie within lists");
        fails(&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "too many bytes");
        fails(&[0x1d, 0], "kind 13");
        fails(&[0x05, 0xff, 0xff, 0x7f], "none can have");
    }
}
