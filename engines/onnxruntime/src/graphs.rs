//! How does a model run as CUDA graphs, and how is it known that they answer rightly?
//!
//! A session with graphs belongs to one thread, since the library keeps graphs by thread (see [`Fixed`], which has what is
//! relied on). It runs as any other until the load has settled on batch sizes. Then each size gets its memory, is recorded,
//! and has to prove itself: with all graphs there, each must answer as plain runs did before there were any, on the batch
//! it was recorded with and on zeros, so that a graph that does not read its inputs, or that a later recording has
//! spoilt, is found. From then on there are replays only: fewer rows are filled up to the next size, and more are an error.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use tiltyard_runtime::compare::{Tolerance, compare};
use tiltyard_runtime::engine::EngineError;
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::{Buffer, Dim, Signature, Tensor, TensorSpec};

use crate::gate;
use crate::shared_run::{Fixed, HostMemory, RunError, SharedSession};

/// Batch sizes of a session, each of which keeps its memory on the device and pinned.
const GRAPHS_MAX: usize = 16;

/// Operators that decide while they run what comes next or how much of it there is, or that answer otherwise each time.
/// The library refuses the first three itself. An output must not become larger from one run with the same inputs to the
/// next: it is written to memory of a fixed size (see [`crate::shared_run::Fixed`]).
const UNSTEADY: [&str; 13] = [
    "If",
    "Loop",
    "Scan",
    "NonZero",
    "Unique",
    "Compress",
    "NonMaxSuppression",
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
];

type Inputs = Vec<Option<Tensor>>;

/// Says why a model cannot run as graphs, as far as its file tells.
pub(crate) fn check_graph(graph: &Graph) -> Result<(), EngineError> {
    let refuse = |why: String| Err(EngineError::Unsupported(format!("cuda_graphs of provider.cuda: {why}")));
    if let Some(operator) = UNSTEADY.into_iter().find(|name| graph.operators.contains(*name)) {
        return refuse(format!(
            "the model has nodes {operator}, which decide while they run; expected none, or no graphs"
        ));
    }
    let Signature { inputs, outputs } = &graph.signature;
    for spec in inputs.iter().chain(outputs) {
        if spec.dtype.width().is_none() || spec.optional {
            return refuse(format!("{spec} is text or optional; expected numbers that are always there, or no graphs"));
        }
    }
    let is_open = |dim: &Dim| matches!(dim, Dim::Dynamic(_));
    for input in inputs {
        let dims = input.dims.as_deref().unwrap_or(&[]);
        if input.dims.is_none() || dims.iter().skip(1).any(is_open) {
            return refuse(format!(
                "a graph is for one shape, and of input {input} more than the number of rows is open; expected fixed axes \
                 after the first, or no graphs"
            ));
        }
    }
    Ok(())
}

/// A session that runs as graphs, on a thread of its own.
pub(crate) struct GraphSession {
    /// There until this is dropped.
    calls: Option<Sender<Call>>,
    thread: Option<JoinHandle<Owner>>,
}

enum Call {
    Run(Inputs, Vec<usize>, SyncSender<Ended<Vec<Tensor>>>),
    Settle(Vec<Inputs>, SyncSender<Ended<()>>),
}

/// What became of a call, a panic included, which is its caller's.
type Ended<T> = std::thread::Result<Result<T, RunError>>;

impl GraphSession {
    /// Takes a session over that was made for graphs, with memory that its device reads and writes by itself.
    pub(crate) fn new(
        session: SharedSession,
        memory: HostMemory,
        signature: &Signature,
    ) -> std::io::Result<GraphSession> {
        let (sender, calls) = channel();
        let owner = Owner { graphs: Vec::new(), memory: Arc::new(memory), signature: signature.clone(), session };
        let thread = std::thread::Builder::new().name("cuda-graphs".into()).spawn(move || owner.serve(&calls))?;
        Ok(GraphSession { calls: Some(sender), thread: Some(thread) })
    }

    /// Runs the model; see [`SharedSession::run`].
    pub(crate) fn run(&self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        self.ask(|answer| Call::Run(inputs.to_vec(), wanted.to_vec(), answer))
    }

    /// Records and proves a graph for each of these batches.
    pub(crate) fn settle(&self, batches: &[Inputs]) -> Result<(), RunError> {
        self.ask(|answer| Call::Settle(batches.to_vec(), answer))
    }

    fn ask<T>(&self, call: impl FnOnce(SyncSender<Ended<T>>) -> Call) -> Result<T, RunError> {
        let (sender, answer) = sync_channel(1);
        let sent = self.calls.as_ref().is_some_and(|calls| calls.send(call(sender)).is_ok());
        let gone = || RunError::Shape("the thread of this session has ended".into());
        match sent.then(|| answer.recv()) {
            Some(Ok(ended)) => ended.unwrap_or_else(|panic| resume_unwind(panic)),
            Some(Err(_)) | None => Err(gone()),
        }
    }
}

impl Drop for GraphSession {
    /// The session is freed by whoever drops this, who holds the gate; the thread holds nothing by then.
    fn drop(&mut self) {
        self.calls = None;
        let owner = self.thread.take().map(JoinHandle::join);
        drop(owner);
    }
}

/// What the thread owns; in the order in which it is dropped.
struct Owner {
    graphs: Vec<Fixed>,
    memory: Arc<HostMemory>,
    signature: Signature,
    session: SharedSession,
}

impl Owner {
    fn serve(mut self, calls: &Receiver<Call>) -> Owner {
        // A caller that is gone needs no answer.
        for call in calls {
            match call {
                Call::Run(inputs, wanted, answer) => {
                    drop(answer.send(self.contained(|owner| owner.run(&inputs, &wanted))));
                }
                Call::Settle(batches, answer) => drop(answer.send(self.contained(|owner| owner.settle(&batches)))),
            }
        }
        self
    }

    /// Does what may panic. This thread survives that, and goes on without graphs, which a run that broke off may have left
    /// half written: plain runs answer the same.
    fn contained<T>(&mut self, call: impl FnOnce(&mut Owner) -> Result<T, RunError>) -> Ended<T> {
        let ended = catch_unwind(AssertUnwindSafe(|| call(self)));
        if ended.is_err() && !self.graphs.is_empty() {
            tracing::warn!(
                "a run panicked: its session goes on without CUDA graphs, and slower, until it is loaded anew"
            );
            let _making = gate::making();
            self.graphs.clear();
        }
        ended
    }

    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        let _running = gate::running();
        if self.graphs.is_empty() {
            return self.session.run(inputs, wanted, None);
        }
        match self.graphs.iter_mut().find(|graph| graph.takes(inputs)) {
            Some(graph) => graph.run(&self.session, inputs, wanted),
            None => {
                let shapes: Vec<String> = inputs
                    .iter()
                    .map(|input| input.as_ref().map_or("none".into(), |it| it.shape().to_string()))
                    .collect();
                let rows: Vec<String> = self.graphs.iter().map(|graph| graph.rows().to_string()).collect();
                Err(RunError::Shape(format!(
                    "no CUDA graph takes inputs of {}; expected at most the rows of one of {}",
                    shapes.join(", "),
                    rows.join(", ")
                )))
            }
        }
    }

    fn settle(&mut self, batches: &[Inputs]) -> Result<(), RunError> {
        let refuse = |why: String| Err(RunError::Shape(format!("cuda_graphs of provider.cuda: {why}")));
        if !self.graphs.is_empty() {
            return refuse("this session has its graphs already".into());
        }
        if batches.is_empty() {
            return refuse(
                "its rows may share no run, and its inputs have more than one shape; leave cuda_graphs out".into(),
            );
        }
        if batches.len() > GRAPHS_MAX {
            let count = batches.len();
            return refuse(format!("there would be {count} graphs; expected at most {GRAPHS_MAX} sizes of batches"));
        }
        let wanted: Vec<usize> = (0..self.signature.outputs.len()).collect();
        let input_rows = has_rows(&self.signature.inputs);
        let output_rows: Vec<bool> = match input_rows.contains(&true) {
            true => has_rows(&self.signature.outputs),
            false => vec![false; wanted.len()],
        };
        // All plain runs and all memory come before the first recording; see `Fixed`.
        let (mut fixed, mut proofs) = (Vec::new(), Vec::new());
        for batch in batches {
            let Some(given) = batch.iter().cloned().collect::<Option<Vec<Tensor>>>() else {
                return refuse("an input has no value to record with".into());
            };
            let (outputs, others) = (self.run(batch, &wanted)?, zeros(&given)?);
            let of_others = self.run(&others, &wanted)?;
            let number = i32::try_from(fixed.len() + 1).unwrap_or(i32::MAX);
            let graph = Fixed::new(&self.memory, (&given, &input_rows), (&outputs, &output_rows), number)?;
            let strays = outputs.iter().zip(&of_others).zip(&output_rows).position(|((output, other), &has_rows)| {
                output.shape() != other.shape() || (has_rows && output.shape().rows() != Some(graph.rows()))
            });
            if let Some(position) = strays {
                return refuse(format!(
                    "output {} has a shape of its own, which its values decide; expected one that the inputs' shapes tell",
                    self.signature.outputs[position]
                ));
            }
            fixed.push(graph);
            proofs.push([(batch.clone(), outputs), (others, of_others)]);
        }
        for (graph, [(batch, _), _]) in fixed.iter_mut().zip(&proofs) {
            let _recording = gate::recording();
            graph.run(&self.session, batch, &wanted)?;
        }
        for (graph, proof) in fixed.iter_mut().zip(&proofs) {
            for (batch, expected) in proof.iter().chain([&proof[0]]) {
                let outputs = {
                    let _running = gate::running();
                    graph.run(&self.session, batch, &wanted)?
                };
                if let Some(difference) = differ(&outputs, expected, &self.signature.outputs) {
                    return refuse(format!(
                        "with {} rows the graph answers otherwise than the model does: {difference}; leave cuda_graphs out",
                        graph.rows()
                    ));
                }
            }
        }
        fixed.sort_by_key(Fixed::rows);
        self.graphs = fixed;
        Ok(())
    }
}

/// Where outputs are not what was expected.
fn differ(outputs: &[Tensor], expected: &[Tensor], specs: &[TensorSpec]) -> Option<String> {
    outputs.iter().zip(expected).zip(specs).find_map(|((output, expected), spec)| {
        let difference = compare(output, expected, Tolerance::default()).err()?;
        Some(format!("output {:?}: {difference}", spec.name))
    })
}

/// Whether the first axis of each counts the rows of a batch.
fn has_rows(specs: &[TensorSpec]) -> Vec<bool> {
    specs.iter().map(|spec| matches!(spec.dims.as_deref(), Some([Dim::Dynamic(_), ..]))).collect()
}

/// Inputs of the same shapes that are all zeros, which every model takes that looks something up.
fn zeros(inputs: &[Tensor]) -> Result<Inputs, RunError> {
    let zero = |tensor: &Tensor| {
        let zeros = Tensor::fixed(tensor.dtype(), tensor.shape().clone(), Buffer::zeroed(tensor.size()));
        zeros.map(Some).map_err(|error| RunError::Shape(error.to_string()))
    };
    inputs.iter().map(zero).collect()
}
