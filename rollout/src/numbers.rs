//! How are logarithms, exponentials and special functions the same to the bit on every machine?
//!
//! Additions, products, quotients and square roots of `f64` are exact by IEEE 754; the standard library's `ln` and `exp`
//! are those of the platform and are not. `clippy.toml` keeps them out of this crate.

/// Terms of the continued fraction after which it is taken as it is. It needs about the root of the larger parameter.
const TERMS_MAX: u32 = 20_000;

/// The natural logarithm.
pub(crate) fn ln(x: f64) -> f64 {
    libm::log(x)
}

/// ln(1 + x), exact for small `x`.
pub(crate) fn ln_1p(x: f64) -> f64 {
    libm::log1p(x)
}

/// e to the `x`.
pub(crate) fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// Φ(x): how much of a standard normal distribution lies below `x`.
pub(crate) fn normal_below(x: f64) -> f64 {
    libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) / 2.0
}

/// ln of the mean of e to each of `values`, added from the first to the last. -∞ of none.
pub(crate) fn ln_mean_exp(values: &[f64]) -> f64 {
    ln_sum_exp(values, values.len())
}

/// The same over `count` values, of which those that are not there add nothing.
pub(crate) fn ln_sum_exp(values: &[f64], count: usize) -> f64 {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return top;
    }
    let sum: f64 = values.iter().map(|value| exp(value - top)).sum();
    top + ln(sum / count as f64)
}

/// ln B(a, b) = ln Γ(a) + ln Γ(b) − ln Γ(a + b).
pub(crate) fn ln_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}

/// ln(1 − I_x(a, b)): how much of the Beta(a, b) distribution lies above `x`, for 0 < x < 1.
pub(crate) fn ln_beta_above(x: f64, a: f64, b: f64) -> f64 {
    // Each side by the fraction that converges there; what is tiny is never made by subtraction.
    if x > (a + 1.0) / (a + b + 2.0) { ln_incomplete(1.0 - x, b, a) } else { ln_1p(-exp(ln_incomplete(x, a, b))) }
}

/// ln I_x(a, b) by the continued fraction of DLMF 8.17.22, evaluated from the front (Lentz).
fn ln_incomplete(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut fraction, mut c, mut d) = (1.0, 1.0, 0.0);
    for term in 1..TERMS_MAX {
        let m = f64::from(term / 2);
        let next = if term % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        d = 1.0 / away(1.0 + next * d);
        c = away(1.0 + next / c);
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    a * ln(x) + b * ln_1p(-x) - ln(a) - ln_beta(a, b) - ln(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * (1.0 + expected.abs()), "{found}, expected {expected}");
    }

    #[test]
    fn the_upper_part_of_a_beta_distribution_is_right_where_it_is_known() {
        // I_x(1, b) = 1 − (1 − x)^b, and I_x(a, 1) = x^a.
        for x in [0.001, 0.2, 0.5, 0.93] {
            close(ln_beta_above(x, 1.0, 19.0), 19.0 * ln_1p(-x));
            close(ln_beta_above(x, 7.0, 1.0), ln_1p(-exp(7.0 * ln(x))));
        }
        // Half of a symmetric one, however narrow.
        for a in [0.5, 5.0, 700.0, 250_000.0] {
            assert!((ln_beta_above(0.5, a, a) - ln(0.5)).abs() < 1e-8, "{a}: {}", ln_beta_above(0.5, a, a));
        }
    }

    #[test]
    fn what_is_far_too_small_for_a_float_has_a_logarithm() {
        // 1 − I_x(1, b) = (1 − x)^b.
        close(ln_beta_above(0.5, 1.0, 5_000.0), 5_000.0 * ln(0.5));
    }

    #[test]
    fn means_of_huge_values_do_not_overflow() {
        close(ln_mean_exp(&[2_000.0, 2_000.0]), 2_000.0);
        close(ln_mean_exp(&[0.0, f64::NEG_INFINITY]), ln(0.5));
        assert_eq!(ln_mean_exp(&[]), f64::NEG_INFINITY);
    }

    /// The digits that every machine must find: a change of `libm` that changes verdicts is seen here.
    #[test]
    fn the_bits_are_these() {
        assert_eq!(ln(3.0).to_bits(), 0x3ff1_93ea_7aad_030a);
        assert_eq!(exp(1.0).to_bits(), 0x4005_bf0a_8b14_576a);
    }
}
