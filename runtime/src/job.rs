//! What waits in a queue, and how is it answered exactly once?

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tiltyard_types::live::{Kind, Live};
use tiltyard_types::{Error, ErrorKind, Moment, Result, Tensor};
use tokio::sync::oneshot;

use crate::batch::Layout;
use crate::join::Join;
use crate::queue::Waiting;
use crate::stats::{RunTimes, Used};

/// A checked request on its way to an engine.
#[derive(Debug)]
pub struct Job {
    /// The inputs in the signature's order; `None` for an optional one that was left out.
    pub inputs: Vec<Option<Tensor>>,
    /// Positions of the outputs to compute, in the order asked.
    pub wanted: Vec<usize>,
    /// Rows on the batch axis; 1 where there is none.
    pub rows: usize,
    /// Rows at the start of the inputs that were cut off already and are another job's.
    pub rows_gone: usize,
    /// How it may share a run with others; `None` where it may not.
    pub layout: Option<Arc<Layout>>,
    /// How long its inputs are on the padded axis; `None` where there is none, or they disagree.
    pub length: Option<usize>,
    /// What its client asks of the queue.
    pub demand: Demand,
    /// When it was put into the queue.
    pub enqueued: Moment,
    /// Where the answer goes.
    pub reply: Reply,
    /// Given back when the job is gone.
    pub held: Held,
}

/// What a request asks of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// When its client stops waiting.
    pub deadline: Option<Moment>,
    /// How urgent it is: 1 is the most, 0 leaves it to the model.
    pub priority: u32,
    /// Bytes that it holds in memory while it waits.
    pub bytes: usize,
    /// By what those that share its run shall know it.
    pub mark: Option<Mark>,
}

/// A request that is followed by others' tools: the trace it belongs to, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The trace.
    pub trace: u128,
    /// The span in it.
    pub span: u64,
}

impl Job {
    /// Lets go of rows that were cut off. Apart from cutting, so that the rest of a large request is not copied for
    /// each part.
    pub(crate) fn trim(&mut self) {
        if self.rows_gone > 0 {
            self.inputs = self.slice(self.rows_gone..self.rows_gone + self.rows);
            self.rows_gone = 0;
        }
    }

    /// Bytes that its inputs take in a run, those of text with what points to it.
    pub(crate) fn size(&self) -> usize {
        let texts = |tensor: &Tensor| tensor.as_strings().map_or(0, std::mem::size_of_val);
        self.inputs.iter().flatten().map(|tensor| tensor.size() + texts(tensor)).sum()
    }

    fn slice(&self, rows: Range<usize>) -> Vec<Option<Tensor>> {
        let kept = |position: usize, tensor: &Tensor| match &self.layout {
            Some(layout) if layout.has_rows(position) => tensor.rows(rows.clone()),
            _ => Some(tensor.clone()),
        };
        self.inputs.iter().enumerate().map(|(position, input)| kept(position, input.as_ref()?)).collect()
    }
}

/// Something that lives as long as a job, such as its room in the server's bounds.
pub type Held = Box<dyn Holdable>;

/// What can be held; it only needs to be dropped.
pub trait Holdable: Send {}

impl<T: Send> Holdable for T {}

impl std::fmt::Debug for dyn Holdable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("held")
    }
}

/// What a job is answered when it went well.
#[derive(Debug)]
pub struct Answer {
    /// The outputs asked for, in that order.
    pub outputs: Vec<Tensor>,
    /// Rows that they answer.
    pub rows: usize,
    /// When it was put into the queue.
    pub enqueued: Moment,
    /// Time between enqueue and take.
    pub queue: Duration,
    /// The times of the run it was in.
    pub times: RunTimes,
    /// Its part of what that run took, by its rows.
    pub used: Used,
    /// Rows in that run.
    pub batch_rows: usize,
    /// Which run of the process that was, from 1; of several, the first.
    pub run: u64,
    /// All marked requests in that run, where there was more than one.
    pub mates: Option<Arc<[Mark]>>,
}

/// The right to answer one job, once. Dropping it answers too: with an error, so that no client waits for ever.
#[derive(Debug)]
pub struct Reply {
    to: To,
    _live: Live,
}

#[derive(Debug)]
enum To {
    /// It is answered already.
    Nobody,
    /// The client's request is this job.
    Client(oneshot::Sender<Result<Answer>>),
    /// The client's request is several jobs, of which this one has the rows from this one on.
    Part(Arc<Join>, usize),
}

/// Where the answer to one job arrives.
pub type Pending = oneshot::Receiver<Result<Answer>>;

impl Reply {
    /// A reply and where it arrives.
    pub fn new() -> (Reply, Pending) {
        let (sender, receiver) = oneshot::channel();
        (Reply::to(To::Client(sender)), receiver)
    }

    fn to(to: To) -> Reply {
        Reply { to, _live: Live::new(Kind::Jobs) }
    }

    /// Answers. A client that has gone is no error.
    pub fn send(mut self, answer: Result<Answer>) {
        self.deliver(answer);
    }

    /// Whether nobody waits any more.
    pub fn is_closed(&self) -> bool {
        match &self.to {
            To::Nobody => true,
            To::Client(sender) => sender.is_closed(),
            To::Part(join, _) => join.is_closed(),
        }
    }

    /// Splits off the right to answer the first `rows` of the `rows_left` rows that this one is for. `held` goes to
    /// where the parts are joined, which lives as long as any of them.
    fn split_off(&mut self, rows: usize, rows_left: usize, held: &mut Held) -> Reply {
        let (join, from) = match std::mem::replace(&mut self.to, To::Nobody) {
            To::Nobody => return Reply::to(To::Nobody),
            To::Client(sender) => (Arc::new(Join::new(sender, rows_left, std::mem::replace(held, Box::new(())))), 0),
            To::Part(join, from) => (join, from),
        };
        self.to = To::Part(Arc::clone(&join), from + rows);
        Reply::to(To::Part(join, from))
    }

    fn deliver(&mut self, answer: Result<Answer>) {
        match std::mem::replace(&mut self.to, To::Nobody) {
            To::Nobody => {}
            To::Client(sender) => drop(sender.send(answer)),
            To::Part(join, from) => join.deliver(from, answer),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !matches!(self.to, To::Nobody) {
            self.deliver(Err(Error::new(ErrorKind::Engine, "the server dropped the request before it ran")));
        }
    }
}

impl Waiting for Job {
    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> usize {
        self.demand.bytes
    }

    fn priority(&self) -> u32 {
        self.demand.priority
    }

    fn deadline(&self) -> Option<Moment> {
        self.demand.deadline
    }

    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    fn joins(&self, other: &Job) -> bool {
        let padded = self.length.is_some() && other.length.is_some();
        match (&self.layout, &other.layout) {
            (Some(layout), Some(_)) => layout.joins(&self.inputs, &other.inputs, padded),
            _ => false,
        }
    }

    fn length(&self) -> usize {
        self.length.unwrap_or(0)
    }

    fn can_cut(&self) -> bool {
        self.layout.is_some()
    }

    fn cut(&mut self, rows: usize) -> Job {
        let part = Job {
            inputs: self.slice(self.rows_gone..self.rows_gone + rows),
            wanted: self.wanted.clone(),
            rows,
            rows_gone: 0,
            layout: self.layout.clone(),
            length: self.length,
            // The bytes stay on the books until the last part has left.
            demand: Demand { bytes: 0, ..self.demand },
            enqueued: self.enqueued,
            reply: self.reply.split_off(rows, self.rows, &mut self.held),
            held: Box::new(()),
        };
        self.rows_gone += rows;
        self.rows -= rows;
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_reply_still_answers() {
        let (reply, mut pending) = Reply::new();
        assert!(!reply.is_closed());
        drop(reply);
        assert_eq!(pending.try_recv().unwrap().unwrap_err().kind(), ErrorKind::Engine);
        let (reply, pending) = Reply::new();
        drop(pending);
        assert!(reply.is_closed());
    }
}
