"""Do the demos show models compete and a release on record, and leave nothing behind, also when they are killed?"""

import json
import os
import pathlib
import re
import signal
import subprocess

import serving

DEMO = serving.ROOT / "server" / "demo"
# A minute or two on a quiet machine.
SECONDS_MAX = 240


def demo(*arguments, which="compete", variables=None, **more):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
    # Settings of somebody's own server are nothing to the demo.
    environment |= {"TILTYARD_HTTP_PORT": "1", "TILTYARD_MODELS": "/nowhere", **(variables or {})}
    line = [str(serving.BINARY), "demo", which, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more)


def children_of(pid):
    """The processes whose parent this is, while it lives."""
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_better_model_is_promoted_and_the_worse_one_rolled_back(tmp_path):
    folder, page = tmp_path / "kept", tmp_path / "report.html"
    process = demo("--output", "json", "--folder", folder, "--report", page, cwd=tmp_path)
    out, errors = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, (out, errors)
    told = json.loads(out)
    assert told["reached"] and [rollout["state"] for rollout in told["rollouts"]] == ["promoted", "rolled_back"], told
    better, worse = told["rollouts"]
    assert (better["challenger"]["version"], worse["champion"]["version"], worse["challenger"]["version"]) == (2, 2, 3)
    quality = better["estimates"]["quality"]
    assert quality["interval"]["lower"] > 0 and "passes" in better["reason"], better
    harm = worse["estimates"]["quality"]["harm"]
    assert harm["is_shown"] and harm["upper"] < 0 and ": worse" in worse["reason"], worse
    # What was shown is what is so, as far as so many labels tell: on the rows that counted. Days of storms are unlike others.
    for rollout in (better, worse):
        estimates = rollout["estimates"]
        interval, truth = estimates["quality"]["interval"], estimates["gain_on_its_rows"]
        assert interval["lower"] - 0.01 < truth < interval["upper"] + 0.01, rollout
        assert truth * estimates["gain_on_all_rows"] > 0, rollout
        assert min(rollout["labels"]) > 100 and rollout["seconds"] > 0, rollout
    # Each row once: every label that counts belongs to a request of its own.
    assert sum(map(sum, (better["labels"], worse["labels"]))) <= told["labels"]["joined"] <= told["rows_answered"], told
    assert told["rows_answered"] <= told["rows"] and told["rows"] >= 20_000, told
    assert not set(told["labels"]) - {"received", "joined", "unknown", "waiting", "late"}, told["labels"]
    check_page(page.read_text())
    [log] = folder.glob("data/state/*/log")
    proved = subprocess.run(
        [str(serving.BINARY), "rollout", "verify", str(log), "--output", "json"], capture_output=True, text=True, timeout=60)
    assert proved.returncode == 0, proved
    assert (folder / "models" / "flights" / "3" / "model.onnx").read_bytes() == (DEMO / "flights/3/model.onnx").read_bytes()


def check_page(page):
    """Whole, and nothing of it is elsewhere."""
    assert page.count("<svg") == page.count("</svg>") == 6 and page.rstrip().endswith("</html>")
    assert not re.search(r"https?:|//|src=|href=|url\(|@import|<script|<link|<img", page), "the page refers to something"
    assert "NaN" not in page and "Both verdicts were reached." in page
    for state in ("promoted", "rolled_back"):
        assert f"<td>{state}</td>" in page


def test_whoever_kills_the_demo_leaves_no_server_and_no_folder(tmp_path):
    process = demo(variables={"TMPDIR": str(tmp_path)})
    try:
        children = serving.until(lambda: children_of(process.pid), "the server", 30)
        serving.until(lambda: list(tmp_path.glob("tiltyard-demo-*/ports.json")), "its ports", 30)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        serving.until(lambda: not any(map(is_alive, children)), "the server's end", 40)
        assert not list(tmp_path.glob("tiltyard-demo-*")), "what it had is left"
    finally:
        process.kill()
        process.communicate()


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    process = demo("--folder", tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "cannot make the folder" in errors, errors
    assert not list(tmp_path.iterdir())


def test_the_models_are_as_good_as_the_manifest_says(tmp_path):
    """By another way: all rows through both models, with pairs."""
    manifest = json.loads((DEMO / "manifest.json").read_text())
    line = [
        str(serving.BINARY), "backtest", "--models", DEMO, "--rows", DEMO / "flights.csv.gz", "--label", "late",
        "--prediction", "late", "--loss", "squared", "--scale", "1", "--label-depends-on-decision", "no", "--engines", "tract",
        "--data-dir", tmp_path, "--output", "json", "flights@1", "flights@2"]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    told = json.loads(done.stdout)
    assert told["verdict"] == "promote" and told["rows"]["counted"] == manifest["rows"], told
    for loss, version in zip(told["all"]["loss"], manifest["versions"]):
        assert abs(loss - version["squared_error"]) < 2e-5, told


# --- A release on record -----------------------------------------------------------------------------------------------


def test_every_step_of_a_release_holds_and_is_on_record(tmp_path):
    folder = tmp_path / "kept"
    process = demo("--output", "json", "--folder", folder, which="record", cwd=tmp_path)
    out, errors = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, (out, errors)
    told = json.loads(out)
    assert told["held"] and len(told["steps"]) == 12, told
    for step in told["steps"]:
        assert step["held"] and step["commands"] and step["looks"] and all(look["is_so"] for look in step["looks"]), step
    # What is kept says the same without the demo, and no token is anywhere but in its file.
    record, segments = next((folder / "data" / "state").iterdir()), folder / "data"
    for line in (["audit", "verify", record], ["capture", "verify", "--data-dir", segments]):
        done = serving.run_binary(*line)
        assert done.returncode == 0, done
    log = "".join(file.read_text() for file in sorted((record / "log").glob("*.jsonl")))
    kinds = [json.loads(line)["kind"] for line in log.splitlines()]
    assert kinds.count("approval.approved") == 2 and {"promotion.begun", "promotion.ended", "model.baseline"} <= set(kinds), kinds
    tokens = [(folder / f"{name}.token").read_text().strip() for name in ("ann", "ada", "app")]
    written = out + errors + (folder / "server.log").read_text() + log
    assert not any(token in written for token in tokens)


def test_a_release_tells_people_each_step_and_leaves_nothing_behind(tmp_path):
    process = demo(which="record", variables={"TMPDIR": str(tmp_path)})
    out, errors = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, (out, errors)
    assert "12 of 12 steps held" in out and "$ tiltyard promote flights@2" in out and "FAILED" not in out, out
    assert not list(tmp_path.iterdir()), "what it had is left"
