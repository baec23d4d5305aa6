"""Do captured requests reach those who listen, and finished segments the store, without a request's knowing?"""

import http.server
import json
import shutil
import threading

import numpy as np
import pytest

import asking
import serving
import storing
from test_capture import counters, features, risk, start, table


class Sink:
    """Somebody who listens for CloudEvents. `fails` answers everything with that status."""

    def __init__(self):
        self.events, self.fails, self.lock = [], None, threading.Lock()
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if not sink.fails:
                    with sink.lock:
                        sink.events.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(sink.fails or 202)
                self.send_header("content-length", "0")
                self.end_headers()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/events"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def of_type(self, kind):
        with self.lock:
            return {headers["ce-id"]: (headers, json.loads(body)) for headers, body in self.events
                    if headers["ce-type"] == f"org.kubeflow.serving.inference.{kind}"}


def figures(server, to):
    lines = server.get("/metrics", port=server.admin_port).body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("tiltyard_capture") and f'to="{to}"' in line)
    return {name.split("{")[0].removeprefix("tiltyard_capture_"): float(value) for name, value in values.items()}


def test_a_sink_hears_each_request_and_its_response(tmp_path):
    (tmp_path / "rules.toml").write_text('[risk]\nheaders = ["x-channel"]\n')
    with Sink() as sink, start(tmp_path, "--capture-sink", sink.address, "--capture-rules",
                               str(tmp_path / "rules.toml")) as server:
        answers = {}
        for seed in range(5):
            body = {"inputs": risk(2, seed)["inputs"]}
            answer = server.post("/v2/models/risk/infer", body, {"x-channel": "web"})
            answers[answer.headers["tiltyard-prediction-id"][:-2]] = (seed, answer.json())
        serving.until(lambda: len(sink.of_type("response")) == 5, "events")
        asked, answered = sink.of_type("request"), sink.of_type("response")
        for id, (seed, answer) in answers.items():
            headers, body = asked[id]
            assert headers["ce-specversion"] == "1.0" and headers["content-type"] == "application/json"
            assert (headers["ce-inferenceservicename"], headers["ce-endpoint"], headers["ce-component"]) == (
                "risk", "champion", "predictor")
            assert headers["ce-source"] == "/v2/models/risk/versions/2" and headers["ce-time"].endswith("Z")
            assert "x-channel" in headers["ce-metadata"]
            assert [(item["name"], item["datatype"], item["shape"]) for item in body["inputs"]] == [
                ("features", "FP32", [2, 30])]
            assert (np.array(body["inputs"][0]["data"], np.float32) == features(2, seed).ravel()).all()
            outputs = {item["name"]: item["data"] for item in answered[id][1]["outputs"]}
            assert outputs == {item["name"]: item["data"] for item in answer["outputs"]}
        serving.until(lambda: figures(server, "sink")["sent_total"] == 5, "the count")


def test_a_sink_that_is_down_is_caught_up_with_and_no_request_knows(tmp_path):
    with Sink() as sink:
        sink.fails = 503
        with start(tmp_path, "--capture-sink", sink.address) as server:
            for seed in range(4):
                assert asking.ask_json(server, risk(1, seed)).kind is None
            serving.until(lambda: figures(server, "sink")["sending_failing"] == 1, "the failure is told")
            assert counters(server)[1] == 4 and not sink.events
            sink.fails = None
            serving.until(lambda: len(sink.of_type("response")) == 4, "events", 30)
        # Nothing is told twice after a restart.
        with start(tmp_path / "again", "--data-dir", str(tmp_path / "data"), "--capture-sink", sink.address) as server:
            assert asking.ask_json(server, risk(1, 9)).kind is None
            serving.until(lambda: len(sink.of_type("response")) == 5, "the next event")
        assert len(sink.events) == 10


def test_what_is_encrypted_is_not_told_to_a_sink(tmp_path):
    (tmp_path / "rules.toml").write_text('[risk]\nsubject = { header = "x-customer" }\n')
    (tmp_path / "master.key").write_text("5" * 64)
    with Sink() as sink, start(tmp_path, "--capture-sink", sink.address, "--capture-rules", str(tmp_path / "rules.toml"),
                               "--capture-key-file", str(tmp_path / "master.key")) as server:
        assert asking.ask_json(server, risk(3)).kind is None
        serving.until(lambda: figures(server, "sink")["unsent_total"] == 3, "the count")
        assert not sink.events


def test_segments_are_in_the_store_and_the_record_says_where(tmp_path):
    with storing.Store() as store:
        where = f"s3://{storing.BUCKET}/record"
        with start(tmp_path, "--capture-store", where, variables=store.variables) as server:
            store.fails = 503
            assert asking.ask_json(server, risk(2)).kind is None
            serving.until(lambda: figures(server, "store")["sending_failing"] == 1, "the failure is told", 60)
            assert table(tmp_path).num_rows == 2 and not store.objects
            store.fails = None
            serving.until(lambda: figures(server, "store")["sent_total"] == 1, "the segment arrives", 60)
        local = next((tmp_path / "data" / "capture" / "segments").rglob("*.parquet"))
        name = "record/" + str(local.relative_to(tmp_path / "data" / "capture" / "segments"))
        assert store.objects == {name: local.read_bytes()}
        lines = (tmp_path / "data" / "capture" / "segments.jsonl").read_text().splitlines()
        stored = [json.loads(line)["data"] for line in lines if json.loads(line)["kind"] == "capture.stored"]
        assert stored == [{"file": name.removeprefix("record/"), "at": f"s3://{storing.BUCKET}/{name}"}]
        assert serving.run_binary("capture", "verify", "--data-dir", tmp_path / "data").returncode == 0
        # What is there already is not written over, and counts as there.
        shutil.rmtree(tmp_path / "data" / "capture" / "sent")
        puts = [request for request in store.requests if request.method == "PUT"]
        assert all(request.headers["if-none-match"] == "*" for request in puts)
        with start(tmp_path / "again", "--data-dir", str(tmp_path / "data"), "--capture-store", where,
                   variables=store.variables) as server:
            serving.until(lambda: figures(server, "store")["sent_total"] == 1, "the segment is there", 60)
        assert store.objects[name] == local.read_bytes()


def test_a_folder_is_a_store_too(tmp_path):
    with start(tmp_path, "--capture-store", str(tmp_path / "kept")) as server:
        assert asking.ask_json(server, risk(2)).kind is None
        serving.until(lambda: figures(server, "store")["sent_total"] == 1, "the segment is copied")
    local = next((tmp_path / "data" / "capture" / "segments").rglob("*.parquet"))
    assert [path.read_bytes() for path in (tmp_path / "kept").rglob("*.*")] == [local.read_bytes()]


@pytest.mark.parametrize("flag, value, told", [
    ("--capture-sink", "kafka://broker", "expected http://HOST"), ("--capture-store", "ftp://host/x", "expected a URL")])
def test_places_that_are_none_end_the_start(tmp_path, flag, value, told):
    server = start(tmp_path, flag, value, wait=False)
    try:
        assert server.process.wait(serving.START_SECONDS_MAX) != 0 and told in server.log_text(), server.log_text()
    finally:
        server.kill()
