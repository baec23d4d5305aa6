"""Does a version that is pushed to one replica, and promoted through another, answer on all of them?"""

import time

import pytest

import serving
import storing
from replicas import Fleet
from test_registry import RISK, Registry, row


def version(server):
    return int(server.post("/v1/models/risk/score", row()).headers["tiltyard-version"])


@pytest.mark.parametrize("place", ["a folder", "a store"])
def test_replicas_share_versions_environments_and_history(tmp_path, place):
    models = serving.link_models(tmp_path / "models", RISK)
    with storing.Store() as store:
        url = f"s3://{storing.BUCKET}/versions" if place == "a store" else str(tmp_path / "shared")
        fleet = Fleet(models, tmp_path, "--registry-store", url, variables=store.variables)
        try:
            share(fleet, tmp_path)
        finally:
            fleet.end()
        put = {request.key for request in store.requests if request.method == "PUT"}
        assert all(key.startswith("versions/sha256/") for key in put) and bool(put) == (place == "a store"), put


def share(fleet, tmp_path):
    fleet.leader()
    first, second, third = [Registry(replica.server) for replica in fleet.replicas]
    pushed = first.json("push", "risk", RISK / "1", "--metric", "auc=0.91@holdout")
    assert pushed["version"] == 3
    serving.until(lambda: second.try_("show", "risk@3")[0] == 0, "the other replica to read the log")
    assert second.json("push", "risk", RISK / "1")["is_new"] is False, "the same bytes are the same version everywhere"
    second.run("promote", "risk@3")
    for registry in first, second, third:
        serving.until(lambda: version(registry.server) == 3, "the version to answer", 30)
    third.run("pull", "risk@3", "--to", tmp_path / "pulled")
    assert (tmp_path / "pulled" / "model.onnx").read_bytes() == (RISK / "1" / "model.onnx").read_bytes()
    # Whoever leads notes once for all who answered.
    serving.until(lambda: first.json("history", "risk")[-1]["arms"][0]["version"] == 3, "the history")
    serving.until(lambda: third.json("history", "risk") == first.json("history", "risk"), "the same history everywhere")
    # The tables that one asks in SQL are everybody's too, and no replica waits for another to fill them.
    sql = "SELECT model, version FROM tiltyard.versions"
    serving.until(lambda: fleet.postgres.ask(sql) == ["risk|3"], "the tables")
    assert not any("tables do not follow" in replica.server.log_text() for replica in fleet.replicas)
    # Before the first promotion there was no plan: what the folder answered with is what a rollback leads to, whoever is asked.
    third.run("rollback", "risk")
    for registry in first, second, third:
        serving.until(lambda: version(registry.server) == 2, "what the folder answered with before", 30)
    second.run("promote", "risk@3")
    for registry in first, second, third:
        serving.until(lambda: version(registry.server) == 3, "the version to answer", 30)
    fleet.leader().kill()
    living = [Registry(replica.server) for replica in fleet.living]
    for registry in living:
        registry.run("note", "risk@3", "--tag", f"by={registry.server.folder.name}")
    assert [version(registry.server) for registry in living] == [3, 3]
    # What one replica must not answer any more, none does.
    living[0].run("quarantine", "risk@3", "--reason", "it was trained on the wrong rows")
    for registry in living:
        serving.until(lambda: version(registry.server) == 2, "what the folder answered with before", 30)


def test_whoever_promotes_on_any_replica_what_cannot_answer_hears_why(tmp_path):
    models = serving.link_models(tmp_path / "models", RISK)
    fleet = Fleet(models, tmp_path, "--registry-store", str(tmp_path / "shared"))
    try:
        leader = fleet.leader()
        first = Registry(leader.server)
        other = Registry(next(replica.server for replica in fleet.replicas if replica is not leader))
        first.run("push", "risk", serving.SAMPLES / "digits" / "1")
        serving.until(lambda: other.try_("show", "risk@3")[0] == 0, "the other replica to read the log")
        started = time.monotonic()
        error = other.refused("promote", "risk@3", code=1)
        assert "is in prod on the record, and does not answer" in error and "accept_incompatible" in error, error
        assert time.monotonic() - started < 45, "not only after all the time that there is"
        first.run("push", "risk", RISK / "1")
        serving.until(lambda: other.try_("show", "risk@4")[0] == 0, "the other replica to read the log")
        other.run("promote", "risk@4")
        for replica in fleet.replicas:
            serving.until(lambda: version(replica.server) == 4, "the version to answer", 30)
    finally:
        fleet.end()
