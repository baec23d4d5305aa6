//! How are values compared, and one of two chosen?

use bytes::Bytes;
use tiltyard_runtime::engine::EngineError;

use super::arithmetic::{Places, meet, pairs, same_type};
use crate::node::{Built, Node};
use crate::value::{Item, Type};

/// `Equal`, `Less`, `LessOrEqual`, `Greater` and `GreaterOrEqual`.
pub(super) fn compare(node: &Node<'_>) -> Result<Built, EngineError> {
    fn of<T: Item>(holds: fn(&T, &T) -> bool) -> Result<Built, EngineError> {
        Built::new(&[Type::Bool], move |inputs, outputs| {
            pairs::<T, T, u8>(&inputs[0], &inputs[1], &mut outputs[0], |a, b| holds(a, b).into())
        })
    }
    if node.types.len() != 2 {
        return Err(node.bad("two inputs are expected"));
    }
    if node.opset < 7 {
        return Err(node.unsupported(format_args!("opset {}", node.opset)));
    }
    let kind = same_type(node, &[Type::F32, Type::F64, Type::I64, Type::I32, Type::Bool, Type::Text])?;
    macro_rules! ordered {
        ($operator:tt) => {
            match kind {
                Type::F32 => of::<f32>(|a, b| a $operator b),
                Type::F64 => of::<f64>(|a, b| a $operator b),
                Type::I64 => of::<i64>(|a, b| a $operator b),
                Type::I32 => of::<i32>(|a, b| a $operator b),
                _ => Err(node.unsupported(kind.dtype())),
            }
        };
    }
    match (node.wire.op_type.as_str(), kind) {
        ("Equal", Type::Bool) => of::<u8>(|a, b| a == b),
        ("Equal", Type::Text) => of::<Bytes>(|a, b| a == b),
        ("Equal", _) => ordered!(==),
        ("Less", _) => ordered!(<),
        ("LessOrEqual", _) => ordered!(<=),
        ("Greater", _) => ordered!(>),
        _ => ordered!(>=),
    }
}

/// `And`, `Or` and `Xor`.
pub(super) fn logic(node: &Node<'_>) -> Result<Built, EngineError> {
    if node.types.len() != 2 {
        return Err(node.bad("two inputs are expected"));
    }
    same_type(node, &[Type::Bool])?;
    let each: fn(&u8, &u8) -> u8 = match node.wire.op_type.as_str() {
        "And" => |a, b| a & b,
        "Or" => |a, b| a | b,
        _ => |a, b| a ^ b,
    };
    Built::new(&[Type::Bool], move |inputs, outputs| pairs::<u8, u8, u8>(&inputs[0], &inputs[1], &mut outputs[0], each))
}

/// `Not`.
pub(super) fn not(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&[Type::Bool])?;
    Built::new(&[Type::Bool], |inputs, outputs| {
        let out = outputs[0].start::<u8>(inputs[0].shape())?;
        out.extend(inputs[0].get::<u8>()?.iter().map(|x| 1 - x));
        Ok(())
    })
}

/// `IsNaN`.
pub(super) fn is_nan(node: &Node<'_>) -> Result<Built, EngineError> {
    fn of<T: Item>(is_nan: fn(&T) -> bool) -> Result<Built, EngineError> {
        Built::new(&[Type::Bool], move |inputs, outputs| {
            let out = outputs[0].start::<u8>(inputs[0].shape())?;
            out.extend(inputs[0].get::<T>()?.iter().map(|x| u8::from(is_nan(x))));
            Ok(())
        })
    }
    match node.one_of(&[Type::F32, Type::F64])? {
        Type::F32 => of::<f32>(|x| x.is_nan()),
        _ => of::<f64>(|x| x.is_nan()),
    }
}

/// `Where`.
pub(super) fn choose(node: &Node<'_>) -> Result<Built, EngineError> {
    fn of<T: Item>() -> Result<Built, EngineError> {
        Built::new(&[T::TYPE], |inputs, outputs| {
            let shape = meet(&meet(inputs[0].dims, inputs[1].dims)?, inputs[2].dims)?;
            let mut places = [0, 1, 2].map(|input| Places::new(&shape, inputs[input].dims));
            let (chosen, then, other) = (inputs[0].get::<u8>()?, inputs[1].get::<T>()?, inputs[2].get::<T>()?);
            let count = shape.elements().unwrap_or(0);
            let out = outputs[0].start::<T>(shape)?;
            let [of_chosen, of_then, of_other] = &mut places;
            out.extend((0..count).map(|_| {
                let (chosen, then, other) = (chosen[of_chosen.next()], &then[of_then.next()], &other[of_other.next()]);
                if chosen != 0 { then.clone() } else { other.clone() }
            }));
            Ok(())
        })
    }
    node.one_of(&[Type::Bool])?;
    if node.kind(1)? != node.kind(2)? {
        return Err(node.bad("it chooses between two types"));
    }
    match node.kind(1)? {
        Type::F32 => of::<f32>(),
        Type::F64 => of::<f64>(),
        Type::I64 => of::<i64>(),
        Type::I32 => of::<i32>(),
        Type::Bool => of::<u8>(),
        Type::Text => of::<Bytes>(),
    }
}
