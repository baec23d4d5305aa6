"""Does `tiltyard bench` say what a model costs and carries, in the forms that people and programs read?"""

import json
import os
import subprocess
import sys

import pytest

import serving

SECONDS_MAX = 120
# The shortest time under load that is taken: these tests are about the command's shape.
QUICK = ["--duration", "200ms"]


def bench(folder, *arguments, models=serving.SAMPLES):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
    environment["VIRTUAL_ENV"] = sys.prefix
    command = [str(serving.BINARY), "bench", "--models", str(models), "--data-dir", str(folder / "data"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS_MAX, env=environment, cwd=folder, check=False)


def form_of(folder, *arguments, **more):
    done = bench(folder, *QUICK, "--output", "json", *arguments, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_for_programs(tmp_path):
    form = form_of(tmp_path, "risk")
    assert (form["model"], form["version"], form["provider"]) == ("risk", "2", "cpu")
    assert len(form["digest"]) == 64 and form["engine"] and form["engine_version"]
    assert form["machine"]["cores"] >= 1
    sizes = [point["rows"] for point in form["curve"]]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == form["batch_rows_max"]
    assert all(point["seconds"] > 0 and point["rows_per_second"] > 0 for point in form["curve"])
    assert 1 <= form["batch_rows_best"] <= form["batch_rows_max"]
    assert form["fit"]["row_seconds"] >= 0 and form["fit"]["run_seconds"] >= 0
    assert [load["fraction"] for load in form["loads"]] == [0.25, 0.5, 0.75, 0.9]
    for load in [*form["loads"], form["saturation"]]:
        assert load["requests"] > 0 and load["rows_per_second"] > 0
        assert 0 < load["p50_seconds"] <= load["p99_seconds"]
    assert form["plan"]["rows_per_second_per_replica"] > 0
    assert form["plan"]["replicas"] is None, "nobody said how many rows"


def test_replicas_for_an_objective(tmp_path):
    form = form_of(tmp_path, "risk@1", "--rows", "4", "--slo", "p99=1h", "--rate", "1000000000")
    assert (form["version"], form["rows_per_request"], form["plan"]["slo"]) == ("1", 4, "p99=3600s")
    # What failed is no capacity, whatever the objective; where nothing did, a billion rows take more than one.
    if form["plan"]["replicas"] is not None:
        assert form["plan"]["replicas"] > 1


def test_for_people(tmp_path):
    done = bench(tmp_path, "digits", *QUICK)
    assert done.returncode == 0, done.stderr
    for words in ["What a run costs", "ROWS", "PLOT OF ROWS/S", "█", "Under load", "saturated", "One replica like this"]:
        assert words in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["card", "card.json", "card.md"])
def test_a_card_is_written_twice(tmp_path, name):
    done = bench(tmp_path, "risk", *QUICK, "--card", name)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "card.json").read_text())
    text = (tmp_path / "card.md").read_text()
    assert text.startswith("# Capacity of risk version 2\n") and card["digest"] in text
    assert "| load |" in text and "## Replicas" in text


def test_a_second_bench_of_the_same_model_has_the_same_digest(tmp_path):
    assert form_of(tmp_path, "risk")["digest"] == form_of(tmp_path, "risk")["digest"]


def test_a_model_without_a_batch_axis(tmp_path):
    form = form_of(tmp_path, "fixed_batch", models=serving.FIXTURES)
    assert [point["rows"] for point in form["curve"]] == [1]
    assert form["batch_rows_max"] == 0


@pytest.mark.parametrize("arguments, code, words", [
    (["nobody"], 1, "nobody"),
    (["risk@9"], 1, "9"),
    (["risk", "--slo", "fast"], 2, "p99=20ms"),
    (["risk", "--duration", "1"], 2, "100ms"),
    (["risk", "--rows", "0"], 2, "--rows"),
])
def test_mistakes(tmp_path, arguments, code, words):
    done = bench(tmp_path, *arguments)
    assert done.returncode == code, done
    assert words in done.stderr
