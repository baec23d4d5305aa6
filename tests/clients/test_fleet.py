"""Do three replicas behind a proxy have one verdict between them, whatever is killed or stands still?"""

import collections
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import time

import pytest

import competing
import serving
from competing import Crowd, command, hold_back, programs, status
from replicas import Fleet
from test_endpoints import apply, arms_of_keys, run, toml
from test_feedback import PRIMARY, classifier
from test_repository import put, times
from test_rollouts import FLOOR, log_of

QUICK = ("--steps", "20%/1s,50%/1s", "--min-time", "3s", "--min-units", "200")
# As long as a test needs it to go on.
LONG = ("--steps", "20%/1s,50%/1m", "--min-time", "2h", "--min-units", "200")
# More of them tell more: TILTYARD_FLEET_KILLS=100.
KILLS = int(os.environ.get("TILTYARD_FLEET_KILLS", "3"))


@pytest.fixture
def models(tmp_path):
    """Versions 1 and 2 of m multiply by 1 and 2; version 3 by 3, and makes no number of a negative row."""
    root = tmp_path / "models"
    put(root, "m", 1, times(1.0))
    put(root, "m", 2, times(2.0))
    put(root, "m", 3, log_of(3.0))
    hold_back(root)
    return root


@pytest.fixture
def fleet(models, tmp_path):
    made = Fleet(models, tmp_path)
    yield made
    made.end()


class Load(Crowd):
    """Ever new users, each of whom asks three times, so that replicas share them. One user in ten has a negative row. What the
    fleet is asked, `alone` is asked too."""

    def __init__(self, fleet, threads=2, asks=3, alone=None):
        super().__init__(*[self.ask] * threads)
        self.fleet, self.asks, self.versions, self.failures, self.replicas = fleet, asks, {}, [], set()
        self.addresses = [fleet.proxy.address] + [alone.http_address for alone in [alone] if alone]
        self.numbers, self.answered = itertools.count(), 0

    def ask(self):
        connections = [http.client.HTTPConnection(address, timeout=30) for address in self.addresses]
        while not self.over.is_set():
            with self.lock:
                number = next(self.numbers)
            row = [-1.0, -1.0] if number % 10 == 7 else [1.0, 1.0]
            body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": row}]})
            for connection in connections * self.asks:
                connection.request("POST", "/v2/models/m/infer", body, {"x-user": f"user-{number}"})
                answer = connection.getresponse()
                text = answer.read()
                self.answered += 1
                if answer.status != 200:
                    self.failures.append((answer.status, text))
                elif replica := answer.getheader("x-replica"):
                    self.replicas.add(replica)
                    version = answer.getheader("tiltyard-version")
                    self.versions[version] = self.versions.get(version, 0) + 1

    def __exit__(self, kind, *_):
        super().__exit__(kind, *_)
        if kind is None:
            assert not self.failed and not self.failures, (self.failed, self.failures[:3])


def begin(fleet, replica, version, *flags, policy=FLOOR, expected=0):
    return begin_at(replica.server, fleet.folder, version, *flags, policy=policy, expected=expected)


def begin_at(server, folder, version, *flags, policy=FLOOR, expected=0):
    flags = ("--key", "header:x-user", *(flags or QUICK))
    return competing.begin(server, folder, version, *flags, policy=policy, expected=expected)


def state(server):
    return status(server)["state"]


def answers(version):
    """Whether this version answers all, as far as a few keys tell."""
    return lambda server: set(arms_of_keys(server, "abcdefgh").values()) == {version}


def proved(fleet):
    """Both programs prove the log, as it was exported."""
    ours, theirs = programs(fleet.export())
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stdout + ours.stderr + theirs.stdout + theirs.stderr


def test_one_verdict_though_replicas_are_killed_and_it_is_that_of_one_process(fleet, models):
    alone = serving.Server(models, fleet.folder / "alone", "--poll-interval", "100ms")
    with alone, Load(fleet, alone=alone) as load:
        begin_at(alone, fleet.folder, 2)
        begin(fleet, fleet.follower(), 2)
        fleet.know()
        # The one that leads dies, and what it had not put on the log is told to the next.
        serving.until(lambda: status(fleet.living[0].server)["blocks"] >= 1, "a block")
        leader = fleet.leader()
        killed = time.monotonic()
        leader.kill()
        fleet.leader()
        took_over = time.monotonic() - killed
        fleet.each_reaches(lambda server: state(server) == "promoted", "the promotion", 40)
        fleet.each_reaches(answers(2), "version 2")
        told = status(fleet.living[0].server)
        assert sum(told["units"]) <= next(load.numbers), "a key is one unit, whoever sees it"
        leader.start()
        fleet.each_reaches(answers(2), "version 2, on the one that comes back, too")
        lost = {one["name"]: one["state"] for one in fleet.leader().fleet()["replicas"]}
        assert set(lost) == {"r1", "r2", "r3"}

        serving.until(lambda: state(alone) == "promoted", "the same by one process", 40)
        begin_at(alone, fleet.folder, 3)
        begin(fleet, fleet.leader(), 3)
        serving.until(lambda: status(fleet.living[0].server)["share"] > 0, "a share")
        fleet.follower().kill()
        fleet.each_reaches(lambda server: state(server) == "rolled_back", "the rollback", 40)
        fleet.each_reaches(answers(2), "version 2 again")
        serving.until(lambda: state(alone) == "rolled_back", "the same by one process", 40)
    assert load.replicas == {"r1", "r2", "r3"}
    print(f"another replica led {took_over:.1f} s after the kill; {load.answered} requests, none failed")
    assert fleet.decisions("m-1").count("promote") == 1
    assert [fleet.decisions("m-2").count(decision) for decision in ("promote", "roll_back")] == [0, 1]
    proved(fleet)


def test_kills_at_random_leave_one_log_and_one_end(fleet):
    lot = random.Random(7)
    with Load(fleet) as load:
        begin(fleet, fleet.leader(), 2, "--steps", "20%/2s,50%/2s", "--min-time", "6s", "--min-units", "1500")
        for _ in range(KILLS):
            time.sleep(lot.uniform(0, 0.8))
            replica = lot.choice(fleet.replicas)
            replica.kill()
            time.sleep(lot.uniform(0, 0.5))
            replica.start()
        fleet.each_reaches(lambda server: status(server)["state"] == "promoted", "the promotion", 60)
        fleet.each_reaches(answers(2), "version 2")
    print(f"{KILLS} kills; {load.answered} requests, none failed; {len(fleet.entries())} entries")
    assert fleet.decisions("m-1").count("promote") == 1
    proved(fleet)


def test_who_stands_still_does_not_lead_and_takes_nothing_back(fleet):
    with Load(fleet, threads=1) as load:
        stuck = fleet.leader()
        begin(fleet, fleet.follower(), 2, *LONG)
        fleet.know()
        fleet.each_reaches(lambda server: status(server)["share"] == 500_000, "half of the traffic")
        # The proxy finds out; what it is to answer already it answers later.
        stuck.is_ready = False
        time.sleep(0.2)
        stuck.server.process.send_signal(signal.SIGSTOP)
        stopped, others = time.monotonic(), [replica for replica in fleet.replicas if replica is not stuck]
        serving.until(lambda: any(replica.fleet()["leads"] for replica in others), "another that leads", 15)
        took_over = time.monotonic() - stopped
        command(others[0].server, "abort")
        stuck.server.process.send_signal(signal.SIGCONT)
        serving.until(lambda: not stuck.fleet()["leads"] and stuck.fleet()["reachable"], "the other's lead to be known", 15)
        fleet.each_reaches(answers(1), "version 1")
        assert sum(replica.fleet()["leads"] for replica in fleet.replicas) == 1
        stuck.is_ready = True
    print(f"another replica led {took_over:.1f} s after the one that leads stood still; {load.answered} requests, none failed")
    proved(fleet)


def test_people_may_ask_any_replica(fleet, tmp_path):
    with Load(fleet, threads=1):
        one, two, three = fleet.replicas
        begin(fleet, one, 2, *LONG)
        seconds = {"start": fleet.know()}
        refused = begin(fleet, two, 3, *LONG, expected=1)
        assert "goes on" in refused
        for replica, name, reached in ((two, "pause", "paused"), (three, "resume", "running"), (two, "step", "running")):
            serving.until(lambda: status(replica.server)["share"] > 0, "a share")
            command(replica.server, name)
            seconds[name] = fleet.each_reaches(lambda server: state(server) == reached, name)
        seconds["half"] = fleet.each_reaches(lambda server: status(server)["share"] == 500_000, "half of the traffic")
        command(three.server, "abort")
        seconds["abort"] = fleet.each_reaches(answers(1), "version 1")
        # What people apply holds everywhere, also on a replica that was away.
        three.kill()
        apply(one.server, tmp_path, toml(("champion", 2, 'role = "champion"')))
        # It may have to be loaded again, which takes as long as that takes.
        fleet.each_reaches(answers(2), "version 2")
        three.start()
        fleet.each_reaches(answers(2), "version 2 on the one that was away")
        run(one.server, "rollback", "m")
        seconds["rollback"] = fleet.each_reaches(answers(1), "version 1 again")
    print({name: round(took, 2) for name, took in seconds.items()})
    proved(fleet)


def test_any_replica_goes_back_to_what_was_before(fleet, tmp_path):
    """Also one that has just come and has applied nothing itself; and no rollback brings back what another one took away."""
    def one_arm(version):
        return toml(("champion", version, 'role = "champion"'))

    one, two, three = fleet.replicas
    with Load(fleet, threads=1):
        for replica, version in ((one, 1), (two, 2), (one, 3)):
            apply(replica.server, tmp_path, one_arm(version))
            fleet.each_reaches(answers(version), f"version {version}")
        three.kill()
        shutil.rmtree(three.folder)
        three.start()
        fleet.each_reaches(answers(3), "version 3 on the one that is new")
        took = {}
        for replica, version in ((three, 2), (two, 1)):
            run(replica.server, "rollback", "m")
            took[version] = fleet.each_reaches(answers(version), f"version {version} again")
        print({version: round(seconds, 2) for version, seconds in took.items()})
        # Nothing was before the first.
        refused = [run(replica.server, "rollback", "m", expected=1) for replica in fleet.replicas]
        assert all("no revision to go back to" in text for text in refused), refused
        # Nobody waits until a change has come about elsewhere.
        apply(one.server, tmp_path, one_arm(2))
        run(two.server, "rollback", "m")
        fleet.each_reaches(answers(1), "version 1 once more")


def test_what_a_file_declares_begins_once_for_all(models, tmp_path):
    folder = tmp_path / "endpoints"
    folder.mkdir()
    fleet = Fleet(models, tmp_path, "--endpoints", str(folder), "--settle-time", "100ms")
    try:
        (folder / "m.toml").write_text(
            'champion = { version = 1 }\nchallenger = { version = 2 }\nkey = { header = "x-user" }\n'
            'steps = [{ share = "50%", min_time = "1h" }]\n')
        fleet.know()
        fleet.each_reaches(lambda server: status(server)["share"] == 500_000, "half of the traffic")
        serving.stays(lambda: sum('"kind":"rollout.plan"' in line for line in fleet.entries()) == 1, "one rollout", 2)
        command(fleet.follower().server, "abort")
        fleet.each_reaches(answers(1), "version 1")
        proved(fleet)
    finally:
        fleet.end()


def test_without_the_database_all_is_answered_and_it_goes_on(fleet):
    with Load(fleet) as load:
        begin(fleet, fleet.replicas[0], 2, *LONG)
        serving.until(lambda: status(fleet.living[0].server)["share"] == 500_000, "half of the traffic", 30)
        before = len(fleet.entries())

        def is_said(server):
            return not server.get("/admin/status", port=server.admin_port).json()["fleet"]["reachable"]

        with fleet.postgres.standing_still():
            fleet.each_reaches(is_said, "word of the registry", 20)
            asked = load.answered
            refused = command(fleet.replicas[1].server, "abort", expected=1)
            assert "registry" in refused and "stand still" in refused, refused
            assert len({version for version in load.versions}) == 2, "the last plan holds"
        fleet.each_reaches(lambda server: not is_said(server), "the registry again", 30)
        assert load.answered > asked
        with fleet.postgres.slow(4):
            fleet.each_reaches(is_said, "word of the registry", 20)
        fleet.each_reaches(lambda server: not is_said(server), "the registry again", 30)
        fleet.postgres.kill()
        fleet.each_reaches(is_said, "word of the registry", 20)
        asked = load.answered
        serving.until(lambda: load.answered > asked + 100, "more answers", 20)
        fleet.postgres.start()
        fleet.each_reaches(lambda server: not is_said(server), "the registry again", 30)
        serving.until(lambda: len(fleet.entries()) > before + 1, "more of the log", 30)
        command(fleet.replicas[2].server, "abort")
        fleet.each_reaches(answers(1), "version 1")
    print(f"{load.answered} requests, none failed")
    proved(fleet)


@pytest.mark.skipif("TILTYARD_FLEET_LONG" not in os.environ, reason="it takes more than a minute: set TILTYARD_FLEET_LONG")
def test_after_a_minute_without_the_database_challengers_get_nothing(fleet):
    with Load(fleet, threads=1) as load:
        begin(fleet, fleet.replicas[0], 2, *LONG)
        fleet.know()
        fleet.each_reaches(lambda server: status(server)["share"] == 500_000, "half of the traffic")
        fleet.postgres.kill()
        killed = time.monotonic()
        serving.stays(lambda: any(arm == 2 for arm in arms_of_keys(fleet.replicas[0].server, "abcdefgh").values()), "a share", 50)
        fleet.each_reaches(answers(1), "version 1 for all", 40)
        quiet = time.monotonic() - killed
        fleet.postgres.start()
        fleet.each_reaches(lambda server: not answers(1)(server), "the share again", 30)
    print(f"quiet {quiet:.0f} s after the database was gone; {load.answered} requests, none failed")
    assert 55 < quiet < 90
    proved(fleet)


def test_labels_may_come_to_any_replica(tmp_path):
    """Version 1 is right in 85 % of the rows, version 2 in all."""
    root = tmp_path / "models"
    for version, noise in ((1, 0.5), (2, 0.0)):
        put(root, "m", version, classifier(noise))
    hold_back(root)
    fleet = Fleet(root, tmp_path)
    try:
        with Labelled(fleet) as clients:
            policy = {"guardrails": [{"metric": "errors", "floor": 0.03}], "primary": PRIMARY}
            competing.begin(
                fleet.replicas[0].server, tmp_path, 2, "--steps", "50%/1s", "--min-time", "2s", "--min-units", "200",
                policy=policy)
            fleet.know()
            # Rows that wait for their labels outlive the one that leads.
            serving.until(lambda: sum(status(fleet.living[0].server)["labelled"]) > 0, "labels", 30)
            fleet.leader().kill()
            fleet.each_reaches(lambda server: state(server) == "promoted", "the promotion", 60)
        assert clients.told["waiting"] > 0 and set(clients.told) <= {"waiting", "unknown"}
        told = status(fleet.living[0].server)
        assert min(told["labelled"]) >= 100 and told["quality"]["gain"] > 0.05, told["quality"]
        assert fleet.decisions("m-1").count("promote") == 1
        proved(fleet)
    finally:
        fleet.end()


class Labelled(Crowd):
    """Asks of ever new rows, and says a moment later what was true: to whichever replica has its turn."""

    def __init__(self, fleet, delay=0.3):
        super().__init__(self.ask, self.ask, self.tell)
        self.fleet, self.delay, self.due, self.told = fleet, delay, collections.deque(), collections.Counter()

    def post(self, connection, path, body, kind="application/json"):
        connection.request("POST", path, body, {"content-type": kind})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return answer, json.loads(text)

    def ask(self):
        lot, connection = random.Random(), http.client.HTTPConnection(self.fleet.proxy.address, timeout=30)
        while not self.over.is_set():
            row = [lot.gauss(0, 1), lot.gauss(0, 1)]
            body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": row}]})
            answer, _ = self.post(connection, "/v2/models/m/infer", body)
            line = {"endpoint": "m", "prediction_id": answer.getheader("tiltyard-prediction-id"), "label": int(row[0] > 0)}
            self.due.append((time.monotonic() + self.delay, line))

    def tell(self):
        connection = http.client.HTTPConnection(self.fleet.proxy.address, timeout=30)
        while not self.over.wait(0.05):
            lines = []
            while self.due and self.due[0][0] <= time.monotonic():
                lines.append(json.dumps(self.due.popleft()[1]))
            if lines:
                _, told = self.post(connection, "/v1/feedback", "\n".join(lines), "application/x-ndjson")
                self.told.update({name: told[name] for name in ("waiting", "unknown", "joined") if told[name]})

    def __exit__(self, kind, *_):
        super().__exit__(kind, *_)
        if kind is None:
            assert not self.failed, self.failed
