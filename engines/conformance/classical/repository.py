"""How does a model become a version with golden examples of what ONNX Runtime answers?"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

import rows

onnxruntime.set_default_logger_severity(4)

WIRE = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "bool": "BOOL", "object": "BYTES",
        "int8": "INT8", "uint8": "UINT8", "int16": "INT16", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64"}
# Scores may be off by this part of themselves. Near zero, where terms cancel each other, that part is taken of the largest
# score that the model gives to rows as it was trained on.
RELATIVE = 1e-6
# Where a score is a sum over a row's products, its terms may be some times as large as any score: there, this many times that part.
SUMS, OF_SUMS = {"LinearClassifier", "LinearRegressor", "SVMClassifier", "SVMRegressor", "MatMul", "Gemm"}, 5
# Probabilities of scores in the hundreds, as tables that are not scaled give: single precision knows such a score to about
# 3e-5, and its probability no better, whatever the order of the sum. And what a function as steep as PROBIT makes of a score.
# About twice what was seen, since sums are rounded elsewhere on other processors.
FLOORS = {"cls.complement_bayes": 6e-4, "cls.multinomial_bayes": 6e-4, "cls.bernoulli_bayes": 2e-5,
          "cls.gaussian_bayes": 4e-5, "cls.lda": 3e-5, "cls.logistic.": 1e-5, "cls.rest_logistic.": 1e-5,
          "cls.ridge_cv.": 1e-5, "cls.sgd_log.": 4e-5, "cls.stacking.": 1e-5,
          "cls.tuned_threshold": 1e-5, "cls.voting_": 2e-5, ".probit": 2e-4}


# Models that their exporter or ONNX Runtime refuses, as they are known to.
REFUSED = {line.split()[0] for line in (pathlib.Path(__file__).parent / "refused.txt").read_text().splitlines()}


class Repository:
    """A folder of models. `only` is a part of the names that are wanted."""

    def __init__(self, folder, only=""):
        self.folder, self.only, self.names, self.examples = folder, only, [], 0
        self.refused = {}

    def wants(self, name):
        assert name not in self.names, f"{name} is there twice"
        return self.only in name

    def begins(self, name):
        """Whether any model is wanted that is called `name` or begins so."""
        return self.only in name or name in self.only

    def add(self, name, export, inputs, special=True):
        """Writes what `export()` gives as `name`, with examples drawn from `inputs`: by name an array of rows by columns each.

        Models that the exporter or ONNX Runtime refuses are noted instead."""
        if not self.wants(name):
            return
        try:
            self.add_model(name, export(), inputs, special)
        except Exception as error:
            self.refused[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

    def add_model(self, name, model, inputs, special):
        content = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
        model = onnx.load_from_string(content)
        asker, random = Asker(model, content), rows.chance(name)
        count = len(next(iter(inputs.values())))
        pick = lambda n: {key: array[random.integers(0, count, n)] for key, array in inputs.items()}
        cases = {"one_row": pick(1), "rows": pick(24), "many_rows": pick(150)}
        if special and (splits := rows.thresholds(model)):
            cases["thresholds"] = rows.on_thresholds(inputs, splits, random)
        if special:
            cases["special"] = rows.with_special(inputs, random)
        answered = {case: asker.answer_what_can_be(asked) for case, asked in cases.items()}
        floor = max((floor for part, floor in FLOORS.items() if part in name), default=0.0)
        largest = max([finite_max(array) for array in answered["rows"][1].values()], default=0.0)
        part = RELATIVE * (OF_SUMS if SUMS & {node.op_type for node in model.graph.node} else 1)
        for case, (asked, answer) in answered.items():
            if answer:
                self.write(name, case, content, asked, answer, max(part * largest, floor))

    def write(self, name, case, content, asked, answer, absolute, relative=RELATIVE):
        """Writes one golden example, and the model with the first."""
        golden = self.folder / name / "1" / "golden"
        if not golden.exists():
            golden.mkdir(parents=True)
            (golden.parent / "model.onnx").write_bytes(content)
            self.names.append(name)
        example = {"inputs": [tensor(*item) for item in asked.items()],
                   "outputs": [tensor(*item) for item in answer.items()],
                   "tolerance": {"absolute": absolute, "relative": relative}}
        (golden / f"{case}.json").write_text(json.dumps(example) + "\n")
        self.examples += 1


class Asker:
    """ONNX Runtime with one thread, and how its answers look as tensors."""

    def __init__(self, model, content):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.labels = {node.output[0]: zip_labels(node) for node in model.graph.node if node.op_type == "ZipMap"}

    def answer(self, asked):
        """What is answered, by output; a sequence of maps as its values in the order of the ZipMap's labels."""
        answers = dict(zip(self.outputs, self.session.run(None, asked)))
        return {name: self.dense(name, answer) for name, answer in answers.items()}

    def dense(self, name, answer):
        if isinstance(answer, list):
            return np.array([[row[label] for label in self.labels[name]] for row in answer], np.float32)
        return answer

    def answer_what_can_be(self, asked):
        """The rows that ONNX Runtime answers, with its answers: it refuses some words and numbers."""
        try:
            return asked, self.answer(asked)
        except Exception as error:
            if isinstance(error, KeyError | AssertionError):
                raise
        kept = [row for row in range(len(next(iter(asked.values())))) if self.answers(
            {name: array[row:row + 1] for name, array in asked.items()})]
        if not kept:
            return asked, {}
        asked = {name: array[kept] for name, array in asked.items()}
        return asked, self.answer(asked)

    def answers(self, asked):
        try:
            return bool(self.answer(asked))
        except Exception:
            return False


def zip_labels(node):
    (labels,) = [onnx.helper.get_attribute_value(attribute) for attribute in node.attribute]
    return [label.decode() if isinstance(label, bytes) else label for label in labels]


def finite_max(array):
    if array.dtype.kind != "f":
        return 0.0
    return float(np.max(np.abs(array[np.isfinite(array)]), initial=0.0))


def tensor(name, array):
    """A tensor as the protocol's JSON has it. A float is written as short as its own type reads it back."""
    array = np.asarray(array)
    if array.dtype.kind == "U":
        array = array.astype(object)
    values = array.ravel()
    data = [float(str(value)) for value in values] if array.dtype == np.float32 else values.tolist()
    return {"name": name, "datatype": WIRE[str(array.dtype)], "shape": list(array.shape), "data": data}
