//! How are logarithms and the tails of distributions the same to the bit on every machine?
//!
//! Additions, products, quotients and square roots of `f64` are exact by IEEE 754; the standard library's `ln` and `exp`
//! are those of the platform and are not. `clippy.toml` keeps them out of this crate.

/// Terms of a series after which it is taken as it is: it needs about the root of its parameter.
const TERMS_MAX: u32 = 20_000;

/// Halvings of the interval from 0 to 1, more than an `f64` can tell apart.
const HALVINGS: u32 = 60;

/// The natural logarithm.
pub(crate) fn ln(x: f64) -> f64 {
    libm::log(x)
}

/// e to the `x`.
pub(crate) fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// How much of a χ² distribution with `freedom` degrees lies above `x`; 1 for no degrees at all.
pub(crate) fn chi_square_above(x: f64, freedom: f64) -> f64 {
    if x.is_nan() || x <= 0.0 || freedom < 1.0 { 1.0 } else { gamma_above(freedom / 2.0, x / 2.0) }
}

/// Q(a, x) = Γ(a, x)/Γ(a), each side by the series that converges there.
fn gamma_above(a: f64, x: f64) -> f64 {
    if x == f64::INFINITY {
        return 0.0;
    }
    let front = exp(a * ln(x) - x - libm::lgamma(a));
    if x < a + 1.0 { (1.0 - front * below_series(a, x)).max(0.0) } else { front * above_fraction(a, x) }
}

/// Σ xᵏ/(a (a+1) … (a+k)): DLMF 8.11.4.
fn below_series(a: f64, x: f64) -> f64 {
    let (mut sum, mut term) = (1.0 / a, 1.0 / a);
    for k in 1..TERMS_MAX {
        term *= x / (a + f64::from(k));
        sum += term;
        if term < sum * 1e-16 {
            break;
        }
    }
    sum
}

/// The continued fraction of DLMF 8.9.2, evaluated from the front (Lentz).
fn above_fraction(a: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / away(b);
    let mut fraction = d;
    for k in 1..TERMS_MAX {
        let k = f64::from(k);
        let next = -k * (k - a);
        b += 2.0;
        d = 1.0 / away(next * d + b);
        c = away(b + next / c);
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// Between which bounds the rate lies of which `events` of `units` were seen, missed with a chance of at most `alpha` at whatever
/// time somebody looks: all rates p against which the mixture over Beta(½, ½) has no evidence of 1/α,
///
/// ```text
/// E(p) = B(k + ½, n − k + ½) / (B(½, ½) pᵏ (1 − p)ⁿ⁻ᵏ)
/// ```
///
/// Neither needs to be whole: an effective number of units may stand for a larger one.
pub(crate) fn rate_bounds(events: f64, units: f64, alpha: f64) -> [f64; 2] {
    if units.is_nan() || units <= 0.0 {
        return [0.0, 1.0];
    }
    let (events, clean) = (events.clamp(0.0, units), (units - events).max(0.0));
    let ln_beta = |a: f64, b: f64| libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    let level = ln_beta(events + 0.5, clean + 0.5) - ln_beta(0.5, 0.5) + ln(alpha);
    // The likelihood rises up to the rate that was seen, and falls from there.
    let ln_likelihood = |p: f64| {
        let part = |count: f64, share: f64| if count > 0.0 { count * ln(share) } else { 0.0 };
        part(events, p) + part(clean, 1.0 - p)
    };
    let seen = events / units;
    let bound = |mut outside: f64| {
        let mut inside = seen;
        for _ in 0..HALVINGS {
            let middle = (outside + inside) / 2.0;
            if ln_likelihood(middle) < level { outside = middle } else { inside = middle }
        }
        outside
    };
    [if events > 0.0 { bound(0.0) } else { 0.0 }, if clean > 0.0 { bound(1.0) } else { 1.0 }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, expected: f64, tolerance: f64) {
        assert!((found / expected - 1.0).abs() <= tolerance, "{found}, expected {expected}");
    }

    #[test]
    fn the_tail_of_chi_square_is_right_where_it_is_known() {
        // With two degrees it is exp(−x/2); with one, erfc(√(x/2)); by 2n degrees, a sum of Poisson's terms.
        for x in [0.01, 1.0, 3.0, 20.0, 400.0] {
            close(chi_square_above(x, 2.0), exp(-x / 2.0), 1e-12);
            close(chi_square_above(x, 1.0), libm::erfc((x / 2.0).sqrt()), 1e-11);
            close(chi_square_above(x, 4.0), exp(-x / 2.0) * (1.0 + x / 2.0), 1e-12);
        }
        // From tables: 1 % above 36.191 with 19 degrees, 5 % above 30.144.
        close(chi_square_above(36.190_87, 19.0), 0.01, 1e-5);
        close(chi_square_above(30.143_53, 19.0), 0.05, 1e-5);
        assert_eq!((chi_square_above(f64::NAN, 3.0), chi_square_above(5.0, 0.0)), (1.0, 1.0));
        assert_eq!(chi_square_above(f64::INFINITY, 3.0), 0.0);
    }

    #[test]
    fn bounds_of_a_rate_hold_it_and_narrow() {
        let mut last = 1.0;
        for units in [10.0, 100.0, 10_000.0, 1e6] {
            let [lower, upper] = rate_bounds(units * 0.3, units, 0.01);
            assert!(lower < 0.3 && upper > 0.3 && upper - lower < last, "{units}: {lower} to {upper}");
            last = upper - lower;
        }
        assert_eq!(rate_bounds(0.0, 0.0, 0.01), [0.0, 1.0]);
        assert_eq!(rate_bounds(0.0, 50.0, 0.01)[0], 0.0);
        assert_eq!(rate_bounds(50.0, 50.0, 0.01)[1], 1.0);
    }

    /// The digits that every machine must find.
    #[test]
    fn the_bits_are_these() {
        assert_eq!(ln(3.0).to_bits(), 0x3ff1_93ea_7aad_030a);
        assert_eq!(exp(1.0).to_bits(), 0x4005_bf0a_8b14_576a);
    }
}
