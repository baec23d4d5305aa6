"""Do explanations add up, by the names that clients know, whoever answers and however much is asked?"""

import concurrent.futures
import json
import math
import shutil

import openapi_spec_validator
import pytest

import serving

EXPLAINED = serving.ROOT / "engines/classical/tests/explained"
ROW = {"age": 30.0, "income": 55.0, "job": "smith", "town": "b"}


def told(name):
    return json.loads((EXPLAINED / name / "expected.json").read_text())


def columns(inputs):
    """Each input of one column, by its name."""
    return {name: tensor["data"] for name, tensor in inputs.items()}


def version(models, name, source, background=None, at="1"):
    folder = models / name / "1"
    folder.mkdir(parents=True)
    for file in (EXPLAINED / source).iterdir():
        if file.name != "expected.json":
            shutil.copy(file, folder)
    if background:
        place = models / name / at / "explain"
        place.mkdir()
        (place / "background.json").write_text(json.dumps(background))


@pytest.fixture(scope="module")
def explaining(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explaining")
    models = folder / "models"
    background = {"columns": columns(told("pipeline_boosting")["background"])}
    version(models, "credit", "pipeline_boosting", background)
    version(models, "shared", "pipeline_boosting", background, at="")
    version(models, "bare", "pipeline_boosting")
    version(models, "classes", "pipeline_forest", background)
    version(models, "boosted", "xgboost_regression")
    version(models, "wrong", "pipeline_boosting", {"rows": [{"age": 1}]})
    shutil.copytree(serving.FIXTURES / "two_in_two_out", models / "two_in_two_out")
    with serving.Server(models, folder, "--poll-interval", "1h") as made:
        yield made


def explain(server, model, body, status=200):
    answer = server.post(f"/v1/models/{model}/explain", body)
    assert answer.status == status, answer
    return answer.json()


def check_sum(explanation):
    parts = sum(part["contribution"] for part in explanation["contributions"]) + explanation.get("others", 0)
    assert math.isclose(explanation["base"] + parts, explanation["score"], abs_tol=1e-9), explanation


def test_a_pipeline_over_texts_is_explained_by_its_columns(explaining):
    expected = told("pipeline_boosting")
    answer = explain(explaining, "credit", {"columns": columns(expected["inputs"])})
    assert (answer["method"], answer["space"], answer["output"]) == ("interventional", "log-odds", "1")
    assert answer["background_rows"] == len(expected["background"]["age"]["data"])
    names = list(expected["inputs"])
    parts = iter(expected["parts"])
    for row, explanation in enumerate(answer["explanations"]):
        check_sum(explanation)
        found = {part["column"]: part for part in explanation["contributions"]}
        for name in names:
            assert math.isclose(found[name]["contribution"], next(parts), abs_tol=1e-4), (row, name)
            assert found[name]["value"] == expected["inputs"][name]["data"][row]
    scores = explaining.post("/v1/models/credit/score", {"columns": columns(expected["inputs"])}).json()["rows"]
    for explanation, score in zip(answer["explanations"], scores):
        probability = next(value for value in score.values() if not isinstance(value, int))
        probability = list(probability.values())[1] if isinstance(probability, dict) else probability[1]
        assert math.isclose(1 / (1 + math.exp(-explanation["score"])), probability, abs_tol=1e-5)


def test_the_columns_that_count_most_are_told_and_the_rest_is_one_sum(explaining):
    every = explain(explaining, "credit", {"rows": [ROW]})["explanations"][0]
    few = explain(explaining, "credit", {"rows": [ROW], "top": 2})["explanations"][0]
    sizes = [abs(part["contribution"]) for part in every["contributions"]]
    assert len(sizes) == 4 and sizes == sorted(sizes, reverse=True)
    assert few["contributions"] == every["contributions"][:2]
    check_sum(few)


def test_a_background_may_be_of_all_versions_of_a_model(explaining):
    own, shared = (explain(explaining, model, {"rows": [ROW]}) for model in ("credit", "shared"))
    assert own["explanations"] == shared["explanations"]
    digests = {explaining.post(f"/v1/models/{model}/score", {"rows": [ROW]}).headers["tiltyard-digest"]
               for model in ("credit", "shared", "bare")}
    assert len(digests) == 3, "the background is part of the artifact"


def test_classes_are_told_one_by_one(explaining):
    every = explain(explaining, "classes", {"rows": [ROW]})["explanations"][0]["outputs"]
    assert list(every) == ["0", "1", "2"]
    for explanation in every.values():
        check_sum(explanation)
    only = explain(explaining, "classes", {"rows": [ROW], "output": "2"})
    assert (only["output"], only["explanations"][0]) == ("2", every["2"])
    wrong = explain(explaining, "classes", {"rows": [ROW], "output": "seven"}, status=400)
    assert 'output "seven" is not explained: there is "0", "1", "2"' in wrong["error"]


def test_columns_without_names_are_called_by_their_place(explaining):
    row = {f"input[{place}]": place - 2.0 for place in range(5)}
    answer = explain(explaining, "boosted", {"rows": [{**row, "input[1]": None}], "top": 5})
    assert (answer["method"], answer["space"]) == ("tree_path_dependent", "value") and "background_rows" not in answer
    check_sum(answer["explanations"][0])
    found = {part["column"]: part["value"] for part in answer["explanations"][0]["contributions"]}
    assert found == {**row, "input[1]": None}


@pytest.mark.parametrize("model, status, expected", [
    ("bare", 501, "put some rows that stand for what is usual into explain/background.json"),
    ("two_in_two_out", 501, "explanations need the classical engine"),
    ("wrong", 501, "explain/background.json: row 0: missing columns"),
    ("nobody", 404, "nobody"),
])
def test_what_is_not_explained_says_why(explaining, model, status, expected):
    row = ROW
    if model == "two_in_two_out":
        inputs = explaining.get("/v2/models/two_in_two_out").json()["inputs"]
        if any(len(spec["shape"]) > 2 for spec in inputs):
            pytest.skip("no table")
        row = {f"{spec['name']}[{place}]" if len(spec["shape"]) == 2 and spec["shape"][1] > 1 else spec["name"]: 1
               for spec in inputs for place in range(spec["shape"][-1] if len(spec["shape"]) == 2 else 1)}
    answer = explain(explaining, model, {"rows": [row]}, status)
    assert expected in answer["error"], answer


@pytest.mark.parametrize("body, expected", [
    ({"rows": [{"age": 1}]}, "missing columns"),
    ({"rows": [ROW], "top": 0}, '"top": expected a whole number from 1'),
    ({"rows": [ROW], "bottom": 1}, 'unknown key "bottom"'),
    ({"rows": []}, "no rows"),
])
def test_bad_requests_say_what_is_expected(explaining, body, expected):
    answer = explain(explaining, "credit", body, status=400)
    assert expected in answer["error"], answer


def test_too_many_parts_and_too_little_time_are_refused(explaining):
    many = explain(explaining, "credit", {"rows": [ROW] * 70_000}, status=413)
    assert "send fewer rows" in many["error"]
    late = explain(explaining, "credit", {"rows": [ROW] * 60_000, "parameters": {"timeout": 20_000}}, status=504)
    assert "explained within" in late["error"] or "no explanation within" in late["error"]


def test_a_flood_is_bounded_and_inference_goes_on(explaining):
    body = {"rows": [ROW] * 2_000, "top": 1}
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        flood = [pool.submit(explaining.post, "/v1/models/credit/explain", body) for _ in range(60)]
        scored = [explaining.post("/v1/models/credit/score", {"rows": [ROW]}).status for _ in range(20)]
        answers = [pending.result() for pending in flood]
    assert set(scored) == {200}
    kinds = {answer.status for answer in answers}
    assert 200 in kinds and 429 in kinds and kinds <= {200, 429, 504}, kinds
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 429)
    metrics = explaining.get("/metrics", port=explaining.admin_port).body.decode()
    figures = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("tiltyard_explain"))
    assert float(figures['tiltyard_explain_requests_total{outcome="refused"}']) > 0
    assert float(figures["tiltyard_explain_rows_total"]) > 0


def test_the_page_of_calls_shows_it(explaining):
    paths = explaining.get("/docs/openapi.json").json()["paths"]
    operation = paths["/v1/models/credit/explain"]["post"]
    openapi_spec_validator.validate(explaining.get("/docs/openapi.json").json())
    assert {"rows", "top", "output"} <= set(operation["requestBody"]["content"]["application/json"]["schema"]["properties"])
    assert "/v1/models/two_in_two_out/explain" not in paths


def test_explanations_are_no_requests_of_the_model(explaining):
    before = explaining.get("/v2/models/boosted/stats").json()
    explain(explaining, "boosted", {"rows": [{f"input[{place}]": 1 for place in range(5)}]})
    assert explaining.get("/v2/models/boosted/stats").json() == before


def test_from_the_command_line(explaining, tmp_path):
    (tmp_path / "rows.csv").write_text("age,income,job,town\n30,55,smith,b\n41,,nobody,c\n")
    done = serving.run_binary("explain", "credit", "--file", tmp_path / "rows.csv", "--top", "2",
                              "--server", f"http://{explaining.http_address}")
    shown = done.stdout
    assert done.returncode == 0, done
    assert "(base)" in shown and "(others)" in shown and "smith" in shown and "log-odds by interventional" in shown
