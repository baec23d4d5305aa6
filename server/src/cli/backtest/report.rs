//! What is told of a backtest, to people and to programs?

use std::fmt::Write as _;

use serde_json::{Value, json};
use tiltyard_rollout::plan::Plan;

use super::columns::listed;
use super::contender::Contender;
use super::history::Fault;
use super::options::Options;
use super::weigh::{Scale, Verdict, Weighed};
use crate::cli::output::{NOTHING, Table};

/// Rows of the history by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) read: u64,
    pub(super) unreadable: u64,
    pub(super) young: u64,
    pub(super) without_label: u64,
    /// Not the first of their key.
    pub(super) repeated: u64,
    /// Of keys beyond the sample that is kept of very many.
    pub(super) out_of_sample: u64,
    /// What counts.
    pub(super) counted: u64,
}

/// Everything that is told.
pub(super) struct Report<'a> {
    pub(super) options: &'a Options,
    pub(super) history: &'a str,
    /// What the place of a row is called: a line, or a row.
    pub(super) place: &'a str,
    pub(super) contenders: &'a [Contender; 2],
    pub(super) plan: &'a Plan,
    pub(super) counts: Counts,
    pub(super) weighed: &'a Weighed,
    /// The first rows that could not be read.
    pub(super) faults: &'a [Fault],
    pub(super) unused: &'a [String],
    pub(super) notes: &'a [String],
}

impl Report<'_> {
    /// For programs.
    pub(super) fn form(&self) -> Value {
        let Report { options, counts, weighed, .. } = self;
        let worse = weighed.worse_slices();
        let slices: Vec<Value> = self
            .slices()
            .map(|(column, value, scale)| {
                let mut form = self.scale_form(scale);
                form["column"] = json!(column);
                form["value"] = json!(value);
                form["is_worse"] = json!(worse.contains(&(column, value)));
                form
            })
            .collect();
        let versions = self.contenders.each_ref().map(|contender| {
            let Contender { name, deployment, prediction, .. } = contender;
            json!({
                "name": name,
                "digest": deployment.identity.digest.to_string(),
                "artifact": deployment.identity.artifact.to_string(),
                "engine": deployment.identity.engine,
                "prediction": prediction.output,
            })
        });
        let [champion, challenger] = versions;
        json!({
            "verdict": weighed.verdict(),
            "why": self.why(),
            "history": self.history,
            "champion": champion,
            "challenger": challenger,
            "label": options.label,
            "loss": options.loss.name(),
            "margin": options.margin,
            "alpha": options.alpha,
            "label_depends_on_decision": options.depends_on_decision,
            "rows": {
                "read": counts.read,
                "unreadable": counts.unreadable,
                "too_young": counts.young,
                "without_label": counts.without_label,
                "of_a_key_seen_before": counts.repeated,
                "of_a_key_out_of_sample": counts.out_of_sample,
                "counted": counts.counted,
            },
            "all": self.scale_form(&weighed.all),
            "decided_after": self.decided_after(),
            "labels_needed": self.labels_needed(),
            "slices": slices,
            "faults": self.faults.iter().map(|fault| json!({"line": fault.line, "message": fault.message})).collect::<Vec<_>>(),
            "unused_columns": self.unused,
            "notes": self.notes,
            "plan_digest": self.plan.digest().to_string(),
        })
    }

    fn scale_form(&self, scale: &Scale) -> Value {
        let mut form = json!({
            "n": scale.n,
            "differ": scale.differ,
            "mean_distance": scale.mean_distance(),
            "no_answer": scale.no_answer,
        });
        if scale.refusal().is_some() {
            return form;
        }
        let [better, worse] = scale.ln_e();
        form["loss"] = json!(scale.mean_losses());
        form["whole_losses"] = json!(scale.whole);
        form["gain"] = json!(scale.gain());
        form["interval"] = json!(scale.interval());
        form["ln_e_better"] = json!(better);
        form["ln_e_worse"] = json!(worse);
        form["ln_e_needed"] = json!(-self.options.alpha.ln());
        if self.options.loss.is_binary() {
            form["accuracy"] = json!(scale.mean_losses().map(|loss| 1.0 - loss));
            form["discordant"] = json!(scale.discordant());
        }
        form
    }

    fn slices(&self) -> impl Iterator<Item = (&str, &str, &Scale)> {
        let each = self.weighed.slices.iter();
        each.flat_map(|(column, scales)| scales.iter().map(|(value, scale)| (column.as_str(), value.as_str(), scale)))
    }

    /// After how many labels a shadow would have shown the same.
    fn decided_after(&self) -> Option<u64> {
        let (verdict, after) = self.weighed.all.decided?;
        (verdict == self.weighed.all.verdict()).then_some(after)
    }

    fn labels_needed(&self) -> Option<u64> {
        (self.weighed.verdict() == Verdict::NotEnough).then(|| self.weighed.all.labels_needed())?
    }

    /// For people.
    pub(super) fn listing(&self) -> String {
        let mut listing = self.head() + "\n" + &self.rows() + "\n" + &self.figures();
        if self.slices().next().is_some() {
            listing += "\n";
            listing += &self.slice_table();
        }
        let mut notes: Vec<String> = self.notes.to_vec();
        if !self.unused.is_empty() {
            notes.push(format!("columns that were not used: {}", listed(self.unused)));
        }
        for Fault { line, message } in self.faults {
            notes.push(format!("{} {line} was left out: {message}", self.place));
        }
        if !notes.is_empty() {
            listing += "\nGood to know:\n";
            listing.extend(notes.iter().map(|note| format!("  {note}\n")));
        }
        let word = match self.weighed.verdict() {
            Verdict::Promote => "PROMOTE",
            Verdict::Worse => "WORSE",
            Verdict::NotEnough => "NOT ENOUGH",
            Verdict::Halted => "HALTED",
            Verdict::Refused => "NO VERDICT",
        };
        write!(listing, "\n{word}: {}\n", self.why()).ok();
        listing
    }

    fn head(&self) -> String {
        let [champion, challenger] = self.contenders.each_ref().map(|contender| {
            format!("{} ({}, {})", contender.name, contender.prediction.output, contender.deployment.identity.engine)
        });
        format!("{challenger} against {champion} on {}, label {}\n", self.history, self.options.label)
    }

    fn rows(&self) -> String {
        let counts = self.counts;
        let mut table = Table::new(["rows", ""]);
        table.add(["read".to_owned(), counts.read.to_string()]);
        let left_out = [
            ("  unreadable", counts.unreadable),
            ("  too young", counts.young),
            ("  without a label", counts.without_label),
            ("  of a key seen before", counts.repeated),
            ("  of a key out of the sample", counts.out_of_sample),
        ];
        for (what, count) in left_out.into_iter().filter(|(_, count)| *count > 0) {
            table.add([what.to_owned(), count.to_string()]);
        }
        table.add(["counted".to_owned(), counts.counted.to_string()]);
        table.to_string()
    }

    fn figures(&self) -> String {
        let (scale, is_binary) = (&self.weighed.all, self.options.loss.is_binary());
        let [champion, challenger] = self.contenders.each_ref().map(|contender| contender.name.clone());
        let mut table = Table::new(["", "champion", "challenger"]);
        let mut pair = |what: &str, [a, b]: [String; 2]| table.add([what.to_owned(), a, b]);
        pair("version", [champion, challenger]);
        if scale.refusal().is_none() {
            match is_binary {
                true => {
                    pair("accuracy", scale.mean_losses().map(|loss| share(1.0 - loss)));
                    pair("right alone", scale.discordant().map(|count| count.to_string()));
                }
                false => {
                    pair(
                        &format!("mean {} loss", self.options.loss.name()),
                        scale.mean_losses().map(|loss| format!("{loss:.6}")),
                    );
                    pair("losses of 1, cut off", scale.whole.map(|count| count.to_string()));
                }
            }
        }
        if scale.no_answer != [0; 2] {
            pair("no number", scale.no_answer.map(|count| count.to_string()));
        }
        let mut figures = table.to_string();
        let n = scale.n.max(1) as f64;
        let agreement = share(1.0 - scale.differ as f64 / n);
        write!(figures, "They say the same of {agreement} of the rows and differ on {}.", scale.differ).ok();
        if !is_binary {
            write!(figures, " On average they are {:.6} of the scale apart.", scale.mean_distance()).ok();
        }
        figures.push('\n');
        if let (None, Some(interval)) = (scale.refusal(), scale.interval()) {
            let [better, worse] = scale.ln_e();
            let (lower, upper, sure) = (interval.lower, interval.upper, share(1.0 - self.options.alpha));
            writeln!(
                figures,
                "Gain {:+.6}, from {lower:+.6} to {upper:+.6}; each bound holds with {sure}.",
                scale.gain()
            )
            .ok();
            let needed = number(-self.options.alpha.ln());
            writeln!(figures, "Evidence: {} for, {} against it; {needed} is needed.", number(better), number(worse))
                .ok();
        }
        figures
    }

    fn slice_table(&self) -> String {
        let worse = self.weighed.worse_slices();
        let is_refused = self.weighed.all.refusal().is_some();
        let mut table = Table::new(["slice", "rows", "agreement", "gain", "from", "to", "evidence against", ""]);
        for (column, value, scale) in self.slices() {
            let value = if value.is_empty() { "(none)" } else { value };
            let agreement = share(1.0 - scale.differ as f64 / scale.n.max(1) as f64);
            let mut cells = vec![format!("{column}={value}"), scale.n.to_string(), agreement];
            match scale.interval().filter(|_| !is_refused) {
                Some(interval) => cells.extend([
                    format!("{:+.6}", scale.gain()),
                    format!("{:+.6}", interval.lower),
                    format!("{:+.6}", interval.upper),
                    number(scale.ln_e()[1]),
                ]),
                None => cells.extend(vec![NOTHING.to_owned(); 4]),
            }
            cells.push(if worse.contains(&(column, value)) { "WORSE".to_owned() } else { String::new() });
            table.add(cells);
        }
        table.to_string()
    }

    /// The verdict's reason, in a sentence.
    fn why(&self) -> String {
        let [champion, challenger] = self.contenders.each_ref().map(|contender| contender.name.as_str());
        let after = match self.decided_after() {
            Some(after) => format!(" A shadow would have shown it after {after} labels."),
            None => String::new(),
        };
        match self.weighed.verdict() {
            Verdict::Promote => match self.options.margin {
                Some(margin) => format!("{challenger} is not worse than {champion} by more than {margin}.{after}"),
                None => format!("{challenger} is better than {champion}.{after}"),
            },
            Verdict::Worse => match self.options.margin {
                Some(margin) => format!("{challenger} is worse than {champion} by more than {margin}.{after}"),
                None => format!("{challenger} is worse than {champion}.{after}"),
            },
            Verdict::NotEnough => self.why_not_enough(),
            Verdict::Halted => {
                let slices: Vec<String> =
                    self.weighed.worse_slices().iter().map(|(column, value)| format!("{column}={value}")).collect();
                format!(
                    "{challenger} would be promoted by all rows together, but it is worse where {}: a person decides.",
                    slices.join(", ")
                )
            }
            Verdict::Refused => self.weighed.all.refusal().unwrap_or_default().to_owned(),
        }
    }

    fn why_not_enough(&self) -> String {
        let n = self.weighed.all.n;
        if n == 0 {
            return "no row counts.".to_owned();
        }
        let margin = self.options.margin.unwrap_or(0.0);
        let side = match (self.weighed.all.gain() + margin > 0.0, margin > 0.0) {
            (true, false) => "better".to_owned(),
            (false, false) => "worse".to_owned(),
            (true, true) => format!("not worse by more than {margin}"),
            (false, true) => format!("worse by more than {margin}"),
        };
        let shown = match margin > 0.0 {
            false => "neither is shown to be better".to_owned(),
            true => {
                format!("it is shown neither that the challenger is worse by more than {margin} nor that it is not")
            }
        };
        match self.labels_needed() {
            None => format!("{shown}; at these rates it would take more labels than can be told."),
            Some(needed) if needed > n => format!(
                "{shown}. At these rates it takes about {needed} labels to show that the challenger is \
                 {side}: {} more.",
                needed - n
            ),
            Some(needed) => format!(
                "{shown}. At these rates half of all histories show within {needed} labels that the \
                 challenger is {side}; this one of {n} does not yet."
            ),
        }
    }
}

fn share(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// e to the `ln_e`, as far as people read it.
fn number(ln_e: f64) -> String {
    match ln_e {
        ln_e if ln_e > 20.0 => format!("1e{:.0}", (ln_e / std::f64::consts::LN_10).floor()),
        ln_e if ln_e < -4.6 => "0.00".to_owned(),
        ln_e => format!("{:.2}", ln_e.exp()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_as_people_read_them() {
        assert_eq!([number(0.0), number(100f64.ln()), number(-9.0), number(115.2)], ["1.00", "100.00", "0.00", "1e50"]);
        assert_eq!([share(1.0), share(0.987_65)], ["100.00 %", "98.77 %"]);
    }
}
