//! What does a capacity card say? The same as JSON, as Markdown and for the terminal.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tiltyard_runtime::cost::{Fit, Point};
use tiltyard_runtime::deployment::Deployment;

use super::super::output::{NOTHING, Table, size};
use super::load::Load;
use super::plan::Plan;
use super::plot::bar;

/// Cells of a plot's longest bar.
const BAR_WIDTH: usize = 32;

/// Fewer requests than this say little of the slowest in a hundred.
const REQUESTS_FOR_P99: u64 = 300;

/// Where it was measured.
pub(super) struct Machine {
    pub(super) cpu: &'static str,
    /// Processors granted.
    pub(super) cores: usize,
    /// Memory granted.
    pub(super) memory_bytes: Option<u64>,
}

/// What a bench found out.
pub(super) struct Card<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) machine: Machine,
    pub(super) rows_per_request: usize,
    /// The smallest batch that is as good as the best.
    pub(super) best_rows: Option<usize>,
    pub(super) points: Vec<Point>,
    pub(super) fit: Option<Fit>,
    pub(super) saturation: Load,
    pub(super) loads: Vec<Load>,
    pub(super) plan: Plan,
    pub(super) unix_seconds: u64,
}

impl Card<'_> {
    /// For programs.
    pub(super) fn form(&self) -> Value {
        let identity = &self.deployment.identity;
        let curve: Vec<Value> = self
            .points
            .iter()
            .map(|point| {
                json!({
                    "rows": point.rows,
                    "seconds": point.typical.as_secs_f64(),
                    "p99_seconds": point.p99.map(|time| time.as_secs_f64()),
                    "rows_per_second": point.rows_per_second(),
                })
            })
            .collect();
        json!({
            "model": identity.model,
            "version": identity.version.to_string(),
            "digest": identity.digest.to_string(),
            "artifact": identity.artifact.to_string(),
            "engine": identity.engine,
            "engine_version": identity.build.version,
            "provider": identity.provider,
            "machine": {
                "cpu": self.machine.cpu,
                "arch": std::env::consts::ARCH,
                "cores": self.machine.cores,
                "memory_bytes": self.machine.memory_bytes,
            },
            "tiltyard": env!("CARGO_PKG_VERSION"),
            "unix_seconds": self.unix_seconds,
            "instances": self.deployment.policy.runs_max,
            "batch_rows_max": self.deployment.rows_max(),
            "batch_rows_best": self.best_rows,
            "curve": curve,
            "fit": self.fit.map(|fit| json!({ "row_seconds": fit.row_ns / 1e9, "run_seconds": fit.run_ns / 1e9 })),
            "rows_per_request": self.rows_per_request,
            "saturation": load_form(&self.saturation),
            "loads": self.loads.iter().map(load_form).collect::<Vec<_>>(),
            "plan": {
                "slo": self.plan.objective.map(|objective| objective.to_string()),
                "rows_per_second_per_replica": self.plan.rows_per_second,
                "rate": self.plan.rate,
                "replicas": self.plan.replicas,
            },
        })
    }

    /// For people at a terminal.
    pub(super) fn listing(&self) -> String {
        let mut text = format!("{}\n\nWhat a run costs\n{}", self.head(), self.curve_table(true));
        if let Some(line) = self.fit_line() {
            let _ = writeln!(text, "{line}");
        }
        let _ = write!(text, "\nUnder load, {}\n{}", self.load_head(), self.load_table(true));
        let _ = writeln!(text, "\n{}", self.plan_lines().join("\n"));
        text
    }

    /// For a page beside the model.
    pub(super) fn markdown(&self) -> String {
        let identity = &self.deployment.identity;
        let mut text = format!("# Capacity of {} version {}\n\n", identity.model, identity.version);
        for line in self.head().lines() {
            let _ = writeln!(text, "- {line}");
        }
        let _ = writeln!(text, "- deployment {}", identity.digest);
        let _ = writeln!(text, "\n## What a run costs\n\n{}", markdown_table(&self.curve_cells()));
        if let Some(line) = self.fit_line() {
            let _ = writeln!(text, "{line}\n");
        }
        let _ = writeln!(
            text,
            "## Under load\n\nIn the process, without network and protocol; {}.\n\n{}",
            self.load_head(),
            markdown_table(&self.load_cells())
        );
        let _ = writeln!(text, "## Replicas\n\n{}", self.plan_lines().join("\n"));
        text
    }

    fn head(&self) -> String {
        let identity = &self.deployment.identity;
        let Machine { cpu, cores, memory_bytes } = &self.machine;
        let memory = memory_bytes.map_or_else(String::new, |bytes| format!(", {} of memory", size(bytes)));
        format!(
            "{} version {} on {} {} ({})\n{cores} cores of {}{memory}; {} instances",
            identity.model,
            identity.version,
            identity.engine,
            identity.build.version,
            identity.provider,
            if cpu.is_empty() { std::env::consts::ARCH } else { cpu },
            self.deployment.policy.runs_max,
        )
    }

    fn curve_cells(&self) -> Vec<Vec<String>> {
        let mut cells = vec![["rows", "run", "p99", "per row", "rows/s", "fit"].map(str::to_owned).to_vec()];
        for point in &self.points {
            cells.push(vec![
                format!("{:.0}", point.rows),
                time(Some(point.typical)),
                time(point.p99),
                time(Some(point.typical.div_f64(point.rows.max(1.0)))),
                count(point.rows_per_second()),
                time(self.fit.map(|fit| fit.at(point.rows.round() as usize))),
            ]);
        }
        cells
    }

    fn curve_table(&self, with_plot: bool) -> String {
        let rates: Vec<f64> = self.points.iter().map(Point::rows_per_second).collect();
        table(&self.curve_cells(), with_plot.then_some(("plot of rows/s", &rates)))
    }

    fn fit_line(&self) -> Option<String> {
        let fit = self.fit?;
        let best = self.best_rows.map_or_else(String::new, |rows| format!("; a batch of {rows} is as good as any"));
        Some(format!("n rows take {} · n + {}{best}", seconds(fit.row_ns / 1e9), seconds(fit.run_ns / 1e9)))
    }

    fn load_head(&self) -> String {
        match self.rows_per_request {
            1 => "1 row in each request".to_owned(),
            rows => format!("{rows} rows in each request"),
        }
    }

    fn load_cells(&self) -> Vec<Vec<String>> {
        let head = ["load", "offered rows/s", "rows/s", "requests", "failed", "batch", "p50", "p99"];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        for load in self.loads.iter().chain([&self.saturation]) {
            cells.push(vec![
                load.fraction.map_or_else(|| "saturated".to_owned(), |fraction| format!("{:.0} %", fraction * 100.0)),
                load.offered.map_or_else(|| NOTHING.to_owned(), count),
                count(load.rows_per_second),
                load.answered.to_string(),
                load.failed.to_string(),
                format!("{:.1}", load.batch_rows),
                time(load.p50),
                time(load.p99),
            ]);
        }
        cells
    }

    fn load_table(&self, with_plot: bool) -> String {
        let loads = self.loads.iter().chain([&self.saturation]);
        let p99: Vec<f64> = loads.map(|load| load.p99.unwrap_or_default().as_secs_f64()).collect();
        table(&self.load_cells(), with_plot.then_some(("plot of p99", &p99)))
    }

    fn plan_lines(&self) -> Vec<String> {
        let Plan { objective, rows_per_second, rate, replicas } = &self.plan;
        let within = objective.map_or_else(|| "without an objective, at 75 % of saturation".into(), |o| o.to_string());
        let mut lines = vec![match rows_per_second {
            Some(carried) => format!("One replica like this carries {} rows/s ({within}).", count(*carried)),
            None => format!("One replica like this kept {within} at no load that was tried."),
        }];
        if let (Some(rate), Some(replicas)) = (rate, replicas) {
            lines.push(format!("{} rows/s take {replicas} replicas.", count(*rate)));
        }
        if self.loads.iter().any(|load| load.answered < REQUESTS_FOR_P99) {
            lines.push(format!(
                "Some loads had fewer than {REQUESTS_FOR_P99} requests: their p99 is rough, a longer --duration tells more."
            ));
        }
        lines
    }
}

fn load_form(load: &Load) -> Value {
    json!({
        "fraction": load.fraction,
        "offered_rows_per_second": load.offered,
        "rows_per_second": load.rows_per_second,
        "requests": load.answered,
        "failed": load.failed,
        "batch_rows": load.batch_rows,
        "p50_seconds": load.p50.map(|time| time.as_secs_f64()),
        "p99_seconds": load.p99.map(|time| time.as_secs_f64()),
    })
}

/// Cells under their head, with a bar for each line where there is something to plot.
fn table(cells: &[Vec<String>], plot: Option<(&str, &[f64])>) -> String {
    let [head, lines @ ..] = cells else { return String::new() };
    let mut table = Table::new(head.iter().cloned().chain(plot.map(|(name, _)| name.to_owned())));
    let largest = plot.map_or(0.0, |(_, values)| values.iter().copied().fold(0.0, f64::max));
    for (position, line) in lines.iter().enumerate() {
        let drawn = plot.and_then(|(_, values)| values.get(position)).map(|value| bar(*value, largest, BAR_WIDTH));
        table.add(line.iter().cloned().chain(drawn));
    }
    table.to_string()
}

fn markdown_table(cells: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (position, line) in cells.iter().enumerate() {
        let _ = writeln!(text, "| {} |", line.join(" | "));
        if position == 0 {
            let _ = writeln!(text, "|{}", "---:|".repeat(line.len()));
        }
    }
    text
}

/// A time as people say it.
fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| NOTHING.to_owned(), |time| seconds(time.as_secs_f64()))
}

/// A number of seconds with the unit that suits it, to three digits.
fn seconds(seconds: f64) -> String {
    let (amount, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    match amount {
        amount if amount < 10.0 => format!("{amount:.2} {unit}"),
        amount if amount < 100.0 => format!("{amount:.1} {unit}"),
        amount => format!("{amount:.0} {unit}"),
    }
}

/// A number of rows, with its thousands apart.
fn count(number: f64) -> String {
    if number < 100.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_say_them() {
        assert_eq!(
            ["0.5", "99.0", "123", "1,234", "1,234,567"],
            [0.5, 99.0, 123.4, 1_234.0, 1_234_567.0].map(count).each_ref().map(String::as_str)
        );
        let shown = |nanos| time(Some(Duration::from_nanos(nanos)));
        assert_eq!([shown(5_250), shown(52_500), shown(525_000)], ["5.25 µs", "52.5 µs", "525 µs"]);
        assert_eq!([shown(170), shown(1_000_000), shown(2_500_000_000)], ["170 ns", "1.00 ms", "2.50 s"]);
        assert_eq!(time(None), "-");
    }

    #[test]
    fn tables() {
        let cells = [["rows", "run"], ["1", "5 µs"], ["2", "6 µs"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(markdown_table(&cells), "| rows | run |\n|---:|---:|\n| 1 | 5 µs |\n| 2 | 6 µs |\n");
        let drawn = table(&cells, Some(("plot", &[1.0, 2.0])));
        assert_eq!(
            drawn,
            format!("ROWS  RUN   PLOT\n1     5 µs  {}\n2     6 µs  {}\n", "█".repeat(16), "█".repeat(32))
        );
    }
}
