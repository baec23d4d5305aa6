//! How do the parts of a large request become one answer?
//!
//! A request with more rows than a batch may hold runs in parts, perhaps at once on several sessions. It is answered
//! when the last part is there, or with the first error; the parts that still wait are then as good as cancelled.

use std::sync::PoisonError;

use tiltyard_types::live::{Kind, Live};
use tiltyard_types::{Error, ErrorKind, Result, Tensor};
use tokio::sync::oneshot;

use crate::batch;
use crate::job::{Answer, Held};
use crate::sync::{Mutex, MutexGuard};

/// What the parts of one request share.
#[derive(Debug)]
pub(crate) struct Join(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None` once the request is answered.
    sender: Option<oneshot::Sender<Result<Answer>>>,
    /// The answers so far, each with the row it begins at. There are no more than the request has rows, each of which came
    /// with data (see [`Deployment::rows`](crate::deployment::Deployment::rows)), and one for each run that they need.
    parts: Vec<(usize, Answer)>,
    /// Rows that are not answered yet. Each part counts its rows off, and the request ends with the last.
    rows_left: usize,
    /// Only dropped: what the request holds goes with the last of its parts.
    _held: Held,
    _live: Live,
}

impl Join {
    /// Joins parts that have `rows` rows together, for the client that waits behind `sender`.
    pub(crate) fn new(sender: oneshot::Sender<Result<Answer>>, rows: usize, held: Held) -> Join {
        let _live = Live::new(Kind::Split);
        Join(Mutex::new(State { sender: Some(sender), parts: Vec::new(), rows_left: rows, _held: held, _live }))
    }

    /// Takes the answer of the part that begins at row `from`.
    pub(crate) fn deliver(&self, from: usize, answer: Result<Answer>) {
        let mut state = self.lock();
        if state.sender.is_none() {
            return;
        }
        let whole = match answer {
            Ok(answer) => {
                state.rows_left = state.rows_left.saturating_sub(answer.rows);
                state.parts.push((from, answer));
                if state.rows_left > 0 {
                    return;
                }
                let mut parts = std::mem::take(&mut state.parts);
                parts.sort_by_key(|(from, _)| *from);
                joined(parts.into_iter().map(|(_, answer)| answer).collect())
            }
            Err(error) => {
                state.parts.clear();
                Err(error)
            }
        };
        if let Some(sender) = state.sender.take() {
            drop(sender.send(whole));
        }
    }

    /// Whether nobody waits any more: the client has gone, or a part has failed.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Held for a few instructions, and while the last part's answer is put together.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the parts' outputs under one another: the one copy that a split request costs. It waited as long as its first
/// part and ran as long as all of them together.
fn joined(parts: Vec<Answer>) -> Result<Answer> {
    let mut columns: Vec<Vec<Tensor>> = Vec::new();
    let mut whole: Option<Answer> = None;
    for mut part in parts {
        columns.resize_with(part.outputs.len().max(columns.len()), Vec::new);
        for (column, output) in columns.iter_mut().zip(part.outputs.drain(..)) {
            column.push(output);
        }
        whole = Some(match whole {
            None => part,
            Some(mut whole) => {
                whole.rows += part.rows;
                whole.times.assemble += part.times.assemble;
                whole.times.run += part.times.run;
                whole.times.split += part.times.split;
                whole.used.add(part.used);
                whole.batch_rows = whole.batch_rows.max(part.batch_rows);
                whole.queue = whole.queue.min(part.queue);
                whole
            }
        });
    }
    let outputs = columns.iter().map(|column| batch::stack(&column.iter().collect::<Vec<_>>()));
    let outputs = outputs.collect::<Option<Vec<Tensor>>>();
    match (whole, outputs) {
        (Some(whole), Some(outputs)) => Ok(Answer { outputs, ..whole }),
        _ => Err(Error::new(ErrorKind::Engine, "the answers to the parts of the request do not fit together")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stats::{RunTimes, Used};
    use tiltyard_types::Moment;

    fn part(values: &[f32]) -> Answer {
        let outputs = vec![Tensor::from_slice([values.len()], values).unwrap()];
        let times = RunTimes { run: Duration::from_millis(2), ..RunTimes::default() };
        let used = Used { cpu: Duration::from_millis(1), ..Used::default() };
        let (rows, enqueued, queue) = (values.len(), Moment::default(), Duration::from_millis(1));
        Answer { outputs, rows, enqueued, queue, times, used, batch_rows: rows, run: 1, mates: None }
    }

    #[test]
    fn parts_are_put_in_order_whenever_they_come() {
        let (sender, mut receiver) = oneshot::channel();
        let join = Join::new(sender, 5, Box::new(()));
        join.deliver(3, Ok(part(&[3., 4.])));
        assert!(receiver.try_recv().is_err());
        join.deliver(0, Ok(part(&[0., 1., 2.])));
        let answer = receiver.try_recv().unwrap().unwrap();
        assert_eq!(answer.outputs[0].to_vec::<f32>().unwrap(), [0., 1., 2., 3., 4.]);
        assert_eq!((answer.rows, answer.batch_rows, answer.times.run), (5, 3, Duration::from_millis(4)));
        assert_eq!(answer.used.cpu, Duration::from_millis(2));
    }

    #[test]
    fn one_failed_part_fails_the_request_once() {
        let (sender, mut receiver) = oneshot::channel();
        let join = Join::new(sender, 5, Box::new(()));
        join.deliver(0, Ok(part(&[0., 1., 2.])));
        assert!(!join.is_closed());
        join.deliver(3, Err(Error::new(ErrorKind::Engine, "as ordered")));
        assert!(join.is_closed());
        join.deliver(4, Ok(part(&[4.])));
        assert_eq!(receiver.try_recv().unwrap().unwrap_err().message(), "as ordered");
    }

    #[test]
    fn a_client_that_has_gone_closes_all_parts() {
        let (sender, receiver) = oneshot::channel();
        let join = Join::new(sender, 5, Box::new(()));
        drop(receiver);
        assert!(join.is_closed());
    }
}
