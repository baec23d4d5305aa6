"""Is what goes over the wire encrypted, for real clients, and do certificates change without a request lost?"""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2, service_pb2_grpc

import asking
import securing
import serving

QUESTION = {"model": "identity_fp32", "inputs": [asking.tensor("input", np.ones((1, 4), np.float32))]}


def models(folder):
    return serving.link_models(folder / "models", serving.FIXTURES / "identity_fp32")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return securing.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("secure")
    pair = authority.issue("server", "localhost", "127.0.0.1")
    with securing.SecureServer(models(folder), folder, *securing.tls_flags(pair), ca=authority.path) as made:
        yield made


def needs(program):
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


@needs("curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_over_tls(secure, version):
    for port in (secure.http_port, secure.grpc_port, secure.admin_port):
        done = subprocess.run(
            ["curl", "-sS", version, "--cacert", str(secure.ca), "-w", "%{http_code} %{http_version}",
             f"https://localhost:{port}/v2/health/ready"], capture_output=True, text=True, timeout=30)
        assert done.stdout == f"200 {'2' if version == '--http2' else '1.1'}", done


@needs("curl")
def test_curl_refuses_whom_it_does_not_know(secure):
    done = subprocess.run(
        ["curl", "-sS", f"https://localhost:{secure.http_port}/v2"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 60, done


@needs("openssl")
@pytest.mark.parametrize("version, spoken", [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_versions_of_tls(secure, version, spoken):
    done = subprocess.run(
        ["openssl", "s_client", version, "-cipher", "ALL:@SECLEVEL=0", "-CAfile", str(secure.ca), "-alpn", "h2",
         "-connect", f"localhost:{secure.http_port}"], input="", capture_output=True, text=True, timeout=30)
    assert ("Verification: OK" in done.stdout and "ALPN protocol: h2" in done.stdout) == spoken, done.stdout


def test_tritonclient_http_over_tls(secure):
    client = tritonclient.http.InferenceServerClient(
        f"localhost:{secure.http_port}", ssl=True, ssl_options={"ca_certs": str(secure.ca)})
    x = tritonclient.http.InferInput("input", (2, 4), "FP32").set_data_from_numpy(np.ones((2, 4), np.float32))
    assert client.infer("identity_fp32", [x]).as_numpy("output").shape == (2, 4)
    client.close()


def test_tritonclient_grpc_over_tls(secure):
    client = tritonclient.grpc.InferenceServerClient(
        f"localhost:{secure.grpc_port}", ssl=True, root_certificates=str(secure.ca))
    x = tritonclient.grpc.InferInput("input", (2, 4), "FP32").set_data_from_numpy(np.ones((2, 4), np.float32))
    assert client.infer("identity_fp32", [x]).as_numpy("output").shape == (2, 4)
    client.close()


def test_plain_http_is_told_to_speak_tls(secure):
    answer = secure.raw(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.status == 400 and "https://" in answer.error()
    serving.until(lambda: "does not speak TLS" in secure.log_text(), "a line in the log")
    # Noise and half a handshake do no harm.
    for start in (b"\x00\x01\x02", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", secure.http_port), 10) as connection:
            connection.sendall(start)
    assert secure.get("/v2/health/ready").status == 200


def test_half_a_handshake_is_not_waited_for(tmp_path, authority):
    pair = authority.issue("hasty", "localhost")
    flags = [*securing.tls_flags(pair), "--header-timeout", "1s"]
    with securing.SecureServer(models(tmp_path), tmp_path, *flags, ca=authority.path) as server:
        for start in (b"", b"\x16\x03\x01\x02\x00\x01"):
            with socket.create_connection(("127.0.0.1", server.http_port), 20) as connection:
                connection.sendall(start)
                assert connection.recv(100) == b""


def test_half_handshakes_count_as_connections(tmp_path, authority):
    pair = authority.issue("few", "localhost")
    flags = [*securing.tls_flags(pair), "--connections-max", "4", "--header-timeout", "5s"]
    with securing.SecureServer(models(tmp_path), tmp_path, *flags, ca=authority.path) as server:
        held = [socket.create_connection(("127.0.0.1", server.http_port), 20) for _ in range(4)]
        with socket.create_connection(("127.0.0.1", server.http_port), 20) as fifth:
            assert fifth.recv(1) == b""
        for connection in held:
            connection.close()
        serving.until(lambda: succeeds(lambda: server.get("/v2").status == 200), "room for a connection")


def succeeds(question):
    try:
        return question()
    except OSError:
        return False


# --- Certificates of clients ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mutual(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("mutual")
    pair = authority.issue("mutual", "localhost", "127.0.0.1")
    access = folder / "access"
    access.write_text("certificate app.local scorer:identity_fp32\ncertificate \"The Team\" viewer\n")
    flags = [*securing.tls_flags(pair), "--tls-client-ca", str(authority.path), "--access-file", str(access)]
    shown = authority.issue("app", "app.local")
    with securing.SecureServer(models(folder), folder, *flags, ca=authority.path, shown=shown) as made:
        yield made


def test_no_certificate_no_connection(mutual, authority):
    mutual_context = ssl.create_default_context(cafile=str(authority.path))
    connection = http.client.HTTPSConnection("localhost", mutual.http_port, timeout=10, context=mutual_context)
    with pytest.raises(OSError):
        connection.request("GET", "/v2")
        connection.getresponse()


def test_a_certificate_of_another_authority_is_refused(mutual, tmp_path):
    stranger = securing.Authority(tmp_path / "stranger").issue("app", "app.local")
    with pytest.raises(OSError):
        mutual.ask("GET", "/v2", shown=stranger)


def test_names_of_certificates_have_roles(mutual, authority):
    body = asking.rest_body(QUESTION) | {"inputs": QUESTION["inputs"]}
    assert mutual.post("/v2/models/identity_fp32/infer", body).status == 200
    assert mutual.post("/v2/repository/index").status == 403
    team = authority.issue("team", common_name="The Team")
    assert mutual.post("/v2/models/identity_fp32/infer", body, shown=team).status == 403
    assert mutual.post("/v2/repository/index", shown=team).status == 200
    nobody = authority.issue("nobody", "nobody.local")
    answer = mutual.post("/v2/repository/index", shown=nobody)
    assert answer.status == 403 and "nobody.local" in answer.error()


def test_grpc_with_a_certificate(mutual, authority):
    assert asking.ask_raw(mutual, QUESTION).kind is None
    nobody = authority.issue("nobody2", "nobody.local")
    stub = service_pb2_grpc.GRPCInferenceServiceStub(mutual.channel(shown=nobody))
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="identity_fp32"), timeout=10)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


# --- Certificates that change ---------------------------------------------------------------------------------------


def swap(folder, version, pair):
    """Puts a certificate and key in place as Kubernetes does with a secret: the link `..data` is switched."""
    data = folder / f"..{version}"
    data.mkdir()
    shutil.copy(pair[0], data / "tls.crt")
    shutil.copy(pair[1], data / "tls.key")
    os.symlink(data.name, folder / "..new")
    os.replace(folder / "..new", folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            os.symlink(f"..data/{name}", folder / name)


def shown_by(server):
    """The certificate that the server shows now."""
    with socket.create_connection(("localhost", server.http_port), 10) as plain:
        with server.context().wrap_socket(plain, server_hostname="localhost") as secured:
            return secured.getpeercert()["serialNumber"]


def test_certificates_change_under_load_without_a_failed_request(tmp_path, authority):
    secret = tmp_path / "secret"
    secret.mkdir()
    swap(secret, 1, authority.issue("first", "localhost"))
    pair = (secret / "tls.crt", secret / "tls.key")
    with securing.SecureServer(models(tmp_path), tmp_path, *securing.tls_flags(pair), ca=authority.path) as server:
        first = shown_by(server)
        kept = http.client.HTTPSConnection("localhost", server.http_port, context=server.context(), timeout=30)
        kept.request("GET", "/v2/health/ready")
        assert kept.getresponse().read() == b""
        over, failures, asked = threading.Event(), [], []

        def load():
            while not over.is_set():
                try:
                    assert server.get("/v2/health/ready").status == 200
                    asked.append(1)
                except Exception as error:  # whatever it is, it is a request that failed
                    failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            swap(secret, 2, authority.issue("second", "localhost"))
            second = serving.until(lambda: (now := shown_by(server)) != first and now, "the new certificate", 20)
            # A key that is none leaves the certificate before it in force, and is told.
            broken = authority.issue("broken", "localhost")
            broken[1].write_text("no key")
            swap(secret, 3, broken)
            serving.until(lambda: "the old ones stay in force" in server.log_text(), "a line in the log", 20)
            assert shown_by(server) == second
            swap(secret, 4, authority.issue("fourth", "localhost"))
            serving.until(lambda: shown_by(server) not in (first, second), "the certificate after it", 20)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not failures and len(asked) > 20, (failures[:3], len(asked))
        # A connection that stands is not ended by it.
        kept.request("GET", "/v2/health/ready")
        assert kept.getresponse().status == 200
        kept.close()


def test_a_server_does_not_start_with_broken_locks(tmp_path, authority):
    pair, other = authority.issue("one", "localhost"), authority.issue("other", "localhost")
    for number, (flags, said) in enumerate([
        (["--tls-cert", str(pair[0])], "tls_cert needs tls_key"),
        (["--tls-cert", str(pair[0]), "--tls-key", str(other[1])], "do not make a pair"),
        (["--tls-cert", str(pair[0]), "--tls-key", str(tmp_path / "none")], "No such file"),
        (["--access-file", str(tmp_path / "none")], "No such file"),
    ]):
        folder = tmp_path / str(number)
        server = serving.Server(models(folder), folder, *flags, wait=False)
        assert server.process.wait(serving.START_SECONDS_MAX) == 1
        assert said in server.log_text()


def test_commands_speak_tls(secure, authority, tmp_path):
    ports = ["--ports-file", secure.ports_file]
    code, out, err = securing.command("models", *ports, "--ca", secure.ca)
    assert code == 0 and "identity_fp32" in out, err
    code, out, err = securing.command("models", *ports, variables={"TILTYARD_CA": str(secure.ca)})
    assert code == 0, err
    code, out, err = securing.command("models", *ports)
    assert code == 3 and "--ca" in err, err
