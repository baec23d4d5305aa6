//! How are figures told: to people as tables, to programs as JSON?

use serde::Serialize;

use super::host::Host;
use super::plot::Plot;
use super::rounds::Outcome;
use crate::limit::Limit;

/// A table of texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Table {
    pub(super) title: String,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(title: impl Into<String>, columns: &[&'static str]) -> Table {
        Table { title: title.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// In Markdown, with columns in line for those who read the text itself. All but the first column are numbers.
    pub(super) fn markdown(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: Vec<&str>| {
            let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut text = format!("{}\n\n", self.title);
        text += &line(self.columns.clone());
        let rules: Vec<String> = widths.iter().enumerate().map(|(column, &width)| rule(column, width)).collect();
        text += &line(rules.iter().map(String::as_str).collect());
        for row in &self.rows {
            text += &line(row.iter().map(String::as_str).collect());
        }
        text
    }
}

fn rule(column: usize, width: usize) -> String {
    match column {
        0 => "-".repeat(width),
        _ => format!("{}:", "-".repeat(width.saturating_sub(1))),
    }
}

/// What a section found.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Section {
    pub(super) name: &'static str,
    /// Of the machine over the last minute, before and after.
    pub(super) load_average: (Option<f64>, Option<f64>),
    pub(super) tables: Vec<Table>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) limits: Vec<Limit>,
    #[serde(skip)]
    pub(super) plots: Vec<Plot>,
}

/// Everything of one comparison.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) host: Host,
    /// The command line.
    pub(super) command: Vec<String>,
    pub(super) rounds: usize,
    pub(super) sections: Vec<Section>,
}

impl Report {
    /// All tables, with what must be known to read them.
    pub(super) fn markdown(&self) -> String {
        let Host { processor, cores, kernel, commit } = &self.host;
        let mut text = format!("`{}`\n\n", self.command.join(" "));
        text +=
            &format!("{processor}, {cores} cores, Linux {kernel}, commit {}; ", commit.as_deref().unwrap_or("unknown"));
        text += &format!("medians of {} rounds in turns, ratios within rounds.\n", self.rounds);
        for section in &self.sections {
            let load = |load: Option<f64>| load.map_or("unknown".to_owned(), |load| format!("{load:.1}"));
            let (before, after) = section.load_average;
            text += &format!("\n## {} (load average {} before, {} after)\n", section.name, load(before), load(after));
            for table in &section.tables {
                text += &format!("\n{}", table.markdown());
            }
        }
        text
    }
}

/// A number with as many digits as mean something; `–` where it is none.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        size if size >= 100.0 => thousands(value.round()),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// A share of one as a percentage.
pub(super) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0} %", share * 100.0) } else { "–".to_owned() }
}

/// How many times as much.
pub(super) fn times(ratio: f64) -> String {
    if ratio.is_finite() { format!("{ratio:.2}x") } else { "–".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let texts = [1_234_567.8, 999.6, 99.96, 12.34, 1.234, -4321.0, f64::NAN].map(number);
        assert_eq!(texts, ["1,234,568", "1,000", "100.0", "12.3", "1.23", "-4,321", "–"]);
        assert_eq!((percent(0.954), times(1.5), times(f64::INFINITY)), ("95 %".into(), "1.50x".into(), "–".into()));
    }

    #[test]
    fn tables_are_markdown_in_line() {
        let mut table = Table::new("Title", &["who", "requests/s"]);
        table.rows.push(vec!["server".into(), "1,000".into()]);
        let expected = "Title\n\n| who    | requests/s |\n| ------ | ---------: |\n| server |      1,000 |\n";
        assert_eq!(table.markdown(), expected);
    }
}
