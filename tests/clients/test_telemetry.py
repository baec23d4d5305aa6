"""Do the metrics say what happened, under names and labels that stay, and do answers name who gave them?"""

import itertools
import json
import re
import subprocess
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import asking
import serving

SETTLE_SECONDS = 0.25
LABELS = {"endpoint", "model", "version", "arm"}
TWO_ROWS = {"model": "two_in_two_out", "inputs": [
    asking.tensor("a", np.ones((2, 4), np.float32)), asking.tensor("b", np.ones((2, 4), np.float32))]}
ONE_ROW = {"model": "identity_fp32", "inputs": [asking.tensor("input", np.ones((1, 2), np.float32))]}
# A mistake in the shape: the model is known, the request is not good.
MISTAKE = {"model": "identity_fp32", "inputs": [asking.tensor("input", np.ones((1, 2, 2), np.float32))]}


def families(server):
    answer = server.get("/metrics", port=server.admin_port)
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("text/plain")
    return list(text_string_to_metric_families(answer.body.decode()))


def samples(server):
    """Every sample by its name: a list of (labels, value).

    The parser adds `_total` to counters without it, which Triton's are, so the name is cut back there.
    """
    found = {}
    for family in families(server):
        for sample in family.samples:
            name = sample.name.removesuffix("_total") if sample.name.startswith("nv_") else sample.name
            found.setdefault(name, []).append((sample.labels, sample.value))
    return found


def total(server, name, **labels):
    """The sum of the samples of that name that have those labels."""
    return sum(
        value for found, value in samples(server).get(name, []) if labels.items() <= found.items())


def moves(server, name, by, act, **labels):
    """`act` moves the sum by `by`; the server counts off the request's path, so it may be seen a moment later."""
    before = settled(server, name, **labels)
    act()
    serving.until(lambda: total(server, name, **labels) == before + by, f"{name} {labels} to move by {by}")


def settled(server, name, **labels):
    """The sum once what earlier tests asked has been counted, too."""
    before = total(server, name, **labels)
    while True:
        time.sleep(SETTLE_SECONDS)
        now = total(server, name, **labels)
        if now == before:
            return now
        before = now


def ask_well(server, question=TWO_ROWS):
    reply = asking.ask_raw(server, question)
    assert reply.kind is None, reply


# --- Names and labels --------------------------------------------------------------------------------------------


def test_text_is_valid(server):
    ask_well(server)
    found = families(server)
    names = [family.name for family in found]
    assert len(names) == len(set(names)), "each name once"
    assert all(family.documentation for family in found if family.name.startswith("tiltyard_"))
    assert all(family.type != "unknown" for family in found if family.name.startswith("tiltyard_"))


@pytest.mark.parametrize("name", [
    "tiltyard_requests_total", "tiltyard_rows_total", "tiltyard_executions_total",
    "tiltyard_request_duration_seconds_count", "tiltyard_queue_duration_seconds_count",
    "tiltyard_run_duration_seconds_count", "tiltyard_decode_duration_seconds_count",
    "tiltyard_encode_duration_seconds_count", "tiltyard_run_cpu_seconds_total", "tiltyard_batch_rows_count",
    "tiltyard_instances", "tiltyard_instances_running", "tiltyard_deployment_bytes"])
def test_labels(server, name):
    ask_well(server)
    mine = serving.until(
        lambda: [found for found, _ in samples(server).get(name, []) if found.get("model") == "two_in_two_out"], name)
    for labels in mine:
        assert LABELS <= labels.keys()
        assert (labels["endpoint"], labels["version"]) == ("two_in_two_out", "1")
        assert labels["arm"]
    if name == "tiltyard_requests_total":
        assert all(labels["outcome"] for labels in mine)


@pytest.mark.parametrize("name, least", [
    ("tiltyard_cost_row_seconds", 0), ("tiltyard_cost_run_seconds", 0), ("tiltyard_batch_rows_limit", 1),
    ("tiltyard_predicted_wait_seconds", 0)])
def test_costs_are_known_from_the_load_on(server, name, least):
    mine = [(labels, value) for labels, value in samples(server)[name] if labels["model"] == "two_in_two_out"]
    assert len(mine) == 1
    labels, value = mine[0]
    assert LABELS <= labels.keys()
    assert value >= least


def test_metrics_are_on_the_admin_port_only(server):
    assert server.get("/metrics").status == 404


# --- What moves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", asking.FORMS)
def test_a_good_request(server, form):
    def act():
        assert asking.FORMS[form](server, TWO_ROWS).kind is None

    moves(server, "tiltyard_requests_total", 1, act, model="two_in_two_out")
    moves(server, "tiltyard_rows_total", 2, act, model="two_in_two_out")
    moves(server, "tiltyard_executions_total", 1, act, model="two_in_two_out")


@pytest.mark.parametrize("name", ["request", "decode", "queue", "run", "encode"])
def test_histograms(server, name):
    metric = f"tiltyard_{name}_duration_seconds"
    moves(server, f"{metric}_count", 1, lambda: ask_well(server), model="two_in_two_out")
    before = settled(server, f"{metric}_sum", model="two_in_two_out")
    ask_well(server)
    serving.until(lambda: total(server, f"{metric}_sum", model="two_in_two_out") > before, f"{metric}_sum to grow")
    buckets = [(float(found["le"]), value) for found, value in samples(server)[f"{metric}_bucket"]
               if found["model"] == "two_in_two_out"]
    assert buckets == sorted(buckets) and buckets[-1][0] == float("inf")
    assert buckets[-1][1] == total(server, f"{metric}_count", model="two_in_two_out")


def test_time_of_a_slow_run(server):
    """`slow` takes a third of a second where the others take microseconds: the unit is seconds."""
    question = {"model": "slow", "inputs": [asking.tensor("x", np.ones((1, 4), np.float32))]}
    before = settled(server, "tiltyard_run_duration_seconds_sum", model="slow")
    ask_well(server, question)
    serving.until(lambda: total(server, "tiltyard_run_duration_seconds_sum", model="slow") > before, "the run's time")
    assert 0.02 < total(server, "tiltyard_run_duration_seconds_sum", model="slow") - before < 20


def test_processors_time_of_a_slow_run(server):
    """One thread runs it: it takes no more of the processors than of time, nor than the process does."""
    question = {"model": "slow", "inputs": [asking.tensor("x", np.ones((1, 4), np.float32))]}
    names = ["tiltyard_run_cpu_seconds_total", "tiltyard_run_duration_seconds_sum"]
    before = [settled(server, name, model="slow") for name in names]
    of_all = total(server, "tiltyard_cpu_seconds_total")
    ask_well(server, question)
    serving.until(lambda: total(server, names[0], model="slow") > before[0], "the processor's time")
    cpu, run = (total(server, name, model="slow") - value for name, value in zip(names, before))
    assert 0.01 < cpu <= run + 0.005
    assert cpu <= total(server, "tiltyard_cpu_seconds_total") - of_all + 0.005


def test_rows_of_row_scoring(server):
    rows = [{"age": 31, "income": 52000, "member": True, "region": 3}] * 5

    def act():
        assert server.post("/v1/models/columns/score", {"rows": rows}).status == 200

    moves(server, "tiltyard_rows_total", 5, act, model="columns")


def test_versions_are_told_apart(server):
    question = {"model": "risk", "version": "1", "inputs": [asking.tensor("features", np.ones((3, 30), np.float32))]}
    before = settled(server, "tiltyard_rows_total", model="risk", version="2")
    moves(server, "tiltyard_rows_total", 3, lambda: ask_well(server, question), model="risk", version="1")
    assert total(server, "tiltyard_rows_total", model="risk", version="2") == before


def test_outcomes_are_told_apart(server):
    def outcomes():
        found = {}
        for labels, value in samples(server).get("tiltyard_requests_total", []):
            if labels["endpoint"] == "identity_fp32":
                found[labels["outcome"]] = found.get(labels["outcome"], 0) + value
        return found

    def moved_by(act):
        settled(server, "tiltyard_requests_total", endpoint="identity_fp32")
        before = outcomes()
        act()
        after = serving.until(lambda: (now := outcomes()) != before and now, "an outcome to move")
        return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}

    well = moved_by(lambda: ask_well(server, ONE_ROW))
    badly = moved_by(lambda: asking.ask_raw(server, MISTAKE))
    assert list(well.values()) == list(badly.values()) == [1]
    assert well.keys() != badly.keys()


def test_labels_do_not_grow_with_what_clients_make_up(server):
    for number in range(50):
        asking.ask_raw(server, ONE_ROW | {"model": f"made_up_{number}"})
        asking.ask_raw(server, ONE_ROW | {"version": str(1000 + number)})
    labels = [label for found in samples(server).values() for label, _ in found]
    assert not [label for label in labels if "made_up" in str(label) or label.get("version", "").startswith("10")]


# --- Triton's names ----------------------------------------------------------------------------------------------


def test_tritons_names_are_off_by_default(server):
    assert not [name for name in samples(server) if name.startswith("nv_")]


def test_tritons_names(small_server):
    labels = {"model": "two_in_two_out", "version": "1"}
    moves(small_server, "nv_inference_request_success", 1, lambda: ask_well(small_server), **labels)
    moves(small_server, "nv_inference_count", 2, lambda: ask_well(small_server), **labels)
    moves(small_server, "nv_inference_exec_count", 1, lambda: ask_well(small_server), **labels)
    for name in ("request", "queue", "compute_infer"):
        assert total(small_server, f"nv_inference_{name}_duration_us", **labels) > 0, name


# --- Who answered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, version", [("two_in_two_out", ""), ("two_in_two_out", "1")])
def test_headers(server, model, version):
    question = TWO_ROWS | {"version": version}
    body = {"inputs": question["inputs"]}
    headers = server.post(asking.rest_path(question), body).headers
    _, call = server.stub.ModelInfer.with_call(asking.raw(question), timeout=serving.ANSWER_SECONDS_MAX)
    metadata = dict(call.initial_metadata()) | dict(call.trailing_metadata())
    for said in (headers, metadata):
        assert (said["tiltyard-endpoint"], said["tiltyard-model"], said["tiltyard-version"]) == (model, model, "1")
        assert re.search(r"[0-9a-f]{12}", said["tiltyard-digest"])
        assert said["tiltyard-arm"]
        # A UUID of version 7, alone or with the number of a row.
        assert re.match(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}(:0)?$",
                        said["tiltyard-prediction-id"])
    assert headers["tiltyard-digest"] == metadata["tiltyard-digest"]
    assert headers["tiltyard-arm"] == metadata["tiltyard-arm"]
    assert headers["tiltyard-prediction-id"] != metadata["tiltyard-prediction-id"]


# --- Live --------------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(server, request):
    """The lines that `tiltyard status --watch` writes."""
    command = [serving.BINARY, "status", "--admin", f"http://127.0.0.1:{server.admin_port}", "--watch=200ms"]
    process = subprocess.Popen([*command, "--output", request.param], stdout=subprocess.PIPE, text=True)
    yield process.stdout
    process.kill()
    process.wait()


def arms_of(line):
    return [arm for arm in json.loads(line)["arms"] if arm["model"] == "two_in_two_out" and arm["arm"] == "champion"]


@pytest.mark.parametrize("watching", ["json"], indirect=True)
def test_what_happens_is_seen_live(server, watching):
    for line in itertools.islice(watching, 100):
        ask_well(server)
        (arm,) = arms_of(line)
        if arm["requests_per_second"]:
            break
    assert (arm["endpoint"], arm["version"], arm["failed_ratio"], arm["queued"]) == ("two_in_two_out", "1", 0, 0)
    assert arm["rows_per_second"] == pytest.approx(2 * arm["requests_per_second"])
    assert 0 < arm["p50_seconds"] <= arm["p99_seconds"] < 30 and arm["batch_rows"] >= 2 and arm["busy"] > 0
    # Nobody asks any more.
    for line in itertools.islice(watching, 100):
        (arm,) = arms_of(line)
        if not arm["requests_per_second"]:
            break
    assert arm["p99_seconds"] is None and arm["failed_ratio"] is None


@pytest.mark.parametrize("watching", ["table"], indirect=True)
def test_the_same_for_people(watching):
    assert watching.readline().startswith("The server is ready. The last ")
    assert watching.readline().split() == [
        "ENDPOINT", "MODEL", "VERSION", "ARM", "REQ/S", "ROWS/S", "FAILED", "P50", "P99", "QUEUED", "BATCH", "BUSY"]


# --- Logs --------------------------------------------------------------------------------------------------------


def test_a_failed_request_is_one_line_and_a_good_one_none(server):
    before = server.log_text().count("\n")
    ask_well(server)
    asking.ask_json(server, MISTAKE | {"id": "mistake-for-the-log"})
    serving.until(lambda: "mistake-for-the-log" in server.log_text(), "the line of the failed request")
    lines = server.log_text().splitlines()[before:]
    mine = [line for line in lines if "mistake-for-the-log" in line]
    assert len(mine) == 1
    assert "input" in mine[0], "the line says the reason"
    assert not [line for line in lines if "two_in_two_out" in line]
