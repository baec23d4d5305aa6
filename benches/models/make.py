"""Which models do the benches serve? Four of very different cost, made here from fixed seeds: nothing is downloaded.

    python3 -m venv target/bench-venv
    target/bench-venv/bin/pip install -r benches/models/requirements.txt
    target/bench-venv/bin/python benches/models/make.py [--out target/bench-models] [NAME ...]

mlp       30-64-32-2 with a softmax                 features FP32 [batch, 30] -> scores FP32 [batch, 2]
gbdt      200 boosted trees of depth 6              features FP32 [batch, 30] -> label INT64 [batch], probabilities FP32 [batch, 2]
minilm    6 layers, 384 wide, 12 heads              input_ids, attention_mask INT64 [batch, sequence] -> embedding FP32 [batch, 384]
resnet18  the usual one                             image FP32 [batch, 3, 224, 224] -> scores FP32 [batch, 1000]

Only the trees are trained; the weights of the others are random numbers of a sensible size, which costs the same time as
trained ones. Each goes to <out>/<name>/1/model.onnx.
"""

import argparse
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OPSET = 17


class Graph:
    """Nodes and weights of a graph, as they are added."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights, self.count = [], [], 0

    def add(self, kind, *inputs, out=None, **attributes):
        """A node with one output, whose name is returned."""
        self.count += 1
        out = out or f"{kind.lower()}_{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, array):
        self.count += 1
        name = f"constant_{self.count}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def normal(self, *shape, deviation):
        return self.constant(self.random.normal(0, deviation, shape).astype(np.float32))

    def linear(self, x, wide_in, wide_out, **last):
        """x @ weight + bias."""
        product = self.add("MatMul", x, self.normal(wide_in, wide_out, deviation=wide_in**-0.5))
        return self.add("Add", product, self.normal(wide_out, deviation=0.02), **last)

    def model(self, inputs, outputs):
        graph = helper.make_graph(self.nodes, "bench", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def floats(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def integers(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", *shape])


def mlp():
    g = Graph(1)
    x = "features"
    for wide_in, wide_out in ((30, 64), (64, 32)):
        x = g.add("Relu", g.linear(x, wide_in, wide_out))
    g.add("Softmax", g.linear(x, 32, 2), axis=-1, out="scores")
    return g.model([floats("features", 30)], [floats("scores", 2)])


def gbdt():
    from skl2onnx import to_onnx
    from sklearn.datasets import make_classification
    from sklearn.ensemble import GradientBoostingClassifier

    x, y = make_classification(n_samples=4000, n_features=30, n_informative=20, flip_y=0.1, random_state=1)
    trees = GradientBoostingClassifier(n_estimators=200, max_depth=6, subsample=0.5, random_state=1)
    trees.fit(x.astype(np.float32), y)
    model = to_onnx(trees, x[:1].astype(np.float32), options={"zipmap": False}, target_opset={"": OPSET, "ai.onnx.ml": 3})
    names = {model.graph.input[0].name: "features"}
    names.update({old.name: new for old, new in zip(model.graph.output, ("label", "probabilities"))})
    for node in model.graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(model)
    return model


def attention(g, x, bias, wide, heads):
    """Self-attention over [batch, sequence, wide], with a bias that hides the padding."""
    split = g.constant(np.array([0, 0, heads, wide // heads], np.int64))
    join = g.constant(np.array([0, 0, wide], np.int64))

    def per_head(turned):
        return g.add("Transpose", g.add("Reshape", g.linear(x, wide, wide), split), perm=turned)

    query, key, value = per_head([0, 2, 1, 3]), per_head([0, 2, 3, 1]), per_head([0, 2, 1, 3])
    scores = g.add("MatMul", query, key)
    scores = g.add("Div", scores, g.constant(np.float32((wide // heads) ** 0.5)))
    weights = g.add("Softmax", g.add("Add", scores, bias), axis=-1)
    mixed = g.add("Transpose", g.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    return g.linear(g.add("Reshape", mixed, join), wide, wide)


def gelu(g, x):
    erf = g.add("Erf", g.add("Div", x, g.constant(np.float32(2**0.5))))
    half = g.add("Mul", g.add("Mul", x, g.add("Add", erf, g.constant(np.float32(1)))), g.constant(np.float32(0.5)))
    return half


def normalise(g, x, wide):
    ones, zeros = g.constant(np.ones(wide, np.float32)), g.constant(np.zeros(wide, np.float32))
    return g.add("LayerNormalization", x, ones, zeros, axis=-1, epsilon=1e-12)


def minilm(vocabulary=30522, positions=512, wide=384, heads=12, layers=6):
    g = Graph(2)
    axes = lambda *which: g.constant(np.array(which, np.int64))
    mask = g.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = g.add("Mul", g.add("Sub", g.constant(np.float32(1)), mask), g.constant(np.float32(-1e9)))
    bias = g.add("Unsqueeze", hidden, axes(1, 2))
    words = g.add("Gather", g.normal(vocabulary, wide, deviation=0.05), "input_ids")
    length = g.add("Gather", g.add("Shape", "input_ids"), g.constant(np.int64(1)))
    places = g.add("Range", g.constant(np.int64(0)), length, g.constant(np.int64(1)))
    places = g.add("Gather", g.normal(positions, wide, deviation=0.02), places)
    x = normalise(g, g.add("Add", words, places), wide)
    for _ in range(layers):
        x = normalise(g, g.add("Add", x, attention(g, x, bias, wide, heads)), wide)
        inner = g.linear(gelu(g, g.linear(x, wide, 4 * wide)), 4 * wide, wide)
        x = normalise(g, g.add("Add", x, inner), wide)
    mask = g.add("Unsqueeze", mask, axes(2))
    total = g.add("ReduceSum", g.add("Mul", x, mask), axes(1), keepdims=0)
    count = g.add("ReduceSum", mask, axes(1), keepdims=0)
    mean = g.add("Div", total, g.add("Max", count, g.constant(np.float32(1e-9))))
    size = g.add("ReduceL2", mean, axes=[1], keepdims=1)
    g.add("Div", mean, g.add("Max", size, g.constant(np.float32(1e-12))), out="embedding")
    texts = [integers("input_ids", "sequence"), integers("attention_mask", "sequence")]
    return g.model(texts, [floats("embedding", wide)])


def convolution(g, x, channels_in, channels_out, kernel, stride):
    """A convolution with the bias that a batch normalisation folds into."""
    deviation = (2 / (channels_in * kernel * kernel)) ** 0.5
    weight = g.normal(channels_out, channels_in, kernel, kernel, deviation=deviation)
    bias = g.normal(channels_out, deviation=0.02)
    return g.add("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)


def resnet18():
    g = Graph(3)
    x = g.add("Relu", convolution(g, "image", 3, 64, 7, 2))
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for wide in (64, 128, 256, 512):
        for stride in (1 if wide == 64 else 2, 1):
            inner = g.add("Relu", convolution(g, x, channels, wide, 3, stride))
            inner = convolution(g, inner, wide, wide, 3, 1)
            # Halved, so that random weights keep the numbers' size from block to block.
            inner = g.add("Mul", inner, g.constant(np.float32(0.5)))
            if channels != wide:
                x = convolution(g, x, channels, wide, 1, stride)
            x, channels = g.add("Relu", g.add("Add", inner, x)), wide
    x = g.add("Flatten", g.add("GlobalAveragePool", x), axis=1)
    x = g.add("MatMul", x, g.normal(512, 1000, deviation=512**-0.5))
    g.add("Add", x, g.normal(1000, deviation=0.02), out="scores")
    return g.model([floats("image", 3, 224, 224)], [floats("scores", 1000)])


MODELS = {"mlp": mlp, "gbdt": gbdt, "minilm": minilm, "resnet18": resnet18}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target/bench-models", help="the folder of models")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; none for all")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(MODELS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    for name in arguments.names or MODELS:
        path = arguments.out / name / "1/model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(MODELS[name](), path)
        print(f"{path} {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
