"""Which rows are the classical models trained on, and which are they asked about?

Data comes from the files inside scikit-learn alone. Rows to ask are drawn from it; further ones lie on the thresholds
of a model's trees and beside them, and hold what no training row has: NaN, infinities, minus zero, unknown words.
"""

import functools
import zlib

import numpy as np
import onnx
from onnx import numpy_helper
from sklearn import datasets

# What one cell of a row may hold; the numbers are large and small, but no square of theirs leaves single precision.
SPECIAL = {
    "float32": [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e15, -1e15, 1e-40],
    "float64": [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e15, -1e15, 1e-310, 1 + 2.0**-40],
    "int64": [0, -1, 1, 2**53 + 1, -(2**63), 2**63 - 1],
    "int32": [0, -1, 1, 2**24 + 1, -(2**31), 2**31 - 1],
    "bool": [False, True],
    "object": ["", "never seen", "0", "1.0", "Ünïcode", "NaN"],
}


class Data:
    """A table to learn from: `x` in single precision, rows by columns, and `y`."""

    def __init__(self, name, x, y):
        self.name, self.x, self.y = name, np.asarray(x, np.float32), np.asarray(y)

    def first_target(self):
        return Data(self.name, self.x, self.y[:, 0]) if self.y.ndim == 2 else self


@functools.cache
def classified():
    """Tables with classes: whole numbers, and words for some."""
    iris, wine, cancer = datasets.load_iris(), datasets.load_wine(), datasets.load_breast_cancer()
    digits = datasets.load_digits()
    return {
        data.name: data for data in [
            Data("iris", iris.data, iris.target),
            Data("digits", digits.data[:500], digits.target[:500]),
            Data("wine", wine.data, wine.target_names[wine.target]),
            Data("cancer", cancer.data, cancer.target),
            Data("cancer_named", cancer.data[:, :10], cancer.target_names[cancer.target]),
        ]
    }


@functools.cache
def measured():
    """Tables with numbers to predict; linnerud has three at once."""
    diabetes, linnerud = datasets.load_diabetes(scaled=False), datasets.load_linnerud()
    return {data.name: data for data in [
        Data("diabetes", diabetes.data, diabetes.target), Data("linnerud", linnerud.data, linnerud.target)]}


def thresholds(model):
    """The thresholds of every tree in the graph, by column, whatever the column is called."""
    found = {}
    for node in model.graph.node:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if "nodes_splits" in values:
            columns, splits = values["nodes_featureids"], numpy_helper.to_array(values["nodes_splits"])
        elif "nodes_values" in values:
            columns, splits = values["nodes_featureids"], values["nodes_values"]
        elif "nodes_values_as_tensor" in values:
            columns, splits = values["nodes_featureids"], numpy_helper.to_array(values["nodes_values_as_tensor"])
        else:
            continue
        for column, split in zip(columns, splits):
            found.setdefault(column, set()).add(float(split))
    return {column: sorted(splits) for column, splits in found.items()}


def on_thresholds(inputs, splits, random, count=32):
    """Rows of which half the cells lie on a threshold of their column, or right above or below."""
    asked, first = {}, 0
    for name, array in inputs.items():
        taken = array[random.integers(0, len(array), count)].copy()
        if array.dtype.kind == "f":
            for column in range(array.shape[1]):
                for row in range(count):
                    if first + column in splits and random.random() < 0.5:
                        value = array.dtype.type(random.choice(splits[first + column]))
                        toward = array.dtype.type(random.choice([-np.inf, np.inf]))
                        taken[row, column] = value if random.random() < 0.6 else np.nextafter(value, toward)
        first += array.shape[1]
        asked[name] = taken
    return asked


def with_special(inputs, random):
    """For every special value a row or two with one cell that has it; then a row that is not-a-number all through."""
    cells = [(name, value) for name, array in inputs.items() for value in SPECIAL[str(array.dtype)] for _ in "12"]
    first = next(iter(inputs.values()))
    picks = random.integers(0, len(first), len(cells) + 2)
    asked = {name: array[picks].copy() for name, array in inputs.items()}
    for row, (name, value) in enumerate(cells):
        asked[name][row, random.integers(0, asked[name].shape[1])] = value
    for array in asked.values():
        if array.dtype.kind == "f":
            array[-1], array[-2] = np.nan, 0
    return asked


def chance(name):
    """Numbers that are the same in every run."""
    return np.random.default_rng(zlib.crc32(name.encode()))
