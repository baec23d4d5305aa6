//! What does somebody say of a row, and what is it worth beside what was answered?

use std::hash::{DefaultHasher, Hash, Hasher};

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
        let named = name.map_or(Mark { number: None, name: None }, Mark::name);
        Mark { number: named.number.or(Some(place as f64)), ..named }
    }

    /// Whether both mean the same class, or number.
    fn is(self, other: Mark) -> bool {
        let same_number = self.number.is_some() && self.number == other.number;
        same_number || (self.name.is_some() && self.name == other.name)
    }
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
}

impl Rule {
    /// What the plan says.
    pub fn of(primary: &Primary) -> Rule {
        Rule { gain: primary.gain, scale: primary.scale.unwrap_or(f64::INFINITY) }
    }

    /// The outcome of a row; none where what was said is withdrawn. Fails for a label of the wrong kind.
    pub fn outcome(self, answered: Mark, what: What) -> Result<Option<f64>> {
        let label = match what {
            What::Withdrawn => return Ok(None),
            What::Outcome(value) => return Ok(Some(value)),
            What::Label(label) => label,
        };
        if self.gain == Gain::Accuracy {
            return Ok(Some(if answered.is(label) { 1.0 } else { 0.0 }));
        }
        let Some(label) = label.number else {
            return Err(Error::invalid("label: expected a number, since outcomes are computed from it here"));
        };
        let error = answered.number.map_or(self.scale, |answered| (answered - label).abs().min(self.scale));
        Ok(Some(match self.gain {
            Gain::Value | Gain::Accuracy => label,
            Gain::AbsoluteError => -error,
            Gain::SquaredError => -error * error,
        }))
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
            planned_units: 1_000,
        }
    }

    #[test]
    fn a_class_is_known_by_number_and_by_name() {
        let right = |answered, label| Rule::of(&primary(Gain::Accuracy)).outcome(answered, What::Label(label)).unwrap();
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
        let outcome = |gain, what| Rule::of(&primary(gain)).outcome(Mark::number(10.0), what);
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
}
