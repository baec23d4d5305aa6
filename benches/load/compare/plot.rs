//! How is a curve drawn, without any library? One SVG with axes, lines and their names.

/// Pixels.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Colours that people with any kind of sight can tell apart (Okabe and Ito, 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// A named curve.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    /// From left to right.
    pub(super) points: Vec<(f64, f64)>,
}

/// A drawing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plot {
    /// Of the file, without its ending.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) x: String,
    /// Drawn on a logarithmic scale: latencies span decades.
    pub(super) y: String,
    pub(super) lines: Vec<Line>,
}

impl Plot {
    /// The drawing as SVG. Points that are no numbers, or not above 0 on the vertical axis, are left out.
    pub(super) fn svg(&self) -> String {
        let drawable = |(x, y): &&(f64, f64)| x.is_finite() && y.is_finite() && *x >= 0.0 && *y > 0.0;
        let points: Vec<_> = self.lines.iter().flat_map(|line| line.points.iter().filter(drawable)).collect();
        let x_max = points.iter().map(|(x, _)| *x).fold(0.0, f64::max).max(1e-9) * 1.02;
        let y_low = points.iter().map(|(_, y)| *y).fold(f64::MAX, f64::min).min(1e12).log10().floor();
        let y_high = points.iter().map(|(_, y)| *y).fold(0.0, f64::max).max(1e-9).log10().ceil().max(y_low + 1.0);
        let at_x = |x: f64| LEFT + x / x_max * (WIDTH - LEFT - RIGHT);
        let at_y = |y: f64| HEIGHT - BOTTOM - (y.log10() - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        svg += &text(LEFT, 24.0, "start", &self.title);
        svg += &text(f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 12.0, "middle", &self.x);
        svg += &text(LEFT, TOP - 4.0, "end", &self.y);
        let step = tick_step(x_max);
        for tick in (0..).map(|number| f64::from(number) * step).take_while(|tick| *tick <= x_max) {
            svg += &rule(at_x(tick), TOP, at_x(tick), HEIGHT - BOTTOM);
            svg += &text(at_x(tick), HEIGHT - BOTTOM + 16.0, "middle", &short(tick));
        }
        for decade in (y_low as i32)..=(y_high as i32) {
            let value = 10f64.powi(decade);
            svg += &rule(LEFT, at_y(value), WIDTH - RIGHT, at_y(value));
            svg += &text(LEFT - 6.0, at_y(value) + 4.0, "end", &short(value));
        }
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points = line.points.iter().filter(drawable).map(|(x, y)| (at_x(*x), at_y(*y)));
            let path: Vec<String> = points.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            svg += &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
                path.join(" ")
            );
            for (x, y) in points {
                svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n");
            }
            let y = TOP + 18.0 * number as f64 + 10.0;
            let x = WIDTH - RIGHT + 12.0;
            svg += &format!("<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n", y - 9.0);
            svg += &text(x + 16.0, y, "start", &line.name);
        }
        svg + "</svg>\n"
    }
}

fn text(x: f64, y: f64, anchor: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>\n")
}

fn rule(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#dddddd\"/>\n")
}

/// A round distance between ticks, such that there are four to ten.
fn tick_step(most: f64) -> f64 {
    let power = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power * 5.0 >= most / 1.6);
    step.unwrap_or(10.0) * power
}

/// A number as short as it can be: 10k, 0.5.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{}", (value * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let line = Line { name: "a < b".into(), points };
        let words = |text: &str| text.to_owned();
        Plot { name: words("n"), title: words("t"), x: words("load"), y: words("µs"), lines: vec![line] }
    }

    #[test]
    fn points_lie_within_the_axes_and_in_order() {
        let svg = plot(vec![(0.0, 100.0), (500.0, 1000.0), (1000.0, 5000.0)]).svg();
        let path = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("it has a line");
        let points: Vec<(f64, f64)> = path
            .split(' ')
            .map(|point| point.split_once(',').expect("a pair"))
            .map(|(x, y)| (x.parse().expect("a number"), y.parse().expect("a number")))
            .collect();
        assert_eq!(points.len(), 3);
        assert!(points.iter().all(|(x, y)| (LEFT..=WIDTH - RIGHT).contains(x) && (TOP..=HEIGHT - BOTTOM).contains(y)));
        assert!(points.is_sorted_by(|one, next| one.0 < next.0 && one.1 > next.1), "{points:?}");
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN"));
    }

    #[test]
    fn nothing_to_draw_is_still_a_drawing() {
        for points in [vec![], vec![(f64::NAN, 1.0), (1.0, 0.0)]] {
            let svg = plot(points).svg();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for most in [0.9, 1.0, 7.3, 100.0, 81_234.0, 4e6] {
            let count = most / tick_step(most);
            assert!((2.0..=11.0).contains(&count), "{most}: {count}");
        }
        assert_eq!(["10k", "2M", "0.5", "100"], [10_000.0, 2e6, 0.5, 100.0].map(short).each_ref().map(String::as_str));
    }
}
