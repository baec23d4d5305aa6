"""What does it cost a request that it is on record, or that drift is watched? Prints processor time and requests/s, and their ratios.

    python3 benches/record.py [ROUNDS] [SECONDS] [PROTOCOL]

Needs `onnx` (`tests/clients/requirements.txt`) and a release build of server and benches. Servers answer in turns with the same
models, each stopped while another is measured: `plain`, `capture` with everything on record, and `drift` with a baseline; once
with a tiny model and once with a large one. Closed loop, 64 in flight: saturation. What `capture` dropped is told: a disk that
is slower than the requests drops, and makes no request wait.
"""

import json
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from inturns import BUILT, Server, ratio, rounds
from shadow import WIDTH, layers

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 3
PROTOCOL = sys.argv[3] if len(sys.argv) > 3 else "grpc"
PORT = "grpc" if PROTOCOL.startswith("grpc") else "http"
MODELS = {"tiny": layers(1, 16), "large": layers(8, 512)}


def main():
    for size, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            place = folder / "models" / "m" / "1"
            place.mkdir(parents=True)
            (place / "model.onnx").write_bytes(model)
            servers = {
                "plain": Server(folder / "models", folder / "plain"),
                "capture": Server(folder / "models", folder / "capture", flags=["--capture", "on"]),
                "drift": Server(folder / "models", folder / "drift"),
            }
            try:
                rows = [{"x": [((row * 7 + at) % 97) / 10 for at in range(WIDTH)]} for row in range(500)]
                (folder / "rows.json").write_text(json.dumps({"inputs": [{
                    "name": "x", "datatype": "FP32", "shape": [len(rows), WIDTH], "data": [value for row in rows for value in row["x"]]}]}))
                subprocess.run(
                    [BUILT / "tiltyard", "drift", "baseline", "m", "--file", folder / "rows.json", "--models", folder / "models",
                     "--data-dir", folder / "drift" / "data"], check=True)
                time.sleep(5)  # What is measured in idle time is measured first, and the baseline is found.
                tell(size, rounds(servers, ROUNDS, measure), servers)
            finally:
                for server in servers.values():
                    server.signal(signal.SIGKILL)


def measure(server, number):
    told = server.load("--protocol", PROTOCOL, "--seed", str(number), model=f"m=x:FP32:{WIDTH}", seconds=SECONDS, port=PORT)
    assert not told["failures"], told
    return told["server"]["cpu_us_per_request"], told["requests_per_second"]


def tell(size, found, servers):
    for name, figures in found.items():
        cpu, speed = (statistics.median(side) for side in zip(*figures))
        line = f"{size:6} {name:8} {cpu:8.2f} µs of processor time, {speed:7.0f} requests/s (medians of {ROUNDS} rounds of {SECONDS:g} s)"
        if name != "plain":
            for what, place in (("processor time", 0), ("requests/s", 1)):
                mean, bound = ratio([one[place] for one in found["plain"]], [one[place] for one in figures])
                line += f"; {what} x{mean:.3f} (upper 95 % bound {bound:.3f})"
        print(line)
    page = urllib.request.urlopen(f"http://127.0.0.1:{servers['capture'].ports['admin']}/metrics", timeout=5).read().decode()
    print(f"{size:6} capture:", [line for line in page.splitlines() if line.startswith("tiltyard_capture") and not line.endswith(" 0")])
    print(f"{size:6} drift:", {one["state"]: one.get("open_hour_rows") for one in servers["drift"].admin("/admin/drift")})


if __name__ == "__main__":
    main()
