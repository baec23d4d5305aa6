//! Which answers must a version give before it may answer anybody?
//!
//! `golden/*.json` in a version's folder: an inference request as the protocol writes it, with the outputs expected
//! and how far they may be off. They run at load; a version that fails one does not become ready.

use std::fs;
use std::io;
use std::path::Path;

use tiltyard_types::json::{Kind, Number, Reader, TensorText, read_tensor};
use tiltyard_types::{Error, NamedTensor, Signature, Tensor};

use crate::artifact::{Files, Reading};
use crate::compare::{Tolerance, compare};
use crate::engine::Session;

/// A golden example larger than this is refused: it would slow every start.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A known request with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// The file's name, for messages.
    pub file: String,
    /// What it shows, for people.
    pub description: String,
    /// The request.
    pub inputs: Vec<NamedTensor>,
    /// The answer.
    pub outputs: Vec<NamedTensor>,
    /// How far the answer may be off.
    pub tolerance: Tolerance,
}

impl Golden {
    /// Reads all golden examples among a version's files, by name. The error names the file.
    pub(crate) fn read_all(files: &Files, reading: &mut Reading<'_>) -> Result<Vec<Golden>, String> {
        let examples = files.iter().filter(|(name, _)| name.starts_with("golden/") && name.ends_with(".json"));
        examples
            .map(|(name, path)| read_file(name, path, reading).map_err(|error| format!("{name}: {error}")))
            .collect()
    }

    /// The request in the order of the signature. Fails where it does not fit.
    pub fn arranged(&self, signature: &Signature) -> Result<Vec<Option<Tensor>>, Error> {
        let inputs = signature.arrange(self.inputs.clone())?;
        Ok(inputs.into_iter().map(|input| input.map(|tensor| tensor.aligned())).collect())
    }

    /// Runs the request and compares. The error says what was expected and what came.
    pub fn check(&self, signature: &Signature, session: &mut dyn Session) -> Result<(), String> {
        let wrong = |what: String| format!("golden example {}: {what}", self.file);
        let inputs = self.arranged(signature).map_err(|error| wrong(error.to_string()))?;
        let wanted = signature
            .select(self.outputs.iter().map(|output| output.name.as_str()))
            .map_err(|error| wrong(error.to_string()))?;
        let outputs = session.run(&inputs, &wanted).map_err(|error| wrong(format!("it does not run: {error}")))?;
        for (actual, expected) in outputs.iter().zip(&self.outputs) {
            compare(actual, &expected.tensor, self.tolerance)
                .map_err(|difference| wrong(format!("output {:?}: {difference}", expected.name)))?;
        }
        Ok(())
    }
}

fn read_file(name: &str, path: &Path, reading: &mut Reading<'_>) -> Result<Golden, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes; at most {FILE_BYTES_MAX} are read"));
    }
    let text = reading.take(name).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
    parse(name, &text.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// Reads one golden example.
pub fn parse(file: &str, text: &[u8]) -> Result<Golden, Error> {
    let mut golden = Golden {
        file: file.to_owned(),
        description: String::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        tolerance: Tolerance::default(),
    };
    let mut reader = Reader::new(text);
    reader.read_object(|key, reader| {
        match key {
            "description" => golden.description = reader.read_string()?.into_owned(),
            "inputs" => golden.inputs = read_tensors(reader)?,
            "outputs" => golden.outputs = read_tensors(reader)?,
            "tolerance" => golden.tolerance = read_tolerance(reader)?,
            _ => {
                return Err(Error::invalid(format!(
                    "unknown key {key:?}: expected description, inputs, outputs, tolerance"
                )));
            }
        }
        Ok(())
    })?;
    reader.finish()?;
    if golden.outputs.is_empty() {
        return Err(Error::invalid("it expects no outputs"));
    }
    Ok(golden)
}

fn read_tensors(reader: &mut Reader<'_>) -> Result<Vec<NamedTensor>, Error> {
    let mut tensors = Vec::new();
    reader.read_array(|reader| {
        let TensorText { name, data, .. } = read_tensor(reader, &|_| None)?;
        let tensor = data.ok_or_else(|| Error::invalid(format!("{name:?} has no data")))?;
        tensors.push(NamedTensor { name, tensor });
        Ok::<(), Error>(())
    })?;
    Ok(tensors)
}

fn read_tolerance(reader: &mut Reader<'_>) -> Result<Tolerance, Error> {
    let mut tolerance = Tolerance { absolute: 0.0, relative: 0.0 };
    reader.read_object(|key, reader| {
        let value = match reader.peek_kind()? {
            Kind::Number => match reader.read_number()? {
                Number::Int(value) => value as f64,
                Number::Uint(value) => value as f64,
                Number::Float(value) => value,
            },
            kind => return Err(Error::invalid(format!("tolerance: expected a number, got {}", kind.described()))),
        };
        match key {
            "absolute" => tolerance.absolute = value,
            "relative" => tolerance.relative = value,
            _ => return Err(Error::invalid(format!("tolerance: unknown key {key:?}: expected absolute, relative"))),
        }
        Ok(())
    })?;
    Ok(tolerance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineError;
    use tiltyard_types::{DataType, Dim, TensorSpec};

    struct Twice;

    impl Session for Twice {
        fn run(&mut self, inputs: &[Option<Tensor>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
            let values = inputs[0].as_ref().unwrap().to_vec::<f32>().unwrap();
            let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
            Ok(vec![Tensor::from_slice([doubled.len()], &doubled).unwrap()])
        }
    }

    #[track_caller]
    fn check(expected_output: &str, verdict: &str) {
        let text = format!(
            r#"{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}}],
                "outputs": [{{"name": "y", "datatype": "FP32", "shape": [2], "data": {expected_output}}}],
                "tolerance": {{"absolute": 0.01}}}}"#
        );
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            dtype: DataType::Fp32,
            dims: Some(vec![Dim::Dynamic(None)]),
            optional: false,
        };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
        let result = parse("golden/a.json", text.as_bytes()).map_err(|error| error.to_string());
        let result = result.and_then(|golden| golden.check(&signature, &mut Twice));
        assert_eq!(result.err().unwrap_or_default(), verdict);
    }

    #[test]
    fn examples_are_compared_within_their_tolerance() {
        check("[2.005, 4]", "");
        check(
            "[2.5, 4]",
            "golden example golden/a.json: output \"y\": element 0 is 2, expected 2.5 (± 0.01 + 0 of it)",
        );
        check("[2]", "input \"y\": expected 2 elements for shape [2], got 1");
    }
}
