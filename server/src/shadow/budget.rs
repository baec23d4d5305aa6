//! How much memory may all shadows hold together?

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tiltyard_runtime::stats::Dropped;

use super::sampling;

/// The largest sample may take one in so many parts, and so may what one shadow's own queue holds.
pub const LARGEST: usize = 8;

/// Bytes that shadows may hold, and do.
#[derive(Debug)]
pub struct Budget {
    /// What they may.
    pub bytes_max: usize,
    used: AtomicUsize,
}

impl Budget {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> Arc<Budget> {
        Arc::new(Budget { bytes_max, used: AtomicUsize::new(0) })
    }

    /// Takes room for `bytes`, which comes back when the charge is dropped. What takes more than an eighth of all is refused
    /// whatever else there is; of the others none is refused for its size: there must be room for the largest of them.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Charge, Dropped> {
        let most = self.bytes_max / LARGEST;
        if bytes > most {
            return Err(Dropped::TooLarge);
        }
        let charge = Charge { budget: Arc::clone(self), bytes };
        let before = self.used.fetch_add(bytes, Relaxed);
        // The charge gives back what is too much.
        if before.saturating_add(most) <= self.bytes_max { Ok(charge) } else { Err(Dropped::Memory) }
    }

    /// What they hold.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How full it is, in millionths.
    pub fn fullness(&self) -> u32 {
        sampling::fullness(self.used(), self.bytes_max)
    }
}

/// Room that is taken.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    /// Bytes of it.
    pub bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_held() {
        let budget = Budget::new(800);
        let mut held: Vec<Charge> = (0..7).map(|_| budget.take(100).unwrap()).collect();
        assert_eq!((budget.used(), budget.fullness()), (700, 875_000));
        held.push(budget.take(1).unwrap());
        for bytes in [1, 99, 100] {
            assert_eq!(
                budget.take(bytes).unwrap_err(),
                Dropped::Memory,
                "large or small: there is room for small ones only"
            );
        }
        assert_eq!(budget.take(101).unwrap_err(), Dropped::TooLarge);
        assert_eq!(budget.used(), 701);
        drop(held);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.take(101).unwrap_err(), Dropped::TooLarge);
    }
}
