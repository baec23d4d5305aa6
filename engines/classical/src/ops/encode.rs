//! How do categories become numbers, and numbers names?

use std::collections::HashMap;
use std::hash::Hash;

use bytes::Bytes;
use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::cast::whole;
use crate::node::{Built, Node, bad_shape};
use crate::value::{Data, Item, Slice, Type, Value};

/// `OneHotEncoder`: a 1 at the place of the category, zeros elsewhere.
pub(super) fn one_hot(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64, Type::I64, Type::Text])?;
    let (numbers, texts) = (node.ints("cats_int64s"), node.kept_texts("cats_strings"));
    if numbers.is_empty() == texts.is_empty() {
        return Err(node.bad("exactly one of cats_int64s and cats_strings must be there"));
    }
    if (kind == Type::Text) != numbers.is_empty() {
        return Err(node.unsupported("categories of another type than its input"));
    }
    let count = numbers.len().max(texts.len());
    // Of equal categories the last one counts.
    let numbers: HashMap<i64, usize> = numbers.iter().copied().zip(0..).collect();
    let texts: HashMap<Bytes, usize> = texts.into_iter().zip(0..).collect();
    let skips_unknown = node.int("zeros", 1) != 0;
    Built::new(&[Type::F32], move |inputs, outputs| {
        if inputs[0].dims.len() > 2 {
            return Err(bad_shape(format_args!("{} axes were given, at most 2 are expected", inputs[0].dims.len())));
        }
        let shape: Shape = inputs[0].dims.iter().copied().chain([count]).collect();
        let out = outputs[0].fill::<f32>(shape)?;
        out.fill(0.0);
        let mut mark = |element: usize, place: Option<&usize>| match place {
            Some(place) => {
                out[element * count + place] = 1.0;
                Ok(())
            }
            None if skips_unknown => Ok(()),
            None => Err(EngineError::BadInput(format!("element {element} is none of the categories"))),
        };
        match inputs[0].data {
            Slice::I64(values) => (0..).zip(values).try_for_each(|(at, x)| mark(at, numbers.get(x))),
            Slice::F32(values) => (0..).zip(values).try_for_each(|(at, &x)| mark(at, numbers.get(&whole(x.into())))),
            Slice::F64(values) => (0..).zip(values).try_for_each(|(at, &x)| mark(at, numbers.get(&whole(x)))),
            Slice::Text(values) => (0..).zip(values).try_for_each(|(at, x)| mark(at, texts.get(x))),
            _ => Ok(()),
        }
    })
}

/// A key as tables are made of: numbers that are equal are the same key.
trait Key: Item {
    type Hashed: Hash + Eq + Send + Sync + 'static;
    /// `None` where it is equal to nothing.
    fn hashed(&self, finds_nan: bool) -> Option<Self::Hashed>;
}

impl Key for i64 {
    type Hashed = i64;
    fn hashed(&self, _: bool) -> Option<i64> {
        Some(*self)
    }
}

impl Key for Bytes {
    type Hashed = Bytes;
    fn hashed(&self, _: bool) -> Option<Bytes> {
        Some(self.clone())
    }
}

impl Key for f64 {
    type Hashed = u64;
    fn hashed(&self, finds_nan: bool) -> Option<u64> {
        match *self {
            x if x.is_nan() => finds_nan.then_some(f64::NAN.to_bits()),
            // Both zeros are equal.
            x => Some((x + 0.0).to_bits()),
        }
    }
}

impl Key for f32 {
    type Hashed = u64;
    fn hashed(&self, finds_nan: bool) -> Option<u64> {
        f64::from(*self).hashed(finds_nan)
    }
}

/// Looks each element up.
fn table<K: Key, V: Item>(keys: &[K], values: Vec<V>, default: V, finds_nan: bool) -> Result<Built, EngineError> {
    let mut places: HashMap<K::Hashed, usize> = HashMap::with_capacity(keys.len());
    for (place, key) in keys.iter().enumerate() {
        if let Some(hashed) = key.hashed(finds_nan) {
            // Of equal keys the first one counts.
            places.entry(hashed).or_insert(place);
        }
    }
    Built::new(&[V::TYPE], move |inputs, outputs| {
        let out = outputs[0].start::<V>(inputs[0].shape())?;
        out.extend(inputs[0].get::<K>()?.iter().map(|key| {
            let place = key.hashed(finds_nan).and_then(|hashed| places.get(&hashed));
            place.map_or(&default, |&place| &values[place]).clone()
        }));
        Ok(())
    })
}

/// `LabelEncoder`, in all its versions.
pub(super) fn label_encoder(node: &Node<'_>) -> Result<Built, EngineError> {
    if node.opset < 2 {
        let classes = node.kept_texts("classes_strings");
        let numbers: Vec<i64> = (0..classes.len() as i64).collect();
        return both_ways(node, classes, numbers);
    }
    let keys = listed(node, ["keys_int64s", "keys_floats", "keys_strings", "keys_tensor"])?;
    let values = listed(node, ["values_int64s", "values_floats", "values_strings", "values_tensor"])?;
    let (Some(keys), Some(values)) = (keys, values) else {
        return Err(node.bad("its keys or its values are missing"));
    };
    let counts = (keys.view().shape().elements(), values.view().shape().elements());
    if counts.0 != counts.1 {
        return Err(node.bad(format_args!("{} keys and {} values", counts.0.unwrap_or(0), counts.1.unwrap_or(0))));
    }
    if keys.kind() != node.kind(0)? {
        return Err(node.unsupported(format_args!("keys of another type than its input, {}", node.kind(0)?.dtype())));
    }
    let default = node.tensor("default_tensor")?;
    match keys.data {
        Data::I64(keys) => with_values(node, &keys, values, default),
        Data::F32(keys) => with_values(node, &keys, values, default),
        Data::F64(keys) => with_values(node, &keys, values, default),
        Data::Text(keys) => with_values(node, &keys, values, default),
        _ => Err(node.unsupported("keys of this type")),
    }
}

/// The list of whichever attribute is there: integers, floats, texts or a tensor.
fn listed(node: &Node<'_>, [ints, floats, texts, tensor]: [&str; 4]) -> Result<Option<Value>, EngineError> {
    fn of<T: Item>(elements: Vec<T>) -> Option<Value> {
        Some(Value::of(Shape::from([elements.len()]), elements))
    }
    if node.has_attribute(ints) {
        Ok(of(node.ints(ints).to_vec()))
    } else if node.has_attribute(floats) {
        Ok(of(node.floats(floats).to_vec()))
    } else if node.has_attribute(texts) {
        Ok(of(node.kept_texts(texts)))
    } else {
        node.tensor(tensor)
    }
}

fn with_values<K: Key>(
    node: &Node<'_>,
    keys: &[K],
    values: Value,
    default: Option<Value>,
) -> Result<Built, EngineError> {
    // NaN is found since version 4.
    let finds_nan = node.opset >= 4;
    fn first<V: Item>(node: &Node<'_>, default: &Option<Value>, other: V) -> Result<V, EngineError> {
        let Some(default) = default else { return Ok(other) };
        let element = V::of(&default.view().data).and_then(|elements| elements.first());
        element.cloned().ok_or_else(|| node.bad("default_tensor is not of the values' type"))
    }
    match values.data {
        Data::I64(values) => {
            let default = first(node, &default, node.int("default_int64", -1))?;
            table(keys, values, default, finds_nan)
        }
        Data::F32(values) => {
            let default = first(node, &default, node.float("default_float", -0.0))?;
            table(keys, values, default, finds_nan)
        }
        Data::F64(values) => {
            let default = first(node, &default, f64::from(node.float("default_float", -0.0)))?;
            table(keys, values, default, finds_nan)
        }
        Data::Text(values) => {
            let default = first(node, &default, node.text("default_string", "_Unused"))?;
            table(keys, values, default, finds_nan)
        }
        _ => Err(node.unsupported("values of this type")),
    }
}

/// `CategoryMapper`: texts to numbers or numbers to texts, by the same list.
pub(super) fn category_mapper(node: &Node<'_>) -> Result<Built, EngineError> {
    both_ways(node, node.kept_texts("cats_strings"), node.ints("cats_int64s").to_vec())
}

fn both_ways(node: &Node<'_>, mut texts: Vec<Bytes>, mut numbers: Vec<i64>) -> Result<Built, EngineError> {
    if texts.len() != numbers.len() || texts.is_empty() {
        return Err(node.bad(format_args!("{} texts and {} numbers", texts.len(), numbers.len())));
    }
    // Of equal keys the last one counts here.
    texts.reverse();
    numbers.reverse();
    match node.one_of(&[Type::Text, Type::I64])? {
        Type::Text => table(&texts, numbers, node.int("default_int64", -1), false),
        _ => table(&numbers, texts, node.text("default_string", "_Unused"), false),
    }
}

/// `ZipMap`: the scores of all classes as rows of a matrix. Which class a column is of, the metadata tell.
pub(super) fn zip_map(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&[Type::F32])?;
    let labels = node.labels("classlabels_int64s", "classlabels_strings")?.len();
    Built::new(&[Type::F32], move |inputs, outputs| {
        let (rows, columns) = inputs[0].matrix()?;
        if columns != labels {
            return Err(bad_shape(format_args!("{columns} scores a row, and {labels} labels")));
        }
        outputs[0].fill::<f32>(Shape::from([rows, columns]))?.copy_from_slice(inputs[0].get::<f32>()?);
        Ok(())
    })
}
