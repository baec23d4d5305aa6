"""Do labels that come late decide between versions that compete on live traffic?"""

import collections
import http.client
import json
import random
import subprocess
import threading
import time
from unittest.mock import ANY

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import competing
import securing
import serving
from competing import Crowd, command, hold_back, reaches, server, status, verify  # noqa: F401  a fixture is among them
from test_endpoints import run, start
from test_repository import put

# Short, and judged by failures and labels alone: a shared machine says nothing of speed.
PRIMARY = {
    "metric": "right", "gain": "accuracy", "label_depends_on_decision": False, "horizon": "1s", "missing": "exclude",
    "planned_units": 1000, "least_gain": 0.01,
}
POLICY = {"guardrails": [{"metric": "errors", "floor": 0.03}], "primary": PRIMARY}
PAIRS = {key: value for key, value in PRIMARY.items() if key not in ("missing", "least_gain")} | {"design": "paired_shadow"}
QUICK = ("--steps", "50%/1s", "--min-time", "2s", "--min-units", "200")


def classifier(noise):
    """A row is a signal and noise; its class is whether the signal is positive, told the worse the more noise is heeded."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [2, 1], [1.0, float(noise)])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["sum"]),
        helper.make_node("Greater", ["sum", "zero"], ["is"]),
        helper.make_node("Cast", ["is"], ["label"], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes, "classifier", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, ["batch", 1])], [weights, zero])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


@pytest.fixture
def repository(tmp_path):
    """Version 1 is right in 85 % of the rows, version 2 in all, version 3 in 65 %."""
    root = tmp_path / "models"
    for version, noise in ((1, 0.5), (2, 0.0), (3, 2.0)):
        put(root, "m", version, classifier(noise))
    hold_back(root)
    return root


def begin(server, tmp_path, version, *flags, policy=POLICY, expected=0):
    return competing.begin(server, tmp_path, version, *(flags or QUICK), policy=policy, expected=expected)


def ask(server, rows, connection=None, headers=None, parameters=None):
    """The answer's classes and its headers."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": np.ravel(rows).tolist()}]}
    if parameters:
        body["parameters"] = parameters
    connection = connection or http.client.HTTPConnection(server.http_address, timeout=30)
    connection.request("POST", "/v2/models/m/infer", json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    return json.loads(text)["outputs"][0]["data"], {name.lower(): value for name, value in answer.getheaders()}


def tell(server, *lines, expected=200, **headers):
    """Sends lines, and gives what became of them; what became of nobody is left out."""
    body = "\n".join(json.dumps({"endpoint": "m", **line}) for line in lines).encode()
    answer = server.post("/v1/feedback", body, {"Content-Type": "application/x-ndjson", **headers})
    assert answer.status == expected, answer
    return {name: count for name, count in answer.json().items() if count and name != "received"}


class Clients(Crowd):
    """Ask of ever new rows, and say a moment later what was true. `withhold` keeps a label back by the answer's arm; `pace` is a rest
    after each request, which leaves time for shadows."""

    def __init__(self, server, by_key=False, delay=0.3, withhold=lambda arm: False, threads=2, pace=0.0):
        super().__init__(*[self.ask_on] * threads, self.tell_on)
        self.server, self.by_key, self.delay, self.withhold, self.pace = server, by_key, delay, withhold, pace
        self.versions, self.told = collections.Counter(), collections.Counter()
        self.due, self.number = collections.deque(), 0

    def ask_on(self):
        lot = random.Random(threading.get_ident())
        connection = http.client.HTTPConnection(self.server.http_address, timeout=30)
        while not self.over.is_set():
            with self.lock:
                self.number += 1
                number = self.number
            row = (lot.gauss(0, 1), lot.gauss(0, 1))
            headers = {"x-user": f"user-{number}", "tiltyard-row-key": f"row-{number}"} if self.by_key else {}
            _, told = ask(self.server, [row], connection, headers)
            self.versions[told["tiltyard-version"]] += 1
            name = {"row_key": f"row-{number}"} if self.by_key else {"prediction_id": told["tiltyard-prediction-id"]}
            if not self.withhold(told["tiltyard-arm"]):
                self.due.append((time.monotonic() + self.delay, {**name, "label": int(row[0] > 0)}))
            time.sleep(self.pace)

    def tell_on(self):
        while not self.over.wait(0.05):
            lines = []
            while self.due and self.due[0][0] <= time.monotonic():
                lines.append(self.due.popleft()[1])
            if lines:
                self.told.update(tell(self.server, *lines))

    def __exit__(self, kind, *_):
        super().__exit__(kind, *_)
        if kind is None:
            assert not self.failed, self.failed


def verdicts(server):
    """All of the log, in order."""
    log = next((server.folder / "data").rglob("log"))
    entries = [json.loads(line) for file in sorted(log.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [entry["data"]["verdict"] for entry in entries if entry["kind"] == "rollout.event"]


def metric(server, name, **labels):
    """The sum over the series that have these labels."""
    text = server.get("/metrics", port=server.admin_port).body.decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name + "{")]
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(value) for series, value in lines if all(pair in series for pair in wanted))


# --- Verdicts --------------------------------------------------------------------------------------------------------


def test_the_better_version_wins_by_labels_that_come_late(server, tmp_path):
    begin(server, tmp_path, 2)
    with Clients(server) as clients:
        reaches(server, lambda told: told["ended"] or (told["quality"] or {}).get("n", 0) > 50, "some labels")
        shown = run(server, "rollout", "status", "m")
        assert "right gains" in shown and "is needed" in shown, shown
        told = reaches(server, lambda told: told["ended"], "the end", 90)
    assert told["state"] == "promoted", told
    quality = next(reason for reason in told["verdict"]["reasons"] if reason["reason"] == "primary")
    assert quality["passes"] and quality["interval"]["lower"] > 0 and 0.05 < quality["gain"] < 0.25, quality
    assert min(told["labelled"]) > 100, told
    assert clients.told["joined"] + clients.told["waiting"] > 0.9 * sum(clients.told.values()), clients.told
    assert metric(server, "tiltyard_feedback_total", endpoint="m", outcome="joined") > 200
    better = metric(server, "tiltyard_feedback_outcome_mean", version="2")
    assert better == 1.0 and 0.7 < metric(server, "tiltyard_feedback_outcome_mean", version="1") < 0.95
    assert metric(server, "tiltyard_feedback_labels_total", endpoint="m", version="2") > 100
    verify(server)


def test_the_worse_version_is_not_worth_it_by_keys_that_stick_and_names_that_clients_give(server, tmp_path):
    # More than there is to lose: labels roll nobody back here.
    patient = POLICY | {"primary": PRIMARY | {"harm": 2}}
    begin(server, tmp_path, 3, "--key", "header:x-user", *QUICK, policy=patient)
    with Clients(server, by_key=True):
        told = reaches(server, lambda told: told["ended"], "the end", 90)
        assert told["state"] == "futile", told
        serving.until(lambda: ask(server, [(1, 1)], headers={"x-user": "a"})[1]["tiltyard-version"] == "1", "version 1", 10)
    quality = told["verdict"]["reasons"][0]
    assert quality["reason"] == "primary" and quality["is_futile"] and quality["interval"]["upper"] < 0.01, quality
    verify(server)


def test_a_version_that_is_shown_to_be_worse_is_rolled_back(server, tmp_path):
    begin(server, tmp_path, 3, policy=POLICY | {"primary": {key: PRIMARY[key] for key in PRIMARY if key != "least_gain"}})
    with Clients(server):
        told = reaches(server, lambda told: told["ended"], "the end", 90)
        assert told["state"] == "rolled_back", told
        serving.until(lambda: ask(server, [(1, 1)])[1]["tiltyard-version"] == "1", "version 1", 10)
    [reason] = told["verdict"]["reasons"]
    assert reason["reason"] == "primary" and reason["harm"]["is_shown"] and reason["harm"]["upper"] < 0, reason
    assert ": worse" in run(server, "rollout", "status", "m")
    verify(server)


def test_an_arm_that_loses_its_labels_breaks_the_comparison(server, tmp_path):
    begin(server, tmp_path, 2)
    with Clients(server, withhold=lambda arm: arm == "challenger"):
        told = reaches(server, lambda told: told["state"] == "halted", "the halt", 90)
    assert told["verdict"]["reasons"][0]["reason"] == "label_arrival", told
    assert "labels do not arrive alike" in run(server, "rollout", "status", "m")
    command(server, "abort")
    verify(server)


# --- Verdicts by pairs of a shadow -------------------------------------------------------------------------------------


def test_pairs_show_the_better_version_before_it_has_a_share(server, tmp_path):
    begin(server, tmp_path, 2, policy=POLICY | {"primary": PAIRS})
    with Clients(server, pace=0.005) as clients:
        reaches(server, lambda told: (told["quality"] or {}).get("n", 0) > 10, "some pairs")
        shown = run(server, "rollout", "status", "m")
        assert "pairs with a label (right alone: 0 champion" in shown and "rows that both answered" in shown, shown
        told = reaches(server, lambda told: told["ended"], "the end", 120)
    assert told["state"] == "promoted", told
    quality = next(reason for reason in told["verdict"]["reasons"] if reason["reason"] == "primary")
    assert quality["design"] == "paired_shadow" and quality["passes"] and quality["ln_e"] >= quality["threshold"], quality
    lost, won = quality["discordant"]
    assert lost == 0 and won >= 5 and 0.05 < quality["gain"] < 0.3, quality
    assert clients.versions["2"] > 100, "its guardrails were proved by answers"
    assert metric(server, "tiltyard_feedback_labels_total", endpoint="m", version="2") > 50
    assert metric(server, "tiltyard_feedback_outcome_mean", version="2") == 1.0
    assert 0.7 < metric(server, "tiltyard_feedback_outcome_mean", version="1") < 0.95
    shared = next(verdict for verdict in verdicts(server) if verdict["share"] > 0)
    assert (shared["decision"], shared["state"]) == ("advance", {"running": {"canary": 0}}), shared
    assert shared["reasons"][-1]["reason"] == "primary" and shared["reasons"][-1]["passes"], "the first share came with the outcome"
    verify(server)


def test_pairs_that_show_a_worse_version_end_it_before_it_answered_anybody(server, tmp_path):
    begin(server, tmp_path, 3, "--key", "header:x-user", *QUICK, policy=POLICY | {"primary": PAIRS})
    with Clients(server, by_key=True, pace=0.005) as clients:
        told = reaches(server, lambda told: told["ended"], "the end", 120)
    assert (told["state"], told["share"]) == ("futile", 0), told
    quality = told["verdict"]["reasons"][0]
    lost, won = quality["discordant"]
    assert quality["is_futile"] and quality["interval"]["upper"] < 0 and lost > won, quality
    assert set(clients.versions) == {"1"}, clients.versions
    verify(server)


def test_labels_find_pairs_before_and_after_and_beside_a_share(server, tmp_path):
    begin(server, tmp_path, 3, "--steps", "50%/1h", "--min-time", "2h", policy=POLICY | {"primary": PAIRS | {"horizon": "1h"}})
    reaches(server, lambda told: told["stage"] == "shadow", "the shadow")
    assert tell(server, {"row_key": "to-come", "label": 1}) == {"waiting": 1}
    _, told = ask(server, [(1, 1), (1, -5)], headers={"tiltyard-row-key": "to-come"})
    id = told["tiltyard-prediction-id"]
    on_record(server, id)
    assert tell(server, {"prediction_id": id, "label": 1}) == {"doubled": 1}
    assert tell(server, {"row_key": "to-come", "row": 1, "label": 0}) == {"joined": 1}
    assert tell(server, {"row_key": "to-come", "row": 1, "withdrawn": True}) == {"withdrawn": 1}
    wrong = server.post("/v1/feedback", {"endpoint": "m", "prediction_id": id, "outcome": 1})
    assert wrong.status == 400 and "expected a label" in wrong.error(), wrong
    labels = reaches(server, lambda told: told["labels"]["rows_labelled"] == [2, 2], "both labels")["labels"]
    assert (labels["paired"], labels["rows"], labels["labels_waiting"]) == (True, [2, 2], 0), labels
    # A person passes over the outcome: pairs go on beside the share, and what the challenger answers itself is none.
    command(server, "step")
    reaches(server, lambda told: told["share"] == 500_000, "the step")
    ids = {}

    def both():
        _, told = ask(server, [(1, 1)])
        ids[told["tiltyard-arm"]] = told["tiltyard-prediction-id"]
        return len(ids) == 2

    serving.until(both, "answers of both")
    on_record(server, ids["champion"])
    assert tell(server, {"prediction_id": ids["champion"], "label": 1}) == {"joined": 1}
    assert tell(server, {"prediction_id": ids["challenger"], "label": 1}) == {"waiting": 1}
    told = reaches(server, lambda told: told["labels"]["rows_labelled"] == [3, 3], "the label of a pair beside a share")
    assert told["quality"]["n"] == 0, "nothing is an hour old"


# --- What is said and heard ------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(server, tmp_path):
    """A rollout whose labels are waited for for an hour."""
    slow = POLICY | {"primary": PRIMARY | {"horizon": "1h"}}
    begin(server, tmp_path, 2, "--steps", "50%/1h", "--min-time", "2h", policy=slow)
    reaches(server, lambda told: told["share"] == 500_000, "the step")
    serving.until(lambda: ask(server, [(1, 1)])[1]["tiltyard-arm"] == "challenger", "a share for version 2")
    return server


def on_record(server, id):
    """Waits until the request's rows are on record: one that it does not have is a mistake from then on."""
    probe = {"prediction_id": id.split(":")[0] + ":99", "withdrawn": True}
    serving.until(lambda: tell(server, probe) == {"failed": 1, "errors": ANY}, "the record")


def test_what_is_said_of_a_row_and_what_becomes_of_it(waiting):
    server = waiting
    _, told = ask(server, [(1, 1), (2, 2)], parameters={"row_key": "order-17"})
    id = told["tiltyard-prediction-id"]
    on_record(server, id)
    assert tell(server, {"prediction_id": id, "label": 1}) == {"joined": 1}
    assert tell(server, {"prediction_id": id, "label": 1}, {"row_key": "order-17", "label": 1}) == {"doubled": 2}
    assert tell(server, {"prediction_id": id, "label": 0}) == {"corrected": 1}
    assert tell(server, {"prediction_id": id, "label": 1, "time": "2026-01-01T00:00:00Z"}) == {"outdated": 1}
    assert tell(server, {"prediction_id": id, "withdrawn": True}) == {"withdrawn": 1}
    assert tell(server, {"row_key": "order-17", "row": 1, "outcome": 0.5}) == {"joined": 1}
    fresh = id[:-2].rsplit("-", 1)[0] + "-000000000000:0"
    assert tell(server, {"prediction_id": fresh, "label": 1}, {"row_key": "to-come", "label": 1}) == {"waiting": 2}
    assert tell(server, {"prediction_id": "01920000-0000-7000-8000-0000000000ab:0", "label": 1}) == {"unknown": 1}
    assert tell(server, {"endpoint": "elsewhere", "row_key": "a", "label": 1}) == {"unknown": 1}
    _, told = ask(server, [(1, 1)], headers={"tiltyard-row-key": "to-come"})
    on_record(server, told["tiltyard-prediction-id"])
    assert tell(server, {"row_key": "to-come", "label": 1}) == {"doubled": 1}
    labels = status(server)["labels"]
    assert (sum(labels["rows_labelled"]), labels["labels_waiting"]) == (3, 1), labels
    assert metric(server, "tiltyard_feedback_total", endpoint="m", outcome="corrected") == 1


def test_each_line_that_is_wrong_is_named(waiting):
    lines = b'{"row_key": "a", "label": 1}\n\nnonsense\n{"row_key": "a"}\n{"row_key": "b", "label": 1, "endpoint": "m"}'
    headers = {"Content-Type": "application/x-ndjson"}
    told = waiting.post("/v1/feedback", lines, headers).json()
    assert (told["received"], told["failed"], told["waiting"]) == (4, 3, 1), told
    errors = {error["line"]: error["error"] for error in told["errors"]}
    assert list(errors) == [1, 3, 4], errors
    assert "endpoint is missing" in errors[1] and "expected one of label" in errors[4], errors
    told = waiting.post("/v1/feedback", lines, headers | {"tiltyard-endpoint": "m"}).json()
    assert (told["failed"], told["waiting"]) == (2, 2), told
    answer = waiting.post("/v1/feedback", {"endpoint": "m", "prediction_id": "7", "label": 1})
    assert answer.status == 400 and "expected REQUEST:ROW" in answer.error(), answer
    answer = waiting.post("/v1/feedback", {"endpoint": "m", "row_key": "c", "label": 1})
    assert answer.status == 200 and answer.json()["waiting"] == 1, answer
    answer = waiting.post("/v1/feedback", b"\n".join([b"{}"] * 100_001), headers)
    assert answer.status == 413 and "send them in parts" in answer.error(), answer
    assert waiting.get("/v1/feedback").status == 405
    assert waiting.post("/v1/feedback", b"x", {"Content-Type": "text/csv"}).status == 400


def test_files_are_sent_from_the_command_line(waiting, tmp_path):
    ids = [ask(waiting, [(1, 1)])[1]["tiltyard-prediction-id"] for _ in range(3)]
    for id in ids:
        on_record(waiting, id)
    file = tmp_path / "labels.csv"
    file.write_text("prediction_id,label,time\n" + "".join(f"{id},1,\n" for id in ids[:2]) + f"{ids[2]},,\n")

    def send(*arguments, expected):
        line = [str(serving.BINARY), "feedback", *map(str, arguments), "--ports-file", str(waiting.ports_file)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == expected, done
        return done.stdout + done.stderr

    told = send(file, "--endpoint", "m", expected=1)
    assert "line 4: expected one of label" in told and "1 lines were not taken" in told, told
    file = tmp_path / "labels.ndjson"
    file.write_text("".join(json.dumps({"endpoint": "m", "prediction_id": id, "label": 1}) + "\n" for id in ids))
    told = json.loads(send(file, "--output", "json", expected=0))
    assert (told["received"], told["joined"], told["doubled"], told["errors"]) == (3, 1, 2, []), told


def test_what_must_be_said_of_labels_is_asked_for(server, tmp_path):
    def refused(words, **changed):
        primary = {key: value for key, value in (PRIMARY | changed).items() if value is not None}
        told = begin(server, tmp_path, 2, policy=POLICY | {"primary": primary}, expected=1)
        assert words in told, told

    refused("label_depends_on_decision is missing: expected true where", label_depends_on_decision=None)
    refused("horizon is missing", horizon=None)
    refused("the same whoever answered", design="paired_shadow", gain=None)
    refused("the largest error that counts", gain="squared_error")
    refused("did you mean accuracy?", gain="acuracy")


def test_a_restart_forgets_rows_and_says_so(repository, tmp_path):
    server = start(repository, tmp_path)
    try:
        slow = POLICY | {"primary": PRIMARY | {"horizon": "1h"}}
        begin(server, tmp_path, 2, "--steps", "50%/1h", "--min-time", "2h", policy=slow)
        reaches(server, lambda told: told["share"] == 500_000, "the step")
        serving.until(lambda: ask(server, [(1, 1)])[1]["tiltyard-arm"] == "challenger", "a share for version 2")
        _, told = ask(server, [(1, 1)])
        server.kill()
        server = start(repository, tmp_path)
        serving.until(lambda: status(server)["labels"], "the rollout goes on")
        assert tell(server, {"prediction_id": told["tiltyard-prediction-id"], "label": 1}) == {"unknown": 1}
    finally:
        server.kill()


def test_whoever_may_ask_an_endpoint_may_say_what_became_of_it(repository, tmp_path):
    access = tmp_path / "access"
    tokens = {}
    for name, role in (("scorer", "scorer:m"), ("elsewhere", "scorer:other"), ("viewer", "viewer")):
        tokens[name], line = securing.new_token(name, role)
        with access.open("a") as file:
            file.write(line)
    with serving.Server(repository, tmp_path / "server", "--access-file", str(access)) as server:
        def asked(name):
            headers = {"Authorization": f"Bearer {tokens[name]}"} if name else {}
            return server.post("/v1/feedback", {"endpoint": "m", "row_key": "a", "label": 1}, headers)

        assert asked("scorer").json()["unknown"] == 1
        answer = asked("elsewhere")
        assert answer.status == 403 and "asking model \"m\"" in answer.error(), answer
        answer = asked("viewer")
        assert answer.status == 403 and "sending feedback takes one of the roles scorer, admin" in answer.error(), answer
        assert asked(None).status == 401
