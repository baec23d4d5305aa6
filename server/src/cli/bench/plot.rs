//! How is a column of numbers drawn in a terminal?

/// A bar of `width` cells at most, drawn to an eighth of a cell; at least something where the value is above 0.
pub(super) fn bar(value: f64, largest: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let share = if largest > 0.0 { (value / largest).clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (share * (width * 8) as f64).round() as usize;
    let eighths = if value > 0.0 { eighths.max(1) } else { eighths };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(bar(0.0, 10.0, 4), "");
        assert_eq!(bar(10.0, 10.0, 4), "████");
        assert_eq!(bar(5.0, 10.0, 4), "██");
        assert_eq!(bar(5.3, 10.0, 4), "██▏");
        assert_eq!(bar(0.001, 10.0, 4), "▏");
        assert_eq!(bar(20.0, 10.0, 2), "██");
        assert_eq!(bar(1.0, 0.0, 2), "▏");
        assert_eq!(bar(f64::NAN, 1.0, 2), "");
    }
}
