//! Is what is on record of a prediction what was answered, and would the same version answer it again?
//!
//! Three things are shown: that the row is in its segment, by the way of hashes to the segment's root; that the segment is the one
//! in the manifest; and, where everything is on record, that the same deployment gives the same answer to the bit.

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use tiltyard_capture::{Outcome, Proof, Record, Row, Segment, joined};
use tiltyard_rollout::compare::{Tolerance, distance};
use tiltyard_types::{NamedTensor, Tensor, TensorData};
use uuid::Uuid;

use super::capture::source::{File, Request, Source, from_flag};
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use super::predict::ModelName;
use super::replay::scorer::Scorer;
use super::settings::{self, ENGINE_SETTINGS};
use crate::config::Config;
use crate::engines;
use crate::shadow::measure::numbers;

const EXAMPLES: &str = "\
The deployment must have the digest on record: the same files, engine, build, provider, threads and batch limits. Where the engine
that would be chosen today is another one, each engine that there is gets its turn. The whole request is asked again.

Exit codes: 0 proved and equal to the bit, 1 anything else, 2 usage.

Examples:
  tiltyard prove 0193a1b2-0000-7000-8000-0000000000ab:0 --models ./models
  tiltyard prove 0193a1b2-0000-7000-8000-0000000000ab:0 --from /var/lib/record --models ./models --output json";

pub(crate) fn command() -> Command {
    let shared: Vec<&str> = ENGINE_SETTINGS.into_iter().chain(["models", "capture_dir", "capture_key_file"]).collect();
    Command::new("prove")
        .about("Prove that a past prediction is on record, and run it again")
        .arg(Arg::new("id").value_name("PREDICTION_ID").required(true).help("The row's id, as its answer named it"))
        .arg(from_flag())
        .args(settings::flags(&shared))
        .after_help(EXAMPLES)
}

pub(crate) fn run(matches: &ArgMatches) -> Result<Exit, Failure> {
    let id = PredictionId::parse(matches.get_one::<String>("id").map(String::as_str).unwrap_or_default())?;
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    let source = Source::open(matches, &loaded.config)?;
    let found = find(&source, &id)?;
    let again = Again::of(&found, &loaded.config);
    let (form, told) = (form(&found, &again), told(&found, &again));
    match Form::of(matches) {
        Form::Json => output::print_json(&form)?,
        Form::Table => output::print(&told)?,
    }
    let is_proved = found.is_in_segment() && found.is_in_manifest() && matches!(again, Again::Equal);
    Ok(if is_proved { Exit::Done } else { Exit::Failed })
}

/// A request, and a row of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PredictionId {
    text: String,
    request: Uuid,
    row: u32,
}

impl PredictionId {
    fn parse(text: &str) -> Result<PredictionId, Failure> {
        let parsed = text.rsplit_once(':').and_then(|(request, row)| Some((request.parse().ok()?, row.parse().ok()?)));
        match parsed {
            Some((request, row)) => Ok(PredictionId { text: text.to_owned(), request, row }),
            None => Err(Failure::usage(format!("{text:?}: expected a prediction's id, such as 0193a1b2-…-ab:0"))),
        }
    }

    /// When the request was accepted, as its id says.
    fn time_us(&self) -> Option<u64> {
        let (seconds, nanoseconds) = self.request.get_timestamp()?.to_unix();
        Some(seconds * 1_000_000 + u64::from(nanoseconds) / 1_000)
    }

    fn is_of(&self, row: &Row) -> bool {
        row.record.request.bits() == self.request.as_u128() && row.record.first_row == self.row
    }
}

/// The row, where it was found.
struct Found<'a> {
    id: &'a PredictionId,
    file: &'a File,
    is_folder: bool,
    merkle_root: String,
    proof: Proof,
    row: Row,
    /// Its request; `None` where its subject was erased, or the record cannot be read without keys.
    request: Result<Record<'static>, String>,
}

/// Looks where the id's time says first, and then everywhere.
fn find<'a>(source: &'a Source, id: &'a PredictionId) -> Result<Found<'a>, Failure> {
    let is_likely = |file: &&File| match (&file.listed, id.time_us()) {
        (Some(listed), Some(time)) => (listed.facts.from_us..=listed.facts.to_us).contains(&time),
        _ => true,
    };
    let (likely, others): (Vec<&File>, Vec<&File>) = source.files.iter().partition(is_likely);
    for file in likely.into_iter().chain(others) {
        let Some(segment) = source.read(file)? else { continue };
        if let Some(found) = find_in(source, file, &segment, id)? {
            return Ok(found);
        }
    }
    let left = "what is younger than --capture-segment-time may not be in a segment yet";
    Err(Failure::failed(format!("{} is not on record in {}: {left}", id.text, source.from.display())))
}

fn find_in<'a>(
    source: &Source,
    file: &'a File,
    segment: &Segment,
    id: &'a PredictionId,
) -> Result<Option<Found<'a>>, Failure> {
    let failed = |error: tiltyard_capture::Error| Failure::failed(error.to_string());
    let mut row = None;
    for one in segment.rows() {
        let one = one.map_err(failed)?;
        if id.is_of(&one) {
            row = Some(one);
            break;
        }
    }
    let Some(row) = row else { return Ok(None) };
    let mut request = Err("its subject was erased: what was asked and answered is gone".to_owned());
    let read = source.requests(segment, |Request { rows, records }| {
        if rows[0].sequence != row.sequence {
            return Ok(true);
        }
        if records.len() == rows.len() {
            request = joined(&records).ok_or_else(|| "its request's rows do not fit together".to_owned());
        }
        Ok(false)
    });
    if let Err(failure) = read {
        request = Err(failure.to_string());
    }
    let proof = segment.prove(row.number).map_err(failed)?;
    let (is_folder, merkle_root) = (source.is_folder, segment.merkle_root().to_owned());
    Ok(Some(Found { id, file, is_folder, merkle_root, proof, row, request }))
}

impl Found<'_> {
    fn is_in_segment(&self) -> bool {
        self.proof.root.to_string() == self.merkle_root
    }

    /// [`Source::read`] has compared the segment's bytes with the manifest.
    fn is_in_manifest(&self) -> bool {
        self.file.listed.as_ref().is_some_and(|listed| listed.facts.merkle_root == self.merkle_root)
    }
}

/// What came of asking again.
enum Again {
    /// The same to the bit.
    Equal,
    /// Outputs that differ, and by how much where they are numbers.
    Differs(Vec<(String, Option<f64>)>),
    /// Nothing can be said, and why.
    Unknown(String),
}

impl Again {
    fn of(found: &Found<'_>, config: &Config) -> Again {
        let request = match &found.request {
            Ok(request) => request,
            Err(why) => return Again::Unknown(why.clone()),
        };
        if let Outcome::Failed(kind, why) = &request.outcome {
            return Again::Unknown(format!("it was not answered ({}: {why})", kind.name()));
        }
        match ask(request, config) {
            Ok(now) => Again::compared(request, &now, found.row.record.first_row as usize),
            Err(why) => Again::Unknown(why),
        }
    }

    fn compared(request: &Record<'_>, now: &[NamedTensor], row: usize) -> Again {
        let row = row - request.first_row as usize;
        let mut differing = Vec::new();
        for now in now {
            let Some(then) = request.outputs.iter().find(|then| then.name == now.name) else { continue };
            let of_row = |tensor: &Tensor| match tensor.shape().rows() == Some(request.rows as usize) {
                true => tensor.rows(row..row + 1).unwrap_or_else(|| tensor.clone()),
                false => tensor.clone(),
            };
            let (then, now_row) = (of_row(&then.tensor), of_row(&now.tensor));
            if !is_same(&then, &now_row) {
                let apart = numbers(&then).zip(numbers(&now_row));
                let apart = apart.and_then(|(a, b)| distance(&a, &b, Tolerance { atol: 0.0, rtol: 0.0 }));
                differing.push((now.name.clone(), apart.map(|apart| apart.largest)));
            }
        }
        if differing.is_empty() { Again::Equal } else { Again::Differs(differing) }
    }
}

/// To the bit; one NaN is not another.
fn is_same(a: &Tensor, b: &Tensor) -> bool {
    a.shape() == b.shape()
        && a.dtype() == b.dtype()
        && match (a.data(), b.data()) {
            (TensorData::Fixed(a), TensorData::Fixed(b)) => a == b,
            (TensorData::Strings(a), TensorData::Strings(b)) => a == b,
            _ => false,
        }
}

/// Asks the same deployment the same request. Fails in words.
fn ask(request: &Record<'_>, config: &Config) -> Result<Vec<NamedTensor>, String> {
    let scorer = same_deployment(request, config)?;
    let missing = |name: &str| {
        format!(
            "{name} is not on record as it was: the endpoint's rules drop, redact or hash it, so it cannot be run again"
        )
    };
    let Some(deployment) = scorer.deployment() else { return Err("no deployment".into()) };
    let signature = &deployment.signature;
    if let Some(input) = signature
        .inputs
        .iter()
        .find(|spec| !spec.optional && request.inputs.iter().all(|input| input.name != spec.name))
    {
        return Err(missing(&format!("input {:?}", input.name)));
    }
    let inputs: Vec<NamedTensor> = request
        .inputs
        .iter()
        .filter(|input| scorer.takes(&input.name))
        .map(|input| NamedTensor { name: input.name.to_string(), tensor: input.tensor.as_ref().clone() })
        .collect();
    if let Err(error) = signature.arrange(inputs.clone()) {
        return Err(format!("{} ({error})", missing("an input")));
    }
    // What is on record under another name is a part that rules changed.
    let wanted: Vec<String> =
        request.outputs.iter().map(|output| output.name.to_string()).filter(|name| scorer.gives(name)).collect();
    if wanted.is_empty() {
        return Err(missing("the answer"));
    }
    let asked = scorer.ask(inputs, &wanted);
    scorer.answer(asked, &wanted).map_err(|failure| failure.to_string())?
}

/// The deployment with the digest on record: by the engine that is chosen today, or by another one that there is.
fn same_deployment(request: &Record<'_>, config: &Config) -> Result<Scorer, String> {
    let model = ModelName { name: request.model.to_string(), version: Some(request.version) };
    let others = engines::find(config).map(|engines| engines.found).unwrap_or_default();
    let others = others.iter().map(|engine| Config { engines: vec![engine.name().to_owned()], ..config.clone() });
    let mut told = String::new();
    for config in std::iter::once(config.clone()).chain(others) {
        match Scorer::here(&config, &model) {
            Ok(scorer) => match scorer.deployment().map(|deployment| &deployment.identity) {
                Some(identity) if identity.digest == request.digest => return Ok(scorer),
                Some(identity) => {
                    let (engine, build) = (identity.engine, &identity.build.version);
                    told.push_str(&format!("; {engine} {build} makes {}", identity.digest.short()));
                }
                None => {}
            },
            Err(failure) if told.is_empty() => told.push_str(&format!("; {failure}")),
            // An engine that cannot run it.
            Err(_) => {}
        }
    }
    Err(format!(
        "{}@{} with the digest on record, {}, is not to be had here: other files, another engine build or settings{told}",
        request.model,
        request.version,
        request.digest.short()
    ))
}

fn form(found: &Found<'_>, again: &Again) -> Value {
    let Found { id, file, proof, row, merkle_root, .. } = found;
    let record = &row.record;
    let listed = file.listed.as_ref().map(|listed| {
        json!({ "line": listed.line, "line_hash": listed.line_hash, "sha256": listed.facts.sha256,
                "bytes": listed.facts.bytes })
    });
    let path: Vec<String> = proof.path.iter().map(ToString::to_string).collect();
    let again = match again {
        Again::Equal => json!({ "equal": true }),
        Again::Differs(outputs) => {
            let of = |(name, largest): &(String, Option<f64>)| json!({ "output": name, "largest_difference": largest });
            json!({ "equal": false, "outputs": outputs.iter().map(of).collect::<Vec<_>>() })
        }
        Again::Unknown(why) => json!({ "equal": null, "why": why }),
    };
    json!({
        "prediction_id": id.text, "model": record.model, "version": record.version,
        "digest": record.digest.to_string(), "arm": record.arm,
        "time": humantime::format_rfc3339_micros(time_of(record)).to_string(),
        "in_segment": found.is_in_segment(), "in_manifest": found.is_in_manifest(),
        "segment": { "file": file.path.display().to_string(), "merkle_root": merkle_root },
        "proof": { "row": proof.row, "rows": proof.rows, "leaf": proof.leaf.to_string(), "path": path,
                   "root": proof.root.to_string() },
        "manifest": listed, "again": again,
    })
}

fn time_of(record: &Record<'_>) -> std::time::SystemTime {
    // What a damaged segment says of time must not be an overflow.
    let micros = record.unix_us.min(253_402_300_799_000_000);
    std::time::UNIX_EPOCH + std::time::Duration::from_micros(micros)
}

fn told(found: &Found<'_>, again: &Again) -> String {
    let Found { id, file, proof, row, .. } = found;
    let record = &row.record;
    let arm = if record.arm.is_empty() { String::new() } else { format!(", arm {}", record.arm) };
    let mut text = format!(
        "{}: {}@{}{arm}, digest {}, at {}\n",
        id.text,
        record.model,
        record.version,
        record.digest.short(),
        humantime::format_rfc3339_micros(time_of(record))
    );
    text.push_str(&match found.is_in_segment() {
        true => format!(
            "proved: row {} of {} is in the segment, {} hashes below its root {}\n",
            proof.row,
            proof.rows,
            proof.path.len(),
            &found.merkle_root[..12.min(found.merkle_root.len())]
        ),
        false => "WRONG: the rows of the segment do not make its root\n".to_owned(),
    });
    text.push_str(&match &file.listed {
        Some(listed) if found.is_in_manifest() => {
            format!("proved: the segment is line {} of the manifest, byte by byte\n", listed.line)
        }
        Some(listed) => format!("WRONG: line {} of the manifest says another root\n", listed.line),
        None if found.is_folder => "WRONG: the manifest does not have the segment\n".to_owned(),
        None => "not proved: there is no manifest beside the segment\n".to_owned(),
    });
    text.push_str(&match again {
        Again::Equal => "proved: the same deployment gives the same answer, to the bit\n".to_owned(),
        Again::Differs(outputs) => {
            let of = |(name, largest): &(String, Option<f64>)| match largest {
                Some(largest) => format!("{name} by {largest:e}"),
                None => name.clone(),
            };
            let outputs: Vec<String> = outputs.iter().map(of).collect();
            format!("DIFFERS: the same deployment gives another answer now: {}\n", outputs.join(", "))
        }
        Again::Unknown(why) => format!("not run again: {why}\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_answers_name() {
        let id = PredictionId::parse("01920000-0000-7000-8000-0000000000ab:12").unwrap();
        assert_eq!((id.row, id.time_us()), (12, Some(0x0192_0000_0000 * 1_000)));
        for wrong in ["", "01920000-0000-7000-8000-0000000000ab", "x:0", "01920000-0000-7000-8000-0000000000ab:-1"] {
            assert_eq!(PredictionId::parse(wrong).err().map(|failure| failure.exit()), Some(Exit::Usage), "{wrong}");
        }
    }

    #[test]
    fn equal_is_to_the_bit() {
        let of = |values: &[f32]| Tensor::from_slice([values.len()], values).unwrap();
        assert!(is_same(&of(&[f32::NAN, 0.5]), &of(&[f32::NAN, 0.5])));
        assert!(!is_same(&of(&[0.0]), &of(&[-0.0])) && !is_same(&of(&[1.0]), &of(&[1.0, 1.0])));
    }
}
