//! Which few loops leave out the checks that safe Rust makes, and why may they?
//!
//! All unsafe code of this crate is here. `walks.rs` reads without asking whether an index is within bounds: its cells can only
//! be made by a constructor that has looked at each of them. `avx512.rs` and `avx2.rs` have instructions that not every processor
//! has, and `wide.rs` calls them only where it was asked whether this one does.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(super) mod walks;
pub(super) mod wide;
