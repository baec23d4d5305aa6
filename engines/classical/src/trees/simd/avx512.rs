//! How are codes made and trees decided, 64 bytes at a time?
//!
//! The functions are safe but for one thing: their callers must know that the processor has the instructions ([`is_here`]).
//! Within them, loads are of arrays whose length the types or an assertion give, and the one index that no check guards is
//! argued where it is used.

use std::arch::x86_64::*;

use super::super::word::{Book, Line, Links, TreeWord};

/// Whether this processor, and the system on it, has all that the functions here need.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
}

/// As `word::encode`: first finds the block, then the place in it.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,popcnt")]
pub(super) fn encode_f32(book: &Book<f32>, row: &[f32], codes: &mut [u8]) {
    for coded in &book.columns {
        let value = row[coded.column as usize];
        let wide = _mm512_set1_ps(value);
        let less = |block: &[f32]| {
            let block: &[f32; 16] = block.try_into().expect("blocks are of 16");
            // SAFETY: the array has 16 values.
            let block = unsafe { _mm512_loadu_ps(block.as_ptr()) };
            _mm512_cmp_ps_mask::<_CMP_LT_OQ>(block, wide).count_ones()
        };
        let table = &book.tables[coded.table as usize..];
        let block = less(&table[..16]);
        let code = (block * 16 + less(&table[16 + block as usize * 16..][..16])) as u8;
        codes[coded.left as usize] = code;
        codes[coded.right as usize] = if value.is_nan() { 255 } else { code };
    }
}

/// As `word::find_by_levels`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,popcnt")]
pub(super) fn find_by_levels<S: Copy>(
    trees: &[TreeWord],
    levels: usize,
    table: &[S],
    codes: &[Line],
    lines: usize,
    payloads: &mut [S],
) {
    match (lines, levels) {
        (1, 4) => levels_of::<S, 1, 4>(trees, table, codes, payloads),
        (1, 5) => levels_of::<S, 1, 5>(trees, table, codes, payloads),
        (1, 6) => levels_of::<S, 1, 6>(trees, table, codes, payloads),
        (2, 4) => levels_of::<S, 2, 4>(trees, table, codes, payloads),
        (2, 5) => levels_of::<S, 2, 5>(trees, table, codes, payloads),
        (2, 6) => levels_of::<S, 2, 6>(trees, table, codes, payloads),
        (4, 4) => levels_of::<S, 4, 4>(trees, table, codes, payloads),
        (4, 5) => levels_of::<S, 4, 5>(trees, table, codes, payloads),
        (4, 6) => levels_of::<S, 4, 6>(trees, table, codes, payloads),
        _ => unreachable!("groups have 1, 2 or 4 lines and 4 to 6 levels"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,popcnt")]
fn levels_of<S: Copy, const LINES: usize, const LEVELS: usize>(
    trees: &[TreeWord],
    table: &[S],
    codes: &[Line],
    payloads: &mut [S],
) {
    let (codes, []) = codes.as_chunks::<LINES>() else { panic!("a row has {LINES} lines of codes") };
    assert_eq!(payloads.len(), trees.len() * codes.len(), "a payload for each tree and row");
    let trees = trees.iter().zip(table.chunks_exact(1 << LEVELS)).zip(payloads.chunks_exact_mut(codes.len()));
    for ((tree, table), payloads) in trees {
        let (places, ranks) = (load(&tree.places), load(&tree.ranks));
        for (codes, payload) in codes.iter().zip(payloads) {
            let word = _mm512_cmpgt_epu8_mask(take(codes, places), ranks);
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

/// As `word::find_by_links`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,popcnt")]
pub(super) fn find_by_links<S: Copy>(
    trees: &[TreeWord],
    links: &[Links],
    table: &[S],
    codes: &[Line],
    lines: usize,
    payloads: &mut [S],
) {
    match lines {
        1 => links_of::<S, 1>(trees, links, table, codes, payloads),
        2 => links_of::<S, 2>(trees, links, table, codes, payloads),
        4 => links_of::<S, 4>(trees, links, table, codes, payloads),
        _ => unreachable!("groups have 1, 2 or 4 lines"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,popcnt")]
fn links_of<S: Copy, const LINES: usize>(
    trees: &[TreeWord],
    links: &[Links],
    table: &[S],
    codes: &[Line],
    payloads: &mut [S],
) {
    let (codes, []) = codes.as_chunks::<LINES>() else { panic!("a row has {LINES} lines of codes") };
    assert_eq!(payloads.len(), trees.len() * codes.len(), "a payload for each tree and row");
    let (tables, []) = table.as_chunks::<64>() else { panic!("a tree has 64 payloads") };
    let trees = trees.iter().zip(links).zip(tables).zip(payloads.chunks_exact_mut(codes.len()));
    for (((tree, links), table), payloads) in trees {
        let (places, ranks) = (load(&tree.places), load(&tree.ranks));
        for (codes, payload) in codes.iter().zip(payloads) {
            let word = _mm512_cmpgt_epu8_mask(take(codes, places), ranks);
            let mut possible = _mm512_set1_epi64(-1);
            for (at, eight) in links.possible.as_chunks::<8>().0.iter().enumerate().take(links.branches.div_ceil(8)) {
                // SAFETY: the array has 8 words of 64 bits.
                let eight = unsafe { _mm512_loadu_si512(eight.as_ptr().cast()) };
                possible = _mm512_mask_and_epi64(possible, (word >> (at * 8)) as u8, possible, eight);
            }
            let leaf = (_mm512_reduce_and_epi64(possible) as u64).trailing_zeros() as usize;
            // The rightmost leaf is never ruled out.
            *payload = table[leaf & 63];
        }
    }
}

#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512i {
    // SAFETY: the line has 64 bytes.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// The codes at these places.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn take<const LINES: usize>(codes: &[Line; LINES], places: __m512i) -> __m512i {
    // The instructions look at the bits that name a place in one line or two, and at no others.
    match LINES {
        1 => _mm512_permutexvar_epi8(places, load(&codes[0])),
        2 => _mm512_permutex2var_epi8(load(&codes[0]), places, load(&codes[1])),
        _ => {
            let low = _mm512_permutex2var_epi8(load(&codes[0]), places, load(&codes[1]));
            let high = _mm512_permutex2var_epi8(load(&codes[2]), places, load(&codes[3]));
            _mm512_mask_blend_epi8(_mm512_movepi8_mask(places), low, high)
        }
    }
}
