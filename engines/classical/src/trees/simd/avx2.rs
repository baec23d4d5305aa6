//! How are codes made and trees decided, 32 bytes at a time?
//!
//! For processors without AVX-512, and for groups of one line of codes. As in `avx512.rs`, callers must know that the
//! processor has the instructions ([`is_here`]).

use std::arch::x86_64::*;

use super::super::word::{Book, Line, Links, TreeWord, linked_leaf};

/// Whether this processor, and the system on it, has all that the functions here need.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
}

/// As `word::encode`: first finds the block, then the place in it.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn encode_f32(book: &Book<f32>, row: &[f32], codes: &mut [u8]) {
    for coded in &book.columns {
        let value = row[coded.column as usize];
        let wide = _mm256_set1_ps(value);
        let less = |block: &[f32]| {
            let block: &[f32; 16] = block.try_into().expect("blocks are of 16");
            // SAFETY: the array has 16 values, of which 8 are read from its begin and 8 from its middle.
            let halves = unsafe { [_mm256_loadu_ps(block.as_ptr()), _mm256_loadu_ps(block.as_ptr().add(8))] };
            let [low, high] = halves.map(|half| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(half, wide)) as u32);
            (low | high << 8).count_ones()
        };
        let table = &book.tables[coded.table as usize..];
        let block = less(&table[..16]);
        let code = (block * 16 + less(&table[16 + block as usize * 16..][..16])) as u8;
        codes[coded.left as usize] = code;
        codes[coded.right as usize] = if value.is_nan() { 255 } else { code };
    }
}

/// As `word::find_by_levels`, for one line of codes in each row.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn find_by_levels<S: Copy>(
    trees: &[TreeWord],
    levels: usize,
    table: &[S],
    codes: &[Line],
    payloads: &mut [S],
) {
    match levels {
        4 => levels_of::<S, 4>(trees, table, codes, payloads),
        5 => levels_of::<S, 5>(trees, table, codes, payloads),
        6 => levels_of::<S, 6>(trees, table, codes, payloads),
        _ => unreachable!("groups have 4 to 6 levels"),
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn levels_of<S: Copy, const LEVELS: usize>(trees: &[TreeWord], table: &[S], codes: &[Line], payloads: &mut [S]) {
    assert_eq!(payloads.len(), trees.len() * codes.len(), "a payload for each tree and row");
    let trees = trees.iter().zip(table.chunks_exact(1 << LEVELS)).zip(payloads.chunks_exact_mut(codes.len()));
    for ((tree, table), payloads) in trees {
        let nodes = nodes(tree);
        for (codes, payload) in codes.iter().zip(payloads) {
            let word = word(&nodes, codes);
            let mut at = 1usize;
            for _ in 0..LEVELS {
                at = 2 * at + (word >> at & 1) as usize;
            }
            // SAFETY: after as many steps of doubling, `at` is from `1 << LEVELS` on and less than twice that; the table has
            // `1 << LEVELS` payloads for each tree.
            *payload = unsafe { *table.get_unchecked(at - (1 << LEVELS)) };
        }
    }
}

/// As `word::find_by_links`, for one line of codes in each row.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn find_by_links<S: Copy>(
    trees: &[TreeWord],
    links: &[Links],
    table: &[S],
    codes: &[Line],
    payloads: &mut [S],
) {
    assert_eq!(payloads.len(), trees.len() * codes.len(), "a payload for each tree and row");
    let (tables, []) = table.as_chunks::<64>() else { panic!("a tree has 64 payloads") };
    let trees = trees.iter().zip(links).zip(tables).zip(payloads.chunks_exact_mut(codes.len()));
    for (((tree, links), table), payloads) in trees {
        let nodes = nodes(tree);
        for (codes, payload) in codes.iter().zip(payloads) {
            let word = word(&nodes, codes);
            // The rightmost leaf is never ruled out.
            *payload = table[linked_leaf(word, links) & 63];
        }
    }
}

/// The nodes of a tree in registers: two halves, and for each the places in each quarter of a line.
type Nodes = ([[__m256i; 4]; 2], [__m256i; 2]);

#[target_feature(enable = "avx2")]
fn nodes(tree: &TreeWord) -> Nodes {
    let [low, high] = load(&tree.places);
    ([quarters(low), quarters(high)], load(&tree.ranks))
}

/// The outcome of all tests of a tree.
#[target_feature(enable = "avx2")]
fn word((places, ranks): &Nodes, codes: &Line) -> u64 {
    let codes = sixteens(codes);
    let low = greater(take(&codes, &places[0]), ranks[0]);
    let high = greater(take(&codes, &places[1]), ranks[1]);
    u64::from(low) | u64::from(high) << 32
}

#[target_feature(enable = "avx2")]
fn load(line: &Line) -> [__m256i; 2] {
    // SAFETY: the line has 64 bytes, of which 32 are read from its begin and 32 from its middle.
    unsafe { [_mm256_loadu_si256(line.as_ptr().cast()), _mm256_loadu_si256(line.as_ptr().add(32).cast())] }
}

/// The four quarters of a line, each in both halves of a register.
#[target_feature(enable = "avx2")]
fn sixteens(line: &Line) -> [__m256i; 4] {
    let quarter = |number: usize| {
        // SAFETY: the line has 64 bytes, so there are 16 from each quarter's begin on.
        let quarter = unsafe { _mm_loadu_si128(line.as_ptr().add(number * 16).cast()) };
        _mm256_broadcastsi128_si256(quarter)
    };
    [quarter(0), quarter(1), quarter(2), quarter(3)]
}

/// Places in a line as places in each of its quarters, with the highest bit set where it is another quarter's.
#[target_feature(enable = "avx2")]
fn quarters(places: __m256i) -> [__m256i; 4] {
    let within = |number: i8| {
        let relative = _mm256_xor_si256(places, _mm256_set1_epi8(number << 4));
        // 0 to 15 become 112 to 127; all others are 128 at least.
        _mm256_adds_epu8(relative, _mm256_set1_epi8(0x70))
    };
    [within(0), within(1), within(2), within(3)]
}

/// The codes at these places: of all quarters but one, a shuffle takes 0.
#[target_feature(enable = "avx2")]
fn take(codes: &[__m256i; 4], places: &[__m256i; 4]) -> __m256i {
    let [a, b, c, d] = std::array::from_fn(|quarter| _mm256_shuffle_epi8(codes[quarter], places[quarter]));
    _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d))
}

/// A bit for each code that is greater than its rank.
#[target_feature(enable = "avx2")]
fn greater(codes: __m256i, ranks: __m256i) -> u32 {
    let at_most = _mm256_cmpeq_epi8(_mm256_max_epu8(codes, ranks), ranks);
    !(_mm256_movemask_epi8(at_most) as u32)
}
