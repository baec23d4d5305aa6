//! How are numbers drawn by lot from a seed?

/// Splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Lot(u64);

impl Lot {
    /// The lot of a seed.
    pub(crate) fn new(seed: u64) -> Lot {
        Lot(seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(0x2545_f491_4f6c_dd1d))
    }

    /// 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0 and below 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// Whether something of probability `p` happens.
    pub(crate) fn happens(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Standard normal (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(self.uniform())).sqrt();
        radius * libm::cos(2.0 * std::f64::consts::PI * self.uniform())
    }

    /// Exponential.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * libm::log(self.uniform())
    }

    /// Poisson: by inversion, halved until that is quick; normal where nobody can tell.
    pub(crate) fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 1_000.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        if mean > 30.0 {
            return self.poisson(mean / 2.0) + self.poisson(mean / 2.0);
        }
        let (mut left, mut count, mut term) = (self.uniform(), 0, libm::exp(-mean));
        while left > term && count < 200 {
            left -= term;
            count += 1;
            term *= mean / count as f64;
        }
        count
    }

    /// Binomial, likewise.
    pub(crate) fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        let mean = n as f64 * p;
        if mean * (1.0 - p) > 1_000.0 {
            let drawn = (mean + (mean * (1.0 - p)).sqrt() * self.normal()).round();
            return drawn.clamp(0.0, n as f64) as u64;
        }
        if mean > 30.0 {
            return self.binomial(n / 2, p) + self.binomial(n - n / 2, p);
        }
        let (mut left, mut count) = (self.uniform(), 0);
        let mut term = libm::exp(n as f64 * libm::log1p(-p));
        while left > term && count < n {
            left -= term;
            term *= (n - count) as f64 / (count + 1) as f64 * p / (1.0 - p);
            count += 1;
        }
        count
    }

    /// Beta with whole parameters: of gamma variables, and those of logarithms.
    pub(crate) fn beta(&mut self, a: u32, b: u32) -> f64 {
        let mut gamma = |shape: u32| -libm::log((0..shape).map(|_| self.uniform()).product::<f64>());
        let (x, y) = (gamma(a), gamma(b));
        x / (x + y)
    }

    /// Puts things in any order.
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for at in (1..things.len()).rev() {
            things.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}
