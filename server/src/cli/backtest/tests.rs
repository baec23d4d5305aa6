//! Does the command end as its rows say, and does it tell what is wrong?

use std::fs;
use std::path::Path;

use super::*;

/// The options of a command line with the needed flags and `more`.
pub(super) fn options(more: &str) -> Options {
    let label = if more.contains("--label ") { "" } else { "--label y" };
    let line = format!("backtest risk@1 risk@2 --rows h.csv --label-depends-on-decision no {label} {more}");
    Options::of(&command().try_get_matches_from(line.split_whitespace()).unwrap()).unwrap()
}

/// Runs `tiltyard backtest` on the sample models with a history of this text.
fn backtest(history: &str, more: &str) -> Result<Exit, String> {
    let folder = tempfile::tempdir().unwrap();
    let (file, models) = (folder.path().join("h.csv"), Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"));
    fs::write(&file, history).unwrap();
    let [file, models, data] = [&file, &models, &folder.path().join("data")].map(|path| path.display().to_string());
    let line = format!("backtest --rows {file} --models {models} --data-dir {data} --engines tract --label y {more}");
    let matches = command().try_get_matches_from(line.split_whitespace()).map_err(|error| error.to_string())?;
    judge(&matches).map(|(.., exit)| exit).map_err(|failure| failure.to_string())
}

/// Rows of the sample model `risk`: a header and so many lines, with the label given.
fn rows(labels: &[&str]) -> String {
    let toml = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/risk/model.toml")).unwrap();
    let names: Vec<&str> = toml.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    let lines = labels.iter().map(|label| format!("{}{label}\n", "1.5,".repeat(names.len())));
    format!("{},y\n{}", names.join(","), lines.collect::<String>())
}

const NO: &str = "--label-depends-on-decision no";

#[test]
fn a_version_against_itself_is_never_promoted() {
    let many = rows(&["1"; 300]);
    assert_eq!(backtest(&many, &format!("{NO} risk@1 risk@1")), Ok(Exit::Refused));
    assert_eq!(backtest(&many, &format!("{NO} risk@1 risk@1 --margin 0.2")), Ok(Exit::Done), "it is not worse");
    assert_eq!(backtest(&many, "--label-depends-on-decision yes risk@1 risk@1 --margin 0.2"), Ok(Exit::Refused));
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let check = |history: &str, more: &str, expected: &str| {
        let found = backtest(history, &format!("{NO} risk@1 risk@2 {more}"));
        assert!(found.clone().is_err_and(|error| error.contains(expected)), "{found:?}, expected {expected}");
    };
    check(
        &rows(&["1", "0", "perhaps"]),
        "",
        "line 4: the label is \"perhaps\": expected a class's number; --errors-max",
    );
    let bad = rows(&["1", "0"]).replace("1.5,0\n", "wide,0\n");
    check(&bad, "", "line 3: ");
    assert_eq!(backtest(&bad, &format!("{NO} risk@1 risk@2 --errors-max 1")), Ok(Exit::Refused));
    check(&rows(&["", ""]), "", "no row has a label in \"y\"");
    check(&rows(&["1"]), "--key id", "no column is called \"id\" (the key)");
    check(&rows(&["1"]), "--prediction score", "no output is called \"score\"");
    check(&rows(&["1"]).replace("mean_area", "area"), "", "\"mean_area\" (an input of risk@1)");
}

/// The judgement of the sample models on a history in this file, without what names the file.
#[cfg(feature = "record")]
fn judged(file: &Path) -> Value {
    let (models, data) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"), tempfile::tempdir().unwrap());
    let [file, models, data] = [file, &models, data.path()].map(|path| path.display().to_string());
    let line = format!(
        "backtest --rows {file} --models {models} --data-dir {data} --engines tract --label malignant --key id {NO} risk@1 risk@2"
    );
    let (_, mut report, _) = judge(&command().try_get_matches_from(line.split_whitespace()).unwrap()).unwrap();
    assert!(report.as_object_mut().unwrap().remove("history").is_some());
    report
}

#[cfg(feature = "record")]
#[test]
fn a_history_in_parquet_is_judged_as_the_same_in_csv() {
    use std::sync::Arc;

    use parquet::data_type::DoubleType;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let csv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/risk-history.csv");
    let mut reader = csv::Reader::from_path(&csv).unwrap();
    let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.parquet");
    let fields: String = names.iter().map(|name| format!("optional double {name};")).collect();
    let schema = Arc::new(parse_message_type(&format!("message m {{ {fields} }}")).unwrap());
    let mut writer = SerializedFileWriter::new(fs::File::create(&file).unwrap(), schema, Arc::default()).unwrap();
    for rows in rows.chunks(100) {
        let mut group = writer.next_row_group().unwrap();
        for at in 0..names.len() {
            let mut column = group.next_column().unwrap().unwrap();
            let values: Vec<f64> = rows.iter().map(|row| row[at].parse().unwrap()).collect();
            column.typed::<DoubleType>().write_batch(&values, Some(&vec![1; rows.len()]), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    let (one, other) = (judged(&csv), judged(&file));
    assert_eq!(one["rows"]["counted"], rows.len());
    assert_eq!(one, other);
}
