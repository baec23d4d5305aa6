//! How does somebody learn why a model says what it says? Rows in, each column's part in the score out.
//!
//! The body is that of row scoring, with `"top"` for the columns that count most and `"output"` for one class of several.
//! It takes the way of a request as far as routing, permission, admission and deadline go, and then another one: it meets no
//! queue of inferences, and is never evidence.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http_body::Body;
use serde_json::{Map, Value, json};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::engine::{EngineError, Explainer, Explanation, ExplanationKind};
use tiltyard_types::json::{Kind, Reader};
use tiltyard_types::{Error, ErrorKind, InferRequest, Moment, Result, Tensor};

use super::body;
use super::reply::Reply;
use super::rest::Head;
use super::score::{Field, Table, assemble, named_or_placed, read_table};
use crate::arm::Arm;
use crate::explain::Answered;
use crate::infer::Accepted;
use crate::route::Choice;
use crate::service::Service;
use crate::{clock, deadlines};

/// Parts in one answer at most: each is written with its column's name and value.
const PARTS_MAX: usize = 250_000;

/// Answers one request for explanations.
pub(crate) async fn explain<B>(
    service: &Arc<Service>,
    head: &Head<'_>,
    model: &str,
    version: Option<u64>,
    body: B,
) -> Result<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let inference = &service.inference;
    let started = inference.accept(head.headers, Some(service.live.request_timeout()), 0);
    let answer = async {
        let mut choice = unseen(inference.catalog.load().route(model, version, &head.asking(started.id))?);
        let stats = choice.known().map_or(inference.admission.unknown(), |arm| &arm.deployment.stats);
        inference.admission.check(stats)?;
        let mut room = inference.admission.room(stats);
        let (bytes_max, time_max) = (service.live.body_bytes_max(), service.live.request_timeout());
        let body = body::read(head.headers.get(CONTENT_ENCODING), body, bytes_max, time_max, &mut room).await?;
        let accepted = started.with_body(body.len());
        let (text, contract, open) = (body.clone(), choice.contract(), choice.open());
        let request = InferRequest { model: model.to_owned(), version, ..InferRequest::default() };
        let asked = super::beside_the_loop(body.len(), move || {
            let asked = Asked::read(&text, &contract.deployment)?;
            let request = InferRequest { id: asked.id.clone(), parameters: asked.parameters.clone(), ..request };
            let pick = open.map(|route| route.look_into(&request, &text)).transpose()?;
            Ok::<_, Error>((asked, pick))
        });
        let (asked, pick) = asked.await?;
        if let Some(pick) = pick {
            choice.settle(pick)?;
            choice = unseen(choice);
            room.belongs_to(&choice.arm.deployment.stats)?;
        }
        let deadline = inference.deadline(&asked.parameters, accepted)?;
        let (arm, counts) = (Arc::clone(&choice.arm), Arc::clone(&service.explainers.counts));
        let permit = room.admit()?;
        let pending = service.explainers.submit(move |answered| {
            let begun = clock::now();
            let text = body;
            let result = asked.answer(&text, &arm, accepted, deadline, answered);
            counts.note(result.as_ref().ok().map(|_| asked.rows), clock::now() - begun);
            drop(permit);
            result
        })?;
        match deadlines::within(deadline, pending).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(Error::new(ErrorKind::Engine, "the explanation ended without an answer")),
            None => Err(deadlines::late(format!("no explanation within {:.0?}", deadline.since(accepted.at)))),
        }
    };
    answer.await.inspect_err(|error: &Error| inference.tell_failure(started, model, "", error))
}

/// Whatever a plan says of the request: that somebody asks why is no evidence.
fn unseen(mut choice: Choice) -> Choice {
    choice.evidence = None;
    choice
}

/// A request that was read once, by its endpoint's contract.
struct Asked {
    rows: usize,
    id: String,
    parameters: tiltyard_types::Parameters,
    fields: Vec<Field>,
    top: usize,
    output: Option<String>,
}

impl Asked {
    fn read(text: &[u8], deployment: &Deployment) -> Result<Asked> {
        let fields = named_or_placed(deployment)?;
        let (table, top, output) = read(text, &fields)?;
        // Of one output at least: what is sure to be refused takes nobody's time.
        check_parts(table.rows, 1, fields.len().min(top))?;
        Ok(Asked { rows: table.rows, id: table.id, parameters: table.parameters, fields, top, output })
    }

    /// The answer to a request whose body is `text`.
    fn answer(
        &self,
        text: &[u8],
        arm: &Arm,
        accepted: Accepted,
        deadline: Moment,
        answered: &Answered<Reply>,
    ) -> Result<Reply> {
        let deployment = &arm.deployment;
        let explainer = deployment.explainer(|background| rows_of(background, deployment))?;
        let about = explainer.about();
        let (table, ..) = read(text, &self.fields)?;
        let wanted = self.wanted(about)?;
        let columns = about.columns.iter().sum::<usize>();
        check_parts(self.rows, wanted.len(), columns.min(self.top))?;
        let inputs = arranged(deployment, &self.fields, &table)?;
        let is_late = || clock::now() >= deadline || answered.is_left();
        let explanation = run(explainer.as_ref(), &inputs, &wanted, &mut || !is_late())?;
        let Some(explanation) = explanation else {
            let after = deadline.since(accepted.at);
            return Err(Error::new(ErrorKind::Deadline, format!("not explained within {after:.0?}")));
        };
        let form = self.form(arm, about, &wanted, &table, &explanation);
        Ok(Reply { headers: arm.headers(accepted.id), ..Reply::json(&form) })
    }

    /// The outputs that are explained, by their positions.
    fn wanted(&self, about: &ExplanationKind) -> Result<Vec<usize>> {
        let Some(output) = &self.output else { return Ok((0..about.outputs.len()).collect()) };
        let labelled = about.outputs.iter().position(|label| label == output);
        let numbered = || output.parse().ok().filter(|&at| at < about.outputs.len());
        match labelled.or_else(numbered) {
            Some(position) => Ok(vec![position]),
            None => {
                let known = about.outputs.iter().take(40).map(|label| format!("{label:?}")).collect::<Vec<_>>();
                Err(Error::invalid(format!("output {output:?} is not explained: there is {}", known.join(", "))))
            }
        }
    }

    fn form(
        &self,
        arm: &Arm,
        about: &ExplanationKind,
        wanted: &[usize],
        table: &Table<'_>,
        explanation: &Explanation,
    ) -> Value {
        let columns = about.columns.iter().sum::<usize>();
        let firsts: Vec<usize> =
            about.columns.iter().scan(0, |next, columns| Some(std::mem::replace(next, *next + columns))).collect();
        let mut explanations = Vec::with_capacity(self.rows);
        let mut of_outputs = explanation.scores.iter().zip(explanation.parts.chunks_exact(columns.max(1)));
        for row in 0..self.rows {
            let mut outputs = Map::new();
            for (&position, base) in wanted.iter().zip(&explanation.base) {
                let Some((score, parts)) = of_outputs.next() else { break };
                let (contributions, others) = self.contributions(table, row, &firsts, parts);
                let mut told = json!({ "base": base, "score": score, "contributions": contributions });
                if let Some(others) = others {
                    told["others"] = json!(others);
                }
                outputs.insert(about.outputs[position].clone(), told);
            }
            explanations.push(match wanted {
                [_] => outputs.into_iter().next().map_or(Value::Null, |(_, only)| only),
                _ => json!({ "outputs": outputs }),
            });
        }
        let identity = &arm.deployment.identity;
        let mut form = json!({
            "model": identity.model,
            "version": identity.version.to_string(),
            "method": about.method,
            "space": about.space,
        });
        if let [only] = wanted {
            form["output"] = json!(about.outputs[*only]);
        }
        if let Some(rows) = about.background_rows {
            form["background_rows"] = json!(rows);
        }
        form["explanations"] = Value::Array(explanations);
        if !self.id.is_empty() {
            form["id"] = json!(self.id);
        }
        if !table.outside.is_empty() {
            form["warnings"] = json!(table.outside);
        }
        form
    }

    /// The parts that count most, by their size, and the sum of the others where there are any; those of equal size in the order
    /// of the columns.
    fn contributions(
        &self,
        table: &Table<'_>,
        row: usize,
        firsts: &[usize],
        parts: &[f64],
    ) -> (Vec<Value>, Option<f64>) {
        let mut of_fields: Vec<(&Field, Option<&[u8]>, f64)> = self
            .fields
            .iter()
            .zip(&table.columns)
            .map(|(field, values)| {
                let value = values.as_ref().and_then(|values| values.get(row).copied());
                (field, value, parts[firsts[field.input] + field.place.unwrap_or(0)])
            })
            .collect();
        of_fields.sort_by(|(.., left), (.., right)| right.abs().total_cmp(&left.abs()));
        let told = |(field, value, part): &(&Field, Option<&[u8]>, f64)| {
            let value: Value = value.and_then(|text| serde_json::from_slice(text).ok()).unwrap_or(Value::Null);
            json!({ "column": field.name, "value": value, "contribution": part })
        };
        let (most, others) = of_fields.split_at(self.top.min(of_fields.len()));
        let sum = others.iter().map(|(.., part)| part).sum();
        (most.iter().map(told).collect(), (!others.is_empty()).then_some(sum))
    }
}

/// Refuses what an answer would be too large for.
fn check_parts(rows: usize, outputs: usize, columns: usize) -> Result<()> {
    let parts = rows.saturating_mul(outputs).saturating_mul(columns);
    if parts <= PARTS_MAX {
        return Ok(());
    }
    Err(Error::too_large(format!(
        "{rows} rows, outputs: {outputs}, columns: {columns}: an answer has {PARTS_MAX} parts at most: send fewer rows, or \"top\""
    )))
}

/// The rows of a request, the columns that it wants at most, and the output.
fn read<'a>(text: &'a [u8], fields: &[Field]) -> Result<(Table<'a>, usize, Option<String>)> {
    let (mut top, mut output) = (usize::MAX, None);
    let mut beside = |key: &str, reader: &mut Reader<'_>| -> Result<bool> {
        match key {
            "top" => {
                let number = String::from_utf8_lossy(reader.skip_value()?).into_owned();
                let wrong = || Error::invalid(format!("\"top\": expected a whole number from 1, got {number}"));
                top = number.parse().ok().filter(|&top| top > 0).ok_or_else(wrong)?;
            }
            "output" => {
                output = Some(match reader.peek_kind()? {
                    Kind::String => reader.read_string()?.into_owned(),
                    _ => String::from_utf8_lossy(reader.skip_value()?).into_owned(),
                });
            }
            _ => return Ok(false),
        }
        Ok(true)
    };
    let table = read_table(text, fields, &mut beside)?;
    Ok((table, top, output))
}

/// Rows of a background, as the deployment's own inputs.
fn rows_of(background: &[u8], deployment: &Deployment) -> Result<Vec<Option<Tensor>>> {
    let fields = named_or_placed(deployment)?;
    let table = read_table(background, &fields, &mut |_, _| Ok(false))?;
    arranged(deployment, &fields, &table)
}

fn arranged(deployment: &Deployment, fields: &[Field], table: &Table<'_>) -> Result<Vec<Option<Tensor>>> {
    let inputs = deployment.signature.arrange(assemble(deployment, fields, table)?)?;
    Ok(inputs.into_iter().map(|input| input.map(|tensor| tensor.aligned())).collect())
}

fn run(
    explainer: &dyn Explainer,
    inputs: &[Option<Tensor>],
    wanted: &[usize],
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Explanation>> {
    explainer.explain(inputs, wanted, go_on).map_err(|error| match error {
        EngineError::BadInput(what) => Error::invalid(what),
        EngineError::OutOfMemory(what) => Error::too_large(what),
        EngineError::Unsupported(what) => Error::unsupported(what),
        EngineError::BadModel(what) | EngineError::Failed(what) => Error::new(ErrorKind::Engine, what),
        EngineError::Panicked(_) => Error::new(ErrorKind::Engine, "the engine panicked"),
    })
}
