"""Is a person's data on record unreadable without the keys, and nowhere once it is erased, whatever happens meanwhile?"""

import json
import pathlib
import secrets
import subprocess
import time

import numpy as np
import pyarrow.dataset

import asking
import serving
from test_capture import features, start

# A value that no model's weights have, in its bytes as FP32.
MARKER = np.float32(1234.5678)


def capture_folder(folder):
    return folder / "data" / "capture"


def begin(folder, rules, *flags, **how):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.toml").write_text(rules)
    key = folder / "master.key"
    if not key.exists():
        key.write_text(secrets.token_hex(32) + "\n")
    return start(folder, "--capture-rules", str(folder / "rules.toml"), "--capture-key-file", str(key), *flags, **how)


def ask(server, customer, seed):
    row = features(1, seed).copy()
    row[0, 0] = MARKER + seed
    body = {"inputs": [asking.tensor("features", row)]}
    answer = server.post("/v2/models/risk/infer", body, {"x-customer": customer})
    assert answer.status == 200, answer
    return answer.headers["tiltyard-prediction-id"]


def command(folder, name, *arguments, key=None):
    return serving.run_binary("capture", name, "--capture-dir", capture_folder(folder),
                              "--capture-key-file", key or folder / "master.key", *arguments)


def plain(folder):
    """What readers of Parquet see, as rows."""
    return pyarrow.dataset.dataset(folder, partitioning="hive").to_table().to_pylist()


def rows(folder):
    """Each row that can be read or not, by id."""
    done = command(folder, "read")
    assert done.returncode == 0, done
    return {row["prediction_id"]: row for row in map(json.loads, done.stdout.splitlines())}


def settled(folder, count):
    """Waits until so many rows are in segments that the manifest has."""
    manifest = capture_folder(folder) / "segments.jsonl"

    def written():
        text = manifest.read_text() if manifest.exists() else ""
        lines = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]
        return sum(line["data"]["rows"] for line in lines if line["kind"] == "capture.segment")

    serving.until(lambda: written() == count, f"{count} rows in segments")


def holds(folder, content):
    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file() and content in path.read_bytes()]


HEADER = '[risk]\nsubject = { header = "x-customer" }\nheaders = ["x-customer"]\n'


def test_an_erased_customer_is_nowhere_and_the_others_are_there(tmp_path):
    with begin(tmp_path, HEADER) as server:
        ids = {name: [ask(server, name, seed) for seed in seeds] for name, seeds in
               (("ann-4711", range(5)), ("bob-4712", range(5, 9)), ("", range(9, 11)))}
        settled(tmp_path, 11)
        # Nothing of a person is on the disk: neither in segments nor in what is left of the ring.
        for seed in range(11):
            marker = (MARKER + np.float32(seed)).tobytes()
            # A segment has its name a moment before its part of the ring is written over.
            serving.until(lambda: not holds(capture_folder(tmp_path), marker), "zeros in the ring")  # noqa: B023
        for name in ("ann-4711", "bob-4712"):
            assert not holds(capture_folder(tmp_path), name.encode())
        assert {row["headers"]["x-customer"] for row in rows(tmp_path).values()} == {"ann-4711", "bob-4712", ""}
        # While the server goes on.
        done = command(tmp_path, "erase", "--key", "ann-4711")
        assert done.returncode == 0 and "1 keys were destroyed" in done.stdout, done
        later = ask(server, "ann-4711", 20)
        settled(tmp_path, 12)
    found = rows(tmp_path)
    assert all(found[id]["erased"] and not found[id]["inputs"] for id in ids["ann-4711"])
    assert all(not found[id]["erased"] and found[id]["inputs"] for id in ids["bob-4712"] + ids[""] + [later])
    verify = serving.run_binary("capture", "verify", "--capture-dir", capture_folder(tmp_path))
    assert verify.returncode == 0 and "12 rows" in verify.stdout, verify
    manifest = (capture_folder(tmp_path) / "segments.jsonl").read_text()
    assert manifest.count('"kind":"capture.erased"') == 1 and "ann-4711" not in manifest
    chain = subprocess.run(["python3", serving.ROOT / "registry" / "verify.py", capture_folder(tmp_path) / "segments.jsonl"],
                           capture_output=True, text=True)
    assert chain.returncode == 0, chain


def test_facts_stay_readable_and_values_are_binary(tmp_path):
    with begin(tmp_path, HEADER) as server:
        id = ask(server, "ann", 1)
    found = plain(capture_folder(tmp_path) / "segments")
    assert [(row["prediction_id"], row["outcome"], row["key_hash"]) for row in found] == [(id, "ok", None)]
    assert isinstance(found[0]["sealed"], bytes) and len(found[0]["sealed"]) > 100
    assert not [name for name in found[0] if name.startswith(("input_", "output_", "header_"))]


def test_an_export_is_what_everybody_reads(tmp_path):
    with begin(tmp_path, HEADER) as server:
        answered = [ask(server, name, seed) for seed, name in enumerate(["ann", "bob", "ann"])]
    assert command(tmp_path, "erase", "--key", "ann").returncode == 0
    done = command(tmp_path, "export", "--to", tmp_path / "plain", "--output", "json")
    assert done.returncode == 0 and json.loads(done.stdout) == {"segments": 1, "rows": 3, "erased": 2}, done
    ann, bob, again = sorted(plain(tmp_path / "plain"), key=lambda row: answered.index(row["prediction_id"]))
    for row in (ann, again):
        assert [row[name] for name in ("header_x-customer", "input_mean_radius", "output_probability")] == [None] * 3
        assert (row["outcome"], row["endpoint"]) == ("ok", "risk")
    assert (bob["header_x-customer"], bob["input_mean_radius"]) == ("bob", MARKER + np.float32(1))
    assert bob["input_mean_texture"] == features(1, 1)[0, 1] and bob["output_probability"] is not None
    again = command(tmp_path, "export", "--to", tmp_path / "plain")
    assert again.returncode == 2 and "not empty" in again.stderr, again


def test_each_row_of_a_request_may_be_somebody_elses(tmp_path):
    with begin(tmp_path, '[risk]\nsubject = { input = "mean_texture" }\n') as server:
        asked = features(3, 2).copy()
        asked[:, 1] = [7, 8, 7]
        assert asking.ask_binary(server, {"model": "risk", "inputs": [asking.tensor("features", asked)]}).kind is None
    assert command(tmp_path, "erase", "--key", "7", "--endpoint", "risk").returncode == 0
    done = command(tmp_path, "export", "--to", tmp_path / "plain")
    assert done.returncode == 0, done
    assert [row["input_mean_texture"] for row in plain(tmp_path / "plain")] == [None, 8, None]


def test_rows_that_are_encrypted_are_replayed_and_proved_with_the_keys(tmp_path):
    with begin(tmp_path, HEADER) as server:
        ids = [ask(server, name, seed) for seed, name in enumerate(["ann", "bob", "ann"])]
    place = ["--from", capture_folder(tmp_path), "--models", tmp_path / "models"]
    keys = ["--capture-key-file", tmp_path / "master.key"]
    proved = serving.run_binary("prove", ids[1], *place, *keys, "--output", "json")
    assert proved.returncode == 0 and json.loads(proved.stdout)["again"]["equal"] is True, proved
    assert command(tmp_path, "erase", "--key", "ann").returncode == 0
    done = serving.run_binary("replay", "--to", "risk@2", *place, *keys, "--output", "json")
    assert json.loads(done.stdout)["rows"] == {
        "read": 3, "compared": 1, "failed_then": 0, "failed_now": 0, "unusable": 0, "erased": 2}, done
    gone = serving.run_binary("prove", ids[0], *place, *keys, "--output", "json")
    report = json.loads(gone.stdout)
    assert gone.returncode == 1 and report["in_segment"] and report["in_manifest"] and "erased" in report["again"]["why"]
    blind = serving.run_binary("replay", "--to", "risk@2", *place)
    assert blind.returncode == 1 and "encrypted rows" in blind.stderr, blind


def test_another_master_key_opens_nothing_and_starts_nothing(tmp_path):
    with begin(tmp_path, HEADER) as server:
        ask(server, "ann", 1)
    (tmp_path / "other.key").write_text(secrets.token_hex(32))
    for name in ("read", "erase"):
        done = command(tmp_path, name, *(["--key", "ann"] if name == "erase" else []), key=tmp_path / "other.key")
        assert done.returncode == 1 and "another master key" in done.stderr, done
    server = start(tmp_path / "again", "--data-dir", str(tmp_path / "data"), "--capture-rules", str(tmp_path / "rules.toml"),
                   "--capture-key-file", str(tmp_path / "other.key"), wait=False)
    try:
        assert server.process.wait(serving.START_SECONDS_MAX) != 0 and "another master key" in server.log_text()
    finally:
        server.kill()
    assert len(rows(tmp_path)) == 1


def test_a_subject_without_a_master_key_ends_the_start(tmp_path):
    (tmp_path / "rules.toml").write_text(HEADER)
    server = start(tmp_path, "--capture-rules", str(tmp_path / "rules.toml"), wait=False)
    try:
        assert server.process.wait(serving.START_SECONDS_MAX) != 0 and "capture_key_file" in server.log_text()
    finally:
        server.kill()


def test_an_erasure_that_is_killed_is_done_or_not_and_can_be_done_again(tmp_path):
    names = [f"person-{number}" for number in range(12)]
    with begin(tmp_path, HEADER) as server:
        ids = {name: ask(server, name, seed) for seed, name in enumerate(names)}
        line = [str(serving.BINARY), "capture", "erase", "--capture-dir", str(capture_folder(tmp_path)),
                "--capture-key-file", str(tmp_path / "master.key"), "--key"]
        settled(tmp_path, 12)
        # Killed a little later each time, from before it begins to after it ends.
        for number, name in enumerate(names[:-1]):
            process = subprocess.Popen([*line, name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(number * 0.01)
            process.kill()
            process.wait()
        found = rows(tmp_path)
        assert not found[ids[names[-1]]]["erased"], "who was not named is there"
        for name in names[:-1]:
            assert subprocess.run([*line, name], capture_output=True).returncode == 0
        found = rows(tmp_path)
        assert [found[ids[name]]["erased"] for name in names] == [True] * 11 + [False]
    assert serving.run_binary("capture", "verify", "--capture-dir", capture_folder(tmp_path)).returncode == 0


def test_what_a_killed_server_left_in_the_ring_is_encrypted_by_the_next(tmp_path):
    server = begin(tmp_path, HEADER, segment_time="1h")
    try:
        ids = [ask(server, "ann", seed) for seed in range(3)]
    finally:
        server.kill()
    assert holds(capture_folder(tmp_path), (MARKER + np.float32(1)).tobytes()), "the ring has it until a segment is made"
    assert command(tmp_path, "erase", "--key", "bob").returncode == 0, "whoever opens the folder makes the segment"
    assert not holds(capture_folder(tmp_path), (MARKER + np.float32(1)).tobytes())
    assert set(rows(tmp_path)) == set(ids)
