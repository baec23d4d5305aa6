"""Are versions judged by live traffic, and promoted or rolled back by it, whatever happens to the process?"""

import base64
import contextlib
import hashlib
import hmac
import http.server
import itertools
import json
import pathlib
import re
import subprocess
import threading

import numpy as np
import onnx
import pytest
import tritonclient.http
from onnx import TensorProto, helper

import asking
import competing
import serving
from competing import Crowd, command, hold_back, programs, reaches, server, status, verify  # noqa: F401  a fixture is among them
from test_endpoints import CHAMPION, apply, arms_of_keys, endpoints, revision, run, split, start, toml
from test_repository import put, times
from test_shadow import HANGS, takes_as_long_as

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
    hold_back(root)
    return root


def one_in_ten_is_negative(user):
    return (-1.0, -1.0) if user.endswith("7") else (1.0, 1.0)


class Load(Crowd):
    """Requests of ever new users, with the row that `row` has for each. Counts who answered, by version."""

    def __init__(self, server, row=one_in_ten_is_negative, threads=2):
        super().__init__(*[self.ask] * threads)
        self.server, self.row, self.versions = server, row, {}
        self.users = (f"user-{number}" for number in itertools.count())

    def ask(self):
        with contextlib.closing(tritonclient.http.InferenceServerClient(self.server.http_address)) as client:
            while not self.over.is_set():
                with self.lock:
                    user = next(self.users)
                x = np.array([self.row(user)], np.float32)
                tensor = tritonclient.http.InferInput("x", x.shape, "FP32")
                tensor.set_data_from_numpy(x)
                version = client.infer("m", [tensor], headers={"x-user": user}).get_response()["model_version"]
                self.versions[version] = self.versions.get(version, 0) + 1


def begin(server, tmp_path, version, *flags, policy=FLOOR, expected=0):
    flags = ("--key", "header:x-user", *(flags or QUICK))
    return competing.begin(server, tmp_path, version, *flags, policy=policy, expected=expected)


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


def test_a_figure_that_was_changed_is_found_though_the_chain_is_whole(server, tmp_path):
    with Load(server):
        begin(server, tmp_path, 2, *QUICK, "--wait")
    log = verify(server)
    segment = log / f"{1:020}.jsonl"
    lines = segment.read_text().splitlines()

    def remade(change):
        """The same entries, with a chain made anew."""
        before = "0" * 64
        for number, line in enumerate(lines, 1):
            body = change(number, line[:83] + before + line[147:])[75:]
            before = hashlib.sha256(body.encode()).hexdigest()
            yield f'{{"hash":"{before}",{body}\n'

    assert "".join(remade(lambda _, line: line)) == segment.read_text(), "nothing is changed by making it anew"
    promoted, figure = next(
        (number, found) for number, line in enumerate(lines, 1) if '"decision":"promote"' in line
        for found in re.findall(r'"rate_upper":0\.0*[1-9]', line))
    other = figure[:-1] + str(int(figure[-1]) % 9 + 1)
    segment.write_text("".join(remade(lambda number, line: line.replace(figure, other) if number == promoted else line)))
    ours, theirs = programs(log)
    assert ours.returncode == 1 and f"entry {promoted}: rollout m-1: the verdict is recorded as" in ours.stderr, ours
    assert theirs.returncode == 1 and f"entry {promoted}: rollout m-1" in theirs.stdout, theirs
    assert "reasons[0].rate_upper is recorded as 0.0" in theirs.stdout


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


def test_answers_that_fall_elsewhere_stop_a_rollout_for_a_person(server, tmp_path, repository):
    """Of each row the second number is the larger. A version that changes the sign puts the first one above it."""
    put(repository, "m", 4, times(-1.0))
    flags = ("--steps", "50%/20s", "--min-time", "2h")
    with Load(server, row=lambda _: (1.0, 2.0)) as load:
        begin(server, tmp_path, 2, *flags, policy=FLOOR | {"output": {"name": "y"}})
        told = reaches(server, lambda told: sum(map(sum, told["output"]["bins"])) > 1000, "some evidence")
        assert (told["state"], told["output"]["distance"]) == ("running", 0), told
        assert told["output_bins"] == {"classes": [1.0]}, "the champion's first answers had one class"
        assert "0.0 % of the answers fall elsewhere" in run(server, "rollout", "status", "m")
        command(server, "abort")
        begin(server, tmp_path, 4, *flags, policy=FLOOR | {"output": {}})
        told = reaches(server, lambda told: told["state"] == "halted", "the halt")
        [reason] = told["verdict"]["reasons"]
        assert reason["reason"] == "output" and reason["distance"] == 1 and reason["ln_e"] >= reason["threshold"], told
        assert "answers fall elsewhere: 100.0 % of them" in run(server, "rollout", "status", "m")
        command(server, "abort")
        begin(server, tmp_path, 4, *flags, policy=FLOOR | {"output": {"roll_back": True}})
        reaches(server, lambda told: told["state"] == "rolled_back", "the rollback")
    assert not load.failed
    verify(server)


def test_a_challenger_that_keeps_users_waiting_is_rolled_back(server, tmp_path, repository):
    """It waits for company for longer than was declared as slow; its runs are as quick as the champion's."""
    (repository / "other").mkdir()
    (repository / "other" / "model.toml").write_text('[batching]\ndelay_max = "600ms"\n')
    put(repository, "other", 1, times(7.0))
    policy = {"slow_over": "400ms", "guardrails": [{"metric": "errors"}, {"metric": "slow_over"}]}
    with Load(server, threads=8) as load:
        begin(server, tmp_path, "other@1", "--steps", "50%/1h", "--min-time", "2h", policy=policy)
        told = reaches(server, lambda told: told["ended"], "the end", 90)
    assert told["state"] == "rolled_back", told
    [reason] = told["verdict"]["reasons"]
    assert (reason["reason"], reason["metric"]) == ("guardrail", "slow_over") and reason["events"][1] > 5, told
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


def test_a_backtest_answers_for_the_gate_before_the_first_share(tmp_path):
    def backtest(*arguments, expected):
        command = [str(serving.BINARY), "backtest", "--rows", serving.SAMPLES / "risk-history.csv", "--key", "id", "--label", "malignant",
                   "--label-depends-on-decision", "no", "--models", serving.SAMPLES, "--gate", "risk",
                   "--ports-file", server.ports_file, *arguments]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
        assert done.returncode == expected, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    models = serving.link_models(tmp_path / "models", serving.SAMPLES / "risk")
    file = tmp_path / "risk.toml"
    file.write_text("""
        champion = { version = 1 }
        challenger = { version = 2 }
        steps = [{ share = "10%", min_time = "1h" }]
        policy = { min_time = "2h", entry_gates = ["backtest"] }
    """)
    with start(models, tmp_path) as server:
        run(server, "apply", "-f", file)
        waits = {"reason": "gate", "gate": "backtest", "refused": False}
        serving.until(lambda: status(server, "risk")["verdict"]["reasons"] == [waits], "the gate")
        assert "which competes" in backtest("risk@2", "risk@1", expected=1), "it is about other versions"
        assert "gate backtest of endpoint risk is refused" in backtest("risk@1", "risk@2", expected=4)
        told = status(server, "risk")
        assert (told["stage"], told["share"]) == ("shadow", 0), told
        assert told["verdict"]["reasons"] == [waits | {"refused": True}], told
        assert "lets through" in backtest("risk@1", "risk@2", "--margin", "0.3", expected=0)
        assert status(server, "risk")["share"] == 100_000
        assert "has no gate \\\"later\\\": it has backtest" in json.dumps(
            backtest("risk@1", "risk@2", "--gate-name", "later", expected=1))
        log = next(pathlib.Path(server.folder / "data").rglob("log"))
        told = [json.loads(line)["data"] for path in sorted(log.glob("*.jsonl")) for line in path.read_text().splitlines()]
        answers = [json.loads(data["event"]["gate"]["evidence"])["backtest"] for data in told if "gate" in data.get("event", {})]
        assert [answer["verdict"] for answer in answers] == ["not_enough", "promote"], answers
        assert answers[1]["margin"] == 0.3 and answers[1]["all"]["n"] == 171, answers
        verify(server)


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


def test_a_challenger_that_is_taken_out_of_service_is_rolled_back(repository, tmp_path):
    """Its runs hang. After three of them it answers no more, and those who were on it are answered by the champion."""
    # So long a run is never on a thread that reads requests.
    put(repository, "m", 6, takes_as_long_as(least=20_000))
    server = start(repository, tmp_path, "--poll-interval", "100ms", "--run-timeout", "1s")

    def ask(key, value=1.0):
        x = np.full((1, 2), value, np.float32)
        return server.post("/v2/models/m/infer", {"inputs": [asking.tensor("x", x)]}, {"x-user": key}, timeout=60)

    try:
        begin(server, tmp_path, 6, "--steps", "50%/1h", "--min-time", "2h")
        reaches(server, lambda told: told["share"] == 500_000, "the step")
        keys = [f"user-{number}" for number in range(20)]
        serving.until(lambda: ask(keys[0]).status == 200 and any(
            ask(key).headers["tiltyard-version"] == "6" for key in keys), "version 6 answers some", 30)
        theirs = next(key for key in keys if ask(key).headers["tiltyard-version"] == "6")
        for _ in range(3):
            assert ask(theirs, HANGS).status != 200
        told = reaches(server, lambda told: told["ended"], "the end")
        assert told["state"] == "rolled_back" and told["verdict"]["reasons"] == [{"reason": "trip", "trip": "crash"}], told
        serving.until(lambda: {ask(key).headers.get("tiltyard-version") for key in keys} == {"1"}, "version 1 answers all", 10)
        verify(server)
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
        serving.until(lambda: len(endpoints(server)["m"]["arms"]) == 2, "the rollout's plan to hold")
        (folder / "m.toml").write_text(toml(("champion", 3, 'role = "champion"')))
        serving.until(lambda: "a rollout goes on" in (endpoints(server)["m"]["trouble"] or ""), "the file to wait")
        command(server, "abort")
        serving.until(lambda: set(arms_of_keys(server, "abcdefgh").values()) == {3}, "what the file says", 20)
        assert not endpoints(server)["m"]["trouble"]
