"""Are versions judged by live traffic, and promoted or rolled back by it, whatever happens to the process?"""

import base64
import contextlib
import hmac
import http.server
import itertools
import json
import pathlib
import re
import subprocess
import threading
import time

import numpy as np
import onnx
import pytest
import tritonclient.http
from onnx import TensorProto, helper

import serving
from test_endpoints import CHAMPION, apply, arms_of_keys, endpoints, revision, run, split, start, toml
from test_repository import put, times

# Short, and judged by failures alone: a shared machine says nothing of speed.
FLOOR = {"guardrails": [{"metric": "errors", "floor": 0.03}]}
QUICK = ("--steps", "20%/1s,50%/1s", "--min-time", "3s", "--min-units", "200")


def log_of(factor):
    """A model that multiplies by `factor` by way of the logarithm: of a negative row it makes no number."""
    value = helper.make_tensor("factor", TensorProto.FLOAT, [1], [float(factor)])
    row = ["batch", 2]
    nodes = [
        helper.make_node("Log", ["x"], ["l"]),
        helper.make_node("Exp", ["l"], ["e"]),
        helper.make_node("Mul", ["e", "factor"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "log", [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)], [value])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


@pytest.fixture
def repository(tmp_path):
    """Versions 1 and 2 of m multiply by 1 and 2; version 3 by 3, and makes no number of a negative row."""
    root = tmp_path / "models"
    put(root, "m", 1, times(1.0))
    put(root, "m", 2, times(2.0))
    put(root, "m", 3, log_of(3.0))
    # The newest must not answer before a rollout has it.
    (root / "m" / "model.toml").write_text('version_policy = "1"\n')
    return root


@pytest.fixture
def server(repository, tmp_path):
    with serving.Server(repository, tmp_path / "server", "--poll-interval", "100ms") as made:
        yield made


class Load:
    """Requests of ever new users, one in ten of which has a negative row. Counts who answered, by version."""

    def __init__(self, server, users=None, threads=2):
        self.server, self.over, self.versions, self.failed = server, threading.Event(), {}, []
        self.users = users or (f"user-{number}" for number in itertools.count())
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.ask) for _ in range(threads)]

    def ask(self):
        address = self.server.http_address
        with contextlib.closing(tritonclient.http.InferenceServerClient(address)) as client:
            while not self.over.is_set():
                with self.lock:
                    user = next(self.users)
                x = np.full((1, 2), -1.0 if user.endswith("7") else 1.0, np.float32)
                tensor = tritonclient.http.InferInput("x", x.shape, "FP32")
                tensor.set_data_from_numpy(x)
                try:
                    version = client.infer("m", [tensor], headers={"x-user": user}).get_response()["model_version"]
                except Exception as error:  # a server that is killed is part of a test
                    self.failed.append(error)
                    return
                self.versions[version] = self.versions.get(version, 0) + 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


def status(server, endpoint="m"):
    # After a restart the log is read beside what is served.
    path = f"/admin/endpoints/{endpoint}/rollout"
    answers = serving.until(
        lambda: [answer for answer in [server.get(path, port=server.admin_port)] if answer.status != 503], "the log")
    assert answers[0].status == 200, answers
    return answers[0].json()


def begin(server, tmp_path, version, *flags, policy=FLOOR, expected=0):
    file = tmp_path / "rollout.json"
    file.write_text(json.dumps({"policy": policy}))
    flags = flags or QUICK
    return run(server, "rollout", "start", "m", "--challenger", version, "--plan", file, "--key", "header:x-user",
               *flags, expected=expected)


def reaches(server, check, what, seconds=60):
    serving.until(lambda: check(status(server)), what, seconds)
    return status(server)


def command(server, name, expected=0):
    return run(server, "rollout", name, "m", expected=expected)


def verify(server):
    """The log proves every verdict: by the program, and by one that shares no code with it."""
    log = next(pathlib.Path(server.folder / "data").rglob("log"))
    done = subprocess.run([str(serving.BINARY), "rollout", "verify", str(log)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    script = serving.ROOT / "registry" / "verify.py"
    done = subprocess.run(["python3", str(script), str(log)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# --- By evidence -----------------------------------------------------------------------------------------------------


def test_a_challenger_that_is_as_good_is_promoted(server, tmp_path):
    with Load(server) as load:
        told = begin(server, tmp_path, 2, *QUICK, "--wait")
        assert "m-1" in told and "promoted" in told
        serving.until(lambda: set(arms_of_keys(server, "abcdefgh").values()) == {2}, "version 2 answers all", 10)
    assert not load.failed and set(load.versions) == {"1", "2"}
    told = status(server)
    assert (told["state"], told["ended"], told["share"]) == ("promoted", True, 1_000_000)
    verify(server)
    # What is gone back to is what answered before, and none of the steps between.
    run(server, "rollback", "m")
    assert set(arms_of_keys(server, "abcdefgh").values()) == {1}


def test_a_challenger_that_fails_is_rolled_back_with_its_own_exit_code(server, tmp_path):
    with Load(server) as load:
        told = begin(server, tmp_path, 3, *QUICK, "--wait", expected=5)
        serving.until(lambda: set(arms_of_keys(server, "abcdefgh").values()) == {1}, "version 1 answers all", 10)
    assert "errors is worse" in told or "it broke" in told, told
    assert not load.failed, "no client is refused for it"
    assert status(server)["state"] == "rolled_back"
    assert [arm["version"] for arm in endpoints(server)["m"]["arms"]] == ["1"]
    verify(server)
    # It may be tried again, with other keys.
    begin(server, tmp_path, 3)
    assert status(server)["rollout"] == "m-2"
    command(server, "abort")


def test_two_versions_that_fail_alike_are_left_alone(server, tmp_path, repository):
    """One request in ten has no good answer, whoever gives it: that is nobody's fault."""
    put(repository, "m", 4, log_of(1.0))
    put(repository, "m", 5, log_of(2.0))
    (repository / "m" / "model.toml").write_text('version_policy = "4"\n')
    serving.until(lambda: server.get("/v2/models/m/versions/4/ready").status == 200, "version 4", 20)
    serving.until(lambda: server.get("/v2/models/m/versions/1/ready").status != 200, "version 1 leaves", 20)
    begin(server, tmp_path, 5, "--steps", "50%/20s", "--min-time", "2h")
    with Load(server):
        told = reaches(server, lambda told: min(told["units"]) > 1000, "some evidence")
    assert told["state"] == "running", told
    errors = told["guardrails"][0]
    assert min(errors["events"]) > 100 and errors["ln_e"] < errors["threshold"], errors


def test_a_challenger_is_shown_traffic_before_it_gets_a_share(server, tmp_path, repository):
    put(repository, "m", 4, times(1.0))
    policy = FLOOR | {"comparisons": [{"metric": "mismatch", "rule": {"refactor": 0.05}}]}
    flags = ("--steps", "50%/1h", "--min-time", "2h", "--shadow", "100%")
    with Load(server) as load:
        # Another model: its answers are all others.
        begin(server, tmp_path, 2, *flags, policy=policy)
        told = reaches(server, lambda told: told["comparisons"][0]["n"] > 200, "pairs")
        assert (told["stage"], told["share"]) == ("shadow", 0) and told["comparisons"][0]["mean"] > 0.9, told
        assert set(load.versions) == {"1"}, "nobody is answered by it"
        command(server, "abort")
        # The same model again.
        begin(server, tmp_path, 4, *flags, policy=policy)
        told = reaches(server, lambda told: told["stage"] == "canary(1)", "the first share")
        assert told["comparisons"][0]["passes"] and told["comparisons"][0]["mean"] == 0, told
        command(server, "abort")
    assert not load.failed
    verify(server)


# --- By people -------------------------------------------------------------------------------------------------------


def test_people_pause_resume_step_promote_and_abort(server, tmp_path):
    begin(server, tmp_path, 2, "--steps", "10%/1h,30%/1h", "--min-time", "2h")
    with Load(server):
        reaches(server, lambda told: told["stage"] == "canary(1)", "the first step")
        command(server, "pause")
        assert status(server)["stands"] == "paused(canary(1))"
        assert "pause is not possible" in command(server, "pause", expected=1)
        command(server, "resume")
        command(server, "step")
        told = reaches(server, lambda told: told["stage"] == "canary(2)", "the second step")
        assert told["share"] == 300_000
        found = serving.until(lambda: [arm for arm in endpoints(server)["m"]["arms"] if arm["share"] == 300_000], "30 %", 10)
        assert found[0]["version"] == "2"
        # Nobody else changes the plan meanwhile.
        assert "rollout m-1, which goes on" in apply(server, tmp_path, split(30), expected=1)
        assert "goes on" in begin(server, tmp_path, 3, expected=1)
        command(server, "promote")
        serving.until(lambda: set(arms_of_keys(server, "abcdefgh").values()) == {2}, "version 2 answers all", 10)
    apply(server, tmp_path, split(30, version=1, more="").replace("version = 1\nrole = \"champion\"", "version = 2\nrole = \"champion\""))
    verify(server)


def test_a_rollback_ends_a_rollout(server, tmp_path):
    begin(server, tmp_path, 2, "--steps", "50%/1h", "--min-time", "2h")
    with Load(server) as load:
        reaches(server, lambda told: told["share"] == 500_000, "the first step")
        serving.until(lambda: len(set(arms_of_keys(server, "abcdefgh").values())) == 2, "both answer", 10)
        run(server, "rollback", "m")
        assert set(arms_of_keys(server, "abcdefgh").values()) == {1}
    assert not load.failed
    assert status(server)["state"] == "aborted"
    assert len(run(server, "rollout", "status").splitlines()) == 2


def test_a_gate_waits_for_somebody(server, tmp_path):
    policy = FLOOR | {"gates": ["ada"]}
    begin(server, tmp_path, 2, "--steps", "50%/0", "--min-time", "1s", "--min-units", "1", policy=policy)
    with Load(server):
        waits = {"reason": "gate", "gate": "ada", "refused": False}
        told = reaches(server, lambda told: told["stage"] == "baking" and told["verdict"]["reasons"] == [waits], "the gate")
        assert "gate ada is waited for" in run(server, "rollout", "status", "m"), told
        run(server, "rollout", "gate", "m", "ada")
        reaches(server, lambda told: told["state"] == "promoted", "the promotion")


def test_a_deployer_does_not_pass_a_gate_and_an_approver_passes_nothing_else(repository, tmp_path):
    tokens, lines = {}, []
    for name in ("deployer", "approver"):
        made = subprocess.run([str(serving.BINARY), "token", "new", name, name], capture_output=True, text=True, check=True)
        tokens[name], _ = made.stdout.strip(), lines.append(made.stderr.strip())
    access = tmp_path / "access"
    access.write_text("\n".join(lines) + "\n")
    flags = ["--access-file", str(access), "--open-calls", "health"]
    with start(repository, tmp_path, *flags) as server:

        def ask(name, verb, body):
            headers = {"authorization": f"Bearer {tokens[name]}", "content-type": "application/json"}
            path = f"/admin/endpoints/m/rollout{verb}"
            return server.ask("POST", path, json.dumps(body).encode(), headers, port=server.admin_port).status

        rollout = {"challenger": {"version": 2}, "steps": [{"share": "10%", "min_time": "1h"}],
                   "policy": {"min_time": "2h", "gates": ["ada"]}}
        assert ask("approver", "", rollout) == 403
        assert ask("deployer", "", rollout) == 200
        answer = {"gate": "ada", "passed": True}
        assert ask("deployer", "/gate", answer) == 403 and ask("approver", "/gate", answer) == 200
        assert ask("deployer", "/promote", {}) == 403, "past the gate"
        assert ask("approver", "/abort", {}) == 403 and ask("deployer", "/abort", {}) == 200


def test_what_cannot_be_is_told_before_anything_begins(server, tmp_path):
    assert "version 9 is not there" in begin(server, tmp_path, 9, expected=1)
    assert "nobody but the challenger answers" in begin(server, tmp_path, 1, expected=1)
    assert "shares must grow" in begin(server, tmp_path, 2, "--steps", "50%,10%", expected=1)
    assert "expected a time" in begin(server, tmp_path, 2, "--min-time", "soon", expected=1)
    assert "has had no rollout" in run(server, "rollout", "status", "m", expected=1)
    assert revision(server) is None, "nobody's plan changed"


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes what it is told, all but the very first time, and lets gates through."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append((dict(self.headers), body))
        self.send_response(500 if len(self.server.heard) == 1 else 200)
        self.end_headers()
        if json.loads(body)["type"] == "tiltyard.rollout.gate":
            self.wfile.write(b'{"passed": true}')

    def log_message(self, *_):
        pass


def test_a_webhook_is_told_and_asked(repository, tmp_path):
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    listening.heard = []
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    secret = tmp_path / "secret"
    secret.write_text("a secret of some length")
    flags = ["--webhook-url", f"http://127.0.0.1:{listening.server_port}/hook", "--webhook-secret-file", str(secret)]
    with start(repository, tmp_path, *flags) as server, Load(server):
        policy = FLOOR | {"gates": ["webhook"]}
        begin(server, tmp_path, 2, "--steps", "50%/0", "--min-time", "1s", "--min-units", "1", policy=policy)
        reaches(server, lambda told: told["state"] == "promoted", "the promotion")
        serving.until(lambda: any(b'"promote"' in body for _, body in listening.heard), "the last event")
    listening.shutdown()
    for headers, body in listening.heard:
        event = json.loads(body)
        assert event["specversion"] == "1.0" and event["subject"] == "m-1" and event["id"] == headers["webhook-id"]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(secret.read_bytes(), signed, "sha256")).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
    assert listening.heard[0][1] == listening.heard[1][1], "what was not heard comes again"
    decisions = [json.loads(body)["data"]["verdict"]["decision"] for _, body in listening.heard[1:]]
    assert decisions[0] == "obey" and decisions[-1] == "promote" and decisions.count("not_yet") == 1, decisions


# --- Faults ----------------------------------------------------------------------------------------------------------


def test_a_kill_at_any_point_resumes_where_the_log_says(repository, tmp_path):
    server = start(repository, tmp_path)
    keys = [f"user-{number}" for number in range(200)]
    try:
        begin(server, tmp_path, 2, "--steps", "20%/20s,50%/1h", "--min-time", "2h")
        for kill in range(4):
            with Load(server, threads=1):
                told = reaches(server, lambda told: told["blocks"] > 2 * kill, "some evidence")
                server.kill()
            verify(server)
            server = start(repository, tmp_path)
            again = status(server)
            assert again["blocks"] >= told["blocks"] and again["rollout"] == "m-1"
        with Load(server):
            reaches(server, lambda told: told["share"] == 500_000, "the second step")
        serving.until(lambda: 2 in arms_of_keys(server, keys).values(), "both answer", 10)
        before = arms_of_keys(server, keys)
        server.kill()
        server = start(repository, tmp_path)
        assert arms_of_keys(server, keys) == before, "no key changes sides"
        command(server, "abort")
        server.kill()
        server = start(repository, tmp_path)
        assert status(server)["state"] == "aborted"
        serving.until(lambda: set(arms_of_keys(server, keys).values()) == {1}, "version 1 answers all", 10)
    finally:
        server.kill()


def test_a_log_that_was_changed_stops_rollouts_and_challengers_but_not_the_server(repository, tmp_path):
    server = start(repository, tmp_path)
    try:
        begin(server, tmp_path, 2, "--steps", "50%/1h", "--min-time", "2h")
        with Load(server):
            reaches(server, lambda told: told["share"] == 500_000, "the step")
        server.kill()
        segment = next(next(pathlib.Path(server.folder / "data").rglob("log")).glob("*.jsonl"), None)
        segment = segment or next(path for path in next(pathlib.Path(server.folder / "data").rglob("log")).iterdir()
                                  if path.name != "lock")
        text = segment.read_text()
        segment.write_text(re.sub(r'"share":\{"champion":\d+', '"share":{"champion":1', text, count=1))
        server = start(repository, tmp_path)
        serving.until(
            lambda: "log cannot be used" in server.get("/admin/rollouts", port=server.admin_port).json()["trouble"],
            "what is wrong")
        serving.until(lambda: set(arms_of_keys(server, "abcdefgh").values()) == {1}, "nobody is judged blindly", 15)
    finally:
        server.kill()


def test_other_bytes_under_the_same_number_stop_the_comparison(server, tmp_path, repository):
    begin(server, tmp_path, 2, "--steps", "50%/20s", "--min-time", "2h")
    with Load(server) as load:
        reaches(server, lambda told: told["share"] == 500_000, "the step")
        (repository / "m" / "2" / "model.onnx").write_bytes(times(5.0))
        told = reaches(server, lambda told: told["state"] == "halted", "the halt")
        assert told["verdict"]["reasons"] == [{"reason": "trip", "trip": "replaced"}], told
        command(server, "abort")
        serving.until(lambda: set(arms_of_keys(server, "abcdefgh").values()) == {1}, "version 1 answers all", 10)
    assert not load.failed


def test_a_file_that_changes_meanwhile_holds_once_the_rollout_has_ended(repository, tmp_path):
    folder = tmp_path / "endpoints"
    folder.mkdir()
    (folder / "m.toml").write_text(toml(CHAMPION))
    flags = ["--endpoints", str(folder), "--poll-interval", "100ms", "--settle-time", "100ms"]
    with start(repository, tmp_path, *flags) as server:
        begin(server, tmp_path, 2)
        (folder / "m.toml").write_text(toml(("champion", 3, 'role = "champion"')))
        serving.until(lambda: "a rollout goes on" in (endpoints(server)["m"]["trouble"] or ""), "the file to wait")
        command(server, "abort")
        serving.until(lambda: set(arms_of_keys(server, "abcdefgh").values()) == {3}, "what the file says", 20)
        assert not endpoints(server)["m"]["trouble"]
