//! Who gets which arm, how do two answers compare, and what does the evidence say?
//!
//! Pure decisions: no IO, no clock, no threads, no randomness. The same plan and the same events give the same verdicts,
//! to the bit, on every machine: logarithms and exponentials come from [`libm`], sums of observations are integers, and
//! whatever is added as floats is added in one order.

pub mod assign;
pub mod cohort;
pub mod compare;
pub mod cusum;
pub mod evidence;
pub mod interval;
pub mod judge;
pub mod kernel;
mod numbers;
pub mod paired;
pub mod plan;
pub mod preview;
pub mod rate;
mod sample;
mod search;
pub mod streak;
pub mod units;
pub mod verify;
