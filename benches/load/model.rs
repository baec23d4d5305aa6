//! What does a model take and give, as far as load needs to know?

use std::str::FromStr;

use crate::random::Random;

/// The models that `benches/models/make.py` makes.
const KNOWN: &[(&str, &str, &str)] = &[
    ("mlp", "features:FP32:30", "scores:FP32:2"),
    ("gbdt", "features:FP32:30", "label:INT64:-,probabilities:FP32:2"),
    ("minilm", "input_ids:INT64:L:below30522,attention_mask:INT64:L:ones", "embedding:FP32:384"),
    ("resnet18", "image:FP32:3x224x224", "scores:FP32:1000"),
];

/// One axis behind the batch axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Axis {
    /// Always this long.
    Fixed(usize),
    /// As long as the request's text.
    Length,
}

/// What a tensor is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fill {
    /// Numbers from -1 to 1.
    Unit,
    /// Integers from 1 to below this.
    Below(u64),
    /// Ones.
    Ones,
}

/// The element types that load is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `FP32`.
    Fp32,
    /// `INT64`.
    Int64,
}

impl Kind {
    /// The name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Fp32 => "FP32",
            Kind::Int64 => "INT64",
        }
    }
}

/// An input or output: its name, and its shape without the batch axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorForm {
    /// The name on the wire.
    pub(crate) name: String,
    /// The element type.
    pub(crate) kind: Kind,
    /// The axes behind the batch axis.
    pub(crate) axes: Vec<Axis>,
    /// What an input is filled with.
    pub(crate) fill: Fill,
}

impl FromStr for TensorForm {
    type Err = String;

    /// Reads `name:FP32:3x224x224` or `name:INT64:L:below30522`; `-` stands for no axis beside the batch.
    fn from_str(text: &str) -> Result<TensorForm, String> {
        let wrong = |what: &str| format!("{text:?}: {what}: expected NAME:KIND:AXES[:FILL], such as features:FP32:30");
        let mut parts = text.split(':');
        let name = parts.next().filter(|name| !name.is_empty()).ok_or_else(|| wrong("it has no name"))?;
        let kind = match parts.next() {
            Some("FP32") => Kind::Fp32,
            Some("INT64") => Kind::Int64,
            _ => return Err(wrong("the kind must be FP32 or INT64")),
        };
        let axis = |text: &str| match text {
            "L" => Some(Axis::Length),
            number => number.parse().ok().filter(|length| *length > 0).map(Axis::Fixed),
        };
        let axes = match parts.next() {
            Some("-") => Some(Vec::new()),
            Some(axes) => axes.split('x').map(axis).collect(),
            None => None,
        };
        let fill = match (parts.next(), kind) {
            (None, Kind::Fp32) => Some(Fill::Unit),
            (None, Kind::Int64) => Some(Fill::Below(256)),
            (Some("ones"), _) => Some(Fill::Ones),
            (Some(fill), Kind::Int64) => {
                fill.strip_prefix("below").and_then(|end| end.parse().ok()).filter(|end| *end > 1).map(Fill::Below)
            }
            (Some(_), Kind::Fp32) => None,
        };
        Ok(TensorForm {
            name: name.to_owned(),
            kind,
            axes: axes.ok_or_else(|| wrong("the axes must be lengths or L, with x between them"))?,
            fill: fill.filter(|_| parts.next().is_none()).ok_or_else(|| wrong("the fill must be ones or belowN"))?,
        })
    }
}

impl TensorForm {
    /// The shape of so many rows, with texts of so many tokens.
    pub(crate) fn shape(&self, rows: usize, length: usize) -> Vec<usize> {
        let axes = self.axes.iter().map(|axis| match axis {
            Axis::Fixed(fixed) => *fixed,
            Axis::Length => length,
        });
        std::iter::once(rows).chain(axes).collect()
    }

    /// So many elements of what it is filled with.
    pub(crate) fn values(&self, count: usize, random: &mut Random) -> Values {
        match (self.kind, self.fill) {
            (Kind::Fp32, Fill::Ones) => Values::Fp32(vec![1.0; count]),
            (Kind::Fp32, _) => Values::Fp32((0..count).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect()),
            (Kind::Int64, Fill::Below(end)) => {
                Values::Int64((0..count).map(|_| 1 + random.below(end - 1) as i64).collect())
            }
            (Kind::Int64, _) => Values::Int64(vec![1; count]),
        }
    }
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    /// `FP32`.
    Fp32(Vec<f32>),
    /// `INT64`.
    Int64(Vec<i64>),
}

impl Values {
    /// Little-endian, without padding.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Values::Fp32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::Int64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// A JSON list.
    pub(crate) fn json(&self) -> String {
        let list = |numbers: Vec<String>| format!("[{}]", numbers.join(","));
        match self {
            Values::Fp32(values) => list(values.iter().map(f32::to_string).collect()),
            Values::Int64(values) => list(values.iter().map(i64::to_string).collect()),
        }
    }
}

/// A model's inputs and outputs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelForm {
    /// The inputs.
    pub(crate) inputs: Vec<TensorForm>,
    /// The outputs.
    pub(crate) outputs: Vec<TensorForm>,
}

impl ModelForm {
    /// The form of one of the benches' own models.
    pub(crate) fn known(name: &str) -> Option<ModelForm> {
        let (_, inputs, outputs) = KNOWN.iter().find(|(known, ..)| *known == name)?;
        Some(ModelForm { inputs: tensors(inputs).ok()?, outputs: tensors(outputs).ok()? })
    }
}

fn tensors(text: &str) -> Result<Vec<TensorForm>, String> {
    text.split(',').map(str::parse).collect()
}

/// A model under the name that it is asked for by, and how often, beside others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AskedModel {
    /// The name on the wire.
    pub(crate) name: String,
    /// What it takes and gives.
    pub(crate) form: ModelForm,
    /// How many of its requests come for one of a model with weight 1.
    pub(crate) weight: u32,
}

impl FromStr for AskedModel {
    type Err = String;

    /// Reads `NAME[=FORM][@WEIGHT]`, where the form is one of our models' names, or inputs with commas between them.
    fn from_str(text: &str) -> Result<AskedModel, String> {
        let (rest, weight) = match text.split_once('@') {
            None => (text, 1),
            Some((rest, weight)) => match weight.parse() {
                Ok(weight) if (1..=1000).contains(&weight) => (rest, weight),
                _ => return Err(format!("{text:?}: the weight must be an integer from 1 to 1000")),
            },
        };
        let (name, form) = rest.split_once('=').unwrap_or((rest, rest));
        let form = match (ModelForm::known(form), form.contains(':')) {
            (Some(form), _) => form,
            (None, true) => ModelForm { inputs: tensors(form)?, outputs: Vec::new() },
            (None, false) => {
                let known: Vec<&str> = KNOWN.iter().map(|(known, ..)| *known).collect();
                return Err(format!(
                    "what {form:?} takes is not known: say it as NAME=INPUT:KIND:AXES, or as NAME=MODEL with one of {}",
                    known.join(", ")
                ));
            }
        };
        Ok(AskedModel { name: name.to_owned(), form, weight })
    }
}

/// How long the texts are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lengths {
    /// The shortest, in tokens.
    pub(crate) shortest: usize,
    /// The longest, in tokens.
    pub(crate) longest: usize,
}

impl FromStr for Lengths {
    type Err = String;

    /// Reads `32` or `8-64`.
    fn from_str(text: &str) -> Result<Lengths, String> {
        let (shortest, longest) = text.split_once('-').unwrap_or((text, text));
        match (shortest.parse(), longest.parse()) {
            (Ok(shortest), Ok(longest)) if shortest > 0 && shortest <= longest => Ok(Lengths { shortest, longest }),
            _ => Err(format!("{text:?} is no length: expected one such as 32, or a range such as 8-64")),
        }
    }
}

impl Lengths {
    /// Any of them, each as likely as the others.
    pub(crate) fn draw(self, random: &mut Random) -> usize {
        self.shortest + random.below((self.longest - self.shortest + 1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_models_are_known() {
        for (name, ..) in KNOWN {
            let form = ModelForm::known(name).unwrap_or_else(|| panic!("{name} cannot be read"));
            assert!(!form.inputs.is_empty() && !form.outputs.is_empty(), "{name}");
        }
        assert_eq!(ModelForm::known("minilm").expect("it is known").inputs[0].shape(2, 9), [2, 9]);
        assert_eq!(ModelForm::known("gbdt").expect("it is known").outputs[0].shape(2, 9), [2]);
    }

    #[test]
    fn models_are_asked_for_by_any_name() {
        let model: AskedModel = "risk=features:FP32:30@3".parse().expect("it is right");
        assert_eq!((model.name.as_str(), model.weight), ("risk", 3));
        assert_eq!(model.form.inputs[0].axes, [Axis::Fixed(30)]);
        let alone: AskedModel = "gbdt_alone=gbdt".parse().expect("it is right");
        assert_eq!((alone.name.as_str(), Some(alone.form)), ("gbdt_alone", ModelForm::known("gbdt")));
        for wrong in
            ["risk", "mlp@0", "a=b:FP32", "a=b:FP64:3", "a=b:FP32:0", "a=b:FP32:3:below9", "a=b:INT64:3:ones:1"]
        {
            assert!(wrong.parse::<AskedModel>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_those_of_the_form() {
        let form: TensorForm = "ids:INT64:L:below3".parse().expect("it is right");
        let Values::Int64(values) = form.values(1000, &mut Random::new(1)) else { panic!("not integers") };
        assert!(values.iter().all(|value| (1..3).contains(value)) && values.contains(&1) && values.contains(&2));
        assert_eq!(Values::Int64(vec![1, -2]).json(), "[1,-2]");
        assert_eq!(Values::Fp32(vec![0.5]).bytes(), 0.5f32.to_le_bytes());
    }

    #[test]
    fn lengths_are_drawn_from_their_range() {
        let lengths: Lengths = "8-10".parse().expect("it is right");
        let mut random = Random::new(1);
        let drawn: Vec<usize> = (0..100).map(|_| lengths.draw(&mut random)).collect();
        assert!([8, 9, 10].iter().all(|length| drawn.contains(length)));
        assert!(drawn.iter().all(|length| (8..=10).contains(length)));
        assert!("9-8".parse::<Lengths>().is_err() && "0".parse::<Lengths>().is_err());
    }
}
