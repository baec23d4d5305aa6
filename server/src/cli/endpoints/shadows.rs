//! What do an endpoint's shadows show?

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::super::credentials::Credentials;
use super::super::exit::Failure;
use super::super::models::text;
use super::super::output::{self, Form, NOTHING, Table};
use super::super::status::address;
use super::super::target::{Http, Named, admin_flag, ask, path_part, server_flags};
use crate::endpoints::differences::share;

/// Disagreements that people are shown; programs get all that are kept.
const WORST_SHOWN: usize = 5;

pub(super) fn command() -> Command {
    Command::new("shadows")
        .about("Show what an endpoint's shadows saw, and how far their answers are from the champion's")
        .arg(Arg::new("endpoint").value_name("ENDPOINT").required(true).help("The name that clients call"))
        .args(server_flags())
        .arg(admin_flag())
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let endpoint = matches.get_one::<String>("endpoint").map(String::as_str).unwrap_or_default();
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    let answer = ask(&http, "GET", &format!("/admin/endpoints/{}/shadows", path_part(endpoint)), Vec::new())?;
    let Ok(form) = serde_json::from_slice::<Value>(&answer) else {
        return Err(Failure::failed("the admin port does not answer as a Tiltyard server does"));
    };
    match (Form::of(matches), form["shadows"].as_array()) {
        (Form::Json, _) => output::print_json(&form),
        (Form::Table, Some(shadows)) if !shadows.is_empty() => output::print(&listing(shadows)),
        (Form::Table, _) => output::print(&format!("{endpoint} has no shadows.\n")),
    }
}

/// A line for each shadow, its measures, and where it differs most.
fn listing(shadows: &[Value]) -> String {
    let mut table =
        Table::new(["arm", "model", "version", "state", "sampled", "rate", "compared", "errors", "dropped"]);
    let mut measures = Table::new(["arm", "measure", "requests", "mean"]);
    let mut below = String::new();
    for shadow in shadows {
        let arm = text(shadow, "arm");
        let number = |key: &str| shadow[key].as_u64().unwrap_or(0).to_string();
        let rate = shadow["sampling_now"].as_u64().and_then(|rate| u32::try_from(rate).ok());
        let dropped = shadow["dropped"].as_object().into_iter().flat_map(|why| why.values());
        table.add([
            arm.clone(),
            text(shadow, "model"),
            text(shadow, "version"),
            text(shadow, "state"),
            number("sampled"),
            rate.map_or_else(|| NOTHING.to_owned(), share),
            number("compared"),
            number("errors"),
            dropped.filter_map(Value::as_u64).sum::<u64>().to_string(),
        ]);
        for (measure, values) in shadow["measures"].as_object().into_iter().flatten() {
            let mean = values["mean"].as_f64().map_or_else(|| NOTHING.to_owned(), |mean| format!("{mean:.6}"));
            measures.add([arm.clone(), measure.clone(), values["requests"].to_string(), mean]);
        }
        if let Some(reason) = shadow["reason"].as_str() {
            below += &format!("{arm}: {reason}\n");
        }
        for example in shadow["worst"].as_array().into_iter().flatten().take(WORST_SHOWN) {
            below += &format!("{arm}: {} {}\n", text(example, "prediction_id"), example["outputs"]);
        }
    }
    format!("{table}\n{measures}{below}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shadows_as_tables() {
        let shadow = json!({
            "arm": "new", "model": "risk", "version": "2", "state": "left_alone", "sampled": 12, "sampling_now": 50_000,
            "compared": 9, "errors": 1, "dropped": {"late": 1, "memory": 1}, "reason": "it hangs",
            "measures": {"flips": {"requests": 9, "mean": 0.25}},
            "worst": [{"prediction_id": "a:0", "outputs": {"y": {"champion": [1], "shadow": [2]}}}],
        });
        assert_eq!(
            listing(&[shadow]),
            "ARM  MODEL  VERSION  STATE       SAMPLED  RATE  COMPARED  ERRORS  DROPPED\n\
             new  risk   2        left_alone  12       5%    9         1       2\n\n\
             ARM  MEASURE  REQUESTS  MEAN\n\
             new  flips    9         0.250000\n\
             new: it hangs\n\
             new: a:0 {\"y\":{\"champion\":[1],\"shadow\":[2]}}\n"
        );
    }
}
