"""Does the server learn by itself what its models' runs cost, and does it remember that?"""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

import serving

LEARNED_SECONDS_MAX = 60


@pytest.fixture
def models(tmp_path):
    return serving.link_models(tmp_path / "models", serving.SAMPLES / "risk")


def profiles(folder):
    """What is kept of runs' costs: content by file name."""
    return {file.name: file.read_text() for file in (folder / "data" / "profiles").glob("cost-*.json")}


def gauge(server, name):
    """The values of that name, by the version of the model."""
    text = server.get("/metrics", port=server.admin_port).body.decode()
    return {
        sample.labels["version"]: sample.value
        for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name}


def start(models, folder, *flags):
    """A server that remembers what the one before it in that folder did."""
    (folder / "ports.json").unlink(missing_ok=True)
    return serving.Server(models, folder, *flags)


def learn(models, folder):
    """Starts a server and ends it once both versions are measured."""
    with start(models, folder):
        serving.until(lambda: len(profiles(folder)) == 2, "two profiles", LEARNED_SECONDS_MAX)


def test_what_was_measured_is_not_measured_again(models, tmp_path):
    learn(models, tmp_path)
    before = profiles(tmp_path)
    for text in before.values():
        kept = json.loads(text)
        assert kept["subject"]["rows_max"] == 64 and 1 <= kept["best_rows"] <= 64
        assert kept["points"][0]["rows"] == 1
    with start(models, tmp_path) as server:
        costs = gauge(server, "tiltyard_cost_run_seconds")
    assert set(costs) == {"1", "2"} and all(cost >= 0 for cost in costs.values())
    assert profiles(tmp_path) == before


def test_a_damaged_profile_is_measured_anew(models, tmp_path):
    learn(models, tmp_path)
    folder = tmp_path / "data" / "profiles"
    damaged, whole = sorted(profiles(tmp_path))
    kept = profiles(tmp_path)[whole]
    (folder / damaged).write_text("{")
    with start(models, tmp_path):
        serving.until(lambda: profiles(tmp_path)[damaged] != "{", "a new profile", LEARNED_SECONDS_MAX)
    assert json.loads(profiles(tmp_path)[damaged])["best_rows"] >= 1
    assert profiles(tmp_path)[whole] == kept


def test_the_operators_limit_stands(models, tmp_path):
    with start(models, tmp_path, "--batch-rows-max", "12") as server:
        serving.until(lambda: len(profiles(tmp_path)) == 2, "two profiles", LEARNED_SECONDS_MAX)
        assert gauge(server, "tiltyard_batch_rows_limit") == {"1": 12, "2": 12}


def test_what_was_learned_is_no_part_of_the_digest(models, tmp_path):
    """Two machines may learn different sizes; a plan that names a digest must mean the same on both."""
    def digests():
        with start(models, tmp_path) as server:
            return {item["version"]: item["digest"] for item in
                    json.loads(server.get("/admin/models", port=server.admin_port).body)}

    learn(models, tmp_path)
    before = digests()
    for name, text in profiles(tmp_path).items():
        kept = json.loads(text)
        kept["best_rows"] = 2
        (tmp_path / "data" / "profiles" / name).write_text(json.dumps(kept))
    with start(models, tmp_path) as server:
        assert gauge(server, "tiltyard_batch_rows_limit") == {"1": 2, "2": 2}
    assert digests() == before
