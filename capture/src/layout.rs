//! Which columns do the rows of a deployment make?
//!
//! A layout says it of one deployment under one endpoint's rules. It is noted in the capture's folder before the first
//! record that names it, so that a later process makes the same columns of what it finds in the ring. A record that fits none
//! gets a layout of its own: nothing is left out because somebody forgot to say what it is called.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tiltyard_types::{DataType, Tensor};

use crate::record::{Record, Value};
use crate::seal::SEALED;
use crate::{Error, Result, disk};

/// How the elements of a tensor become columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Each row is one element: one column.
    One,
    /// Each row has as many elements as there are names: a column for each.
    Columns(Vec<String>),
    /// Each row has any number of elements: one column of lists.
    List,
    /// The tensor has no rows: one column of lists, in the request's first row.
    Whole,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    #[serde(with = "dtype")]
    pub dtype: DataType,
    /// How many axes it has, that of the rows among them.
    pub axes: usize,
    /// How its elements become columns.
    pub form: Form,
}

impl Field {
    /// Whether the lengths of the axes must be kept beside the elements.
    pub(crate) fn has_shape(&self) -> bool {
        matches!(self.form, Form::Whole) || self.axes > 2
    }

    /// What a tensor that is cut by row, or is not, becomes when nobody said it.
    fn found(name: &str, tensor: &Tensor, is_by_row: bool) -> Field {
        let axes = tensor.shape().len();
        let form = match tensor.shape().get(1..) {
            _ if !is_by_row => Form::Whole,
            None | Some([] | [1]) => Form::One,
            Some(_) => Form::List,
        };
        Field { name: name.to_owned(), dtype: tensor.dtype(), axes, form }
    }

    pub(crate) fn fits(&self, tensor: &Tensor, is_by_row: bool) -> bool {
        let per_row = || tensor.shape().get(1..).map(|axes| axes.iter().product::<usize>());
        self.dtype == tensor.dtype()
            && self.axes == tensor.shape().len()
            && match &self.form {
                Form::One => is_by_row && per_row() == Some(1),
                Form::Columns(names) => is_by_row && self.axes == 2 && per_row() == Some(names.len()),
                Form::List => is_by_row,
                Form::Whole => !is_by_row,
            }
    }
}

mod dtype {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use tiltyard_types::DataType;

    pub(super) fn serialize<S: Serializer>(dtype: &DataType, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(dtype.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DataType, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The inputs, outputs and headers of a deployment's records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// What is asked.
    pub inputs: Vec<Field>,
    /// What is answered.
    pub outputs: Vec<Field>,
    /// The headers that are kept.
    pub headers: Vec<String>,
    /// Rows are encrypted, and the one input is what they are in that form.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sealed: bool,
}

impl Layout {
    /// That of rows which are encrypted.
    pub(crate) fn sealed() -> Layout {
        let sealed = Field { name: SEALED.to_owned(), dtype: DataType::Bytes, axes: 1, form: Form::One };
        Layout { inputs: vec![sealed], is_sealed: true, ..Layout::default() }
    }

    /// What a record's tensors become when nobody said it.
    fn found(record: &Record<'_>) -> Layout {
        let fields = |values: &[Value<'_>]| {
            let mut fields: Vec<Field> = Vec::with_capacity(values.len());
            for value in values {
                // Requests have each name once; of a second tensor there is no telling which is which.
                if fields.iter().all(|field| field.name != value.name) {
                    fields.push(Field::found(&value.name, &value.tensor, record.is_by_row(&value.tensor)));
                }
            }
            fields
        };
        Layout {
            inputs: fields(&record.inputs),
            outputs: fields(&record.outputs),
            headers: record.headers.iter().map(|(name, _)| name.to_string()).collect(),
            is_sealed: false,
        }
    }

    /// Whether each of the record's tensors is what the layout says of its name. Those of the layout may be missing.
    fn fits(&self, record: &Record<'_>) -> bool {
        let all_fit = |values: &[Value<'_>], fields: &[Field]| {
            values.iter().all(|value| {
                let field = fields.iter().find(|field| field.name == value.name);
                field.is_some_and(|field| field.fits(&value.tensor, record.is_by_row(&value.tensor)))
            })
        };
        all_fit(&record.inputs, &self.inputs)
            && all_fit(&record.outputs, &self.outputs)
            && record.headers.iter().all(|(name, _)| self.headers.iter().any(|known| known == name))
    }

    /// The layout as it is written.
    pub(crate) fn text(&self) -> String {
        // Names and numbers alone: nothing that JSON cannot have.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The number that records name it by: the first bytes of the SHA-256 of its text.
    pub fn id(&self) -> u64 {
        let hash: [u8; 32] = Sha256::digest(self.text()).into();
        u64::from_be_bytes(*hash.first_chunk().unwrap_or(&[0; 8])).max(1)
    }
}

/// The layouts of a capture folder.
#[derive(Debug)]
pub(crate) struct Layouts {
    folder: PathBuf,
    known: RwLock<HashMap<u64, Arc<Layout>>>,
}

impl Layouts {
    /// Reads all that `folder` has.
    pub(crate) fn open(folder: PathBuf) -> Result<Layouts> {
        disk::make_folder(&folder).map_err(|error| Error::io("make the folder", &folder, error))?;
        let mut known = HashMap::new();
        let entries = std::fs::read_dir(&folder).map_err(|error| Error::io("list", &folder, error))?;
        for entry in entries {
            let path = entry.map_err(|error| Error::io("list", &folder, error))?.path();
            if path.extension().is_some_and(|end| end == "json") {
                let text = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
                // One that is damaged is as one that is missing: its records get columns of their own making.
                if let Ok(layout) = serde_json::from_slice::<Layout>(&text)
                    && path == file(&folder, layout.id())
                {
                    known.insert(layout.id(), Arc::new(layout));
                }
            }
        }
        Ok(Layouts { folder, known: RwLock::new(known) })
    }

    /// Notes a layout on the disk, once, and gives the number that records name it by.
    pub(crate) fn note(&self, layout: Layout) -> Result<u64> {
        let id = layout.id();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let std::collections::hash_map::Entry::Vacant(vacant) = known.entry(id) {
            let path = file(&self.folder, id);
            disk::write_whole(&path, layout.text().as_bytes()).map_err(|error| Error::io("write", &path, error))?;
            vacant.insert(Arc::new(layout));
        }
        Ok(id)
    }

    /// The layout that a record's columns follow.
    pub(crate) fn of(&self, record: &Record<'_>) -> Arc<Layout> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.get(&record.layout).filter(|layout| layout.fits(record)) {
            Some(layout) => layout.clone(),
            None => Arc::new(Layout::found(record)),
        }
    }
}

fn file(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:016x}.json"))
}
