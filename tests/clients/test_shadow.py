"""Do shadows see live traffic without anybody noticing, and is what they show true?"""

import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import asking
import serving
from test_endpoints import CHAMPION, QUESTION, X, apply, arm_over_grpc, arm_over_rest, endpoints, run, start, toml
from test_repository import put, times
from test_telemetry import samples, total

PER_REQUEST = '"per_request"'


def shadow(name, version, sampling="100%", model=None):
    more = f'\nmodel = "{model}"' if model else ""
    return name, version, f'role = "shadow"\nsampling = "{sampling}"{more}'


def plan(*shadows, key=PER_REQUEST, more=""):
    return toml(CHAMPION, *shadows, key=key) + more


def made(name, nodes, *initializers, width=2):
    row = ["batch", width]
    graph = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)], list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def fails_above(most):
    """y = x for whole numbers up to `most`; a run with anything larger fails."""
    table = numpy_helper.from_array(np.arange(most + 1, dtype=np.float32), "table")
    nodes = [helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
             helper.make_node("Gather", ["table", "index"], ["y"])]
    return made("fails", nodes, table)


def takes_as_long_as(least=0):
    """y = x, after as many steps as the largest x says, and so many more."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Sin", ["before"], ["after"])], "step",
        [helper.make_tensor_value_info("at", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("before", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []),
         helper.make_tensor_value_info("after", TensorProto.FLOAT, [])])
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Add", ["most", "least"], ["all"]),
        helper.make_node("Cast", ["all"], ["steps"], to=TensorProto.INT64),
        helper.make_node("Loop", ["steps", "", "zero"], ["nothing"], body=body),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    numbers = {"zero": 0, "least": least}
    return made("hangs", nodes, *[numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items()])


HANGS = 4e9  # steps


@pytest.fixture
def repository(tmp_path):
    """Of m: 1 and 2 multiply by 1, 3 by 3, 4 fails above 9, 5 takes as long as it is told. `other` multiplies by 7."""
    root = tmp_path / "models"
    versions = [times(1.0), times(1.0), times(3.0), fails_above(9), takes_as_long_as()]
    for version, content in enumerate(versions, 1):
        put(root, "m", version, content)
    put(root, "other", 1, times(7.0))
    return root


@pytest.fixture
def server(repository, tmp_path):
    with serving.Server(repository, tmp_path / "server", "--poll-interval", "100ms") as running:
        yield running


def view(server, name="m"):
    """The endpoint's shadows by their arms."""
    answer = server.get(f"/admin/endpoints/{name}/shadows", port=server.admin_port)
    assert answer.status == 200, answer
    return {form["arm"]: form for form in answer.json()["shadows"]}


def ask(server, value=1.0, headers=None, rows=1):
    """A request of equal values: its prediction id. The answer must be right."""
    x = np.full((rows, 2), value, np.float32)
    answer = server.post("/v2/models/m/infer", {"inputs": [asking.tensor("x", x)]}, headers)
    assert answer.status == 200, answer
    assert answer.json()["outputs"][0]["data"] == x.ravel().tolist()
    return answer.headers["tiltyard-prediction-id"]


def settled(server, arm, requests, what="compared"):
    """The shadow's view, once so many requests came to something there."""
    def done():
        form = view(server)[arm]
        ended = form["compared"] + form["errors"] + sum(form["dropped"].values())
        return form if ended >= requests else None
    return serving.until(done, f"{requests} requests to come to something on {arm}", 20)


def mean(form, measure):
    return form["measures"][measure]["mean"]


# --- What clients see ------------------------------------------------------------------------------------------------


def answers(server):
    """Status, headers and bytes of the same requests on every protocol, what differs each time left out."""
    told = []
    for body in ({"id": "a", "inputs": QUESTION["inputs"]},
                 {"id": "b", "inputs": [asking.tensor("x", np.arange(40, dtype=np.float32).reshape(20, 2))]},
                 {"id": "c", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]},
                 {"id": "d", "inputs": []}):
        answer = server.post("/v2/models/m/infer", body)
        left_out = ("tiltyard-prediction-id", "date")
        told.append((answer.status, {k: v for k, v in answer.headers.items() if k not in left_out}, answer.body))
    request = asking.raw(QUESTION | {"id": "e"})
    response, call = server.stub.ModelInfer.with_call(request, timeout=10)
    said = {k: v for k, v in call.initial_metadata() if k not in ("tiltyard-prediction-id", "date")}
    told.append((response.SerializeToString(), said))
    streamed = server.stub.ModelStreamInfer(iter([request, request]), timeout=10)
    told += [response.SerializeToString() for response in streamed]
    return told


def test_answers_are_the_same_with_shadows(server, tmp_path):
    apply(server, tmp_path, plan())
    before = answers(server)
    apply(server, tmp_path, plan(shadow("same", 2), shadow("new", 3), shadow("fails", 4), shadow("slow", 5)))
    assert answers(server) == before
    settled(server, "same", 5)
    assert answers(server) == before


def test_a_shadow_answers_nobody(server, tmp_path):
    apply(server, tmp_path, plan(shadow("new", 3)))
    assert {arm_over_rest(server)[0] for _ in range(20)} == {arm_over_grpc(server)[0]} == {"champion"}
    arm = {arm["name"]: arm for arm in endpoints(server)["m"]["arms"]}["new"]
    assert (arm["share"], arm["role"], arm["state"]) == (None, {"shadow": {"sampling": 1_000_000}}, "ready")
    wish = '\n[[headers]]\nheader = "x-tester"\nvalue = "yes"\narm = "new"\n'
    told = apply(server, tmp_path, plan(shadow("new", 3), more=wish), expected=1)
    assert "a shadow answers nobody" in told


# --- What pairs show -------------------------------------------------------------------------------------------------


def test_the_same_model_shows_no_difference(server, tmp_path):
    apply(server, tmp_path, plan(shadow("same", 2)))
    for number in range(100):
        ask(server, float(number), rows=1 + number % 3)
    form = settled(server, "same", 100)
    assert (form["offered"], form["sampled"], form["compared"], form["errors"]) == (100, 100, 100, 0)
    assert sum(form["dropped"].values()) == 0 and form["rows"] == sum(1 + number % 3 for number in range(100))
    for measure in ("flips", "mismatch", "distance", "errors"):
        assert form["measures"][measure] == {"requests": 100, "mean": 0.0}
    assert form["worst"] == [] and form["state"] == "asked"
    assert 0 < form["row_seconds"]["shadow"] and 0 < form["row_seconds"]["champion"]
    labels = {"endpoint": "m", "model": "m", "version": "2", "arm": "same"}
    assert total(server, "tiltyard_shadow_compared_total", **labels) == 100
    assert total(server, "tiltyard_shadow_sampling_ratio", **labels) == 1
    assert total(server, "tiltyard_shadow_bytes") == 0
    assert total(server, "tiltyard_requests_total", **labels) == 0, "a shadow answers no requests"


def test_another_model_shows_where_it_differs(server, tmp_path):
    apply(server, tmp_path, plan(shadow("new", 3), shadow("seven", 1, model="other")))
    nothing = ask(server, 0.0)
    one = ask(server, 1.0)
    form = settled(server, "new", 2)
    assert mean(form, "mismatch") == 0.5
    [example] = form["worst"]
    assert example["prediction_id"] == one != nothing
    assert example["outputs"] == {"y": {"champion": [1.0, 1.0], "shadow": [3.0, 3.0]}}
    seven = settled(server, "seven", 2)
    assert (seven["model"], seven["worst"][0]["outputs"]["y"]["shadow"]) == ("other", [7.0, 7.0])
    for number in range(2, 60):
        ask(server, float(number))
    assert len(settled(server, "new", 60)["worst"]) == 20
    shown = run(server, "endpoints", "shadows", "m")
    assert "MISMATCH" not in shown and "mismatch" in shown and "seven" in shown
    assert len(json.loads(run(server, "endpoints", "shadows", "m", "--output", "json"))["shadows"]) == 2


def test_labels_flip_where_they_do(tmp_path):
    models = serving.link_models(tmp_path / "models", serving.SAMPLES / "risk")
    with serving.Server(models, tmp_path / "server") as server:
        example = server.get("/docs/models/risk/openapi.json").json()
        example = example["paths"]["/v1/models/risk/score"]["post"]["requestBody"]["content"]["application/json"]["example"]
        apply(server, tmp_path, plan(shadow("new", 2)), name="risk")
        answered, scored = [], []
        for factor in np.linspace(0.3, 1.7, 40):
            row = {name: value * float(factor) for name, value in example["rows"][0].items()}
            for version, into in ((None, answered), ("2", scored)):
                path = "/v1/models/risk" + (f"/versions/{version}" if version else "") + "/score"
                answer = server.post(path, {"rows": [row]})
                assert answer.status == 200, answer
                into.append(answer.json()["rows"][0])

        def flips():
            form = view(server, "risk")["new"]
            return form if form["compared"] == 40 else None

        form = serving.until(flips, "40 pairs", 20)
        label = next(name for name, value in answered[0].items() if isinstance(value, (str, int)))
        expected = sum(one[label] != other[label] for one, other in zip(answered, scored)) / 40
        assert math.isclose(form["measures"][f"flips.{label}"]["mean"], expected, abs_tol=1e-9), form["measures"]


def test_a_sample_is_as_large_as_the_plan_says(server, tmp_path):
    tester = '\n[[headers]]\nheader = "x-tester"\nvalue = "yes"\narm = "champion"\n'
    apply(server, tmp_path, plan(shadow("same", 2, "20%"), more=tester))
    for _ in range(600):
        ask(server)
    ask(server, headers={"x-tester": "yes"})
    arm_over_rest(server, version="1")
    form = view(server)["same"]
    assert form["offered"] == 600, "who picks an arm, or a version, is no evidence"
    assert abs(form["sampled"] / 600 - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 600)
    assert settled(server, "same", form["sampled"])["compared"] == form["sampled"]


# --- What goes wrong -------------------------------------------------------------------------------------------------


def test_a_shadow_that_fails_leaves_the_champion_alone(server, tmp_path):
    apply(server, tmp_path, plan(shadow("fails", 4), shadow("same", 2)))
    for _ in range(200):
        ask(server, 50.0)
    form = settled(server, "fails", 200)
    assert form["compared"] == 0 and form["errors"] >= 50 and mean(form, "errors") == 1.0
    assert form["errors"] + sum(form["dropped"].values()) == 200 == form["sampled"]
    assert form["failures"] and "m" in form["failures"][0]["reason"]
    assert settled(server, "same", 200)["compared"] == 200, "it costs no other shadow anything"
    refused = {labels["outcome"] for labels, value in samples(server)["tiltyard_requests_total"] if value}
    assert refused == {"success"}
    serving.until(lambda: ask(server, 1.0) and view(server)["fails"]["compared"] > 0, "it to be tried again", 30)


def test_a_shadow_that_hangs_leaves_the_champion_alone(repository, tmp_path):
    flags = ["--poll-interval", "100ms", "--shadow-bytes-max", "100KiB"]
    with start(repository, tmp_path, *flags) as server:
        apply(server, tmp_path, plan(shadow("slow", 5)))
        x = np.full((1, 2), HANGS, np.float32)
        inputs = {"inputs": [asking.tensor("x", x)]}
        for _ in range(400):
            answer = server.post("/v2/models/m/infer", inputs)
            assert answer.status == 200, answer
        held = server.get("/admin/endpoints/m/shadows", port=server.admin_port).json()["bytes"]
        assert 0 < held["held"] <= held["max"] == 102_400
        form = view(server)["slow"]
        assert form["sampling_now"] < 500_000, "less is sampled"
        assert form["dropped"]["memory"] + form["dropped"]["queue_full"] > 0
        serving.until(lambda: view(server)["slow"]["state"] == "left_alone", "it to be left alone", 20)
        assert total(server, "tiltyard_shadow_left_alone", arm="slow") == 1
        ask(server)
    # The end of the process, which leaves this, waits for no shadow.


def test_a_shadow_that_hangs_for_good_is_given_up(repository, tmp_path):
    with start(repository, tmp_path, "--poll-interval", "100ms", "--run-timeout", "1s") as server:
        apply(server, tmp_path, plan(shadow("slow", 5)))
        server.post("/v2/models/m/infer", {"inputs": [asking.tensor("x", np.full((1, 2), HANGS, np.float32))]})
        form = settled(server, "slow", 1)
        assert form["dropped"]["hung"] == 1 and form["errors"] == 0, "a run that hangs is no error"
        ask(server)
        assert settled(server, "slow", 2)["compared"] == 1, "another thread has taken the place of the one that hangs"


# --- Plans that change -----------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_plan_that_is_gone(server, tmp_path):
    def alive():
        return {labels["kind"]: value for labels, value in samples(server)["tiltyard_live"]}

    apply(server, tmp_path, plan())
    for _ in range(3):
        ask(server)
    before = alive()
    for version in (2, 3, 2):
        apply(server, tmp_path, plan(shadow("new", version)))
        ask(server)
        settled(server, "new", 1)

    def counted():
        return total(server, "tiltyard_shadow_compared_total", endpoint="m", arm="new", version="2")

    assert counted() == 2 and view(server)["new"]["compared"] == 1, "figures go on, a comparison begins anew"
    apply(server, tmp_path, plan())
    serving.until(lambda: alive()["sessions"] <= before["sessions"], "sessions to be closed")
    assert alive()["jobs"] == before["jobs"]
    assert counted() == 2, "nothing falls"
    assert view(server) == {}
    run(server, "endpoints", "remove", "m")
    unknown = server.get("/admin/endpoints/nobody/shadows", port=server.admin_port)
    assert unknown.status == 404, unknown


def test_the_view_is_in_the_document(server):
    document = server.get("/admin/openapi.json", port=server.admin_port).json()
    assert "/admin/endpoints/{endpoint}/shadows" in document["paths"]
