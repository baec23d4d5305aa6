//! How do rollouts stand, and why?

use std::thread;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use crate::cli::credentials::Credentials;
use crate::cli::exit::Failure;
use crate::cli::models::text;
use crate::cli::output::{self, Form, NOTHING, Table};
use crate::cli::progress;
use crate::cli::status::{address, age};
use crate::cli::target::{Http, Named, admin_flag, ask, path_part, server_flags};
use crate::endpoints::differences::share;

pub(super) const WAIT: &str =
    "Wait until the rollout has ended: exit code 0 promoted, 5 rolled back, 4 a person must decide, 1 else";

/// How often a rollout is asked for.
const PAUSE: Duration = Duration::from_millis(500);

/// Cells of a bar.
const BAR: usize = 20;

pub(super) fn command() -> Command {
    Command::new("status")
        .about("Tell how rollouts stand: who has which share, what is watched, and what is waited for")
        .arg(Arg::new("endpoint").value_name("ENDPOINT").help("One endpoint's; without it, a line for each"))
        .arg(Arg::new("wait").long("wait").action(ArgAction::SetTrue).requires("endpoint").help(WAIT))
        .args(server_flags())
        .arg(admin_flag())
        .after_help("Examples:\n  tiltyard rollout status\n  tiltyard rollout status risk\n  tiltyard rollout status risk --wait")
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    match matches.get_one::<String>("endpoint") {
        Some(endpoint) if matches.get_flag("wait") => wait(&http, endpoint, matches),
        Some(endpoint) => show(matches, &fetch(&http, endpoint)?),
        None => {
            let answer = ask(&http, "GET", "/admin/rollouts", Vec::new())?;
            let answer = parse(&answer)?;
            match Form::of(matches) {
                Form::Json => output::print_json(&answer),
                Form::Table => output::print(&listing(&answer)),
            }
        }
    }
}

fn fetch(http: &Http, endpoint: &str) -> Result<Vec<u8>, Failure> {
    ask(http, "GET", &format!("/admin/endpoints/{}/rollout", path_part(endpoint)), Vec::new())
}

fn parse(answer: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(answer)
        .map_err(|_| Failure::failed("the admin port does not answer as a Tiltyard server does"))
}

/// Shows one rollout.
pub(super) fn show(matches: &ArgMatches, answer: &[u8]) -> Result<(), Failure> {
    let form = parse(answer)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&form),
        Form::Table => output::print(&told(&form)),
    }
}

/// Comes back when the rollout has ended, or a person must decide.
pub(super) fn wait(http: &Http, endpoint: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let bar = progress::bar("rollout", None);
    let form = loop {
        let answer = fetch(http, endpoint)?;
        let form = parse(&answer)?;
        bar.set_message(line(&form));
        let stands_still = matches!(form["state"].as_str(), Some("halted" | "inconclusive"));
        if form["ended"] == true || stands_still {
            bar.finish_and_clear();
            show(matches, &answer)?;
            break form;
        }
        thread::sleep(PAUSE);
    };
    let (id, state) = (text(&form, "rollout"), text(&form, "state"));
    match state.as_str() {
        "promoted" => Ok(()),
        "rolled_back" => Err(Failure::rolled_back(format!("rollout {id} was rolled back"))),
        "halted" | "inconclusive" => Err(Failure::refused(format!("rollout {id} is {state}: a person must decide"))),
        _ => Err(Failure::failed(format!("rollout {id} is {state}"))),
    }
}

/// One line while somebody waits.
pub(in crate::cli) fn line(form: &Value) -> String {
    let units = |arm: usize| units(form, arm);
    format!(
        "{} {} at {}, {} and {} units",
        text(form, "rollout"),
        text(form, "stands"),
        millionths(form),
        units(0),
        units(1)
    )
}

/// An arm's units, those that no verdict has seen yet included.
fn units(form: &Value, arm: usize) -> u64 {
    form["units"][arm].as_u64().unwrap_or(0) + form["units_since"][arm].as_u64().unwrap_or(0)
}

fn millionths(form: &Value) -> String {
    let found = form["share"].as_u64().and_then(|millionths| u32::try_from(millionths).ok());
    found.map_or_else(|| NOTHING.to_owned(), share)
}

fn listing(answer: &Value) -> String {
    let mut table =
        Table::new(["rollout", "endpoint", "champion", "challenger", "state", "share", "units", "challenger's"]);
    let rollouts = answer["rollouts"].as_array().map(Vec::as_slice).unwrap_or_default();
    for form in rollouts {
        let units = |arm: usize| units(form, arm).to_string();
        table.add([
            text(form, "rollout"),
            text(form, "endpoint"),
            arm(&form["champion"]),
            arm(&form["challenger"]),
            text(form, "stands"),
            millionths(form),
            units(0),
            units(1),
        ]);
    }
    let trouble = answer["trouble"].as_str().map(|trouble| format!("{trouble}\n")).unwrap_or_default();
    table.to_string() + &trouble
}

fn arm(form: &Value) -> String {
    format!("{}@{}", text(form, "model"), form["version"])
}

/// One rollout for people.
fn told(form: &Value) -> String {
    let units = |arm: usize| units(form, arm);
    let mut told = format!(
        "{}: {} is {}, against {}\nshare      {} of endpoint {}\nunits      {} champion, {} challenger\n",
        text(form, "rollout"),
        arm(&form["challenger"]),
        text(form, "stands"),
        arm(&form["champion"]),
        millionths(form),
        text(form, "endpoint"),
        units(0),
        units(1),
    );
    let guardrails = form["guardrails"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table = Table::new(["guardrail", "evidence of harm", "champion", "challenger", "ratio", "passes"]);
    for reading in guardrails {
        let rate = |arm: usize| {
            let (events, of) = (reading["events"][arm].as_u64().unwrap_or(0), reading["of"][arm].as_u64().unwrap_or(0));
            format!("{events} of {of}")
        };
        table.add([
            text(reading, "metric"),
            bar(reading["ln_e"].as_f64().unwrap_or(0.0), reading["threshold"].as_f64().unwrap_or(1.0)),
            rate(0),
            rate(1),
            ratio(&reading["ratio"]),
            if reading["passes"] == true { "yes".into() } else { "not yet".into() },
        ]);
    }
    told += &table.to_string();
    for compared in form["comparisons"].as_array().into_iter().flatten() {
        let number = |key: &str| compared[key].as_f64().unwrap_or(0.0);
        let (metric, n) = (text(compared, "metric"), &compared["n"]);
        told += &format!("shadow     {metric}: {:.4}, at most {:.4}, of {n} pairs\n", number("mean"), number("upper"));
    }
    if form["output"].is_object() {
        told += &format!("output     {}\n", shift(&form["output"]));
    }
    if form["quality"].is_object() {
        told += &format!("quality    {}\nlabels     {}\n", quality(&form["quality"]), labels(form));
    }
    for reason in form["verdict"]["reasons"].as_array().map(Vec::as_slice).unwrap_or_default() {
        told += &format!("{}  {}\n", text(&form["verdict"], "decision"), because(reason));
    }
    if let Some(held) = form["held"].as_str() {
        told += &format!(
            "held       {held}; to go on all the same: tiltyard rollout gate {} drift\n",
            text(form, "endpoint")
        );
    }
    if let Some(trouble) = form["trouble"].as_str() {
        told += &format!("trouble    {trouble}\n");
    }
    if let Some(fleet) = form["replicas"].as_array().filter(|fleet| !fleet.is_empty()) {
        told += &format!("replicas   {}\n", replicas(fleet));
    }
    if form["went_back_after_promotion"] == true {
        told += "it became worse after its promotion: the champion of before answers again\n";
    }
    told
}

/// Who tells what it sees, and who is not heard any more.
pub(in crate::cli) fn replicas(fleet: &[Value]) -> String {
    let named = |replica: &Value| {
        let name = text(replica, "name");
        match (replica["leads"] == true, replica["state"] == "lost") {
            (_, true) => format!("{name} is lost for {} s", replica["silent_ms"].as_u64().unwrap_or(0) / 1_000),
            (true, false) => format!("{name} leads"),
            (false, false) => format!("{name} is heard"),
        }
    };
    fleet.iter().map(named).collect::<Vec<_>>().join(", ")
}

/// How far the answers fall elsewhere.
fn shift(form: &Value) -> String {
    let number = |key: &str| form[key].as_f64().unwrap_or(0.0);
    let bins = form["bins"].as_array().map_or(0, Vec::len);
    let bar = bar(number("ln_e"), number("threshold"));
    match bins {
        0 => "its bins are not known yet".to_owned(),
        bins => format!("{bar}  {:.1} % of the answers fall elsewhere, of {bins} bins", number("distance") * 100.0),
    }
}

/// What the outcomes show.
fn quality(form: &Value) -> String {
    let number = |key: &str| form[key].as_f64().unwrap_or(0.0);
    let interval = match (form["interval"]["lower"].as_f64(), form["interval"]["upper"].as_f64()) {
        (Some(lower), Some(upper)) => format!(" ({lower:+.4} to {upper:+.4})"),
        _ => " (too few to say more)".to_owned(),
    };
    let stands = match (form["passes"] == true, form["is_futile"] == true) {
        (true, _) => "passes",
        (_, true) => "futile",
        _ if form["harm"]["is_shown"] == true => "worse",
        _ => "not yet",
    };
    let of = if is_paired(form) {
        let right = |arm: usize| form["discordant"][arm].as_u64().unwrap_or(0);
        match form["ln_e"].is_number() {
            true => format!("pairs with a label (right alone: {} champion, {} challenger)", right(0), right(1)),
            false => "pairs with a label".to_owned(),
        }
    } else {
        "labels".to_owned()
    };
    // Added to zero, zero has no sign.
    let (metric, n, needed) = (text(form, "metric"), form["n"].as_u64().unwrap_or(0), number("needed") + 0.0);
    format!("{metric} gains {:+.4}{interval} over {n} {of}; more than {needed:+.4} is needed: {stands}", number("gain"))
}

/// Whether champion and challenger answered the same rows.
fn is_paired(quality: &Value) -> bool {
    quality["design"] == "paired_shadow"
}

/// Whose labels came, and what is waited for.
fn labels(form: &Value) -> String {
    let count = |form: &Value| form.as_u64().unwrap_or(0);
    let (labels, arrived) = (&form["labels"], &form["labelled"]);
    let mut told = match is_paired(&form["quality"]) {
        true => {
            format!("{} of {} rows that both answered", count(&labels["rows_labelled"][0]), count(&labels["rows"][0]))
        }
        false => format!("{} champion, {} challenger", count(&arrived[0]), count(&arrived[1])),
    };
    for (key, words) in [
        ("units_waiting", "units wait for their horizon"),
        ("labels_waiting", "labels wait for their prediction"),
        ("rows_without_room", "rows had no room (feedback_rows_max)"),
        ("rows_without_output", "rows were answered without the output that is judged"),
    ] {
        let count = count(&labels[key]);
        if count > 0 {
            told += &format!("; {count} {words}");
        }
    }
    told
}

/// How far the evidence is from an alarm; both are logarithms.
fn bar(value: f64, threshold: f64) -> String {
    let full = ((value / threshold).clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "·".repeat(BAR - full))
}

fn ratio(form: &Value) -> String {
    let lower = form["lower"].as_f64().unwrap_or(0.0);
    form["upper"].as_f64().map_or_else(|| format!("{lower:.2} or more"), |upper| format!("{lower:.2} to {upper:.2}"))
}

/// A reason in words.
pub(in crate::cli) fn because(reason: &Value) -> String {
    let number = |key: &str| reason[key].to_string();
    let time = |key: &str| age(reason[key].as_u64().unwrap_or(0) / 1_000);
    match reason["reason"].as_str().unwrap_or_default() {
        "guardrail" if reason["passes"] == true => format!("{} passes", text(reason, "metric")),
        "guardrail" if reason["ln_e"].as_f64() >= reason["threshold"].as_f64() => {
            format!("{} is worse, by {}", text(reason, "metric"), ratio(&reason["ratio"]))
        }
        "guardrail" => format!("{} is not shown to be as good yet", text(reason, "metric")),
        "time" => format!("{} of {}", time("elapsed_ms"), time("limit_ms")),
        "units" => format!("{} units of {}", number("units"), number("needed")),
        "gate" if reason["refused"] == true => format!("gate {} was refused", text(reason, "gate")),
        "gate" => format!("gate {} is waited for", text(reason, "gate")),
        "comparison" => format!("{} of pairs is not shown to be small enough yet", text(reason, "metric")),
        "invalid" => text(reason, "fault"),
        "person" => format!("{} said {}", text(reason, "by"), text(reason, "command")),
        "trip" => format!("it broke: {}", reason["trip"]),
        "sample_ratio" => format!("units do not come as they were dealt: {}", number("units")),
        "regression" => format!("{} became worse since the promotion", text(reason, "metric")),
        "primary" => quality(reason),
        "output" => {
            format!("answers fall elsewhere: {:.1} % of them", reason["distance"].as_f64().unwrap_or(0.0) * 100.0)
        }
        "label_arrival" => "labels do not arrive alike for both: the comparison is broken".to_owned(),
        "drops" => format!("{} of {} pairs were dropped: too many to decide by", number("dropped"), number("sampled")),
        "pairs_refused" => format!("{}: {}", text(reason, "metric"), text(reason, "why")),
        other => format!("{other} {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_for_people() {
        let form = json!({
            "rollout": "risk-1", "endpoint": "risk", "stands": "canary(1)", "share": 10_000, "units": [990, 10],
            "champion": {"model": "risk", "version": 1}, "challenger": {"model": "risk", "version": 2},
            "guardrails": [{"metric": "errors", "ln_e": 4.0, "threshold": 8.0, "events": [1, 2], "of": [990, 10],
                            "ratio": {"lower": 0.5, "upper": null}, "passes": false}],
            "verdict": {"decision": "not_yet", "reasons": [
                {"reason": "time", "elapsed_ms": 5_000, "limit_ms": 600_000}, {"reason": "gate", "gate": "ada", "refused": false}]},
            "trouble": null,
            "comparisons": [{"reason": "comparison", "metric": "flips", "n": 40, "mean": 0.025, "upper": 0.2, "passes": true}],
        });
        assert_eq!(
            told(&form),
            "risk-1: risk@2 is canary(1), against risk@1\n\
             share      1% of endpoint risk\n\
             units      990 champion, 10 challenger\n\
             GUARDRAIL  EVIDENCE OF HARM      CHAMPION  CHALLENGER  RATIO         PASSES\n\
             errors     ██████████··········  1 of 990  2 of 10     0.50 or more  not yet\n\
             shadow     flips: 0.0250, at most 0.2000, of 40 pairs\n\
             not_yet  5s of 10m0s\n\
             not_yet  gate ada is waited for\n"
        );
        assert_eq!(line(&form), "risk-1 canary(1) at 1%, 990 and 10 units");
        let fleet = json!([{"name": "a", "state": "heard", "leads": true}, {"name": "b", "state": "heard", "leads": false},
                           {"name": "c", "state": "lost", "leads": false, "silent_ms": 12_345}]);
        assert_eq!(replicas(fleet.as_array().expect("a list")), "a leads, b is heard, c is lost for 12 s");
    }

    #[test]
    fn quality_for_people() {
        let form = json!({"metric": "right", "n": 2_400, "gain": 0.05, "interval": {"lower": 0.01, "upper": 0.09},
                          "needed": -0.0, "passes": true, "is_futile": false});
        assert_eq!(
            quality(&form),
            "right gains +0.0500 (+0.0100 to +0.0900) over 2400 labels; more than +0.0000 is needed: passes"
        );
        let worse = json!({"metric": "right", "n": 900, "gain": -0.05, "interval": {"lower": -0.09, "upper": -0.01}, "needed": 0.0,
                           "harm": {"below": 0.0, "upper": -0.001, "is_shown": true}});
        assert!(quality(&worse).ends_with("more than +0.0000 is needed: worse"), "{}", quality(&worse));
        let early = json!({"metric": "right", "n": 3, "gain": -0.5, "interval": null, "needed": -0.01});
        assert_eq!(
            quality(&early),
            "right gains -0.5000 (too few to say more) over 3 labels; more than -0.0100 is needed: not yet"
        );
        let pairs = json!({"metric": "right", "design": "paired_shadow", "n": 400, "gain": 0.1, "needed": 0.0, "passes": true,
                           "interval": {"lower": 0.02, "upper": 0.2}, "discordant": [3, 43], "ln_e": 9.0});
        assert_eq!(
            quality(&pairs),
            "right gains +0.1000 (+0.0200 to +0.2000) over 400 pairs with a label (right alone: 3 champion, 43 challenger); more than \
             +0.0000 is needed: passes"
        );
        let labels_of_pairs = json!({"rows": [500, 500], "rows_labelled": [410, 410], "units_waiting": 9});
        let form = json!({"quality": pairs, "labelled": [0, 0], "labels": labels_of_pairs});
        assert_eq!(labels(&form), "410 of 500 rows that both answered; 9 units wait for their horizon");
        let form = json!({"labelled": [70, 30], "labels": {"units_waiting": 9, "labels_waiting": 0}});
        assert_eq!(labels(&form), "70 champion, 30 challenger; 9 units wait for their horizon");
        assert_eq!(labels(&json!({"labelled": [0, 0], "labels": null})), "0 champion, 0 challenger");
    }

    #[test]
    fn a_shift_for_people() {
        let form = json!({"ln_e": 3.0, "threshold": 6.0, "distance": 0.125, "bins": [[1, 2], [3, 4]]});
        assert_eq!(shift(&form), "██████████··········  12.5 % of the answers fall elsewhere, of 2 bins");
        assert_eq!(
            shift(&json!({"ln_e": 0.0, "threshold": 6.0, "distance": 0.0, "bins": []})),
            "its bins are not known yet"
        );
    }

    #[test]
    fn bars_are_within_bounds() {
        for value in [-3.0, 0.0, 9.0, f64::MAX] {
            assert_eq!(bar(value, 8.0).chars().count(), BAR);
        }
    }
}
