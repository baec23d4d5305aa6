//! At which points is a polynomial summed up so that its integral is exact?

/// Points between 0 and 1, and what each counts: `count` of them are exact for polynomials up to degree 2·`count` − 1.
pub(super) fn gauss_legendre(count: usize) -> Vec<(f64, f64)> {
    let mut points = vec![(0.5, 1.0); count];
    let n = count as f64;
    for at in 0..count.div_ceil(2) {
        // Tricomi's guess of a root of the Legendre polynomial; Newton's method does the rest.
        let mut x = (std::f64::consts::PI * (at as f64 + 0.75) / (n + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (mut before, mut value) = (1.0, x);
            for degree in 2..=count {
                let degree = degree as f64;
                (before, value) = (value, ((2.0 * degree - 1.0) * x * value - (degree - 1.0) * before) / degree);
            }
            slope = n * (x * value - before) / (x * x - 1.0);
            let step = value / slope;
            x -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        let weight = 1.0 / ((1.0 - x * x) * slope * slope);
        points[at] = ((1.0 - x) / 2.0, weight);
        points[count - 1 - at] = ((1.0 + x) / 2.0, weight);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrals_of_powers_are_exact() {
        for count in [1, 2, 3, 4, 7, 16, 33, 64, 200] {
            let points = gauss_legendre(count);
            for power in [0, 1, count, 2 * count - 1] {
                let sum: f64 = points.iter().map(|(t, weight)| weight * t.powi(power as i32)).sum();
                let expected = 1.0 / (power as f64 + 1.0);
                assert!((sum - expected).abs() < 1e-13, "{count} points, power {power}: {sum}");
            }
        }
    }
}
