//! Does every engine keep the small promises of the trait, whatever the model?

use std::sync::Barrier;

use bytes::Bytes;
use tiltyard_runtime::engine::{CompiledModel, Engine, EngineError};
use tiltyard_types::{DataType, Shape, Tensor};

use crate::refusals::is_refused;
use crate::subjects::{all_outputs, compile, compiled, engines, settle, subject, subjects};

/// Threads that run one model at once, and how often each does.
const THREADS: usize = 4;
const RUNS: usize = 10;

type Inputs = Vec<Option<Tensor>>;

/// Calls `check` with every engine and every model that it takes, settled, and the inputs of its golden examples.
fn for_each_model(check: impl Fn(&str, &dyn CompiledModel, &[Inputs])) {
    for engine in engines() {
        for subject in subjects() {
            if is_refused(engine.name(), &subject.name) {
                continue;
            }
            let understood = subject.understood();
            let model = compile(engine.as_ref(), &understood).unwrap();
            let signature = model.signature();
            let inputs: Vec<Inputs> =
                understood.goldens.iter().map(|golden| golden.arranged(signature).unwrap()).collect();
            settle(model.as_ref(), &inputs);
            check(&format!("{} on {}", subject.name, engine.name()), model.as_ref(), &inputs);
        }
    }
}

fn run(model: &dyn CompiledModel, inputs: &[Option<Tensor>]) -> Vec<Tensor> {
    model.open().unwrap().run(inputs, &all_outputs(model)).unwrap()
}

fn run_named(engine: &dyn Engine, name: &str, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>, EngineError> {
    let model = compiled(engine, name);
    model.open().unwrap().run(inputs, &all_outputs(model.as_ref()))
}

#[test]
fn wanted_outputs_come_alone_and_in_any_order() {
    for_each_model(|place, model, examples| {
        let all = all_outputs(model);
        let mut session = model.open().unwrap();
        for inputs in examples {
            let answer = session.run(inputs, &all).unwrap();
            let backwards: Vec<usize> = all.iter().rev().copied().collect();
            let mut reversed = session.run(inputs, &backwards).unwrap();
            reversed.reverse();
            assert!(reversed == answer, "{place}: backwards, outputs differ");
            for &position in &all {
                let alone = session.run(inputs, &[position]).unwrap();
                assert!(alone == answer[position..=position], "{place}: output {position} differs alone");
            }
        }
    });
}

#[test]
fn outputs_have_the_declared_types_and_shapes() {
    for_each_model(|place, model, examples| {
        for inputs in examples {
            for (output, spec) in run(model, inputs).iter().zip(&model.signature().outputs) {
                let shape = output.shape();
                assert!(output.dtype() == spec.dtype && spec.accepts(shape), "{place}: {spec} is {shape}");
            }
        }
    });
}

#[test]
fn an_answer_outlives_the_session_and_later_runs() {
    for_each_model(|place, model, examples| {
        let mut session = model.open().unwrap();
        let all = all_outputs(model);
        let first: Vec<Vec<Tensor>> = examples.iter().map(|inputs| session.run(inputs, &all).unwrap()).collect();
        let again: Vec<Vec<Tensor>> = examples.iter().map(|inputs| session.run(inputs, &all).unwrap()).collect();
        drop(session);
        assert!(first == again, "{place}: a second run answers differently");
    });
}

#[test]
fn concurrent_sessions_answer_as_one_alone() {
    for_each_model(|place, model, examples| {
        let alone: Vec<Vec<Tensor>> = examples.iter().map(|inputs| run(model, inputs)).collect();
        let runs = if place.starts_with("slow") { 1 } else { RUNS };
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (alone, start) = (&alone, &start);
                scope.spawn(move || {
                    let mut session = model.open().unwrap();
                    let wanted = all_outputs(model);
                    start.wait();
                    for turn in 0..runs {
                        let example = (thread + turn) % examples.len();
                        let answer = session.run(&examples[example], &wanted).unwrap();
                        assert!(answer == alone[example], "{place}: thread {thread} got another answer");
                    }
                });
            }
        });
    });
}

/// Models whose every axis after the first may be kept while there are no rows at all.
#[test]
fn no_rows_give_no_rows() {
    const ROWS_ARE_ROWS: &[&str] = &[
        "risk",
        "risk@2",
        "digits",
        "language",
        "columns",
        "two_in_two_out",
        "external_data",
        "lookup",
        "qdq_int8",
        "identity_fp32",
        "identity_int64",
        "identity_bool",
        "identity_bytes",
        "identity_fp16",
    ];
    for engine in engines() {
        for name in ROWS_ARE_ROWS.iter().filter(|name| !is_refused(engine.name(), name)) {
            let understood = subject(name).understood();
            let model = compile(engine.as_ref(), &understood).unwrap();
            let inputs = understood.goldens[0].arranged(model.signature()).unwrap();
            let none: Inputs = inputs.iter().map(|input| Some(input.as_ref()?.rows(0..0)?.aligned())).collect();
            let outputs = model.open().unwrap().run(&none, &all_outputs(model.as_ref()));
            let outputs = outputs.unwrap_or_else(|error| panic!("{name} on {}: {error}", engine.name()));
            let rows: Vec<_> = outputs.iter().map(|output| output.shape().rows()).collect();
            assert!(rows.iter().all(|rows| *rows == Some(0)), "{name} on {}: {rows:?} rows", engine.name());
        }
    }
}

#[test]
fn what_is_not_a_number_passes_through() {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 4.0, f32::MAX];
    let input = Tensor::from_slice([2, 3], &odd).unwrap();
    for engine in engines() {
        let output = run_named(engine.as_ref(), "identity_fp32", &[Some(input.clone())]).unwrap();
        assert_eq!(output[0].bytes(), input.bytes(), "{}", engine.name());
    }
}

/// A missing value must not become a plausible score: it stays NaN and spoils no other row, or the request is refused
/// by an engine that would lose it, as tract would in an activation.
#[test]
fn a_missing_value_is_never_taken_for_a_number() {
    for engine in engines() {
        for name in ["risk", "risk@2", "digits", "external_data"] {
            let place = format!("{name} on {}", engine.name());
            let understood = subject(name).understood();
            let model = compile(engine.as_ref(), &understood).unwrap();
            let first = understood.goldens[0].arranged(model.signature()).unwrap().remove(0).unwrap();
            let row = first.rows(0..1).unwrap().to_vec::<f32>().unwrap();
            let (width, shape) = (row.len(), first.shape().with_rows(3));
            let mut values = row.repeat(3);
            let mut session = model.open().unwrap();
            let mut answer = |values: &[f32]| {
                let input = Tensor::from_slice(shape.clone(), values).unwrap();
                session.run(&[Some(input)], &all_outputs(model.as_ref()))
            };
            let before = answer(&values).unwrap();
            values[width] = f32::NAN;
            match answer(&values) {
                Ok(after) => {
                    after.iter().zip(&before).for_each(|(after, before)| only_middle_is_nan(&place, after, before))
                }
                Err(EngineError::BadInput(message)) if engine.name() == "tract" => {
                    assert!(message.contains("not a number") && message.contains("operator"), "{place}: {message}");
                }
                Err(error) => panic!("{place}: {error:?}"),
            }
        }
    }
}

/// Of three rows of floats the middle one is NaN and the others are as they were. Labels are not judged: which class
/// has the highest of no scores is anybody's guess.
fn only_middle_is_nan(place: &str, after: &Tensor, before: &Tensor) {
    if after.dtype() != DataType::Fp32 {
        return;
    }
    let [after, before] = [after, before].map(|tensor| tensor.to_vec::<f32>().unwrap());
    let (third, end) = (after.len() / 3, after.len());
    assert!(after[third..2 * third].iter().all(|value| value.is_nan()), "{place}: {after:?}");
    let kept = |values: &[f32]| [&values[..third], &values[2 * third..end]].concat();
    assert_eq!(kept(&after), kept(&before), "{place}: another row changed");
}

#[test]
fn an_optional_input_may_be_given_and_left_out_in_turn() {
    let understood = subject("optional_input").understood();
    let by_name = |name: &str| {
        let found = understood.goldens.iter().find(|golden| golden.file.contains(name));
        found.unwrap_or_else(|| panic!("no golden example {name}"))
    };
    for engine in engines() {
        let model = compile(engine.as_ref(), &understood).unwrap();
        let mut session = model.open().unwrap();
        for example in ["given", "left_out", "given", "left_out", "left_out"] {
            let checked = by_name(example).check(model.signature(), session.as_mut());
            assert_eq!(checked, Ok(()), "{} on {}", example, engine.name());
        }
    }
}

#[test]
fn strings_are_bytes_whatever_is_in_them() {
    let elements = [&b"a\0b\0"[..], b"", b"\0", "Grüße 世界".as_bytes(), &[b'x'; 5000]];
    let elements: Vec<Bytes> = elements.iter().map(|element| Bytes::copy_from_slice(element)).collect();
    let input = Tensor::strings(Shape::from([1, 5]), elements).unwrap();
    for engine in engines() {
        let output = run_named(engine.as_ref(), "identity_bytes", &[Some(input.clone())]).unwrap();
        assert_eq!(output, std::slice::from_ref(&input), "{}", engine.name());
    }
}

#[test]
fn an_index_outside_its_table_is_the_clients_mistake() {
    for engine in engines() {
        let model = compiled(engine.as_ref(), "lookup");
        let mut session = model.open().unwrap();
        let mut at = |index: i64| session.run(&[Some(Tensor::from_slice([1], &[index]).unwrap())], &[0]);
        for outside in [10, 1_000_000, i64::MAX, -11, i64::MIN] {
            let result = at(outside);
            assert!(matches!(result, Err(EngineError::BadInput(_))), "{} at {outside}: {result:?}", engine.name());
        }
        let last = [at(9).unwrap(), at(-1).unwrap()].map(|outputs| outputs[0].to_vec::<f32>().unwrap());
        assert_eq!(last, [[36.0, 37.0, 38.0, 39.0]; 2], "{} answers afterwards", engine.name());
    }
}

#[test]
fn external_data_is_part_of_the_model() {
    for engine in engines() {
        let understood = subject("external_data").understood();
        assert!(!understood.file.graph.external_files.is_empty());
        let mut alone = understood.file.clone();
        alone.external.clear();
        let lost = engine.compile(&alone, &Default::default()).err();
        let named = matches!(&lost, Some(EngineError::BadModel(message)) if message.contains("weights.bin"));
        assert!(named, "{}: {lost:?}", engine.name());
    }
}
