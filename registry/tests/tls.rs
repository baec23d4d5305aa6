//! Is what goes to a Postgres over the network encrypted, and only to the one that is meant?
#![cfg(feature = "sql")]

mod postgres;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use postgres::Postgres;
use tiltyard_registry::{Address, Error};

/// A certificate of localhost that vouches for itself, and its key, by the program that comes with Postgres' packages.
fn certificate(folder: &Path, name: &str) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args([
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    command.arg("-keyout").arg(folder.join(format!("{name}.key"))).arg("-out").arg(folder.join(format!("{name}.pem")));
    let output = command.output().expect("openssl runs: apt-get install openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_connection_is_tls_and_believes_whom_it_is_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    // Free a moment ago: nobody else is meant to take it meanwhile.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    certificate(folder.path(), "other");
    let server = Postgres::start_with(Some(port), |place, owner| {
        certificate(place, "server");
        fs::copy(place.join("server.pem"), folder.path().join("server.pem")).expect("a copy");
        for name in ["server.key", "server.pem"] {
            let path = place.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
            let (user, group) = owner.unzip();
            chown(&path, user, group).expect("it is ours");
        }
        let file = |setting: &str, name: &str| format!("{setting}={}", place.join(name).display());
        let (certificate, key) = (file("ssl_cert_file", "server.pem"), file("ssl_key_file", "server.key"));
        vec!["ssl=on".into(), certificate, key]
    });
    let Some(_server) = server else { return };
    let connect = |host: &str, rest: &str| {
        let url = format!("postgres://tiltyard@{host}:{port}/postgres?{rest}");
        Address::parse(&url, None).expect("a URL").connect()
    };
    let roots = |name: &str| format!("sslmode=verify-full&sslrootcert={}", folder.path().join(name).display());
    let is_encrypted = |mut client: tiltyard_registry::postgres::Client| -> bool {
        let rows = client.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).expect("it answers");
        rows[0].get(0)
    };
    assert!(is_encrypted(connect("localhost", &roots("server.pem")).expect("it is who it says")));
    assert!(!is_encrypted(connect("localhost", "sslmode=disable").expect("it is this machine")));
    for (host, rest) in [
        ("localhost", roots("other.pem")),
        ("localhost", "sslmode=require".to_owned()),
        ("127.0.0.1", roots("server.pem")),
    ] {
        let error = connect(host, &rest).expect_err("it is not who is meant");
        assert!(
            matches!(error, Error::Unreachable { .. }) && error.to_string().contains("certificate"),
            "{rest}: {error}"
        );
    }
    let error = connect("localhost", &roots("server.key")).expect_err("it is no certificate").to_string();
    assert!(error.contains("expected PEM") || error.contains("sslrootcert"), "{error}");
}
