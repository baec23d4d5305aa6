//! What can be asked here? OpenAPI for every model, with an example from its goldens, and a page for people.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::repository::settings::ColumnKind;
use tiltyard_types::json::{NonFinite, write_data};
use tiltyard_types::{DataType, Error, NamedTensor, Result, TensorSpec};

use super::reply::{Reply, failure};
use super::{rest, score};
use crate::arm::Arm;
use crate::catalog::Catalog;
use crate::service::Service;

/// The engine whose models are explained.
const EXPLAINING_ENGINE: &str = "classical";

/// The page at `/`: where to go from here.
pub(crate) fn front_page(service: &Service) -> Reply {
    page(service, &[]).unwrap_or_else(|error| failure(&error))
}

/// The pages below `/docs`.
pub(crate) fn page(service: &Service, rest: &[&str]) -> Result<Reply> {
    let catalog = service.inference.catalog.load();
    match rest {
        [] => {
            let all: Vec<_> = catalog.speakers().collect();
            Ok(Reply::text("text/html; charset=utf-8", html(all.iter().map(Asked::of))))
        }
        ["openapi.json"] => {
            let all: Vec<_> = catalog.speakers().collect();
            Ok(Reply::json(&openapi(all.iter().map(Asked::of))))
        }
        ["models", name, "openapi.json"] => {
            let arm = (*name, catalog.speaker(name, None)?);
            Ok(Reply::json(&openapi(std::iter::once(Asked::of(&arm)))))
        }
        ["models", name] => {
            let arm = (*name, catalog.speaker(name, None)?);
            Ok(Reply::text("text/html; charset=utf-8", html(std::iter::once(Asked::of(&arm)))))
        }
        _ => Err(Error::not_found(format!("nothing is at GET /docs/{}", rest.join("/")))),
    }
}

/// A name that is asked, and what is shown of who answers.
#[derive(Clone, Copy)]
struct Asked<'a> {
    name: &'a str,
    deployment: &'a Deployment,
}

impl<'a> Asked<'a> {
    fn of((name, arm): &'a (&str, Arc<Arm>)) -> Asked<'a> {
        Asked { name, deployment: &arm.deployment }
    }
}

fn openapi<'a>(all: impl Iterator<Item = Asked<'a>>) -> Value {
    let mut paths = Map::new();
    for asked in all {
        let name = asked.name;
        paths.insert(format!("/v2/models/{name}/infer"), json!({ "post": infer_operation(asked) }));
        if let Some(operation) = score_operation(asked) {
            if asked.deployment.identity.engine == EXPLAINING_ENGINE {
                let operation = explain_operation(asked, operation.clone());
                paths.insert(format!("/v1/models/{name}/explain"), json!({ "post": operation }));
            }
            paths.insert(format!("/v1/models/{name}/score"), json!({ "post": operation }));
        }
        paths.insert(
            format!("/v2/models/{name}"),
            json!({ "get": { "operationId": format!("{name}_metadata"), "summary": "Inputs and outputs",
                "tags": [name], "responses": { "200": { "description": "The model's metadata" } } } }),
        );
    }
    paths.insert("/v1/feedback".into(), json!({ "post": rest::feedback::operation() }));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tiltyard",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Models served over the Open Inference Protocol v2, and row scoring by column name.",
        },
        "paths": paths,
    })
}

fn infer_operation(Asked { name, deployment }: Asked<'_>) -> Value {
    let tensor = |spec: &TensorSpec| {
        json!({
            "type": "object",
            "description": spec.to_string(),
            "properties": {
                "name": { "const": spec.name },
                "datatype": { "const": spec.dtype.name() },
                "shape": { "type": "array", "items": { "type": "integer" } },
                "data": { "type": "array" },
            },
            "required": ["name", "datatype", "shape"],
        })
    };
    let inputs: Vec<Value> = deployment.signature.inputs.iter().map(tensor).collect();
    let outputs: Vec<Value> = deployment.signature.outputs.iter().map(tensor).collect();
    let mut request = json!({ "schema": {
        "type": "object",
        "properties": { "id": { "type": "string" }, "inputs": { "type": "array", "items": { "oneOf": inputs } } },
        "required": ["inputs"],
    } });
    if let Some(example) = infer_example(deployment) {
        request["example"] = example;
    }
    json!({
        "operationId": format!("{name}_infer"),
        "summary": "Infer by tensors",
        "description": deployment.settings.description,
        "tags": [name],
        "requestBody": { "required": true, "content": { "application/json": request } },
        "responses": responses(json!({
            "type": "object",
            "properties": { "outputs": { "type": "array", "items": { "oneOf": outputs } } },
        })),
    })
}

fn score_operation(Asked { name, deployment }: Asked<'_>) -> Option<Value> {
    let fields = score::fields(deployment).ok()?;
    let mut properties = Map::new();
    for field in &fields {
        let kind = match (field.dtype, field.column.as_ref().map(|column| column.kind)) {
            (DataType::Bytes, _) | (_, Some(ColumnKind::String)) => "string",
            (DataType::Bool, _) | (_, Some(ColumnKind::Boolean)) => "boolean",
            (_, Some(ColumnKind::Integer)) => "integer",
            (dtype, None) if !dtype.is_float() => "integer",
            _ => "number",
        };
        let mut schema = json!({ "type": kind });
        if let Some(column) = &field.column {
            let unit = column.unit.as_ref().map(|unit| format!("in {unit}"));
            let range = column.minimum.zip(column.maximum).map(|(low, high)| format!("{low} to {high} in training"));
            let told: Vec<String> = [column.description.clone(), unit, range].into_iter().flatten().collect();
            schema["description"] = json!(told.join("; "));
            if !column.categories.is_empty() {
                schema = json!({ "enum": column.categories, "description": schema["description"] });
            }
        }
        properties.insert(field.name.clone(), schema);
    }
    let required: Vec<&str> = fields.iter().filter(|field| !field.optional).map(|field| field.name.as_str()).collect();
    let row =
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    let mut request = json!({ "schema": {
        "type": "object",
        "properties": {
            "rows": { "type": "array", "items": row },
            "id": { "type": "string", "description": "Your name for the request, which the answer repeats" },
            "parameters": { "type": "object" },
        },
    } });
    if let Some(example) = score_example(deployment, &fields) {
        request["example"] = example;
    }
    Some(json!({
        "operationId": format!("{name}_score"),
        "summary": "Score rows by column name",
        "description": deployment.settings.description,
        "tags": [name],
        "requestBody": { "required": true, "content": { "application/json": request } },
        "responses": responses(json!({
            "type": "object",
            "properties": {
                "id": { "type": "string" },
                "model": { "type": "string" },
                "version": { "type": "string" },
                "rows": { "type": "array", "items": { "type": "object" } },
                "prediction_ids": { "type": "array", "items": { "type": "string" } },
                "warnings": { "type": "array", "items": { "type": "string" } },
            },
        })),
    }))
}

/// The same rows as of `score`, and what each column adds to their scores.
fn explain_operation(Asked { name, .. }: Asked<'_>, score: Value) -> Value {
    let mut operation = score;
    operation["operationId"] = json!(format!("{name}_explain"));
    operation["summary"] = json!("Explain the scores of rows by column");
    let properties = &mut operation["requestBody"]["content"]["application/json"]["schema"]["properties"];
    properties["top"] = json!({ "type": "integer", "minimum": 1, "description": "Only the columns that count most" });
    properties["output"] = json!({ "type": ["string", "integer"], "description": "Only this class of several" });
    operation["responses"] = responses(json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "model": { "type": "string" },
            "version": { "type": "string" },
            "method": { "enum": ["tree_path_dependent", "interventional"] },
            "space": { "type": "string", "description": "What scores are, such as log-odds" },
            "output": { "type": "string" },
            "background_rows": { "type": "integer" },
            "explanations": { "type": "array", "items": { "type": "object" } },
            "warnings": { "type": "array", "items": { "type": "string" } },
        },
    }));
    operation
}

fn responses(schema: Value) -> Value {
    let error = json!({ "type": "object", "properties": { "error": { "type": "string" } } });
    let failure = |what: &str| json!({ "description": what, "content": { "application/json": { "schema": error } } });
    json!({
        "200": { "description": "The answer", "content": { "application/json": { "schema": schema } } },
        "400": failure("The request is wrong: the message says what was expected"),
        "429": failure("Too much at once: try again after Retry-After seconds"),
        "503": failure("Not ready"),
    })
}

/// A request that works: that of the first golden example, where there is one of moderate size.
pub(crate) fn infer_example(deployment: &Deployment) -> Option<Value> {
    let golden = deployment.example.as_ref()?;
    let inputs: Option<Vec<Value>> = golden.inputs.iter().map(tensor_form).collect();
    Some(json!({ "inputs": inputs? }))
}

fn tensor_form(NamedTensor { name, tensor }: &NamedTensor) -> Option<Value> {
    const ELEMENTS_MAX: usize = 4096;
    if tensor.elements() > ELEMENTS_MAX {
        return None;
    }
    let shape: &[usize] = tensor.shape();
    Some(json!({ "name": name, "datatype": tensor.dtype().name(), "shape": shape, "data": data_form(tensor)? }))
}

fn data_form(tensor: &tiltyard_types::Tensor) -> Option<Value> {
    let mut text = Vec::new();
    write_data(tensor, &mut text, NonFinite::Null).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The first row of the first golden example, by column name.
pub(crate) fn score_example(deployment: &Deployment, fields: &[score::Field]) -> Option<Value> {
    let golden = deployment.example.as_ref()?;
    let mut row = Map::new();
    for field in fields {
        let input = &deployment.signature.inputs[field.input];
        let Some(tensor) = golden.inputs.iter().find(|named| named.name == input.name) else { continue };
        let first = tensor.tensor.rows(0..1)?;
        let values = data_form(&first)?;
        row.insert(field.name.clone(), values.get(field.place.unwrap_or(0))?.clone());
    }
    Some(json!({ "rows": [row] }))
}

fn html<'a>(all: impl Iterator<Item = Asked<'a>>) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tiltyard</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>body{font:16px/1.5 system-ui,sans-serif;\
         max-width:60rem;margin:2rem auto;padding:0 1rem}pre{background:#f4f4f4;padding:.8rem;overflow-x:auto}\
         table{border-collapse:collapse}td,th{text-align:left;padding:.15rem .8rem .15rem 0}h2{margin-top:2.5rem}\
         </style><h1>Tiltyard</h1><p>Models served here. The same as <a href=\"/docs/openapi.json\">OpenAPI</a>.</p>",
    );
    for asked in all {
        // Writing into a string cannot fail.
        let _ = model_html(&mut page, asked);
    }
    page.push_str("</html>");
    page
}

fn model_html(page: &mut String, Asked { name, deployment }: Asked<'_>) -> std::fmt::Result {
    let identity = &deployment.identity;
    write!(page, "<h2>{}</h2><p>{}</p>", escape(name), escape(&deployment.settings.description))?;
    write!(
        page,
        "<p>version {} on {} {}</p><table>",
        identity.version,
        identity.engine,
        escape(&identity.build.version)
    )?;
    for (what, specs) in [("input", &deployment.signature.inputs), ("output", &deployment.signature.outputs)] {
        for spec in specs {
            write!(page, "<tr><td>{what}<td><code>{}</code>", escape(&spec.to_string()))?;
        }
    }
    write!(page, "</table>")?;
    let mut examples = Vec::new();
    if let Some(example) = score::fields(deployment).ok().and_then(|fields| score_example(deployment, &fields)) {
        examples.push((format!("/v1/models/{name}/score"), example));
    }
    if let Some(example) = infer_example(deployment) {
        examples.push((format!("/v2/models/{name}/infer"), example));
    }
    for (path, example) in examples {
        let command = format!("curl -s http://HOST:PORT{path} -d '{example}'");
        write!(page, "<pre>{}</pre>", escape(&command))?;
    }
    Ok(())
}

/// One command that answers when pasted into a terminal, where a model has an example: by column
/// names if possible, and short.
pub(crate) fn try_me(catalog: &Catalog, address: &str) -> Option<String> {
    let commands = catalog.speakers().filter_map(|(name, arm)| {
        let deployment = &arm.deployment;
        let scored = score::fields(deployment).ok().and_then(|fields| score_example(deployment, &fields));
        let (path, example) = match &scored {
            Some(example) => (format!("/v1/models/{name}/score"), example.to_string()),
            None => (format!("/v2/models/{name}/infer"), infer_example(deployment)?.to_string()),
        };
        // A quote in it would end the shell's.
        (!example.contains('\'')).then(|| (scored.is_none(), format!("curl -s http://{address}{path} -d '{example}'")))
    });
    commands.min_by_key(|(by_tensors, command)| (*by_tensors, command.len())).map(|(_, command)| command)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
