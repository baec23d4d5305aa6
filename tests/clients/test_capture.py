"""Are requests on record that were answered, each once, and told by reason where they are not?"""

import csv
import pathlib

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import pytest

import asking
import serving

RISK = ["mean_radius", "mean_texture"]


with open(serving.SAMPLES / "risk-history.csv", newline="") as file:
    HISTORY = np.array([list(row.values())[1:31] for row in csv.DictReader(file)], np.float32)


def features(rows, seed=1):
    return HISTORY[seed * rows:][:rows]


def risk(rows, seed=1, **more):
    return {"model": "risk", "inputs": [asking.tensor("features", features(rows, seed))], **more}


def start(folder, *flags, segment_time="200ms", **how):
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["--capture", "on", "--capture-ring-bytes", "16MiB", "--capture-segment-time", segment_time, *flags]
    return serving.Server(serving.link_models(folder / "models", serving.SAMPLES / "risk"), folder, *flags, **how)


def table(folder):
    """All segments as one table, ordered by request and row."""
    files = sorted((pathlib.Path(folder) / "data" / "capture" / "segments").rglob("*.parquet"))
    tables = [pyarrow.parquet.read_table(file, partitioning=None) for file in files]
    return pyarrow.concat_tables(tables, promote_options="default") if tables else None


def counters(server):
    lines = server.get("/metrics", port=server.admin_port).body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("tiltyard_capture"))
    dropped = {name: float(value) for name, value in values.items() if "dropped" in name}
    total = lambda name: float(values[f"tiltyard_capture_{name}_total"])  # noqa: E731
    return total("served"), total("captured"), dropped


def test_what_was_asked_and_answered_is_in_a_segment(tmp_path):
    with start(tmp_path) as server:
        replies = {form: ask(server, risk(3, seed)) for seed, (form, ask) in enumerate(asking.FORMS.items())}
        assert asking.ask_json(server, risk(1) | {"inputs": [asking.tensor("features", features(1)[:, :5])]}).kind
        serving.until(lambda: counters(server)[1] >= len(replies), "captured requests")
        served, captured, dropped = counters(server)
        assert served == captured + sum(dropped.values()) == len(replies) + 1, (served, captured, dropped)
    assert (tmp_path / "data" / "capture").stat().st_mode & 0o077 == 0, "nobody else may read it"
    rows = table(tmp_path)
    answered = rows.filter(pyarrow.compute.equal(rows["outcome"], "ok"))
    assert answered.num_rows == 3 * len(replies)
    asked = np.concatenate([features(3, seed)[:, :2] for seed in range(len(replies))])
    got = np.stack([answered[f"input_{name}"].to_numpy() for name in RISK], axis=1)
    assert {tuple(row) for row in asked.tolist()} == {tuple(row) for row in got.tolist()}
    probabilities = np.concatenate([reply.outputs["probability"] for reply in replies.values()])
    assert sorted(answered["output_probability"].to_pylist()) == sorted(probabilities.tolist())
    assert set(answered["model"].to_pylist()) == {"risk"} and set(answered["version"].to_pylist()) == {2}


def test_a_killed_server_has_lost_nothing_that_a_client_saw(tmp_path):
    ids = []
    server = start(tmp_path, segment_time="1h")
    try:
        for seed in range(20):
            answer = server.post(asking.rest_path(risk(2, seed)), {"inputs": risk(2, seed)["inputs"]})
            assert answer.status == 200, answer
            ids += [answer.headers["tiltyard-prediction-id"], answer.headers["tiltyard-prediction-id"][:-1] + "1"]
    finally:
        server.kill()
    with start(tmp_path / "again", "--data-dir", str(tmp_path / "data")) as server:
        serving.until(lambda: table(tmp_path) is not None, "a segment of what the ring held")
    found = table(tmp_path)["prediction_id"].to_pylist()
    assert sorted(found) == sorted(ids), "each row is there, and once"


def test_rules_say_what_is_captured(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[risk]\ncolumns = ["input_mean_radius", "input_mean_texture", "output_label"]\n'
                     'hash = ["input_mean_texture"]\n')
    with start(tmp_path, "--capture-rules", str(rules)) as server:
        assert asking.ask_json(server, risk(4)).kind is None
        serving.until(lambda: counters(server)[1] == 1, "a captured request")
    rows = table(tmp_path)
    columns = {name for name in rows.column_names if name.startswith(("input_", "output_"))}
    assert columns == {"input_mean_radius", "input_mean_texture", "output_label"}
    assert all(len(text) == 32 for text in rows["input_mean_texture"].to_pylist())
    assert (tmp_path / "data" / "capture" / "hash.key").stat().st_mode & 0o077 == 0


def test_a_misspelt_endpoint_and_rules_that_were_read_anew_are_told(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[rsik]\ndrop = ["input_mean_radius"]\n')
    with start(tmp_path, "--capture-rules", str(rules)) as server:
        serving.until(lambda: "no [risk], but [rsik]" in server.log_text(), "a warning")
        reload = ["reload", "--ports-file", server.ports_file]
        assert "as they were" in serving.run_binary(*reload).stdout
        rules.write_text('[risk]\ndrop = ["input_mean_radius"]\n')
        assert "capture_rules: the file was read anew" in serving.run_binary(*reload).stdout
        assert server.log_text().count("no [risk]") == 1
        assert asking.ask_json(server, risk(2)).kind is None
        serving.until(lambda: counters(server)[1] == 1, "a captured request")
    assert "input_mean_radius" not in table(tmp_path).column_names


@pytest.mark.parametrize("rules, told", [
    ('[risk]\nsampel = 0.5\n', "sampel"), ('[risk]\nsample = 7.0\n', "from 0 to 1"), ('[risk]\nhash = ["a"]\ndrop = ["a"]\n', "twice")])
def test_rules_with_a_mistake_end_the_start(tmp_path, rules, told):
    file = tmp_path / "rules.toml"
    file.write_text(rules)
    server = start(tmp_path, "--capture-rules", str(file), wait=False)
    try:
        assert server.process.wait(serving.START_SECONDS_MAX) != 0
    finally:
        server.kill()
    assert told in server.log_text()


def test_in_audit_an_answer_that_cannot_be_put_on_record_is_none(tmp_path):
    large = serving.FIXTURES / "identity_fp32"
    models = serving.link_models(tmp_path / "models", large)
    with serving.Server(models, tmp_path, "--capture", "audit", "--capture-ring-bytes", "16MiB") as server:
        small = {"model": "identity_fp32", "inputs": [asking.tensor("input", np.ones((1, 4), np.float32))]}
        assert asking.ask_json(server, small).kind is None
        beyond = {"model": "identity_fp32", "inputs": [asking.tensor("input", np.ones((400_000, 4), np.float32))]}
        reply = asking.ask_binary(server, beyond)
        assert reply.kind == "not_ready" and "audit" in reply.message, reply
        served, captured, dropped = counters(server)
        assert (served, captured) == (2, 1) and sum(dropped.values()) == 1


def test_a_changed_byte_is_found(tmp_path):
    with start(tmp_path) as server:
        assert asking.ask_json(server, risk(50)).kind is None
    verify = ["capture", "verify", "--data-dir", tmp_path / "data"]
    done = serving.run_binary(*verify)
    assert done.returncode == 0 and "50 rows" in done.stdout, done
    segment = next((tmp_path / "data" / "capture" / "segments").rglob("*.parquet"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    done = serving.run_binary(*verify)
    assert done.returncode == 1 and "WRONG" in done.stdout and segment.name in done.stdout, done


def test_in_audit_rules_that_cannot_be_followed_let_no_answer_out(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[risk]\ncolumns = ["input_radius"]\n')
    models = serving.link_models(tmp_path / "models", serving.SAMPLES / "risk")
    for mode, kind in (("audit", "not_ready"), ("on", None)):
        flags = ["--capture", mode, "--capture-ring-bytes", "16MiB", "--capture-rules", str(rules)]
        with serving.Server(models, tmp_path / mode, *flags) as server:
            assert asking.ask_json(server, risk(2)).kind == kind
            assert "there is no column" in server.log_text() and "input_radius" in server.log_text()
            served, captured, dropped = counters(server)
            assert (served, captured, sum(dropped.values())) == (1, 0, 1)


def test_chosen_headers_are_columns_over_rest_and_grpc(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[risk]\nheaders = ["x-channel", "x-tenant"]\n')
    with start(tmp_path, "--capture-rules", str(rules)) as server:
        body = {"inputs": risk(1)["inputs"]}
        for headers in ({"x-channel": "web", "x-tenant": "a"}, {"X-Channel": "app"}, {"x-other": "no"}):
            assert server.post("/v2/models/risk/infer", body, headers).status == 200
        server.stub.ModelInfer(asking.raw(risk(1)), metadata=[("x-channel", "grpc")], timeout=serving.ANSWER_SECONDS_MAX)
        rows = {"rows": [dict.fromkeys(names(server), 1.0)]}
        assert server.post("/v1/models/risk/score", rows, {"x-channel": "rows"}).status == 200
    found = table(tmp_path)
    assert sorted(found["header_x-channel"].to_pylist(), key=str) == sorted(["web", "app", None, "grpc", "rows"], key=str)
    assert sorted(found["header_x-tenant"].to_pylist(), key=str) == ["None"] * 0 + sorted(["a"] + [None] * 4, key=str)


def names(server):
    """The columns of row scoring."""
    answer = server.post("/v1/models/risk/score", {"rows": [{}]})
    assert answer.status == 400
    with open(serving.SAMPLES / "risk-history.csv", newline="") as file:
        return next(csv.reader(file))[1:31]


def test_rules_are_read_again_while_the_server_answers(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[risk]\ncolumns = ["input_mean_radius"]\n')
    with start(tmp_path, "--capture-rules", str(rules)) as server:
        reload = lambda: serving.run_binary("reload", "--ports-file", server.ports_file)  # noqa: E731
        assert asking.ask_json(server, risk(1)).kind is None
        rules.write_text('[risk]\ncolumns = ["input_mean_texture"]\n')
        assert reload().returncode == 0
        assert asking.ask_json(server, risk(1)).kind is None
        # A mistake changes nothing, and is told.
        rules.write_text('[risk]\ncolums = ["input_mean_area"]\n')
        refused = reload()
        assert refused.returncode == 1 and "colums" in refused.stderr, refused
        assert asking.ask_json(server, risk(1)).kind is None
        # Rules that this version cannot follow are no mistake in the file: its requests are counted as such.
        rules.write_text('[risk]\ncolumns = ["input_radius"]\n')
        assert reload().returncode == 0
        assert asking.ask_json(server, risk(1)).kind is None
        served, captured, dropped = counters(server)
        assert (served, captured) == (4, 3)
        assert {name.split('"')[1]: count for name, count in dropped.items() if count} == {"unfit": 1}
    rows = table(tmp_path)
    assert rows["input_mean_radius"].null_count == 2 and rows["input_mean_texture"].null_count == 1
