//! Which fields does Triton's model configuration have, and which of them are acted on here?
//!
//! To act on one more field, mark it `acted_on` here and read it in `read.rs`.

/// A kind of message: its name in Triton's schema and its fields. No message contains itself, which bounds how deep
/// a file can nest.
pub(super) struct MessageType {
    pub(super) name: &'static str,
    pub(super) fields: &'static [Field],
}

/// A field of a message.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether it may occur more than once. Maps are repeated messages of a key and a value.
    pub(super) repeated: bool,
    /// Fields of a message with the same choice exclude each other.
    pub(super) choice: Option<&'static str>,
    /// Whether the field is told as ignored, under its own name even if it is a message. The fields of a message
    /// that is not ignored say for themselves.
    pub(super) ignored: bool,
}

/// The kinds of values.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Bool,
    Float,
    /// An integer from the first to the second number.
    Integer(i128, i128),
    /// One of these names, which stand for 0, 1, 2 and so on.
    Names(&'static [&'static str]),
    Message(&'static MessageType),
}

use Kind::{Bool, Float, Integer, Message, Names, Text};

const INT32: Kind = Integer(i32::MIN as i128, i32::MAX as i128);
const INT64: Kind = Integer(i64::MIN as i128, i64::MAX as i128);
const UINT32: Kind = Integer(0, u32::MAX as i128);
const UINT64: Kind = Integer(0, u64::MAX as i128);
/// An INT32 that Triton itself refuses below zero.
const NATURAL: Kind = Integer(0, i32::MAX as i128);
/// An INT64 that is a length, or -1 for one that varies.
const LENGTH: Kind = Integer(-1, i64::MAX as i128);

/// A field that occurs once at most, and is ignored.
const fn one(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, repeated: false, choice: None, ignored: true }
}

/// A field that may occur often, and is ignored.
const fn many(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, repeated: true, choice: None, ignored: true }
}

impl Field {
    const fn acted_on(mut self) -> Field {
        self.ignored = false;
        self
    }

    const fn choice(mut self, choice: &'static str) -> Field {
        self.choice = Some(choice);
        self
    }
}

const DATA_TYPE: Kind = Names(&[
    "TYPE_INVALID",
    "TYPE_BOOL",
    "TYPE_UINT8",
    "TYPE_UINT16",
    "TYPE_UINT32",
    "TYPE_UINT64",
    "TYPE_INT8",
    "TYPE_INT16",
    "TYPE_INT32",
    "TYPE_INT64",
    "TYPE_FP16",
    "TYPE_FP32",
    "TYPE_FP64",
    "TYPE_STRING",
    "TYPE_BF16",
]);

/// A map from text to text whose content is ignored.
const TEXT_MAP: Kind = Message(&MessageType { name: "map entry", fields: &[one("key", Text), one("value", Text)] });

/// The same where the content is acted on.
const PARAMETERS: Kind =
    Message(&MessageType { name: "map entry", fields: &[one("key", Text).acted_on(), one("value", Text).acted_on()] });

const RESHAPE: Kind = Message(&MessageType { name: "ModelTensorReshape", fields: &[many("shape", LENGTH)] });

/// The whole file.
pub(super) static MODEL_CONFIG: MessageType = MessageType {
    name: "ModelConfig",
    fields: &[
        one("name", Text).acted_on(),
        one("platform", Text).acted_on(),
        one("backend", Text).acted_on(),
        one("runtime", Text),
        one("version_policy", Message(&VERSION_POLICY)).acted_on(),
        one("max_batch_size", NATURAL).acted_on(),
        many("input", Message(&INPUT)).acted_on(),
        many("output", Message(&OUTPUT)).acted_on(),
        many("batch_input", Message(&BATCH_INPUT)),
        many("batch_output", Message(&BATCH_OUTPUT)),
        one("optimization", Message(&OPTIMIZATION)).acted_on(),
        one("dynamic_batching", Message(&DYNAMIC_BATCHING)).choice("scheduling").acted_on(),
        one("sequence_batching", Message(&SEQUENCE_BATCHING)).choice("scheduling"),
        one("ensemble_scheduling", Message(&ENSEMBLING)).choice("scheduling"),
        many("instance_group", Message(&INSTANCE_GROUP)).acted_on(),
        one("default_model_filename", Text).acted_on(),
        many("cc_model_filenames", TEXT_MAP),
        many("metric_tags", TEXT_MAP),
        many("parameters", Message(&PARAMETER)).acted_on(),
        many("model_warmup", Message(&WARMUP)).acted_on(),
        one("model_operations", Message(&OPERATIONS)),
        one("model_transaction_policy", Message(&TRANSACTION_POLICY)).acted_on(),
        one("model_repository_agents", Message(&AGENTS)),
        one("response_cache", Message(&RESPONSE_CACHE)).acted_on(),
        one("model_metrics", Message(&METRICS)),
    ],
};

static VERSION_POLICY: MessageType = MessageType {
    name: "ModelVersionPolicy",
    fields: &[
        one(
            "latest",
            Message(&MessageType {
                name: "Latest",
                fields: &[one("num_versions", Integer(1, u32::MAX as i128)).acted_on()],
            }),
        )
        .choice("policy")
        .acted_on(),
        one("all", Message(&MessageType { name: "All", fields: &[] })).choice("policy").acted_on(),
        one(
            "specific",
            Message(&MessageType {
                name: "Specific",
                fields: &[many("versions", Integer(1, i64::MAX as i128)).acted_on()],
            }),
        )
        .choice("policy")
        .acted_on(),
    ],
};

static INPUT: MessageType = MessageType {
    name: "ModelInput",
    fields: &[
        one("name", Text).acted_on(),
        one("data_type", DATA_TYPE).acted_on(),
        one("format", Names(&["FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"])),
        many("dims", LENGTH).acted_on(),
        one("reshape", RESHAPE),
        one("is_shape_tensor", Bool),
        one("allow_ragged_batch", Bool),
        one("optional", Bool).acted_on(),
        one("is_non_linear_format_io", Bool),
    ],
};

static OUTPUT: MessageType = MessageType {
    name: "ModelOutput",
    fields: &[
        one("name", Text).acted_on(),
        one("data_type", DATA_TYPE).acted_on(),
        many("dims", LENGTH).acted_on(),
        one("reshape", RESHAPE),
        one("label_filename", Text).acted_on(),
        one("is_shape_tensor", Bool),
        one("is_non_linear_format_io", Bool),
    ],
};

static BATCH_INPUT: MessageType = MessageType {
    name: "BatchInput",
    fields: &[
        one(
            "kind",
            Names(&[
                "BATCH_ELEMENT_COUNT",
                "BATCH_ACCUMULATED_ELEMENT_COUNT",
                "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
                "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
                "BATCH_ITEM_SHAPE",
                "BATCH_ITEM_SHAPE_FLATTEN",
            ]),
        ),
        many("target_name", Text),
        one("data_type", DATA_TYPE),
        many("source_input", Text),
    ],
};

static BATCH_OUTPUT: MessageType = MessageType {
    name: "BatchOutput",
    fields: &[
        many("target_name", Text),
        one("kind", Names(&["BATCH_SCATTER_WITH_INPUT_SHAPE"])),
        many("source_input", Text),
    ],
};

static OPTIMIZATION: MessageType = MessageType {
    name: "ModelOptimizationPolicy",
    fields: &[
        one("graph", Message(&MessageType { name: "Graph", fields: &[one("level", INT32)] })).acted_on(),
        one("priority", Names(&["PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"])),
        one("cuda", Message(&CUDA)).acted_on(),
        one("execution_accelerators", Message(&ACCELERATORS)).acted_on(),
        one("input_pinned_memory", Message(&PINNED_MEMORY)).acted_on(),
        one("output_pinned_memory", Message(&PINNED_MEMORY)).acted_on(),
        one("gather_kernel_buffer_threshold", UINT32),
        one("eager_batching", Bool),
    ],
};

static PINNED_MEMORY: MessageType = MessageType { name: "PinnedMemoryBuffer", fields: &[one("enable", Bool)] };

static CUDA: MessageType = MessageType {
    name: "Cuda",
    fields: &[
        one("graphs", Bool),
        one("busy_wait_events", Bool),
        many("graph_spec", Message(&GRAPH_SPEC)),
        one("output_copy_stream", Bool),
    ],
};

static GRAPH_SPEC: MessageType = MessageType {
    name: "GraphSpec",
    fields: &[
        one("batch_size", INT32),
        many("input", Message(&GRAPH_SHAPE)),
        one(
            "graph_lower_bound",
            Message(&MessageType {
                name: "LowerBound",
                fields: &[one("batch_size", INT32), many("input", Message(&GRAPH_SHAPE))],
            }),
        ),
    ],
};

static GRAPH_SHAPE: MessageType = MessageType {
    name: "map entry",
    fields: &[one("key", Text), one("value", Message(&MessageType { name: "Shape", fields: &[many("dim", INT64)] }))],
};

static ACCELERATORS: MessageType = MessageType {
    name: "ExecutionAccelerators",
    fields: &[
        many("gpu_execution_accelerator", Message(&ACCELERATOR)).acted_on(),
        many("cpu_execution_accelerator", Message(&ACCELERATOR)).acted_on(),
    ],
};

static ACCELERATOR: MessageType = MessageType {
    name: "Accelerator",
    fields: &[one("name", Text).acted_on(), many("parameters", PARAMETERS).acted_on()],
};

static DYNAMIC_BATCHING: MessageType = MessageType {
    name: "ModelDynamicBatching",
    fields: &[
        many("preferred_batch_size", NATURAL).acted_on(),
        one("max_queue_delay_microseconds", UINT64).acted_on(),
        one("preserve_ordering", Bool).acted_on(),
        one("priority_levels", UINT64).acted_on(),
        one("default_priority_level", UINT64).acted_on(),
        one("default_queue_policy", Message(&QUEUE_POLICY)).acted_on(),
        many(
            "priority_queue_policy",
            Message(&MessageType {
                name: "map entry",
                fields: &[one("key", UINT64).acted_on(), one("value", Message(&QUEUE_POLICY)).acted_on()],
            }),
        )
        .acted_on(),
    ],
};

static QUEUE_POLICY: MessageType = MessageType {
    name: "ModelQueuePolicy",
    fields: &[
        one("timeout_action", Names(&["REJECT", "DELAY"])).acted_on(),
        one("default_timeout_microseconds", UINT64).acted_on(),
        one("allow_timeout_override", Bool).acted_on(),
        one("max_queue_size", UINT32).acted_on(),
    ],
};

static SEQUENCE_BATCHING: MessageType = MessageType {
    name: "ModelSequenceBatching",
    fields: &[
        one(
            "direct",
            Message(&MessageType {
                name: "StrategyDirect",
                fields: &[one("max_queue_delay_microseconds", UINT64), one("minimum_slot_utilization", Float)],
            }),
        )
        .choice("strategy"),
        one(
            "oldest",
            Message(&MessageType {
                name: "StrategyOldest",
                fields: &[
                    one("max_candidate_sequences", INT32),
                    many("preferred_batch_size", INT32),
                    one("max_queue_delay_microseconds", UINT64),
                    one("preserve_ordering", Bool),
                ],
            }),
        )
        .choice("strategy"),
        one("max_sequence_idle_microseconds", UINT64),
        many(
            "control_input",
            Message(&MessageType {
                name: "ControlInput",
                fields: &[one("name", Text), many("control", Message(&SEQUENCE_CONTROL))],
            }),
        ),
        many("state", Message(&SEQUENCE_STATE)),
        one("iterative_sequence", Bool),
    ],
};

static SEQUENCE_CONTROL: MessageType = MessageType {
    name: "Control",
    fields: &[
        one(
            "kind",
            Names(&[
                "CONTROL_SEQUENCE_START",
                "CONTROL_SEQUENCE_READY",
                "CONTROL_SEQUENCE_END",
                "CONTROL_SEQUENCE_CORRID",
            ]),
        ),
        many("int32_false_true", INT32),
        many("fp32_false_true", Float),
        many("bool_false_true", Bool),
        one("data_type", DATA_TYPE),
    ],
};

static SEQUENCE_STATE: MessageType = MessageType {
    name: "State",
    fields: &[
        one("input_name", Text),
        one("output_name", Text),
        one("data_type", DATA_TYPE),
        many("dims", INT64),
        many(
            "initial_state",
            Message(&MessageType {
                name: "InitialState",
                fields: &[
                    one("data_type", DATA_TYPE),
                    many("dims", INT64),
                    one("zero_data", Bool).choice("data"),
                    one("data_file", Text).choice("data"),
                    one("name", Text),
                ],
            }),
        ),
        one("use_same_buffer_for_input_output", Bool),
        one("use_growable_memory", Bool),
    ],
};

static ENSEMBLING: MessageType = MessageType {
    name: "ModelEnsembling",
    fields: &[
        many(
            "step",
            Message(&MessageType {
                name: "Step",
                fields: &[
                    one("model_name", Text),
                    one("model_version", INT64),
                    many("input_map", TEXT_MAP),
                    many("output_map", TEXT_MAP),
                    one("model_namespace", Text),
                ],
            }),
        ),
        one("max_inflight_requests", UINT32),
    ],
};

static INSTANCE_GROUP: MessageType = MessageType {
    name: "ModelInstanceGroup",
    fields: &[
        one("name", Text),
        one("kind", Names(&["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"])).acted_on(),
        one("count", NATURAL).acted_on(),
        one("rate_limiter", Message(&RATE_LIMITER)),
        many("gpus", NATURAL).acted_on(),
        many(
            "secondary_devices",
            Message(&MessageType {
                name: "SecondaryDevice",
                fields: &[one("kind", Names(&["KIND_NVDLA"])), one("device_id", INT64)],
            }),
        ),
        many("profile", Text),
        one("passive", Bool),
        one("host_policy", Text),
    ],
};

static RATE_LIMITER: MessageType = MessageType {
    name: "ModelRateLimiter",
    fields: &[
        many(
            "resources",
            Message(&MessageType {
                name: "Resource",
                fields: &[one("name", Text), one("global", Bool), one("count", UINT32)],
            }),
        ),
        one("priority", UINT32),
    ],
};

static PARAMETER: MessageType = MessageType {
    name: "map entry",
    fields: &[
        one("key", Text).acted_on(),
        one("value", Message(&MessageType { name: "ModelParameter", fields: &[one("string_value", Text).acted_on()] }))
            .acted_on(),
    ],
};

static WARMUP: MessageType = MessageType {
    name: "ModelWarmup",
    fields: &[
        one("name", Text).acted_on(),
        one("batch_size", UINT32).acted_on(),
        many(
            "inputs",
            Message(&MessageType {
                name: "map entry",
                fields: &[one("key", Text).acted_on(), one("value", Message(&WARMUP_INPUT)).acted_on()],
            }),
        )
        .acted_on(),
        one("count", UINT32).acted_on(),
    ],
};

static WARMUP_INPUT: MessageType = MessageType {
    name: "Input",
    fields: &[
        one("data_type", DATA_TYPE).acted_on(),
        many("dims", INT64).acted_on(),
        one("zero_data", Bool).choice("data").acted_on(),
        one("random_data", Bool).choice("data").acted_on(),
        one("input_data_file", Text).choice("data").acted_on(),
    ],
};

static OPERATIONS: MessageType = MessageType { name: "ModelOperations", fields: &[many("op_library_filename", Text)] };

static TRANSACTION_POLICY: MessageType =
    MessageType { name: "ModelTransactionPolicy", fields: &[one("decoupled", Bool)] };

static AGENTS: MessageType = MessageType {
    name: "ModelRepositoryAgents",
    fields: &[many(
        "agents",
        Message(&MessageType { name: "Agent", fields: &[one("name", Text), many("parameters", TEXT_MAP)] }),
    )],
};

static RESPONSE_CACHE: MessageType = MessageType { name: "ModelResponseCache", fields: &[one("enable", Bool)] };

static METRICS: MessageType = MessageType {
    name: "ModelMetrics",
    fields: &[many(
        "metric_control",
        Message(&MessageType {
            name: "MetricControl",
            fields: &[
                one(
                    "metric_identifier",
                    Message(&MessageType { name: "MetricIdentifier", fields: &[one("family", Text)] }),
                ),
                one(
                    "histogram_options",
                    Message(&MessageType { name: "HistogramOptions", fields: &[many("buckets", Float)] }),
                ),
            ],
        }),
    )],
};
