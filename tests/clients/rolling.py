"""Does anybody notice when replicas behind a proxy are restarted one after the other, again and again?

    tests/run clients --collect-only      makes the environment, once
    target/venv/bin/python tests/clients/rolling.py --restarts 100

The proxy is HAProxy, which asks each replica whether it is ready.
Three replicas; clients that keep one HTTP connection, one gRPC channel or one stream to the proxy, and never ask twice:
whatever is not answered well is a failure. A stream that a replica ends with UNAVAILABLE is opened again, and what it had
not answered is sent again, which is what that status asks for; that is counted beside the failures.
"""

import argparse
import collections
import contextlib
import http.client
import json
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import grpc
import numpy as np
from tritonclient.grpc import service_pb2_grpc

import asking
import serving

REPLICAS = 3
NOTICE = "500ms"
SMALL = asking.tensor("a", np.ones((1, 4), np.float32))
# A request that takes a while to arrive and to be answered: two tensors of 1 MB each way.
LARGE = asking.tensor("a", np.ones((1 << 16, 4), np.float32))
QUESTIONS = {
    name: {"model": "two_in_two_out", "inputs": [tensor, tensor | {"name": "b"}]}
    for name, tensor in {"small": SMALL, "large": LARGE}.items()
}
# Seconds in which a slow client sends its request.
SLOWLY = 0.5

HAPROXY = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option httpchk GET /v2/health/ready
    default-server inter 100ms fall 1 rise 1
frontend http
    bind 127.0.0.1:{http}
    default_backend http
frontend grpc
    bind 127.0.0.1:{grpc} proto h2
    default_backend grpc
backend http
{http_servers}
backend grpc
{grpc_servers}
"""

def find_proxy():
    """Where HAProxy is, or None. Debian puts it where only root's PATH looks."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


def free_ports(count):
    """Ports that nobody uses now, so that a replica comes back where it was."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


class Replica:
    def __init__(self, models, folder):
        self.models, self.folder = models, folder
        self.http_port, self.grpc_port = free_ports(2)
        self.start()

    def start(self):
        (self.folder / "ports.json").unlink(missing_ok=True)
        self.server = serving.Server(
            self.models, self.folder, "--http-port", str(self.http_port), "--grpc-port",
            str(self.grpc_port), "--drain-notice", NOTICE, own_ports=True)

    def stop(self):
        """The exit code."""
        self.server.process.send_signal(signal.SIGTERM)
        return self.server.process.wait(serving.STOP_SECONDS_MAX)


@contextlib.contextmanager
def proxied(replicas, folder):
    """The proxy before the replicas: its HTTP and its gRPC port."""
    ports = dict(zip(("http", "grpc"), free_ports(2)))

    def servers(attribute, more=""):
        return "\n".join(
            f"    server r{number} 127.0.0.1:{getattr(replica, attribute)} check{more}"
            for number, replica in enumerate(replicas))

    file = folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(
        http_servers=servers("http_port"), grpc_servers=servers("grpc_port", " proto h2 check-proto h1"), **ports))
    with open(folder / "proxy.log", "wb") as log:
        process = subprocess.Popen(
            [find_proxy(), "-db", "-f", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        def answers():
            assert process.poll() is None, (folder / "proxy.log").read_text()
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", ports["http"], timeout=5)
                connection.request("GET", "/v2/health/ready")
                return connection.getresponse().status == 200
        serving.until(answers, "the proxy", 20)
        yield ports
    finally:
        process.kill()
        process.wait()


class Clients:
    """Threads that ask until told to stop, and what came of it."""

    def __init__(self, ports):
        self.ports = ports
        self.stopped = threading.Event()
        self.counts = collections.Counter()
        self.failures = []
        self.lock = threading.Lock()
        plan = [(ask, size) for ask in (self.http, self.unary, self.stream) for size in QUESTIONS]
        plan += [(self.slow_http, "small")]
        self.threads = [threading.Thread(target=self.run, args=step) for step in plan]

    def run(self, ask, question):
        try:
            ask(question)
        except BaseException as failure:  # a client that ends early would pass for one that is content
            self.fail(f"{ask.__name__} {question}: client ended", failure)

    def note(self, name):
        with self.lock:
            self.counts[name] += 1

    def fail(self, what, failure):
        with self.lock:
            self.failures.append(f"{time.strftime('%H:%M:%S')} {what}: {failure!r}")

    def pause(self):
        """Leaves the processors to the servers: the point is the restarts, not the load."""
        self.stopped.wait(0.01)

    def http(self, name):
        question = QUESTIONS[name]
        body, connection = json.dumps({"inputs": question["inputs"]}), None
        while not self.stopped.is_set():
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=60)
                self.note("HTTP connections")
            try:
                connection.request("POST", f"/v2/models/{question['model']}/infer", body)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status} {content[:200]!r}")
                if answer.getheader("connection") == "close":
                    connection = None
            except Exception as failure:
                self.fail(f"HTTP {name}", failure)
                connection = None
            self.note(f"HTTP {name}")
            self.pause()

    def slow_http(self, name):
        question = QUESTIONS[name]
        body = json.dumps({"inputs": question["inputs"]}).encode()
        with socket.create_connection(("127.0.0.1", self.ports["http"]), 60) as connection:
            while not self.stopped.is_set():
                try:
                    connection.sendall(
                        f"POST /v2/models/{question['model']}/infer HTTP/1.1\r\nHost: a\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
                    self.stopped.wait(SLOWLY)
                    connection.sendall(body[10:])
                    answer = serving.read_answer(connection)
                    if answer is None or answer.status != 200:
                        raise RuntimeError(f"{answer}")
                except Exception as failure:
                    return self.fail("HTTP, sent slowly", failure)
                self.note("HTTP, sent slowly")

    def unary(self, name):
        with grpc.insecure_channel(f"127.0.0.1:{self.ports['grpc']}", [("grpc.enable_retries", 0)]) as channel:
            stub, request = service_pb2_grpc.GRPCInferenceServiceStub(channel), asking.raw(QUESTIONS[name])
            while not self.stopped.is_set():
                try:
                    assert stub.ModelInfer(request, timeout=60).outputs
                except grpc.RpcError as failure:
                    self.fail(f"gRPC {name}", failure)
                self.note(f"gRPC {name}")
                self.pause()

    def stream(self, name):
        request = asking.raw(QUESTIONS[name])
        with grpc.insecure_channel(f"127.0.0.1:{self.ports['grpc']}", [("grpc.enable_retries", 0)]) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not self.stopped.is_set():
                requests = queue.SimpleQueue()
                answers = stub.ModelStreamInfer(iter(requests.get, None))
                self.note("streams opened")
                try:
                    while not self.stopped.is_set():
                        requests.put(request)
                        answer = next(answers)
                        if answer.error_message:
                            self.fail("stream", answer.error_message)
                        self.note(f"stream messages {name}")
                        self.pause()
                except grpc.RpcError as ended:
                    if ended.code() == grpc.StatusCode.UNAVAILABLE and "shutting down" in ended.details():
                        self.note("streams ended by a replica")
                    else:
                        self.fail("stream", ended)
                finally:
                    requests.put(None)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind, value, trace):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def roll(restarts, folder, tell=lambda line: None):
    """Restarts replica after replica under load. Gives what was asked, what failed, and exit codes that were not 0."""
    models = serving.link_models(folder / "models", *[serving.FIXTURES / "two_in_two_out"])
    replicas = []
    try:
        replicas += [Replica(models, folder / f"replica{number}") for number in range(REPLICAS)]
        with proxied(replicas, folder) as ports, Clients(ports) as clients:
            time.sleep(1)
            codes = []
            for number in range(restarts):
                replica = replicas[number % REPLICAS]
                codes.append(replica.stop())
                replica.start()
                # The proxy looks every 100 ms.
                time.sleep(0.4)
                tell(f"restart {number + 1}: {sum(clients.counts.values())} counted, {len(clients.failures)} failed")
            time.sleep(1)
        return clients.counts, clients.failures, [code for code in codes if code != 0]
    finally:
        for replica in replicas:
            replica.server.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--restarts", type=int, default=100)
    arguments = parser.parse_args()
    if not find_proxy():
        sys.exit("haproxy is not installed: apt-get install haproxy")
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        counts, failures, codes = roll(
            arguments.restarts, pathlib.Path(folder), lambda line: print(line, file=sys.stderr))
        print(f"{arguments.restarts} restarts of {REPLICAS} replicas behind HAProxy, {time.monotonic() - started:.0f} s")
        for name, count in sorted(counts.items()):
            print(f"  {name}: {count}")
        print(f"  failed: {len(failures)}; replicas that cut something off: {len(codes)}")
        print("\n".join(failures[:20]))
        sys.exit(1 if failures or codes else 0)


if __name__ == "__main__":
    main()
