"""Does the registry keep what was pushed, let answer what was agreed to, and know later who answered and why?"""

import concurrent.futures
import csv
import http.server
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

import serving
from competing import Crowd
from securing import command

RISK = serving.SAMPLES / "risk"
POLICY = """
golden_min = 1

[[approvals]]
required = 1
roles = ["approver"]

[[metrics]]
metric = "auc"
dataset = "holdout"
bound = 0.9
"""


class Registry:
    """A server with a registry, and its commands, as somebody."""

    def __init__(self, server, tokens=None):
        self.server, self.tokens = server, tokens or {}

    def try_(self, *arguments, by=None):
        variables = {"TILTYARD_TOKEN": self.tokens[by]} if by else {}
        return command(*arguments, "--ports-file", str(self.server.ports_file), variables=variables)

    def run(self, *arguments, by=None):
        code, out, error = self.try_(*arguments, by=by)
        assert code == 0, (arguments, code, out, error)
        return out

    def json(self, *arguments, by=None):
        return json.loads(self.run(*arguments, "--output", "json", by=by))

    def refused(self, *arguments, by=None, code=4):
        found, out, error = self.try_(*arguments, by=by)
        assert found == code, (arguments, found, out, error)
        return error

    def answers(self, model="risk"):
        headers = self.server.post(f"/v1/models/{model}/score", row(), headers=self.headers("client")).headers
        return int(headers["tiltyard-version"])

    def headers(self, by):
        return {"Authorization": f"Bearer {self.tokens[by]}"} if self.tokens else {}


def row():
    with open(serving.SAMPLES / "risk-history.csv", newline="") as file:
        first = next(csv.DictReader(file))
    names = list(first)[1:31]
    return {"rows": [{name: float(first[name]) for name in names}]}


@pytest.fixture
def registry(tmp_path):
    models = serving.link_models(tmp_path / "models", RISK)
    with serving.Server(models, tmp_path, "--poll-interval", "100ms") as server:
        yield Registry(server)


@pytest.fixture
def guarded(tmp_path):
    """A server whose callers say who they are: ann pushes, ada approves, root may do everything."""
    models = serving.link_models(tmp_path / "models", RISK)
    tokens, lines = {}, []
    for name, roles in [("ann", ["deployer", "viewer"]), ("ada", ["approver", "viewer"]), ("root", ["admin"]), ("client", ["scorer"])]:
        code, out, error = command("token", "new", name, *roles, "--output", "json")
        assert code == 0, error
        made = json.loads(out)
        tokens[name], line = made["token"], made["line"]
        lines.append(line)
    access = tmp_path / "access"
    access.write_text("\n".join(lines) + "\n")
    flags = ["--access-file", str(access), "--open-calls", "health", "--poll-interval", "100ms"]
    with serving.Server(models, tmp_path, *flags) as server:
        yield Registry(server, tokens)


def test_what_is_pushed_waits_until_it_is_promoted(registry):
    assert registry.answers() == 2
    pushed = registry.json("push", "risk", RISK / "1", "--tag", "team=fraud", "--metric", "auc=0.91@holdout",
                           "--data", "claims@2026-10", "--code", "abc123")
    assert (pushed["version"], pushed["is_new"], pushed["lock"]["provider"]) == (3, True, "cpu"), "1 and 2 are the folder's"
    assert registry.answers() == 2, "nothing answers for having been pushed"
    again = registry.json("push", "risk", RISK / "1")
    assert (again["version"], again["is_new"]) == (3, False), "the same bytes are the same version"
    assert registry.json("push", "other", RISK / "1")["version"] == 1
    registry.run("promote", "risk@3", "--to", "prod")
    assert registry.answers() == 3
    shown = registry.json("show", "risk@prod")
    assert (shown["version"], shown["tags"], shown["environments"]) == (3, {"team": "fraud"}, ["prod"])
    assert shown["lineage"]["datasets"][0] == {"name": "claims", "version": "2026-10"}
    assert "auc" in registry.run("show", "risk@3", "--card")
    assert "risk@3" in registry.run("environments")


def test_what_cannot_be_served_is_not_taken_in(registry, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((RISK / "1" / "model.onnx").read_bytes()[:-100])
    error = registry.refused("push", "risk", broken, code=1)
    assert "not taken in" in error or "model" in error, error
    wrong = tmp_path / "wrong"
    shutil.copytree(RISK / "1", wrong)
    golden = next((wrong / "golden").glob("*.json"))
    form = json.loads(golden.read_text())
    form["outputs"][0]["data"][0] = 0.123
    golden.write_text(json.dumps(form))
    error = registry.refused("push", "risk", wrong, code=1)
    assert "not taken in" in error and "golden" in error, error
    assert registry.json("show")["models"] == []


def test_a_pulled_version_is_the_pushed_one(registry, tmp_path):
    registry.run("push", "risk", RISK / "2")
    registry.run("pull", "risk@3", "--to", tmp_path / "pulled")
    for file in (RISK / "2").rglob("*"):
        if file.is_file():
            assert (tmp_path / "pulled" / file.relative_to(RISK / "2")).read_bytes() == file.read_bytes(), file
    assert "is there already" in registry.refused("pull", "risk@3", "--to", tmp_path / "pulled", code=1)


def test_a_version_needs_what_its_environment_asks(guarded, tmp_path):
    policy = tmp_path / "prod.toml"
    policy.write_text(POLICY)
    assert "changing settings" in guarded.refused("environments", "set", "prod", "-f", policy, by="ann")
    guarded.run("environments", "set", "prod", "-f", policy, by="root")
    guarded.run("push", "risk", RISK / "1", by="ann")
    error = guarded.refused("promote", "risk@3", "--to", "prod", by="ann")
    assert "approvals" in error and "auc" in error, "all that is missing is told at once: " + error
    guarded.run("note", "risk@3", "--metric", "auc=0.95@holdout", by="ann")
    told = guarded.run("request", "risk@3", "--to", "prod", "--reason", "better", by="ann")
    assert "1 more by anybody with the role approver" in told, told
    assert "takes one of the roles approver" in guarded.refused("approve", "risk@3", by="ann")
    assert "Nothing is in the way" in guarded.run("approve", "risk@3", by="ada")
    # What was approved is no more what is there.
    guarded.run("note", "risk@3", "--metric", "auc=0.99@holdout", by="ann")
    error = guarded.refused("promote", "risk@3", "--to", "prod", by="ann")
    assert "that of ada is void" in error and "auc" not in error.split("needed")[0].replace("approvals", ""), error
    guarded.run("approve", "risk@3", by="ada")
    guarded.run("promote", "risk@3", "--to", "prod", by="ann")
    assert guarded.answers() == 3
    grounds = guarded.run("history", "risk", "--at", str(int(time.time() * 1000)), by="ada")
    assert "approved by ada" in grounds and "pushed by ann" in grounds and "auc = 0.99 on holdout" in grounds, grounds
    [request] = guarded.json("requests", by="ada")
    assert request["state"] == "promoted" and len(request["approvals"]) == 2, request


@pytest.mark.parametrize("policy, told", [
    ("golden_mim = 1", ["golden_mim", "did you mean golden_min?"]),
    ("lock = true\ngolden_min = 'one'", ["line 2", "expected a whole number"]),
    ("[[approvals]]\nrequired = 1\nroles = ['approvr']", ["\"approvr\" is no role", "approver", "persons"]),
])
def test_a_mistake_in_a_policy_is_told_where_it_is(guarded, tmp_path, policy, told):
    file = tmp_path / "prod.toml"
    file.write_text(policy)
    error = guarded.refused("environments", "set", "prod", "-f", file, by="root", code=1)
    assert all(part in error for part in told) and "body" not in error and "u64" not in error, error


def test_nothing_is_pushed_whose_baseline_is_not_there(registry, tmp_path):
    assert "cannot read" in registry.refused("push", "risk", RISK / "1", "--baseline", tmp_path / "none.csv", code=1)
    assert registry.json("show")["models"] == []
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no model")
    error = registry.refused("push", "risk", empty, code=1)
    assert "no model.onnx in what was pushed" in error and "trials" not in error, error


def test_in_an_emergency_an_admin_sets_rules_aside_and_that_stays(guarded, tmp_path):
    policy = tmp_path / "prod.toml"
    policy.write_text(POLICY)
    guarded.run("environments", "set", "prod", "-f", policy, by="root")
    guarded.run("push", "risk", RISK / "1", by="ann")
    assert guarded.try_("promote", "risk@3", "--override", "outage", by="ann")[0] == 4
    guarded.run("promote", "risk@3", "--override", "outage", by="root")
    assert guarded.answers() == 3
    now = str(int(time.time() * 1000))
    assert "rules were set aside: outage" in guarded.run("history", "risk", "--at", now, by="root")


def test_what_answered_before_is_back_at_once(registry):
    for version in "1", "2":
        registry.run("push", "risk", RISK / version)
    registry.run("promote", "risk@3")
    registry.run("promote", "risk@4")
    assert registry.answers() == 4
    registry.run("environments", "back", "prod", "risk", "--reason", "complaints")
    assert registry.answers() == 3
    assert registry.json("show", "risk@prod")["version"] == 3
    history = registry.json("history", "risk")
    assert [plan["arms"][0]["version"] for plan in history] == [2, 3, 4, 3]


def test_the_first_promotion_leads_back_to_what_the_folder_answered_with(registry):
    registry.run("push", "risk", RISK / "1")
    registry.run("promote", "risk@3")
    assert registry.answers() == 3
    registry.run("rollback", "risk")
    assert registry.answers() == 2
    assert "has no revision to go back to" in registry.refused("rollback", "risk", code=1)
    assert "and answers" in registry.run("promote", "risk@3"), "it is in prod still"
    assert registry.answers() == 3
    assert "is in prod since" in registry.refused("promote", "risk@3", code=1)
    # It may not come back once nobody is to be answered by it.
    registry.run("rollback", "risk")
    registry.run("quarantine", "risk@3", "--reason", "it was trained on the wrong rows")
    assert "quarantined" in registry.refused("promote", "risk@3")
    assert registry.answers() == 2


def test_what_comes_back_meets_the_rules_of_today(guarded, tmp_path):
    guarded.run("push", "risk", RISK / "1", by="ann")
    guarded.run("promote", "risk@3", by="ann")
    guarded.run("rollback", "risk", by="root")
    assert guarded.answers() == 2
    policy = tmp_path / "prod.toml"
    policy.write_text(POLICY)
    guarded.run("environments", "set", "prod", "-f", policy, by="root")
    error = guarded.refused("promote", "risk@3", by="ann")
    assert "does not come back" in error and "auc" in error and "approvals" in error, error
    assert "is in prod since" in guarded.refused("promote", "risk@3", "--override", "outage", by="root", code=1)
    guarded.run("environments", "set", "prod", by="root")
    guarded.run("promote", "risk@3", by="ann")
    assert guarded.answers() == 3


def test_what_was_approved_comes_back_as_long_as_nothing_of_it_changed(guarded, tmp_path):
    policy = tmp_path / "prod.toml"
    policy.write_text(POLICY)
    guarded.run("environments", "set", "prod", "-f", policy, by="root")
    guarded.run("push", "risk", RISK / "1", "--metric", "auc=0.95@holdout", by="ann")
    guarded.run("request", "risk@3", "--to", "prod", "--reason", "better", by="ann")
    guarded.run("approve", "risk@3", by="ada")
    guarded.run("promote", "risk@3", by="ann")
    guarded.run("rollback", "risk", by="root")
    assert guarded.answers() == 2
    guarded.run("promote", "risk@3", by="ann")
    assert guarded.answers() == 3
    guarded.run("rollback", "risk", by="root")
    guarded.run("note", "risk@3", "--metric", "auc=0.99@holdout", by="ann")
    error = guarded.refused("promote", "risk@3", by="ann")
    assert "does not come back" in error and "approvals" in error, error
    assert guarded.answers() == 2


def test_a_promotion_does_not_wait_for_the_end_of_a_rollout_that_has_its_endpoint(registry):
    registry.run("push", "risk", RISK / "1")
    registry.run("rollout", "start", "risk", "--challenger", "1", "--steps", "50%/1h")
    started = time.monotonic()
    assert "has the endpoint until it ends" in registry.refused("promote", "risk@3", code=1)
    assert time.monotonic() - started < 30
    registry.run("rollout", "abort", "risk")
    serving.until(lambda: registry.answers() == 3, "the version to answer once the rollout has ended", 30)


def test_whoever_promotes_what_cannot_answer_hears_why(registry):
    """The endpoint's clients send what the version before takes."""
    registry.run("push", "risk", serving.SAMPLES / "digits" / "1")
    started = time.monotonic()
    error = registry.refused("promote", "risk@3", code=1)
    assert "is in prod on the record, and does not answer" in error and "accept_incompatible" in error, error
    assert time.monotonic() - started < 30, "it is known at once that it will not"
    assert registry.answers() == 2
    registry.run("push", "risk", RISK / "1")
    registry.run("promote", "risk@4")
    assert registry.answers() == 4


def test_to_roll_an_endpoint_back_takes_its_environment_along(registry):
    for version in "1", "2":
        registry.run("push", "risk", RISK / version)
        registry.run("promote", f"risk@{3 if version == '1' else 4}")
    registry.run("rollback", "risk")
    assert registry.answers() == 3
    assert registry.json("show", "risk@prod")["version"] == 3
    serving.until(lambda: registry.json("history", "risk")[-1]["cause"] == "rolled_back", "the history")


def test_a_version_in_quarantine_answers_nobody(guarded):
    for version in "1", "2":
        guarded.run("push", "risk", RISK / version, by="ann")
    guarded.run("promote", "risk@3", by="ann")
    guarded.run("promote", "risk@4", by="ann")
    guarded.run("quarantine", "risk@4", "--reason", "poisoned data", by="ann")
    assert guarded.answers() == 3
    assert "quarantined" in guarded.refused("promote", "risk@4", by="ann")
    assert "admin" in guarded.refused("release", "risk@4", "--reason", "it was not", by="ann")
    guarded.run("release", "risk@4", "--reason", "it was not", by="root")
    guarded.run("promote", "risk@4", by="ann")
    assert guarded.answers() == 4
    guarded.run("archive", "risk@3", by="ann")
    assert "archived" in guarded.refused("promote", "risk@3", by="ann")


def test_one_quarantine_after_the_other_leads_to_what_may_answer(registry):
    for version in "2", "1":
        registry.run("push", "risk", RISK / version)
    registry.run("promote", "risk@3")
    registry.run("promote", "risk@4")
    registry.run("quarantine", "risk@4", "--reason", "poisoned data")
    assert registry.answers() == 3
    registry.run("quarantine", "risk@3", "--reason", "the same data")
    serving.until(lambda: registry.answers() == 2, "the folder's newest version")


def test_the_same_bytes_pushed_at_once_are_one_version(registry):
    with concurrent.futures.ThreadPoolExecutor(6) as many:
        pushed = [many.submit(registry.json, "push", model, RISK / "2") for model in ["risk", "other"] * 3]
        versions = [(each.result()["model"], each.result()["version"]) for each in pushed]
    assert set(versions) == {("risk", 3), ("other", 1)}, versions


def test_a_rollout_ends_when_its_approval_is_taken_back(guarded, tmp_path):
    policy = tmp_path / "prod.toml"
    policy.write_text('rollout = "canary"\n\n[[approvals]]\nrequired = 1\nroles = ["approver"]\n')
    guarded.run("environments", "set", "prod", "-f", policy, by="root")
    guarded.run("push", "risk", RISK / "1", by="ann")
    guarded.run("request", "risk@3", "--reason", "better", by="ann")
    assert "tiltyard promote risk@3 --to prod --rollout" in guarded.run("approve", "risk@3", by="ada")
    assert "rollout: it would come as direct" in guarded.refused("promote", "risk@3", "--dry-run", by="ann")
    assert "Nothing is in the way" in guarded.run("promote", "risk@3", "--dry-run", "--rollout", by="ann")
    elsewhere = guarded.refused("promote", "risk@3", "--to", "dev", "--rollout", by="root", code=1)
    assert "ask a server of dev" in elsewhere, elsewhere
    guarded.run("promote", "risk@3", "--steps", "20%/1h", by="ann")
    guarded.run("revoke", "risk@3", "--reason", "I read the wrong report", by="ada")
    stands = lambda: guarded.json("rollout", "status", "risk", by="ada")["state"]
    serving.until(lambda: stands() == "aborted", "the rollout's end")
    assert guarded.answers() == 2


def test_what_is_asked_in_the_wrong_place_is_refused(registry, tmp_path):
    folder = next((registry.server.folder / "data" / "state").glob("*/log")).parent
    registry.run("push", "risk", RISK / "1")
    kept, proof = tmp_path / "kept.txt", tmp_path / "proof.json"
    kept.write_text(registry.run("audit", "checkpoint"))
    proof.write_text(registry.run("audit", "prove", "1"))
    code, _, error = command("audit", "verify", proof, "--checkpoint", kept)
    assert code == 2 and "against a whole log" in error, error
    code, _, error = command("registry", "migrate", "--from", tmp_path / "nowhere", "--to", tmp_path / "to")
    assert code == 1 and "has no log" in error and not (tmp_path / "nowhere").exists(), error
    registry.run("note", "risk@3", "--tag", "late=yes")
    assert registry.server.stop() == 0
    told = json.loads(command("audit", "verify", folder, "--output", "json")[1])
    assert told["signed"] == told["head"]["sequence"], "the end signs what is new: " + str(told)


def again(models, tmp_path, *flags, **more):
    """Another server with the data of the one before."""
    folder = tmp_path / f"again-{len(list(tmp_path.iterdir()))}"
    return serving.Server(models, folder, "--data-dir", str(tmp_path / "data"), *flags, **more)


def test_a_restart_and_a_kill_change_nothing(tmp_path):
    models = serving.link_models(tmp_path / "models", RISK)
    server = serving.Server(models, tmp_path)
    try:
        registry = Registry(server)
        registry.run("push", "risk", RISK / "1")
        registry.run("promote", "risk@3")
        before, history = registry.json("show", "risk@3"), registry.json("history", "risk")
    finally:
        server.kill()
    with again(models, tmp_path) as server:
        registry = Registry(server)
        assert registry.answers() == 3
        serving.until(lambda: registry.try_("show", "risk@3")[0] == 0, "the log to be read")
        assert registry.json("show", "risk@3") == before
        assert registry.json("history", "risk") == history, "nothing new is on the record"
        assert registry.json("push", "risk", RISK / "1")["is_new"] is False


def test_another_engine_does_not_run_what_is_locked(tmp_path):
    models = serving.link_models(tmp_path / "models", RISK)
    with serving.Server(models, tmp_path, "--engines", "tract") as server:
        registry = Registry(server)
        assert registry.json("push", "risk", RISK / "1")["lock"]["engine"] == "tract"
        registry.run("promote", "risk@3")
        assert registry.answers() == 3
    # auto would choose another one here.
    with again(models, tmp_path) as server:
        registry = Registry(server)
        assert registry.answers() == 3
        loaded = [model for model in server.get("/admin/models", port=server.admin_port).json() if model["version"] == "3"]
        assert loaded[0]["engine"] == "tract", loaded
    with again(models, tmp_path, "--engines", "onnxruntime") as server:
        told = server.get("/admin/status", port=server.admin_port).json()
        [version] = [version for version in told["versions"] if version["version"] == "3"]
        assert "locked to tract" in version["reason"], version


def test_a_rollout_takes_a_version_into_its_environment(registry):
    registry.run("push", "risk", RISK / "1")
    registry.run("promote", "risk@3", "--steps", "20%/1s,50%/1s", "--rollout", rollout_file(registry.server.folder))
    assert "competes" not in registry.run("show", "risk@3")
    body, over = row(), threading.Event()

    def ask():
        while not over.is_set():
            registry.server.post("/v1/models/risk/score", body)

    with Crowd(ask, ask, ask, ask) as crowd:
        stands = lambda: registry.json("rollout", "status", "risk")["state"]
        try:
            serving.until(lambda: stands() == "promoted", "the promotion", 60)
        except AssertionError:
            raise AssertionError(registry.run("rollout", "status", "risk")) from None
        finally:
            over.set()
    assert not crowd.failed, crowd.failed
    serving.until(lambda: registry.json("environments")[2]["current"] == {"risk": 3}, "the promotion's end")
    assert registry.answers() == 3
    causes = [plan["cause"] for plan in registry.json("history", "risk")]
    assert "rollout" in causes, causes


def rollout_file(folder):
    path = folder / "rollout.toml"
    path.write_text('[policy]\nmin_time = "3s"\nmin_units = 100\nguardrails = [{ metric = "errors", floor = 0.05 }]\n')
    return path


def test_nobody_waits_for_a_registry_whose_log_is_broken(tmp_path):
    models = serving.link_models(tmp_path / "models", RISK)
    with serving.Server(models, tmp_path) as server:
        registry = Registry(server)
        registry.run("push", "risk", RISK / "1")
        registry.run("promote", "risk@3")
    segment = next((tmp_path / "data" / "state").glob("*/log/*.jsonl"))
    whole = segment.read_bytes()
    segment.write_bytes(whole.replace(b"champion", b"champiom", 1))
    with again(models, tmp_path) as server:
        registry = Registry(server)
        assert registry.answers() == 3, "what holds goes on to answer"
        serving.until(lambda: "cannot be used" in str(registry.json("show")["trouble"]), "the trouble to be told")
        assert "broken" in registry.refused("push", "risk", RISK / "2", code=1)
        assert registry.answers() == 3
        segment.write_bytes(whole)
        serving.until(lambda: registry.try_("push", "risk", RISK / "2")[0] == 0, "the log to be read", 20)


def checked(*arguments):
    """What `audit verify` finds, which needs no server."""
    code, out, error = command("audit", "verify", *map(str, arguments), "--output", "json")
    assert code == 0, (out, error)
    return json.loads(out)


def test_the_record_proves_itself_and_any_change_is_found(guarded, tmp_path):
    policy = tmp_path / "prod.toml"
    policy.write_text('[[approvals]]\nrequired = 1\n')
    guarded.run("environments", "set", "prod", "-f", policy, by="root")
    guarded.run("push", "risk", RISK / "1", by="ann")
    guarded.run("request", "risk@3", by="ann")
    guarded.run("approve", "risk@3", by="ada")
    guarded.run("promote", "risk@3", by="ann")
    state = next((tmp_path / "data" / "state").iterdir())
    kept, proof = tmp_path / "kept", tmp_path / "proof.json"
    kept.write_text(guarded.run("audit", "checkpoint", by="root"))
    [request] = guarded.json("requests", by="ada")
    [approval] = request["approvals"]
    assert approval["by"]["name"] == "ada" and approval["seal"]["signature"], approval
    sequence = approval["at"]["sequence"]
    proof.write_text(guarded.run("audit", "prove", str(sequence), by="root"))
    told = checked(proof, "--key", state / "audit.pub")
    assert (told["sequence"], told["kind"], told["data"]["by"]["name"]) == (sequence, "approval.approved", "ada")
    whole = checked(state, "--checkpoint", kept, "--key", state / "audit.pub")
    assert whole["signed"] == whole["head"]["sequence"] > 5
    exported = tmp_path / "exported"
    guarded.run("audit", "export", exported, "--from", "3", by="root")
    assert checked(exported)["from"] == 3
    # The independent program agrees.
    verifier = [sys.executable, serving.ROOT / "registry" / "verify_audit.py", "--key", state / "audit.pub", "--kept", kept]
    check = subprocess.run([*verifier, state, exported, proof], capture_output=True, text=True)
    assert check.returncode == 0 and len(check.stdout.splitlines()) == 3, check
    # A copy from which somebody took the last lines, and one in which a byte is another.
    for change in (lambda text: text[:text[:-1].rfind(b"\n") + 1], lambda text: text.replace(b'"ada"', b'"ann"', 1)):
        other = tmp_path / f"other-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(state, other)
        segment = next((other / "log").glob("*.jsonl"))
        segment.write_bytes(change(segment.read_bytes()))
        code, out, error = command("audit", "verify", str(other), "--checkpoint", str(kept))
        assert code == 1, (out, error)
        assert subprocess.run([*verifier, other], capture_output=True).returncode == 1


def test_the_record_answers_questions_in_sql(registry, tmp_path):
    registry.run("push", "risk", RISK / "1", "--metric", "auc=0.91@holdout")
    registry.run("promote", "risk@3")
    database = next((tmp_path / "data" / "state").glob("*/registry.db"))

    def rows():
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT model, version, value FROM version_metrics").fetchall()

    serving.until(lambda: rows() == [("risk", 3, 0.91)], "the tables")


def test_a_backup_comes_back_whole(registry, tmp_path):
    registry.run("push", "risk", RISK / "1")
    registry.run("promote", "risk@3")
    put_by, back = tmp_path / "backup", tmp_path / "back"
    made = registry.json("registry", "backup", put_by)
    assert made["blobs"] >= 3 and made["head"]["sequence"] > 3, made
    code, out, error = command("registry", "restore", str(put_by), "--to", str(back), "--output", "json")
    assert code == 0 and json.loads(out)["head"] == made["head"], (out, error)
    changed = next(file for file in sorted(put_by.rglob("*")) if file.is_file() and file.stat().st_size > 1000)
    changed.chmod(0o644)
    changed.write_bytes(changed.read_bytes()[:-1] + b"~")
    code, out, error = command("registry", "restore", str(put_by), "--to", str(tmp_path / "again"))
    assert code == 1, (out, error)


def test_traffic_is_compared_with_what_a_version_was_made_for(registry):
    rows = registry.server.folder / "rows.csv"
    with open(serving.SAMPLES / "risk-history.csv", newline="") as file, open(rows, "w", newline="") as written:
        columns = slice(1, 31)
        csv.writer(written).writerows(line[columns] for line in csv.reader(file))
    pushed = registry.json("push", "risk", RISK / "1", "--baseline", rows)
    assert pushed["baseline"]["rows"] > 100, pushed
    registry.run("promote", "risk@3")
    assert registry.answers() == 3

    def watched():
        told = registry.server.get("/admin/drift", port=registry.server.admin_port).json()
        return [one for one in told if one["version"] == "3" and one["state"] == "watched"]

    serving.until(watched, "the baseline to be watched by")
    assert registry.json("show", "risk@3")["baseline"]["rows"] == pushed["baseline"]["rows"]


class Listener(http.server.BaseHTTPRequestHandler):
    """Somebody who is told of lineage."""

    def do_POST(self):
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_other_systems_hear_of_versions_and_tell_of_their_runs(tmp_path):
    models = serving.link_models(tmp_path / "models", RISK)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as listener:
        listener.heard = []
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listener.server_port}/api/v1/lineage"
        with serving.Server(models, tmp_path, "--lineage-url", url) as server:
            registry = Registry(server)
            run = {"eventType": "COMPLETE", "eventTime": "2026-11-01T00:00:00Z", "producer": "https://airflow.example",
                   "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
                   "run": {"runId": "0190d1b2-7c3e-7000-8000-000000000001"},
                   "job": {"namespace": "airflow", "name": "train"},
                   "inputs": [{"namespace": "s3://lake", "name": "claims"}], "outputs": []}
            told = server.post("/admin/registry/api/v1/lineage", run, port=server.admin_port)
            assert told.status == 200, told
            registry.run("push", "risk", RISK / "1", "--run", run["run"]["runId"], "--data", "claims@2026-10")
            registry.run("promote", "risk@3")
            assert "claims" in registry.run("show", "risk@3", "--lineage")

            def jobs():
                return {event["job"]["name"] for event in listener.heard if "job" in event}

            serving.until(lambda: {"push/risk", "promote/risk/prod"} <= jobs(), "the events")
            for event in listener.heard:
                assert event["eventTime"] and event["producer"] and event["schemaURL"], event
        listener.shutdown()
