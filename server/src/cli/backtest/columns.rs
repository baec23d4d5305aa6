//! Which columns of the history mean what?

use std::collections::BTreeSet;

use super::contender::Contender;
use super::history::History;
use super::options::Options;
use crate::cli::exit::Failure;

/// Names that a message lists at most.
const SHOWN_MAX: usize = 40;

/// Where everything is in a row of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Columns {
    /// The columns that are read, in the order of a batch's row.
    pub(super) names: Vec<String>,
    /// Of champion and challenger: each field's column; `None` for an optional one that the history lacks.
    pub(super) fields: [Vec<Option<usize>>; 2],
    pub(super) label: usize,
    pub(super) key: Option<usize>,
    pub(super) time: Option<usize>,
    pub(super) slices: Vec<usize>,
    /// Columns that nobody asked for.
    pub(super) unused: Vec<String>,
    /// What may be a mistake.
    pub(super) notes: Vec<String>,
}

impl Columns {
    /// Finds all of them. Fails with everything that is missing, and with what there is instead.
    pub(super) fn find(options: &Options, contenders: &[Contender; 2], history: &History) -> Result<Columns, Failure> {
        let fields = |contender: &Contender| {
            contender.fields.iter().map(|field| (field.name.clone(), field.optional)).collect::<Vec<_>>()
        };
        let [a, b] = contenders;
        let needs = [(a.name.as_str(), fields(a)), (b.name.as_str(), fields(b))];
        Columns::among(options, needs, history.columns(), history.is_json())
            .map_err(|error| Failure::failed(error).at(history.shown()))
    }

    /// The same of what each version needs: its name, and each column with whether it may be left out. In NDJSON a row may
    /// lack whatever is no input, such as a label, and only the first row's columns are known.
    fn among(
        options: &Options,
        needs: [(&str, Vec<(String, bool)>); 2],
        found: &[String],
        is_json: bool,
    ) -> Result<Columns, String> {
        let mut columns = Columns::default();
        let mut missing = Vec::new();
        let is_there = |name: &str| found.iter().any(|column| column == name);
        for (side, (version, fields)) in needs.into_iter().enumerate() {
            for (name, is_optional) in fields {
                let at = is_there(&name).then(|| columns.place(&name));
                if at.is_none() && !is_optional {
                    missing.push((name, format!("an input of {version}")));
                }
                columns.fields[side].push(at);
            }
        }
        let inputs: BTreeSet<String> = columns.names.iter().cloned().collect();
        let mut role = |name: &str, what: &str| {
            if !is_json && !is_there(name) {
                missing.push((name.to_owned(), what.to_owned()));
            }
            columns.place(name)
        };
        let label = role(&options.label, "the label");
        let key = options.key.as_deref().map(|name| role(name, "the key"));
        let time = options.maturity.as_ref().map(|maturity| role(&maturity.column, "the time"));
        let slices = options.slices.iter().map(|name| role(name, "a slice")).collect();
        (columns.label, columns.key, columns.time, columns.slices) = (label, key, time, slices);
        let is_used = |name: &&String| columns.names.contains(name);
        columns.unused = found.iter().filter(|name| !is_used(name)).cloned().collect();
        if !missing.is_empty() {
            return Err(columns.complaint(&missing, found));
        }
        if let Some(twice) = columns.names.iter().find(|name| found.iter().filter(|column| column == name).count() > 1)
        {
            return Err(format!("column {twice:?} comes twice: which one is meant?"));
        }
        if inputs.contains(&options.label) {
            let note = format!("the label {:?} is also an input: a model that sees it knows the answer", options.label);
            columns.notes.push(note);
        }
        Ok(columns)
    }

    /// The place of a column in a row, which it gets where it has none.
    fn place(&mut self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        })
    }

    fn complaint(&self, missing: &[(String, String)], found: &[String]) -> String {
        let shown: Vec<String> =
            missing.iter().take(SHOWN_MAX).map(|(name, what)| format!("{name:?} ({what})")).collect();
        let more = if missing.len() > SHOWN_MAX { format!(", … ({} in all)", missing.len()) } else { String::new() };
        let unused = match self.unused.is_empty() {
            true => String::new(),
            false => format!("; what it has beside the others is {}", listed(&self.unused)),
        };
        let separator = match found {
            [only] => [';', '\t', '|'].into_iter().find(|&separator| only.contains(separator)),
            _ => None,
        };
        let hint = separator.map_or_else(String::new, |separator| {
            format!("; its cells seem to be separated by {separator:?}, and a comma is expected")
        });
        format!("no column is called {}{more}{unused}{hint}", shown.join(", "))
    }
}

/// Names in a message.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN_MAX).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN_MAX { format!("{shown}, … ({} in all)", names.len()) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::backtest::tests::options;

    fn found(more: &str, header: &str, is_json: bool) -> Result<Columns, String> {
        let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let need = |text: &str| names(text).into_iter().map(|name| (name.clone(), name == "maybe")).collect::<Vec<_>>();
        let needs = [("risk@1", need("age,income")), ("risk@2", need("age,maybe,debt"))];
        Columns::among(&options(more), needs, &names(header), is_json)
    }

    #[test]
    fn columns_are_found_by_name() {
        let columns = found("--key id --slice region", "id,debt,income,age,y,region,zip", false).unwrap();
        assert_eq!(columns.names, ["age", "income", "debt", "y", "id", "region"]);
        assert_eq!(columns.fields, [vec![Some(0), Some(1)], vec![Some(0), None, Some(2)]]);
        assert_eq!((columns.label, columns.key, columns.slices, columns.time), (3, Some(4), vec![5], None));
        assert_eq!(columns.unused, ["zip"]);
        let with = found("", "debt,income,age,maybe,y", false).unwrap();
        assert_eq!(with.fields[1], [Some(0), Some(2), Some(3)]);
    }

    #[test]
    fn what_is_missing_is_told_at_once() {
        let check = |more: &str, header: &str, is_json, expected: &[&str]| {
            let error = found(more, header, is_json).unwrap_err();
            assert!(expected.iter().all(|words| error.contains(words)), "{error}");
        };
        check(
            "",
            "ag,income,Y",
            false,
            &[
                r#""age" (an input of risk@1)"#,
                r#""debt" (an input of risk@2)"#,
                r#""y" (the label)"#,
                r#"is "ag", "Y""#,
            ],
        );
        check("--key id", "age,income,debt,y", false, &[r#""id" (the key)"#]);
        check("", "age;income;debt;y", false, &["separated by ';'"]);
        check("", "age,income,debt,age,y", false, &["\"age\" comes twice"]);
        check("", "age,income", true, &["\"debt\""]);
        assert!(found("--key id", "age,income,debt", true).is_ok(), "a row of NDJSON may lack a label");
    }

    #[test]
    fn a_label_among_the_inputs_is_told() {
        let columns = found("--label age", "age,income,debt", false).unwrap();
        assert!(columns.notes[0].contains("also an input"), "{columns:?}");
    }
}
