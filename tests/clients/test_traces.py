"""Are requests traced from their caller's trace on, and does a collector that hangs harm nobody?"""

import http.client
import http.server
import json
import re
import threading
import time

import numpy as np
import pytest

import asking
import serving
from test_telemetry import total

QUESTION = {"model": "identity_fp32", "inputs": [asking.tensor("input", np.ones((1, 2), np.float32))]}
BODY = {"inputs": QUESTION["inputs"]}
PATH = "/v2/models/identity_fp32/infer"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def traceparent(trace=TRACE, sampled=True):
    return f"00-{trace}-{PARENT}-0{int(sampled)}"


class Collector:
    """Takes what is sent to /v1/traces: a list of spans. Hangs or refuses where it is told to."""

    def __init__(self):
        self.spans, self.resources, self.status = [], [], 200
        self.answers = threading.Event()
        self.answers.set()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                collector.answers.wait()
                assert self.path == "/v1/traces" and self.headers["content-type"] == "application/json"
                if collector.status == 200:
                    for resource in body["resourceSpans"]:
                        collector.resources.append(resource["resource"])
                        collector.spans += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
                self.send_response(collector.status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def of(self, trace):
        return [span for span in self.spans if span["traceId"] == trace]

    def close(self):
        self.answers.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def traced(collector, tmp_path):
    """A server that begins no traces by itself."""
    models = serving.link_models(
        tmp_path / "models", serving.FIXTURES / "identity_fp32", serving.FIXTURES / "two_in_two_out",
        serving.FIXTURES / "slow")
    with serving.Server(
            models, tmp_path, "--otlp-endpoint", collector.url, "--trace-sampling", "0", "--threads", "1") as server:
        yield server


def attributes(span):
    return {item["key"]: next(iter(item["value"].values())) for item in span["attributes"]}


def spans_of(collector, trace, count=5):
    serving.until(lambda: len(collector.of(trace)) >= count, f"{count} spans")
    return {span["name"]: span for span in collector.of(trace)}


def test_a_request_goes_on_in_its_callers_trace(collector, traced):
    answer = traced.post(PATH, BODY, headers={"traceparent": traceparent()})
    spans = spans_of(collector, TRACE)
    assert set(spans) == {"infer identity_fp32", "decode", "queue", "run", "encode"}
    request = spans["infer identity_fp32"]
    assert (request["parentSpanId"], request["kind"]) == (PARENT, 2)
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{request['spanId']}-01"
    told = attributes(request)
    assert (told["tiltyard.model"], told["tiltyard.version"], told["tiltyard.arm"]) == ("identity_fp32", "1", "champion")
    assert told["tiltyard.prediction_id"] == answer.headers["tiltyard-prediction-id"]
    assert told["tiltyard.digest"] == answer.headers["tiltyard-digest"]
    assert attributes(spans["run"])["tiltyard.batch_rows"] == "1" and spans["run"]["links"] == []
    ends = lambda span: (int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"]))
    (begun, ended), last = ends(request), 0
    assert abs(begun / 1e9 - time.time()) < 60
    for name in ("decode", "queue", "run", "encode"):
        span = spans[name]
        assert span["parentSpanId"] == request["spanId"] and span["kind"] == 1
        assert begun <= ends(span)[0] <= ends(span)[1] <= ended and ends(span)[0] >= last
        last = ends(span)[0]
    assert len({span["spanId"] for span in spans.values()}) == 5
    services = {item["key"]: item["value"]["stringValue"] for item in collector.resources[0]["attributes"]}
    assert services["service.name"] == "tiltyard"


def test_the_same_over_grpc_and_row_scoring_and_streams(collector, traced):
    metadata = (("traceparent", traceparent("1" * 32)),)
    _, call = traced.stub.ModelInfer.with_call(asking.raw(QUESTION), metadata=metadata, timeout=serving.ANSWER_SECONDS_MAX)
    request = spans_of(collector, "1" * 32)["infer identity_fp32"]
    headers = dict(call.initial_metadata()) | dict(call.trailing_metadata())
    assert headers["traceresponse"] == f"00-{'1' * 32}-{request['spanId']}-01"
    metadata = (("traceparent", traceparent("2" * 32)),)
    answers = traced.stub.ModelStreamInfer(
        iter([asking.raw(QUESTION)] * 2), metadata=metadata, timeout=serving.ANSWER_SECONDS_MAX)
    assert all(not answer.error_message for answer in answers)
    serving.until(lambda: len(collector.of("2" * 32)) == 10, "two requests of one trace")


def test_who_is_not_sampled_is_not_traced(collector, traced):
    for headers in ({"traceparent": traceparent("3" * 32, sampled=False)}, {}, {"traceparent": "broken"}):
        answer = traced.post(PATH, BODY, headers=headers)
        assert answer.status == 200 and "traceresponse" not in answer.headers
    traced.post(PATH, BODY, headers={"traceparent": traceparent()})
    spans_of(collector, TRACE)
    assert {span["traceId"] for span in collector.spans} == {TRACE}


def test_a_failure_is_told_with_its_reason(collector, traced):
    body = {"inputs": [asking.tensor("input", np.ones((1, 2, 2), np.float32))]}
    assert traced.post(PATH, body, headers={"traceparent": traceparent()}).status == 400
    request = spans_of(collector, TRACE, 1)["infer identity_fp32"]
    assert attributes(request)["error.type"] == "invalid"
    assert request["status"]["code"] == 2 and "input" in request["status"]["message"]
    assert TRACE in traced.log_text(), "the log names the trace"


def test_requests_of_one_run_are_linked(collector, tmp_path):
    """A batch waits for company: requests that come meanwhile share its run."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    flags = ["--otlp-endpoint", collector.url, "--trace-sampling", "0", "--batch-delay-max", "300ms"]
    body = {"inputs": [asking.tensor(name, np.ones((1, 4), np.float32)) for name in "ab"]}
    with serving.Server(models, tmp_path, *flags) as server:
        traces = [f"{number:032x}" for number in range(1, 5)]
        ask = lambda trace: server.post(
            "/v2/models/two_in_two_out/infer", body, headers={"traceparent": traceparent(trace)})

        def together():
            collector.spans.clear()
            threads = [threading.Thread(target=ask, args=[trace]) for trace in traces]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            runs = {trace: spans_of(collector, trace) for trace in traces}
            numbers = {attributes(spans["run"])["tiltyard.run"] for spans in runs.values()}
            return len(numbers) == 1 and runs

        runs = serving.until(together, "four requests in one run", 30)
    spans = {trace: spans["infer two_in_two_out"]["spanId"] for trace, spans in runs.items()}
    for trace in traces:
        linked = {(link["traceId"], link["spanId"]) for link in runs[trace]["run"]["links"]}
        assert linked == {(other, spans[other]) for other in traces if other != trace}


def test_a_share_of_requests_begins_a_trace_named_as_the_prediction_is(collector, tmp_path):
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "identity_fp32")
    with serving.Server(models, tmp_path, "--otlp-endpoint", collector.url, "--trace-sampling", "0.5") as server:
        answers = [server.post(PATH, BODY) for _ in range(200)]
    # The end waits for what was on its way.
    begun = [span for span in collector.spans if span["name"].startswith("infer")]
    assert 60 < len(begun) < 140 and not any("parentSpanId" in span for span in begun)
    assert len(begun) == sum("traceresponse" in answer.headers for answer in answers)
    for span in begun:
        assert span["traceId"] == attributes(span)["tiltyard.prediction_id"].replace("-", "").removesuffix(":0")


def test_an_exemplar_names_the_trace(collector, traced):
    traced.post(PATH, BODY, headers={"traceparent": traceparent()})

    def page():
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        return traced.get("/metrics", port=traced.admin_port, headers=accept).body.decode()

    serving.until(lambda: f'trace_id="{TRACE}"' in page(), "the example")


def test_a_collector_that_hangs_is_waited_for_by_nobody(collector, traced):
    collector.answers.clear()
    for number in range(1, 6_001):
        if number % 500 == 0 and total(traced, "tiltyard_spans_dropped_total", reason="full") > 0:
            break
        ask_quickly(traced, f"{number:032x}")
    dropped = total(traced, "tiltyard_spans_dropped_total", reason="full")
    assert dropped > 0 and dropped % 5 == 0
    assert traced.post(PATH, BODY).status == 200
    collector.answers.set()


def ask_quickly(server, trace):
    """One request after the other on one connection: thousands of new ones would be slow."""
    if not hasattr(server, "_kept"):
        server._kept = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=serving.ANSWER_SECONDS_MAX)
    server._kept.request(
        "POST", PATH, json.dumps(BODY), {"content-type": "application/json", "traceparent": traceparent(trace)})
    answer = server._kept.getresponse()
    answer.read()
    assert answer.status == 200


def test_what_the_collector_refuses_is_counted(collector, traced):
    collector.status = 400
    traced.post(PATH, BODY, headers={"traceparent": traceparent()})
    serving.until(lambda: total(traced, "tiltyard_spans_dropped_total", reason="refused") == 5, "five spans")
    serving.until(lambda: re.search("traces cannot be sent on.*400", traced.log_text()), "the line in the log")
    collector.status = 200
    traced.post(PATH, BODY, headers={"traceparent": traceparent("5" * 32)})
    spans_of(collector, "5" * 32)
    serving.until(lambda: total(traced, "tiltyard_spans_exported_total") == 5, "what was taken")


def test_an_endpoint_that_is_none_is_told_at_the_start(tmp_path):
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "identity_fp32")
    server = serving.Server(models, tmp_path, "--otlp-endpoint", "127.0.0.1:4317", wait=False)
    assert server.process.wait(serving.START_SECONDS_MAX) != 0
    assert "otlp_endpoint" in server.log_text()
