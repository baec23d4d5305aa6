//! Which instructions on many values at once does this machine have?

use super::super::scalar::Scalar;
use super::super::word::{self, Book, Line, Links, TreeWord};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// What kernels of words are made of.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Wide(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Any machine: slow, and the reference for the others.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests compare with it"))]
    Plain,
    /// Made only where the processor has what [`avx512::is_here`] asks for.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Made only where the processor has what [`avx2::is_here`] asks for.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Wide {
    /// What is worth it on this machine, the best first.
    pub(in super::super) fn of_this_machine() -> Vec<Wide> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx512::is_here().then_some(Wide(Kind::Avx512)));
            all.extend(avx2::is_here().then_some(Wide(Kind::Avx2)));
        }
        all
    }

    /// What every machine has.
    #[cfg(test)]
    pub(in super::super) fn plain() -> Wide {
        Wide(Kind::Plain)
    }

    /// Lines of codes that a node can choose from: a power of two, 4 at most.
    pub(in super::super) fn lines_max(self) -> usize {
        match self.0 {
            Kind::Plain => 4,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 4,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 1,
        }
    }

    /// The codes of a row.
    #[inline]
    pub(in super::super) fn encode_f32(self, book: &Book<f32>, row: &[f32], codes: &mut [u8]) {
        match self.0 {
            Kind::Plain => word::encode(book, row, codes),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this kind is made only where the processor has these instructions.
            Kind::Avx512 => unsafe { avx512::encode_f32(book, row, codes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx2 => unsafe { avx2::encode_f32(book, row, codes) },
        }
    }

    /// The payload of each tree and row, all rows of a tree, then those of the next. A row has as many lines of codes as are
    /// said, and a tree, which is a perfect one of 4 to 6 levels, as many payloads in the table as leaves.
    #[inline]
    pub(in super::super) fn find_by_levels<S: Scalar>(
        self,
        trees: &[TreeWord],
        levels: usize,
        table: &[S],
        codes: &[Line],
        lines: usize,
        payloads: &mut [S],
    ) {
        match self.0 {
            Kind::Plain => word::find_by_levels(trees, levels, table, codes, lines, payloads),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this kind is made only where the processor has these instructions.
            Kind::Avx512 => unsafe { avx512::find_by_levels(trees, levels, table, codes, lines, payloads) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx2 => unsafe { avx2::find_by_levels(trees, levels, table, codes, payloads) },
        }
    }

    /// As [`find_by_levels`](Self::find_by_levels), of trees with links and 64 payloads in the table.
    #[inline]
    pub(in super::super) fn find_by_links<S: Scalar>(
        self,
        trees: &[TreeWord],
        links: &[Links],
        table: &[S],
        codes: &[Line],
        lines: usize,
        payloads: &mut [S],
    ) {
        match self.0 {
            Kind::Plain => word::find_by_links(trees, links, table, codes, lines, payloads),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this kind is made only where the processor has these instructions.
            Kind::Avx512 => unsafe { avx512::find_by_links(trees, links, table, codes, lines, payloads) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx2 => unsafe { avx2::find_by_links(trees, links, table, codes, payloads) },
        }
    }
}
