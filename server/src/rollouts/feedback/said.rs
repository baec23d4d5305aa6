//! What does somebody say of a row, and what is it worth beside what was answered?

use std::hash::{DefaultHasher, Hash, Hasher};

use tiltyard_rollout::cohort::is_paired;
use tiltyard_rollout::plan::{Gain, Primary};
use tiltyard_types::{Error, Result};

/// A class or a number, of an answer or of a label. A class may be known by a number and by a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    number: Option<f64>,
    /// A hash of the text.
    name: Option<u64>,
}

impl Mark {
    /// A number, or the class of this number.
    pub fn number(number: f64) -> Mark {
        Mark { number: Some(number), name: None }
    }

    /// A class by its name; a name that is a number is that number too.
    pub fn name(text: &str) -> Mark {
        let text = text.trim();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        Mark { number, name: Some(hasher.finish()) }
    }

    /// A class by its name, or else by its place.
    pub fn class(place: usize, name: Option<&str>) -> Mark {
        let named = name.map_or(Mark::nothing(), Mark::name);
        Mark { number: named.number.or(Some(place as f64)), ..named }
    }

    /// No answer, such as NaN for a score: it is never right.
    pub fn nothing() -> Mark {
        Mark { number: None, name: None }
    }

    /// Its number and its name, as it is written down.
    pub(in crate::rollouts) fn parts(self) -> (Option<f64>, Option<u64>) {
        (self.number, self.name)
    }

    /// The mark of such parts.
    pub(in crate::rollouts) fn of_parts(number: Option<f64>, name: Option<u64>) -> Mark {
        Mark { number, name }
    }

    /// Whether both mean the same class, or number.
    fn is(self, other: Mark) -> bool {
        let same_number = self.number.is_some() && self.number == other.number;
        same_number || (self.name.is_some() && self.name == other.name)
    }
}

/// What was answered to a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answered {
    /// By one arm.
    One(Mark),
    /// By the champion and by the challenger beside it.
    Both([Mark; 2]),
}

/// What is said of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// What was true.
    Label(Mark),
    /// The outcome itself, whatever was answered.
    Outcome(f64),
    /// What was said before holds no more.
    Withdrawn,
}

impl What {
    /// Whether both say the same: `1` and `"1"` do.
    pub fn is(self, other: What) -> bool {
        match (self, other) {
            (What::Label(label), What::Label(other)) => label.is(other),
            _ => self == other,
        }
    }
}

/// A request by one of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// The server's.
    Request(u128),
    /// A hash of the client's own.
    Key(u128),
}

/// Something that is said of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said {
    /// Whose row.
    pub name: Name,
    /// Which of its rows, from 0.
    pub row: usize,
    /// What.
    pub what: What,
    /// When it was observed, in milliseconds since 1970; when it is told, where nobody says.
    pub at_ms: Option<u64>,
}

/// How an outcome is made.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    gain: Gain,
    scale: f64,
    loss_max: f64,
    /// Whether each row has two answers, and what counts is by how much one is better.
    pub is_paired: bool,
}

impl Rule {
    /// What the plan says.
    pub fn of(primary: &Primary) -> Rule {
        let scale = primary.scale.unwrap_or(f64::INFINITY);
        Rule { gain: primary.gain, scale, loss_max: primary.loss_max(), is_paired: is_paired(primary) }
    }

    /// Fails for what nothing can be made of here.
    pub fn check(self, what: What) -> Result<()> {
        match what {
            What::Label(label) if self.gain != Gain::Accuracy && label.number.is_none() => {
                Err(Error::invalid("label: expected a number, since outcomes are computed from it here"))
            }
            What::Outcome(_) if self.is_paired => Err(Error::invalid(
                "outcome: two versions answered the row, and what was true says which of them is better: expected a label",
            )),
            _ => Ok(()),
        }
    }

    /// What a row counts as: its outcome, or where two answered it by how much less the challenger loses, −1 to 1 of what can be
    /// lost. None where what was said is withdrawn. Fails for what [`Rule::check`] refuses.
    pub fn value(self, answered: Answered, what: What) -> Result<Option<f64>> {
        self.check(what)?;
        Ok(match answered {
            Answered::One(mark) => self.outcome(mark, what),
            Answered::Both(marks) => match marks.map(|mark| self.outcome(mark, what)) {
                [Some(champion), Some(challenger)] => Some((challenger - champion) / self.loss_max),
                _ => None,
            },
        })
    }

    /// The outcome of a row as one arm answered it; none where there is none.
    pub fn outcome(self, answered: Mark, what: What) -> Option<f64> {
        let label = match what {
            What::Withdrawn => return None,
            What::Outcome(value) => return Some(value),
            What::Label(label) => label,
        };
        if self.gain == Gain::Accuracy {
            return Some(if answered.is(label) { 1.0 } else { 0.0 });
        }
        let label = label.number?;
        let error = answered.number.map_or(self.scale, |answered| (answered - label).abs().min(self.scale));
        Some(match self.gain {
            Gain::Value | Gain::Accuracy => label,
            Gain::AbsoluteError => -error,
            Gain::SquaredError => -error * error,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tiltyard_rollout::plan::{Design, Missing};

    use super::*;

    pub(in crate::rollouts::feedback) fn primary(gain: Gain) -> Primary {
        let is_error = matches!(gain, Gain::AbsoluteError | Gain::SquaredError);
        Primary {
            metric: "right".into(),
            design: Design::Split,
            gain,
            output: None,
            threshold: None,
            scale: is_error.then_some(3.0),
            label_depends_on_decision: false,
            horizon_ms: 1_000,
            missing: Missing::Exclude,
            margin: None,
            least_gain: None,
            harm: None,
            planned_units: 1_000,
        }
    }

    #[test]
    fn a_class_is_known_by_number_and_by_name() {
        let right = |answered, label| Rule::of(&primary(Gain::Accuracy)).outcome(answered, What::Label(label));
        let late = Mark::class(1, Some("late"));
        assert_eq!(right(late, Mark::name("late")), Some(1.0));
        assert_eq!(right(late, Mark::number(1.0)), Some(1.0));
        assert_eq!(right(late, Mark::name("1")), Some(1.0));
        assert_eq!(right(late, Mark::name("early")), Some(0.0));
        assert_eq!(right(Mark::name("late"), Mark::number(1.0)), Some(0.0), "it has no number");
        let said = [What::Label(Mark::number(1.0)), What::Label(Mark::name("1")), What::Outcome(1.0), What::Withdrawn];
        assert!(said[0].is(said[1]) && said[3].is(said[3]));
        assert!(!said[0].is(said[2]) && !said[2].is(said[3]) && !said[2].is(What::Outcome(2.0)));
        let ten = Mark::class(0, Some("10"));
        assert_eq!((right(ten, Mark::number(10.0)), right(ten, Mark::number(0.0))), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn errors_are_cut_and_a_gain_is_what_it_is() {
        let outcome = |gain, what| Rule::of(&primary(gain)).value(Answered::One(Mark::number(10.0)), what);
        let label = |number| What::Label(Mark::number(number));
        assert_eq!(outcome(Gain::AbsoluteError, label(8.0)).unwrap(), Some(-2.0));
        assert_eq!(outcome(Gain::SquaredError, label(12.0)).unwrap(), Some(-4.0));
        assert_eq!(outcome(Gain::SquaredError, label(1e9)).unwrap(), Some(-9.0));
        assert_eq!(outcome(Gain::Value, label(-7.5)).unwrap(), Some(-7.5));
        assert_eq!(outcome(Gain::SquaredError, What::Outcome(0.5)).unwrap(), Some(0.5));
        assert_eq!(outcome(Gain::Value, What::Withdrawn).unwrap(), None);
        let wrong = outcome(Gain::Value, What::Label(Mark::name("late"))).unwrap_err();
        assert!(wrong.message().contains("expected a number"), "{wrong}");
    }

    #[test]
    fn of_two_answers_counts_how_much_less_one_loses() {
        let value = |gain, marks: [Mark; 2], what| {
            let primary = Primary { design: Design::PairedShadow, ..primary(gain) };
            Rule::of(&primary).value(Answered::Both(marks), what)
        };
        let numbers = |a, b| [Mark::number(a), Mark::number(b)];
        let label = |number| What::Label(Mark::number(number));
        let right = |a, b| value(Gain::Accuracy, numbers(a, b), label(1.0)).unwrap();
        assert_eq!(
            [right(0.0, 1.0), right(1.0, 0.0), right(1.0, 1.0), right(2.0, 3.0)],
            [1.0, -1.0, 0.0, 0.0].map(Some)
        );
        let silent = [Mark::nothing(), Mark::number(1.0)];
        assert_eq!(value(Gain::Accuracy, silent, label(1.0)).unwrap(), Some(1.0), "no answer is never right");
        // Of a scale of 3: errors of 2 and ½, of 9 (cut) and 0, and of 3² and 1.
        assert_eq!(value(Gain::AbsoluteError, numbers(4.0, 2.5), label(2.0)).unwrap(), Some(0.5));
        assert_eq!(value(Gain::AbsoluteError, numbers(11.0, 2.0), label(2.0)).unwrap(), Some(1.0));
        assert_eq!(value(Gain::SquaredError, numbers(1.0, 5.0), label(2.0)).unwrap(), Some(-8.0 / 9.0));
        let lost = value(Gain::SquaredError, [Mark::number(2.0), Mark::nothing()], label(2.0)).unwrap();
        assert_eq!(lost, Some(-1.0), "no answer is the worst one");
        assert_eq!(value(Gain::Accuracy, silent, What::Withdrawn).unwrap(), None);
        let wrong = value(Gain::Accuracy, silent, What::Outcome(1.0)).unwrap_err();
        assert!(wrong.message().contains("expected a label"), "{wrong}");
    }
}
