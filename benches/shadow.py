"""What do shadows cost the requests that they watch? Prints a table and the ratio of the 99th percentiles.

    python3 benches/shadow.py [ROUNDS] [SECONDS]

Needs `onnx` (`tests/clients/requirements.txt`) and a release build of server and benches. Two servers answer in turns with
the same model, each stopped while the other is measured: one without shadows, and one with four that see everything, of which
one hangs, one fails, one takes milliseconds, and one is ten times as heavy as the champion. Open loop at 40 % of what the
first can do in a closed one.
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
import sys
import tempfile
import time
import urllib.request

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 3
WIDTH, HIDDEN, LOAD = 64, 256, 0.4
HEAVIER = 10
# Student's t, one-sided 95 %, for the degrees of freedom that there are here.
T95 = {9: 1.833, 19: 1.729, 29: 1.699, 39: 1.685}


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def model(nodes, weights):
    row = ["batch", WIDTH]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(
        nodes, "m", [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)], initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def layers(count, hidden=HIDDEN):
    """y: so many layers of x."""
    draw = np.random.default_rng(7)
    weights, nodes, last = {}, [], "x"
    for number in range(count):
        weights[f"a{number}"] = draw.normal(0, WIDTH ** -0.5, (WIDTH, hidden)).astype(np.float32)
        weights[f"b{number}"] = draw.normal(0, hidden ** -0.5, (hidden, WIDTH)).astype(np.float32)
        out = "y" if number == count - 1 else f"z{number}"
        nodes += [node("MatMul", f"{last} a{number}", f"h{number}"), node("Relu", f"h{number}", f"r{number}"),
                  node("MatMul", f"r{number} b{number}", out)]
        last = out
    return model(nodes, weights)


# What loading tries a model with is above this, and of the load's 64 values hardly all are.
BELOW = {"edge": np.float32(-0.6)}
IS_LOAD = [node("ReduceMin", "x", "least", keepdims=0), node("Less", "least edge", "is_load")]


def hangs():
    body = helper.make_graph(
        [node("Identity", "go", "still"), node("Sin", "before", "after")], "step",
        [helper.make_tensor_value_info("at", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("before", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []),
         helper.make_tensor_value_info("after", TensorProto.FLOAT, [])])
    loop = helper.make_node("Loop", ["steps", "", "zero"], ["nothing"], body=body)
    nodes = IS_LOAD + [node("Cast", "is_load", "one", to=TensorProto.INT64), node("Mul", "one many", "steps"), loop,
                       node("Add", "x nothing", "y")]
    return model(nodes, BELOW | {"many": np.int64(10 ** 11), "zero": np.float32(0)})


def fails():
    nodes = IS_LOAD + [node("Cast", "is_load", "index", to=TensorProto.INT64),
                       node("Gather", "table index", "nothing"), node("Add", "x nothing", "y")]
    return model(nodes, BELOW | {"table": np.zeros(1, np.float32)})


SHADOWS = {"hangs": 2, "fails": 3, "slow": 4, "heavy": 5}


def put(root):
    versions = [layers(1), hangs(), fails(), layers(8, 4096), layers(HEAVIER)]
    for version, content in enumerate(versions, 1):
        folder = root / "m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(content)
    (root / "m" / "model.toml").write_text('version_policy = "all"\n')


class Server:
    def __init__(self, models, folder, shadows):
        folder.mkdir()
        self.ports_file = folder / "ports.json"
        command = [BUILT / "tiltyard", "serve", "--models", models, "--data-dir", folder / "data", "--http-port", "0",
                   "--grpc-port", "0", "--admin-port", "0", "--ports-file", self.ports_file, "--settle-time", "0s",
                   "--version-policy", "all", "--model-control", "none"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not self.ports_file.exists():
            assert self.process.poll() is None, "the server ended"
            time.sleep(0.05)
        self.ports = json.loads(self.ports_file.read_text())
        while not self.is_ready():
            time.sleep(0.05)
        lines = ['key = "per_request"', "[[arms]]", 'name = "champion"', "version = 1", 'role = "champion"']
        for name in shadows:
            lines += ["[[arms]]", f'name = "{name}"', f"version = {SHADOWS[name]}", 'role = "shadow"']
        (folder / "m.toml").write_text("\n".join(lines))
        subprocess.run([BUILT / "tiltyard", "apply", "-f", folder / "m.toml", "--ports-file", self.ports_file], check=True,
                       stdout=subprocess.DEVNULL)

    def is_ready(self):
        with contextlib.suppress(OSError):
            address = f"http://127.0.0.1:{self.ports['http']}/v2/health/ready"
            return urllib.request.urlopen(address, timeout=1).status == 200

    def admin(self, path):
        return json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}{path}", timeout=5))

    def load(self, *flags, seconds=SECONDS):
        out = self.ports_file.with_name("load.json")
        command = [BUILT / "tiltyard-load", "run", "--target", f"127.0.0.1:{self.ports['grpc']}", "--model",
                   f"m=x:FP32:{WIDTH}", "--warmup", "1s", "--duration", f"{seconds}s", "--json", out, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())

    def signal(self, number):
        self.process.send_signal(number)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        put(folder / "models")
        servers = {"without": Server(folder / "models", folder / "without", [])}
        servers["with"] = Server(folder / "models", folder / "with", SHADOWS)
        try:
            measure(servers)
        finally:
            for server in servers.values():
                server.signal(signal.SIGKILL)


def measure(servers):
    time.sleep(5)  # What is measured in idle time is measured first.
    servers["with"].signal(signal.SIGSTOP)
    most = servers["without"].load("--concurrency", "16")
    rate = round(LOAD * most["requests_per_second"])
    print(f"closed loop {most['requests_per_second']:.0f} requests/s, open loop at {rate}/s, {ROUNDS} rounds of {SECONDS} s each")
    found = {name: [] for name in servers}
    for number in range(ROUNDS):
        for name in random.sample(sorted(servers), 2):
            for other, server in servers.items():
                server.signal(signal.SIGCONT if other == name else signal.SIGSTOP)
            told = servers[name].load("--rate", str(rate), "--seed", str(number))
            assert not told["failures"], told
            found[name].append(told["latency_us"])
    servers["with"].signal(signal.SIGCONT)
    for percentile in ("p50", "p99"):
        ratios = [math.log(b[percentile] / a[percentile]) for a, b in zip(found["without"], found["with"])]
        mean, error = statistics.mean(ratios), statistics.stdev(ratios) / math.sqrt(len(ratios))
        bound = mean + T95.get(len(ratios) - 1, 1.645) * error
        medians = {name: statistics.median(told[percentile] for told in all_) for name, all_ in found.items()}
        print(f"{percentile}: {medians['without']:.0f} µs without, {medians['with']:.0f} µs with (medians of rounds); "
              f"ratio {math.exp(mean):.3f}, upper 95 % bound {math.exp(bound):.3f}")
    for form in servers["with"].admin("/admin/endpoints/m/shadows")["shadows"]:
        told = ", ".join(f"{key} {form[key]}" for key in ("offered", "sampled", "compared", "errors", "dropped", "state"))
        print(f"{form['arm']}: {told}")


if __name__ == "__main__":
    main()
