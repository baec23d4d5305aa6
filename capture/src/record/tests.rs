//! Does a record come back from its bytes, and nothing else?

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn tensors() -> impl Strategy<Value = Tensor> {
    let shape = vec(0usize..4, 0..4);
    (prop::sample::select(DataType::ALL.to_vec()), shape, any::<u64>()).prop_map(|(dtype, axes, seed)| {
        let shape = Shape::from(axes.as_slice());
        let elements = shape.elements().expect("a small shape");
        let byte = |at: usize| (seed >> (at % 57)) as u8;
        match dtype.width() {
            None => {
                let element = |at: usize| Bytes::from(vec![byte(at); at % 5]);
                Tensor::strings(shape, (0..elements).map(element).collect()).expect("as many as the shape says")
            }
            Some(width) => {
                let mask = if dtype == DataType::Bool { 1 } else { 255 };
                let bytes: Vec<u8> = (0..elements * width).map(|at| byte(at) & mask).collect();
                Tensor::fixed(dtype, shape, bytes).expect("as many as the shape says")
            }
        }
    })
}

fn values() -> impl Strategy<Value = Vec<Value<'static>>> {
    vec(("\\PC{0,9}", tensors()), 0..4).prop_map(|values| {
        let value = |(name, tensor): (String, Tensor)| Value { name: name.into(), tensor: Cow::Owned(tensor) };
        values.into_iter().map(value).collect()
    })
}

pub(crate) fn records() -> impl Strategy<Value = Record<'static>> {
    let numbers = (any::<u128>(), 0u32..5, any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let texts = (".{0,9}", ".{0,9}", ".{0,9}", vec((".{0,9}", option::of(".{0,9}")), 0..3));
    let outcome = option::of((prop::sample::select(ErrorKind::ALL.to_vec()), ".{0,20}"));
    (numbers, texts, outcome, option::of(any::<u64>()), any::<[u8; 32]>(), values(), values()).prop_map(
        |(numbers, (endpoint, model, arm, headers), outcome, key, digest, inputs, outputs)| Record {
            request: RequestId::from_bits(numbers.0),
            rows: numbers.1,
            first_row: numbers.2,
            unix_us: numbers.3,
            latency_ns: numbers.4,
            endpoint: endpoint.into(),
            model: model.into(),
            version: numbers.5,
            digest: Digest::new(digest),
            arm: arm.into(),
            key,
            layout: numbers.6,
            outcome: match outcome {
                None => Outcome::Answered,
                Some((kind, why)) => Outcome::Failed(kind, why.into()),
            },
            headers: headers.into_iter().map(|(name, value)| (name.into(), value.map(Cow::Owned))).collect(),
            inputs,
            outputs,
            subjects: if numbers.1 % 2 == 1 { vec!["ann".into(), "bob".into()] } else { vec![] },
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(record in records(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        let bytes = Bytes::from(bytes);
        let read = Record::read(&bytes);
        prop_assert_eq!(read.as_ref(), Ok(&record));
        prop_assert!(Record::read(&bytes.slice(..cut.index(bytes.len()))).is_err(), "a part was taken for the whole");
        let mut more = bytes.to_vec();
        more.push(0);
        prop_assert!(Record::read(&more.into()).is_err(), "more was taken for the whole");
    }

    /// Each form has one record, and each record one form.
    #[test]
    fn noise_is_refused_or_written_again(record in records(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let bytes = Bytes::from(bytes);
        if let Ok(read) = Record::read(&bytes) {
            let mut again = Vec::new();
            read.write(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn rows_are_parts(record in records()) {
        for row in 0..record.rows {
            let one = record.row(row);
            prop_assert_eq!((one.rows, one.first_row), (1, record.first_row.wrapping_add(row)));
            let expected: Vec<Value<'_>> = record.inputs.iter().filter_map(|value| {
                let at = row as usize;
                let tensor = match record.is_by_row(&value.tensor) {
                    true => value.tensor.rows(at..at + 1).expect("there is that row"),
                    false if row == 0 => value.tensor.as_ref().clone(),
                    false => return None,
                };
                Some(Value { tensor: Cow::Owned(tensor), ..value.clone() })
            }).collect();
            prop_assert_eq!(&one.inputs, &expected);
        }
    }
}

#[test]
fn long_texts_are_cut_between_letters() {
    let why = "é".repeat(40_000);
    let outcome = Outcome::Failed(ErrorKind::Engine, why.as_str().into());
    let mut bytes = Vec::new();
    Record { outcome, ..Record::empty() }.write(&mut bytes);
    let bytes = Bytes::from(bytes);
    let read = Record::read(&bytes).expect("a record");
    let Outcome::Failed(ErrorKind::Engine, read) = read.outcome else { panic!("another outcome: {:?}", read.outcome) };
    assert_eq!((read.len(), why.starts_with(read.as_ref())), (65_534, true));
}
