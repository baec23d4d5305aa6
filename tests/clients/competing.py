"""How do tests have versions of `m` compete, and how do they look at it?

Shared by the tests of rollouts, labels and what files declare.
"""

import json
import pathlib
import shutil
import subprocess
import tempfile
import threading

import pytest

import serving
from test_endpoints import run


@pytest.fixture
def server(repository, tmp_path):
    """A server of the module's own repository."""
    with serving.Server(repository, tmp_path / "server", "--poll-interval", "100ms") as made:
        yield made


def hold_back(root, newest="1"):
    """The newest must not answer before a rollout has it."""
    (root / "m" / "model.toml").write_text(f'version_policy = "{newest}"\n')


class Crowd:
    """Threads that work until the block ends. What stops one of them is in `failed`."""

    def __init__(self, *work):
        self.over, self.lock, self.failed = threading.Event(), threading.Lock(), []
        self.threads = [threading.Thread(target=self.guarded, args=(each,)) for each in work]

    def guarded(self, work):
        try:
            work()
        except Exception as error:  # a server that is killed is part of a test
            self.failed.append(error)

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


def begin(server, tmp_path, version, *flags, policy, expected=0):
    file = tmp_path / "rollout.json"
    file.write_text(json.dumps({"policy": policy}))
    return run(server, "rollout", "start", "m", "--challenger", version, "--plan", file, *flags, expected=expected)


def reaches(server, check, what, seconds=60):
    serving.until(lambda: check(status(server)), what, seconds)
    return status(server)


def command(server, name, expected=0):
    return run(server, "rollout", name, "m", expected=expected)


def programs(log):
    """What both say of a log: the program, and one that shares no code with it."""
    other = ["python3", str(serving.ROOT / "rollout" / "verify.py")]
    return [subprocess.run([*argv, str(log)], capture_output=True, text=True, timeout=60)
            for argv in ([str(serving.BINARY), "rollout", "verify"], other)]


def verify(server):
    """The log proves every verdict. Returns a copy of it."""
    # The server goes on writing.
    log = pathlib.Path(tempfile.mkdtemp(dir=server.folder)) / "log"
    shutil.copytree(next((server.folder / "data").rglob("log")), log)
    ours, other = programs(log)
    assert (ours.returncode, other.returncode) == (0, 0), ours.stdout + ours.stderr + other.stdout + other.stderr
    # Both say where each rollout stands, in the same words.
    table = ours.stdout[:ours.stdout.index(" entries and ")].splitlines()[:-1]
    assert len(table) > 1 and other.stdout.splitlines()[:len(table)] == table
    return log
