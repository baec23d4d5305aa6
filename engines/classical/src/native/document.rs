//! What lies in a model file of objects, lists and numbers, whichever way it is written?
//!
//! Lists of numbers, which is what such files are made of, become vectors; whatever is not asked for is passed over.

use tiltyard_types::json::{JsonError, Kind, Number, Reader};

use super::Refusal;

/// Objects, lists and texts that a file may have: each takes more memory here than there. A model has some twenty a tree.
const ITEMS_MAX: usize = 1 << 23;

/// What a key or a list holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    /// A number, or a boolean as 0 or 1.
    Number(f64),
    Text(String),
    Numbers(Vec<f64>),
    List(Vec<Item>),
    Object(Vec<(String, Item)>),
    Nothing,
}

impl Item {
    /// What an object has under `key`; the first where there are several.
    pub(super) fn get(&self, key: &str) -> Option<&Item> {
        match self {
            Item::Object(fields) => fields.iter().find(|(name, _)| name == key).map(|(_, item)| item),
            _ => None,
        }
    }

    /// As [`get`](Self::get), and so on below it.
    pub(super) fn at(&self, keys: &[&str]) -> Option<&Item> {
        keys.iter().try_fold(self, |item, key| item.get(key))
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Item::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list that is not of numbers; nothing where it is empty.
    pub(super) fn items(&self) -> Option<&[Item]> {
        match self {
            Item::List(items) => Some(items),
            Item::Numbers(numbers) if numbers.is_empty() => Some(&[]),
            _ => None,
        }
    }

    pub(super) fn numbers(&self) -> Option<&[f64]> {
        match self {
            Item::Numbers(numbers) => Some(numbers),
            _ => None,
        }
    }
}

/// A list that is of numbers until something else comes.
#[derive(Default)]
pub(super) struct Gathered {
    numbers: Vec<f64>,
    items: Vec<Item>,
}

impl Gathered {
    pub(super) fn push(&mut self, item: Item) {
        match item {
            Item::Number(number) if self.items.is_empty() => self.numbers.push(number),
            item => {
                self.items.extend(self.numbers.drain(..).map(Item::Number));
                self.items.push(item);
            }
        }
    }

    pub(super) fn into_item(self) -> Item {
        if self.items.is_empty() { Item::Numbers(self.numbers) } else { Item::List(self.items) }
    }
}

/// How many items may yet come.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn new() -> Budget {
        Budget(ITEMS_MAX)
    }

    pub(super) fn spend(&mut self) -> Result<(), Refusal> {
        let left = self.0.checked_sub(1);
        self.0 = left.ok_or_else(|| Refusal::Bad(format!("more than {ITEMS_MAX} objects, lists and texts")))?;
        Ok(())
    }
}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Refusal {
        Refusal::Bad(format!("not JSON: {error}"))
    }
}

/// Reads a text of JSON without what lies under the keys `skipped`, wherever those are. The depth is bounded by the reader.
pub(super) fn of_json(text: &[u8], skipped: &[&str]) -> Result<Item, Refusal> {
    let mut reader = Reader::new(text);
    let item = item(&mut reader, skipped, &mut Budget::new())?;
    reader.finish()?;
    Ok(item)
}

fn item(reader: &mut Reader<'_>, skipped: &[&str], budget: &mut Budget) -> Result<Item, Refusal> {
    let kind = reader.peek_kind()?;
    if !matches!(kind, Kind::Number | Kind::Bool) {
        budget.spend()?;
    }
    Ok(match kind {
        Kind::Number => Item::Number(match reader.read_number()? {
            Number::Int(number) => number as f64,
            Number::Uint(number) => number as f64,
            Number::Float(number) => number,
        }),
        Kind::Bool => Item::Number(f64::from(u8::from(reader.read_bool()?))),
        Kind::String => Item::Text(reader.read_string()?.into_owned()),
        Kind::Null => reader.read_null().map(|()| Item::Nothing)?,
        Kind::Array => {
            let mut gathered = Gathered::default();
            reader.read_array(|reader| {
                gathered.push(item(reader, skipped, budget)?);
                Ok::<(), Refusal>(())
            })?;
            gathered.into_item()
        }
        Kind::Object => {
            let mut fields = Vec::new();
            reader.read_object(|key, reader| {
                if skipped.contains(&key) {
                    reader.skip_value()?;
                } else {
                    fields.push((key.to_owned(), item(reader, skipped, budget)?));
                }
                Ok::<(), Refusal>(())
            })?;
            Item::Object(fields)
        }
    })
}
