//! Do the decoders keep their promises on damaged input? The seeds of the fuzz targets are bent, cut and spliced, the
//! same way in every run: what libFuzzer does for longer, and guided, with `fuzz/run`. `TILTYARD_NOISE=30` makes thirty times as
//! many inputs, 75 million in all.

#[path = "../../fuzz/src/decoders.rs"]
mod decoders;

use std::panic::{AssertUnwindSafe, catch_unwind};

use decoders::{DECODERS, Decoder};
use tiltyard_tests::root;

/// Damaged inputs for each decoder.
const INPUTS: u32 = 200_000;

/// The same where a model may run for each.
const INPUTS_SERVED: u32 = 20_000;

/// A longer input tells nothing new.
const INPUT_BYTES_MAX: usize = 8192;

/// Xorshift, 64 bits.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`, which is above 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below a usize")
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let (one, other) = (self.below(length + 1), self.below(length + 1));
        one.min(other)..one.max(other)
    }
}

/// Bytes at which decoders decide something.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\"\\[]{},:-+.eE0919 \n/u<>#";

fn damage(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    if input.is_empty() {
        input.push(0);
    }
    let at = random.below(input.len());
    match random.below(8) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = TELLING[random.below(TELLING.len())],
        2 => input.insert(at, TELLING[random.below(TELLING.len())]),
        3 => drop(input.drain(random.range(input.len()))),
        4 => input.truncate(at),
        5 => {
            let copied = input[random.range(input.len())].to_vec();
            input.splice(at..at, copied);
        }
        6 => {
            let other = &seeds[random.below(seeds.len())];
            let taken = other[random.range(other.len())].to_vec();
            let replaced = random.range(input.len());
            input.splice(replaced, taken);
        }
        _ => {
            let (from, count) = (random.below(input.len()), 1 + random.below(8));
            input.iter_mut().skip(from).take(count).for_each(|byte| *byte = random.next().to_le_bytes()[0]);
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn seeds(decoder: &Decoder) -> Vec<Vec<u8>> {
    let folder = root().join("fuzz/seeds").join(decoder.name);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry can be read").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed can be read")).collect()
}

/// The input on which `read` panics, if any.
fn first_broken(read: fn(&[u8]), seeds: &[Vec<u8>], inputs: u32) -> Option<Vec<u8>> {
    let breaks = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| read(input))).is_err();
    if let Some(seed) = seeds.iter().find(|seed| breaks(seed)) {
        return Some(seed.clone());
    }
    let mut random = Random(0x0069_7374_6875_7276);
    (0..inputs).find_map(|_| {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            damage(&mut input, seeds, &mut random);
        }
        breaks(&input).then_some(input)
    })
}

fn check(decoder: &Decoder) {
    let times = std::env::var("TILTYARD_NOISE").map_or(1, |times| times.parse().expect("a number of times"));
    let inputs = times * if decoder.is_served { INPUTS_SERVED } else { INPUTS };
    let broken = first_broken(decoder.read, &seeds(decoder), inputs);
    assert_eq!(broken.map(|input| input.escape_ascii().to_string()), None, "{} broke on this input", decoder.name);
}

#[test]
fn no_decoder_breaks() {
    DECODERS.iter().filter(|decoder| !decoder.is_served).for_each(check);
}

#[test]
fn no_request_breaks_the_server() {
    DECODERS.iter().filter(|decoder| decoder.is_served).for_each(check);
}

#[test]
fn a_decoder_that_breaks_is_found() {
    let brittle = |input: &[u8]| assert!(!input.contains(&b'!'), "brittle");
    let found = first_broken(brittle, &[b"sturdy".to_vec()], 10_000).expect("a bit flip makes '!' of ' ' or so");
    assert!(found.contains(&b'!'));
    assert_eq!(first_broken(|_| {}, &[b"sturdy".to_vec()], 100), None);
}
