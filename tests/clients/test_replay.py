"""Does another version answer what is on record as this one did, and can a past prediction be proved and run again?"""

import hashlib
import json

import numpy as np
import pytest

import asking
import serving
from test_capture import features, risk, start, table


def replay(folder, *arguments, models=None):
    models = models or folder / "models"
    return serving.run_binary("replay", "--from", folder / "data" / "capture", "--models", models, *arguments)


def prove(folder, prediction, *arguments):
    done = serving.run_binary("prove", prediction, "--from", folder / "data" / "capture", "--models", folder / "models",
                              "--output", "json", *arguments)
    return done, json.loads(done.stdout) if done.stdout else None


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A folder with traffic of the risk model's version 2, in all forms, and what was answered."""
    folder = tmp_path_factory.mktemp("captured")
    with start(folder) as server:
        replies = [ask(server, risk(3, seed)) for seed, ask in enumerate(asking.FORMS.values())]
        replies += [asking.ask_json(server, risk(1, 20 + seed)) for seed in range(12)]
        assert not any(reply.kind for reply in replies), replies
    return folder


def test_the_same_version_agrees_with_itself_and_another_does_not(captured):
    same = replay(captured, "--to", "risk@2", "--fail-over", "0", "--output", "json")
    assert same.returncode == 0, same
    report = json.loads(same.stdout)
    assert report["rows"] == {"read": 24, "compared": 24, "failed_then": 0, "failed_now": 0, "unusable": 0, "erased": 0}
    assert (report["differ"], report["then"], report["to"]) == (0, {"risk@2": 24}, "risk@2")
    # Other batches round otherwise: scores that are alike to six digits may change places.
    assert report["numbers"]["probability"]["rank_agreement"] > 0.99
    other = replay(captured, "--to", "risk@1", "--fail-over", "0.5", "--output", "json")
    report = json.loads(other.stdout)
    assert other.returncode == 4 and report["differ"] > 0.5 and report["rows"]["compared"] == 24, other
    assert 0 < report["numbers"]["probability"]["rank_agreement"] <= 1 and len(report["worst"]) == 5
    told = replay(captured, "--to", "risk@1")
    assert told.returncode == 0 and "24 rows of risk@2 (24 rows) asked again of risk@1" in told.stdout, told


def test_a_running_server_is_asked_and_says_the_same(captured, tmp_path):
    here = json.loads(replay(captured, "--to", "risk@1", "--output", "json").stdout)
    with serving.Server(captured / "models", tmp_path) as server:
        done = serving.run_binary("replay", "--from", captured / "data" / "capture", "--to", "risk@1", "--output", "json",
                                  "--server", f"http://{server.http_address}")
    assert done.returncode == 0, done
    there = json.loads(done.stdout)
    assert here["rows"] == there["rows"] and here["worst"] == there["worst"]
    assert here["measures"] == pytest.approx(there["measures"])


def test_rows_are_chosen_by_endpoint_arm_and_time(captured):
    for choice, rows in ((("--endpoint", "risk"), 24), (("--arm", "champion"), 24), (("--since", "2020-01-01"), 24),
                         (("--limit", "3"), 3)):
        report = json.loads(replay(captured, "--to", "risk@2", "--output", "json", *choice).stdout)
        assert report["rows"]["read"] == rows, choice
    for nobody in (("--endpoint", "other"), ("--arm", "challenger"), ("--until", "2020-01-01")):
        done = replay(captured, "--to", "risk@2", *nobody)
        assert done.returncode == 1 and "no row could be compared" in done.stderr, done
    wrong = replay(captured, "--to", "risk@2", "--since", "yesterday")
    assert wrong.returncode == 2 and "2026-03-01" in wrong.stderr, wrong


def climb(leaf, at, count, path):
    """The root of RFC 6962 from a leaf and the hashes beside its way, as RFC 9162 2.1.3.2 has it."""
    last = count - 1
    for beside in path:
        if at % 2 or at == last:
            leaf = hashlib.sha256(b"\1" + beside + leaf).digest()
            while at % 2 == 0 and at:
                at, last = at // 2, last // 2
        else:
            leaf = hashlib.sha256(b"\1" + leaf + beside).digest()
        at, last = at // 2, last // 2
    return leaf


def test_every_prediction_is_proved_and_the_same_to_the_bit(captured):
    rows = table(captured)
    for prediction in rows["prediction_id"].to_pylist()[::5]:
        done, report = prove(captured, prediction)
        assert done.returncode == 0, done
        assert report["in_segment"] and report["in_manifest"] and report["again"] == {"equal": True}
        proof = report["proof"]
        path = [bytes.fromhex(beside) for beside in proof["path"]]
        root = climb(bytes.fromhex(proof["leaf"]), proof["row"], proof["rows"], path).hex()
        assert root == proof["root"] == report["segment"]["merkle_root"]
        lines = (captured / "data" / "capture" / "segments.jsonl").read_text().splitlines()
        assert root in lines[report["manifest"]["line"] - 1], "the manifest has the root"


def test_what_is_not_on_record_cannot_be_proved(captured):
    nobody = "01920000-0000-7000-8000-0000000000ab:0"
    done, _ = prove(captured, nobody)
    assert done.returncode == 1 and "is not on record" in done.stderr, done
    done = serving.run_binary("prove", "x", "--from", captured / "data" / "capture")
    assert done.returncode == 2, done


def test_what_rules_changed_is_said_to_be_no_longer_whole(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[risk]\nhash = ["input_mean_radius"]\n')
    with start(tmp_path, "--capture-rules", str(rules)) as server:
        assert asking.ask_json(server, risk(2)).kind is None
    done, report = prove(tmp_path, table(tmp_path)["prediction_id"].to_pylist()[1])
    assert done.returncode == 1 and report["in_segment"] and report["in_manifest"]
    assert "not on record as it was" in report["again"]["why"], report
    done = replay(tmp_path, "--to", "risk@2", "--output", "json")
    assert done.returncode == 1 and json.loads(done.stdout)["rows"]["unusable"] == 2, done


def test_another_artifact_under_the_same_name_is_not_run(captured, tmp_path):
    models = tmp_path / "models" / "risk"
    models.mkdir(parents=True)
    (models / "2").symlink_to(serving.SAMPLES / "risk" / "1")
    prediction = table(captured)["prediction_id"].to_pylist()[0]
    done = serving.run_binary(
        "prove", prediction, "--from", captured / "data" / "capture", "--models", tmp_path / "models")
    assert done.returncode == 1 and "is not to be had here" in done.stdout, done


def test_a_changed_segment_is_refused_before_it_is_read(captured, tmp_path):
    import shutil
    shutil.copytree(captured / "data", tmp_path / "data")
    segment = next((tmp_path / "data" / "capture" / "segments").rglob("*.parquet"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 3] ^= 4
    segment.write_bytes(content)
    done = replay(tmp_path, "--to", "risk@2", models=captured / "models")
    assert done.returncode == 1 and "is not what was written" in done.stderr, done


def test_tokens_and_images_are_asked_again_too(tmp_path):
    folder = tmp_path / "models"
    for name in ("language", "digits"):
        serving.link_models(folder, serving.SAMPLES / name)
    with serving.Server(folder, tmp_path, "--capture", "on", "--capture-ring-bytes", "16MiB") as server:
        given = server.get("/v2/models/digits").json()["inputs"][0]
        tokens = asking.tensor("tokens", np.arange(8, dtype=np.int64).reshape(2, 4))
        assert asking.ask_json(server, {"model": "language", "inputs": [tokens]}).kind is None
        image = np.random.default_rng(1).random([3] + given["shape"][1:]).astype(np.float32)
        asked = {"model": "digits", "inputs": [asking.tensor(given["name"], image)]}
        assert asking.ask_binary(server, asked).kind is None
    for name, rows in (("language", 2), ("digits", 3)):
        done = replay(tmp_path, "--to", name, "--endpoint", name, "--fail-over", "0", "--output", "json")
        assert done.returncode == 0 and json.loads(done.stdout)["rows"]["compared"] == rows, done
    for prediction in table(tmp_path)["prediction_id"].to_pylist():
        done, report = prove(tmp_path, prediction)
        assert done.returncode == 0 and report["again"]["equal"] is True, done
