"""Is it told when what a model is asked is not what it was made for?"""

import csv
import json

import numpy as np
import pytest

import asking
import serving

with open(serving.SAMPLES / "risk-history.csv", newline="") as file:
    HISTORY = list(csv.DictReader(file))
COLUMNS = list(HISTORY[0])[1:31]


def write_rows(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def models(tmp_path):
    return serving.link_models(tmp_path / "models", serving.SAMPLES / "risk")


def make_baseline(tmp_path, models, *more):
    rows = write_rows(tmp_path / "rows.csv", HISTORY * 6)
    done = serving.run_binary(
        "drift", "baseline", "risk", "--file", str(rows), "--models", str(models), "--data-dir", str(tmp_path / "data"),
        "--output", "json", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def report(server, *more):
    done = serving.run_binary("drift", "report", "--ports-file", str(server.ports_file), "--output", "json", *more)
    return done.returncode, [told for told in json.loads(done.stdout) if told["version"] == "2"]


def risk(rows):
    values = np.array([[row[name] for name in COLUMNS] for row in rows], np.float32)
    return {"model": "risk", "inputs": [asking.tensor("features", values)]}


def test_a_baseline_is_made_of_a_file_and_watched_by(tmp_path, models):
    made = make_baseline(tmp_path, models)
    assert (made["rows"], made["features"], made["version"]) == (len(HISTORY) * 6, 32, "2"), made
    with serving.Server(models, tmp_path) as server:
        assert asking.ask_json(server, risk(HISTORY[:50])).kind is None
        code, [told] = report(server)
        assert (code, told["state"], told["inputs"], told["outputs"]) == (0, "watched", "ok", "ok"), told
        assert told["baseline"]["digest"] == made["digest"] and not told["baseline"]["provisional"]
        assert told["open_hour_rows"] == 50
        names = {feature["name"] for feature in told["features"]}
        assert names == {*COLUMNS, "probability", "label"}
        shown = serving.run_binary("drift", "report", "--ports-file", str(server.ports_file)).stdout
        assert "risk" in shown and "watched" in shown, shown
        metrics = server.get("/metrics", port=server.admin_port).body.decode()
        assert 'tiltyard_drift_features{model="risk",version="2",level="ok"} 32' in metrics


def test_what_was_counted_outlives_the_process(tmp_path, models):
    make_baseline(tmp_path, models)
    with serving.Server(models, tmp_path / "a", "--data-dir", str(tmp_path / "data")) as server:
        assert asking.ask_json(server, risk(HISTORY[:30])).kind is None
    with serving.Server(models, tmp_path / "b", "--data-dir", str(tmp_path / "data")) as server:
        assert asking.ask_json(server, risk(HISTORY[:12])).kind is None
        _, [told] = report(server)
        # Where an hour ended meanwhile, what came before it is in a window of its own.
        assert told["open_hour_rows"] in (42, 12)


def test_a_baseline_that_comes_later_is_taken_while_the_server_runs(tmp_path, models):
    with serving.Server(models, tmp_path) as server:
        assert asking.ask_json(server, risk(HISTORY[:5])).kind is None
        _, [told] = report(server)
        assert told["state"] == "no baseline" and "tiltyard drift baseline" in told["why"]
        make_baseline(tmp_path, models)
        serving.until(lambda: report(server)[1][0]["state"] == "watched", "the baseline")


def test_a_baseline_that_was_changed_is_refused(tmp_path, models):
    made = make_baseline(tmp_path, models)
    with open(made["file"], "r+") as file:
        text = file.read().replace("mean_radius", "mean_radios")
        file.seek(0)
        file.write(text)
    with serving.Server(models, tmp_path) as server:
        assert asking.ask_json(server, risk(HISTORY[:5])).kind is None
        assert report(server)[1][0]["state"] == "no baseline"
        assert "the baseline was changed" in server.log_text()


def test_first_traffic_is_gathered_where_that_is_asked(tmp_path, models):
    with serving.Server(models, tmp_path, "--drift", "traffic") as server:
        assert asking.ask_json(server, risk(HISTORY[:100])).kind is None
        _, [told] = report(server)
        assert told["state"] == "gathering" and told["wanted"]["rows"] == 20_000 - 100, told


def test_a_version_that_is_pinned_is_nobodys_traffic(tmp_path, models):
    make_baseline(tmp_path, models)
    with serving.Server(models, tmp_path) as server:
        assert asking.ask_json(server, risk(HISTORY[:9]) | {"version": "2"}).kind is None
        assert report(server)[1][0]["open_hour_rows"] == 0
