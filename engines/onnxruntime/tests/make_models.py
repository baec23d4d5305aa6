#!/usr/bin/env python3
"""Which models do the tests of this crate run? Run this beside the `models` folder to write them again.

Needs the Python packages `onnx` and `numpy`. The files are committed, so that the tests need neither.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent / "models"

# Old enough for every supported library: they refuse files from their future.
IR_VERSION = 10
OPSET = 21

DTYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def tensor(name, dtype, dims):
    return helper.make_tensor_value_info(name, dtype, dims)


def write(name, nodes, inputs, outputs, weights=(), opsets=(("", OPSET),), checked=True, ir_version=IR_VERSION):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(weights))
    opset_imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    model = helper.make_model(graph, opset_imports=opset_imports, producer_name="tiltyard", ir_version=ir_version)
    if checked:
        onnx.checker.check_model(model, full_check=True)
    (FOLDER / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    return model


def identities():
    """Every data type goes in and comes out."""
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in DTYPES]
    inputs = [tensor(f"in_{name}", dtype, ["n"]) for name, dtype in DTYPES.items()]
    outputs = [tensor(f"out_{name}", dtype, ["n"]) for name, dtype in DTYPES.items()]
    write("identities", nodes, inputs, outputs)


def optional_input():
    """`bias` may be left out and is 10 then; two outputs, one of which may be left out too."""
    nodes = [helper.make_node("Add", ["x", "bias"], ["sum"]), helper.make_node("Mul", ["x", "bias"], ["product"])]
    inputs = [tensor("x", TensorProto.FLOAT, ["n"]), tensor("bias", TensorProto.FLOAT, [1])]
    outputs = [tensor("sum", TensorProto.FLOAT, ["n"]), tensor("product", TensorProto.FLOAT, ["n"])]
    bias = numpy_helper.from_array(np.array([10], np.float32), "bias")
    write("optional_input", nodes, inputs, outputs, [bias])
    # Before version 4 of the format every weight had to be listed as an input, and none could be given.
    write("weights_as_inputs", nodes, inputs, outputs, [bias], opsets=[("", 7)], ir_version=3)


def zipmap():
    """A classifier's sequence of maps beside a tensor."""
    nodes = [
        helper.make_node("Identity", ["x"], ["probabilities"]),
        helper.make_node("ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        helper.make_value_info("maps", helper.make_sequence_type_proto(maps)),
        tensor("probabilities", TensorProto.FLOAT, ["n", 2]),
    ]
    write("zipmap", nodes, [tensor("x", TensorProto.FLOAT, ["n", 2])], outputs, opsets=[("", OPSET), ("ai.onnx.ml", 1)])


def gather():
    """Looks rows up in a table of four."""
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")
    node = helper.make_node("Gather", ["table", "index"], ["row"])
    write("gather", [node], [tensor("index", TensorProto.INT64, ["n"])], [tensor("row", TensorProto.FLOAT, ["n"])], [table])


def fill():
    """Allocates whatever shape it is told."""
    node = helper.make_node("ConstantOfShape", ["shape"], ["filled"])
    write("fill", [node], [tensor("shape", TensorProto.INT64, [2])], [tensor("filled", TensorProto.FLOAT, [None, None])])


def wrong_dims():
    """Outputs that are not as long as their declared shape says: one is longer, one is shorter, one is right."""
    ends = [numpy_helper.from_array(np.array([end], np.int64), name) for name, end in (("start", 0), ("end", 1))]
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["longer"], axis=0),
        helper.make_node("Slice", ["x", "start", "end"], ["shorter"]),
        helper.make_node("Neg", ["x"], ["right"]),
    ]
    outputs = [tensor(name, TensorProto.FLOAT, ["n"]) for name in ("longer", "shorter", "right")]
    write("wrong_dims", nodes, [tensor("x", TensorProto.FLOAT, ["n"])], outputs, ends, checked=False)


def aliases():
    """Outputs that are not written by a node of their own: inputs that are handed back, and one output listed twice."""
    x, y, bias = (tensor(name, TensorProto.FLOAT, dims) for name, dims in (("x", ["n"]), ("y", ["n"]), ("bias", [2])))
    default = numpy_helper.from_array(np.array([10, 20], np.float32), "bias")
    relu = helper.make_node("Relu", ["x"], ["y"])
    write("handed_back", [relu], [x, bias], [y, x, bias], [default])
    write("twice", [relu], [x], [y, y], checked=False)


def constants():
    """Outputs that no input reaches, of 2 times 3 elements, beside one that takes them or the input.

    The file says that all have the shape of the input.
    """
    dims = ["a", "b"]
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    weights = [numpy_helper.from_array(values, "weight"), numpy_helper.from_array(values % 4 + 1, "ones")]
    # What NonZero gives has a shape that only running it tells, which the library does at the load.
    nodes = [
        helper.make_node("NonZero", ["ones"], ["index"]),
        helper.make_node("Slice", ["index", "zero", "three", "one"], ["some"]),
        helper.make_node("Cast", ["some"], ["folded"], to=TensorProto.FLOAT),
    ]
    weights += [numpy_helper.from_array(np.array([n], np.int64), name) for name, n in (("zero", 0), ("three", 3), ("one", 1))]
    weight = numpy_helper.from_array(values, "then_y")
    then = helper.make_graph([], "then", [], [tensor("then_y", TensorProto.FLOAT, dims)], [weight])
    negated = helper.make_node("Neg", ["x"], ["else_y"])
    otherwise = helper.make_graph([negated], "else", [], [tensor("else_y", TensorProto.FLOAT, dims)])
    nodes.append(helper.make_node("If", ["constant"], ["chosen"], then_branch=then, else_branch=otherwise))
    inputs = [tensor("x", TensorProto.FLOAT, dims), tensor("constant", TensorProto.BOOL, [1])]
    outputs = [tensor(name, TensorProto.FLOAT, dims) for name in ("weight", "folded", "chosen")]
    write("constants", nodes, inputs, outputs, weights, checked=False)


def optionals():
    """An optional made from a tensor, one handed through, and the tensor in it."""
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"]))
    nodes = [
        helper.make_node("Optional", ["x"], ["made"]),
        helper.make_node("Identity", ["made"], ["same"]),
        helper.make_node("OptionalGetElement", ["same"], ["element"]),
    ]
    outputs = [helper.make_value_info(name, kind) for name in ("made", "same")]
    outputs.append(tensor("element", TensorProto.FLOAT, ["n"]))
    write("optionals", nodes, [tensor("x", TensorProto.FLOAT, ["n"])], outputs)


def not_for_everyone():
    """A file from the future, and one with an operator of somebody's own."""
    x, y = tensor("x", TensorProto.FLOAT, ["n"]), tensor("y", TensorProto.FLOAT, ["n"])
    write("future_opset", [helper.make_node("Identity", ["x"], ["y"])], [x], [y], opsets=[("", 99)], checked=False)
    own = helper.make_node("Sparkle", ["x"], ["y"], domain="com.example")
    write("unknown_operator", [own], [x], [y], opsets=[("", OPSET), ("com.example", 1)], checked=False)
    broken = helper.make_node("Identity", ["missing"], ["y"])
    write("broken_graph", [broken], [x], [y], checked=False)


def chance():
    """A model that answers otherwise each time."""
    x, y = tensor("x", TensorProto.FLOAT, ["n", 2]), tensor("y", TensorProto.FLOAT, ["n", 2])
    constants = [
        numpy_helper.from_array(np.float32(0.5), "ratio"),
        numpy_helper.from_array(np.bool_(True), "training"),
    ]
    write("chance", [helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])], [x], [y], constants)


def mlp():
    """Something to compute on several threads, and a copy with its weights in a file of their own."""
    random = np.random.default_rng(7)
    widths = [16, 48, 48, 4]
    nodes, weights, last = [], [], "x"
    for layer, (rows, columns) in enumerate(zip(widths, widths[1:])):
        weight = random.standard_normal((rows, columns)).astype(np.float32) / np.sqrt(rows)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"h{layer}"]))
        last = f"h{layer}"
    nodes.append(helper.make_node("Softmax", [last], ["y"], axis=-1))
    inputs, outputs = [tensor("x", TensorProto.FLOAT, ["n", 16])], [tensor("y", TensorProto.FLOAT, ["n", 4])]
    model = write("mlp", nodes, inputs, outputs, weights)
    onnx.save_model(
        model,
        FOLDER / "external.onnx",
        save_as_external_data=True,
        location="external.data",
        size_threshold=0,
        convert_attribute=False,
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "external.data").unlink(missing_ok=True)
    for make in (identities, optional_input, zipmap, gather, fill, wrong_dims, aliases, constants, optionals, not_for_everyone, chance, mlp):
        make()
