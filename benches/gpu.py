"""Does a GPU answer as the processor does, with and without graphs, and how fast?

    python3 benches/gpu.py [--provider cuda] [--load]

Copies the benches' models three times (processor, device, device with graphs), serves each copy, asks all the same, and
prints how far the answers are apart. With --load it then runs `tiltyard-load compare --sections models` on each copy. Ends
with 1 where an answer is further away than --tolerance, or a server does not start.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = (1, 3, 8, 16)

# Of these more than the number of rows is open, or nodes are left to the processor.
NO_GRAPHS = {"gbdt", "minilm"}


def make(models, folder, provider, graphs):
    """A copy of the models with settings of their own."""
    for model in sorted(path for path in models.iterdir() if (path / "1/model.onnx").exists()):
        if graphs and model.name in NO_GRAPHS:
            continue
        (folder / model.name / "1").mkdir(parents=True)
        shutil.copy(model / "1/model.onnx", folder / model.name / "1")
        settings = f'engine = "onnxruntime"\nproviders = ["{provider}"]\n\n[batching]\nrows_max = 16\n'
        if graphs:
            settings += "\n[provider.cuda]\ncuda_graphs = true\n"
        (folder / model.name / "model.toml").write_text(settings)
    return folder


def call(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=120) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def start(server, folder, flags):
    """The server's process and address, once every model is ready."""
    ports = folder.parent / f"{folder.name}.json"
    command = [server, "serve", "--models", folder, "--data-dir", folder.parent / f"{folder.name}-data", "--ports-file", ports]
    command += ["--http-port", "0", "--grpc-port", "0", "--admin-port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        try:
            base = f"http://127.0.0.1:{json.loads(ports.read_text())['http']}/v2"
            call(f"{base}/health/ready")
        except (OSError, ValueError, urllib.error.URLError):
            time.sleep(0.1)
            continue
        # Each model is served or refused by now.
        refused = [model for model in call(f"{base}/repository/index", {}) if model.get("state") != "READY"]
        if not refused:
            return process, base
        stop(process)
        raise SystemExit("\n".join(f"{folder.name}: {model['name']}: {model.get('reason')}" for model in refused))
    process.kill()
    raise SystemExit(f"{folder.name}: the server did not become ready; try it by hand")


def request(spec, rows):
    """The same values for the same model and rows, whoever is asked."""
    values = random.Random(f"{spec['name']} {rows}")
    inputs = []
    for tensor in spec["inputs"]:
        shape = [rows] + [axis if axis > 0 else 32 for axis in tensor["shape"][1:]]
        count = 1
        for axis in shape:
            count *= axis
        if tensor["datatype"] == "INT64":
            data = [1 if "mask" in tensor["name"] else values.randrange(1000) for _ in range(count)]
        else:
            data = [round(values.uniform(-1, 1), 4) for _ in range(count)]
        inputs.append({"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": data})
    return {"inputs": inputs}


def answers(base):
    """By model and rows: all values of all outputs."""
    found = {}
    for model in call(f"{base}/repository/index", {}):
        spec = call(f"{base}/models/{model['name']}")
        for rows in ROWS:
            outputs = call(f"{base}/models/{model['name']}/infer", request(spec, rows))["outputs"]
            found[model["name"], rows] = [value for output in outputs for value in output["data"]]
    return found


def stop(process):
    process.terminate()
    process.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, default=ROOT / "target/bench-models", help="what benches/models/make.py made")
    parser.add_argument("--server", type=pathlib.Path, default=ROOT / "target/release/tiltyard")
    parser.add_argument("--provider", default="cuda", help="cpu rehearses all but the graphs")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="of a value, absolute: TensorFloat-32 is on unless said")
    parser.add_argument("--load", action="store_true", help="also measure each copy")
    parser.add_argument("flags", nargs="*", help="further flags for the servers, after --")
    arguments = parser.parse_args()
    kinds = {"cpu": ("cpu", False), arguments.provider: (arguments.provider, False)}
    if arguments.provider == "cuda":
        kinds["cuda-graphs"] = ("cuda", True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        expected = {}
        for kind, (provider, graphs) in kinds.items():
            folder = pathlib.Path(temporary) / kind
            folder.mkdir()
            make(arguments.models, folder, provider, graphs)
            process, base = start(arguments.server, folder, arguments.flags)
            try:
                found = answers(base)
            finally:
                stop(process)
            expected = expected or found
            for (model, rows), values in found.items():
                distance = max(abs(a - b) for a, b in zip(values, expected[model, rows], strict=True))
                print(f"{kind:<12} {model:<10} {rows:>3} rows  {distance:.2e}", flush=True)
                worst = max(worst, distance)
        for kind in kinds if arguments.load else ():
            folder = pathlib.Path(temporary) / kind
            names = ",".join(sorted(path.name for path in folder.iterdir()))
            command = [arguments.server.parent / "tiltyard-load", "compare", "--sections", "models", "--only", names]
            command += ["--server", arguments.server, "--models", folder, "--out", ROOT / "target/bench" / kind]
            print(f"== {kind}: target/bench/{kind}/table.md", flush=True)
            subprocess.run([*command, "--", *arguments.flags], check=True)
    if worst > arguments.tolerance:
        sys.exit(f"answers are up to {worst:.2e} apart; expected {arguments.tolerance:.0e}")


if __name__ == "__main__":
    main()
