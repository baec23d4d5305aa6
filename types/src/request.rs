//! What does a client ask, and what is it answered, whatever the protocol?

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::Tensor;

/// A tensor with the name of the input or output it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The input's or output's name.
    pub name: String,
    /// Its value.
    pub tensor: Tensor,
}

/// A parameter's value: what both protocols can carry.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer that a signed one cannot hold, or that came as one.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    Text(String),
}

/// Parameters by name.
///
/// Most have one or two: the first few stand in a list, which is made and searched faster than a tree. What comes after
/// them is in a tree, so that a client that sends thousands does not make the server compare each with all the others.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    few: SmallVec<[(String, Parameter); 1]>,
    more: Option<BTreeMap<String, Parameter>>,
}

impl Parameters {
    /// How many stand in the list.
    const FEW_MAX: usize = 8;

    /// No parameters.
    pub fn new() -> Parameters {
        Parameters::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.few.len() + self.more.as_ref().map_or(0, BTreeMap::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.few.is_empty()
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        match self.few.iter().find(|(known, _)| known == name) {
            Some((_, value)) => Some(value),
            None => self.more.as_ref()?.get(name),
        }
    }

    /// Whether there is one of this name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Adds a parameter; gives the one that had the name before.
    pub fn insert(&mut self, name: String, value: Parameter) -> Option<Parameter> {
        if let Some((_, before)) = self.few.iter_mut().find(|(known, _)| *known == name) {
            return Some(std::mem::replace(before, value));
        }
        if self.few.len() < Parameters::FEW_MAX {
            self.few.push((name, value));
            return None;
        }
        self.more.get_or_insert_default().insert(name, value)
    }
}

impl PartialEq for Parameters {
    /// In whatever order they came.
    fn eq(&self, other: &Parameters) -> bool {
        let mut all = self.few.iter().map(|(name, value)| (name, value)).chain(self.more.iter().flatten());
        self.len() == other.len() && all.all(|(name, value)| other.get(name) == Some(value))
    }
}

impl FromIterator<(String, Parameter)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Parameter)>>(parameters: I) -> Parameters {
        let mut all = Parameters::new();
        for (name, value) in parameters {
            all.insert(name, value);
        }
        all
    }
}

/// One output a client asked for.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RequestedOutput {
    /// The output's name.
    pub name: String,
    /// Such as `classification` or `binary_data`.
    pub parameters: Parameters,
}

/// A request for an inference, decoded.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct InferRequest {
    /// The name the client sent.
    pub model: String,
    /// The version it pinned, if any.
    pub version: Option<u64>,
    /// The client's id, echoed; empty for none.
    pub id: String,
    /// Request parameters.
    pub parameters: Parameters,
    /// The inputs, in the client's order.
    pub inputs: Vec<NamedTensor>,
    /// The outputs asked for; empty means all.
    pub outputs: Vec<RequestedOutput>,
}

/// The answer to an [`InferRequest`], before it is encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct InferResponse {
    /// The outputs asked for, in the order asked.
    pub outputs: Vec<NamedTensor>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parameters_are_a_map(entries in prop::collection::vec(("[a-e]{1,2}", any::<i64>()), 0..40)) {
            let (mut ours, mut map) = (Parameters::new(), BTreeMap::new());
            for (name, value) in &entries {
                let value = Parameter::Int(*value);
                prop_assert_eq!(ours.insert(name.clone(), value.clone()), map.insert(name.clone(), value));
                prop_assert_eq!((ours.len(), ours.is_empty()), (map.len(), map.is_empty()));
            }
            for name in entries.iter().map(|(name, _)| name.as_str()).chain(["a", "none"]) {
                prop_assert_eq!(ours.get(name), map.get(name));
                prop_assert_eq!(ours.contains_key(name), map.contains_key(name));
            }
            prop_assert_eq!(&ours, &map.clone().into_iter().rev().collect());
            if map.pop_first().is_some() {
                prop_assert_ne!(&ours, &map.into_iter().collect());
            }
        }
    }
}
