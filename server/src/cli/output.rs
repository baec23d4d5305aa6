//! How is a command's outcome shown: to people as a table, to programs as JSON?

use std::fmt;
use std::io::{self, Write};

use clap::{Arg, ArgMatches};
use serde_json::Value;

use super::exit::Failure;

/// The flag's name among the matches.
pub(crate) const OUTPUT: &str = "output";

/// What stands in a cell that has nothing to say.
pub(crate) const NOTHING: &str = "-";

/// For whom a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Form {
    /// What the command line asks for.
    pub(crate) fn of(matches: &ArgMatches) -> Form {
        match matches.try_get_one::<String>(OUTPUT) {
            Ok(Some(form)) if form == "json" => Form::Json,
            _ => Form::Table,
        }
    }
}

/// The flag of all commands but `serve`.
pub(crate) fn flag() -> Arg {
    Arg::new(OUTPUT)
        .long(OUTPUT)
        .value_name("FORM")
        .value_parser(["table", "json"])
        .hide_possible_values(true)
        .global(true)
        .help("How to show the outcome: table for people, json for programs [default: table]")
}

/// Writes to standard output. A reader that left ends the command without a complaint.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes one JSON value, indented, to standard output.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// Writes a line to standard error. Where even that is closed, there is nobody left to tell.
pub(crate) fn note(text: impl fmt::Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Lines of cells under a head, as wide as needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a head.
    pub(crate) fn new<T: Into<String>>(head: impl IntoIterator<Item = T>) -> Table {
        let head = head.into_iter().map(|cell| cell.into().to_uppercase()).collect();
        Table { rows: vec![head] }
    }

    /// Adds a line. Its cells may hold anything: what would move the cursor is made visible.
    pub(crate) fn add<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell.into())).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> =
            (0..columns).map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
        for row in &self.rows {
            let line: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Text from elsewhere, such as a model's name, without control characters.
fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A number of bytes as people say it.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut amount = bytes as f64;
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if amount < 9.95 => format!("{amount:.1} {}", UNITS[unit]),
        _ => format!("{amount:.0} {}", UNITS[unit]),
    }
}

/// The first digits of a digest, as much as people compare.
pub(crate) fn short_digest(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// An environment variable, unless it is missing, empty or not text.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["name", "state"]);
        table.add(["risk", "READY"]);
        table.add(["größe-x", ""]);
        assert_eq!(table.to_string(), "NAME     STATE\nrisk     READY\ngröße-x\n");
    }

    #[test]
    fn cells_cannot_move_the_cursor() {
        let mut table = Table::new(["a"]);
        table.add(["x\u{1b}[2J\ny"]);
        assert_eq!(table.to_string(), "A\nx\\u{1b}[2J\\ny\n");
    }

    #[test]
    fn sizes_as_people_say_them() {
        let check = |bytes, expected: &str| assert_eq!(size(bytes), expected);
        check(0, "0 B");
        check(999, "999 B");
        check(1_000, "1.0 kB");
        check(9_960, "10 kB");
        check(999_600, "1.0 MB");
        check(3_456_789_000, "3.5 GB");
        check(u64::MAX, "18446744 TB");
    }
}
