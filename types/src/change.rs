//! Do the clients of one signature get on with another?
//!
//! They do where it takes all that the old one took and gives what the old one gave: a new version that does not would
//! fail the requests of clients who changed nothing.

use std::fmt;

use crate::{Dim, Signature, TensorSpec};

impl Signature {
    /// What clients of the signature `self` would stumble over if `new` took its place, one sentence each; empty where
    /// nothing is in their way. Axes that become dynamic, new outputs and new optional inputs are in nobody's way.
    pub fn breaks_with(&self, new: &Signature) -> Vec<String> {
        let mut breaks = Vec::new();
        for old in &self.inputs {
            match find(&new.inputs, old) {
                None => breaks.push(format!("input {:?} is gone", old.name)),
                Some(new) => {
                    if old.optional && !new.optional {
                        breaks.push(format!("input {:?} must be given, and could be left out", old.name));
                    }
                    breaks.extend(changed("input", old, new));
                    // What was taken must be taken.
                    breaks.extend(axes("input", old, new, |old, new| match (old, new) {
                        (_, Dim::Dynamic(_)) => true,
                        (old, new) => old == new,
                    }));
                }
            }
        }
        let added = new.inputs.iter().filter(|input| !input.optional && find(&self.inputs, input).is_none());
        breaks.extend(added.map(|input| format!("input {:?} is new and must be given", input.name)));
        for old in &self.outputs {
            match find(&new.outputs, old) {
                None => breaks.push(format!("output {:?} is gone", old.name)),
                Some(new) => {
                    breaks.extend(changed("output", old, new));
                    // An axis of any length says less than one of a known length, but is nothing else.
                    breaks.extend(axes("output", old, new, |old, new| match (old, new) {
                        (Dim::Fixed(old), Dim::Fixed(new)) => old == new,
                        _ => true,
                    }));
                }
            }
        }
        breaks
    }
}

fn find<'a>(specs: &'a [TensorSpec], wanted: &TensorSpec) -> Option<&'a TensorSpec> {
    specs.iter().find(|spec| spec.name == wanted.name)
}

fn changed(what: impl fmt::Display, old: &TensorSpec, new: &TensorSpec) -> Option<String> {
    (old.dtype != new.dtype).then(|| format!("{what} {:?} is {} and was {}", old.name, new.dtype, old.dtype))
}

/// A difference in rank, or in an axis that is not `fine`. Nothing is said of a rank that is not declared any more.
fn axes(what: &str, old: &TensorSpec, new: &TensorSpec, fine: impl Fn(&Dim, &Dim) -> bool) -> Option<String> {
    let new_dims = new.dims.as_ref()?;
    let is_fine = match &old.dims {
        Some(old) => old.len() == new_dims.len() && old.iter().zip(new_dims).all(|(old, new)| fine(old, new)),
        None => what == "output",
    };
    (!is_fine).then(|| format!("{what} {new} was {old}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataType;

    const ANY: Dim = Dim::Dynamic(None);

    fn spec(name: &str, dims: &[Dim]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: DataType::Fp32, dims: Some(dims.to_vec()), optional: false }
    }

    fn old() -> Signature {
        let optional = TensorSpec { optional: true, ..spec("bias", &[Dim::Fixed(1)]) };
        Signature {
            inputs: vec![spec("x", &[ANY, Dim::Fixed(30)]), optional],
            outputs: vec![spec("y", &[ANY, Dim::Fixed(2)])],
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Signature), expected: &[&str]) {
        let mut new = old();
        change(&mut new);
        assert_eq!(old().breaks_with(&new), expected);
    }

    #[test]
    fn what_is_in_nobodys_way() {
        check(|_| {}, &[]);
        check(|new| new.inputs[0].dims = Some(vec![Dim::Dynamic(Some("n".into())), ANY]), &[]);
        check(|new| new.inputs[0].dims = None, &[]);
        check(|new| new.inputs[0].optional = true, &[]);
        check(|new| new.inputs.push(TensorSpec { optional: true, ..spec("z", &[ANY]) }), &[]);
        check(|new| new.outputs.push(spec("z", &[ANY])), &[]);
        check(|new| new.outputs[0].dims = Some(vec![ANY, ANY]), &[]);
        check(|new| new.inputs.reverse(), &[]);
    }

    #[test]
    fn what_clients_stumble_over() {
        check(|new| drop(new.inputs.remove(1)), &["input \"bias\" is gone"]);
        check(|new| new.inputs[1].optional = false, &["input \"bias\" must be given, and could be left out"]);
        check(|new| new.inputs.push(spec("z", &[ANY])), &["input \"z\" is new and must be given"]);
        check(|new| new.inputs[0].dtype = DataType::Fp64, &["input \"x\" is FP64 and was FP32"]);
        check(|new| new.inputs[0].dims = Some(vec![ANY, Dim::Fixed(31)]), &["input x FP32[-1, 31] was x FP32[-1, 30]"]);
        check(|new| new.inputs[0].dims = Some(vec![ANY]), &["input x FP32[-1] was x FP32[-1, 30]"]);
        check(
            |new| new.inputs[0].dims = Some(vec![Dim::Fixed(8), Dim::Fixed(30)]),
            &["input x FP32[8, 30] was x FP32[-1, 30]"],
        );
        check(|new| new.outputs[0].name = "z".into(), &["output \"y\" is gone"]);
        check(|new| new.outputs[0].dtype = DataType::Int64, &["output \"y\" is INT64 and was FP32"]);
        check(|new| new.outputs[0].dims = Some(vec![ANY, Dim::Fixed(3)]), &["output y FP32[-1, 3] was y FP32[-1, 2]"]);
        check(|new| new.outputs[0].dims = Some(vec![ANY]), &["output y FP32[-1] was y FP32[-1, 2]"]);
    }
}
