//! What does a shadow get of a request, and when?
//!
//! What was decoded, shared and read only, and only once the primary answer is on its way: whoever has encoded it drops the
//! [`Sample`], which is handed on by that.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tiltyard_runtime::job::Answer;
use tiltyard_types::{NamedTensor, RequestId, Tensor, TensorData};

use super::Shadows;
use super::budget::Charge;
use super::desk::Ticket;
use super::lane::Lane;
use crate::rollouts::feedback::notes::Pairing;

/// Up to so many bytes a request's tensors are copied, since as slices they may keep alive what is many times as large: a
/// connection's buffer, a batch. Larger ones are shared.
const COPIED_MAX: usize = 64 << 10;

/// What a sample takes in memory whatever is in it.
const OVERHEAD: usize = 1_024;

/// A request that shadows shall see, once it is answered.
pub struct Sample {
    pub(super) shadows: Arc<Shadows>,
    pub(super) lanes: SmallVec<[Arc<Lane>; 2]>,
    pub(super) id: RequestId,
    /// Bytes of its body.
    pub(super) body: usize,
    pub(super) inputs: Vec<NamedTensor>,
    pub(super) answered: Option<Answered>,
    /// Who is told of the pair, where labels are waited for.
    pub(crate) pairing: Option<Pairing>,
}

/// What the champion answered.
pub(super) struct Answered {
    unix_ms: u64,
    rows: usize,
    batch_rows: usize,
    run: Duration,
    wanted: SmallVec<[usize; 2]>,
    outputs: Vec<Tensor>,
}

/// A request and the champion's answer, as all its shadows share them.
pub struct Sampled {
    /// The server's name for it.
    pub id: RequestId,
    /// When it was accepted, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Its rows.
    pub rows: usize,
    /// What it asked.
    pub inputs: Vec<NamedTensor>,
    /// What the champion answered, each output with its position in the champion's signature.
    pub outputs: Vec<(usize, Tensor)>,
    /// Nanoseconds in the engine for each row of the champion's batch.
    pub row_ns: f64,
    /// The room that it takes.
    pub charge: Charge,
    /// Who is told of the pair, where labels are waited for.
    pub pairing: Option<Pairing>,
}

impl Sample {
    /// Takes in what the champion answered: the outputs at these positions of its signature.
    pub fn answered(&mut self, answer: &Answer, wanted: &[usize], unix_ms: u64) {
        self.answered = Some(Answered {
            unix_ms,
            rows: answer.rows,
            batch_rows: answer.batch_rows,
            run: answer.times.run,
            wanted: wanted.into(),
            outputs: answer.outputs.clone(),
        });
    }

    fn hand_on(&mut self) {
        // Who was not answered by the champion is no pair.
        let Some(answered) = self.answered.take() else { return };
        let entered = self.lanes.drain(..).filter_map(|lane| {
            lane.counts().sampled();
            lane.enter().inspect_err(|why| lane.counts().dropped(*why)).ok()
        });
        let places: SmallVec<[_; 2]> = entered.collect();
        if places.is_empty() {
            return;
        }
        let (inputs, outputs): (usize, usize) =
            (self.inputs.iter().map(|input| size(&input.tensor)).sum(), answered.outputs.iter().map(size).sum());
        // A slice keeps its buffer alive: the request's body, the batch.
        let batch = answered.batch_rows.div_ceil(answered.rows.max(1)).max(1);
        let held = |bytes: usize, whole: usize| if bytes <= COPIED_MAX { bytes } else { bytes.max(whole) };
        // What the shadow answers will be about as large as what the champion did.
        let bytes =
            OVERHEAD + held(inputs, self.body) + held(outputs, outputs.saturating_mul(batch)).saturating_add(outputs);
        let charge = match self.shadows.budget.take(bytes) {
            Ok(charge) => charge,
            Err(why) => return places.iter().for_each(|place| place.0.counts().dropped(why)),
        };
        let own = |tensor: Tensor, bytes: usize| if bytes <= COPIED_MAX { copy(&tensor) } else { tensor };
        let input = |NamedTensor { name, tensor }| NamedTensor { name, tensor: own(tensor, inputs) };
        let output = |(position, tensor): (usize, Tensor)| (position, own(tensor, outputs));
        let sampled = Arc::new(Sampled {
            id: self.id,
            unix_ms: answered.unix_ms,
            rows: answered.rows,
            inputs: std::mem::take(&mut self.inputs).into_iter().map(input).collect(),
            outputs: answered.wanted.iter().copied().zip(answered.outputs).map(output).collect(),
            row_ns: answered.run.as_nanos() as f64 / answered.batch_rows.max(1) as f64,
            charge,
            pairing: self.pairing.take(),
        });
        self.shadows.hand(places.into_iter().map(|place| Ticket { place, sampled: Arc::clone(&sampled) }));
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.hand_on();
    }
}

/// Bytes of a tensor, those of text with what points to it.
fn size(tensor: &Tensor) -> usize {
    tensor.size() + tensor.as_strings().map_or(0, std::mem::size_of_val)
}

/// The same tensor in memory of its own.
fn copy(tensor: &Tensor) -> Tensor {
    let copied = match tensor.data() {
        TensorData::Fixed(bytes) => {
            Tensor::fixed(tensor.dtype(), tensor.shape().clone(), Bytes::copy_from_slice(bytes))
        }
        TensorData::Strings(texts) => {
            let mut all = BytesMut::with_capacity(texts.iter().map(Bytes::len).sum());
            texts.iter().for_each(|text| all.extend_from_slice(text));
            let mut all = all.freeze();
            let apart = texts.iter().map(|text| all.split_to(text.len())).collect();
            Tensor::strings(tensor.shape().clone(), apart)
        }
    };
    // The shape is the same, so that this cannot fail.
    copied.unwrap_or_else(|_| tensor.clone())
}

#[cfg(test)]
mod tests {
    use tiltyard_types::Shape;

    use super::*;

    #[test]
    fn copies_are_alike_and_apart() {
        let whole = Tensor::from_slice([4, 2], &[1f32, 2., 3., 4., 5., 6., 7., 8.]).unwrap();
        let row = whole.rows(1..2).unwrap();
        let copied = copy(&row);
        assert_eq!(copied, row);
        assert_ne!(copied.bytes().unwrap().as_ptr(), row.bytes().unwrap().as_ptr());
        let texts = vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static("é".as_bytes())];
        let texts = Tensor::strings(Shape::from([3]), texts).unwrap();
        assert_eq!(copy(&texts), texts);
        assert_eq!(size(&texts), 3 + 3 * size_of::<Bytes>());
    }
}
