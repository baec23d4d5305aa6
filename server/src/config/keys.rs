//! Which settings are there?
//!
//! To add one, add an entry to the table below: its flag, its variable, its key in the file, its place in the help,
//! the listing and the docs, and its field in [`Config`] follow from it.

use std::path::PathBuf;
use std::time::Duration;

use tiltyard_runtime::repository::policy::VersionPolicy;

use super::kinds::{
    self, AlertsForm, Algorithm, Amount, CaptureMode, ClientAuth, DriftMode, Form, Host, LogFormat, LogLevel,
    ModelControl, OnFailure, OpenCall, Signing,
};
use super::{ConfigError, RawConfig};
use crate::clients::ClientKey;

/// One setting, as the table defines it.
pub(super) struct KeyDefinition {
    /// The heading it stands under.
    pub(super) section: &'static str,
    /// The key in the file, such as `http_port`.
    pub(super) name: &'static str,
    /// What stands for its value in help, such as `PORT`.
    pub(super) placeholder: &'static str,
    /// Which values are right.
    pub(super) expected: &'static str,
    /// How the file may spell it.
    pub(super) form: Form,
    /// What holds where nobody said otherwise.
    pub(super) fallback: Fallback,
    /// What it does, in a sentence or two.
    pub(super) help: &'static str,
}

/// The value of a key that no source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// As if this had been written; nothing stands for none.
    Text(&'static str),
    /// The value of another key, whichever source that has.
    Like(&'static str),
    /// The user's data folder, which the environment knows.
    DataHome,
}

impl KeyDefinition {
    /// The flag without its dashes, such as `http-port`.
    pub(super) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The variable, such as `TILTYARD_HTTP_PORT`.
    pub(super) fn variable(&self) -> String {
        format!("{}{}", super::environment::PREFIX, self.name.to_ascii_uppercase())
    }

    /// Whether the file may hold it: all but the key that says which file.
    pub(super) fn in_file(&self) -> bool {
        self.name != "config"
    }

    /// The default for people: its text, or where it comes from.
    pub(super) fn fallback_shown(&self) -> String {
        match self.fallback {
            _ if !self.in_file() => "./tiltyard.toml where it exists".to_owned(),
            Fallback::Text("") => "none".to_owned(),
            Fallback::Text(text) => text.to_owned(),
            Fallback::Like(other) => format!("that of {other}"),
            Fallback::DataHome => "$XDG_DATA_HOME/tiltyard, else ~/.local/share/tiltyard".to_owned(),
        }
    }
}

/// Makes, of one table, the list of definitions, the settings as meant, and the step from written to meant.
macro_rules! keys {
    ($($section:literal { $($name:ident: $type:ty = $kind:ident, $fallback:expr, $help:literal;)* })*) => {
        /// Every setting, in the table's order.
        pub(super) const KEYS: &[KeyDefinition] = &[$($(KeyDefinition {
            section: $section,
            name: stringify!($name),
            placeholder: kinds::$kind.placeholder,
            expected: kinds::$kind.expected,
            form: kinds::$kind.form,
            fallback: $fallback,
            help: $help,
        },)*)*];

        /// The settings as meant: typed, checked one by one, and complete.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $help] pub $name: $type,)*)*
        }

        impl Config {
            /// Reads every value that is written; fails at the first that is not what its key expects.
            pub(super) fn mean(raw: &RawConfig) -> Result<Config, ConfigError> {
                Ok(Config { $($($name: raw.meaning(stringify!($name), &kinds::$kind)?,)*)* })
            }
        }
    };
}

use Fallback::{DataHome, Like, Text};

keys! {
    "Models" {
        models: PathBuf = PATH_OR_URL, Text("./models"),
            "The folder of models, with one folder per model and in it one per version; or the URL of such a \
             folder in a store: s3://, gs://, az://, http:// or https://.";
        model_control: ModelControl = MODEL_CONTROL, Text("watch"),
            "Who decides what is loaded: none takes what is there at the start, watch follows the folder, explicit \
             waits for clients to ask.";
        load_model: Vec<String> = NAMES, Text(""),
            "Models to load at the start under model_control explicit. The flag may be given several times.";
        version_policy: VersionPolicy = VERSION_POLICY, Text("latest:2"),
            "Which versions of a model are loaded where the model itself does not say.";
        poll_interval: Duration = DURATION_ABOVE_ZERO, Text("1s"),
            "How often the folder is looked at under model_control watch.";
        settle_time: Duration = DURATION, Text("2s"),
            "How long a version's files must not have changed before they are read. Raise it where copies stand still \
             for longer, or where a network file system tells late of changes.";
        store_interval: Duration = DURATION_ABOVE_ZERO, Text("30s"),
            "How often a store is asked what it has, where models is a URL. One that does not answer is asked less often.";
        store_token_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A file with a token that an http:// or https:// store is sent, as `Authorization: Bearer`.";
        on_failure: OnFailure = ON_FAILURE, Text("previous"),
            "Who answers requests without a version while the newest one is out of service because its runs keep failing or \
             hang: previous takes the one before it that is still loaded, refuse none.";
        endpoints: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A folder with a plan for each endpoint that has one, `<endpoint>.toml`: which versions answer which share of \
             its requests. Files are followed as models are.";
        strict: bool = BOOLEAN, Text("false"),
            "Refuse to start when a model fails to load, instead of serving the others.";
        signing: Signing = SIGNING, Text("off"),
            "Whether models have to be signed: off asks nobody, report tells which are, require serves no version whose model.sig \
             does not hold.";
        signing_keys: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "Whose signatures on models count: a file of public keys and of authorities' certificates, in PEM, or a folder of \
             such files.";
        webhook_url: Option<String> = OPTIONAL_TEXT, Text(""),
            "Who is told of the verdicts of rollouts, and asked where a gate's name begins with webhook: a URL, over https:// \
             unless it is on this machine.";
        webhook_secret_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The file with the secret that signs what the webhook is sent.";
        webhook_ca: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The authorities for connections to the webhook, in PEM, where they are not those of the system.";
    }
    "Listening" {
        host: Host = HOST, Text("127.0.0.1"),
            "Where the data ports listen. Containers set 0.0.0.0.";
        http_port: u16 = PORT, Text("8000"),
            "The port for REST; gRPC is answered too. 0 chooses a free one.";
        grpc_port: u16 = PORT, Text("8001"),
            "The port for gRPC; REST is answered too. May be the same as http_port. 0 chooses a free one.";
        admin_host: Host = HOST, Text("127.0.0.1"),
            "Where the admin port listens.";
        admin_names: Vec<String> = NAMES, Text(""),
            "Names that the admin port is asked by where it has neither TLS nor an access_file, beside addresses, localhost, \
             admin_host and metrics_host. Others are refused: a page in a browser may have its own name lead here.";
        admin_port: u16 = PORT, Text("8002"),
            "The port for administration and metrics. 0 chooses a free one.";
        metrics_host: Host = HOST, Like("host"),
            "Where metrics are answered.";
        http_socket: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A Unix socket to answer REST on as well.";
        grpc_socket: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A Unix socket to answer gRPC on as well.";
        ports_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A file to write the bound ports to, once the server listens.";
    }
    "Locks" {
        tls_cert: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The certificate that every TCP port shows, with those between it and its authority, in PEM. With it the \
             ports speak TLS 1.2 and 1.3 and nothing else. A file that changes is used within seconds.";
        tls_key: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The private key that belongs to tls_cert, in PEM.";
        tls_client_ca: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The authorities that may have signed the certificates of clients, in PEM: mutual TLS.";
        tls_client_auth: ClientAuth = CLIENT_AUTH, Text("required"),
            "Whether every client must show a certificate, where there is a tls_client_ca. Probes of Kubernetes have none.";
        access_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The list of who may do what: tokens, groups and names of certificates with their roles. With it every call \
             needs credentials, open_calls aside. `tiltyard token new` makes a line of it.";
        open_calls: Vec<OpenCall> = OPEN_CALLS, Text("health"),
            "Calls that need no credentials where there is an access_file.";
        oidc_issuer: Option<String> = OPTIONAL_TEXT, Text(""),
            "The OpenID Connect provider whose JSON web tokens are taken, as their iss claim has it; needs an access_file, \
             which gives roles to groups.";
        oidc_audience: Vec<String> = NAMES, Text(""),
            "Audiences of which a JSON web token must name one: what the provider knows this server by.";
        oidc_jwks: Option<String> = OPTIONAL_TEXT, Text(""),
            "Where the provider's keys are: a URL or a file. Unless it is said, the provider is asked.";
        oidc_ca: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The authorities for connections to the provider, in PEM, where they are not those of the system.";
        oidc_algorithms: Vec<Algorithm> = ALGORITHMS, Text("RS256,ES256,EdDSA"),
            "Signatures of JSON web tokens that are taken.";
        oidc_groups_claim: String = TEXT, Text("groups"),
            "The claim that lists a caller's groups; dots go into objects, as in realm_access.roles.";
    }
    "Engines" {
        engines: Vec<String> = ENGINES, Text("auto"),
            "The engines that may be used, in order of preference; auto stands for all that are found.";
        ort_lib: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The library of ONNX Runtime, where it is not in one of the usual places.";
        threads: Amount = AMOUNT, Text("0"),
            "Threads that run models; 0 takes as many as the control group grants.";
        frontend_threads: Amount = AMOUNT, Text("0"),
            "Threads that read requests and write responses; 0 chooses.";
    }
    "Batching" {
        batch_rows_max: Amount = AMOUNT, Text("0"),
            "The most rows in one batch; 0 lets the measured cost decide.";
        batch_delay_max: Duration = DURATION, Text("0"),
            "How long a request may wait for others to share its batch.";
        queue_rows_max: Amount = AMOUNT, Text("0"),
            "The most requests that may wait in one model version's queue; 0 chooses.";
    }
    "Limits" {
        body_bytes_max: usize = SIZE, Text("64MiB"),
            "The largest request, on every protocol.";
        request_timeout: Duration = DURATION_ABOVE_ZERO, Text("30s"),
            "The time a request has where the client gave none: neither its head (grpc-timeout, tiltyard-timeout) nor its \
             parameter timeout, in microseconds. Whoever gives a deadline in the head can be refused before the request is \
             read.";
        run_timeout: Duration = DURATION, Text("60s"),
            "How long one run of a model may take before it is given up as stuck, if it also takes 20 times longer than \
             measured. 0 never gives up.";
        requests_max: usize = COUNT, Text("4096"),
            "The most requests in flight; more are refused at once. One model version may have up to four times of what \
             is free, alone 80 %, so that a flood on it leaves room for others.";
        bytes_in_flight_max: Amount = AMOUNT_OF_BYTES, Text("0"),
            "The most bytes of request bodies in memory, those that still arrive included; more are refused at once. \
             Model versions share it as they do requests_max. 0 takes a quarter of the memory that the control group \
             grants, 1GiB at most.";
        shadow_bytes_max: usize = SIZE, Text("64MiB"),
            "The most bytes of requests and answers that shadows hold, all of them together, while they wait to be compared. \
             The rest is not shown to them, and counted.";
        client_rate: Option<usize> = COUNT_OR_NONE, Text("0"),
            "Inference requests per second that each client may send; more are refused at once. A request counts once its \
             caller is known and before it is read, whatever it asks: a model that is not there counts too. 0 is no bound.";
        client_burst: Amount = AMOUNT, Text("0"),
            "Requests that a client may send at once, after a pause. 0 takes as many as client_rate.";
        client_key: ClientKey = CLIENT_KEY, Text("address"),
            "What tells clients apart for client_rate: the address they come from (over IPv6 its first 64 bits), or the \
             value of a header. Take a header only where a proxy sets it or checks it: clients write what they like.";
        feedback_rows_max: usize = COUNT, Text("250000"),
            "Rows of each rollout that wait for their labels, at some 400 bytes each; none take memory where no rollout is \
             decided by labels. Rows for which there is no room are no evidence of quality, and counted.";
        connections_max: usize = COUNT, Text("10000"),
            "The most open connections.";
        header_timeout: Duration = DURATION_ABOVE_ZERO, Text("10s"),
            "The time from a connection's start to the end of its first request's head.";
        idle_timeout: Duration = DURATION_ABOVE_ZERO, Text("75s"),
            "How long a connection may stay open between requests.";
        connection_age_max: Duration = DURATION, Text("0"),
            "How old a connection may become before its client is told to come again, so that load spreads over replicas; \
             0 for no limit. Requests in flight are finished.";
    }
    "Shutdown" {
        drain_notice: Duration = DURATION, Text("0s"),
            "How long the server says it is not ready, but still accepts requests, before it drains.";
        drain_timeout: Duration = DURATION, Text("30s"),
            "How long requests in flight may take to finish at shutdown.";
    }
    "Logs and metrics" {
        log_format: LogFormat = LOG_FORMAT, Text("auto"),
            "How log lines look; auto is human on a terminal and json elsewhere.";
        log_level: LogLevel = LOG_LEVEL, Text("info"),
            "The least important lines that are still logged.";
        triton_metrics: bool = BOOLEAN, Text("false"),
            "Serve metrics under Triton's names (nv_inference_...) as well.";
        otlp_endpoint: Option<String> = OPTIONAL_TEXT, Text(""),
            "The OpenTelemetry collector that traces are sent to, such as http://127.0.0.1:4318: OTLP over HTTP, as JSON.";
        trace_sampling: f64 = SHARE, Text("0.01"),
            "The share of requests that begin a trace, where there is an otlp_endpoint. Requests whose caller traces them go \
             on in that trace, or in none where the caller does not sample it.";
        price_cpu_hour: f64 = PRICE, Text("0"),
            "What an hour of one processor costs, in any currency: with it metrics tell what the runs of each version cost.";
        price_device_hour: f64 = PRICE, Text("0"),
            "What an hour of one device costs, in the same currency.";
    }
    "Drift" {
        drift: DriftMode = DRIFT_MODE, Text("baseline"),
            "What the inputs and outputs of versions are compared with: off; baseline, for those that have one, made by `tiltyard \
             drift baseline`; or traffic, where the first 20,000 rows of at least a day become one where there is none.";
    }
    "Alerts" {
        alerts: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A file of rules, by which somebody is told that something is not as it should be. Without one, drift, errors, the \
             capture, the log and dates of review are watched.";
        alerts_webhook: Option<String> = OPTIONAL_TEXT, Text(""),
            "Who is told of alerts: a URL, over https:// unless it is on this machine.";
        alerts_webhook_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A file with that URL, where it is a secret itself, as those of chats are.";
        alerts_form: AlertsForm = ALERTS_FORM, Text("tiltyard"),
            "What the webhook wants to read: tiltyard, as docs/alerts.md has it; alertmanager; or slack, a text.";
        alerts_token_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A file with a token that the webhook is sent, as `Authorization: Bearer`.";
        alerts_ca: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The authorities for connections to the webhook, in PEM, where they are not those of the system.";
    }
    "Capture" {
        capture: CaptureMode = CAPTURE_MODE, Text("off"),
            "Whether requests and answers are put on record, as rows in Parquet files: off; on, where no request waits for it and \
             what finds no room is counted; or audit, where no answer goes out that is not on the disk.";
        capture_dir: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The folder of the record, which one process at a time has. Where it is not said, capture in data_dir.";
        capture_rules: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A file with a table for each endpoint of which not everything is captured as it is: sample, columns, drop, redact, \
             hash, headers, subject. It is read again by a reload.";
        capture_key_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The file with the master key, 32 bytes or 64 hexadecimal digits, of endpoints whose rules name a subject: their rows are \
             encrypted under keys of each subject, which it wraps. Keep it elsewhere than the record.";
        capture_sink: Option<String> = OPTIONAL_TEXT, Text(""),
            "Who gets captured requests and responses as CloudEvents, as KServe's logger posts them: a URL.";
        capture_store: Option<PathBuf> = OPTIONAL_PATH_OR_URL, Text(""),
            "Where finished segments are copied to: s3://, gs://, az://, a server's URL, or another folder. Credentials are those of \
             models from a store.";
        capture_ring_bytes: usize = SIZE, Text("256MiB"),
            "The file that holds what is in no segment yet. It is mapped into memory, and made as large as this at once.";
        capture_segment_time: Duration = DURATION_ABOVE_ZERO, Text("60s"),
            "A segment is written so long after the first row that is for it, or sooner where 64MiB wait.";
        capture_age_max: Duration = DURATION, Text("0"),
            "Segments that are older are removed; 0 keeps all.";
        capture_bytes_max: Amount = AMOUNT_OF_BYTES, Text("0"),
            "The oldest segments are removed where all take more; 0 keeps all.";
    }
    "Files" {
        config: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The file of settings. Not a key of that file.";
        registry_store: Option<PathBuf> = OPTIONAL_PATH_OR_URL, Text(""),
            "Where replicas that share a registry have the files of versions: a folder on a disk that all of them reach, or the \
             URL of a store, such as s3://bucket/versions. Without it each has what was pushed to it.";
        lineage_url: Option<String> = OPTIONAL_TEXT, Text(""),
            "Where OpenLineage events of pushes, promotions and endpoints' plans are sent: the whole URL, as that of \
             Marquez ends with /api/v1/lineage.";
        lineage_token_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "A file with a token that lineage_url is sent, as `Authorization: Bearer`.";
        environment: String = TEXT, Text("prod"),
            "The environment of the registry whose versions this server has answer: dev, staging, prod, or another that was \
             declared.";
        data_dir: PathBuf = PATH, DataHome,
            "The folder for what the server remembers between runs.";
    }
    "Fleet" {
        registry: Option<String> = OPTIONAL_TEXT, Text(""),
            "The database that the replicas of one fleet share, such as postgres://tiltyard@db/tiltyard: a rollout then has one \
             verdict for all. Without it this process is the only one, and what it must remember is in data_dir.";
        registry_password_file: Option<PathBuf> = OPTIONAL_PATH, Text(""),
            "The file with the password for the registry, which its URL must not have.";
        replica: Option<String> = OPTIONAL_TEXT, Text(""),
            "What this replica is called among the others. Where it is not said, the machine's name and some random digits that \
             stay the same.";
    }
}
