"""Is it told when what a model is asked is not what it was made for?"""

import csv
import hashlib
import json

import numpy as np
import pytest

import asking
import competing
import serving
from competing import command, status
from test_endpoints import run
from test_repository import put, times

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


# --- What is held ----------------------------------------------------------------------------------------------------


def in_alert(made, column, level=2):
    """Has a baseline's watch say how a column stands: what two days of other values would do."""
    with open(made["file"]) as file:
        baseline = json.load(file)["baseline"]
    calm, standing = bytes(6), bytes([level, 0, 0, 0, 0, 0])
    watch = b"TYWATCH1" + bytes.fromhex(made["digest"].removeprefix("sha256:")) + calm
    for feature in baseline["features"]:
        first = standing if feature["name"] == column else calm
        watch += first + calm * 2 + b"\0" + (calm * 3 + b"\0") * 2
    with open(made["file"].replace("baseline.json", "watch"), "wb") as file:
        file.write(watch + hashlib.sha256(watch).digest()[:8])


@pytest.fixture
def competing_models(tmp_path):
    """Versions 1 and 2 of m, and a baseline of version 1."""
    root = tmp_path / "models"
    put(root, "m", 1, times(1.0))
    put(root, "m", 2, times(2.0))
    competing.hold_back(root)
    values = np.random.default_rng(7).normal(size=(2_000, 2)).astype(np.float32)
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({"inputs": [asking.tensor("x", values)]}))
    done = serving.run_binary(
        "drift", "baseline", "m@1", "--file", str(rows), "--models", str(root), "--data-dir", str(tmp_path / "data"),
        "--output", "json")
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout)


def load_of(server):
    def ask():
        number = 0
        while not crowd.over.is_set():
            number += 1
            body = {"inputs": [asking.tensor("x", np.array([[1, 1]], np.float32))]}
            assert server.post("/v2/models/m/infer", body, headers={"x-user": f"user-{number}"}).status == 200

    crowd = competing.Crowd(ask)
    return crowd


QUICK = ("--key", "header:x-user", "--steps", "50%/0", "--min-time", "1s", "--min-units", "20")
FLOOR = {"guardrails": [{"metric": "errors", "floor": 0.2}]}


def waits_for_drift(server):
    told = status(server)
    assert not told["ended"], told
    reasons = (told["verdict"] or {}).get("reasons", [])
    return told["stage"] == "baking" and [reason["reason"] for reason in reasons] == ["gate"] and reasons[0]["refused"]


def test_a_promotion_waits_while_inputs_are_in_alert_unless_a_person_says_so(tmp_path, competing_models):
    models, made = competing_models
    in_alert(made, "x[0]")
    flags = ["--poll-interval", "100ms", "--data-dir", str(tmp_path / "data")]
    with serving.Server(models, tmp_path / "server", *flags) as server, load_of(server) as crowd:
        competing.begin(server, tmp_path, 2, *QUICK, policy=FLOOR)
        serving.until(lambda: waits_for_drift(server), "all else to be shown", 60)
        shown = run(server, "rollout", "status", "m")
        assert "held       inputs of version 1 are in ALERT: input x[0]" in shown and "gate drift was refused" in shown
        assert status(server)["policy"]["gates"] == ["drift"]
        # A person goes on all the same.
        run(server, "rollout", "gate", "m", "drift")
        competing.reaches(server, lambda told: told["state"] == "promoted", "the promotion")
        assert not crowd.failed, crowd.failed
        [log] = (tmp_path / "data").rglob("log")
        lines = [json.loads(line) for file in log.glob("*.jsonl") for line in open(file)]
        events = [line["data"]["event"] for line in lines if line["kind"] == "rollout.event"]
        said = [event["gate"] for event in events if event.get("gate", {}).get("gate") == "drift"]
        assert [event["passed"] for event in said] == [False, True], said
        assert json.loads(said[0]["evidence"])["by"] == "tiltyard" and "ALERT" in said[0]["evidence"]
        assert json.loads(said[1]["evidence"]) == {"by": "somebody"}


def test_nothing_is_held_where_inputs_are_as_expected_or_nothing_watches_them(tmp_path, competing_models):
    models, _ = competing_models
    flags = ["--poll-interval", "100ms", "--data-dir", str(tmp_path / "data")]
    with serving.Server(models, tmp_path / "server", *flags) as server, load_of(server):
        competing.begin(server, tmp_path, 2, *QUICK, "--wait", policy=FLOOR)
        told = status(server)
        assert (told["state"], told["held"], told["policy"]["gates"]) == ("promoted", None, ["drift"])
    with serving.Server(models, tmp_path / "off", *flags[:2], "--drift", "off") as server, load_of(server):
        competing.begin(server, tmp_path, 2, *QUICK, "--wait", policy=FLOOR)
        assert status(server)["policy"].get("gates", []) == []


def test_a_promotion_goes_on_by_command_whatever_drifts(tmp_path, competing_models):
    models, made = competing_models
    in_alert(made, "x[1]")
    with serving.Server(models, tmp_path, "--poll-interval", "100ms") as server, load_of(server):
        competing.begin(server, tmp_path, 2, *QUICK, policy=FLOOR)
        serving.until(lambda: waits_for_drift(server), "all else to be shown", 60)
        command(server, "promote")
        assert status(server)["state"] == "promoted"


# --- Pages and replicas ----------------------------------------------------------------------------------------------


def test_a_page_has_all_that_it_needs(tmp_path, models):
    in_alert(make_baseline(tmp_path, models), "mean_radius")
    with serving.Server(models, tmp_path) as server:
        assert asking.ask_json(server, risk(HISTORY)).kind is None
        page = tmp_path / "drift.html"
        done = serving.run_binary("drift", "report", "risk", "--html", str(page), "--ports-file", str(server.ports_file))
        assert (done.returncode, done.stdout) == (1, ""), "something alerts"
    text = page.read_text()
    assert text.index("mean_radius") < text.index("mean_texture") and f"{len(HISTORY)} rows from" in text
    assert text.count("<svg") == text.count("</svg>") > 30 and "<script" not in text and "http" not in text


def test_what_replicas_counted_adds_up(tmp_path, models):
    make_baseline(tmp_path, models)
    (tmp_path / "a").mkdir()
    with serving.Server(models, tmp_path / "a", "--data-dir", str(tmp_path / "data")) as first:
        with serving.Server(models, tmp_path / "b", "--data-dir", str(tmp_path / "data")) as second:
            assert asking.ask_json(first, risk(HISTORY[:30])).kind is None
            assert asking.ask_json(second, risk(HISTORY[:12])).kind is None
            other = f"http://127.0.0.1:{second.admin_port}"
            _, [told] = report(first, "--merge", other)
            assert told["open_hour_rows"] == 42 and "raw" not in told
            wrong = serving.run_binary("drift", "report", "--ports-file", str(first.ports_file), "--merge", "http://127.0.0.1:1")
            assert wrong.returncode == 3 and "http://127.0.0.1:1" in wrong.stderr


# --- What matters ----------------------------------------------------------------------------------------------------


def test_columns_matter_as_a_file_or_the_model_says(tmp_path, models):
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps({"mean_radius": 3, "mean_texture": 1}))
    made = make_baseline(tmp_path, models, "--importance", str(weights))
    assert made["matter_most"] == [["mean_radius", 1.5], ["mean_texture", 0.5]]
    with open(made["file"]) as file:
        features = {one["name"]: float(one["importance"]) for one in json.load(file)["baseline"]["features"]}
    assert (features["mean_radius"], features["mean_area"]) == (1.5, 1.0)
    rows = write_rows(tmp_path / "rows.csv", HISTORY)
    trees = serving.link_models(tmp_path / "trees", serving.SAMPLES / "risk_trees")
    line = ["drift", "baseline", "risk_trees", "--file", str(rows), "--models", str(trees), "--data-dir", str(tmp_path / "data")]
    explained = serving.run_binary(*line, "--importance", "explain", "--output", "json")
    assert explained.returncode == 0, explained.stderr
    most = json.loads(explained.stdout)["matter_most"]
    assert len(most) == 5 and most[0][1] > 1.5, most
    weights.write_text(json.dumps({"mean_radios": 3}))
    wrong = serving.run_binary(
        "drift", "baseline", "risk", "--file", str(rows), "--models", str(models), "--data-dir", str(tmp_path / "data"),
        "--importance", str(weights))
    assert wrong.returncode == 1 and "there is no input column \"mean_radios\"" in wrong.stderr, wrong
