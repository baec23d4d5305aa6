//! Is a release on record from the file to the way back? One is made, by the commands that people use, and each step is looked at.

mod stage;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use serde_json::{Value, json};

use self::stage::Stage;
use super::compete::new_folder;
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};

/// A step that was played.
#[derive(Debug, Default)]
struct Step {
    title: &'static str,
    /// The commands, as people type them.
    commands: Vec<String>,
    /// What was looked at, and whether it was so.
    looks: Vec<(String, bool)>,
    /// Why it did not come to its end.
    failure: Option<String>,
    took: Duration,
}

impl Step {
    fn has_held(&self) -> bool {
        self.failure.is_none() && self.looks.iter().all(|(_, is_so)| *is_so)
    }

    fn text(&self, number: usize) -> String {
        let head = if self.has_held() { "held" } else { "FAILED" };
        let mut text = format!("{number:>2}  {head:<6}  {:>4.1} s  {}\n", self.took.as_secs_f64(), self.title);
        self.commands.iter().for_each(|line| text += &format!("      $ {line}\n"));
        for (what, is_so) in &self.looks {
            text += &format!("      {} {what}\n", if *is_so { "yes" } else { "NO " });
        }
        self.failure.iter().for_each(|why| text += &format!("      {why}\n"));
        text
    }

    fn json(&self) -> Value {
        let looks = self.looks.iter().map(|(what, is_so)| json!({ "what": what, "is_so": is_so }));
        json!({
            "title": self.title, "held": self.has_held(), "seconds": self.took.as_secs_f64(), "commands": self.commands,
            "looks": looks.collect::<Vec<_>>(), "failure": self.failure,
        })
    }
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let started = Instant::now();
    let (folder, keep) = new_folder(matches.get_one::<PathBuf>("folder"))?;
    let form = Form::of(matches);
    let shown = |step: &Step, number: usize| match form {
        Form::Table => output::print(&step.text(number)),
        Form::Json => Ok(()),
    };
    let steps = play(&folder, keep, shown);
    if !keep {
        // Where a server was started, it has removed all of it.
        drop(fs::remove_dir_all(&folder));
    }
    let steps = steps?;
    let (held, took) = (steps.iter().filter(|step| step.has_held()).count(), started.elapsed().as_secs_f64());
    let is_whole = held == steps::STEPS.len();
    match form {
        Form::Json => output::print_json(&json!({
            "held": is_whole, "seconds": took, "steps": steps.iter().map(Step::json).collect::<Vec<_>>(),
        }))?,
        Form::Table => output::print(&format!("\n{held} of {} steps held, in {took:.0} s.\n", steps::STEPS.len()))?,
    }
    if is_whole { Ok(()) } else { Err(Failure::failed("a step did not hold")) }
}

/// Plays one step after the other, up to the first that does not hold.
fn play(folder: &Path, keep: bool, shown: impl Fn(&Step, usize) -> Result<(), Failure>) -> Result<Vec<Step>, Failure> {
    let mut stage = Stage::new(folder, keep)?;
    let mut steps = Vec::new();
    for (title, act) in steps::STEPS {
        let started = Instant::now();
        stage.step = Step { title, ..Step::default() };
        let ended = act(&mut stage);
        let mut step = std::mem::take(&mut stage.step);
        step.failure = ended.err().map(|failure| failure.to_string());
        step.took = started.elapsed();
        steps.push(step);
        let last = &steps[steps.len() - 1];
        shown(last, steps.len())?;
        if !last.has_held() {
            break;
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_holds_where_all_that_was_looked_at_is_so() {
        let look = |is_so: bool| ("version 2 answers".to_owned(), is_so);
        let mut step = Step { title: "A step", looks: vec![look(true)], ..Step::default() };
        assert!(step.has_held());
        step.looks.push(look(false));
        assert!(!step.has_held() && step.text(3).contains("NO  version 2 answers"), "{}", step.text(3));
        let failed = Step { failure: Some("no answer".into()), ..Step::default() };
        assert!(!failed.has_held() && failed.json()["failure"] == "no answer");
    }
}
