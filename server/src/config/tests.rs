//! Do the sources, their order and their mistakes come out as promised?

use tiltyard_runtime::repository::policy::VersionPolicy;

use super::*;

const ADVICE: &str = "run this test again with TILTYARD_REGENERATE=1";

/// Loads from a command line, variables and the text of `./tiltyard.toml`, which is missing if empty.
fn load_from(flags: &[&str], variables: &[(&str, &str)], toml: &str) -> Result<Loaded, ConfigError> {
    let command = clap::Command::new("tiltyard").no_binary_name(true).args(command_flags());
    let matches = command.try_get_matches_from(flags).expect("the flags are well formed");
    let environment = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    load(&matches, &environment, &|path| match path.to_str() {
        Some(DEFAULT_FILE | "/etc/tiltyard.toml") if !toml.is_empty() => Ok(toml.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    })
}

/// The value and origin of one key, as the listing has them.
fn told(loaded: &Loaded, key: &str) -> String {
    let setting = loaded.origins.iter().find(|setting| setting.key == key).expect("the key exists");
    format!("{} ({})", setting.value, setting.origin)
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let loaded = load_from(&[], &[("HOME", "/home/ada")], "").unwrap();
    let config = &loaded.config;
    assert_eq!((config.http_port, config.grpc_port, config.admin_port), (8000, 8001, 8002));
    assert_eq!(config.host, Host::Address([127, 0, 0, 1].into()));
    assert_eq!(config.body_bytes_max, 64 << 20);
    assert_eq!(config.bytes_in_flight_max, Amount::Auto);
    assert_eq!(config.request_timeout, std::time::Duration::from_secs(30));
    assert_eq!(config.version_policy, VersionPolicy::Latest(2));
    assert_eq!(config.model_control, ModelControl::Watch);
    assert_eq!(config.data_dir, Path::new("/home/ada/.local/share/tiltyard"));
    assert_eq!((config.threads, config.engines.len(), &config.config), (Amount::Auto, 0, &None));
    assert!(loaded.origins.iter().all(|setting| setting.origin == Origin::Default));
    assert!(loaded.warnings.is_empty());
    let unasked = Config { data_dir: config.data_dir.clone(), ..Config::default() };
    assert_eq!(*config, unasked);
}

#[test]
fn the_stronger_source_wins() {
    let flags = ["--http-port", "1"];
    let variables = [("TILTYARD_HTTP_PORT", "2"), ("TILTYARD_GRPC_PORT", "2\n")];
    let toml = "http_port = 3\ngrpc_port = 3\nadmin_port = 3\n";
    let loaded = load_from(&flags, &variables, toml).unwrap();
    let config = &loaded.config;
    assert_eq!((config.http_port, config.grpc_port, config.admin_port), (1, 2, 3));
    assert_eq!(told(&loaded, "http_port"), "1 (flag --http-port)");
    assert_eq!(told(&loaded, "grpc_port"), "2 (environment TILTYARD_GRPC_PORT)");
    assert_eq!(told(&loaded, "admin_port"), "3 (file ./tiltyard.toml:admin_port)");
    assert_eq!(told(&loaded, "config"), "./tiltyard.toml (default)");
    let listing = loaded.listing();
    assert_eq!(listing.lines().count(), KEYS.len());
    let line = listing.lines().find(|line| line.starts_with("grpc_port ")).unwrap();
    assert!(line.ends_with(" environment TILTYARD_GRPC_PORT") && line.contains(" 2 "), "{line}");
}

#[test]
fn the_file_can_be_chosen_and_left_out() {
    let toml = "strict = true";
    for (flags, variables, expected) in [
        (&["--config", "/etc/tiltyard.toml"][..], &[][..], "true (file /etc/tiltyard.toml:strict)"),
        (&[], &[("TILTYARD_CONFIG", "/etc/tiltyard.toml")], "true (file /etc/tiltyard.toml:strict)"),
        (&["--config="], &[], "false (default)"),
    ] {
        assert_eq!(told(&load_from(flags, variables, toml).unwrap(), "strict"), expected);
    }
    let error = load_from(&["--config", "/nowhere"], &[], toml).unwrap_err().to_string();
    assert_eq!(error, "cannot read /nowhere (flag --config): entity not found");
}

#[test]
fn defaults_may_follow_others() {
    let loaded = load_from(&["--host=0.0.0.0"], &[("XDG_DATA_HOME", "/data"), ("HOME", "/root")], "").unwrap();
    assert_eq!(told(&loaded, "metrics_host"), "0.0.0.0 (default)");
    assert_eq!(told(&loaded, "data_dir"), "/data/tiltyard (default)");
    let loaded = load_from(&[], &[("XDG_DATA_HOME", "relative")], "metrics_host = '::1'").unwrap();
    assert_eq!(loaded.config.metrics_host.to_string(), "::1");
    assert_eq!(told(&loaded, "data_dir"), "./.tiltyard (default)");
}

#[test]
fn lists_and_booleans_read_the_same_from_every_source() {
    let check = |flags: &[&str], variables: &[(&str, &str)], toml: &str| {
        let config = load_from(flags, variables, toml).unwrap().config;
        assert_eq!(config.load_model, ["a", "b", "c"]);
        assert_eq!(config.engines, ["onnxruntime", "tract"]);
        assert_eq!(config.version_policy, VersionPolicy::Specific([1, 3].into()));
        assert!(config.strict && !config.triton_metrics);
    };
    let flags = ["--load-model=a,b", "--load-model", "c", "--engines=onnxruntime,tract", "--version-policy=3,1"];
    check(&[&flags[..], &["--strict", "--triton-metrics=false"]].concat(), &[], "");
    let variables = [
        ("TILTYARD_LOAD_MODEL", "a, b ,c"),
        ("TILTYARD_ENGINES", "onnxruntime,tract"),
        ("TILTYARD_VERSION_POLICY", "1,3,3"),
        ("TILTYARD_STRICT", "true"),
    ];
    check(&[], &variables, "");
    let toml = "load_model = ['a', 'b', 'c']\nengines = 'onnxruntime,tract'\nversion_policy = [1, 3]\nstrict = true";
    check(&[], &[], toml);
}

#[test]
fn values_mean_what_they_say() {
    let duration = |text| (kinds::DURATION.parse)(text);
    for (text, millis) in [("0", 0), ("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000)] {
        assert_eq!(duration(text), Some(std::time::Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "30", "s", "-1s", "1.5s", "1d", "9999h", "99999999999999999999s", "18446744073709551615h", "1 é"]
    {
        assert_eq!(duration(text), None, "{text}");
    }
    assert_eq!((kinds::DURATION_ABOVE_ZERO.parse)("0s"), None);
    let size = |text| (kinds::SIZE.parse)(text);
    for (text, bytes) in [("67108864", 64 << 20), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("64MB", 64_000_000)] {
        assert_eq!(size(text), Some(bytes), "{text}");
    }
    for text in ["", "0", "MiB", "-1", "64M", "1.5GiB", "18446744073709551615TiB"] {
        assert_eq!(size(text), None, "{text}");
    }
    let host = |text| (kinds::HOST.parse)(text).map(|host| host.to_string());
    for (text, shown) in [("[::1]", "::1"), ("0.0.0.0", "0.0.0.0"), ("localhost", "localhost"), ("a-1.b.", "a-1.b.")] {
        assert_eq!(host(text).as_deref(), Some(shown));
    }
    for text in ["", ".", "127.0.0.300", "10", "tcp://1.2.3.4", "a b", "localhost:80"] {
        assert_eq!(host(text), None, "{text}");
    }
    for text in ["", "latest:0", "0", "1,,2", "1,x", "ALL"] {
        assert_eq!((kinds::VERSION_POLICY.parse)(text), None, "{text}");
    }
    assert_eq!((kinds::VERSION_POLICY.parse)("all"), Some(VersionPolicy::All));
    assert_eq!((kinds::ENGINES.parse)("tract,auto"), None);
    assert_eq!((kinds::AMOUNT.parse)("3").map(|amount| amount.or(9)), Some(3));
    assert_eq!((kinds::AMOUNT.parse)("0").map(|amount| amount.or(9)), Some(9));
}

#[test]
fn bad_values_are_told_with_key_source_value_and_expectation() {
    let check = |flags: &[&str], variables: &[(&str, &str)], toml: &str, expected: &str| {
        assert_eq!(load_from(flags, variables, toml).unwrap_err().to_string(), expected);
    };
    let port = "expected a port from 1 to 65535, or 0 for any that is free";
    check(&["--http-port=x"], &[], "", &format!("http_port = \"x\" (flag --http-port): {port}"));
    let variables = [("TILTYARD_HTTP_PORT", "65536")];
    check(&[], &variables, "", &format!("http_port = \"65536\" (environment TILTYARD_HTTP_PORT): {port}"));
    check(&[], &[], "http_port = -1", &format!("http_port = \"-1\" (file ./tiltyard.toml:http_port): {port}"));
    check(
        &[],
        &[],
        "http_port = '80'",
        &format!("http_port = \"'80'\" (file ./tiltyard.toml:http_port): {port} without quotes"),
    );
    check(
        &[],
        &[],
        "[models]\nx = 1",
        "models = \"[models]\" (file ./tiltyard.toml:models): expected a path, or the URL of a store as a string",
    );
    check(
        &[],
        &[],
        "request_timeout = 30",
        "request_timeout = \"30\" (file ./tiltyard.toml:request_timeout): expected an integer above 0 with a unit \
         (us, ms, s, m, h), such as 500ms, up to 8760h",
    );
    check(
        &["--log-level=loud"],
        &[],
        "",
        "log_level = \"loud\" (flag --log-level): expected error, warn, info, debug or trace",
    );
    check(
        &[],
        &[],
        "load_model = ['a,b']",
        "load_model = \"['a,b']\" (file ./tiltyard.toml:load_model): expected names with commas between them as an \
         array or a string",
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    let check = |toml: &str, expected: &str| {
        assert_eq!(load_from(&[], &[], toml).unwrap_err().to_string(), format!("./tiltyard.toml:{expected}"));
    };
    check("strict = true\nhttp-port = 1", "2: unknown key \"http-port\": did you mean http_port?");
    check("[rollouts.a]\nweight = 1", "1: unknown key \"rollouts\"");
    check("config = 'x'", "1: unknown key \"config\"");
    check(&format!("{} = 1", "x".repeat(5000)), &format!("1: unknown key \"{}\"", "x".repeat(5000)));
}

#[test]
fn what_is_not_toml_is_refused_where_it_goes_wrong() {
    for (toml, expected) in [("strict = true\nstrict = false", "2:1: "), ("\n strict = \n", "2:11: ")] {
        let error = load_from(&[], &[], toml).unwrap_err().to_string();
        assert!(error.starts_with(&format!("./tiltyard.toml:{expected}")), "{error}");
    }
}

#[test]
fn variables_that_only_look_like_settings_warn() {
    let check = |variables: &[(&str, &str)], expected: &[&str]| {
        let loaded = load_from(&[], variables, "").unwrap();
        assert_eq!(loaded.warnings, expected);
        assert_eq!(loaded.config, Config::default(), "nothing was taken from {variables:?}");
    };
    check(
        &[("TILTYARD_HTP_PORT", "1"), ("PATH", "/bin")],
        &["unknown variable TILTYARD_HTP_PORT: did you mean TILTYARD_HTTP_PORT?"],
    );
    check(&[("TILTYARD_http_port", "1")], &["unknown variable TILTYARD_http_port: did you mean TILTYARD_HTTP_PORT?"]);
    check(&[("TILTYARD_FOO", "1")], &["unknown variable TILTYARD_FOO"]);
    check(&[("TILTYARD_SERVER", "x"), ("TILTYARD_REGENERATE", "1"), ("TILTYARD_TEST_SEED", "1")], &[]);
    check(&[("TILTYARD_HTTP_PORT", ""), ("TILTYARD_STRICT", " ")], &[]);
    check(
        &[
            ("TILTYARD_HTTP_PORT", "tcp://10.0.0.1:8000"),
            ("TILTYARD_GRPC_PORT", "udp://10.0.0.1:8001"),
            ("TILTYARD_PORT", "tcp://10.0.0.1:8000"),
            ("TILTYARD_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
            ("TILTYARD_PORT_8000_TCP_ADDR", "10.0.0.1"),
            ("TILTYARD_PORT_8000_TCP_PORT", "8000"),
            ("TILTYARD_SERVICE_HOST", "10.0.0.1"),
            ("TILTYARD_SERVICE_PORT", "8000"),
            ("TILTYARD_SERVICE_PORT_HTTP", "8000"),
        ],
        &["ignored, since Kubernetes sets them for services: TILTYARD_GRPC_PORT, TILTYARD_HTTP_PORT, TILTYARD_PORT, \
           TILTYARD_PORT_8000_TCP, TILTYARD_PORT_8000_TCP_ADDR, TILTYARD_PORT_8000_TCP_PORT, TILTYARD_SERVICE_HOST, \
           TILTYARD_SERVICE_PORT, TILTYARD_SERVICE_PORT_HTTP"],
    );
}

#[test]
fn every_flag_is_in_the_help_with_its_variable() {
    let mut command = clap::Command::new("tiltyard").args(command_flags());
    command.clone().debug_assert();
    let help = command.render_long_help().to_string();
    for key in KEYS {
        assert!(help.contains(&format!("--{}", key.flag())), "{}", key.name);
        assert!(help.contains(&format!("[env: {}]", key.variable())), "{}", key.name);
    }
}

#[test]
fn a_password_is_not_shown() {
    let loaded = load_from(&["--registry", "postgres://u:s3:c@r@db:5432/r?x=1"], &[], "").unwrap();
    assert_eq!(told(&loaded, "registry"), "postgres://u:…@db:5432/r?x=1 (flag --registry)");
    for plain in ["postgres://u@db/r", "postgres:///r?host=/run", ""] {
        assert_eq!(without_password(plain), plain);
    }
}

#[test]
fn the_docs_are_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = reference_markdown();
    if std::env::var_os("TILTYARD_REGENERATE").is_some() {
        std::fs::write(path, &page).expect("the page can be written");
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == page, "docs/configuration.md is stale: {ADVICE}");
}
