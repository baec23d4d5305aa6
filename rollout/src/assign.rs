//! Which arm does a request go to, today and after every step of a ramp?
//!
//! u = the first 8 bytes, big-endian, of SHA-256(salt ‖ 0x00 ‖ key); bucket = ⌊u·10⁶ / 2⁶⁴⌋. Each challenger owns a range of
//! buckets as wide as its final weight, and takes its present weight from the range's fixed start: a key that is once in
//! stays in. All other buckets are the champion's. `vectors/assignment.json` is for whoever computes this elsewhere.

use sha2::{Digest, Sha256};

use crate::plan::{MILLION, Plan, Role};

/// Where a key falls, and its name in evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// 0 to 999,999: what decides the arm.
    pub bucket: u32,
    /// The next 8 bytes of the same digest: says nothing of the bucket, so that keys can be sampled by it.
    pub hash: u64,
}

/// Where `key` falls under `salt`.
pub fn place(salt: &[u8], key: &[u8]) -> Place {
    place_under(salted(salt), key)
}

/// What comes before every key, digested.
fn salted(salt: &[u8]) -> Sha256 {
    Sha256::new().chain_update(salt).chain_update([0])
}

fn place_under(salted: Sha256, key: &[u8]) -> Place {
    let digest = salted.chain_update(key).finalize();
    let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| digest[at + byte]));
    // The product fits: 2^64 · 10^6 < 2^84; the quotient is below 10^6.
    let bucket = ((u128::from(word(0)) * u128::from(MILLION)) >> 64) as u32;
    Place { bucket, hash: word(8) }
}

/// An arm for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Its index in the plan.
    pub arm: usize,
    /// The key's name in evidence; `None` where the request is kept out of all tests.
    pub evidence: Option<u64>,
}

/// A plan's arms made ready to be asked for every request.
#[derive(Clone, Debug)]
pub struct Assignment {
    salted: Sha256,
    champion: usize,
    /// (first bucket, present weight, arm), in the order of their starts.
    ranges: Vec<(u32, u32, usize)>,
}

impl Assignment {
    /// Lays out the ranges of a plan that was [validated](Plan::validate).
    pub fn new(plan: &Plan) -> Assignment {
        let mut start = 0;
        let mut ranges = Vec::new();
        for (arm, role) in plan.arms.iter().map(|arm| &arm.role).enumerate() {
            if let Role::Challenger { weight, final_weight } = *role {
                ranges.push((start, weight, arm));
                start += final_weight;
            }
        }
        Assignment { salted: salted(plan.salt.as_bytes()), champion: plan.champion(), ranges }
    }

    /// The arm of `key`: the sticky key, or, where the plan splits by request, the request's id. Without a key it is the
    /// champion, and no evidence.
    pub fn assign(&self, key: Option<&[u8]>) -> Assigned {
        let Some(key) = key else { return Assigned { arm: self.champion, evidence: None } };
        let Place { bucket, hash } = place_under(self.salted.clone(), key);
        let owner = self.ranges.iter().find(|&&(start, weight, _)| bucket >= start && bucket - start < weight);
        Assigned { arm: owner.map_or(self.champion, |&(_, _, arm)| arm), evidence: Some(hash) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::plan::tests::split;

    #[derive(Deserialize)]
    struct Vector {
        salt: String,
        key: String,
        bucket: u32,
        hash: String,
        arm: String,
    }

    #[derive(Deserialize)]
    struct Vectors {
        challengers: Vec<(String, u32, u32)>,
        keys: Vec<Vector>,
    }

    #[test]
    fn the_published_vectors_hold() {
        let vectors: Vectors = serde_json::from_str(include_str!("../vectors/assignment.json")).expect("it is JSON");
        assert!(vectors.keys.len() >= 20);
        for vector in &vectors.keys {
            let weights = vectors.challengers.iter().map(|&(_, weight, most)| (weight, most)).collect::<Vec<_>>();
            let plan = Plan { salt: vector.salt.clone(), ..split(&weights) };
            let Assigned { arm, evidence } = Assignment::new(&plan).assign(Some(vector.key.as_bytes()));
            let name = if arm == 0 { "champion" } else { &vectors.challengers[arm - 1].0 };
            let found = place(vector.salt.as_bytes(), vector.key.as_bytes());
            assert_eq!((found.bucket, format!("{:016x}", found.hash)), (vector.bucket, vector.hash.clone()));
            assert_eq!((name, evidence), (vector.arm.as_str(), Some(found.hash)), "{}", vector.key);
        }
    }

    #[test]
    fn who_has_no_key_goes_to_the_champion_and_is_no_evidence() {
        let assignment = Assignment::new(&split(&[(MILLION, MILLION)]));
        assert_eq!(assignment.assign(None), Assigned { arm: 0, evidence: None });
        assert_eq!(assignment.assign(Some(b"")).arm, 1, "an empty key is a key");
    }

    /// Ten million keys: each arm within five standard deviations of its binomial (false alarm below 1e-6 an arm).
    #[test]
    fn each_arm_gets_its_share() {
        const KEYS: u64 = 10_000_000;
        let weights = [(10_000, 200_000), (50_000, 50_000), (333_333, 400_000)];
        let assignment = Assignment::new(&split(&weights));
        let mut counts = [0u64; 4];
        for key in 0..KEYS {
            counts[assignment.assign(Some(&key.to_le_bytes())).arm] += 1;
        }
        let champion = MILLION - weights.iter().map(|(weight, _)| weight).sum::<u32>();
        let shares = std::iter::once(champion).chain(weights.iter().map(|&(weight, _)| weight));
        for (count, share) in counts.into_iter().zip(shares) {
            let p = f64::from(share) / f64::from(MILLION);
            let (mean, sd) = (KEYS as f64 * p, (KEYS as f64 * p * (1.0 - p)).sqrt());
            assert!((count as f64 - mean).abs() < 5.0 * sd, "{count} keys at a share of {p}");
        }
    }

    proptest! {
        /// However the challengers grow, nobody who was in is moved to another arm.
        #[test]
        fn a_ramp_never_moves_a_key_back(
            most in prop::collection::vec(0u32..=250_000, 1..5),
            ramp in prop::collection::vec(0.0f64..=1.0, 2..8),
            keys in prop::collection::vec(any::<u64>(), 1..64),
        ) {
            let mut ramp = ramp;
            ramp.sort_by(f64::total_cmp);
            let mut held = vec![0; keys.len()];
            for part in ramp {
                let weights: Vec<_> = most.iter().map(|&most| ((f64::from(most) * part) as u32, most)).collect();
                let assignment = Assignment::new(&split(&weights));
                for (key, held) in keys.iter().zip(&mut held) {
                    let arm = assignment.assign(Some(&key.to_le_bytes())).arm;
                    prop_assert!(*held == 0 || arm == *held, "moved from arm {held} to {arm}");
                    *held = arm;
                }
            }
        }
    }
}
