"""Does the process come and go without its clients noticing: notice, drain, reload, service manager, sockets handed over?"""

import concurrent.futures
import contextlib
import json
import os
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
import h2.config
import h2.connection
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

import asking
import holding
import http2
import rolling
import serving

SLOW = {"model": "slow", "inputs": [asking.tensor("x", np.ones((1, 4), np.float32))]}
ROW = asking.tensor("a", np.ones((1, 4), np.float32))
QUICK = {"model": "two_in_two_out", "inputs": [ROW, ROW | {"name": "b"}]}


@contextlib.contextmanager
def serve(tmp_path, *flags, models=("two_in_two_out",), **more):
    """A server whose end is the test's own business."""
    folder = serving.link_models(tmp_path / "models", *(serving.FIXTURES / name for name in models))
    server = serving.Server(folder, tmp_path, *flags, **more)
    try:
        yield server
    finally:
        for channel in server.channels:
            channel.close()
        server.kill()


def terminate(server):
    server.process.send_signal(signal.SIGTERM)


def ends(server, seconds_max=serving.STOP_SECONDS_MAX):
    """The exit code, within some seconds."""
    return server.process.wait(seconds_max)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), serving.ANSWER_SECONDS_MAX)


def post(model, body):
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def body_of(question):
    return json.dumps({"inputs": question["inputs"]}).encode()


def is_refused(port):
    """Whether nobody listens there any more."""
    try:
        connect(port).close()
        return False
    except ConnectionResetError:
        return False  # it went away in between
    except ConnectionRefusedError:
        return True


# --- Notice ---------------------------------------------------------------------------------------------------------


def test_during_the_notice_only_readiness_changes(tmp_path):
    with serve(tmp_path, "--drain-notice", "2s") as server:
        health = health_pb2_grpc.HealthStub(server.channel())
        states = health.Watch(health_pb2.HealthCheckRequest())
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        terminate(server)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # Load balancers hear of it on every port, and in every way they ask.
        assert server.get("/v2/health/ready").status == 503
        assert server.get("/v2/health/ready", port=server.admin_port).status == 503
        assert server.get("/v2/models/two_in_two_out/ready").status == 503
        assert not server.stub.ServerReady(service_pb2.ServerReadyRequest()).ready
        assert server.get("/v2/health/live").status == 200
        # Those who did not hear are answered, on new connections too.
        answer = server.post("/v2/models/two_in_two_out/infer", body_of(QUICK))
        assert answer.status == 200 and answer.headers.get("connection") != "close"
        assert asking.ask_raw(server, QUICK).kind is None
        with pytest.raises(grpc.RpcError) as ended:
            next(states)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        assert ends(server) == 0
        assert "nothing was cut off" in server.log_text()


def test_a_second_signal_ends_at_once(tmp_path):
    with serve(tmp_path, "--drain-notice", "10m") as server:
        terminate(server)
        serving.until(lambda: server.get("/v2/health/ready").status == 503, "the notice")
        terminate(server)
        assert ends(server, 10) == 0, "nothing was under way, so nothing was cut off"


def test_a_second_signal_cuts_what_is_under_way(tmp_path):
    with serve(tmp_path, "--batch-rows-max", "1", models=("slow",)) as server:
        calls = [server.stub.ModelInfer.future(asking.raw(SLOW), timeout=60) for _ in range(64)]
        calls[0].result(timeout=60)
        terminate(server)
        serving.until(lambda: is_refused(server.http_port), "the drain")
        server.process.send_signal(signal.SIGINT)
        assert ends(server, 10) == 1
        codes = {call.exception(timeout=10).code() for call in calls if call.exception(timeout=10)}
        assert codes == {grpc.StatusCode.UNAVAILABLE}, "whoever waited is told to ask elsewhere"


# --- Drain ----------------------------------------------------------------------------------------------------------


def test_idle_connections_are_closed_at_once(tmp_path):
    with serve(tmp_path, "--drain-timeout", "1m") as server, contextlib.ExitStack() as stack:
        silent = stack.enter_context(connect(server.http_port))
        kept = stack.enter_context(connect(server.http_port))
        kept.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert serving.read_answer(kept).status == 200
        assert server.stub.ServerLive(service_pb2.ServerLiveRequest()).live, "an idle HTTP/2 connection as well"
        started = time.monotonic()
        terminate(server)
        assert kept.recv(1) == b"" and silent.recv(1) == b""
        assert ends(server) == 0
        assert time.monotonic() - started < 30, "the drain time is for requests"


def test_a_request_under_way_is_answered_with_connection_close(tmp_path):
    with serve(tmp_path) as server, connect(server.http_port) as connection:
        request = post("two_in_two_out", body_of(QUICK))
        # The head and a part of the body are with the server, which answers what it can only do with a request at hand.
        connection.sendall(request[:-10])
        serving.until(lambda: metric(server, "tiltyard_connections") >= 1, "the connection")
        with connect(server.http_port) as other:
            other.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert serving.read_answer(other).status == 200
            terminate(server)
            serving.until(lambda: is_refused(server.http_port), "the drain")
            # Connections are told to go after nobody is let in any more: this one has nothing to wait for.
            assert other.recv(1) == b""
        connection.sendall(request[-10:])
        answer = serving.read_answer(connection)
        assert answer.status == 200 and answer.headers["connection"] == "close"
        assert connection.recv(1) == b""
        assert ends(server) == 0


def metric(server, name):
    text = server.get("/metrics", port=server.admin_port).body.decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def test_who_has_connected_is_answered(tmp_path):
    """Connections that nobody accepted before the signal came, with their requests already on the way."""
    with serve(tmp_path) as server:
        asked = [connect(server.http_port) for _ in range(50)]
        terminate(server)
        for connection in asked:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(post("two_in_two_out", body_of(QUICK)))
        answers = [serving.read_answer(connection) for connection in asked]
        assert [answer and answer.status for answer in answers] == [200] * 50
        assert ends(server) == 0


def test_a_slow_reader_gets_the_whole_of_a_large_answer(tmp_path):
    """What is in the server's buffers when the drain begins is under way still, though its request is answered."""
    row = np.zeros((1, 4_000_000), np.float32)
    with serve(tmp_path, models=("identity_fp32",)) as server:
        model = server.get("/v2/models/identity_fp32").json()
        name, output = model["inputs"][0]["name"], model["outputs"][0]["name"]
        head = json.dumps({
            "inputs": [{"name": name, "datatype": "FP32", "shape": list(row.shape),
                        "parameters": {"binary_data_size": row.nbytes}}],
            "outputs": [{"name": output, "parameters": {"binary_data": True}}]}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(serving.ANSWER_SECONDS_MAX)
            connection.connect(("127.0.0.1", server.http_port))
            connection.sendall(
                b"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: a\r\nInference-Header-Content-Length: %d\r\n"
                b"Content-Length: %d\r\n\r\n" % (len(head), len(head) + row.nbytes) + head + row.tobytes())
            first = connection.recv(1000)
            assert first.startswith(b"HTTP/1.1 200"), first
            terminate(server)
            serving.until(lambda: is_refused(server.http_port), "the drain")
            # Longer than a connection may stay that has nothing under way.
            serving.stays(lambda: server.process.poll() is None, "the server", 4)
            received = len(first)
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
        assert received > row.nbytes
        assert ends(server) == 0


GOAWAY = 7


def frame_types(data):
    """The types of the HTTP/2 frames in what was received."""
    while data:
        length, kind = int.from_bytes(data[:3], "big"), data[3]
        yield kind
        data = data[9 + length:]


def test_a_client_that_ignores_goaway_is_left_behind(tmp_path):
    """An HTTP/2 client that answers no ping and says nothing more: it has nothing under way, so it holds nobody up."""
    with serve(tmp_path, "--drain-timeout", "1m") as server, connect(server.grpc_port) as connection:
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        protocol.initiate_connection()
        protocol.send_headers(1, http2.grpc_head("/inference.GRPCInferenceService/ServerLive"))
        protocol.send_data(1, http2.frame(b""), end_stream=True)
        connection.sendall(protocol.data_to_send())
        exchange = http2.Exchange()
        while not any([http2.take(event, protocol, exchange) for event in protocol.receive_data(connection.recv(65536))]):
            pass
        assert exchange.grpc_status == 0
        terminate(server)
        told = b""
        while received := connection.recv(65536):
            told += received
        assert GOAWAY in frame_types(told)
        assert ends(server, 20) == 0


def test_a_client_that_ignores_goaway_and_goes_on_is_left_behind(tmp_path):
    """It never hears that it was told to go, and asks again and again: it would have the server live for ever."""
    with serve(tmp_path, "--drain-timeout", "1m") as server, connect(server.grpc_port) as connection:
        connection.settimeout(0.05)
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        protocol.initiate_connection()
        told = b""

        def ask():
            nonlocal told
            stream = protocol.get_next_available_stream_id()
            protocol.send_headers(stream, http2.grpc_head("/inference.GRPCInferenceService/ServerLive"))
            protocol.send_data(stream, http2.frame(b""), end_stream=True)
            try:
                connection.sendall(protocol.data_to_send())
                told += connection.recv(65536)
            except TimeoutError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                return False
            return True

        assert ask() and ask()
        terminate(server)
        serving.until(lambda: not ask(), "the end of the connection", 20)
        assert GOAWAY in frame_types(told)
        assert ends(server, 10) == 0


def test_streams_end_politely(tmp_path):
    """A stream answers what it has and ends with UNAVAILABLE, so that its client goes on elsewhere; it holds nobody up."""
    with serve(tmp_path, "--drain-timeout", "1m", models=("two_in_two_out", "slow")) as server:
        requests = queue.SimpleQueue()
        answers = server.stub.ModelStreamInfer(iter(requests.get, None))
        for _ in range(3):
            requests.put(asking.raw(QUICK))
            assert not next(answers).error_message
        idle = server.stub.ModelStreamInfer(iter(queue.SimpleQueue().get, None))
        # One that is being answered when the signal comes.
        requests.put(asking.raw(SLOW))
        serving.until(lambda: metric(server, "tiltyard_requests_in_flight") == 1, "the slow request")
        terminate(server)
        last = next(answers)
        assert not last.error_message and last.infer_response.outputs
        for stream in (answers, idle):
            with pytest.raises(grpc.RpcError) as ended:
                next(stream)
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "shutting down" in ended.value.details()
        requests.put(None)
        assert ends(server) == 0


def test_a_stream_that_never_rests_ends_all_the_same(tmp_path):
    with serve(tmp_path, "--drain-timeout", "1m") as server:
        stopped = threading.Event()
        sent = []

        def requests():
            while not stopped.is_set():
                sent.append(len(sent))
                yield asking.raw(QUICK)

        answers = server.stub.ModelStreamInfer(requests())
        answered = 0
        with pytest.raises(grpc.RpcError) as ended:
            for answer in answers:
                assert not answer.error_message
                answered += 1
                if answered == 200:
                    terminate(server)
        stopped.set()
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        assert 200 <= answered <= len(sent)
        assert ends(server, 20) == 0


def test_the_budget_is_kept_and_what_is_cut_is_told(tmp_path):
    """Jobs that run and jobs that wait in the queue when the time is over: each client hears, once, where it stands."""
    with serve(tmp_path, "--drain-timeout", "1s", "--batch-rows-max", "1", models=("slow",)) as server:
        calls = [server.stub.ModelInfer.future(asking.raw(SLOW), timeout=120) for _ in range(200)]
        body = body_of(SLOW)
        connections = [connect(server.http_port) for _ in range(5)]
        for connection in connections:
            connection.sendall(post("slow", body))
        calls[0].result(timeout=60)
        started = time.monotonic()
        terminate(server)
        answers = [serving.read_answer(connection) for connection in connections]
        took = time.monotonic() - started
        assert ends(server, 10) == 1
        assert took > 0.9 or all(answer.status == 200 for answer in answers), "the budget is for finishing"
        assert all(answer is not None and answer.status in (200, 503) for answer in answers), answers
        refused = [answer for answer in answers if answer.status == 503]
        assert all("shutting down" in answer.error() for answer in refused)
        ended = [call.exception(timeout=10) for call in calls]
        cut = [error for error in ended if error is not None]
        assert cut and {error.code() for error in cut} == {grpc.StatusCode.UNAVAILABLE}
        line = next(line for line in server.log_text().splitlines() if "were cut off" in line)
        assert json.loads(line)["requests"] == len(cut) + len(refused)


def test_a_signal_while_models_load(tmp_path):
    """The server is not ready yet, so that nobody has to be given notice; it does not wait for the models either."""
    models = tmp_path / "models"
    for number in range(40):
        shutil.copytree(serving.FIXTURES / "slow", models / f"slow{number}")
    server = serving.Server(models, tmp_path / "server", "--drain-notice", "1h", wait=False)
    try:
        serving.until(lambda: server.ports_file.exists(), "the ports file", serving.START_SECONDS_MAX)
        terminate(server)
        assert ends(server, 15) == 0
    finally:
        server.kill()


def test_curl_keeps_its_connection_until_the_drain(tmp_path):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    with serve(tmp_path, "--drain-notice", "1s") as server:
        url = f"http://{server.http_address}/v2/models/two_in_two_out/infer"
        command = ["curl", "--silent", "--show-error", "--no-progress-meter", "--write-out", "%{http_code} %{num_connects}\n",
                   "--output", "/dev/null", "--data", body_of(QUICK).decode(), url]
        for _ in range(2):
            command += ["--next", "--silent", "--write-out", "%{http_code} %{num_connects}\n", "--output", "/dev/null",
                        "--data", body_of(QUICK).decode(), url]
        terminate(server)
        serving.until(lambda: server.get("/v2/health/ready").status == 503, "the notice")
        told = subprocess.run(command, capture_output=True, text=True, timeout=serving.ANSWER_SECONDS_MAX)
        assert told.stdout.split("\n")[:3] == ["200 1", "200 0", "200 0"], told
        assert ends(server) == 0


# --- Reload ---------------------------------------------------------------------------------------------------------


def reload(server, *arguments):
    return subprocess.run(
        [serving.BINARY, "reload", "--ports-file", server.ports_file, *arguments],
        capture_output=True, text=True, timeout=serving.ANSWER_SECONDS_MAX)


@pytest.fixture
def with_file(tmp_path):
    """A server with a file of settings."""
    file = tmp_path / "tiltyard.toml"
    file.write_text("body_bytes_max = '1MiB'\n")
    with serve(tmp_path, "--config", str(file)) as server:
        server.file = file
        yield server
        terminate(server)
        assert ends(server) == 0


def infer_status(server):
    return server.post("/v2/models/two_in_two_out/infer", body_of(QUICK)).status


def test_reload_takes_in_what_may_change_and_names_the_rest(with_file):
    server = with_file
    assert infer_status(server) == 200
    server.file.write_text("body_bytes_max = 10\nthreads = 1\n")
    done = reload(server)
    assert done.returncode == 0, done
    assert done.stdout == "body_bytes_max: 1MiB -> 10\nthreads: 0 -> 1  needs a restart\n"
    assert infer_status(server) == 413
    assert reload(server).stdout == "threads: 0 -> 1  needs a restart\n", "what waits for a restart is told again"
    server.file.write_text("")
    report = json.loads(reload(server, "--output", "json").stdout)
    assert report == {"changed": [{"key": "body_bytes_max", "from": "10", "to": "64MiB"}], "needs_restart": [], "reread": []}
    assert infer_status(server) == 200


def test_a_file_with_a_mistake_changes_nothing(with_file):
    server = with_file
    server.file.write_text("body_bytes_max = 10\nbody_bytes_maximum = 11\n")
    done = reload(server)
    assert done.returncode == 1 and "body_bytes_maximum" in done.stderr, done
    assert infer_status(server) == 200
    server.process.send_signal(signal.SIGHUP)
    serving.until(lambda: server.log_text().count("nothing is changed") == 2, "the log line")
    assert infer_status(server) == 200


def test_sighup_reads_the_file_anew(with_file):
    server = with_file
    server.file.write_text("requests_max = 7\nlog_level = 'debug'\nhttp_port = 1\n")
    server.process.send_signal(signal.SIGHUP)
    serving.until(lambda: '"key":"log_level"' in server.log_text(), "the log line")
    lines = [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]
    told = {line["key"]: line["message"] for line in lines if "key" in line}
    assert told["requests_max"] == "a setting was changed" and "http_port" not in told, "the flag's port wins"
    assert server.get("/v2/logging").json()["log_verbose_level"] >= 1


def test_connections_that_come_later_have_the_new_limits(with_file):
    server = with_file
    server.file.write_text("header_timeout = '100ms'\n")
    assert reload(server).returncode == 0
    with connect(server.http_port) as silent:
        assert silent.recv(1) == b"", "it was closed for saying nothing"


def test_how_long_files_must_rest_can_be_changed(tmp_path):
    file = tmp_path / "tiltyard.toml"
    file.write_text("settle_time = '1h'\npoll_interval = '100ms'\n")
    with serve(tmp_path, "--config", str(file), models=(), settle_time=None) as server:
        shutil.copytree(serving.FIXTURES / "two_in_two_out", tmp_path / "models" / "two_in_two_out")
        serving.until(lambda: any(name == "two_in_two_out" for name, _ in server.index()), "the model to be seen")
        serving.stays(lambda: infer_status(server) != 200, "it is not read yet")
        file.write_text("settle_time = '100ms'\npoll_interval = '100ms'\n")
        assert reload(server).stdout == "settle_time: 1h -> 100ms\n"
        serving.until(lambda: infer_status(server) == 200, "the model to be ready")


# --- A process that stands still -------------------------------------------------------------------------------------


def test_a_process_that_was_frozen_gives_up_nothing_for_that(tmp_path):
    with serve(tmp_path, "--run-timeout", "1s", "--threads", "1", models=("slow",)) as server:
        with concurrent.futures.ThreadPoolExecutor(8) as many:
            asked = [many.submit(server.post, asking.rest_path(SLOW), body_of(SLOW)) for _ in range(8)]
            running = lambda: "tiltyard_requests_in_flight 8" in server.get("/metrics", port=server.admin_port).body.decode()
            serving.until(running, "requests in flight")
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(5)  # nothing to wait for but time
            server.process.send_signal(signal.SIGCONT)
            assert [each.result().status for each in asked] == [200] * 8
        serving.until(lambda: "the process was frozen" in server.log_text(), "a line in the log")
        metrics = server.get("/metrics", port=server.admin_port).body.decode().splitlines()
        stuck = [line for line in metrics if line.startswith("tiltyard_runs_stuck")]
        assert stuck and all(line.endswith(" 0") for line in stuck), stuck


# --- Service manager ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(tmp_path, abstract):
    name = f"@tiltyard-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(serving.START_SECONDS_MAX)

        def told(first):
            """The next message that says this, as a dict."""
            while True:
                message = dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())
                if first in message:
                    return message

        variables = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}
        with serve(tmp_path, variables=variables) as server:
            ready = told("READY")
            assert ready == {"READY": "1", "STATUS": "serving 1 versions of 1 models"}
            assert told("WATCHDOG") == {"WATCHDOG": "1"}
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            server.process.send_signal(signal.SIGHUP)
            reloading = told("RELOADING")
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert told("READY")["READY"] == "1"
            terminate(server)
            assert told("STOPPING")["STATUS"]
            assert ends(server) == 0


# --- Sockets handed over --------------------------------------------------------------------------------------------


def test_a_restart_on_sockets_of_a_parent_loses_nobody(tmp_path):
    """The old server ends before the new one is there: whoever connects meanwhile waits in the socket."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    with holding.Ports(["http", "grpc", "admin"]) as ports:
        first = ports.start(models, tmp_path / "first")
        assert infer_on(ports.http) == 200
        first.send_signal(signal.SIGTERM)
        assert first.wait(serving.STOP_SECONDS_MAX) == 0
        waiting = [connect(ports.http) for _ in range(20)]
        for connection in waiting:
            connection.sendall(post("two_in_two_out", body_of(QUICK)))
        ports.start(models, tmp_path / "second")
        assert [serving.read_answer(connection).status for connection in waiting] == [200] * 20
        with grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ModelInfer(asking.raw(QUICK), timeout=serving.ANSWER_SECONDS_MAX).outputs


def infer_on(port):
    with connect(port) as connection:
        connection.sendall(post("two_in_two_out", body_of(QUICK)))
        return serving.read_answer(connection).status


def test_two_servers_take_turns_on_the_same_sockets(tmp_path):
    """A restart by hand: the new server is ready before the old one goes, and requests go on all the while."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    with holding.Ports(["http", "grpc", "admin"]) as ports:
        statuses, stopped = [], threading.Event()

        def ask():
            while not stopped.is_set():
                statuses.append(infer_on(ports.http))

        old = ports.start(models, tmp_path / "0")
        asker = threading.Thread(target=ask)
        asker.start()
        try:
            for number in range(1, 4):
                new = ports.start(models, tmp_path / str(number))
                old.send_signal(signal.SIGTERM)
                assert old.wait(serving.STOP_SECONDS_MAX) == 0
                old = new
        finally:
            stopped.set()
            asker.join()
        assert statuses and set(statuses) == {200}


def test_restarts_by_hand_without_a_service_manager(tmp_path):
    """deploy/hold-ports: SIGUSR2 puts another server in the place of the old one, and nobody notices."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    http_port, grpc_port = rolling.free_ports(2)
    log, environment = tmp_path / "log", dict(os.environ, VIRTUAL_ENV=sys.prefix)
    command = [
        serving.ROOT / "deploy" / "hold-ports", "--http", f"127.0.0.1:{http_port}", "--grpc", f"127.0.0.1:{grpc_port}", "--",
        serving.BINARY, "serve", "--models", models, "--data-dir", tmp_path / "data", "--admin-port", "0"]
    with open(log, "wb") as output:
        holder = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=tmp_path)

    def told(text, times):
        assert holder.poll() is None, log.read_text()
        return log.read_text().count(text) >= times

    statuses, stopped = [], threading.Event()

    def ask():
        while not stopped.is_set():
            statuses.append(infer_on(http_port))

    asker = threading.Thread(target=ask)
    try:
        serving.until(lambda: told(" serves", 1), "the first server", serving.START_SECONDS_MAX)
        asker.start()
        for restarts in range(1, 4):
            holder.send_signal(signal.SIGUSR2)
            serving.until(lambda: told("ended with exit code 0", restarts), "the restart", serving.STOP_SECONDS_MAX)
        # One that cannot start costs nobody the one that serves.
        (tmp_path / "tiltyard.toml").write_text("no such key = 1\n")
        holder.send_signal(signal.SIGUSR2)
        serving.until(lambda: told("the old one goes on", 1), "the failure", serving.START_SECONDS_MAX)
        stopped.set()
        asker.join()
        assert set(statuses) == {200}
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(serving.STOP_SECONDS_MAX) == 0
    finally:
        stopped.set()
        holder.terminate()
        holder.wait(serving.STOP_SECONDS_MAX)


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd is not installed")
@pytest.mark.parametrize("names", [["--fdname=http:grpc:admin"], []], ids=["named", "unnamed"])
def test_sockets_of_systemd(tmp_path, names):
    """The server starts with the first connection, which waits until it is ready."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    http_port, grpc_port, admin_port = rolling.free_ports(3)
    listen = [f"--listen=127.0.0.1:{port}" for port in (http_port, grpc_port, admin_port)]
    command = [
        "systemd-socket-activate", *listen, *names, serving.BINARY, "serve", "--models", models,
        "--data-dir", tmp_path / "data"]
    with open(tmp_path / "log", "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=tmp_path)
    try:
        serving.until(lambda: b"Listening" in (tmp_path / "log").read_bytes(), "systemd-socket-activate")
        assert infer_on(http_port) == 200
        with connect(admin_port) as admin:
            admin.sendall(b"GET /admin/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert serving.read_answer(admin).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(serving.STOP_SECONDS_MAX) == 0
    finally:
        process.kill()
        process.wait()


def test_sockets_with_names_that_mean_nothing_are_refused(tmp_path):
    with holding.Ports(["http", "rest"]) as ports:
        process = ports.start(tmp_path, tmp_path / "server", wait=False)
        assert process.wait(serving.START_SECONDS_MAX) == 1
        assert '\\"rest\\"' in (tmp_path / "server" / "server.log").read_text()


# --- In a container -------------------------------------------------------------------------------------------------


def unprivileged(command):
    """The command as nobody, for whom folders can be read-only; root may write anywhere."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]


@contextlib.contextmanager
def half_a_core():
    """A control group with half a processor, as a function that puts a command into it; skips where there can be none."""
    versions = {"cgroup.controllers": ("", "cpu.max", "50000 100000"), "cpu": ("cpu", "cpu.cfs_quota_us", "50000")}
    root = pathlib.Path("/sys/fs/cgroup")
    for mark, (controller, file, quota) in versions.items():
        group = root / controller / f"tiltyard-test-{os.getpid()}"
        if not (root / mark).exists():
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(quota)
            yield lambda command: ["sh", "-c", f'echo $$ > {group / "cgroup.procs"} && exec "$@"', "sh", *command]
            return
        except OSError:
            pass
        finally:
            serving.until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
            group.rmdir()
    pytest.skip("this machine lets nobody make control groups for processors")


@contextlib.contextmanager
def read_only(*models):
    """A folder that nobody but root can write to, with models and an empty folder for data."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for model in models:
            shutil.copytree(serving.FIXTURES / model, folder / "models" / model)
        (folder / "data").mkdir()
        for path in [folder, folder / "models", folder / "data"]:
            path.chmod(0o555)
        yield folder


def lives_and_ends(ports, process, log):
    """Answers, and ends without cutting anything off."""
    assert infer_on(ports.http) == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(serving.STOP_SECONDS_MAX) == 0
    assert "nothing was cut off" in log.read_text()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become somebody without rights")
def test_start_and_drain_where_nothing_can_be_written(tmp_path):
    """As in a container with a read-only root file system."""
    log = tmp_path / "server.log"
    with read_only("two_in_two_out") as folder, holding.Ports(["http", "grpc", "admin"]) as ports:
        process = ports.start(folder / "models", folder / "data", wrap=unprivileged, log=log)
        lives_and_ends(ports, process, log)
    assert "cannot be written" in log.read_text()


def test_start_and_drain_on_half_a_core(tmp_path):
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    with half_a_core() as grouped, holding.Ports(["http", "grpc", "admin"]) as ports:
        process = ports.start(models, tmp_path / "server", wrap=grouped)
        lives_and_ends(ports, process, tmp_path / "server" / "server.log")
