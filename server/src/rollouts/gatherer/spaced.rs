//! Which of an arm's runs lie so far apart that one disturbance does not reach from one to the next?

use std::time::Duration;

use tiltyard_types::Moment;

use crate::rollouts::observer::Side;

/// What takes the processors for longer than this meets runs of both arms, as chance deals them.
const APART: Duration = Duration::from_millis(100);

/// When each arm's latest was that counted.
#[derive(Debug, Default)]
pub(super) struct Spaced([Option<Moment>; 2]);

impl Spaced {
    /// Whether what ended then lies apart from the one of its arm that counted before: then it counts.
    pub(super) fn is_apart(&mut self, side: Side, at: Moment) -> bool {
        let last = &mut self.0[side as usize];
        let is_apart = last.is_none_or(|last| at - last >= APART);
        if is_apart {
            *last = Some(at);
        }
        is_apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_one_arm_is_one() {
        let mut spaced = Spaced::default();
        let mut is_apart = |side, millis: u64| spaced.is_apart(side, Moment::from_nanos(millis * 1_000_000));
        let row: Vec<bool> = (0..200).map(|millis| is_apart(Side::Challenger, millis)).collect();
        assert_eq!(row.iter().filter(|&&is_apart| is_apart).count(), 2);
        assert!(row[0] && row[100] && is_apart(Side::Champion, 150));
    }
}
