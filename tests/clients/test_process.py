"""Does the process behave as those who run it expect: what it prints, where it listens, and how it ends?"""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

import asking
import serving

SLOW = {"model": "slow", "inputs": [asking.tensor("x", np.ones((1, 4), np.float32))]}


def test_curl_line_works_when_pasted(tmp_path):
    with serving.Server(serving.SAMPLES, tmp_path) as server:
        line = serving.until(lambda: re.search(r"^\s*(curl .*)$", server.log_text(), re.MULTILINE), "a curl line")[1]
        assert all(model in server.log_text() for model in ("risk", "digits", "language"))
        words = shlex.split(line)
        if shutil.which("curl"):
            done = subprocess.run(words, capture_output=True, timeout=serving.ANSWER_SECONDS_MAX)
            content = done.stdout
        else:
            url = next(word for word in words if word.startswith("http"))
            path = "/" + url.split("/", 3)[3]
            content = server.post(path, words[words.index("-d") + 1].encode()).body
        assert "error" not in json.loads(content), content


@pytest.fixture(scope="module")
def on_sockets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sockets")
    models = serving.link_models(folder / "models", serving.FIXTURES / "two_in_two_out")
    flags = ["--http-socket", str(folder / "http.sock"), "--grpc-socket", str(folder / "grpc.sock")]
    with serving.Server(models, folder, *flags):
        yield folder


def test_rest_on_a_unix_socket(on_sockets):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(serving.ANSWER_SECONDS_MAX)
        connection.connect(str(on_sockets / "http.sock"))
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert serving.read_answer(connection).status == 200


# The HTTP/2 library takes a percent sign in an authority for a broken request, before we see it: README, Limits.
ESCAPED_PATH = pytest.param([], id="as it comes", marks=pytest.mark.xfail(reason="h2 refuses an escaped path", strict=True))


@pytest.mark.parametrize("options", [pytest.param([("grpc.default_authority", "localhost")], id="localhost"), ESCAPED_PATH])
def test_grpc_on_a_unix_socket(on_sockets, options):
    """Go's client says `localhost` where an address has no host; Python's and C++'s the escaped path of the socket."""
    with grpc.insecure_channel(f"unix:{on_sockets / 'grpc.sock'}", options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        row = asking.tensor("a", np.ones((1, 4), np.float32))
        request = asking.raw({"model": "two_in_two_out", "inputs": [row, row | {"name": "b"}]})
        assert len(stub.ModelInfer(request, timeout=serving.ANSWER_SECONDS_MAX).outputs) == 2


def test_one_port_for_both(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    with serving.Server(models, tmp_path, "--http-port", port, "--grpc-port", port, own_ports=True) as server:
        assert server.http_port == server.grpc_port == int(port)
        row = asking.tensor("a", np.ones((1, 4), np.float32))
        question = {"model": "two_in_two_out", "inputs": [row, row | {"name": "b"}]}
        assert asking.ask_json(server, question).kind is None
        assert asking.ask_raw(server, question).kind is None


def test_requests_in_flight_are_answered_at_the_end(tmp_path):
    """SIGTERM: what was accepted is answered, new connections are not, and the exit code is 0."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "slow")
    server = serving.Server(models, tmp_path)
    try:
        calls = [server.stub.ModelInfer.future(asking.raw(SLOW), timeout=60) for _ in range(6)]
        with socket.create_connection(("127.0.0.1", server.http_port), serving.ANSWER_SECONDS_MAX) as connection:
            body = json.dumps({"inputs": SLOW["inputs"]}).encode()
            connection.sendall(
                b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            # The first answer shows that the others, sent before it came, are with the server.
            assert calls[0].result(timeout=60).outputs
            server.process.send_signal(signal.SIGTERM)
            answer = serving.read_answer(connection)
            assert answer is not None and answer.status == 200, answer
        assert all(call.result(timeout=60).outputs for call in calls)
        assert server.process.wait(serving.STOP_SECONDS_MAX) == 0
    finally:
        server.kill()


@pytest.mark.parametrize("arguments, words", [
    (["serve", "--no-such-flag"], ["--no-such-flag"]),
    (["serve", "--http-port", "notaport"], ["notaport"]),
    (["serve", "--model-control", "sometimes"], ["sometimes"]),
    (["serve", "--body-bytes-max", "-1"], ["-1"]),
    (["nonsense"], ["nonsense"]),
])
def test_mistakes_on_the_command_line(tmp_path, arguments, words):
    done = subprocess.run(
        [serving.BINARY, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=serving.ANSWER_SECONDS_MAX)
    assert done.returncode == 2, done
    assert all(word in done.stderr for word in words), done.stderr


def test_a_folder_that_is_not_there(tmp_path):
    """It may come later, so waiting for it is legal; but whoever mistyped it must be told which one is missing."""
    server = serving.Server(tmp_path / "nowhere", tmp_path / "server", wait=False)
    try:
        serving.until(
            lambda: server.process.poll() is not None or server.ports_file.exists(), "an end, or a start",
            serving.START_SECONDS_MAX)
        assert server.process.poll() != 0
        serving.until(lambda: "nowhere" in server.log_text(), "the folder's name")
    finally:
        server.kill()


def test_a_variable_of_kubernetes_is_passed_over(tmp_path):
    """Kubernetes sets TILTYARD_HTTP_PORT=tcp://… for a service of that name."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    variables = {"TILTYARD_GRPC_PORT": "tcp://10.0.0.1:8001", "TILTYARD_MODEL_CONTROL": "explicit"}
    with serving.Server(models, tmp_path, "--load-model", "two_in_two_out", variables=variables) as server:
        assert server.get("/v2/models/two_in_two_out/ready").status == 200
        assert server.post("/v2/repository/models/two_in_two_out/unload").status == 200, "the other variable counts"
        assert "TILTYARD_GRPC_PORT" in server.log_text()


def test_switches_take_true_and_false(tmp_path):
    """docs/configuration.md: `--triton-metrics` expects true or false."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    for value in ("true", "false"):
        with serving.Server(models, tmp_path / value, f"--triton-metrics={value}") as server:
            text = server.get("/metrics", port=server.admin_port).body
            assert (b"nv_inference_count" in text) == (value == "true")


def test_metrics_reach_further_than_the_admin_api(tmp_path):
    """With the data ports on all addresses, so are the metrics; what an administrator may do stays on the loopback."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")

    def status(server, host, path):
        with socket.create_connection((host, server.admin_port), serving.ANSWER_SECONDS_MAX) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return serving.read_answer(connection).status

    with serving.Server(models, tmp_path, "--host", "0.0.0.0") as server:
        for host, admin_status in (("127.0.0.1", 200), ("127.0.0.2", 403)):
            assert status(server, host, "/metrics") == 200
            assert status(server, host, "/admin/models") == admin_status
