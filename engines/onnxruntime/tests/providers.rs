//! Does a provider other than the CPU keep the promises too: order of preference, options, sessions, placement?
//!
//! OpenVINO stands in for all devices, since it also runs on a processor. Where the library that is found was built
//! without it (`pip install onnxruntime-openvino` brings one that has it), these tests have nothing to look at; the
//! refusals of providers that are missing are tested with any library in `engine.rs`.

use std::path::Path;

use tiltyard_onnxruntime::OrtEngine;
use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineError, ModelFile};
use tiltyard_runtime::providers::ProviderOptions;
use tiltyard_types::Tensor;

/// The engine, where its library has OpenVINO.
fn engine() -> Option<OrtEngine> {
    let search = locate(&Places::of_process(None, None));
    let engine = OrtEngine::load(&search.found()?.path).unwrap();
    engine.build().providers.iter().any(|name| name == "openvino").then_some(engine)
}

fn model(name: &str) -> ModelFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"));
    ModelFile::read(&path).unwrap()
}

/// Options with these tables below `provider`.
fn options(providers: &[&str], tables: &str) -> CompileOptions {
    let mut provider_options = ProviderOptions::default();
    provider_options.read(&toml::from_str(tables).unwrap()).unwrap();
    let providers = providers.iter().map(|&name| name.to_owned()).collect();
    CompileOptions { providers, provider_options, ..CompileOptions::default() }
}

fn rows(count: usize) -> Tensor {
    let values: Vec<f32> = (0..count * 16).map(|i| (i % 13) as f32 / 13.0).collect();
    Tensor::from_slice([count, 16], &values).unwrap()
}

fn answer(compiled: &dyn CompiledModel, count: usize) -> Vec<f32> {
    compiled.open().unwrap().run(&[Some(rows(count))], &[0]).unwrap()[0].to_vec().unwrap()
}

#[test]
fn it_answers_as_the_processor_does_within_rounding() {
    let Some(engine) = engine() else { return };
    let device = engine.compile(&model("mlp"), &options(&["openvino", "cpu"], "")).unwrap();
    let processor = engine.compile(&model("mlp"), &CompileOptions::default()).unwrap();
    assert_eq!((device.provider(), processor.provider()), ("openvino", "cpu"));
    for count in [1, 3, 8, 1] {
        let (ours, theirs) = (answer(&*device, count), answer(&*processor, count));
        assert_eq!(ours.len(), theirs.len());
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4), "{ours:?} {theirs:?}");
    }
    assert!(device.likes_fixed_sizes() && !processor.likes_fixed_sizes());
}

#[test]
fn the_order_of_preference_counts() {
    let Some(engine) = engine() else { return };
    let provider = |names: &[&str]| engine.compile(&model("mlp"), &options(names, "")).unwrap().provider().to_owned();
    assert_eq!(provider(&["cpu", "openvino"]), "cpu");
    // The library lacks the first two: they are refused aloud, and the third is taken.
    assert_eq!(provider(&["tensorrt", "cuda", "openvino", "cpu"]), "openvino");
    let error = engine.compile(&model("mlp"), &options(&["tensorrt", "cuda"], "")).map(|_| ()).unwrap_err();
    let EngineError::Unsupported(why) = &error else { panic!("{error:?}") };
    assert!(why.contains("\"tensorrt\" is not in") && why.contains("\"cuda\" is not in"), "{why}");
}

#[test]
fn a_device_that_is_not_there_is_an_error_or_the_next_is_taken() {
    let Some(engine) = engine() else { return };
    let gpu = "[openvino]\ndevice_type = \"GPU.7\"";
    let error = engine.compile(&model("mlp"), &options(&["openvino"], gpu)).map(|_| ()).unwrap_err();
    assert!(matches!(&error, EngineError::Unsupported(why) if why.contains("openvino")), "{error:?}");
    assert_eq!(engine.compile(&model("mlp"), &options(&["openvino", "cpu"], gpu)).unwrap().provider(), "cpu");
}

#[test]
fn options_reach_the_library() {
    let Some(engine) = engine() else { return };
    let table = "[openvino]\ndevice_type = \"CPU\"\nstreams = 2\nthreads = 2\nprecision = \"FP32\"";
    assert_eq!(answer(&*engine.compile(&model("mlp"), &options(&["openvino"], table)).unwrap(), 1).len(), 4);
    // The library refuses streams for this device, and says so: what is set here arrives there.
    let table = table.replace("\"CPU\"", "\"AUTO:CPU\"");
    let error = engine.compile(&model("mlp"), &options(&["openvino"], &table)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("Cannot set NUM_STREAMS to 2 for device AUTO:CPU"), "{error}");
}

#[test]
fn each_device_has_its_sessions_and_they_run_at_once() {
    let Some(engine) = engine() else { return };
    let mut wanted = options(&["openvino"], "[openvino]\ndevice_types = [\"CPU\", \"AUTO:CPU\"]\nprecision = \"FP32\"");
    wanted.instances = 2;
    let compiled = engine.compile(&model("mlp"), &wanted).unwrap();
    assert_eq!(compiled.sessions_max(), Some(4));
    let alone = answer(&*compiled, 5);
    // More threads than sessions: those without one wait, and all are answered.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let (compiled, alone) = (&*compiled, &alone);
            scope.spawn(move || {
                for _ in 0..50 {
                    let together = answer(compiled, 5);
                    assert!(together.iter().zip(alone).all(|(a, b)| (a - b).abs() < 1e-4), "{together:?} {alone:?}");
                }
            });
        }
    });
}

#[test]
fn nodes_that_fell_back_to_the_processor_are_told() {
    let Some(engine) = engine() else { return };
    let whole = engine.compile(&model("mlp"), &options(&["openvino"], "")).unwrap();
    let [only] = whole.placement() else { panic!("{:?}", whole.placement()) };
    assert_eq!((only.provider.as_str(), only.operators["MatMul"]), ("openvino", 3));
    // Texts are nothing for a device.
    let mixed = engine.compile(&model("identities"), &options(&["openvino"], "")).unwrap();
    let on_cpu = mixed.placement().iter().find(|placement| placement.provider == "cpu");
    assert!(on_cpu.is_some_and(|placement| placement.operators.contains_key("Identity")), "{:?}", mixed.placement());
}

#[test]
fn what_was_built_is_kept_where_it_is_asked_for() {
    let Some(engine) = engine() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("built/digest");
    let mut wanted = options(&["openvino"], "[openvino]\ncache = true");
    wanted.cache = Some(cache.clone());
    let first = answer(&*engine.compile(&model("mlp"), &wanted).unwrap(), 2);
    assert!(std::fs::read_dir(cache.join("openvino")).unwrap().count() > 0);
    assert_eq!(answer(&*engine.compile(&model("mlp"), &wanted).unwrap(), 2), first);
}

#[test]
fn a_bad_value_is_an_error_and_the_session_goes_on() {
    let Some(engine) = engine() else { return };
    let compiled = engine.compile(&model("mlp"), &options(&["openvino"], "")).unwrap();
    let integers = Tensor::from_slice([1, 16], &[0i64; 16]).unwrap();
    assert!(compiled.open().unwrap().run(&[Some(integers)], &[0]).is_err());
    assert_eq!(answer(&*compiled, 1).len(), 4);
}
