"""What do clients see of a server that has too much to do, and who is spared?"""

import concurrent.futures
import http.client
import json
import math
import shutil
import socket
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils
from google.protobuf import any_pb2, duration_pb2

import asking
import serving

SLOW = {"model": "slow", "inputs": [asking.tensor("x", np.ones((1, 4), np.float32))]}
ROW = asking.tensor("a", np.ones((1, 4), np.float32))
QUICK = {"model": "two_in_two_out", "inputs": [ROW, ROW | {"name": "b"}]}
MODELS = [serving.FIXTURES / name for name in ("slow", "two_in_two_out", "identity_fp32")]


def start(folder, *flags):
    return serving.Server(serving.link_models(folder / "models", *MODELS), folder, *flags)


FULL = ["--requests-max", "2", "--threads", "1", "--batch-delay-max"]


def fill(server, many):
    """Two requests, all that there is room for, which wait as long as the server lets them for others to share their batch."""
    body = {"inputs": SLOW["inputs"], "parameters": {"timeout": 600_000_000}}
    held = [many.submit(server.post, asking.rest_path(SLOW), body, timeout=600) for _ in range(2)]
    serving.until(lambda: metric(server, "tiltyard_requests_in_flight") == 2, "two requests in flight")
    return held


@pytest.fixture(scope="module")
def occupied(tmp_path_factory):
    """A server that is full, whatever a test does and however long it takes."""
    with concurrent.futures.ThreadPoolExecutor(2) as many:
        server = start(tmp_path_factory.mktemp("occupied"), *FULL, "5m")
        try:
            fill(server, many)
            yield server
            assert metric(server, "tiltyard_requests_in_flight") == 2
        finally:
            server.kill()


def metrics(server):
    lines = server.get("/metrics", port=server.admin_port).body.decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def metric(server, series):
    return float(metrics(server).get(series, "nan"))


def refused(server, reason):
    series = (name for name in metrics(server) if name.startswith("tiltyard_requests_refused_total{"))
    return sum(metric(server, name) for name in series if f'reason="{reason}"' in name)


def fields(message):
    """The fields of a message in protobuf's wire form, numbers and bytes alone: {field: [values]}."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        value = varint()
        if key & 7 == 2:
            value, at = message[at:at + value], at + value
        found.setdefault(key >> 3, []).append(value)
    return found


def retry_info(metadata):
    """The wait in seconds that google.rpc.RetryInfo tells in a failed call's metadata, with the status around it."""
    status = fields(metadata["grpc-status-details-bin"])
    detail = any_pb2.Any.FromString(status[3][0])
    assert detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
    delay = duration_pb2.Duration.FromString(fields(detail.value)[1][0])
    return status[1][0], status[2][0].decode(), delay.seconds + delay.nanos / 1e9


# --- What a refusal looks like -----------------------------------------------------------------------------------


def test_rest_says_when_to_come_again(occupied):
    before = refused(occupied, "requests")
    answer = occupied.post(asking.rest_path(QUICK), {"inputs": QUICK["inputs"]})
    assert answer.status == 429 and "2 requests are in flight already (requests_max)" in answer.error(), answer
    seconds, milliseconds = int(answer.headers["retry-after"]), int(answer.headers["retry-after-ms"])
    assert seconds >= 1 and seconds == math.ceil(milliseconds / 1000)
    assert refused(occupied, "requests") == before + 1


def test_grpc_says_when_to_come_again(occupied):
    with pytest.raises(grpc.RpcError) as raised:
        occupied.stub.ModelInfer(asking.raw(QUICK), timeout=serving.ANSWER_SECONDS_MAX)
    error = raised.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = dict(error.trailing_metadata())
    code, message, seconds = retry_info(metadata)
    assert (code, message) == (error.code().value[0], error.details())
    assert int(metadata["grpc-retry-pushback-ms"]) == math.ceil(seconds * 1000) > 0


@pytest.mark.parametrize("form", asking.FORMS)
def test_every_form_is_refused_alike(occupied, form):
    reply = asking.FORMS[form](occupied, QUICK)
    assert reply.kind == "overloaded" and "requests_max" in reply.message, reply


def test_tritons_clients_see_a_refusal(occupied):
    for module, address, status in [
        (tritonclient.http, occupied.http_address, "429"),
        (tritonclient.grpc, occupied.grpc_address, "StatusCode.RESOURCE_EXHAUSTED"),
    ]:
        inputs = [module.InferInput(name, [1, 4], "FP32") for name in "ab"]
        for each in inputs:
            each.set_data_from_numpy(np.ones((1, 4), np.float32))
        client = module.InferenceServerClient(address)
        with pytest.raises(tritonclient.utils.InferenceServerException) as raised:
            client.infer("two_in_two_out", inputs)
        client.close()
        assert raised.value.status() == status


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_curl_waits_as_it_is_told(tmp_path):
    with start(tmp_path, *FULL, "3s") as server, concurrent.futures.ThreadPoolExecutor(2) as many:
        held = fill(server, many)
        url = f"http://{server.http_address}{asking.rest_path(QUICK)}"
        body = json.dumps({"inputs": QUICK["inputs"]})
        words = ["curl", "-s", "--retry", "30", "--retry-max-time", "25", "-w", " %{http_code}", "-d", body, url]
        # It takes 429 for a reason to wait for as long as Retry-After says, and then asks again.
        done = subprocess.run(words, capture_output=True, text=True, timeout=serving.ANSWER_SECONDS_MAX)
        assert done.stdout.endswith(" 200") and refused(server, "requests") >= 1, done
        assert [each.result().status for each in held] == [200, 200]


def test_a_refused_request_costs_no_connection(occupied):
    connection = http.client.HTTPConnection("127.0.0.1", occupied.http_port, timeout=serving.ANSWER_SECONDS_MAX)
    body = json.dumps({"inputs": QUICK["inputs"], "id": "x" * 300_000}).encode()
    socket_used = None
    for _ in range(5):
        connection.request("POST", asking.rest_path(QUICK), body)
        answer = connection.getresponse()
        assert answer.status == 429 and json.loads(answer.read())["error"]
        assert socket_used in (None, connection.sock), "the connection was closed"
        socket_used = connection.sock
    connection.close()


def test_who_asks_before_sending_need_not_send(occupied):
    head = (f"POST {asking.rest_path(QUICK)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Content-Length: 60000000\r\nExpect: 100-continue\r\n\r\n")
    answer = occupied.raw(head.encode())
    assert answer.status == 429, answer


# --- Who is spared -----------------------------------------------------------------------------------------------


def test_a_flood_on_one_model_leaves_others_answering(tmp_path):
    over = threading.Event()

    def ask_again_and_again():
        replies = [asking.ask_raw(server, SLOW)]
        while not over.is_set():
            replies.append(asking.ask_raw(server, SLOW))
        return replies

    with start(tmp_path, "--requests-max", "20", "--threads", "2") as server:
        with concurrent.futures.ThreadPoolExecutor(40) as many:
            flood = [many.submit(ask_again_and_again) for _ in range(40)]
            try:
                serving.until(lambda: metric(server, "tiltyard_requests_in_flight") >= 16, "a flood")
                for _ in range(20):
                    for form in asking.FORMS.values():
                        assert form(server, QUICK).kind is None
            finally:
                over.set()
            replies = [reply for each in flood for reply in each.result()]
        refusals = [reply for reply in replies if reply.kind]
        assert len(refusals) >= 20 and all(reply.kind == "overloaded" for reply in refusals), refusals
        assert all("the rest is for others" in reply.message for reply in refusals), refusals
        assert refused(server, "share") == len(refusals)
        assert len(replies) - len(refusals) >= 16


def test_slow_senders_of_large_bodies_do_not_take_more_than_the_bound(tmp_path):
    bound, sent_bytes = 8 << 20, 600_000
    flags = ["--bytes-in-flight-max", str(bound), "--body-bytes-max", "1MiB"]
    with start(tmp_path, *flags) as server:
        assert asking.ask_json(server, QUICK).kind is None
        before = resident(server)
        head = (b"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n"
                b"Inference-Header-Content-Length: 0\r\n\r\n")
        senders = [socket.create_connection(("127.0.0.1", server.http_port), 10) for _ in range(200)]
        try:
            piece, most = b"\0" * (sent_bytes // 6), 0
            gone = set()
            for number in range(7):
                for sender in senders:
                    try:
                        sender.sendall(piece if number else head)
                    except OSError:
                        gone.add(sender)  # refused, and cut off
                most = max(most, metric(server, "tiltyard_bytes_in_flight"))
                # Who sends little is answered meanwhile, on any protocol.
                for form in asking.FORMS.values():
                    assert form(server, QUICK).kind is None
            assert bound / 2 < most <= bound
            assert resident(server) - before < 60 << 20, "200 bodies of 600 kB would be 120 MB"
            assert refused(server, "share") + refused(server, "bytes") >= 150
        finally:
            for sender in senders:
                sender.close()
        serving.until(lambda: metric(server, "tiltyard_bytes_in_flight") == 0, "all bytes given back")
        assert asking.ask_json(server, QUICK).kind is None


def resident(server):
    with open(f"/proc/{server.process.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


# --- Clients that ask too often ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    flags = ["--client-rate", "1", "--client-burst", "3", "--client-key", "x-api-key", "--log-level", "debug"]
    with start(tmp_path_factory.mktemp("limited"), *flags) as server:
        yield server


def test_a_client_that_asks_too_often_is_held_back_alone(limited):
    def ask(key):
        body = {"inputs": QUICK["inputs"]}
        return limited.post(asking.rest_path(QUICK), body, {"x-api-key": key})

    assert [ask("often").status for _ in range(3)] == [200] * 3
    began = time.monotonic()
    answer = ask("often")
    if time.monotonic() - began < 0.5:
        assert answer.status == 429 and "client_rate" in answer.error(), answer
        assert int(answer.headers["retry-after"]) == 1
        assert 1 <= int(answer.headers["retry-after-ms"]) <= 1000
    assert ask("seldom").status == 200
    # Health and metadata are no requests to a model.
    assert all(limited.get("/v2/models/two_in_two_out").status == 200 for _ in range(10))


def test_the_same_holds_over_grpc_and_for_each_request_of_a_stream(limited):
    def call(key):
        try:
            limited.stub.ModelInfer(asking.raw(QUICK), timeout=30, metadata=[("x-api-key", key)])
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "client_rate" in error.details()
            assert 1 <= int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) <= 1000
            return False
        return True

    assert [call("busy") for _ in range(3)] == [True] * 3
    assert sum(call("busy") for _ in range(50)) < 50 and call("idle")
    requests = [asking.raw(QUICK | {"id": str(number)}) for number in range(50)]
    answers = list(limited.stub.ModelStreamInfer(iter(requests), timeout=30, metadata=[("x-api-key", "stream")]))
    assert [answer.error_message for answer in answers[:3]] == [""] * 3
    held_back = [answer for answer in answers if answer.error_message]
    assert len(answers) == 50 and held_back and all("client_rate" in answer.error_message for answer in held_back)
    assert refused(limited, "client_rate") >= len(held_back)


def test_a_request_counts_the_same_whatever_it_asks_and_however(limited):
    none = QUICK | {"model": "none"}

    def over_rest():
        return limited.post(asking.rest_path(none), {"inputs": none["inputs"]}, {"x-api-key": "rest"}).status

    def over_grpc():
        with pytest.raises(grpc.RpcError) as refused:
            limited.stub.ModelInfer(asking.raw(none), timeout=30, metadata=[("x-api-key", "grpc")])
        return refused.value.code()

    statuses, codes = [over_rest() for _ in range(20)], [over_grpc() for _ in range(20)]
    assert statuses[:3] == [404] * 3 and 429 in statuses
    assert codes[:3] == [grpc.StatusCode.NOT_FOUND] * 3 and grpc.StatusCode.RESOURCE_EXHAUSTED in codes


def test_what_a_stream_is_refused_is_counted_and_logged_as_elsewhere(limited):
    series = 'tiltyard_refused_total{kind="overloaded"}'
    before = metric(limited, series)
    requests = [asking.raw(QUICK) for _ in range(20)]
    answers = list(limited.stub.ModelStreamInfer(iter(requests), timeout=30, metadata=[("x-api-key", "counted")]))
    held_back = [answer for answer in answers if answer.error_message]
    assert held_back and metric(limited, series) - before == len(held_back)
    call = limited.channel().stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    with pytest.raises(grpc.RpcError) as ended:
        list(call(iter([b"\xff\xff\xff"]), timeout=30, metadata=[("x-api-key", "rubbish")]))
    assert ended.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    line = lambda: [line for line in limited.log_text().splitlines() if "refused" in line and ended.value.details() in line]
    serving.until(line, "a line in the log")


# --- Deadlines ---------------------------------------------------------------------------------------------------


# As many rows as a run takes, so that each has a run of its own.
PATIENT = SLOW | {"inputs": [asking.tensor("x", np.ones((64, 4), np.float32))], "parameters": {"timeout": 60_000_000}}
WITHOUT_A_TIME_OF_THE_TRANSPORT = {
    "json": lambda server: server.post(asking.rest_path(PATIENT), asking.rest_body(PATIENT) | {"inputs": PATIENT["inputs"]}),
    "raw": lambda server: server.stub.ModelInfer(asking.raw(PATIENT)),
    "typed": lambda server: server.stub.ModelInfer(asking.typed(PATIENT)),
}


@pytest.mark.parametrize("form", WITHOUT_A_TIME_OF_THE_TRANSPORT)
def test_who_asks_for_more_time_than_usual_has_it(tmp_path, form):
    ask = WITHOUT_A_TIME_OF_THE_TRANSPORT[form]
    with start(tmp_path, "--threads", "1", "--request-timeout", "200ms") as server:
        with concurrent.futures.ThreadPoolExecutor(12) as many:
            for _ in range(3):  # what runs cost is known in the end
                answers = list(many.map(lambda _: ask(server), range(12)))
                assert all(getattr(answer, "status", 200) == 200 for answer in answers), answers


def test_no_run_is_for_a_client_whose_time_is_over(tmp_path):
    with start(tmp_path, "--threads", "1") as server:
        with concurrent.futures.ThreadPoolExecutor(16) as many:
            # One run takes longer than most of these clients wait.
            asked = [SLOW | {"parameters": {"timeout": timeout}} for timeout in [100_000] * 15 + [60_000_000]]
            kinds = [reply.kind for reply in many.map(lambda question: asking.ask_raw(server, question), asked)]
        assert kinds[-1] is None and set(kinds) <= {None, "deadline", "overloaded"}
        late = [name for name in metrics(server) if name.startswith("tiltyard_requests_late_total")]
        assert late and all(metric(server, name) == 0 for name in late)
        serving.until(lambda: metric(server, 'tiltyard_live{kind="jobs"}') == 0, "every job is gone")
        assert metric(server, "tiltyard_requests_in_flight") == metric(server, "tiltyard_bytes_in_flight") == 0
