"""How do other servers do beside this one? Starts them on the same models and prints a table.

    python3 -m venv target/others-venv
    target/others-venv/bin/pip install -r benches/others/requirements.txt
    VIRTUAL_ENV=$PWD/target/others-venv target/others-venv/bin/python benches/others/run.py

For each model all servers run at once, and are loaded one at a time, in turns: `tiltyard-load run --protocol json`, which
every one of them answers. Before that, each must give the same numbers for the same request.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OURS = "tiltyard"
OTHERS = ["fastapi", "mosec", "mlserver", "pytriton"]
# A stretch of the large ones is longer.
MODELS = {"mlp": 1, "gbdt": 1, "minilm": 2, "resnet18": 4}
READY_SECONDS = 120
QUIET_SECONDS = 60
# A stretch without a good answer to its first request.
NOTHING = {"requests_per_second": 0.0, "failures": {"no answer": 1}, "unanswered": 0}
RELATIVE, ABSOLUTE = 1e-3, 1e-4


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def plan(server, model, arguments, folder):
    """The command, what it needs in its environment, and the port for HTTP."""
    file = arguments.models.resolve() / model / "1/model.onnx"
    http, grpc, metrics = free_ports(3)
    env = {"BENCH_MODEL": model, "BENCH_FILE": str(file), "PYTHONPATH": str(HERE)}
    scripts = pathlib.Path(sys.executable).parent
    if server == OURS:
        (folder / "models" / model).mkdir(parents=True)
        (folder / "models" / model / "1").symlink_to(file.parent)
        command = [arguments.server.resolve(), "serve", "--models", folder / "models", "--data-dir", folder / "data"]
        command += ["--http-port", http, "--grpc-port", grpc, "--admin-port", metrics, "--log-level", "warn", "--strict"]
        command += arguments.flags
    elif server == "fastapi":
        command = [sys.executable, "-m", "uvicorn", "serve_fastapi:app", "--host", "127.0.0.1", "--port", http]
        command += ["--workers", 1, "--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
    elif server == "mosec":
        command = [sys.executable, HERE / "serve_mosec.py", "--address", "127.0.0.1", "--port", http]
        command += ["--path", folder / "sockets", "--log-level", "warning", "--timeout", 60000]
        command += ["--max-request-size", 2**26]
    elif server == "mlserver":
        settings = {"name": model, "implementation": "serve_mlserver.OnnxModel", "parameters": {"version": "1"}}
        settings |= {"max_batch_size": 64, "max_batch_time": 0.001}
        (folder / "model-settings.json").write_text(json.dumps(settings))
        env |= {"MLSERVER_HOST": "127.0.0.1", "MLSERVER_HTTP_PORT": str(http), "MLSERVER_GRPC_PORT": str(grpc)}
        env |= {"MLSERVER_METRICS_PORT": str(metrics), "MLSERVER_DEBUG": "false", "MLSERVER_PARALLEL_WORKERS": "0"}
        command = [scripts / "mlserver", "start", folder]
    else:
        env |= {"BENCH_PORTS": f"{http},{grpc},{metrics}", "PYTRITON_HOME": str(folder / "home")}
        # Triton loads Python by itself, and would take another one that the system has.
        env["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
        command = [sys.executable, HERE / "serve_pytriton.py"]
    return [str(part) for part in command], env, http


def request(model):
    """A request of one row whose answer is the same everywhere."""
    numbers = np.random.default_rng(1)
    if model == "minilm":
        ids = numbers.integers(1000, 30000, 32).tolist()
        tensors = [("input_ids", "INT64", [1, 32], ids), ("attention_mask", "INT64", [1, 32], [1] * 32)]
    elif model == "resnet18":
        tensors = [("image", "FP32", [1, 3, 224, 224], numbers.random(3 * 224 * 224).round(4).tolist())]
    else:
        tensors = [("features", "FP32", [1, 30], numbers.random(30).round(4).tolist())]
    keys = ("name", "datatype", "shape", "data")
    return json.dumps({"inputs": [dict(zip(keys, tensor)) for tensor in tensors]}).encode()


def cpu_seconds(session):
    """What all processes of a session have used so far."""
    ticks = 0
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        # It may end between the listing and the look.
        with contextlib.suppress(OSError):
            fields = file.read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


class Server:
    """A running server of one model, ended with the block that it is used in."""

    def __init__(self, name, model, arguments, folder):
        folder.mkdir(parents=True)
        command, env, self.port = plan(name, model, arguments, folder)
        self.name, self.model, self.log = name, model, folder / "log"
        with self.log.open("w") as log:
            # A session of its own, so that all its processes can be ended together.
            self.process = subprocess.Popen(
                command, env=os.environ | env, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=10)

    def answer(self, body):
        """The outputs' numbers, by name."""
        url = f"http://127.0.0.1:{self.port}/v2/models/{self.model}/infer"
        asked = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return {each["name"]: np.ravel(each["data"]) for each in json.load(answer)["outputs"]}

    def wait(self, body):
        """The first answer; ends the program with what the server said where there is none."""
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                return self.answer(body)
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise SystemExit(f"{self.name} does not answer for {self.model}; it said:\n{self.log.read_text()[-3000:]}")

    def wait_until_quiet(self):
        """What a server does while nobody asks must not show in the others' figures, nor theirs in what it measures."""
        until, quiet = time.monotonic() + QUIET_SECONDS, 0
        while quiet < 3 and time.monotonic() < until:
            before = cpu_seconds(self.process.pid)
            time.sleep(0.5)
            quiet = quiet + 1 if cpu_seconds(self.process.pid) - before <= 0.05 else 0

    def load(self, concurrency, longer, arguments, file):
        command = [arguments.load, "run", "--target", f"127.0.0.1:{self.port}", "--protocol", "json"]
        command += ["--model", self.model, "--concurrency", str(concurrency), "--server-pid", str(self.process.pid)]
        command += ["--duration", f"{int(arguments.duration * longer * 1000)}ms"]
        command += ["--warmup", f"{int(arguments.warmup * longer * 1000)}ms", "--json", file]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            log = self.log.read_text()[-2000:]
            print(f"{self.name}, {self.model}: {done.stderr}\nits log ends:\n{log}", file=sys.stderr)
        summary = json.loads(file.read_text()) if done.returncode == 0 else NOTHING
        if failed(summary):
            # It may still work on what nobody waits for any more.
            self.wait_until_quiet()
        return summary


def check(servers, body):
    """Ends the program where a server's numbers are not those of the first one."""
    expected, *others = [(server, server.wait(body)) for server in servers]
    for server, outputs in others:
        for name, numbers in expected[1].items():
            if not np.allclose(outputs.get(name, np.nan), numbers, RELATIVE, ABSOLUTE):
                raise SystemExit(f"{server.name}, {server.model}: {name} is not what {expected[0].name} answers")


def measure(model, arguments, folder):
    """The rounds of each server and concurrency."""
    rounds = {}
    body = request(model)
    with contextlib.ExitStack() as running:
        start = lambda name: running.enter_context(Server(name, model, arguments, folder / name))
        ours = start(OURS)
        ours.wait(body)
        ours.wait_until_quiet()
        servers = [ours, *map(start, arguments.others)]
        check(servers, body)
        for number in range(arguments.rounds):
            for concurrency in arguments.concurrency:
                # Every second round goes backwards, so that nobody is always the first.
                for server in servers if number % 2 == 0 else reversed(servers):
                    summary = server.load(concurrency, MODELS[model], arguments, folder / "summary.json")
                    rounds.setdefault((concurrency, server.name), []).append(summary)
                    rate = summary["requests_per_second"]
                    print(f"round {number + 1}: {model}, {concurrency}, {server.name}: {rate:.0f}/s", file=sys.stderr)
    return rounds


def median(values):
    """Of what is known; not a number where an answer took longer than every stretch."""
    return statistics.median([value for value in values if value == value] or [float("nan")])


def failed(summary):
    return sum(summary["failures"].values()) + summary["unanswered"]


def figure(read):
    """A figure of a round, if anything was answered in it."""
    return lambda summary: read(summary) if summary["requests_per_second"] > 0 else float("nan")


FIGURES = {
    "inferences/s": figure(lambda summary: summary["requests_per_second"]),
    "CPU µs each": figure(lambda summary: summary["server"]["cpu_us_per_request"]),
    "p50 ms": figure(lambda summary: summary["latency_us"]["p50"] / 1e3),
    "p99 ms": figure(lambda summary: summary["latency_us"]["p99"] / 1e3),
}


def told(value, unit=""):
    """A number with as many digits as mean something."""
    if value != value:
        return "–"
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}") + unit


def table(rounds, arguments):
    """Medians, and the medians of ours by theirs of the same round: throughput, and their processor time by ours."""
    rate, cpu = FIGURES["inferences/s"], FIGURES["CPU µs each"]
    columns = ["model", "in flight", "server", *FIGURES, "spread", "ours by theirs", "their CPU by ours", "failed"]
    print(f"\n| {' | '.join(columns)} |\n|---|---|---{'|---:' * (len(columns) - 3)}|")
    for model in arguments.models_chosen:
        for concurrency in arguments.concurrency:
            ours = rounds[model][concurrency, OURS]
            for name in (OURS, *arguments.others):
                theirs = rounds[model][concurrency, name]
                rates = [rate(each) for each in theirs if rate(each) > 0] or [float("nan")]
                pairs = list(zip(ours, theirs))
                cells = [told(median([read(each) for each in theirs])) for read in FIGURES.values()]
                cells.append(told((max(rates) - min(rates)) / median(rates) * 100, " %"))
                cells.append(told(median([rate(mine) / rate(other) for mine, other in pairs]), "x"))
                # Hundredths of a second are all that the kernel tells: a short stretch may have used none.
                cells.append(told(median([cpu(other) / (cpu(mine) or float("nan")) for mine, other in pairs]), "x"))
                cells.append(str(sum(failed(each) for each in theirs)))
                print(f"| {model} | {concurrency} | {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", type=pathlib.Path, default=ROOT / "target/release/tiltyard", help="our program")
    parser.add_argument("--load", type=pathlib.Path, default=ROOT / "target/release/tiltyard-load", help="the generator")
    parser.add_argument("--models", type=pathlib.Path, default=ROOT / "target/bench-models", help="what make.py made")
    parser.add_argument("--only", dest="models_chosen", nargs="+", choices=MODELS, default=list(MODELS), help="models")
    parser.add_argument("--others", nargs="*", choices=OTHERS, default=OTHERS, help="servers beside ours")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 64], help="requests in flight")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in turns")
    parser.add_argument("--duration", type=float, default=1.5, help="seconds of each stretch; large models take longer")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before each stretch")
    parser.add_argument("--json", type=pathlib.Path, help="a file for all rounds")
    parser.add_argument("flags", nargs="*", help="further flags for our server, after --")
    arguments = parser.parse_args()
    rounds = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models_chosen:
            rounds[model] = measure(model, arguments, pathlib.Path(folder) / model)
    if arguments.json:
        flat = {model: {f"{name}, {count}": all_ for (count, name), all_ in rounds[model].items()} for model in rounds}
        arguments.json.write_text(json.dumps(flat, indent=1))
    table(rounds, arguments)


if __name__ == "__main__":
    main()
