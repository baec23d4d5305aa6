//! How is UBJSON read, the binary form in which XGBoost writes the same document?
//!
//! Values begin with a letter that says their type; numbers have their highest byte first. Nothing is believed about
//! lengths: what is not there is not waited for, nor is memory taken for it.

use super::Refusal;
use super::document::{Budget, Gathered, Item};

/// How many lists and objects may be open at once.
const DEPTH_MAX: usize = 64;

/// Reads a document without what lies under the keys `skipped`, wherever those are.
pub(super) fn read(bytes: &[u8], skipped: &[&str]) -> Result<Item, Refusal> {
    let mut cursor = Cursor { bytes, position: 0, skipped, budget: Budget::new() };
    let marker = cursor.marker()?;
    let item = cursor.value(marker, DEPTH_MAX, true)?;
    match cursor.bytes.len() - cursor.position {
        0 => Ok(item),
        rest => Err(cursor.wrong(format_args!("{rest} bytes follow the document"))),
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    skipped: &'a [&'a str],
    budget: Budget,
}

/// The bytes of a number of this type; `None` for other types.
fn width(marker: u8) -> Option<usize> {
    Some(match marker {
        b'i' | b'U' | b'C' => 1,
        b'I' => 2,
        b'l' | b'd' => 4,
        b'L' | b'D' => 8,
        _ => return None,
    })
}

/// A number of a type that has a [`width`], in as many bytes.
fn number(marker: u8, bytes: &[u8]) -> f64 {
    let mut wide = [0; 8];
    wide[8 - bytes.len()..].copy_from_slice(bytes);
    let bits = u64::from_be_bytes(wide);
    match marker {
        b'i' => f64::from(bits as u8 as i8),
        b'I' => f64::from(bits as u16 as i16),
        b'l' => f64::from(bits as u32 as i32),
        b'L' => bits as i64 as f64,
        b'd' => f64::from(f32::from_bits(bits as u32)),
        b'D' => f64::from_bits(bits),
        _ => bits as f64,
    }
}

impl<'a> Cursor<'a> {
    fn wrong(&self, what: impl std::fmt::Display) -> Refusal {
        Refusal::Bad(format!("not UBJSON: {what} at byte {}", self.position))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let bytes = &self.bytes[self.position..];
        let taken = bytes.get(..count).ok_or_else(|| {
            self.wrong(format_args!("the file ends ({} bytes are left, {count} are needed)", bytes.len()))
        })?;
        self.position += count;
        Ok(taken)
    }

    /// The next byte that is not padding.
    fn marker(&mut self) -> Result<u8, Refusal> {
        loop {
            match self.take(1)?[0] {
                b'N' => {}
                marker => return Ok(marker),
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    /// A length: a whole number of any type.
    fn length(&mut self) -> Result<usize, Refusal> {
        let marker = self.marker()?;
        self.length_of(marker)
    }

    fn length_of(&mut self, marker: u8) -> Result<usize, Refusal> {
        let width = width(marker).filter(|_| !matches!(marker, b'd' | b'D' | b'C'));
        let width = width.ok_or_else(|| self.wrong("a length is no whole number"))?;
        let length = number(marker, self.take(width)?);
        if length < 0.0 || length > self.bytes.len() as f64 {
            return Err(self.wrong(format_args!("a length is {length}")));
        }
        Ok(length as usize)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Refusal> {
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.wrong("a text is not UTF-8"))
    }

    /// The value whose type was read. One that is not `wanted` is read past.
    fn value(&mut self, marker: u8, depth: usize, wanted: bool) -> Result<Item, Refusal> {
        if let Some(width) = width(marker) {
            return Ok(Item::Number(number(marker, self.take(width)?)));
        }
        if wanted {
            self.budget.spend()?;
        }
        match marker {
            b'T' => Ok(Item::Number(1.0)),
            b'F' => Ok(Item::Number(0.0)),
            b'Z' => Ok(Item::Nothing),
            b'S' | b'H' => {
                let length = self.length()?;
                let text = self.text(length)?;
                Ok(if wanted { Item::Text(text.to_owned()) } else { Item::Nothing })
            }
            b'[' | b'{' if depth == 0 => {
                Err(self.wrong(format_args!("more than {DEPTH_MAX} lists and objects in each other")))
            }
            b'[' => self.list(depth - 1, wanted),
            b'{' => self.object(depth - 1, wanted),
            other => Err(self.wrong(format_args!("no value begins with {:?}", char::from(other)))),
        }
    }

    /// The type of all items and how many there are, where a list or an object begins with them.
    fn header(&mut self) -> Result<(Option<u8>, Option<usize>), Refusal> {
        let mut of = None;
        if self.peek() == Some(b'$') {
            self.position += 1;
            of = Some(self.take(1)?[0]);
            if self.peek() != Some(b'#') {
                return Err(self.wrong("a type without a count"));
            }
        }
        if self.peek() != Some(b'#') {
            return Ok((None, None));
        }
        self.position += 1;
        Ok((of, Some(self.length()?)))
    }

    fn list(&mut self, depth: usize, wanted: bool) -> Result<Item, Refusal> {
        let (of, count) = self.header()?;
        if let (Some(of), Some(count)) = (of, count) {
            let width = width(of).ok_or_else(|| self.wrong("a list of one type that is no number"))?;
            let length = count.checked_mul(width).ok_or_else(|| self.wrong("a list is too long"))?;
            let bytes = self.take(length)?;
            let numbers = || bytes.chunks_exact(width).map(|bytes| number(of, bytes)).collect();
            return Ok(if wanted { Item::Numbers(numbers()) } else { Item::Nothing });
        }
        let mut gathered = Gathered::default();
        let mut left = count;
        while left != Some(0) {
            let marker = self.marker()?;
            if left.is_none() && marker == b']' {
                break;
            }
            let item = self.value(marker, depth, wanted)?;
            if wanted {
                gathered.push(item);
            }
            left = left.map(|left| left - 1);
        }
        Ok(gathered.into_item())
    }

    fn object(&mut self, depth: usize, wanted: bool) -> Result<Item, Refusal> {
        let (of, mut left) = self.header()?;
        if of.is_some() {
            return Err(self.wrong("an object of one type"));
        }
        let mut fields = Vec::new();
        while left != Some(0) {
            let marker = self.marker()?;
            if left.is_none() && marker == b'}' {
                break;
            }
            let length = self.length_of(marker)?;
            let key = self.text(length)?;
            let wanted = wanted && !self.skipped.contains(&key);
            let marker = self.marker()?;
            let item = self.value(marker, depth, wanted)?;
            if wanted {
                fields.push((key.to_owned(), item));
            }
            left = left.map(|left| left - 1);
        }
        Ok(Item::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let read = match read(bytes, &["x"]) {
            Ok(item) => format!("{item:?}"),
            Err(Refusal::Bad(what) | Refusal::Unsupported(what)) => what,
        };
        assert!(read.contains(expected), "{read:?} does not contain {expected:?}");
    }

    #[test]
    fn values_are_read_by_their_type() {
        check(b"[i\xffU\xffI\xff\xfel\x00\x00\x00\x05]", "Numbers([-1.0, 255.0, -2.0, 5.0])");
        check(b"[$d#L\x00\x00\x00\x00\x00\x00\x00\x01\x3f\x80\x00\x00", "Numbers([1.0])");
        check(b"[#U\x02TF", "Numbers([1.0, 0.0])");
        check(b"{U\x01aSU\x02hiU\x01x[[ZZ]]}", "Object([(\"a\", Text(\"hi\"))])");
        check(b"{L\x00\x00\x00\x00\x00\x00\x00\x01a[]}", "Object([(\"a\", Numbers([]))])");
    }

    #[test]
    fn what_no_writer_wrote_is_refused() {
        check(b"", "the file ends");
        check(b"[i", "the file ends (0 bytes are left, 1 are needed)");
        check(b"[$d#L\x00\x00\x7f\xff\xff\xff\xff\xff", "a length is");
        check(b"[$d#U\x02\x00\x00\x00\x00", "the file ends (4 bytes are left, 8 are needed)");
        check(b"[$Z#U\x01", "no number");
        check(b"[#d\x3f\x80\x00\x00", "no whole number");
        check(b"[#i\xff", "a length is -1");
        check(b"?", "no value begins with '?'");
        check(b"{U\x01\xffZ}", "not UTF-8");
        check(b"ZZ", "1 bytes follow the document");
        check(&[b'['; 100_000], "more than 64 lists");
        // Padding without end, and a skipped value that is no value.
        check(&[b'N'; 1000], "the file ends");
        check(b"{U\x01x?}", "no value begins");
    }
}
