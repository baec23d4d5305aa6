"""How soon does the server answer, and what does it cost while nobody asks? Prints a table.

    python3 benches/startup.py [BINARY] [ROUNDS]
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/tiltyard")
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 9
IDLE_SECONDS = 5


def ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def resident_mb(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one_round(models, engines, data, idle):
    """Seconds from exec to ready, resident MB then, and processor seconds over an idle stretch."""
    ports = pathlib.Path(data) / "ports.json"
    ports.unlink(missing_ok=True)
    command = [BINARY, "serve", "--models", models, "--engines", engines, "--data-dir", data, "--ports-file", ports]
    command += ["--http-port", "0", "--grpc-port", "0", "--admin-port", "0"]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (ports.exists() and ready(json.loads(ports.read_text())["http"])):
            if process.poll() is not None:
                raise SystemExit(f"the server ended with {process.returncode}")
            time.sleep(0.002)
        took = time.monotonic() - started
        memory = resident_mb(process.pid)
        before = cpu_seconds(process.pid)
        if idle:
            time.sleep(IDLE_SECONDS)
        return took, memory, cpu_seconds(process.pid) - before
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def main():
    print(f"binary {BINARY.stat().st_size / 1e6:.1f} MB; medians of {ROUNDS} rounds")
    print(f"{'models':8} {'engines':12} {'ready after':>12} {'resident':>10} {'CPU in ' + str(IDLE_SECONDS) + ' s idle':>16}")
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as data:
        for label, models in (("none", empty), ("samples", ROOT / "models")):
            for engines in ("tract", "onnxruntime"):
                rounds = [one_round(models, engines, data, number == 0) for number in range(ROUNDS)]
                took, memory = (statistics.median(figures) for figures in list(zip(*rounds))[:2])
                print(f"{label:8} {engines:12} {took * 1000:9.0f} ms {memory:7.1f} MB {rounds[0][2]:13.2f} s")


if __name__ == "__main__":
    main()
