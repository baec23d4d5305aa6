"""Can somebody without a client library score rows by column name, and learn how from the server's own pages?"""

import json
import shutil

import numpy as np
import openapi_spec_validator
import pytest

import reference
import serving

SCORE = "/v1/models/columns/score"
GOOD_ROWS = [
    {"age": 31, "income": 52000, "member": True, "region": 3},
    {"age": 64, "income": 18500.5, "member": False, "region": 0},
]
RISK_COLUMNS = [
    line.split('"')[1] for line in (serving.SAMPLES / "risk" / "model.toml").read_text().splitlines()
    if line.startswith("name")]
RISK = reference.case(serving.SAMPLES / "risk" / "2" / "golden" / "eight_rows.json")
RISK_ROWS = [dict(zip(RISK_COLUMNS, map(float, row))) for row in RISK.inputs["features"]]


def scores(answer):
    """The score of each row; one output of one element may stand alone or in a list."""
    assert answer.status == 200, answer
    return [float(np.ravel(row["score"])[0]) if row["score"] is not None else None for row in answer.json()["rows"]]


def expected_scores(rows):
    inputs = {
        "age": np.array([[row["age"]] for row in rows], np.float32),
        "income": np.array([[row["income"]] for row in rows], np.float32),
        "member": np.array([[row["member"]] for row in rows]), "region": np.array([[row["region"]] for row in rows]),
    }
    return pytest.approx(reference.answer("columns", 1, inputs)["score"].ravel().tolist(), rel=1e-4, abs=1e-5)


def refused(answer, *words):
    assert answer.status == 400, answer
    missing = [word for word in words if word not in answer.error()]
    assert not missing, f"the message does not say {missing}: {answer.error()}"


# --- Answers -----------------------------------------------------------------------------------------------------


def test_rows(server):
    answer = server.post(SCORE, {"rows": GOOD_ROWS})
    assert scores(answer) == expected_scores(GOOD_ROWS)
    said = answer.json()
    assert (said["model"], said["version"]) == ("columns", "1")
    assert all(set(row) == {"score"} for row in said["rows"])
    assert all(isinstance(row["score"], float) for row in said["rows"]), "one element per row is a number, not a list"


def test_prediction_ids(server):
    said = server.post(SCORE, {"rows": GOOD_ROWS})
    first, second = said.json()["prediction_ids"]
    request, zero = first.rsplit(":", 1)
    assert zero == "0" and second == f"{request}:1"
    assert said.headers["tiltyard-prediction-id"].startswith(request)
    assert (said.headers["tiltyard-model"], said.headers["tiltyard-version"]) == ("columns", "1")
    again = server.post(SCORE, {"rows": GOOD_ROWS}).json()["prediction_ids"]
    assert not set(again) & {first, second}


def test_columns(server):
    columns = {name: [row[name] for row in GOOD_ROWS] for name in GOOD_ROWS[0]}
    answer = server.post(SCORE, {"columns": columns})
    assert scores(answer) == expected_scores(GOOD_ROWS)


def test_order_of_names_does_not_matter(server):
    rows = [dict(reversed(row.items())) if number else row for number, row in enumerate(GOOD_ROWS)]
    assert scores(server.post(SCORE, {"rows": rows})) == expected_scores(GOOD_ROWS)


def test_many_rows(server):
    rows = [GOOD_ROWS[number % 2] | {"age": 18 + number % 70} for number in range(1000)]
    answer = server.post(SCORE, {"rows": rows})
    assert scores(answer) == expected_scores(rows)
    assert len(set(answer.json()["prediction_ids"])) == 1000


@pytest.mark.parametrize("path, version", [
    ("/v1/models/risk/score", "2"), ("/v1/models/risk/versions/2/score", "2"),
    ("/v1/models/risk/versions/1/score", "1")])
@pytest.mark.parametrize("form", ["rows", "columns"])
def test_wide_input(server, path, version, form):
    """The columns of one wide input, by their names in model.toml."""
    columns = {name: [row[name] for row in RISK_ROWS] for name in RISK_COLUMNS}
    answer = server.post(path, {"rows": RISK_ROWS} if form == "rows" else {"columns": columns})
    assert answer.status == 200, answer
    said = answer.json()
    assert (said["model"], said["version"]) == ("risk", version)
    expected = reference.answer("risk", version, RISK.inputs)
    assert [row["probability"] for row in said["rows"]] == pytest.approx(
        expected["probability"].tolist(), rel=1e-4, abs=1e-5)
    assert [row["label"] for row in said["rows"]] == expected["label"].tolist()


def test_text_column(server):
    rows = [{"age": 31, "country": "FR"}, {"age": 64, "country": "DE"}]
    answer = server.post("/v1/models/columns_text/score", {"rows": rows})
    inputs = {"age": np.array([[31], [64]], np.float32), "country": np.array([[b"FR"], [b"DE"]], object)}
    expected = reference.answer("columns_text", 1, inputs)["score"].ravel().tolist()
    assert scores(answer) == pytest.approx(expected, rel=1e-4, abs=1e-5)


LABELLED = """
[[columns]]
name = "height"
input = "x"
type = "number"

[[columns]]
name = "width"
input = "x"
type = "number"

[[columns]]
name = "depth"
input = "x"
type = "number"

[outputs.y]
labels = ["small", "large"]
"""


def test_scores_by_label(tmp_path):
    shutil.copytree(serving.FIXTURES / "fused_ms", tmp_path / "models" / "sizes")
    (tmp_path / "models" / "sizes" / "model.toml").write_text(LABELLED)
    rows = [{"height": 1, "width": 2, "depth": 3}, {"depth": 1, "width": 2, "height": 3}]
    expected = reference.answer("fused_ms", 1, {"x": np.array([[1, 2, 3], [3, 2, 1]], np.float32)})["y"]
    with serving.Server(tmp_path / "models", tmp_path / "server") as server:
        answer = server.post("/v1/models/sizes/score", {"rows": rows})
        assert answer.status == 200, answer
        for row, values in zip(answer.json()["rows"], expected):
            assert row["y"] == pytest.approx(dict(zip(["small", "large"], values.tolist())), rel=1e-4, abs=1e-5)


# --- What is unusual, and what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"age": 120}, {"age": -3}, {"income": -1}, {"age": 17.999}])
def test_out_of_range_is_still_answered(server, change):
    """The range in model.toml says what the model was trained on, not what may be asked."""
    rows = [GOOD_ROWS[0] | change]
    assert scores(server.post(SCORE, {"rows": rows})) == expected_scores(rows)


@pytest.mark.parametrize("value", ["null", "NaN"])
def test_not_a_number_is_null(server, value):
    body = json.dumps({"rows": [GOOD_ROWS[0], GOOD_ROWS[1] | {"age": "@"}]}).replace('"@"', value)
    answer = server.post(SCORE, body.encode(), {"Content-Type": "application/json"})
    assert answer.status == 200, answer
    assert b"NaN" not in answer.body
    first, second = scores(answer)
    assert second is None
    assert [first] == expected_scores(GOOD_ROWS[:1])


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded"])
def test_content_types_of_curl(server, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    assert scores(server.post(SCORE, json.dumps({"rows": GOOD_ROWS}).encode(), headers)) == expected_scores(GOOD_ROWS)


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def test_missing_names(server):
    refused(server.post(SCORE, {"rows": [without(GOOD_ROWS[0], "age", "region")]}), "age", "region")
    refused(server.post(SCORE, {"rows": [GOOD_ROWS[0], without(GOOD_ROWS[1], "income")]}), "income", "1")
    columns = {"age": [1], "member": [True], "region": [0]}
    refused(server.post(SCORE, {"columns": columns}), "income")
    refused(server.post("/v1/models/risk/score", {"rows": [without(RISK_ROWS[0], "worst_area")]}), "worst_area")


def test_unknown_names(server):
    refused(server.post(SCORE, {"rows": [GOOD_ROWS[0] | {"colour": 1}]}), "colour")
    refused(server.post(SCORE, {"rows": [GOOD_ROWS[0], GOOD_ROWS[1] | {"colour": 1}]}), "colour")
    columns = {name: [value] for name, value in GOOD_ROWS[0].items()} | {"colour": [1]}
    refused(server.post(SCORE, {"columns": columns}), "colour")
    refused(server.post("/v1/models/risk/score", {"rows": [RISK_ROWS[0] | {"mean_radios": 1}]}), "mean_radios")


@pytest.mark.parametrize("change", [
    {"age": "31"}, {"age": [31]}, {"age": {}}, {"member": "yes"}, {"member": 7}, {"region": 1.5}, {"region": "1"},
    {"region": None}, {"member": None}, {"region": 2**63}, {"age": True}])
def test_values_of_the_wrong_kind(server, change):
    refused(server.post(SCORE, {"rows": [GOOD_ROWS[0], GOOD_ROWS[1] | change]}), *change)


@pytest.mark.parametrize("body", [
    b"", b"{}", b"[]", b'{"rows":{}}', b'{"rows":[1]}', b'{"rows":[[1,2]]}', b'{"columns":[]}',
    b'{"columns":{"age":1}}',
    b'{"rows":[],"columns":{}}', b'{"rows":[{"age":1}', b'{"row":[{}]}', b"not json", b'{"rows":null}',
    b'{"rows":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
], ids=lambda body: repr(body[:30])[2:-1])
def test_bodies_that_are_no_rows(server, body):
    refused(server.post(SCORE, body, {"Content-Type": "application/json"}))


def test_columns_of_different_length(server):
    columns = {"age": [1, 2], "income": [1, 2], "member": [True], "region": [0, 0]}
    refused(server.post(SCORE, {"columns": columns}), "member")


def test_a_name_twice_in_a_row(server):
    body = b'{"rows":[{"age":1,"age":2,"income":1,"member":true,"region":0}]}'
    refused(server.post(SCORE, body, {"Content-Type": "application/json"}), "age")


def test_unknown_model_and_version(server):
    for path in ("/v1/models/nobody/score", "/v1/models/columns/versions/9/score"):
        answer = server.post(path, {"rows": GOOD_ROWS})
        assert answer.status == 404, answer
        assert answer.error()


def test_no_rows(server):
    """Nothing to score is answered with nothing, or the mistake is named; it is no fault of the server."""
    answer = server.post(SCORE, {"rows": []})
    assert answer.status == 400 or answer.json()["rows"] == [], answer


# --- The server's own pages --------------------------------------------------------------------------------------


def test_docs_page(server):
    answer = server.get("/docs")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/html"), answer
    page = answer.body.decode()
    assert "risk" in page and "openapi.json" in page


@pytest.fixture(scope="module")
def openapi(server):
    answer = server.get("/docs/openapi.json")
    assert answer.status == 200 and answer.headers["content-type"].startswith("application/json"), answer
    return answer.json()


def test_openapi_is_valid(openapi):
    assert openapi["openapi"].startswith("3.")
    openapi_spec_validator.validate(openapi)


def examples_of(operation):
    content = operation["requestBody"]["content"]["application/json"]
    found = [item["value"] for item in content.get("examples", {}).values()]
    return found + ([content["example"]] if "example" in content else [])


def test_openapi_has_every_sample_that_has_columns(openapi):
    wanted = {f"/v1/models/{model}/score" for model in ("risk", "columns", "columns_text")}
    assert wanted <= set(openapi["paths"])


def test_openapi_examples_work_when_sent(server, openapi):
    sent = 0
    for path, methods in openapi["paths"].items():
        if path.endswith("/score"):
            for example in examples_of(methods["post"]):
                answer = server.post(path, example)
                assert answer.status == 200, (path, answer)
                sent += 1
    assert sent >= 3


def test_openapi_names_the_columns(openapi):
    text = json.dumps(openapi)
    assert all(f'"{name}"' in text for name in RISK_COLUMNS)
    assert "gray levels" in text and "EUR" in text
