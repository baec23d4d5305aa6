//! How does drift look in a browser? One page that needs nothing else: no script, nothing from elsewhere.

use std::cmp::Reverse;
use std::fmt::Write as _;

use serde_json::Value;
use tiltyard_drift::alarm::{Reading, Rule, moment, readings};
use tiltyard_drift::baseline::Feature;
use tiltyard_drift::bins::Bins;
use tiltyard_drift::span::Span;
use tiltyard_drift::windows::{Window, Windows};

use super::super::demo::chart::{Chart, Series, escaped};
use super::super::exit::Failure;
use super::super::models::text;
use super::replicas;

/// Columns that are as expected, and shown all the same.
const CALM_SHOWN: usize = 30;

/// Categories that a chart has room for.
const BARS_MAX: usize = 24;

/// A chart of bars: width, height, and what is left below for names.
const BARS: (f64, f64, f64) = (640.0, 260.0, 40.0);

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1d2330; --soft: #667085; --ground: #fff; --grid: #e4e7ec; --c0: #1f6feb; --c1: #c4320a; --c2: #7a5af8; --warn: #b54708; --alert: #b42318; --ok: #067647; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --ground: #14171f; --grid: #2c3240; --c0: #6ea8fe; --c1: #ff9066; --c2: #b4a2ff; --warn: #fdb022; --alert: #ff7a6b; --ok: #4cc38a; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; } th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--grid); }
section { border-top: 1px solid var(--grid); margin-top: 1.5rem; } h3 { margin: 1rem 0 0; } .soft { color: var(--soft); }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } figure { flex: 1 1 20rem; min-width: 18rem; margin: .5rem 0; } figcaption { font-size: .85rem; font-weight: 600; }
svg { width: 100%; height: auto; font-size: 13px; } svg text { fill: var(--soft); } .left, .meaning { text-anchor: end; } .below { text-anchor: middle; }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); } .mark { stroke: var(--ink); stroke-dasharray: 4 3; }
polyline { fill: none; stroke-width: 2; } .line0 { stroke: var(--c0); } .line1 { stroke: var(--c1); } .line2 { stroke: var(--c2); } .bar0 { fill: var(--c0); opacity: .35; } .bar1 { fill: var(--c1); opacity: .85; }
.names span { margin-right: 1.2rem; font-size: .85rem; } .name0 { color: var(--c0); } .name1 { color: var(--c1); } .name2 { color: var(--c2); }
.level { border: 1px solid currentColor; border-radius: .4rem; padding: 0 .4rem; font-size: .8rem; font-weight: 600; } .ok { color: var(--ok); } .warn { color: var(--warn); } .alert { color: var(--alert); }
";

/// The page. `every_column`: also all of those that are as expected.
pub(super) fn of(all: &[Value], every_column: bool, now_ms: u64) -> Result<String, Failure> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Drift</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Drift</h1>\n<p>What models are asked and answer, against \
         what they were made for, as of {} UTC.</p>\n",
        moment(now_ms)
    );
    page += "<table>\n<tr><th>Model</th><th>Version</th><th>State</th><th>Inputs</th><th>Outputs</th><th>Baseline</th></tr>\n";
    for one in all {
        let baseline = match (one["baseline"]["rows"].as_u64(), one["baseline"]["provisional"] == true) {
            (Some(rows), true) => format!("{rows} rows of first traffic"),
            (Some(rows), false) => format!("{rows} rows"),
            (None, _) => "none".to_owned(),
        };
        let (model, version) = (escaped(&text(one, "model")), escaped(&text(one, "version")));
        let levels = ["inputs", "outputs"].map(|role| badge(one[role].as_str().unwrap_or_default()));
        let [inputs, outputs] = levels;
        let state = escaped(&text(one, "state"));
        let _ = writeln!(
            page,
            "<tr><td>{model}</td><td>{version}</td><td>{state}</td><td>{inputs}</td><td>{outputs}</td><td>{baseline}</td></tr>"
        );
    }
    page += "</table>\n";
    for one in all {
        if let Some(windows) = replicas::windows(one)? {
            version(&mut page, one, &windows, every_column);
        }
    }
    Ok(page + "</body>\n</html>\n")
}

fn badge(level: &str) -> String {
    match level {
        "ok" | "warn" | "alert" => format!("<span class=\"level {level}\">{}</span>", level.to_uppercase()),
        _ => "–".to_owned(),
    }
}

fn severity(level: &str) -> u8 {
    match level {
        "alert" => 2,
        "warn" => 1,
        _ => 0,
    }
}

fn version(page: &mut String, one: &Value, windows: &Windows, every_column: bool) {
    let title = format!("{} version {}", text(one, "model"), text(one, "version"));
    let _ = writeln!(page, "<h2>{}</h2>", escaped(&title));
    let days: Vec<Window> = windows.closed(Span::Day).collect();
    let hours: Vec<Window> = windows.closed(Span::Hour).collect();
    let Some(shown) = days.last().cloned().or_else(|| windows.open(Span::Day)) else {
        page.push_str("<p class=\"soft\">Nothing was asked yet.</p>\n");
        return;
    };
    let forms: Vec<&Value> = one["features"].as_array().into_iter().flatten().collect();
    let level = |at: &usize| forms.get(*at).and_then(|form| form["level"].as_str()).unwrap_or("ok");
    let psi = |at: &usize| {
        let found = forms.get(*at).and_then(|form| form["reading"]["distance"]["psi_corrected"].as_f64());
        (found.unwrap_or(0.0) * 1e6) as i64
    };
    let mut order: Vec<usize> = (0..windows.baseline().features().len()).collect();
    order.sort_by_key(|at| Reverse((severity(level(at)), psi(at))));
    let noted = order.iter().filter(|at| severity(level(at)) > 0).count();
    let most = if every_column { order.len() } else { noted + CALM_SHOWN };
    for &at in order.iter().take(most) {
        let why = forms.get(at).map_or_else(String::new, |form| text(form, "why"));
        feature(page, windows, at, (level(&at), &why), &shown, [&days, &hours]);
    }
    if order.len() > most {
        let left = order.len() - most;
        let _ = writeln!(page, "<p class=\"soft\">{left} more columns are as expected: --all shows them.</p>");
    }
}

fn feature(
    page: &mut String,
    windows: &Windows,
    at: usize,
    (level, why): (&str, &str),
    shown: &Window,
    [days, hours]: [&[Window]; 2],
) {
    let (baseline, rule) = (windows.baseline(), Rule::default());
    let feature = &baseline.features()[at];
    let _ = writeln!(
        page,
        "<section>\n<h3>{} {}</h3>\n<p>{}</p>\n<div class=\"charts\">",
        escaped(&feature.name),
        badge(level),
        escaped(why)
    );
    let expected = feature.expected(shown.hours(), baseline.facts().keys_per_row);
    let counts = &shown.features[at];
    let values = counts.values().max(1) as f64;
    let found: Vec<f64> = counts.bins().iter().map(|&count| count as f64 / values).collect();
    let title = format!("{} rows from {} UTC, by bin", counts.rows(), moment(shown.from_ms()));
    *page += &bars(feature, &title, &expected.expected.shares, &found);
    *page += &psi(&readings(baseline, &rule, at, days), rule.limit(feature, Span::Day));
    *page += &rates(&readings(baseline, &rule, at, hours));
    *page += "</div>\n</section>\n";
}

/// Shares by bin: what is expected, wide and pale, and what was found.
fn bars(feature: &Feature, title: &str, expected: &[f64], found: &[f64]) -> String {
    let mut bins: Vec<usize> = (0..expected.len().min(found.len())).collect();
    if matches!(feature.bins, Bins::Categories(_)) && bins.len() > BARS_MAX {
        // The largest, in their order.
        bins.sort_by(|a, b| (expected[*b] + found[*b]).total_cmp(&(expected[*a] + found[*a])));
        bins.truncate(BARS_MAX);
        bins.sort_unstable();
    }
    let most = bins.iter().map(|&bin| expected[bin].max(found[bin])).fold(1e-9, f64::max);
    let (width, height, below) = BARS;
    let title = escaped(title);
    let mut svg = format!(
        "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\n"
    );
    let step = width / bins.len().max(1) as f64;
    let floor = height - below;
    for (place, &bin) in bins.iter().enumerate() {
        let x = place as f64 * step;
        let [wide, slim] = [expected[bin], found[bin]].map(|share| (share / most * (floor - 16.0)).max(0.0));
        let name = escaped(&named(&feature.bins, bin));
        let _ = writeln!(
            svg,
            "<g><title>{name}: {:.2}% expected, {:.2}% found</title><rect class=\"bar0\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
             height=\"{wide:.1}\"/><rect class=\"bar1\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{slim:.1}\"/></g>",
            expected[bin] * 100.0,
            found[bin] * 100.0,
            x + step * 0.05,
            floor - wide,
            step * 0.9,
            x + step * 0.3,
            floor - slim,
            step * 0.4
        );
    }
    let _ = writeln!(svg, "<line class=\"axis\" x1=\"0\" x2=\"{width}\" y1=\"{floor}\" y2=\"{floor}\"/>");
    let ends = [(0, "start", 0.0), (bins.len().saturating_sub(1), "end", width)];
    for (place, anchor, x) in ends {
        let name: String =
            bins.get(place).map_or_else(String::new, |&bin| named(&feature.bins, bin)).chars().take(30).collect();
        let _ = writeln!(
            svg,
            "<text text-anchor=\"{anchor}\" x=\"{x}\" y=\"{:.1}\">{}</text>",
            floor + 18.0,
            escaped(&name)
        );
    }
    let _ = writeln!(svg, "<text text-anchor=\"end\" x=\"{width}\" y=\"12\">{:.1}%</text>", most * 100.0);
    svg + "</svg>\n<p class=\"names\"><span class=\"name0\">expected</span> <span class=\"name1\">found</span></p></figure>\n"
}

/// What people call a bin, with numbers as short as a chart needs them.
fn named(bins: &Bins, bin: usize) -> String {
    let Bins::Numeric(numeric) = bins else { return bins.name(bin) };
    let short = |cut: &f64| format!("{cut:.4e}").parse::<f64>().unwrap_or(*cut);
    let cuts = numeric.cuts();
    match (bin.checked_sub(1).and_then(|at| cuts.get(at)), cuts.get(bin)) {
        (Some(from), Some(to)) => format!("{} to {}", short(from), short(to)),
        (None, Some(to)) => format!("below {}", short(to)),
        (Some(from), None) => format!("above {}", short(from)),
        (None, None) => bins.name(bin),
    }
}

/// The corrected PSI, day by day, with the limits.
fn psi(days: &[Reading], [warns, alerts]: [f64; 2]) -> String {
    let points: Vec<(f64, f64)> =
        places(days, 24.0).zip(days).filter_map(|(x, day)| Some((x, day.distance.as_ref()?.psi_corrected))).collect();
    let most = points.iter().map(|point| point.1).fold(alerts, f64::max);
    let series = vec![Series { name: "psi".into(), points, is_step: false }];
    let title = match days.first() {
        Some(first) => format!("corrected PSI by day, from {} UTC", moment(first.from_ms)),
        None => "corrected PSI by day: no day is over yet".to_owned(),
    };
    let marks = vec![(warns, "WARN"), (alerts, "ALERT")];
    Chart { title, across: "days", up: "PSI", series, marks, range: (0.0, most * 1.1), ..Chart::default() }.svg()
}

/// Rows without a usable value, and values that were never seen, hour by hour.
fn rates(hours: &[Reading]) -> String {
    let line = |name: &str, of: fn(&Reading) -> f64| {
        let points = places(hours, 1.0).zip(hours).map(|(x, hour)| (x, of(hour) * 100.0)).collect();
        Series { name: name.into(), points, is_step: true }
    };
    let series =
        vec![line("missing", |hour| hour.missing.found), line("unseen or out of range", |hour| hour.strange.found)];
    let most = series.iter().flat_map(|series| series.points.iter().map(|point| point.1)).fold(5.0, f64::max);
    let title = match hours.first() {
        Some(first) => {
            format!("rows without a usable value, and strange ones, by hour from {} UTC", moment(first.from_ms))
        }
        None => "rows without a usable value, by hour: too few rows yet".to_owned(),
    };
    Chart { title, across: "hours", up: "percent", series, range: (0.0, most * 1.1), ..Chart::default() }.svg()
}

/// Where windows begin, in so many hours since the first.
fn places(found: &[Reading], hours: f64) -> impl Iterator<Item = f64> {
    let first = found.first().map_or(0, |first| first.from_ms);
    found.iter().map(move |one| one.from_ms.saturating_sub(first) as f64 / 3.6e6 / hours)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;
    use tiltyard_drift::alarm::Watch;
    use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
    use tiltyard_drift::shard::Shard;
    use tiltyard_drift::values::Values;
    use tiltyard_types::Tensor;

    use super::*;
    use crate::drift::told::stand;

    fn baseline(values: &[f32]) -> Baseline {
        let column = Tensor::from_slice([values.len()], values).expect("values");
        let mut builder = Builder::new(values.len());
        let spec = |name: &str| Spec { name: name.into(), role: Role::Input, importance: 1.0 };
        for name in ["<age>", "height"] {
            builder.add(spec(name), &[Values::of(&column, 0).expect("one column")]).expect("it fits");
        }
        builder.finish().expect("a baseline")
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let values: Vec<f32> = (0..1_000).map(|row| row as f32).collect();
        let baseline = baseline(&values);
        let (mut shard, mut windows) = (Shard::new(&baseline), Windows::new(&baseline));
        let mut watch = Watch::new(&baseline, Rule::default());
        let older: Vec<f32> = values.iter().map(|value| value / 2.0 + 500.0).collect();
        for hour in 0..73 {
            shard.rows(1_000);
            for (place, values) in [(0, &older), (1, &values)] {
                shard.count(
                    place,
                    &Values::of(&Tensor::from_slice([1_000], values).expect("rows"), 0).expect("a column"),
                );
            }
            for window in windows.absorb(&mut shard, hour * 3_600_000) {
                watch.take(&window);
            }
        }
        let raw = json!({ "baseline": baseline.to_json(), "windows": STANDARD.encode(windows.write()) });
        let mut one = json!({ "model": "risk", "version": "2", "state": "watched", "raw": raw });
        stand(&mut one, &windows, &watch);
        let idle = json!({ "model": "other", "version": "1", "state": "no baseline" });
        let page = of(&[one, idle], false, 0).expect("a page");
        assert_eq!(
            (page.matches("<svg").count(), page.matches("</svg>").count(), page.matches("<h3>").count()),
            (6, 6, 2)
        );
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "NaN", "<age>"] {
            assert!(!page.contains(outside), "{outside}");
        }
        let (age, height) = (page.find("&lt;age&gt; <span").expect("age"), page.find("height <span").expect("height"));
        assert!(age < height, "the worst comes first");
        assert!(page.contains("ALERT</span></h3>") && page.contains("distributed otherwise"));
    }
}
