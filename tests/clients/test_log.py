"""Does somebody who knows docs/log.md and nothing else write logs that `tiltyard rollout verify` proves, and is what they
change found?"""

import hashlib
import json
import subprocess
import sys

import pytest

import serving

VERIFIER = serving.ROOT / "registry/verify.py"

PLAN = {
    "endpoint": "risk", "revision": 1, "key": "per_request", "salt": "7f0c1d",
    "arms": [
        {"name": "champion", "model": "risk", "version": 1, "role": "champion"},
        {"name": "challenger", "model": "risk", "version": 2,
         "role": {"challenger": {"weight": 0, "final_weight": 500000}}},
    ],
    "steps": [{"share": 10000}],
}


def told(number, command, state):
    event = {"command": {"time_ms": number, "by": "ada", "command": command}}
    reasons = [{"reason": "person", "by": "ada", "command": command}]
    verdict = {"sequence": number, "time_ms": number, "decision": "obey", "state": state, "share": 0, "reasons": reasons}
    return "rollout.event", {"rollout": "r1", "event": event, "verdict": verdict}


ENTRIES = [
    ("rollout.plan", {"rollout": "r1", "plan": PLAN}),
    told(1, "start", {"running": "validating"}),
    told(2, "abort", "aborted"),
]


def lines(entries):
    before = "0" * 64
    for number, (kind, data) in enumerate(entries, 1):
        data = json.dumps(data, separators=(",", ":"))
        body = f'"prev":"{before}","seq":{number},"time_ms":{number},"kind":"{kind}","data":{data}}}'
        before = hashlib.sha256(body.encode()).hexdigest()
        yield f'{{"hash":"{before}",{body}\n'


@pytest.fixture
def log(tmp_path):
    """A log of two segments."""
    written = list(lines(ENTRIES))
    (tmp_path / f"{1:020}.jsonl").write_text("".join(written[:2]))
    (tmp_path / f"{3:020}.jsonl").write_text(written[2])
    return tmp_path


def proved(path):
    done = subprocess.run([serving.BINARY, "rollout", "verify", path, "--output", "json"], capture_output=True)
    return done.returncode, json.loads(done.stdout)


def independent(path):
    done = subprocess.run([sys.executable, VERIFIER, path], capture_output=True, text=True)
    return done.returncode, done.stdout


def test_both_prove_what_was_written(log):
    code, found = proved(log)
    assert (code, found["fault"], found["entries"]) == (0, None, 3)
    assert [(one["rollout"], one["state"], one["verdicts"]) for one in found["rollouts"]] == [("r1", "aborted", 2)]
    code, text = independent(log)
    assert code == 0 and f"entry 3 hash {found['head']['hash']}" in text


def test_both_find_a_changed_byte(log):
    path = log / f"{1:020}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"ada"', b'"eve"', 1))
    code, found = proved(log)
    assert (code, found["fault"]["place"]["line"]) == (1, 2)
    code, text = independent(log)
    assert code == 1 and f"line 2 byte {found['fault']['place']['byte']}" in text


def test_a_verdict_that_does_not_follow_is_found_though_the_chain_is_whole(log):
    forged = log / "forged.jsonl"
    forged.write_text("".join(lines([*ENTRIES[:2], told(2, "abort", "promoted")])))
    assert independent(forged)[0] == 0
    code, found = proved(forged)
    assert code == 1 and "but its evidence says" in found["fault"]["message"]
    done = subprocess.run([serving.BINARY, "rollout", "verify", forged], capture_output=True, text=True)
    assert done.returncode == 1 and "entry 3: rollout r1: the verdict is recorded as" in done.stderr
