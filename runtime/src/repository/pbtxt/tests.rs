//! Is Triton's text read as Triton reads it, and is every mistake told with its place?

use proptest::prelude::*;
use proptest::sample::Index;

use super::schema::{Kind, MODEL_CONFIG, MessageType};
use super::*;

const GOOD: &str = r#"# Fraud scoring, as a Triton user would write it.
name: "fraud"
platform: "onnxruntime_onnx"
backend: 'onnx' "runtime"
max_batch_size: 0x40;
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] reshape { shape: [ 1, 3, -1 ] } },
  { name: "µ\303\251\x41\u00e9" data_type: TYPE_STRING dims: 1 optional: true, format: FORMAT_NCHW }
]
output <
  name: "label"; data_type: 9
  dims: [ ]
  label_filename: "labels.txt"
>
version_policy: { specific: { versions: [ 3, 1 ] } }
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0, 1 ] } ]
dynamic_batching {
  preferred_batch_size: [ 4, 010 ]
  max_queue_delay_microseconds: 100
  preserve_ordering: True
  priority_levels: 3 default_priority_level: 2
  default_queue_policy {
    timeout_action: DELAY default_timeout_microseconds: 5000
    allow_timeout_override: 1 max_queue_size: 32
  }
}
model_warmup [ {
  name: "first" batch_size: 4 count: 2
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 8 ] random_data: true } }
  inputs { key: "y" value: { data_type: TYPE_BF16 dims: 8 zero_data: t } }
  inputs: [ { key: "z" value: { data_type: TYPE_INT8 input_data_file: "z.bin" } } ]
} ]
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
parameters [ { key: "empty" } ]
default_model_filename: "fraud.onnx"
optimization { cuda { graphs: true } execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } } ] } }
cc_model_filenames { key: "8.0" value: "x" }
metric_tags { key: "team" value: "risk" } metric_tags { key: "tier" value: "1" }
"#;

fn good() -> PbtxtConfig {
    let dtype = Some(DataType::Fp32);
    let x = Tensor { name: "x".into(), dtype, dims: vec![3, -1], reshape: Some(vec![1, 3, -1]), ..Tensor::default() };
    let text = Tensor {
        name: "µéAé".into(),
        dtype: Some(DataType::Bytes),
        dims: vec![1],
        optional: true,
        ..Tensor::default()
    };
    let label = Tensor {
        name: "label".into(),
        dtype: Some(DataType::Int64),
        label_filename: Some("labels.txt".into()),
        ..Tensor::default()
    };
    let warm = |dtype, dims: &[i64], data| WarmupInput { dtype: Some(dtype), dims: dims.to_vec(), data };
    PbtxtConfig {
        name: Some("fraud".into()),
        platform: Some("onnxruntime_onnx".into()),
        backend: Some("onnxruntime".into()),
        max_batch_size: Some(64),
        inputs: vec![x, text],
        outputs: vec![label],
        version_policy: Some(VersionPolicy::Specific([1, 3].into())),
        instance_groups: vec![
            InstanceGroup { kind: InstanceKind::Cpu, count: Some(2), gpus: vec![] },
            InstanceGroup { kind: InstanceKind::Gpu, count: None, gpus: vec![0, 1] },
        ],
        gpu_accelerators: vec![Accelerator {
            name: "tensorrt".into(),
            parameters: [("precision_mode".to_owned(), "FP16".to_owned())].into(),
        }],
        cpu_accelerators: vec![],
        dynamic_batching: Some(DynamicBatching {
            preferred_batch_sizes: vec![4, 8],
            queue_delay_max: Some(Duration::from_micros(100)),
            preserve_ordering: true,
            priority_levels: 3,
            default_priority_level: 2,
            default_policy: PriorityPolicy {
                timeout_action: TimeoutAction::Delay,
                default_timeout: Some(Duration::from_millis(5)),
                allow_timeout_override: true,
                queue_size_max: Some(32),
            },
            priority_policies: BTreeMap::new(),
        }),
        warmups: vec![Warmup {
            name: "first".into(),
            batch_size: 4,
            count: 2,
            inputs: BTreeMap::from([
                ("x".to_owned(), warm(DataType::Fp32, &[3, 8], WarmupData::Random)),
                ("y".to_owned(), warm(DataType::Bf16, &[8], WarmupData::Zero)),
                ("z".to_owned(), warm(DataType::Int8, &[], WarmupData::File("z.bin".into()))),
            ]),
        }],
        parameters: BTreeMap::from([
            ("intra_op_thread_count".to_owned(), "2".to_owned()),
            ("empty".to_owned(), String::new()),
        ]),
        default_model_filename: Some("fraud.onnx".into()),
        ignored: ["input.reshape", "input.format", "optimization.cuda.graphs", "cc_model_filenames", "metric_tags"]
            .map(String::from)
            .to_vec(),
    }
}

#[test]
fn a_whole_file_means_what_it_says() {
    assert_eq!(parse(GOOD), Ok(good()));
    assert_eq!(parse(""), Ok(PbtxtConfig::default()));
    assert_eq!(parse("\u{feff}# only a remark"), Ok(PbtxtConfig::default()));
    assert_eq!(parse(&GOOD.replace('\n', "\r\n")), Ok(good()));
}

#[test]
fn the_same_can_be_written_in_many_ways() {
    #[track_caller]
    fn check(texts: &[&str]) {
        let first = parse(texts[0]).unwrap();
        assert_ne!(first, PbtxtConfig::default());
        for text in texts {
            assert_eq!(parse(text).as_ref(), Ok(&first), "{text}");
        }
    }
    check(&["max_batch_size: 8", "max_batch_size:010", "max_batch_size : 0X8,", "max_batch_size: # eight\n8;"]);
    check(&["name: 'a\"b'", "name: \"a\\\"b\"", r"name: 'a' '\42' 'b'", "name: 'a' # one\n '\\x22b'"]);
    check(&["name: 'é€😀'", r"name: '\303\251\u20AC\U0001f600'"]);
    check(&["name: '\u{7}\u{8}\u{c}\\n\r\t\u{b}\\\\?'", r"name: '\a\b\f\n\r\t\v\\\?'"]);
    check(&[
        "input { name: 'x' dims: 1 dims: 2 }",
        "input [ { name: 'x' dims: [ 1, 2 ] } ]",
        "input: < name: 'x' dims: [1] dims: [2] >",
        "input: [<name:'x',dims:[1,0x2];>]",
    ]);
    check(&["version_policy { latest { num_versions: 1 } }", "version_policy: <latest: {}>"]);
    check(&[
        "dynamic_batching { }",
        "dynamic_batching {preserve_ordering: f}",
        "dynamic_batching {preserve_ordering: 0}",
    ]);
}

#[test]
fn what_is_not_acted_on_is_told() {
    #[track_caller]
    fn check(text: &str, ignored: &[&str]) {
        assert_eq!(parse(text).map(|config| config.ignored), Ok(ignored.iter().map(|name| name.to_string()).collect()));
    }
    check("sequence_batching { direct { minimum_slot_utilization: 0.5f } }", &["sequence_batching"]);
    check(
        "sequence_batching { control_input { control { fp32_false_true: [ -1, 1e3, -inf, NaN, .5, 5., 0x1 ] } } }",
        &["sequence_batching"],
    );
    check("ensemble_scheduling { step [ { model_name: 'a' model_version: -1 } ] }", &["ensemble_scheduling"]);
    check(
        "response_cache { enable: true } model_transaction_policy { decoupled: true }",
        &["response_cache.enable", "model_transaction_policy.decoupled"],
    );
    check(
        "optimization { graph { level: -1 } priority: PRIORITY_MAX input_pinned_memory { enable: false } }",
        &["optimization.graph.level", "optimization.priority", "optimization.input_pinned_memory.enable"],
    );
    check("dynamic_batching { priority_queue_policy { key: 1 value { max_queue_size: 4 } } }", &[]);
    check("version_policy { all { } } runtime: 'x'", &["runtime"]);
}

#[test]
fn mistakes_are_told_with_their_place() {
    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(parse(text).map_err(|error| error.to_string()), Err(expected.to_owned()), "{text}");
    }
    check(
        "name: 'a'\nmax_batchsize: 8",
        "line 2, column 1: unknown field \"max_batchsize\": expected a field of ModelConfig, such as \
         \"max_batch_size\"",
    );
    check(
        "input { dim: 1 }",
        "line 1, column 9: unknown field \"dim\": expected a field of ModelInput, such as \"dims\"",
    );
    check("zzzzzzzz: 1", "line 1, column 1: unknown field \"zzzzzzzz\": expected a field of ModelConfig");
    check("[a.b]: 1", "line 1, column 1: found '[': expected a field of ModelConfig or the end");
    check("name: 'é' }", "line 1, column 11: found '}': expected a field of ModelConfig or the end");
    check("input {\n name: 'x'", "line 2, column 11: the text ends: expected a field of ModelInput or '}'");
    check("input { name: 'x' >", "line 1, column 19: found '>': expected a field of ModelInput or '}'");
    check("name: fraud", "line 1, column 7: found \"fraud\": expected a string in quotes");
    check("name 'fraud'", "line 1, column 6: found a string: expected ':' after \"name\"");
    check("name: 'a' name: 'b'", "line 1, column 11: a second \"name\": expected it once");
    check("name: ['a']", "line 1, column 7: a list: expected a string in quotes, since \"name\" is one");
    check(
        "input { name: 'x' dims: [1, ] }",
        "line 1, column 29: found ']': expected an integer from -1 to 9223372036854775807",
    );
    check("input { name: 'x' dims: [1 2] }", "line 1, column 28: found \"2\": expected ',' or ']'");
    check(
        "input { name: 'x' dims: [[1]] }",
        "line 1, column 26: found '[': expected an integer from -1 to 9223372036854775807",
    );
    check("max_batch_size: -8", "line 1, column 17: found \"-8\": expected an integer from 0 to 2147483647");
    check(
        "max_batch_size: 2147483648",
        "line 1, column 17: found \"2147483648\": expected an integer from 0 to 2147483647",
    );
    check("max_batch_size: 8.0", "line 1, column 17: found \"8.0\": expected an integer from 0 to 2147483647");
    check("max_batch_size: 08", "line 1, column 17: found \"08\": expected an integer from 0 to 2147483647");
    check("max_batch_size: 8input {}", "line 1, column 17: found \"8input\": expected an integer from 0 to 2147483647");
    check("input 5", "line 1, column 7: found \"5\": expected '{'");
    check(
        "instance_group { kind: KIND_GPUS }",
        "line 1, column 24: found \"KIND_GPUS\": expected one of KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL, such \
         as KIND_GPU",
    );
    check(
        "instance_group { kind: 4 }",
        "line 1, column 24: found \"4\": expected one of KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL",
    );
    check("dynamic_batching { preserve_ordering: yes }", "line 1, column 39: found \"yes\": expected true or false");
    check(
        "dynamic_batching {} sequence_batching {}",
        "line 1, column 21: \"sequence_batching\" beside \"dynamic_batching\": expected one of the two",
    );
    check("name: 'a\nb'", "line 1, column 7: a string without an end: expected ' on the same line");
    check(r"name: '\377'", "line 1, column 7: a string of other bytes: expected UTF-8");
    check("input { data_type: TYPE_FP32 }", "line 1, column 9: a tensor without a name: expected \"name\"");
    check(
        "model_warmup { inputs { key: 'x' value { dims: 1 } } }",
        "line 1, column 25: an input without data: expected zero_data, random_data or input_data_file",
    );
    for escape in [r"\q", r"\400", r"\8", r"\x", r"\u12", r"\ud800", r"\U00110000", "\\é", "\\"] {
        let error = parse(&format!("name: 'a{escape}")).unwrap_err();
        assert_eq!((error.column, error.found.as_str()), (9, "a bad escape in a string"), "{escape}");
    }
    let long = "x".repeat(BYTES_MAX);
    assert_eq!(parse(&long).unwrap_err().found, format!("unknown field \"{}…\"", "x".repeat(64)));
    check(&(long + "x"), "line 1, column 1: 1048577 bytes of text: expected at most 1048576");
}

#[test]
fn no_message_contains_itself() {
    fn depth(kind: &MessageType, above: usize) -> usize {
        assert!(above < 32, "{} is nested too deep", kind.name);
        let below = kind.fields.iter().map(|field| match field.kind {
            Kind::Message(inner) => depth(inner, above + 1),
            _ => above + 1,
        });
        below.max().unwrap_or(above)
    }
    assert!(depth(&MODEL_CONFIG, 0) > 1);
    let braces = "input {".repeat(BYTES_MAX / 7);
    assert_eq!(parse(&braces).unwrap_err().column, 8);
}

/// Whatever the text, the answer names a place inside it, or holds nothing that the text does not.
#[track_caller]
fn check_place(text: &str) {
    if let Err(error) = parse(text) {
        let line = text.split('\n').nth(error.line - 1).expect("the line exists");
        assert!((1..=line.chars().count() + 1).contains(&error.column), "{error} in {line:?}");
    }
}

#[test]
fn every_beginning_is_answered() {
    let ends = GOOD.char_indices().map(|(at, _)| at);
    let whole = ends.clone().filter(|&end| parse(&GOOD[..end]).is_ok()).count();
    ends.for_each(|end| check_place(&GOOD[..end]));
    assert!((10..GOOD.len() / 2).contains(&whole), "most beginnings end inside something, {whole} do not");
}

proptest! {
    #[test]
    fn every_mutation_is_answered(
        edits in prop::collection::vec((any::<Index>(), 0..4, any::<char>(), any::<Index>()), 1..8),
    ) {
        let mut letters: Vec<char> = GOOD.chars().collect();
        for (place, action, letter, other) in edits {
            let place = place.index(letters.len());
            match action {
                0 => drop(letters.remove(place)),
                1 => letters.insert(place, letter),
                // Letters of the file itself disturb its structure more than strange ones.
                2 => letters[place] = letters[other.index(letters.len())],
                _ => {
                    let end = (place + other.index(64)).min(letters.len());
                    let piece = letters[place..end].to_vec();
                    letters.splice(place..place, piece);
                }
            }
        }
        check_place(&letters.into_iter().collect::<String>());
    }
}
