//! Does ONNX Runtime, loaded from this machine, keep the promises that the engine trait makes?
//!
//! The library is searched as the server searches it (`VIRTUAL_ENV`, `ORT_DYLIB_PATH` and so on). Without one the
//! tests fail, unless `TILTYARD_TEST_WITHOUT_ORT=1` says that it is meant to be so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;

use bytes::Bytes;
use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_onnxruntime::{LoadError, OrtEngine, Rehearsal};
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineError, ModelFile, Session};
use tiltyard_types::{DataType, Shape, Tensor};

/// The engine, or `None` where the operator wants to go without.
fn engine() -> Option<OrtEngine> {
    let search = locate(&Places::of_process(None, None));
    match search.found() {
        Some(found) => Some(OrtEngine::load(&found.path).expect("the library that was found can be loaded")),
        None if std::env::var_os("TILTYARD_TEST_WITHOUT_ORT").is_some() => None,
        None => panic!(
            "{}. These tests need it (`pip install onnxruntime` in a virtual environment will do too); \
             TILTYARD_TEST_WITHOUT_ORT=1 skips them",
            search.advice()
        ),
    }
}

/// The engine as it is, and as it would be with a device: one run at a time, through memory that the device reads.
fn ways() -> Vec<OrtEngine> {
    engine().into_iter().flat_map(|engine| [engine.rehearsing(Rehearsal::Staging), engine]).collect()
}

fn path_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"))
}

fn model(name: &str) -> ModelFile {
    model_at(path_of(name))
}

fn model_at(path: PathBuf) -> ModelFile {
    ModelFile::read(&path).unwrap()
}

fn compile(engine: &OrtEngine, name: &str) -> Box<dyn CompiledModel> {
    engine.compile(&model(name), &CompileOptions::default()).unwrap()
}

fn open(engine: &OrtEngine, name: &str) -> Box<dyn Session> {
    compile(engine, name).open().unwrap()
}

fn floats(values: &[f32]) -> Option<Tensor> {
    Some(Tensor::from_slice([values.len()], values).unwrap())
}

/// Three elements of `dtype`, the extremes and odd ones among them.
fn three_of(dtype: DataType) -> Tensor {
    let shape = Shape::from([3]);
    let fixed = |bytes: &[u8]| Tensor::fixed(dtype, shape.clone(), bytes.to_vec()).unwrap().aligned();
    match dtype {
        DataType::Bool => fixed(&[0, 1, 1]),
        DataType::Uint8 | DataType::Int8 => fixed(&[0, 0x7f, 0xff]),
        // For FP16 and BF16: one, a NaN with a payload, and negative zero.
        DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => fixed(&[0, 0x3c, 0xc1, 0x7f, 0, 0x80]),
        DataType::Uint32 | DataType::Int32 | DataType::Fp32 => {
            fixed(&[0, 0, 0x80, 0x3f, 1, 0, 0xc0, 0x7f, 0, 0, 0, 0x80])
        }
        DataType::Uint64 | DataType::Int64 | DataType::Fp64 => {
            fixed(&std::array::from_fn::<u8, 24, _>(|i| i as u8 * 11))
        }
        DataType::Bytes => {
            let long = vec![0xfe; 100];
            let elements = [b"a\0b\0".to_vec(), Vec::new(), long].map(Bytes::from);
            Tensor::strings(shape, elements.to_vec()).unwrap()
        }
    }
}

#[test]
fn every_data_type_comes_back_bit_for_bit() {
    for engine in ways() {
        let compiled = compile(&engine, "identities");
        let mut session = compiled.open().unwrap();
        let inputs: Vec<_> = compiled.signature().inputs.iter().map(|input| Some(three_of(input.dtype))).collect();
        let wanted: Vec<usize> = (0..inputs.len()).collect();
        let outputs = session.run(&inputs, &wanted).unwrap();
        let outputs: Vec<_> = outputs.into_iter().map(Some).collect();
        assert_eq!(outputs, inputs);
        assert_eq!(inputs.len(), DataType::ALL.len());
    }
}

#[test]
fn axes_of_length_zero_are_served() {
    for engine in ways() {
        let compiled = compile(&engine, "identities");
        let empty = |dtype: DataType| match dtype {
            DataType::Bytes => Tensor::strings(Shape::from([0]), Vec::new()).unwrap(),
            _ => Tensor::fixed(dtype, Shape::from([0]), Bytes::new()).unwrap(),
        };
        let inputs: Vec<_> = compiled.signature().inputs.iter().map(|input| Some(empty(input.dtype))).collect();
        let wanted: Vec<usize> = (0..inputs.len()).collect();
        let outputs = compiled.open().unwrap().run(&inputs, &wanted).unwrap();
        assert_eq!(outputs.into_iter().map(Some).collect::<Vec<_>>(), inputs);

        let none = Tensor::from_slice::<f32>([0, 16], &[]).unwrap();
        let outputs = open(&engine, "mlp").run(&[Some(none)], &[0]).unwrap();
        assert_eq!(outputs[0].shape(), &Shape::from([0, 4]));
    }
}

#[test]
fn unaligned_bytes_are_served_too() {
    for engine in ways() {
        let mut raw = vec![0u8];
        raw.extend([1f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()));
        let unaligned = Tensor::fixed(DataType::Fp32, Shape::from([3]), Bytes::from(raw).slice(1..)).unwrap();
        let outputs = open(&engine, "optional_input").run(&[Some(unaligned), None], &[0]).unwrap();
        assert_eq!(outputs[0].to_vec::<f32>().unwrap(), [11.0, 12.0, 13.0]);
    }
}

#[test]
fn an_optional_input_has_its_default() {
    for engine in ways() {
        let compiled = compile(&engine, "optional_input");
        assert!(compiled.signature().inputs[1].optional);
        let mut session = compiled.open().unwrap();
        let x = floats(&[1.0, 2.0]);
        let left_out = session.run(&[x.clone(), None], &[0]).unwrap();
        assert_eq!(left_out[0].to_vec::<f32>().unwrap(), [11.0, 12.0]);
        let given = session.run(&[x, floats(&[0.5])], &[0]).unwrap();
        assert_eq!(given[0].to_vec::<f32>().unwrap(), [1.5, 2.5]);
    }
}

#[test]
fn weights_that_an_old_file_lists_as_inputs_are_not_served_as_such() {
    for engine in ways() {
        let compiled = compile(&engine, "weights_as_inputs");
        assert_eq!(compiled.signature().to_string(), "(x FP32[n]) -> (sum FP32[n], product FP32[n])");
        let outputs = compiled.open().unwrap().run(&[floats(&[1.0])], &[0]).unwrap();
        assert_eq!(outputs[0].to_vec::<f32>().unwrap(), [11.0]);
    }
}

#[test]
fn only_wanted_outputs_are_given_in_the_order_asked_for() {
    for engine in ways() {
        let mut session = open(&engine, "optional_input");
        let inputs = [floats(&[2.0]), None];
        let value = |outputs: Vec<Tensor>| outputs.iter().flat_map(|t| t.to_vec::<f32>().unwrap()).collect::<Vec<_>>();
        assert_eq!(value(session.run(&inputs, &[1]).unwrap()), [20.0]);
        assert_eq!(value(session.run(&inputs, &[1, 0]).unwrap()), [20.0, 12.0]);
    }
}

#[test]
fn a_zipmap_beside_a_tensor_does_not_hinder() {
    for engine in ways() {
        let file = model("zipmap");
        assert_eq!(file.graph.other_outputs, ["maps"]);
        let compiled = engine.compile(&file, &CompileOptions::default()).unwrap();
        assert_eq!(compiled.signature().outputs.len(), 1);
        let x = Tensor::from_slice([2, 2], &[0.1f32, 0.9, 0.8, 0.2]).unwrap();
        let outputs = compiled.open().unwrap().run(&[Some(x.clone())], &[0]).unwrap();
        assert_eq!(outputs, [x]);
    }
}

#[test]
fn shapes_that_the_signature_gets_wrong_are_those_of_the_graph() {
    for engine in ways() {
        let run = |session: &mut dyn Session, wanted: &[usize]| -> Vec<Vec<f32>> {
            let outputs = session.run(&[floats(&[1.0, 2.0, 3.0])], wanted).unwrap();
            outputs.iter().map(|output| output.to_vec().unwrap()).collect()
        };
        let all = [vec![1.0, 2.0, 3.0, 1.0, 2.0, 3.0], vec![1.0], vec![-1.0, -2.0, -3.0]];
        // Each on a session that has not been wrong yet.
        for (output, expected) in all.iter().enumerate() {
            assert_eq!(&run(&mut *open(&engine, "wrong_dims"), &[output])[0], expected, "output {output}");
        }
        let mut session = open(&engine, "wrong_dims");
        for _ in 0..3 {
            assert_eq!(run(&mut *session, &[2, 0, 1]), [all[2].clone(), all[0].clone(), all[1].clone()]);
        }
    }
}

/// Values of an output in order, with its shape.
fn content(tensor: &Tensor) -> (Shape, Vec<f32>) {
    (tensor.shape().clone(), tensor.to_vec().unwrap())
}

#[test]
fn an_input_that_is_an_output_too_comes_back() {
    for engine in ways() {
        let mut session = open(&engine, "handed_back");
        let mut answer = |bias: Option<Tensor>, wanted: &[usize]| -> Vec<Vec<f32>> {
            let outputs = session.run(&[floats(&[1.0, -2.0, 3.0]), bias], wanted).unwrap();
            outputs.iter().map(|output| output.to_vec().unwrap()).collect()
        };
        let (y, x) = (vec![1.0, 0.0, 3.0], vec![1.0, -2.0, 3.0]);
        for _ in 0..2 {
            assert_eq!(answer(floats(&[5.0, 6.0]), &[0, 1, 2]), [y.clone(), x.clone(), vec![5.0, 6.0]]);
            assert_eq!(answer(None, &[2, 1, 0]), [vec![10.0, 20.0], x.clone(), y.clone()]);
        }
    }
}

#[test]
fn an_output_that_is_listed_twice_is_answered_twice() {
    for engine in ways() {
        let compiled = compile(&engine, "twice");
        assert_eq!(compiled.signature().outputs.len(), 2);
        let outputs = compiled.open().unwrap().run(&[floats(&[1.0, -2.0, 3.0])], &[0, 1]).unwrap();
        for output in &outputs {
            assert_eq!(output.to_vec::<f32>().unwrap(), [1.0, 0.0, 3.0]);
        }
    }
}

#[test]
fn constant_outputs_have_their_own_shape() {
    for engine in ways() {
        // As many elements as the constants have, in their shape and in two others.
        for (rows, columns) in [(3, 2), (2, 3), (6, 1)] {
            let x = Tensor::from_slice([rows, columns], &[1f32; 6]).unwrap();
            for constant in [true, false] {
                let flag = Tensor::fixed(DataType::Bool, Shape::from([1]), vec![u8::from(constant)]).unwrap();
                // Each on a session that has not been wrong yet.
                let answer = |output: usize| {
                    let outputs =
                        open(&engine, "constants").run(&[Some(x.clone()), Some(flag.clone())], &[output]).unwrap();
                    content(&outputs[0])
                };
                let weight = (Shape::from([2, 3]), vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
                assert_eq!(answer(0), weight);
                assert_eq!(answer(1), (Shape::from([2, 3]), vec![0.0, 0.0, 0.0, 0.0, 1.0, 2.0]));
                let negated = (Shape::from([rows, columns]), vec![-1.0; 6]);
                assert_eq!(answer(2), if constant { weight } else { negated });
            }
        }
    }
}

#[test]
fn optional_outputs_have_their_values() {
    for engine in ways() {
        let mut session = open(&engine, "optionals");
        let x = floats(&[1.0, -2.0, 3.0]);
        for wanted in [&[0, 1, 2][..], &[2], &[1], &[0]] {
            for output in session.run(std::slice::from_ref(&x), wanted).unwrap() {
                assert_eq!(Some(output), x, "of {wanted:?}");
            }
        }
    }
}

#[test]
fn a_bad_value_is_the_requests_fault_and_the_session_goes_on() {
    for engine in ways() {
        let mut session = open(&engine, "gather");
        let index = |values: &[i64]| [Some(Tensor::from_slice([values.len()], values).unwrap())];
        let error = session.run(&index(&[0, 4]), &[0]).unwrap_err();
        assert!(matches!(&error, EngineError::BadInput(message) if message.contains("out of")), "{error:?}");
        let outputs = session.run(&index(&[3, -4]), &[0]).unwrap();
        assert_eq!(outputs[0].to_vec::<f32>().unwrap(), [3.0, 0.0]);
    }
}

#[test]
fn a_call_that_breaks_the_contract_is_an_error() {
    for engine in ways() {
        let mut session = open(&engine, "mlp");
        let x = Tensor::from_slice([1, 16], &[0f32; 16]).unwrap();
        assert!(matches!(session.run(&[], &[0]), Err(EngineError::Failed(_))));
        assert!(matches!(session.run(&[Some(x)], &[1]), Err(EngineError::Failed(_))));
        assert!(session.run(&[None], &[0]).is_err());
        let integers = Tensor::from_slice([1, 16], &[0i64; 16]).unwrap();
        assert!(matches!(session.run(&[Some(integers)], &[0]), Err(EngineError::BadInput(_))));
    }
}

#[test]
fn an_absurd_allocation_is_an_error_and_the_process_goes_on() {
    for engine in ways() {
        let mut session = open(&engine, "fill");
        let mut fill = |rows: i64, columns: i64| {
            let shape = Tensor::from_slice([2], &[rows, columns]).unwrap();
            session.run(&[Some(shape)], &[0])
        };
        // More than the address space has, and more than 64 bits can count.
        for rows in [1 << 50, i64::MAX] {
            let refused = fill(rows, 8);
            assert!(matches!(refused, Err(EngineError::Failed(_) | EngineError::OutOfMemory(_))), "{refused:?}");
        }
        assert_eq!(fill(2, 3).unwrap()[0].shape(), &Shape::from([2, 3]));
    }
}

/// Checks that compiling fails, and which kind of failure it is.
#[track_caller]
fn check_refused(model: &ModelFile, is_right_kind: fn(&EngineError) -> bool, expected: &str) {
    let Some(engine) = engine() else { return };
    let error = engine.compile(model, &CompileOptions::default()).map(|_| ()).unwrap_err();
    assert!(is_right_kind(&error) && error.to_string().contains(expected), "{error:?}");
}

#[test]
fn files_that_cannot_be_served_say_whose_fault_it_is() {
    let bad_model = |error: &EngineError| matches!(error, EngineError::BadModel(_));
    let unsupported = |error: &EngineError| matches!(error, EngineError::Unsupported(_));
    let mut truncated = model("mlp");
    truncated.bytes = truncated.bytes.slice(..truncated.bytes.len() / 2);
    check_refused(&truncated, bad_model, "");
    check_refused(&model("broken_graph"), bad_model, "missing");
    check_refused(&model("future_opset"), unsupported, "99");
    check_refused(&model("unknown_operator"), unsupported, "Sparkle");
}

#[test]
fn weights_in_a_file_of_their_own_are_found_beside_the_model_or_missed() {
    let Some(engine) = engine() else { return };
    let x = Tensor::from_slice([2, 16], &std::array::from_fn::<f32, 32, _>(|i| i as f32 / 32.0)).unwrap();
    let inside = open(&engine, "mlp").run(&[Some(x.clone())], &[0]).unwrap();
    let beside = open(&engine, "external").run(&[Some(x)], &[0]).unwrap();
    assert_eq!(inside, beside);

    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("external.onnx");
    std::fs::copy(path_of("external"), &alone).unwrap();
    let bad_model = |error: &EngineError| matches!(error, EngineError::BadModel(_));
    check_refused(&model_at(alone), bad_model, "\"external.data\" is missing");
}

/// Checks that four threads on one compiled model get what one thread gets, bit for bit.
#[track_caller]
fn check_threads(name: &str, rounds: usize, input: impl Fn(&dyn CompiledModel, usize) -> Vec<Option<Tensor>> + Sync) {
    const THREADS: usize = 4;
    for engine in ways() {
        let compiled = compile(&engine, name);
        let wanted: Vec<usize> = (0..compiled.signature().outputs.len()).collect();
        let mut session = compiled.open().unwrap();
        let serial: Vec<Vec<Tensor>> =
            (0..THREADS * rounds).map(|seed| session.run(&input(&*compiled, seed), &wanted).unwrap()).collect();
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for (thread, expected) in serial.chunks(rounds).enumerate() {
                let (compiled, wanted, input, start) = (&*compiled, &wanted, &input, &start);
                scope.spawn(move || {
                    let mut session = compiled.open().unwrap();
                    start.wait();
                    for (round, expected) in expected.iter().enumerate() {
                        let outputs = session.run(&input(compiled, thread * rounds + round), wanted).unwrap();
                        // Bytes are compared, since a NaN does not equal itself and negative zero equals zero.
                        assert_eq!(&outputs, expected, "thread {thread}, round {round}");
                    }
                });
            }
        });
    }
}

#[test]
fn one_session_on_four_threads_answers_as_one_thread_does() {
    // Batches of many sizes, so that a buffer that is shared by mistake shows.
    check_threads("mlp", 2_000, |_, seed| {
        let rows = 1 + seed % 13;
        let values: Vec<f32> = (0..rows * 16).map(|i| ((i * 31 + seed) % 97) as f32 / 48.5 - 1.0).collect();
        vec![Some(Tensor::from_slice([rows, 16], &values).unwrap())]
    });
    check_threads("identities", 300, |compiled, seed| {
        let rows = seed % 4;
        let inputs = compiled.signature().inputs.iter();
        inputs.map(|input| three_of(input.dtype).rows(0..rows.min(3)).map(|tensor| tensor.aligned())).collect()
    });
}

#[test]
fn outputs_outlive_their_session() {
    for engine in ways() {
        let compiled = compile(&engine, "identities");
        let inputs: Vec<_> = compiled.signature().inputs.iter().map(|input| Some(three_of(input.dtype))).collect();
        let strings = inputs.len() - 1;
        let outputs = compiled.open().unwrap().run(&inputs, &[strings]).unwrap();
        drop(compiled);
        assert_eq!(Some(outputs[0].clone()), inputs[strings]);
    }
}

#[test]
fn a_provider_that_is_missing_is_an_error_unless_another_was_named_too() {
    let Some(engine) = engine() else { return };
    let build = engine.build();
    assert!(build.providers.contains(&"cpu".to_owned()) && build.version.starts_with("1."), "{build:?}");
    let compile = |providers: &[&str]| {
        let providers = providers.iter().map(|&name| name.to_owned()).collect();
        engine.compile(&model("mlp"), &CompileOptions { providers, ..CompileOptions::default() })
    };
    assert_eq!(compile(&[]).unwrap().provider(), "cpu");
    assert!(
        matches!(compile(&["abacus"]).map(|_| ()), Err(EngineError::Unsupported(why)) if why.contains("\"abacus\""))
    );
    let Some(missing) =
        ["openvino", "tensorrt", "cuda"].into_iter().find(|&name| !build.providers.iter().any(|p| p == name))
    else {
        return;
    };
    let error = compile(&[missing]).map(|_| ()).unwrap_err();
    let expected = format!("the execution provider \"{missing}\" is not in ONNX Runtime {}", build.version);
    assert!(matches!(&error, EngineError::Unsupported(why) if why.starts_with(&expected)), "{error}");
    assert_eq!(compile(&[missing, "cpu"]).unwrap().provider(), "cpu");
}

#[test]
fn one_process_has_one_library() {
    let Some(engine) = engine() else { return };
    let library = engine.build().library.unwrap();
    assert_eq!(OrtEngine::load(&library).unwrap().build(), engine.build());
    let missing = OrtEngine::load(Path::new("/nowhere/libonnxruntime.so"));
    assert!(matches!(missing, Err(LoadError::Missing { .. })), "{missing:?}");
    let copy = tempfile::NamedTempFile::new().unwrap();
    let other = OrtEngine::load(copy.path());
    assert!(matches!(other, Err(LoadError::AlreadyLoaded { .. })), "{other:?}");
}

/// The name of the test that is its own child; see there.
const TELEMETRY: &str = "the_library_leaves_no_trace_in_the_home_folder";
const CHILD: &str = "TILTYARD_TEST_CHILD";

#[test]
fn the_library_leaves_no_trace_in_the_home_folder() {
    let Some(engine) = engine() else { return };
    if std::env::var_os(CHILD).is_some() {
        let x = Tensor::from_slice([1, 16], &[0f32; 16]).unwrap();
        open(&engine, "mlp").run(&[Some(x)], &[0]).unwrap();
        return;
    }
    // The library writes a device id before it reports anything. What it does depends on the environment at the
    // moment of loading, so a new process is needed.
    let home = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TELEMETRY])
        .env_remove("ORT_DISABLE_TELEMETRY")
        .env_remove("XDG_CACHE_HOME")
        .env("ORT_DYLIB_PATH", engine.build().library.unwrap())
        .env("HOME", home.path())
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_no_library_is_named() {
    if std::env::var_os(CHILD).is_none() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_file_that_is_no_library_is_named"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(status.status.success(), "{status:?}");
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = OrtEngine::load(file.path()).unwrap_err();
    assert!(matches!(&error, LoadError::NotUsable { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot be used as ONNX Runtime: it cannot be loaded"), "{error}");
}
