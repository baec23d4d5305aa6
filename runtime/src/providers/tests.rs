//! Are providers' options read as they are written, and mistakes told?

use super::*;

fn read(text: &str) -> Result<ProviderOptions, String> {
    let mut options = ProviderOptions::default();
    let table: toml::Table = toml::from_str(text).unwrap();
    options.read(&table).map_err(|error| error.to_string())?;
    Ok(options)
}

#[test]
fn every_option_has_its_place() {
    let options = read(
        r#"
        [cuda]
        devices = [0, 2]
        memory_limit = "4GiB"
        arena_growth = "as_requested"
        conv_search = "heuristic"
        conv_workspace_max = false
        tf32 = true
        prefer_nhwc = true
        cuda_graphs = true
        [tensorrt]
        device = 1
        precision = "fp16"
        engine_cache = false
        workspace_limit = 1_000_000
        subgraph_nodes_min = 5
        optimization_level = 3
        [openvino]
        device_types = ["GPU.0", "GPU.1"]
        precision = "ACCURACY"
        threads = 2
        streams = 3
        cache = true
        "#,
    )
    .unwrap();
    let expected = ProviderOptions {
        cuda: CudaOptions {
            devices: vec![0, 2],
            memory_limit: Some(4 << 30),
            arena_growth: Some(ArenaGrowth::AsRequested),
            conv_search: Some(ConvSearch::Heuristic),
            conv_workspace_max: Some(false),
            tf32: Some(true),
            prefer_nhwc: Some(true),
            graphs: true,
        },
        tensorrt: TensorRtOptions {
            devices: vec![1],
            precision: Precision::Fp16,
            engine_cache: Some(false),
            workspace_limit: Some(1_000_000),
            subgraph_nodes_min: Some(5),
            optimization_level: Some(3),
        },
        openvino: OpenVinoOptions {
            device_types: vec!["GPU.0".into(), "GPU.1".into()],
            precision: Some("ACCURACY".into()),
            threads: Some(2),
            streams: Some(3),
            cache: true,
        },
    };
    assert_eq!(options, expected);
    assert_eq!((options.devices("cuda"), options.devices("tensorrt"), options.devices("cpu")), (2, 1, 1));
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(read(text).unwrap_err(), expected);
}

#[test]
fn mistakes_name_the_key_the_value_and_what_was_expected() {
    refused("[cuda]\nconv_serch = 1", {
        "provider.cuda.conv_serch: not an option: expected one of device, devices, memory_limit, arena_growth, \
         conv_search, conv_workspace_max, tf32, prefer_nhwc, cuda_graphs; did you mean conv_search?"
    });
    refused("[cuda]\nconv_search = \"heuristics\"", {
        "provider.cuda.conv_search: \"heuristics\" is not possible: expected one of \"heuristic\", \"exhaustive\", \
         \"default\"; did you mean \"heuristic\"?"
    });
    refused("[cuda]\nmemory_limit = \"lots\"", {
        "provider.cuda.memory_limit: \"lots\" is not possible: expected a size such as \"512MiB\" or \"4GiB\", or bytes"
    });
    refused("[cuda]\ndevices = [1, 1]", {
        "provider.cuda.devices: [1, 1] is not possible: expected each once; instances says how many sessions there \
         are on each"
    });
    refused("[cuda]\ndevice = 0\ndevices = [1]", {
        "provider.cuda.device: stands beside devices: expected one of the two"
    });
    refused("[cuda]\ndevice = -1", {
        "provider.cuda.device: -1 is not possible: expected a GPU's number from 0 to 255"
    });
    refused("[tensorrt]\nprecision = 16", {
        "provider.tensorrt.precision: 16 is not possible: expected one of \"fp32\", \"fp16\", \"bf16\", \"int8\""
    });
    refused("[openvino]\ndevice_type = \"TPU\"", {
        "provider.openvino.device_type: \"TPU\" is not possible: expected a device of OpenVINO, such as \"CPU\", \
         \"GPU\", \"GPU.1\", \"NPU\" or \"AUTO:GPU,CPU\""
    });
    refused("[openvino]\ndevice_types = [\"CPU\", \"GPU\"]", {
        "provider.openvino.device_types: [\"CPU\", \"GPU\"] is not possible: expected devices of one kind, since \
         others answer a little differently"
    });
    refused("[tensorr]\nprecision = \"fp16\"", {
        "provider.tensorr: no provider with options: expected one of cuda, tensorrt, openvino; did you mean tensorrt?"
    });
    refused("cuda = 1", {
        "provider.cuda: 1 is no table: expected such as [provider.cuda] with a line for each option"
    });
    assert!(read("[tensorrt]\ncuda_graphs = true").unwrap_err().contains("cuda_graphs of provider.cuda"));
    refused("[cuda]\ncuda_graphs = 1", "provider.cuda.cuda_graphs: 1 is not possible: expected true or false");
}

#[test]
fn tritons_parameters_mean_the_same() {
    let mut options = ProviderOptions::default();
    let parameters = [("precision_mode", "FP16"), ("max_workspace_size_bytes", "1073741824"), ("trt_dla_core", "1")];
    let parameters = parameters.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let ignored = options.take_accelerator(&Accelerator { name: "tensorrt".into(), parameters }).unwrap();
    assert_eq!(ignored, ["trt_dla_core"]);
    assert_eq!(options.tensorrt.precision, Precision::Fp16);
    assert_eq!(options.tensorrt.workspace_limit, Some(1 << 30));
    assert_eq!(options.take_parameter("cudnn_conv_algo_search", "1"), Ok(true));
    assert_eq!(options.take_parameter("my_note", "1"), Ok(false));
    assert_eq!(options.take_parameter("enable_cuda_graph", "1"), Ok(true));
    assert!(options.cuda.graphs);
    assert_eq!(options.cuda.conv_search, Some(ConvSearch::Heuristic));
    let error = options.take_parameter("gpu_mem_limit", "much").unwrap_err().to_string();
    assert!(error.starts_with("provider.cuda.memory_limit: \"much\" is not possible"), "{error}");
}

#[test]
fn sizes_are_powers_of_two_and_the_largest() {
    assert_eq!(fixed_sizes(64), [1, 2, 4, 8, 16, 32, 64]);
    assert_eq!(fixed_sizes(6), [1, 2, 4, 6]);
    assert_eq!(fixed_sizes(1), [1]);
    assert_eq!(fixed_sizes(0), [0usize; 0]);
}

#[test]
fn a_placement_reads_as_a_sentence() {
    let operators = [("Gather".to_owned(), 2), ("Shape".to_owned(), 1)].into();
    let placement = Placement { provider: "cpu".into(), operators };
    assert_eq!(placement.to_string(), "cpu: 3 nodes (Gather 2, Shape 1)");
}
