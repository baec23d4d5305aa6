"""What do shadows cost the requests that they watch? Prints a table and the ratio of the 99th percentiles.

    python3 benches/shadow.py [ROUNDS] [SECONDS]

Needs `onnx` (`tests/clients/requirements.txt`) and a release build of server and benches. Two servers answer in turns with
the same model, each stopped while the other is measured: one without shadows, and one with four that see everything, of which
one hangs, one fails, one is three and one ten times as heavy as the champion. Open loop at 40 % of what the
first can do in a closed one.
"""

import pathlib
import signal
import statistics
import sys
import tempfile
import time

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from inturns import Server, alone, ratio, rounds

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 3
WIDTH, HIDDEN, LOAD = 64, 256, 0.4
# Rows cost a part of a millisecond, so that the processors are the server's and hardly the generator's.
CHAMPION = (4, 4096)
HEAVIER = 10


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
    count, hidden = CHAMPION
    versions = [layers(count, hidden), hangs(), fails(), layers(3 * count, hidden), layers(HEAVIER * count, hidden)]
    for version, content in enumerate(versions, 1):
        folder = root / "m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(content)
    (root / "m" / "model.toml").write_text('version_policy = "all"\n')


def plan():
    lines = ['key = "per_request"', "[[arms]]", 'name = "champion"', "version = 1", 'role = "champion"']
    for name, version in SHADOWS.items():
        lines += ["[[arms]]", f'name = "{name}"', f"version = {version}", 'role = "shadow"']
    return "\n".join(lines)


ALONE = 'key = "per_request"\n[[arms]]\nname = "champion"\nversion = 1\nrole = "champion"\n'


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        put(folder / "models")
        servers = {"without": Server(folder / "models", folder / "without", ALONE)}
        servers["with"] = Server(folder / "models", folder / "with", plan())
        try:
            measure(servers)
        finally:
            for server in servers.values():
                server.signal(signal.SIGKILL)


def load(server, *flags):
    told = server.load(*flags, model=f"m=x:FP32:{WIDTH}", seconds=SECONDS)
    assert not told["failures"], told
    return told


def measure(servers):
    time.sleep(5)  # What is measured in idle time is measured first.
    with alone(servers, "without") as server:
        most = load(server, "--concurrency", "16")["requests_per_second"]
    rate = round(LOAD * most)
    print(f"closed loop {most:.0f} requests/s, open loop at {rate}/s, {ROUNDS} rounds of {SECONDS:g} s each")
    found = rounds(servers, ROUNDS, lambda server, number: load(server, "--rate", str(rate), "--seed", str(number)))
    for percentile in ("p50", "p99"):
        sides = {name: [told["latency_us"][percentile] for told in all_] for name, all_ in found.items()}
        mean, bound = ratio(sides["without"], sides["with"])
        medians = {name: statistics.median(side) for name, side in sides.items()}
        print(f"{percentile}: {medians['without']:.0f} µs without, {medians['with']:.0f} µs with (medians of rounds); "
              f"ratio {mean:.3f}, upper 95 % bound {bound:.3f}")
    for form in servers["with"].admin("/admin/endpoints/m/shadows")["shadows"]:
        told = ", ".join(f"{key} {form[key]}" for key in ("offered", "sampled", "compared", "errors", "dropped", "state"))
        print(f"{form['arm']}: {told}")


if __name__ == "__main__":
    main()
