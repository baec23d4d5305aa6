//! How does a backtest's verdict answer for a gate of a rollout?

use clap::ArgMatches;
use serde_json::{Value, json};

use crate::cli::credentials::Credentials;
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::cli::status::address;
use crate::cli::target::{Http, Named, ask, path_part};

/// Lists of the report that may be long, and that no verdict rests on.
const LEFT_OUT: [&str; 4] = ["slices", "faults", "unused_columns", "notes"];

/// The gate that is answered for.
pub(super) struct Gate {
    http: Http,
    endpoint: String,
    name: String,
}

impl Gate {
    /// What the command line names; none where it names none. Fails before anything is computed where nobody can be told.
    pub(super) fn of(matches: &ArgMatches) -> Result<Option<Gate>, Failure> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let Some(endpoint) = text("gate") else { return Ok(None) };
        let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
        Ok(Some(Gate { http, endpoint, name: text("gate-name").unwrap_or_default() }))
    }

    /// Answers for it by the verdict, with its figures. The server refuses it where other versions compete.
    pub(super) fn answer(self, report: &Value) -> Result<(), Failure> {
        let Gate { http, endpoint, name } = self;
        let path = format!("/admin/endpoints/{}/rollout/gate", path_part(&endpoint));
        ask(&http, "POST", &path, body(&name, report).to_string().into_bytes())
            .map_err(|failure| failure.at(&format!("gate {name} of endpoint {endpoint}")))?;
        let became = if passes(report) { "lets through" } else { "is refused" };
        output::note(format_args!("gate {name} of endpoint {endpoint} {became}"));
        Ok(())
    }
}

fn passes(report: &Value) -> bool {
    report["verdict"] == "promote"
}

fn body(name: &str, report: &Value) -> Value {
    let mut evidence = report.clone();
    if let Some(evidence) = evidence.as_object_mut() {
        LEFT_OUT.iter().for_each(|key| drop(evidence.remove(*key)));
    }
    let artifact = |of: &str| report[of]["artifact"].clone();
    json!({
        "gate": name, "passed": passes(report), "evidence": { "backtest": evidence },
        "champion": artifact("champion"), "challenger": artifact("challenger"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_answers_with_its_figures() {
        let report = |verdict: &str| {
            json!({ "verdict": verdict, "all": { "n": 171 }, "slices": [1], "notes": [], "champion": { "artifact": "a" },
                    "challenger": { "artifact": "b" } })
        };
        let told = body("backtest", &report("promote"));
        assert_eq!((&told["passed"], &told["champion"], &told["challenger"]), (&json!(true), &json!("a"), &json!("b")));
        assert_eq!(told["evidence"]["backtest"]["all"]["n"], 171);
        assert!(told["evidence"]["backtest"].get("slices").is_none());
        for other in ["worse", "not_enough", "halted", "refused"] {
            assert_eq!(body("g", &report(other))["passed"], false, "{other}");
        }
    }
}
