//! How are a model's answers shown?

use tiltyard_types::json::{JsonError, Kind, Reader};

use crate::cli::exit::Failure;
use crate::cli::output::{self, Form, NOTHING, Table};

/// Elements of a tensor that people are shown; programs get all.
const ELEMENTS_SHOWN_MAX: usize = 16;

/// An answer of the protocol: as it came for programs, one line per output for people.
pub(super) fn show_inference(answer: &[u8], form: Form) -> String {
    let table = match form {
        Form::Json => None,
        Form::Table => outputs_table(answer).ok(),
    };
    table.unwrap_or_else(|| format!("{}\n", String::from_utf8_lossy(answer).trim_end()))
}

fn outputs_table(answer: &[u8]) -> Result<String, JsonError> {
    let mut table = Table::new(["output", "datatype", "shape", "data"]);
    Reader::new(answer).read_object(|key, reader| {
        if key != "outputs" {
            return reader.skip_value().map(|_| ());
        }
        reader.read_array(|reader| {
            let mut cells = [const { String::new() }; 4];
            reader.read_object(|key, reader| {
                match key {
                    "name" => cells[0] = reader.read_string()?.into_owned(),
                    "datatype" => cells[1] = reader.read_string()?.into_owned(),
                    "shape" => cells[2] = text(reader.skip_value()?),
                    "data" => cells[3] = shortened(reader)?,
                    _ => drop(reader.skip_value()?),
                }
                Ok::<(), JsonError>(())
            })?;
            table.add(cells);
            Ok::<(), JsonError>(())
        })
    })?;
    Ok(table.to_string())
}

/// The first elements of a list, and how many there are.
fn shortened(reader: &mut Reader<'_>) -> Result<String, JsonError> {
    let (mut shown, mut count) = (Vec::new(), 0);
    reader.read_array(|reader| {
        let element = reader.skip_value()?;
        if count < ELEMENTS_SHOWN_MAX {
            shown.push(text(element));
        }
        count += 1;
        Ok::<(), JsonError>(())
    })?;
    let more = if count > ELEMENTS_SHOWN_MAX { format!(", … ({count} in all)") } else { String::new() };
    Ok(format!("[{}{more}]", shown.join(", ")))
}

/// The answers to all requests for scores together, as if there had been one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Answers {
    /// What is not a list of one thing per row, such as the model's name, as the first answer has it.
    about: Vec<(String, String)>,
    /// The lists by key, each item as text.
    lists: Vec<(String, Vec<String>)>,
}

impl Answers {
    /// Takes in the answer to the next request. Fails on what is no answer of row scoring.
    pub(super) fn add(&mut self, answer: &[u8]) -> Result<(), Failure> {
        let row = self.rows();
        let first = self.about.is_empty() && self.lists.is_empty();
        let read = Reader::new(answer).read_object(|key, reader| {
            if reader.peek_kind()? != Kind::Array {
                let value = text(reader.skip_value()?);
                match self.about.iter_mut().find(|(known, _)| known == key) {
                    // A new version may have taken over between two requests.
                    Some((_, versions)) if key == "version" && !versions.ends_with(value.as_str()) => {
                        *versions = format!("{versions}, then {value}");
                    }
                    None if first => self.about.push((key.to_owned(), value)),
                    _ => {}
                }
                return Ok(());
            }
            let items = self.list(key);
            reader.read_array(|reader| {
                let item = reader.skip_value()?;
                items.push(if key == "warnings" { moved(item, row) } else { text(item) });
                Ok::<(), JsonError>(())
            })
        });
        read.map_err(|error: JsonError| {
            Failure::failed(format!("the answer is not that of a Tiltyard server: {error}"))
        })?;
        self.list("rows");
        Ok(())
    }

    /// Rows answered so far.
    pub(super) fn rows(&self) -> usize {
        self.lists.iter().find(|(key, _)| key == "rows").map_or(0, |(_, rows)| rows.len())
    }

    /// Writes all to standard output, warnings about values for people to standard error.
    pub(super) fn show(&self, form: Form) -> Result<(), Failure> {
        match form {
            Form::Json => output::print(&self.json()),
            Form::Table => {
                output::print(&self.table()?)?;
                let version = self.about.iter().find(|(key, _)| key == "version");
                if let Some((_, versions)) = version.filter(|(_, versions)| versions.contains(", then ")) {
                    output::note(format_args!("note: versions changed on the way: {versions}"));
                }
                let warnings =
                    self.lists.iter().filter(|(key, _)| key == "warnings").flat_map(|(_, warnings)| warnings);
                warnings.for_each(|warning| output::note(format_args!("warning: {}", unquoted(warning))));
                Ok(())
            }
        }
    }

    fn list(&mut self, key: &str) -> &mut Vec<String> {
        let position = self.lists.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            self.lists.push((key.to_owned(), Vec::new()));
            self.lists.len() - 1
        });
        &mut self.lists[position].1
    }

    fn json(&self) -> String {
        let about = self.about.iter().map(|(key, value)| match value.split_once(", then ") {
            // What programs parse stays of one type.
            Some((first, _)) => (key, first.to_owned()),
            None => (key, value.clone()),
        });
        let lists = self.lists.iter().map(|(key, items)| {
            let items: String = items
                .iter()
                .enumerate()
                .map(|(at, item)| format!("{}\n    {item}", if at == 0 { "" } else { "," }))
                .collect();
            (key, if items.is_empty() { "[]".to_owned() } else { format!("[{items}\n  ]") })
        });
        let fields: Vec<String> =
            about.chain(lists).map(|(key, value)| format!("  {}: {value}", quoted(key))).collect();
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }

    fn table(&self) -> Result<String, Failure> {
        let rows = self.lists.iter().filter(|(key, _)| key == "rows").flat_map(|(_, rows)| rows);
        let rows: Result<Vec<Vec<(String, String)>>, JsonError> = rows.map(|row| fields(row)).collect();
        let rows =
            rows.map_err(|error| Failure::failed(format!("the answer is not that of a Tiltyard server: {error}")))?;
        let mut columns: Vec<&str> = Vec::new();
        for (name, _) in rows.iter().flatten() {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
        let mut table = Table::new(std::iter::once("row").chain(columns.iter().copied()));
        for (number, row) in rows.iter().enumerate() {
            let cell = |column: &&str| {
                row.iter()
                    .find(|(name, _)| name == column)
                    .map_or_else(|| NOTHING.to_owned(), |(_, value)| value.clone())
            };
            table.add(std::iter::once(number.to_string()).chain(columns.iter().map(cell)));
        }
        Ok(table.to_string())
    }
}

/// The fields of an object, in their order; labels within an output become fields of their own.
fn fields(object: &str) -> Result<Vec<(String, String)>, JsonError> {
    let mut fields = Vec::new();
    Reader::new(object.as_bytes()).read_object(|name, reader| {
        match reader.peek_kind()? {
            Kind::Object => reader.read_object(|label, reader| {
                fields.push((format!("{name}.{label}"), text(reader.skip_value()?)));
                Ok::<(), JsonError>(())
            })?,
            Kind::Array => fields.push((name.to_owned(), shortened(reader)?)),
            Kind::String => fields.push((name.to_owned(), reader.read_string()?.into_owned())),
            _ => fields.push((name.to_owned(), text(reader.skip_value()?))),
        }
        Ok::<(), JsonError>(())
    })?;
    Ok(fields)
}

/// A warning about a row, counted from the first row of all requests instead of its own.
fn moved(warning: &[u8], first_row: usize) -> String {
    let warning = text(warning);
    let number = warning.strip_prefix("\"row ").and_then(|rest| rest.split_once(':'));
    match number.and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest))) {
        Some((number, rest)) => format!("\"row {}:{rest}", number + first_row),
        None => warning,
    }
}

fn text(json: &[u8]) -> String {
    String::from_utf8_lossy(json).into_owned()
}

fn quoted(text: &str) -> String {
    let mut quoted = Vec::new();
    tiltyard_types::json::write_string(text, &mut quoted);
    String::from_utf8_lossy(&quoted).into_owned()
}

fn unquoted(json: &str) -> String {
    Reader::new(json.as_bytes()).read_string().map_or_else(|_| json.to_owned(), |text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_as_a_table() {
        let data = (0..20).map(|n: u32| n.to_string()).collect::<Vec<_>>().join(",");
        let answer = format!(
            r#"{{"model_name": "m", "outputs": [
                {{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.5, NaN]}},
                {{"name": "long", "datatype": "INT64", "shape": [20], "data": [{data}]}}]}}"#
        );
        let table = show_inference(answer.as_bytes(), Form::Table);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[1], "y       FP32      [1, 2]  [0.5, NaN]");
        assert!(lines[2].ends_with("14, 15, … (20 in all)]"), "{}", lines[2]);
        assert_eq!(show_inference(answer.as_bytes(), Form::Json), format!("{answer}\n"));
        assert_eq!(show_inference(b"what?", Form::Table), "what?\n");
    }

    fn answers(texts: &[&str]) -> Answers {
        let mut answers = Answers::default();
        texts.iter().for_each(|text| answers.add(text.as_bytes()).unwrap());
        answers
    }

    #[test]
    fn answers_of_several_requests_are_one() {
        let answers = answers(&[
            r#"{"model": "risk", "version": "1", "rows": [{"score": 0.25}, {"score": 1e-3}], "prediction_ids": ["a:0", "a:1"]}"#,
            r#"{"model": "risk", "version": "2", "rows": [{"score": 3}], "prediction_ids": ["b:0"],
                "warnings": ["row 0: \"age\" is 200"]}"#,
        ]);
        let json: serde_json::Value = serde_json::from_str(&answers.json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "model": "risk", "version": "1", "rows": [{"score": 0.25}, {"score": 1e-3}, {"score": 3}],
                "prediction_ids": ["a:0", "a:1", "b:0"], "warnings": ["row 2: \"age\" is 200"],
            })
        );
        assert_eq!(answers.table().unwrap(), "ROW  SCORE\n0    0.25\n1    1e-3\n2    3\n");
        assert_eq!(answers.about[1].1, "\"1\", then \"2\"");
    }

    #[test]
    fn columns_of_rows() {
        let answers =
            answers(&[r#"{"rows": [{"label": "no", "p": {"no": 0.9, "yes": 0.1}}, {"v": [1, 2], "p": null}]}"#]);
        assert_eq!(
            answers.table().unwrap(),
            "ROW  LABEL  P.NO  P.YES  V       P\n0    no     0.9   0.1    -       -\n1    -      -     -      [1, 2]  null\n"
        );
    }

    #[test]
    fn no_rows_are_an_empty_list() {
        assert_eq!(answers(&["{}"]).json(), "{\n  \"rows\": []\n}\n");
        assert!(Answers::default().add(b"<html>").is_err());
    }
}
