//! How does a run happen at addresses that never change, as a CUDA graph must have it?
//!
//! A graph is what the library asked of the device in one run, recorded, and asked again as one: the same kernels, with the
//! same addresses. So inputs and outputs have pinned host memory here that is never moved nor shared, and values over it
//! that are made once. The copies to the device and back belong to what is recorded: `utils::ExecuteGraph` queues them on
//! the stream that computes, between the provider's `OnRunStart`, where the recording begins, and `OnRunEnd`, where it ends,
//! and pinned memory is what such copies can be recorded for. A replay then copies in, computes and copies out; nothing in
//! the library looks at the values again.
//!
//! What ONNX Runtime's source says of recording, and what follows here:
//!
//! - `InferenceSession::Run` replays where its provider has a graph of the run option `gpu_graph_id`, and else runs until
//!   there is one: two plain runs, in which the arenas get what they need, and one that is recorded
//!   (`CUDAExecutionProvider::OnRunStart`, `min_num_runs_before_cuda_graph_capture_`). So the first run of a [`Fixed`]
//!   takes long, and [`NO_GRAPH`] is for runs that are neither.
//! - What is copied out is as much as the output has, whatever room there is (see [`super::staging`]). The room is as large as
//!   an output of the same inputs was, and a graph's outputs are of one size for ever: operators that read a size back from
//!   the device cannot be recorded, and are refused before.
//! - Graphs are kept by thread (`CUDAExecutionProvider::PerThreadContext`): one thread runs such a session for ever.
//! - Recording is in `cudaStreamCaptureModeGlobal`: whoever else allocates or copies on a GPU meanwhile breaks it, and
//!   fails too. See [`crate::gate`].
//! - Some kernels copy small tables from pinned memory that is given back after the recording, though replays read it again
//!   (`CudaStream::CleanUpOnRunEnd`). So nothing may take memory of such a session once it has a graph: all that is fixed is
//!   made before the first recording, and afterwards there are replays only. What two recordings of one session do to each
//!   other is found by [`crate::graphs`], which compares every graph's answers when all are there.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use smallvec::SmallVec;
use tiltyard_types::{Buffer, DataType, Shape, Tensor};

use super::staging::Block;
use super::{HostMemory, RunError, RunOptions, SharedSession, Values};

/// The `gpu_graph_id` of runs that are not recorded: `kCudaGraphAnnotationSkip` there.
pub(super) const NO_GRAPH: i32 = -1;

/// An input or output at its address.
struct Place {
    dtype: DataType,
    shape: Shape,
    bytes: usize,
    /// Whether its first axis counts rows, so that fewer may be given.
    has_rows: bool,
    block: Block,
}

/// Runs of one shape. It is dropped before its session.
pub(crate) struct Fixed {
    rows: usize,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    /// Over the places, and so dropped before them.
    values: (Values, Values),
    options: RunOptions,
}

// SAFETY: values are over blocks of the same owner and only used through it; options are only read after they were made.
unsafe impl Send for Fixed {}

impl Drop for Fixed {
    fn drop(&mut self) {
        self.values = (Values::default(), Values::default());
    }
}

impl Fixed {
    /// Room for runs with inputs and outputs as these, all of them and no strings, as the graph of that number. Whose
    /// first axis counts rows is said by `input_rows` and `output_rows`.
    pub(crate) fn new(
        memory: &Arc<HostMemory>,
        (inputs, input_rows): (&[Tensor], &[bool]),
        (outputs, output_rows): (&[Tensor], &[bool]),
        number: i32,
    ) -> Result<Fixed, ort::Error> {
        let place = |(tensor, &has_rows): (&Tensor, &bool)| {
            let (dtype, shape, bytes) = (tensor.dtype(), tensor.shape().clone(), tensor.size());
            Ok(Place { dtype, shape, bytes, has_rows, block: Block::new(memory, bytes)? })
        };
        let places = |tensors: &[Tensor], rows: &[bool]| -> Result<Vec<Place>, ort::Error> {
            tensors.iter().zip(rows).map(place).collect()
        };
        let mut fixed = Fixed {
            rows: 0,
            inputs: places(inputs, input_rows)?,
            outputs: places(outputs, output_rows)?,
            values: (Values::default(), Values::default()),
            options: RunOptions::of_graph(number)?,
        };
        fixed.rows = fixed.inputs.iter().find(|place| place.has_rows).and_then(|place| place.shape.rows()).unwrap_or(0);
        for (places, values) in [(&mut fixed.inputs, &mut fixed.values.0), (&mut fixed.outputs, &mut fixed.values.1)] {
            for place in places {
                values.0.push(place.block.value(place.dtype, &place.shape, place.bytes)?);
            }
        }
        Ok(fixed)
    }

    /// How many rows a run has; 0 where there are none to be counted.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether these inputs can be run here: of the same shapes, or of fewer rows.
    pub(crate) fn takes(&self, inputs: &[Option<Tensor>]) -> bool {
        let fits = |(place, tensor): (&Place, &Option<Tensor>)| {
            let Some(tensor) = tensor else { return false };
            let shape = match (place.has_rows, place.shape.rows()) {
                (true, Some(rows)) if tensor.shape().rows().is_some_and(|given| given <= rows) => {
                    tensor.shape().with_rows(rows)
                }
                _ => tensor.shape().clone(),
            };
            place.dtype == tensor.dtype() && shape == place.shape
        };
        let mut counts = self.inputs.iter().zip(inputs).filter(|(place, _)| place.has_rows);
        let first = counts.next().and_then(|(_, tensor)| tensor.as_ref()?.shape().rows());
        let agree = counts.all(|(_, tensor)| tensor.as_ref().and_then(|tensor| tensor.shape().rows()) == first);
        agree && inputs.len() == self.inputs.len() && self.inputs.iter().zip(inputs).all(fits)
    }

    /// Runs with inputs that it [takes](Fixed::takes): rows that are missing are zeros, and their outputs are cut off.
    pub(crate) fn run(
        &mut self,
        session: &SharedSession,
        inputs: &[Option<Tensor>],
        wanted: &[usize],
    ) -> Result<Vec<Tensor>, RunError> {
        session.check_count(inputs)?;
        session.names_of(wanted)?;
        for (place, tensor) in self.inputs.iter_mut().zip(inputs) {
            let given = tensor.as_ref().and_then(Tensor::bytes).map_or(&[][..], |bytes| &bytes[..]);
            let (filled, rest) = place.block.as_bytes_mut()[..place.bytes].split_at_mut(given.len());
            filled.copy_from_slice(given);
            rest.fill(0);
        }
        let rows = self.inputs.iter().zip(inputs).find(|(place, _)| place.has_rows);
        let rows = rows.and_then(|(_, tensor)| tensor.as_ref()?.shape().rows());
        let names: SmallVec<[*const c_char; 8]> = session.input_names.iter().map(|name| name.as_ptr()).collect();
        let all: SmallVec<[usize; 8]> = (0..self.outputs.len()).collect();
        // The library must not release what is kept for the next run: it is given a copy of the list.
        let mut outputs = Lent(Values(self.values.1.0.clone()));
        session.call(&self.options, &names, &self.values.0, &session.names_of(&all)?, &mut outputs.0)?;
        let cut = |&position: &usize| {
            let place = &self.outputs[position];
            let (shape, bytes) = match (place.has_rows, place.shape.rows(), rows) {
                (true, Some(full), Some(rows)) if full > 0 => (place.shape.with_rows(rows), place.bytes / full * rows),
                _ => (place.shape.clone(), place.bytes),
            };
            let buffer = Buffer::copy_of(&place.block.as_bytes()[..bytes]);
            Tensor::fixed(place.dtype, shape, buffer).map_err(|error| RunError::Shape(error.to_string()))
        };
        wanted.iter().map(cut).collect()
    }
}

/// Values that another list owns.
struct Lent(Values);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.0.iter_mut().for_each(|value| *value = ptr::null_mut());
    }
}
