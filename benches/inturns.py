"""How are two servers measured in turns, so that what disturbs the machine disturbs both? Servers of the release build with a
plan each, of which all but the one that is measured are stopped, and how far figures of the same rounds are apart.
"""

import contextlib
import json
import math
import os
import pathlib
import random
import signal
import statistics
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
# Student's t, one-sided 95 %, for the degrees of freedom that there are here.
T95 = {9: 1.833, 19: 1.729, 29: 1.699, 39: 1.685}


class Server:
    """A server that answers for the folder's models, by the endpoint file `plan` where there is one. `flags` go to `serve`."""

    def __init__(self, models, folder, plan=None, flags=()):
        folder.mkdir()
        self.ports_file = folder / "ports.json"
        command = [BUILT / "tiltyard", "serve", "--models", models, "--data-dir", folder / "data", "--http-port", "0",
                   "--grpc-port", "0", "--admin-port", "0", "--ports-file", self.ports_file, "--settle-time", "0s",
                   "--version-policy", "all", "--model-control", "none", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not self.ports_file.exists():
            assert self.process.poll() is None, "the server ended"
            time.sleep(0.05)
        self.ports = json.loads(self.ports_file.read_text())
        while not self.is_ready():
            time.sleep(0.05)
        if plan:
            (folder / "m.toml").write_text(plan)
            self.run("apply", "-f", folder / "m.toml")

    def run(self, *arguments):
        """One command of the program against this server."""
        subprocess.run([BUILT / "tiltyard", *arguments, "--ports-file", self.ports_file], check=True,
                       stdout=subprocess.DEVNULL)

    def is_ready(self):
        with contextlib.suppress(OSError):
            address = f"http://127.0.0.1:{self.ports['http']}/v2/health/ready"
            return urllib.request.urlopen(address, timeout=1).status == 200

    def admin(self, path):
        return json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}{path}", timeout=5))

    def load(self, *flags, model, seconds, port="grpc"):
        """What `tiltyard-load run` says of so many seconds."""
        out = self.ports_file.with_name("load.json")
        command = [BUILT / "tiltyard-load", "run", "--target", f"127.0.0.1:{self.ports[port]}", "--model", model,
                   "--server-pid", str(self.process.pid), "--warmup", "1s", "--duration", f"{seconds}s", "--json", out, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())

    def signal(self, number):
        self.process.send_signal(number)


@contextlib.contextmanager
def alone(servers, name):
    """Holds all servers but one; at the end all run again."""
    for other, server in servers.items():
        server.signal(signal.SIGCONT if other == name else signal.SIGSTOP)
    try:
        yield servers[name]
    finally:
        for server in servers.values():
            server.signal(signal.SIGCONT)


def rounds(servers, count, measure):
    """`measure(server, number)` of every server in every round, in an order that is drawn; a list for each server. Tells how
    much of the processors' time others had on the machine below, where this one is virtual.
    """
    found = {name: [] for name in servers}
    stolen = {name: 0.0 for name in servers}
    for number in range(count):
        for name in random.sample(sorted(servers), len(servers)):
            with alone(servers, name) as server:
                before = steal(), time.monotonic()
                found[name].append(measure(server, number))
                stolen[name] += (steal() - before[0]) / (time.monotonic() - before[1]) / os.cpu_count() / count
    print("taken by the machine below: " + ", ".join(f"{100 * share:.1f} % ({name})" for name, share in stolen.items()))
    return found


def steal():
    """Seconds that a hypervisor gave to others while this machine had something to do, over all processors."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def ratio(below, above):
    """The geometric mean of `above` by `below`, round by round, and its upper bound of 95 %."""
    logs = [math.log(b / a) for a, b in zip(below, above)]
    mean, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean + T95.get(len(logs) - 1, 1.645) * error)
