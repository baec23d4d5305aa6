"""What does it cost a request that its version competes? Prints processor time by request, and its ratio to a plain version's.

    python3 benches/rollout.py [ROUNDS] [SECONDS] [PROTOCOL]

Needs `onnx` (`tests/clients/requirements.txt`) and a release build of server and benches. Three servers answer in turns with the
same two small models, each stopped while another is measured: `plain` without a plan, `request` with a rollout at half and half
that deals each request, and `key` with one that deals clients by a header. Closed loop, 64 in flight, a header in all requests.
"""

import pathlib
import signal
import statistics
import sys
import tempfile
import time

from inturns import Server, ratio, rounds
from shadow import WIDTH, layers

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 3
PROTOCOL = sys.argv[3] if len(sys.argv) > 3 else "grpc"
PORT = "grpc" if PROTOCOL.startswith("grpc") else "http"
RULES = {"request": '"per_request"', "key": '{ header = "x-user" }'}
# Longer than this runs, and no verdict before: the rollout stays where it is.
PLAN = 'key = {key}\nsteps = [{{ share = "50%", min_time = "24h" }}]\n[policy]\nguardrails = [{{ metric = "errors", tolerance = 0.25 }}, {{ metric = "slow_p90", tolerance = 9.0 }}, {{ metric = "slow_p99", tolerance = 9.0 }}]\n'


def put(root):
    for version in (1, 2):
        folder = root / "m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(layers(1, 16))
    (root / "m" / "model.toml").write_text('version_policy = "all"\n')


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        put(folder / "models")
        servers = {name: Server(folder / "models", folder / name) for name in ("plain", *RULES)}
        try:
            for name, key in RULES.items():
                plan = folder / name / "rollout.toml"
                plan.write_text(PLAN.format(key=key))
                servers[name].run("rollout", "start", "m", "--challenger", "2", "--plan", plan)
            time.sleep(5)  # What is measured in idle time is measured first.
            tell(rounds(servers, ROUNDS, measure), servers)
        finally:
            for server in servers.values():
                server.signal(signal.SIGKILL)


def measure(server, number):
    told = server.load("--protocol", PROTOCOL, "--key", "x-user", "--seed", str(number), model=f"m=x:FP32:{WIDTH}",
                       seconds=SECONDS, port=PORT)
    assert not told["failures"], told
    return told["server"]["cpu_us_per_request"], told["requests_per_second"]


def tell(found, servers):
    for name, figures in found.items():
        cpu, speed = (statistics.median(side) for side in zip(*figures))
        line = f"{name:8} {cpu:6.2f} µs of processor time, {speed:7.0f} requests/s (medians of {ROUNDS} rounds of {SECONDS:g} s)"
        if name != "plain":
            mean, bound = ratio([cpu for cpu, _ in found["plain"]], [cpu for cpu, _ in figures])
            line += f"; ratio {mean:.3f}, upper 95 % bound {bound:.3f}"
            state = servers[name].admin("/admin/endpoints/m/rollout")
            line += f"; {state['state']}, units {state['units']}"
        print(line)


if __name__ == "__main__":
    main()
