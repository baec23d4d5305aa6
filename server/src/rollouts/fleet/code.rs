//! How is what a replica saw written into letters?
//!
//! Plain numbers one after the other, the lowest byte first. Replicas of different releases may meet: a letter begins with the
//! number of its form, and one that cannot be read is left out and counted.

use smallvec::SmallVec;
use tiltyard_types::Moment;

use crate::rollouts::feedback::notes::Note;
use crate::rollouts::feedback::said::{Answered, Mark, Name, Said, What};
use crate::rollouts::observer::{End, Ended, Side};

/// The form that is written here.
const FORM: u8 = 1;

/// Begins a letter.
pub(super) fn begin() -> Vec<u8> {
    vec![FORM]
}

/// Reads what was written here. Everything is `None` where it is not.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Of a whole letter.
    pub(super) fn new(letter: &'a [u8]) -> Option<Reader<'a>> {
        letter.split_first().filter(|(form, _)| **form == FORM).map(|(_, rest)| Reader(rest))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn small(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn large(&mut self) -> Option<u128> {
        self.take().map(u128::from_le_bytes)
    }

    fn real(&mut self) -> Option<f64> {
        self.number().map(f64::from_bits)
    }

    /// So many bytes as a number before them says.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.small()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// All that is left, one after the other.
    fn all<T>(mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut all = Vec::new();
        while !self.0.is_empty() {
            all.push(read(&mut self)?);
        }
        Some(all)
    }

    pub(super) fn ends(self) -> Option<Vec<End>> {
        self.all(end)
    }

    pub(super) fn notes(self) -> Option<Vec<Note>> {
        self.all(note)
    }

    pub(super) fn said(self) -> Option<Vec<Said>> {
        self.all(said)
    }
}

/// Bytes, and their number before them.
pub(super) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend_from_slice(bytes);
}

pub(super) fn put_number(to: &mut Vec<u8>, number: u64) {
    to.extend(number.to_le_bytes());
}

fn side_of(byte: u8) -> Side {
    if byte & 1 == 0 { Side::Champion } else { Side::Challenger }
}

/// At most 46 bytes.
pub(super) fn put_end(to: &mut Vec<u8>, end: &End) {
    let End { at, key, side, ended, is_over, says } = *end;
    let (how, numbers): (u8, SmallVec<[u64; 3]>) = match ended {
        Ended::Answered { run, rows, nanos } => (0, SmallVec::from_slice(&[run, u64::from(rows), nanos])),
        Ended::NotANumber { run } => (1, SmallVec::from_slice(&[run])),
        Ended::Failed { run } => (2, SmallVec::from_slice(&[run])),
        Ended::Unanswered => (3, SmallVec::new()),
        Ended::Blameless => (4, SmallVec::new()),
    };
    let has_said = !says.is_nan();
    to.push(side as u8 | u8::from(is_over) << 1 | u8::from(has_said) << 2 | how << 3);
    put_number(to, at.as_nanos());
    put_number(to, key);
    numbers.into_iter().for_each(|number| put_number(to, number));
    if has_said {
        put_number(to, says.to_bits());
    }
}

fn end(from: &mut Reader<'_>) -> Option<End> {
    let flags = from.byte()?;
    let (at, key) = (Moment::from_nanos(from.number()?), from.number()?);
    let ended = match flags >> 3 {
        0 => Ended::Answered {
            run: from.number()?,
            rows: u32::try_from(from.number()?).unwrap_or(u32::MAX),
            nanos: from.number()?,
        },
        1 => Ended::NotANumber { run: from.number()? },
        2 => Ended::Failed { run: from.number()? },
        3 => Ended::Unanswered,
        4 => Ended::Blameless,
        _ => return None,
    };
    let says = if flags & 4 == 0 { f64::NAN } else { from.real()? };
    Some(End { at, key, side: side_of(flags), ended, is_over: flags & 2 != 0, says })
}

fn put_mark(to: &mut Vec<u8>, mark: Mark) {
    let (number, name) = mark.parts();
    to.push(u8::from(number.is_some()) | u8::from(name.is_some()) << 1);
    number.into_iter().for_each(|number| put_number(to, number.to_bits()));
    name.into_iter().for_each(|name| put_number(to, name));
}

fn mark(from: &mut Reader<'_>) -> Option<Mark> {
    let flags = from.byte()?;
    let number = if flags & 1 == 0 { None } else { Some(from.real()?) };
    let name = if flags & 2 == 0 { None } else { Some(from.number()?) };
    Some(Mark::of_parts(number, name))
}

pub(super) fn put_note(to: &mut Vec<u8>, note: &Note) {
    let Note { id, key, at_ms, unit, side, rows } = note;
    to.push(*side as u8 | u8::from(key.is_some()) << 1);
    to.extend(id.to_le_bytes());
    key.iter().for_each(|key| to.extend(key.to_le_bytes()));
    put_number(to, *at_ms);
    put_number(to, *unit);
    to.extend(u32::try_from(rows.len()).unwrap_or(u32::MAX).to_le_bytes());
    for row in rows {
        match *row {
            Answered::One(mark) => {
                to.push(1);
                put_mark(to, mark);
            }
            Answered::Both([champion, challenger]) => {
                to.push(2);
                put_mark(to, champion);
                put_mark(to, challenger);
            }
        }
    }
}

fn note(from: &mut Reader<'_>) -> Option<Note> {
    let flags = from.byte()?;
    let id = from.large()?;
    let key = if flags & 2 == 0 { None } else { Some(from.large()?) };
    let (at_ms, unit, count) = (from.number()?, from.number()?, from.small()?);
    let mut rows = SmallVec::new();
    for _ in 0..count {
        rows.push(match from.byte()? {
            1 => Answered::One(mark(from)?),
            2 => Answered::Both([mark(from)?, mark(from)?]),
            _ => return None,
        });
    }
    Some(Note { id, key, at_ms, unit, side: side_of(flags), rows })
}

pub(super) fn put_said(to: &mut Vec<u8>, said: &Said) {
    let Said { name, row, what, at_ms } = *said;
    let (of_key, name) = match name {
        Name::Request(id) => (0, id),
        Name::Key(key) => (1, key),
    };
    let how = match what {
        What::Label(_) => 0,
        What::Outcome(_) => 1,
        What::Withdrawn => 2,
    };
    to.push(of_key | how << 1);
    to.extend(name.to_le_bytes());
    put_number(to, row as u64);
    put_number(to, at_ms.unwrap_or(u64::MAX));
    match what {
        What::Label(mark) => put_mark(to, mark),
        What::Outcome(outcome) => put_number(to, outcome.to_bits()),
        What::Withdrawn => {}
    }
}

fn said(from: &mut Reader<'_>) -> Option<Said> {
    let flags = from.byte()?;
    let id = from.large()?;
    let name = if flags & 1 == 0 { Name::Request(id) } else { Name::Key(id) };
    let (row, at_ms) = (usize::try_from(from.number()?).ok()?, from.number()?);
    let what = match flags >> 1 {
        0 => What::Label(mark(from)?),
        1 => What::Outcome(from.real()?),
        2 => What::Withdrawn,
        _ => return None,
    };
    Some(Said { name, row, what, at_ms: Some(at_ms).filter(|&at_ms| at_ms != u64::MAX) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn side() -> impl Strategy<Value = Side> {
        any::<bool>().prop_map(|is| side_of(u8::from(is)))
    }

    fn ended() -> impl Strategy<Value = Ended> {
        (0..5, any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(how, run, rows, nanos)| match how {
            0 => Ended::Answered { run, rows, nanos },
            1 => Ended::NotANumber { run },
            2 => Ended::Failed { run },
            3 => Ended::Unanswered,
            _ => Ended::Blameless,
        })
    }

    fn marks() -> impl Strategy<Value = Mark> {
        (any::<Option<i32>>(), any::<Option<u64>>())
            .prop_map(|(number, name)| Mark::of_parts(number.map(f64::from), name))
    }

    prop_compose! {
        fn ends()(at: u64, key: u64, side in side(), ended in ended(), is_over: bool, says: i32) -> End {
            End { at: Moment::from_nanos(at), key, side, ended, is_over, says: f64::from(says) / 3.0 }
        }
    }

    prop_compose! {
        fn notes()(
            id: u128, key: Option<u128>, at_ms: u64, unit: u64, side in side(),
            rows in prop::collection::vec((marks(), any::<Option<()>>(), marks()), 0..4),
        ) -> Note {
            let row = |(a, is_pair, b): (Mark, Option<()>, Mark)| is_pair.map_or(Answered::One(a), |()| Answered::Both([a, b]));
            Note { id, key, at_ms, unit, side, rows: rows.into_iter().map(row).collect() }
        }
    }

    prop_compose! {
        fn saids()(id: u128, is_key: bool, row in 0..9usize, how in 0..3, mark in marks(), at: Option<u32>) -> Said {
            let what = [What::Label(mark), What::Outcome(0.1), What::Withdrawn][how as usize];
            let name = if is_key { Name::Key(id) } else { Name::Request(id) };
            Said { name, row, what, at_ms: at.map(u64::from) }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            ends in prop::collection::vec(ends(), 0..9), notes in prop::collection::vec(notes(), 0..9),
            said in prop::collection::vec(saids(), 0..9),
        ) {
            let mut letters = [begin(), begin(), begin()];
            ends.iter().for_each(|end| put_end(&mut letters[0], end));
            notes.iter().for_each(|note| put_note(&mut letters[1], note));
            said.iter().for_each(|said| put_said(&mut letters[2], said));
            let [a, b, c] = &letters;
            prop_assert_eq!(Reader::new(a).and_then(Reader::ends), Some(ends));
            prop_assert_eq!(Reader::new(b).and_then(Reader::notes), Some(notes));
            prop_assert_eq!(Reader::new(c).and_then(Reader::said), Some(said));
        }

        #[test]
        fn whatever_comes_is_read_or_not(letter in prop::collection::vec(any::<u8>(), 0..200)) {
            let read = || Reader::new(&letter);
            drop((read().and_then(Reader::ends), read().and_then(Reader::notes), read().and_then(Reader::said)));
            prop_assert!(letter.first() == Some(&FORM) || read().is_none());
        }
    }

    #[test]
    fn what_says_nothing_stays_so() {
        let end = End {
            at: Moment::from_nanos(1),
            key: 2,
            side: Side::Challenger,
            ended: Ended::Unanswered,
            is_over: true,
            says: f64::NAN,
        };
        let mut letter = begin();
        put_end(&mut letter, &end);
        let read = Reader::new(&letter).and_then(Reader::ends).expect("it is whole");
        assert!(read[0].says.is_nan() && read[0].is_over && read[0].side == Side::Challenger);
        letter.pop();
        assert_eq!(Reader::new(&letter).and_then(Reader::ends), None);
    }
}
