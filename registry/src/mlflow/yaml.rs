//! What does a file of YAML say, as JSON, within bounds?
//!
//! MLflow writes `MLmodel` with PyYAML. What a person may have changed by hand is read too, except for what makes a short file
//! long: aliases and merged documents are refused, as are tags, which would have a reader make objects.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Bytes that are read, at most.
pub(crate) const BYTES_MAX: usize = 4 << 20;

const DEPTH_MAX: usize = 32;

/// A list or map that is not closed yet; a map with the key that waits for its value.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Reads one document. The error says what is wrong, and where.
pub(crate) fn read(text: &str) -> Result<Value, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("it has {} bytes, expected at most {BYTES_MAX}", text.len()));
    }
    let (mut open, mut root): (Vec<Open>, Option<Value>) = (Vec::new(), None);
    for event in Parser::new_from_str(text) {
        let (event, place) = event.map_err(|error| error.to_string())?;
        let line = place.start.line();
        let refused = |what: &str| Err(format!("line {line}: {what}"));
        let done = match event {
            Event::Alias(_) => return refused("an alias (*name) is not read: write the value itself"),
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return refused("a tag (!name) is not read: expected plain values");
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == DEPTH_MAX => {
                return refused(&format!("it is more than {DEPTH_MAX} levels deep"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => Value::Array(list),
                Some(Open::Map(map, _)) => Value::Object(map),
                None => return refused("it closes what was not opened"),
            },
            Event::Scalar(text, style, ..) => match open.last_mut() {
                Some(Open::Map(map, key @ None)) => {
                    if map.contains_key(text.as_ref()) {
                        return refused(&format!("the key {text:?} is there twice"));
                    }
                    *key = Some(text.into_owned());
                    continue;
                }
                _ if style == ScalarStyle::Plain => plain(&text),
                _ => Value::String(text.into_owned()),
            },
            _ => continue,
        };
        match open.last_mut() {
            Some(Open::List(list)) => list.push(done),
            Some(Open::Map(map, key)) => match key.take() {
                Some(key) => drop(map.insert(key, done)),
                None => return refused("a key must be text"),
            },
            None if root.is_some() => return refused("a second document begins: expected one"),
            None => root = Some(done),
        }
    }
    root.ok_or_else(|| "it is empty".to_owned())
}

/// What text without quotes means.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(Value::Number(number)) = serde_json::from_str(text)
    {
        return Value::Number(number);
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_mlflow_writes_is_read() {
        let text = "flavors:\n  onnx:\n    code: null\n    data: model.onnx\n    providers:\n    - CPUExecutionProvider\n  \
                    odd: {a: [1, -2.5, 1e3], b: yes}\nversion: 007\nquoted: '12'\nlong: 'one\n  line'\nempty:\n";
        let expected = json!({
            "flavors": {
                "onnx": {"code": null, "data": "model.onnx", "providers": ["CPUExecutionProvider"]},
                "odd": {"a": [1, -2.5, 1000.0], "b": "yes"},
            },
            "version": "007", "quoted": "12", "long": "one line", "empty": null,
        });
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn what_makes_a_short_file_long_or_strange_is_refused() {
        let check = |text: &str, expected: &str| {
            let error = read(text).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        };
        check("a: &x [1]\nb: *x", "line 2: an alias");
        check("a: !!python/object:os.system x", "line 1: a tag");
        check("a: 1\na: 2", "line 2: the key \"a\" is there twice");
        check("[a]: 1", "a key must be text");
        check("a: 1\n---\nb: 2", "a second document");
        check("a: [1, 2", "");
        check("", "it is empty");
        check(&"[".repeat(100), "more than 32 levels");
        check(&"[".repeat(100_000), "recursion limit");
        check(&"a".repeat(BYTES_MAX + 1), "expected at most 4194304");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[-a: \\[\\]{}&*!|>'\"\n\t#%@,?0-9]{0,200}") {
            let _ = read(&text);
        }

        /// JSON is YAML.
        #[test]
        fn json_is_read_as_it_is(list in prop::collection::vec(("[a-zé ]{0,8}", any::<i64>(), any::<bool>()), 0..20)) {
            let value = json!({ "list": list });
            prop_assert_eq!(read(&value.to_string()), Ok(value));
        }
    }
}
