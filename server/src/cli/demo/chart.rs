//! How is a chart drawn that a page can hold? As SVG, without a script or anything from elsewhere.

use std::fmt::Write as _;

/// The drawing's size, and what is left for ticks: left, top, right, below.
const SIZE: (f64, f64) = (640.0, 260.0);
const MARGINS: (f64, f64, f64, f64) = (64.0, 12.0, 12.0, 40.0);

/// About so many ticks on an axis.
const TICKS: f64 = 5.0;

/// Colours that the page's styles name, one for each series.
const COLOURS: usize = 4;

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Chart {
    pub(in crate::cli) title: String,
    /// What is below.
    pub(in crate::cli) across: &'static str,
    /// What is on the left.
    pub(in crate::cli) up: &'static str,
    pub(in crate::cli) series: Vec<Series>,
    /// Filled, between two values for each place across.
    pub(in crate::cli) band: Vec<(f64, f64, f64)>,
    /// Where a line across means something, and what.
    pub(in crate::cli) marks: Vec<(f64, &'static str)>,
    /// The least and the most on the left; what is beyond is cut off.
    pub(in crate::cli) range: (f64, f64),
}

/// A line.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Series {
    pub(in crate::cli) name: String,
    pub(in crate::cli) points: Vec<(f64, f64)>,
    /// Whether a value holds until the next.
    pub(in crate::cli) is_step: bool,
}

/// From values to places on the drawing.
struct Scale {
    across: (f64, f64),
    up: (f64, f64),
}

impl Scale {
    fn x(&self, value: f64) -> f64 {
        let (from, to) = self.across;
        let (left, _, right, _) = MARGINS;
        left + (value - from) / (to - from).max(f64::MIN_POSITIVE) * (SIZE.0 - left - right)
    }

    fn y(&self, value: f64) -> f64 {
        let (from, to) = self.up;
        let (_, top, _, below) = MARGINS;
        let value = value.clamp(from, to);
        SIZE.1 - below - (value - from) / (to - from).max(f64::MIN_POSITIVE) * (SIZE.1 - top - below)
    }
}

impl Chart {
    /// The drawing.
    pub(in crate::cli) fn svg(&self) -> String {
        let places = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
        let most = places.chain(self.band.iter().map(|place| place.0)).fold(0.0, f64::max);
        let scale = Scale { across: (0.0, most), up: self.range };
        let (width, height) = SIZE;
        let title = escaped(&self.title);
        let mut svg = format!(
            "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\n"
        );
        self.draw_axes(&scale, &mut svg);
        self.draw_band(&scale, &mut svg);
        for (at, series) in self.series.iter().enumerate() {
            draw_series(series, &scale, at % COLOURS, &mut svg);
        }
        svg += "</svg>\n";
        if self.series.len() > 1 {
            let name = |(at, series): (usize, &Series)| {
                format!("<span class=\"name{}\">{}</span>", at % COLOURS, escaped(&series.name))
            };
            let names: Vec<String> = self.series.iter().enumerate().map(name).collect();
            let _ = writeln!(svg, "<p class=\"names\">{}</p>", names.join(" "));
        }
        svg + "</figure>\n"
    }

    fn draw_axes(&self, scale: &Scale, svg: &mut String) {
        let (left, top, right, below) = MARGINS;
        let (end, bottom) = (SIZE.0 - right, SIZE.1 - below);
        for tick in ticks(scale.up) {
            let y = scale.y(tick);
            let _ = writeln!(svg, "<line class=\"grid\" x1=\"{left}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            let _ =
                writeln!(svg, "<text class=\"left\" x=\"{}\" y=\"{:.1}\">{}</text>", left - 6.0, y + 4.0, number(tick));
        }
        for tick in ticks(scale.across) {
            let x = scale.x(tick);
            let _ = writeln!(svg, "<text class=\"below\" x=\"{x:.1}\" y=\"{}\">{}</text>", bottom + 16.0, number(tick));
        }
        let _ = writeln!(svg, "<line class=\"axis\" x1=\"{left}\" x2=\"{end}\" y1=\"{bottom}\" y2=\"{bottom}\"/>");
        for (value, meaning) in &self.marks {
            let y = scale.y(*value);
            let _ = writeln!(svg, "<line class=\"mark\" x1=\"{left}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            let _ = writeln!(
                svg,
                "<text class=\"meaning\" x=\"{}\" y=\"{:.1}\">{}</text>",
                end - 4.0,
                y - 5.0,
                escaped(meaning)
            );
        }
        let middle = (left + end) / 2.0;
        let _ = writeln!(
            svg,
            "<text class=\"below\" x=\"{middle:.1}\" y=\"{}\">{}</text>",
            SIZE.1 - 6.0,
            escaped(self.across)
        );
        let (x, y) = (12.0, (top + bottom) / 2.0);
        let _ = writeln!(
            svg,
            "<text class=\"below\" transform=\"rotate(-90 {x} {y})\" x=\"{x}\" y=\"{y}\">{}</text>",
            escaped(self.up)
        );
    }

    fn draw_band(&self, scale: &Scale, svg: &mut String) {
        if self.band.is_empty() {
            return;
        }
        let upper = self.band.iter().map(|&(x, _, upper)| (x, upper));
        let lower = self.band.iter().rev().map(|&(x, lower, _)| (x, lower));
        let points: Vec<String> = upper.chain(lower).map(|(x, y)| place(scale, x, y)).collect();
        let _ = writeln!(svg, "<polygon class=\"band\" points=\"{}\"/>", points.join(" "));
    }
}

fn draw_series(series: &Series, scale: &Scale, colour: usize, svg: &mut String) {
    let mut points = Vec::new();
    let mut before = None;
    for &(x, y) in &series.points {
        if let Some(held) = before.filter(|_| series.is_step) {
            points.push(place(scale, x, held));
        }
        points.push(place(scale, x, y));
        before = Some(y);
    }
    let _ = writeln!(svg, "<polyline class=\"line{colour}\" points=\"{}\"/>", points.join(" "));
}

fn place(scale: &Scale, x: f64, y: f64) -> String {
    format!("{:.1},{:.1}", scale.x(x), scale.y(y))
}

/// Round values within a range, about as many as wanted.
fn ticks((from, to): (f64, f64)) -> Vec<f64> {
    let rough = (to - from) / TICKS;
    if !rough.is_finite() || rough <= 0.0 {
        return Vec::new();
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let first = (from / step).ceil() as i64;
    (first..).map(|at| at as f64 * step).take_while(|tick| *tick <= to + step * 1e-9).collect()
}

/// A tick as people write it.
fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 10_000.0 => return format!("{:.0}k", value / 1_000.0),
        size if size >= 10.0 => format!("{value:.0}"),
        _ => format!("{value:.4}"),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text.as_str() };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Text as a page may hold it.
pub(in crate::cli) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks((0.0, 1.0)), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks((0.0, 37_000.0)), [0.0, 10_000.0, 20_000.0, 30_000.0]);
        assert_eq!(ticks((-0.02, 0.03)), [-0.02, -0.01, 0.0, 0.01, 0.02, 0.03]);
        assert!(ticks((0.0, 0.0)).is_empty() && ticks((0.0, f64::NAN)).is_empty());
        assert_eq!([0.6000000000000001, -0.02, 30_000.0, 12.0, 0.0].map(number), ["0.6", "-0.02", "30k", "12", "0"]);
    }

    #[test]
    fn what_is_beyond_is_cut_off_and_what_holds_is_a_step() {
        let series = |is_step| Series { name: "<a>".into(), points: vec![(0.0, 0.0), (10.0, 5.0)], is_step };
        let chart = Chart { series: vec![series(true), series(false)], range: (0.0, 1.0), ..Chart::default() };
        let svg = chart.svg();
        assert!(svg.contains("points=\"64.0,220.0 628.0,220.0 628.0,12.0\""), "{svg}");
        assert!(svg.contains("points=\"64.0,220.0 628.0,12.0\"") && svg.contains("&lt;a&gt;"), "{svg}");
        assert!(!svg.contains("NaN") && !Chart::default().svg().contains("NaN"));
    }
}
