"""What do the other servers share: the model's session, and the Open Inference Protocol's JSON?

`BENCH_MODEL` is the model's name and `BENCH_FILE` its file. None of the sessions spins while it waits for work: on a
machine where the load's generator has the same cores, that is what makes all of them faster.
"""

import os

import numpy as np
import onnxruntime
import orjson

NAME = os.environ["BENCH_MODEL"]
ROWS_MAX = 64

KINDS = {
    "tensor(float)": ("FP32", np.float32),
    "tensor(int64)": ("INT64", np.int64),
}
TYPES = {kind: numpy_type for kind, numpy_type in KINDS.values()}
NAMES = {np.dtype(numpy_type): kind for kind, numpy_type in KINDS.values()}


def session():
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(os.environ["BENCH_FILE"], options, providers=["CPUExecutionProvider"])


def read(body):
    """The tensors of a request's body, by name."""
    inputs = orjson.loads(body)["inputs"]
    return {each["name"]: np.asarray(each["data"], TYPES[each["datatype"]]).reshape(each["shape"]) for each in inputs}


def write(names, tensors):
    """The body of the answer."""
    outputs = [
        {"name": name, "datatype": NAMES[tensor.dtype], "shape": tensor.shape, "data": np.ravel(tensor)}
        for name, tensor in zip(names, tensors)
    ]
    answer = {"model_name": NAME, "model_version": "1", "outputs": outputs}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def run_together(a_session, requests):
    """Runs requests, each a mapping from names to tensors, as one batch, and gives each its outputs."""
    if len(requests) == 1:
        return [a_session.run(None, requests[0])]
    names = requests[0].keys()
    outputs = a_session.run(None, {name: np.concatenate([each[name] for each in requests]) for name in names})
    rows = [len(next(iter(each.values()))) for each in requests]
    ends = np.cumsum(rows)
    return [[output[end - count : end] for output in outputs] for count, end in zip(rows, ends)]
