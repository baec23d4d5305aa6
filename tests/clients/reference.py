"""What would ONNX Runtime itself have answered?"""

import functools
import json

import ml_dtypes
import numpy as np
import onnxruntime

import serving

onnxruntime.set_default_logger_severity(3)  # the oddities that it warns of are what the fixtures are for

NUMPY = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}
DATATYPES = {np.dtype(kind): name for name, kind in NUMPY.items()}


class Case:
    """A golden example: a model's version with inputs and tolerances, and what must come out."""

    def __init__(self, file):
        self.version = file.parents[1].name
        self.model = file.parents[2].name
        self.name = f"{self.model}-{self.version}-{file.stem}"
        content = json.loads(file.read_text())
        self.inputs = {item["name"]: array_of(item) for item in content["inputs"]}
        self.absolute, self.relative = content["tolerance"]["absolute"], content["tolerance"]["relative"]
        self.expected = answer(self.model, self.version, self.inputs)

    def check(self, outputs):
        """`outputs` by name must be all that ONNX Runtime answers, and the same."""
        assert outputs.keys() == self.expected.keys()
        for name, expected in self.expected.items():
            same(outputs[name], expected, self.absolute, self.relative)


def array_of(item):
    """The array of a tensor as the protocol's JSON has it."""
    data = item["data"]
    if item["datatype"] == "BYTES":
        data = [text.encode() for text in data]
    return np.array(data, NUMPY[item["datatype"]]).reshape(item["shape"])


def model_path(model, version):
    for root in (serving.SAMPLES, serving.FIXTURES):
        path = root / model / str(version) / "model.onnx"
        if path.exists():
            return path
    raise FileNotFoundError(f"{model}/{version}")


@functools.cache
def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answer(model, version, inputs):
    """ONNX Runtime's outputs by name; text as bytes."""
    if model == "identity_bf16":  # Python's ONNX Runtime cannot be handed this type; what goes in comes out
        return {"output": inputs["input"]}
    made = session(model_path(model, version))
    names = [output.name for output in made.get_outputs()]
    texts = {name: text_of(array) for name, array in inputs.items()}
    return {name: bytes_of(matrix_of(array)) for name, array in zip(names, made.run(names, texts))}


def matrix_of(output):
    """An array as it is; the maps of a classifier as rows of scores, as which they are served."""
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return np.array([list(row.values()) for row in output], np.float32)
    return output


def text_of(array):
    return map_elements(array, lambda item: item.decode()) if array.dtype == object else array


def bytes_of(array):
    array = np.asarray(array)
    return map_elements(array, str.encode) if array.dtype == object else array


def map_elements(array, function):
    mapped = np.empty(array.shape, object)
    mapped.ravel()[:] = [function(item) for item in array.ravel()]
    return mapped


def same(got, expected, absolute=1e-5, relative=1e-4):
    """Type, shape and values; floats within tolerance, where not-a-number equals itself; text to the byte."""
    got = np.asarray(got)
    if got.dtype == object and got.size and isinstance(got.ravel()[0], str):
        got = map_elements(got, str.encode)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if expected.dtype == object:
        assert got.tolist() == expected.tolist()
    elif np.issubdtype(expected.dtype, np.floating) or expected.dtype == ml_dtypes.bfloat16:
        got, expected = got.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_allclose(got, expected, rtol=relative, atol=absolute)
        if absolute == relative == 0:  # then minus zero counts too
            assert np.signbit(got)[expected == 0].tolist() == np.signbit(expected)[expected == 0].tolist()
    else:
        np.testing.assert_array_equal(got, expected)


def golden_files():
    """Every golden example of the sample models and the fixtures."""
    files = sorted([*serving.SAMPLES.glob("*/*/golden/*.json"), *serving.FIXTURES.glob("*/*/golden/*.json")])
    assert len(files) > 50
    return files


@functools.cache
def case(file):
    return Case(file)
