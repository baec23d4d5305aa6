//! What waits in a queue, and how is it answered exactly once?

use std::time::Duration;

use tiltyard_types::{Error, ErrorKind, Moment, Result, Tensor};
use tokio::sync::oneshot;

use crate::batch::same_row;
use crate::queue::Waiting;
use crate::stats::RunTimes;

/// A checked request on its way to an engine.
#[derive(Debug)]
pub struct Job {
    /// The inputs in the signature's order; `None` for an optional one that was left out.
    pub inputs: Vec<Option<Tensor>>,
    /// Positions of the outputs to compute, in the order asked.
    pub wanted: Vec<usize>,
    /// Rows on the batch axis; 1 where there is none.
    pub rows: usize,
    /// Whether it may share a run with others.
    pub shares: bool,
    /// When its client stops waiting.
    pub deadline: Option<Moment>,
    /// When it was put into the queue.
    pub enqueued: Moment,
    /// Where the answer goes.
    pub reply: Reply,
    /// Given back when the job is gone.
    pub held: Held,
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
    /// Time between enqueue and take.
    pub queue: Duration,
    /// The times of the run it was in.
    pub times: RunTimes,
    /// Rows in that run.
    pub batch_rows: usize,
}

/// The right to answer one job, once. Dropping it answers too: with an error, so that no client waits for ever.
#[derive(Debug)]
pub struct Reply(Option<oneshot::Sender<Result<Answer>>>);

/// Where the answer to one job arrives.
pub type Pending = oneshot::Receiver<Result<Answer>>;

impl Reply {
    /// A reply and where it arrives.
    pub fn new() -> (Reply, Pending) {
        let (sender, receiver) = oneshot::channel();
        (Reply(Some(sender)), receiver)
    }

    /// Answers. A client that has gone is no error.
    pub fn send(mut self, answer: Result<Answer>) {
        self.deliver(answer);
    }

    /// Whether nobody waits any more.
    pub fn is_closed(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn deliver(&mut self, answer: Result<Answer>) {
        if let Some(sender) = self.0.take() {
            drop(sender.send(answer));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.deliver(Err(Error::new(ErrorKind::Engine, "the server dropped the request before it ran")));
    }
}

impl Waiting for Job {
    fn rows(&self) -> usize {
        self.rows
    }

    fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    fn joins(&self, other: &Job) -> bool {
        self.shares
            && other.shares
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(|pair| match pair {
                (Some(one), Some(two)) => same_row(one, two),
                (None, None) => true,
                _ => false,
            })
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
