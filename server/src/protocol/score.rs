//! How does somebody without a client library get a score? Rows or columns by name, answers by name.
//!
//! `{"rows": [{"age": 41, "income": 52000}]}` or `{"columns": {"age": [41], "income": [52000]}}`. Column names come
//! from the graph (one input per column) or from `model.toml` (columns of a wide input).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use http::header::CONTENT_ENCODING;
use http_body::Body;
use serde_json::{Map, Value, json};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::repository::settings::Column;
use tiltyard_types::json::{Reader, read_data, read_parameters};
use tiltyard_types::{
    Buffer, DataType, Element, Error, ErrorKind, InferRequest, NamedTensor, Parameters, Result, Shape, Tensor,
    TensorSpec,
};

use super::beside_the_loop;
use super::reply::Reply;
use super::rest::{Head, receive};
use crate::infer::Outcome;
use crate::service::Service;

/// Rows of one request at most: an answer holds each several times over while it is written.
const ROWS_MAX: usize = 100_000;

/// Answers one scoring request.
pub(crate) async fn score<B>(
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
    // Nothing that such a request may say asks for another time.
    let started = service.inference.accept(head.headers, Some(service.live.request_timeout()), 0);
    let answer = async {
        let mut choice = service.inference.catalog.load().route(model, version, &head.asking(started.id))?;
        let encoding = head.headers.get(CONTENT_ENCODING);
        let (body, mut room) = receive(service, &choice, started, encoding, body).await?;
        let accepted = started.with_body(body.len());
        let (text, of, open) = (body.clone(), choice.contract(), choice.open());
        let request = InferRequest { model: model.to_owned(), version, ..InferRequest::default() };
        let read = move || {
            let fields = fields(&of.deployment)?;
            let table = read_table(&text, &fields, &mut |_, _| Ok(false))?;
            let inputs = assemble(&of.deployment, &fields, &table)?;
            let request = InferRequest { id: table.id, inputs, parameters: table.parameters, ..request };
            let pick = open.map(|route| route.look_into(&request, &text)).transpose()?;
            Ok::<_, Error>((table.rows, table.outside, request, pick))
        };
        let (rows, outside, mut request, pick) = beside_the_loop(body.len(), read).await?;
        if let Some(pick) = pick {
            service.inference.settle(&mut choice, pick, &mut room, accepted)?;
        }
        let outcome = service.inference.infer(&mut request, choice, accepted, room, head.headers).await?;
        let id = request.id;
        beside_the_loop(body.len(), move || self::answer(rows, &outside, &id, &outcome)).await
    };
    answer.await.inspect_err(|error: &Error| service.inference.tell_failure(started, model, "", error))
}

/// A named column and where it goes.
#[derive(Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// The input, by position.
    pub(crate) input: usize,
    /// The place on the input's second axis; `None` where the whole input is this column.
    pub(crate) place: Option<usize>,
    pub(crate) dtype: DataType,
    /// What `model.toml` says of it.
    pub(crate) column: Option<Column>,
    pub(crate) optional: bool,
}

/// The columns of a model. Fails where it has none that could be named.
pub(crate) fn fields(deployment: &Deployment) -> Result<Vec<Field>> {
    fields_of(deployment, false)
}

/// The columns of a model; those without a name are named by their place, such as `input[3]`.
pub(crate) fn named_or_placed(deployment: &Deployment) -> Result<Vec<Field>> {
    fields_of(deployment, true)
}

fn fields_of(deployment: &Deployment, placed: bool) -> Result<Vec<Field>> {
    let signature = &deployment.signature;
    let declared = &deployment.settings.columns;
    let mut fields = Vec::new();
    for (position, spec) in signature.inputs.iter().enumerate() {
        let columns: Vec<&Column> =
            declared.iter().filter(|column| column.input.as_ref().is_none_or(|input| *input == spec.name)).collect();
        let field = |name: String, place: Option<usize>, column: Option<&Column>| Field {
            name,
            input: position,
            place,
            dtype: spec.dtype,
            column: column.cloned(),
            optional: place.is_none() && spec.optional,
        };
        let width = row_width(spec);
        match (width, columns.as_slice()) {
            (Some(1), []) => fields.push(field(spec.name.clone(), None, None)),
            (Some(1), [column]) => fields.push(field(column.name.clone(), None, Some(column))),
            (Some(width), columns) if width == columns.len() => {
                let placed = columns.iter().enumerate();
                fields.extend(placed.map(|(place, column)| field(column.name.clone(), Some(place), Some(column))));
            }
            _ if spec.optional => {}
            (Some(width), []) if placed => {
                fields.extend((0..width).map(|place| field(format!("{}[{place}]", spec.name), Some(place), None)));
            }
            (Some(width), []) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "row scoring needs names for the {width} columns of input {:?}: declare them as [[columns]] in \
                         the model's model.toml, or use /v2/models/{}/infer",
                        spec.name, deployment.identity.model
                    ),
                ));
            }
            (Some(width), columns) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "input {:?} has {width} columns, but model.toml names {} of them",
                        spec.name,
                        columns.len()
                    ),
                ));
            }
            (None, _) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "input {spec} is not a table of columns: use /v2/models/{}/infer",
                        deployment.identity.model
                    ),
                ));
            }
        }
    }
    Ok(fields)
}

/// Values per row of an input: 1 for `[batch]`, n for `[batch, n]`; `None` for anything else.
fn row_width(spec: &TensorSpec) -> Option<usize> {
    match spec.wire_dims().as_slice() {
        [_] => Some(1),
        [_, width] => usize::try_from(*width).ok(),
        _ => None,
    }
}

/// The rows of a request, column by column: the text of each value.
pub(crate) struct Table<'a> {
    pub(crate) rows: usize,
    /// By field, one slice of JSON per row; `None` where the column was left out.
    pub(crate) columns: Vec<Option<Vec<&'a [u8]>>>,
    /// Values outside the range that the model's owner declared, told in the answer.
    pub(crate) outside: Vec<String>,
    /// The client's name for the request; empty where it gave none.
    pub(crate) id: String,
    /// The request's own.
    pub(crate) parameters: Parameters,
}

/// Reads what a request may say beside its rows, by its key; says whether it knows that key.
pub(crate) type Beside<'b> = dyn FnMut(&str, &mut Reader<'_>) -> Result<bool> + 'b;

pub(crate) fn read_table<'a>(body: &'a [u8], fields: &[Field], beside: &mut Beside<'_>) -> Result<Table<'a>> {
    let position: BTreeMap<&str, usize> =
        fields.iter().enumerate().map(|(position, field)| (field.name.as_str(), position)).collect();
    let mut rows: Option<usize> = None;
    let mut columns: Vec<Option<Vec<&'a [u8]>>> = vec![None; fields.len()];
    let (mut id, mut parameters) = (String::new(), Parameters::new());
    let mut reader = Reader::new(body);
    reader.read_object(|key, reader| {
        match key {
            "rows" | "columns" => {}
            "id" => {
                id = reader.read_string()?.into_owned();
                return Ok(());
            }
            "parameters" => {
                parameters = read_parameters(reader)?;
                return Ok(());
            }
            _ if beside(key, reader)? => return Ok(()),
            _ => {
                let expected = "expected \"rows\" or \"columns\", and perhaps \"id\" and \"parameters\"";
                return Err(Error::invalid(format!("unknown key {key:?}: {expected}")));
            }
        }
        if rows.is_some() {
            return Err(Error::invalid("give either \"rows\" or \"columns\", once"));
        }
        rows = Some(match key {
            "rows" => read_rows(reader, fields, &position, &mut columns)?,
            _ => read_columns(reader, fields, &position, &mut columns)?,
        });
        Ok(())
    })?;
    reader.finish()?;
    let rows = rows.ok_or_else(|| {
        Error::invalid("expected {\"rows\": [{\"column\": value, …}, …]} or {\"columns\": {\"column\": [value, …], …}}")
    })?;
    if rows > ROWS_MAX {
        return Err(Error::too_large(format!("{rows} rows at once; row scoring takes {ROWS_MAX}: use infer")));
    }
    if rows == 0 {
        return Err(Error::invalid("no rows are given: expected at least one"));
    }
    let missing: Vec<&str> = fields
        .iter()
        .zip(&columns)
        .filter(|(field, column)| column.is_none() && !field.optional)
        .map(|(field, _)| field.name.as_str())
        .collect();
    if !missing.is_empty() {
        return Err(Error::invalid(format!("missing {}", listed("column", &missing))));
    }
    Ok(Table { rows, columns, outside: Vec::new(), id, parameters }.with_outside(fields))
}

fn read_rows<'a>(
    reader: &mut Reader<'a>,
    fields: &[Field],
    position: &BTreeMap<&str, usize>,
    columns: &mut [Option<Vec<&'a [u8]>>],
) -> Result<usize> {
    let mut rows = 0;
    reader.read_array(|reader| {
        let mut unknown = Vec::new();
        reader.read_object(|key, reader| {
            let value = reader.skip_value()?;
            let Some(&at) = position.get(key) else {
                unknown.push(key.to_owned());
                return Ok::<(), Error>(());
            };
            let column = columns[at].get_or_insert_with(Vec::new);
            match column.len() == rows {
                true => column.push(value),
                false if column.len() > rows => {
                    return Err(Error::invalid(format!("row {rows}: {key:?} is given twice")));
                }
                false => return Err(Error::invalid(format!("row {}: missing column {key:?}", column.len()))),
            }
            Ok(())
        })?;
        if !unknown.is_empty() {
            return Err(unknown_columns(&format!("row {rows}: "), &unknown, fields));
        }
        rows += 1;
        let short = fields.iter().zip(columns.iter()).filter(|(field, column)| match column {
            Some(column) => column.len() < rows,
            None => !field.optional,
        });
        let missing: Vec<&str> = short.map(|(field, _)| field.name.as_str()).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::invalid(format!("row {}: missing {}", rows - 1, listed("column", &missing)))),
        }
    })?;
    Ok(rows)
}

fn read_columns<'a>(
    reader: &mut Reader<'a>,
    fields: &[Field],
    position: &BTreeMap<&str, usize>,
    columns: &mut [Option<Vec<&'a [u8]>>],
) -> Result<usize> {
    let mut rows: Option<(String, usize)> = None;
    let mut unknown = Vec::new();
    reader.read_object(|key, reader| {
        let mut values = Vec::new();
        reader.read_array(|reader| {
            values.push(reader.skip_value()?);
            Ok::<(), Error>(())
        })?;
        let Some(&at) = position.get(key) else {
            unknown.push(key.to_owned());
            return Ok(());
        };
        match &rows {
            Some((first, length)) if *length != values.len() => {
                return Err(Error::invalid(format!(
                    "columns differ in length: {first:?} has {length} values, {key:?} has {}",
                    values.len()
                )));
            }
            Some(_) => {}
            None => rows = Some((key.to_owned(), values.len())),
        }
        match columns[at].replace(values) {
            Some(_) => Err(Error::invalid(format!("column {key:?} is given twice"))),
            None => Ok(()),
        }
    })?;
    match unknown.is_empty() {
        true => Ok(rows.map_or(0, |(_, rows)| rows)),
        false => Err(unknown_columns("", &unknown, fields)),
    }
}

fn unknown_columns(prefix: &str, unknown: &[String], fields: &[Field]) -> Error {
    let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
    let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    Error::invalid(format!("{prefix}unknown {}; the model has {}", listed("column", &names), listed("column", &known)))
}

fn listed(what: &str, names: &[&str]) -> String {
    const SHOWN_MAX: usize = 40;
    let shown = names.iter().take(SHOWN_MAX).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let more = if names.len() > SHOWN_MAX { format!(", … ({} in all)", names.len()) } else { String::new() };
    format!("{what}{} {shown}{more}", if names.len() == 1 { "" } else { "s" })
}

impl<'a> Table<'a> {
    /// Rows that somebody else has taken apart: by field, one value of JSON per row; `None` where the column is left out.
    pub(crate) fn of(rows: usize, columns: Vec<Option<Vec<&'a [u8]>>>) -> Table<'a> {
        Table { rows, columns, outside: Vec::new(), id: String::new(), parameters: Parameters::new() }
    }
}

impl Table<'_> {
    fn with_outside(mut self, fields: &[Field]) -> Self {
        const TOLD_MAX: usize = 100;
        for (field, values) in fields.iter().zip(&self.columns) {
            let (Some(column), Some(values)) = (&field.column, values) else { continue };
            for (row, value) in values.iter().enumerate() {
                let Some(number) = std::str::from_utf8(value).ok().and_then(|text| text.parse::<f64>().ok()) else {
                    continue;
                };
                let below = column.minimum.filter(|&minimum| number < minimum);
                let above = column.maximum.filter(|&maximum| number > maximum);
                if (below.is_some() || above.is_some()) && self.outside.len() < TOLD_MAX {
                    let range = format!("{} to {}", bound(column.minimum), bound(column.maximum));
                    self.outside
                        .push(format!("row {row}: {:?} is {number}, outside the training range {range}", field.name));
                }
            }
        }
        self
    }
}

fn bound(value: Option<f64>) -> String {
    value.map_or_else(|| "…".to_owned(), |value| value.to_string())
}

/// Puts the columns into the model's inputs.
pub(crate) fn assemble(deployment: &Deployment, fields: &[Field], table: &Table<'_>) -> Result<Vec<NamedTensor>> {
    let mut inputs = Vec::new();
    for (position, spec) in deployment.signature.inputs.iter().enumerate() {
        let mut columns = Vec::new();
        for (field, values) in fields.iter().zip(&table.columns).filter(|(field, _)| field.input == position) {
            if let Some(values) = values {
                columns.push(read_column(field, values)?);
            }
        }
        if columns.is_empty() {
            continue;
        }
        let shape: Shape = match spec.wire_dims().len() {
            1 => Shape::from([table.rows]),
            _ => Shape::from([table.rows, columns.len()]),
        };
        let tensor = interleave(spec.dtype, shape, &columns)
            .map_err(|error| Error::invalid(format!("input {:?}: {error}", spec.name)))?;
        inputs.push(NamedTensor { name: spec.name.clone(), tensor });
    }
    Ok(inputs)
}

fn read_column(field: &Field, values: &[&[u8]]) -> Result<Tensor> {
    let categories = field.column.as_ref().map_or(&[][..], |column| column.categories.as_slice());
    let mut text = Vec::with_capacity(values.iter().map(|value| value.len() + 1).sum::<usize>() + 2);
    text.push(b'[');
    for (row, value) in values.iter().enumerate() {
        if row > 0 {
            text.push(b',');
        }
        // A category of a numeric input is its position in the list.
        if !categories.is_empty() && field.dtype != DataType::Bytes && value.first() == Some(&b'"') {
            let name = Reader::new(value).read_string()?.into_owned();
            let Some(code) = categories.iter().position(|category| *category == name) else {
                let known: Vec<&str> = categories.iter().map(String::as_str).collect();
                return Err(Error::invalid(format!(
                    "row {row}: {:?} is {name:?}, expected one of {}",
                    field.name,
                    listed("category", &known)
                )));
            };
            text.extend_from_slice(code.to_string().as_bytes());
        } else {
            text.extend_from_slice(value);
        }
    }
    text.push(b']');
    read_data(&mut Reader::new(&text), field.dtype, &Shape::from([values.len()]))
        .map_err(|error| Error::invalid(format!("column {:?}: {}", field.name, error.message())))
}

/// Columns of equal length side by side, row major.
fn interleave(dtype: DataType, shape: Shape, columns: &[Tensor]) -> Result<Tensor, tiltyard_types::TensorError> {
    let rows = columns.first().map_or(0, Tensor::elements);
    match dtype.width() {
        Some(width) => {
            let mut buffer = Buffer::with_capacity(rows * columns.len() * width);
            for row in 0..rows {
                for column in columns {
                    let bytes = column.bytes().map_or(&[][..], |bytes| bytes);
                    buffer.extend(&bytes[row * width..(row + 1) * width]);
                }
            }
            Tensor::fixed(dtype, shape, buffer)
        }
        None => {
            let strings = (0..rows)
                .flat_map(|row| columns.iter().filter_map(move |column| column.as_strings()?.get(row).cloned()))
                .collect();
            Tensor::strings(shape, strings)
        }
    }
}

fn answer(rows: usize, outside: &[String], id: &str, outcome: &Outcome) -> Result<Reply> {
    let identity = &outcome.arm.deployment.identity;
    let mut objects: Vec<Map<String, Value>> = vec![Map::new(); rows];
    for (name, tensor) in outcome.named() {
        let labels = outcome.arm.deployment.settings.labels.get(name).map_or(&[][..], Vec::as_slice);
        let values = values(name, tensor)?;
        if tensor.shape().rows() != Some(rows) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("output {name:?} has shape {}, not a row for each of {rows}: use infer", tensor.shape()),
            ));
        }
        let per_row = values.len().checked_div(rows).unwrap_or(0);
        for (row, object) in objects.iter_mut().enumerate() {
            let of_row = &values[row * per_row..(row + 1) * per_row];
            let value = match of_row {
                of_row if !labels.is_empty() && labels.len() == of_row.len() => {
                    Value::Object(labels.iter().cloned().zip(of_row.iter().cloned()).collect())
                }
                [only] => only.clone(),
                several => Value::Array(several.to_vec()),
            };
            object.insert(name.to_owned(), value);
        }
    }
    let prediction_ids: Vec<String> = (0..rows).map(|row| outcome.id.prediction(row)).collect();
    let mut form = json!({
        "model": identity.model,
        "version": identity.version.to_string(),
        "rows": null,
        "prediction_ids": prediction_ids,
    });
    form["rows"] = Value::Array(objects.into_iter().map(Value::Object).collect());
    if !id.is_empty() {
        form["id"] = json!(id);
    }
    if !outside.is_empty() {
        form["warnings"] = json!(outside);
    }
    Ok(Reply { headers: outcome.headers(), ..Reply::json(&form) })
}

/// The elements as JSON values; what JSON cannot write (NaN, infinities) is null.
fn values(name: &str, tensor: &Tensor) -> Result<Vec<Value>> {
    fn each<T: Element>(tensor: &Tensor, write: impl Fn(T) -> Value) -> Vec<Value> {
        tensor.to_vec::<T>().unwrap_or_default().into_iter().map(write).collect()
    }
    if let Some(strings) = tensor.as_strings() {
        let text = |string: &Bytes| std::str::from_utf8(string).map(|text| json!(text));
        return strings
            .iter()
            .map(|string| {
                text(string)
                    .map_err(|_| Error::invalid(format!("output {name:?} is not UTF-8: use infer with binary_data")))
            })
            .collect();
    }
    // A single's shortest decimal, not the digits of the double nearest to it.
    let single = |value: f32| value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value));
    Ok(match tensor.dtype() {
        DataType::Bool => each::<u8>(tensor, |value| json!(value != 0)),
        DataType::Uint8 => each::<u8>(tensor, |value| json!(value)),
        DataType::Uint16 => each::<u16>(tensor, |value| json!(value)),
        DataType::Uint32 => each::<u32>(tensor, |value| json!(value)),
        DataType::Uint64 => each::<u64>(tensor, |value| json!(value)),
        DataType::Int8 => each::<i8>(tensor, |value| json!(value)),
        DataType::Int16 => each::<i16>(tensor, |value| json!(value)),
        DataType::Int32 => each::<i32>(tensor, |value| json!(value)),
        DataType::Int64 => each::<i64>(tensor, |value| json!(value)),
        DataType::Fp16 => each::<f16>(tensor, |value| single(value.to_f32())),
        DataType::Bf16 => each::<bf16>(tensor, |value| single(value.to_f32())),
        DataType::Fp32 => each::<f32>(tensor, single),
        DataType::Fp64 => each::<f64>(tensor, |value| json!(value)),
        DataType::Bytes => Vec::new(),
    })
}
