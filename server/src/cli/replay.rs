//! What would another version have answered to what was asked yesterday?
//!
//! Captured requests are asked again of another version, in this process or of a running server, and its answers are compared with
//! those that were given then: a shadow test on traffic that is over.

pub(super) mod scorer;
mod tally;

use std::collections::VecDeque;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::json;
use tiltyard_capture::{Outcome, Record, joined};
use tiltyard_types::NamedTensor;

use self::scorer::{Asked, Scorer};
use self::tally::Tally;
use super::capture::source::{Request, Source, filter_flags, from_flag};
use super::credentials::Credentials;
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use super::predict::parse_model;
use super::progress;
use super::settings::{self, ENGINE_SETTINGS};
use super::target::{Http, Named, server_flags};

/// Requests that are asked at a time.
const AT_A_TIME: usize = 64;

const EXAMPLES: &str = "\
Answers are compared as those of a shadow are: labels by whether they differ, numbers by how far they are apart, scores by what
they put first and by the order in which they put rows. A row whose inputs are not on record whole cannot be asked again.

Exit codes: 0 done, 4 more rows differ than --fail-over says, 1 failed or nothing could be compared, 2 usage.

Examples:
  tiltyard replay --to risk@5 --models ./models
  tiltyard replay --from /var/lib/record --to risk@5 --models ./models --since 2026-03-01 --until 2026-03-02 --fail-over 0.01
  tiltyard replay --from segments --to risk@5 --server http://models:8000 --endpoint risk --arm champion --output json";

pub(crate) fn command() -> Command {
    let shared: Vec<&str> = ENGINE_SETTINGS.into_iter().chain(["models", "capture_dir", "capture_key_file"]).collect();
    let limit = Arg::new("limit").long("limit").value_name("ROWS").value_parser(value_parser!(u64).range(1..));
    let fail_over = Arg::new("fail_over").long("fail-over").value_name("SHARE").value_parser(value_parser!(f64));
    Command::new("replay")
        .about("Ask another version what was asked on record, and compare the answers")
        .arg(from_flag())
        .arg(
            Arg::new("to").long("to").value_name("MODEL[@VERSION]").required(true).help(
                "Who is asked now: loaded from --models in this process, or of a server where --server or --ports-file is given",
            ),
        )
        .args(filter_flags())
        .arg(limit.help_heading("Which rows").help("No more rows than that, and the rest of a request"))
        .arg(fail_over.help("End with 4 where a larger share of rows differs, 0 to 1"))
        .args(settings::flags(&shared))
        .args(server_flags())
        .after_help(EXAMPLES)
}

pub(crate) fn run(matches: &ArgMatches) -> Result<Exit, Failure> {
    let fail_over = matches.get_one::<f64>("fail_over").copied();
    if fail_over.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
        return Err(Failure::usage("--fail-over: expected a share from 0 to 1"));
    }
    let to = matches.get_one::<String>("to").map(String::as_str).unwrap_or_default();
    let model = parse_model(to)?;
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    let source = Source::open(matches, &loaded.config)?;
    let is_remote = matches.get_one::<String>("server").or(matches.get_one::<String>("ports_file")).is_some();
    let scorer = match is_remote {
        true => Scorer::there(Http::new(Named::of(matches)?.server(), &Credentials::of(matches)?)?, &model)?,
        false => Scorer::here(&loaded.config, &model)?,
    };
    let mut replay = Replay { scorer: &scorer, tally: Tally::default(), asked: VecDeque::new() };
    replay.all(&source, matches.get_one::<u64>("limit").copied().unwrap_or(u64::MAX))?;
    let tally = replay.tally;
    let mut form = tally.form();
    form["to"] = json!(scorer.deployment().map_or_else(
        || to.to_owned(),
        |deployment| format!("{}@{}", deployment.identity.model, deployment.identity.version)
    ));
    form["digest"] = json!(scorer.deployment().map(|deployment| deployment.identity.digest.to_string()));
    match Form::of(matches) {
        Form::Json => output::print_json(&form)?,
        Form::Table => output::print(&tally.told(form["to"].as_str().unwrap_or(to)))?,
    }
    match (tally.share(), fail_over) {
        (None, _) => Err(Failure::failed("no row could be compared")),
        (Some(share), Some(most)) if share > most => Ok(Exit::Refused),
        _ => Ok(Exit::Done),
    }
}

struct Replay<'a> {
    scorer: &'a Scorer,
    tally: Tally,
    /// Questions whose answers are waited for, the first one first.
    asked: VecDeque<(Record<'static>, Vec<String>, Asked)>,
}

impl Replay<'_> {
    fn all(&mut self, source: &Source, limit: u64) -> Result<(), Failure> {
        let total = source.candidates().map(|file| file.listed.as_ref().map(|listed| listed.facts.rows)).sum();
        let bar = progress::bar("rows", total);
        for file in source.candidates() {
            if self.tally.rows.read >= limit {
                break;
            }
            let Some(segment) = source.read(file)? else { continue };
            source.requests(&segment, |request| {
                self.request(request)?;
                bar.set_position(self.tally.rows.read);
                Ok(self.tally.rows.read < limit)
            })?;
        }
        while self.answered()? {}
        bar.finish_and_clear();
        Ok(())
    }

    /// Asks again what one request asked.
    fn request(&mut self, Request { rows, records }: Request) -> Result<(), Failure> {
        let count = rows.len() as u64;
        self.tally.rows.read += count;
        self.tally.of_version(&rows[0].record, count);
        if records.len() < rows.len() {
            self.tally.rows.erased += count;
            return Ok(());
        }
        if records[0].outcome != Outcome::Answered {
            self.tally.rows.failed_then += count;
            return Ok(());
        }
        let unusable = |tally: &mut Tally, why: &str| {
            tally.rows.unusable += count;
            tally.note(why.to_owned(), count);
        };
        let Some(request) = joined(&records) else {
            unusable(&mut self.tally, "its rows do not fit together");
            return Ok(());
        };
        let scorer = self.scorer;
        let wanted: Vec<String> = request
            .outputs
            .iter()
            .filter(|output| scorer.gives(&output.name))
            .map(|output| output.name.to_string())
            .collect();
        if wanted.is_empty() {
            unusable(&mut self.tally, "no output on record is one of this version's");
            return Ok(());
        }
        let inputs = request.inputs.iter().filter(|input| scorer.takes(&input.name));
        let inputs: Vec<NamedTensor> = inputs
            .map(|input| NamedTensor { name: input.name.to_string(), tensor: input.tensor.as_ref().clone() })
            .collect();
        if let Some(deployment) = scorer.deployment()
            && let Err(error) = deployment.signature.arrange(inputs.clone())
        {
            unusable(&mut self.tally, &format!("the inputs on record are not what it takes: {error}"));
            return Ok(());
        }
        if self.asked.len() >= AT_A_TIME {
            self.answered()?;
        }
        let asked = scorer.ask(inputs, &wanted);
        self.asked.push_back((request, wanted, asked));
        Ok(())
    }

    /// Takes in the answer to the first question; false where none is open.
    fn answered(&mut self) -> Result<bool, Failure> {
        let Some((request, wanted, asked)) = self.asked.pop_front() else { return Ok(false) };
        match self.scorer.answer(asked, &wanted)? {
            Ok(now) => self.tally.add(&request, &now),
            Err(why) => {
                self.tally.rows.failed_now += u64::from(request.rows);
                self.tally.note(why, u64::from(request.rows));
            }
        }
        Ok(true)
    }
}
