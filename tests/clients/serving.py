"""How does a test start the server, ask it something over plain HTTP, and end it?"""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import grpc
from tritonclient.grpc import service_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("TILTYARD_BIN", ROOT / "target" / "release" / "tiltyard")).absolute()
SAMPLES = ROOT / "models"
FIXTURES = ROOT / "tests" / "fixtures" / "models"
BROKEN = ROOT / "tests" / "fixtures" / "broken"

START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 40
ANSWER_SECONDS_MAX = 30
POLL_SECONDS = 0.02
# The client's own limits on message size are off: the server's are what is tested.
CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Answer:
    """An HTTP answer: status, headers (lower case, last one wins), body."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body

    def json(self):
        return json.loads(self.body)

    def error(self):
        """The protocol's error message; fails where the body is not the protocol's error object."""
        message = self.json()["error"]
        assert isinstance(message, str) and message, self.body
        return message

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:500]!r}>"


class Server:
    """One process of the server, with its ports. Starting waits until it is ready; `stop` wants exit code 0."""

    def __init__(self, models, folder, *flags, wait=True, own_ports=False, variables=None, settle_time="200ms"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports_file = self.folder / "ports.json"
        self.log = self.folder / "server.log"
        command = [
            str(BINARY), "serve", "--models", str(models), "--admin-port", "0", "--ports-file", str(self.ports_file),
            *flags,
        ]
        if "--data-dir" not in flags:
            command += ["--data-dir", str(self.folder / "data")]
        # What the tests write is whole at once, or told to be late.
        if settle_time and "--settle-time" not in flags:
            command += ["--settle-time", settle_time]
        for flag in () if own_ports else ("--http-port", "--grpc-port"):
            command += [flag, "0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
        environment["VIRTUAL_ENV"] = sys.prefix  # where ONNX Runtime's library is found
        environment |= variables or {}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.folder)
        self.channels = []
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    def wait_ready(self):
        until(lambda: self.ports_file.exists() or self.fail_if_gone(), "the ports file", START_SECONDS_MAX)
        ports = json.loads(self.ports_file.read_text())
        self.http_port, self.grpc_port, self.admin_port = ports["http"], ports["grpc"], ports["admin"]
        until(self.is_ready, "readiness", START_SECONDS_MAX)

    def is_ready(self):
        self.fail_if_gone()
        return self.get("/v2/health/ready").status == 200

    def fail_if_gone(self):
        code = self.process.poll()
        assert code is None, f"the server ended with {code}:\n{self.log_text()[-4000:]}"

    def log_text(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        """Ends the process as an operator does and gives its exit code."""
        for channel in self.channels:
            channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        finally:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        code = self.stop()
        if kind is None:
            assert code == 0, f"exit code {code}:\n{self.log_text()[-4000:]}"

    # --- Asking -----------------------------------------------------------------------------------------------

    @property
    def http_address(self):
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self):
        return f"127.0.0.1:{self.grpc_port}"

    def ask(self, method, path, body=None, headers=None, port=None, timeout=ANSWER_SECONDS_MAX):
        """One request on a connection of its own. `body` is bytes, or an object that is sent as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http_port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, body=b"", headers=None, **more):
        return self.ask("POST", path, body, headers, **more)

    def index(self):
        """The repository index, by (name, version)."""
        answer = self.post("/v2/repository/index")
        assert answer.status == 200, answer
        return {(item["name"], item.get("version", "")): item for item in answer.json()}

    def raw(self, request, timeout=ANSWER_SECONDS_MAX, port=None, half_close=False):
        """Sends bytes as they are and reads until the server closes, or until one whole answer is there."""
        with socket.create_connection(("127.0.0.1", port or self.http_port), timeout) as connection:
            try:
                connection.sendall(request)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the server has heard enough; what it said is still to be read
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_answer(connection)

    def channel(self, port=None, options=()):
        channel = grpc.insecure_channel(f"127.0.0.1:{port or self.grpc_port}", CHANNEL_OPTIONS + list(options))
        self.channels.append(channel)
        return channel

    @property
    def stub(self):
        """The inference service over gRPC, on one channel for all."""
        if not hasattr(self, "_stub"):
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel())
        return self._stub


def read_answer(connection):
    """One HTTP/1 answer from a socket, or None where the server closed without one."""
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return None
    return Answer(answer.status, answer.getheaders(), answer.read())


def run_binary(*arguments, seconds_max=60):
    """A command of the binary, to its end."""
    line = [str(BINARY), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=seconds_max)


def until(condition, what, seconds_max=10):
    """Waits for a condition and gives what it gave; fails by name when the time is over."""
    deadline = time.monotonic() + seconds_max
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"waited {seconds_max} s for {what}"
        time.sleep(POLL_SECONDS)


def stays(condition, what, seconds=0.5):
    """For what must not happen: several polls of a server that looks every 100 ms must leave the condition true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"{what} did not stay so"
        time.sleep(POLL_SECONDS)


def link_models(target, *sources):
    """A repository of links to the models in `sources`: folders of models, or single models."""
    target.mkdir(parents=True, exist_ok=True)
    for source in sources:
        models = [source] if any(child.name.isdigit() for child in source.iterdir()) else source.iterdir()
        for model in models:
            if model.is_dir():
                (target / model.name).symlink_to(model)
    return target
