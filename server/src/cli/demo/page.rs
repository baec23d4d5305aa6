//! How does the report look in a browser? One page that needs nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::chart::{Chart, Series, escaped};
use super::report::{Report, cells};
use super::watched::{Sample, Watched};

const STYLE: &str = "\
:root { --ink: #1d2330; --soft: #667085; --ground: #fff; --grid: #e4e7ec; --c0: #1f6feb; --c1: #c4320a; --c2: #7a5af8; --c3: #067647; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --ground: #14171f; --grid: #2c3240; --c0: #6ea8fe; --c1: #ff9066; --c2: #b4a2ff; --c3: #4cc38a; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; } th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--grid); }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; font-size: 12px; }
svg text { fill: var(--soft); } .left, .meaning { text-anchor: end; } .below { text-anchor: middle; }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); } .mark { stroke: var(--ink); stroke-dasharray: 4 3; }
polyline { fill: none; stroke-width: 2; } .band { fill: var(--c0); opacity: .18; }
.line0 { stroke: var(--c0); } .line1 { stroke: var(--c1); } .line2 { stroke: var(--c2); } .line3 { stroke: var(--c3); }
.names span { margin-right: 1.2rem; } .name0 { color: var(--c0); } .name1 { color: var(--c1); } .name2 { color: var(--c2); } .name3 { color: var(--c3); }
.state { font-weight: 600; } .soft { color: var(--soft); }
";

const ABOUT: &str = "\
Three models say whether a flight from New York will arrive 15 minutes late or more. Flights from July to December 2013, which none \
of them was trained on, were replayed once each as live traffic through a server; what became of each was told up to three seconds \
later, a second for a day. The gain is how much lower the challenger's mean squared error is than the champion's; its bounds may be \
looked at all the time. A challenger is promoted once the lower bound is above 0 and no guardrail speaks against it, and rolled back \
once it is shown to be worse.";

/// The page.
pub(super) fn of(report: &Report) -> String {
    let end = if report.is_as_expected() { "Both verdicts were reached." } else { "The verdicts were not reached." };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Models compete</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Models compete</h1>\n<p>{ABOUT}</p>\n"
    );
    let head = ["Rollout", "Champion", "Challenger", "State", "After", "Labels", "Gain", "Within", "On its rows"];
    let head: String = head.iter().map(|cell| format!("<th>{cell}</th>")).collect();
    let _ = writeln!(page, "<table>\n<tr>{head}</tr>");
    for watched in &report.rollouts {
        let row: String = cells(watched).iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        let _ = writeln!(page, "<tr>{row}</tr>");
    }
    let _ = writeln!(page, "</table>\n<p>{}</p>\n<p class=\"state\">{end}</p>", escaped(&report.counts()));
    for watched in &report.rollouts {
        draw(watched, &mut page);
    }
    page + "</body>\n</html>\n"
}

fn draw(watched: &Watched, page: &mut String) {
    let reasons: String = watched.reasons().iter().map(|reason| format!("<li>{}</li>", escaped(reason))).collect();
    let _ = writeln!(
        page,
        "<h2>{}: version {} against version {}</h2>\n<p>Trained on {} against {}. It is <span class=\"state\">{}</span>, since</p>\n\
         <ul>{reasons}</ul>",
        escaped(&watched.name()),
        watched.challenger.version,
        watched.champion.version,
        escaped(&watched.challenger.trained_on),
        escaped(&watched.champion.trained_on),
        escaped(&watched.state()),
    );
    for chart in [gain(&watched.samples), share(&watched.samples), evidence(&watched.samples)] {
        *page += &chart.svg();
    }
    *page += &guardrails(watched);
}

/// How the gain became known.
fn gain(samples: &[Sample]) -> Chart {
    let known: Vec<(f64, &Sample, (f64, f64))> =
        samples.iter().filter_map(|sample| Some((sample.labels as f64, sample, sample.bounds?))).collect();
    // As wide as a quarter of all labels left it: before that nothing is known.
    let most = known.last().map_or(0.0, |last| last.0);
    let late = known.iter().filter(|(labels, ..)| labels * 4.0 >= most).map(|(.., bounds)| bounds);
    let range = late.fold((0.0f64, 0.0f64), |(low, high), (lower, upper)| (low.min(*lower), high.max(*upper)));
    let harm = known.iter().filter_map(|(labels, sample, _)| Some((*labels, sample.harm_upper?))).collect();
    let series = |name: &str, points| Series { name: name.to_owned(), points, is_step: false };
    Chart {
        title: "How much lower the challenger's mean squared error is".into(),
        across: "labels",
        up: "gain",
        series: vec![
            series(
                "gain, with the bounds that promote",
                known.iter().map(|(labels, sample, _)| (*labels, sample.gain)).collect(),
            ),
            series("upper bound that rolls back below 0", harm),
        ],
        band: known.iter().map(|&(labels, _, (lower, upper))| (labels, lower, upper)).collect(),
        marks: vec![(0.0, "no gain")],
        range: (range.0 * 1.1, range.1 * 1.1),
    }
}

/// Who answered how much.
fn share(samples: &[Sample]) -> Chart {
    let points = samples.iter().map(|sample| (sample.seconds, sample.share * 100.0)).collect();
    Chart {
        title: "The challenger's share of the traffic".into(),
        across: "seconds",
        up: "percent",
        series: vec![Series { name: "share".into(), points, is_step: true }],
        range: (0.0, 100.0),
        ..Chart::default()
    }
}

/// How near each guardrail came to an alarm.
fn evidence(samples: &[Sample]) -> Chart {
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples {
        for (metric, evidence) in &sample.guardrails {
            lines.entry(metric).or_default().push((sample.seconds, *evidence));
        }
    }
    let series = |(name, points): (&str, Vec<(f64, f64)>)| Series { name: name.to_owned(), points, is_step: true };
    Chart {
        title: "Evidence of harm by guardrail, as a part of what makes an alarm".into(),
        across: "seconds",
        up: "of an alarm",
        series: lines.into_iter().map(series).collect(),
        marks: vec![(1.0, "alarm")],
        range: (0.0, 1.1),
        ..Chart::default()
    }
}

/// What each guardrail counted.
fn guardrails(watched: &Watched) -> String {
    let mut table =
        "<table>\n<tr><th>Guardrail</th><th>Champion</th><th>Challenger</th><th>Ratio</th><th>Passes</th></tr>\n"
            .to_owned();
    for reading in watched.form["guardrails"].as_array().into_iter().flatten() {
        let count = |arm: usize| format!("{} of {}", reading["events"][arm], reading["of"][arm]);
        let bound = |key: &str| reading["ratio"][key].as_f64();
        let ratio = match (bound("lower"), bound("upper")) {
            (Some(lower), Some(upper)) => format!("{lower:.2} to {upper:.2}"),
            (lower, _) => format!("{:.2} or more", lower.unwrap_or(0.0)),
        };
        let passes = if reading["passes"] == true { "yes" } else { "not yet" };
        let metric = reading["metric"].as_str().unwrap_or_default();
        let _ = writeln!(
            table,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{ratio}</td><td>{passes}</td></tr>",
            escaped(metric),
            count(0),
            count(1)
        );
    }
    table + "</table>\n"
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let page = report("rolled_back").page();
        assert_eq!(
            (page.matches("<svg").count(), page.matches("</svg>").count(), page.matches("<h2>").count()),
            (6, 6, 2)
        );
        for outside in ["http:", "https:", "//", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("<td>promoted</td>") && page.contains("<td>rolled_back</td>") && !page.contains("NaN"));
        assert!(page.contains("<li>errors passes</li>") && page.contains("Both verdicts were reached."));
        assert!(report("futile").page().contains("The verdicts were not reached."));
    }
}
