//! Where does tract get weights from that lie in files of their own?
//!
//! From memory, where they were read into once. tract insists on a path that exists and follows it, so every weight is
//! told to lie in the one folder that is always there, and its offset alone says where: all files one after the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tract_onnx::data_resolver::ModelDataResolver;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, tensor_proto,
};
use tract_onnx::prelude::{TractError, TractResult};

/// The folder that tract is told the model lies in.
pub(crate) const FOLDER: &str = "/";

/// Files in memory, as if they were one.
pub(crate) struct Weights {
    /// By where each begins.
    files: BTreeMap<usize, Arc<[u8]>>,
    begins: BTreeMap<String, usize>,
}

impl Weights {
    pub(crate) fn new(external: &BTreeMap<String, Arc<[u8]>>) -> Weights {
        let mut weights = Weights { files: BTreeMap::new(), begins: BTreeMap::new() };
        let mut begin = 0;
        for (name, bytes) in external {
            weights.begins.insert(name.clone(), begin);
            weights.files.insert(begin, Arc::clone(bytes));
            // One more, so that no two begin at one place.
            begin += bytes.len() + 1;
        }
        weights
    }

    /// Makes every weight of the model that lies elsewhere lie here.
    pub(crate) fn move_here(&self, model: &mut ModelProto) {
        model.graph.iter_mut().for_each(|graph| self.move_graph(graph));
        model.functions.iter_mut().for_each(|function| self.move_nodes(&mut function.node));
    }

    fn move_graph(&self, graph: &mut GraphProto) {
        graph.initializer.iter_mut().for_each(|tensor| self.move_tensor(tensor));
        for sparse in &mut graph.sparse_initializer {
            sparse.values.iter_mut().chain(&mut sparse.indices).for_each(|tensor| self.move_tensor(tensor));
        }
        self.move_nodes(&mut graph.node);
    }

    fn move_nodes(&self, nodes: &mut [NodeProto]) {
        nodes.iter_mut().flat_map(|node| &mut node.attribute).for_each(|attribute| self.move_attribute(attribute));
    }

    fn move_attribute(&self, attribute: &mut AttributeProto) {
        attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(|tensor| self.move_tensor(tensor));
        for sparse in attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors) {
            sparse.values.iter_mut().chain(&mut sparse.indices).for_each(|tensor| self.move_tensor(tensor));
        }
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|graph| self.move_graph(graph));
    }

    fn move_tensor(&self, tensor: &mut TensorProto) {
        if tensor.data_location != Some(tensor_proto::DataLocation::External as i32) {
            return;
        }
        let (offset, length) = self.place(tensor).unwrap_or((usize::MAX, 1));
        let entry = |(key, value): (&str, String)| StringStringEntryProto { key: key.to_owned(), value };
        let entries = [("location", ".".to_owned()), ("offset", offset.to_string()), ("length", length.to_string())];
        tensor.external_data = entries.into_iter().map(entry).collect();
    }

    /// Where a weight begins among all files and how long it is; `None` where its own file does not have it.
    fn place(&self, tensor: &TensorProto) -> Option<(usize, usize)> {
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &*entry.value);
        let number = |key: &str| entry(key).map(str::parse::<usize>).transpose().ok();
        let begin = *self.begins.get(entry("location")?)?;
        let offset = number("offset")?.unwrap_or(0);
        let rest = self.files.get(&begin)?.len().checked_sub(offset)?;
        let length = number("length")?.unwrap_or(rest);
        (length <= rest).then_some((begin + offset, length))
    }
}

impl ModelDataResolver for Weights {
    fn read_bytes_from_path(
        &self,
        buffer: &mut Vec<u8>,
        _: &Path,
        offset: usize,
        length: Option<usize>,
    ) -> TractResult<()> {
        let (begin, bytes) =
            self.files.range(..=offset).next_back().ok_or_else(|| TractError::msg("no file holds this weight"))?;
        let from = offset - begin;
        let end = length.map_or(Some(bytes.len()), |length| from.checked_add(length));
        let part = end.and_then(|end| bytes.get(from..end));
        buffer.extend_from_slice(part.ok_or_else(|| TractError::msg("a weight ends beyond its file"))?);
        Ok(())
    }
}
