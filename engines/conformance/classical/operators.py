"""Which corners of the operators do no trainer's exports reach? Models of one or two nodes, with numbers drawn by lot.

Every mode of a branch, missing values to either side, every transformation and aggregate, weights of every sign and
in doubles, labels of both kinds, all element types.
"""

import itertools

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import rows

FLOAT, DOUBLE, INT64, INT32, STRING = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32, TensorProto.STRING)
ARRAYS = {FLOAT: np.float32, DOUBLE: np.float64, INT64: np.int64, INT32: np.int32, STRING: object}
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
TRANSFORMS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]
WORDS = np.array(["red", "green", "blue", "", "Ünïcode"], object)


def model(nodes, inputs, outputs, weights=None, ml=3, opset=17):
    """`inputs` and `outputs` are (name, element type, dims)."""
    graph = helper.make_graph(
        nodes, "operators", [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in (weights or {}).items()])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", ml)]
    return helper.make_model(graph, producer_name="tiltyard-matrix", opset_imports=opsets, ir_version=10 if ml > 3 else 8)


def ml_node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), domain="ai.onnx.ml", **attributes)


def grow(random, columns, depth, modes, values):
    """Nodes of one tree in the order of their numbers: (mode, column, value, yes, no, missing to yes)."""
    nodes = []

    def node(level):
        number = len(nodes)
        nodes.append(None)
        if level == depth or (level > 0 and random.random() < 0.2):
            nodes[number] = ("LEAF", 0, 0.0, 0, 0, 0)
        else:
            yes, no = node(level + 1), node(level + 1)
            nodes[number] = (random.choice(modes), int(random.integers(columns)), float(random.choice(values)),
                             yes, no, int(random.random() < 0.5))
        return number

    node(0)
    return nodes


def forest(random, targets, trees=6, depth=4, columns=4, modes=MODES[:1], sign=0.0, kind="target", double=False,
           some_targets=False):
    """Attributes of a forest. `sign` moves the weights: 1 makes them positive. With `some_targets`, leaves do not feed all."""
    fields = {key: [] for key in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
                                  "falsenodeids", "missing_value_tracks_true")}
    leaves = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    values = np.round(random.normal(size=7), 1)
    for tree in range(trees):
        grown = grow(random, columns, 0 if tree == 1 else depth, modes, values)
        for number, (mode, column, value, yes, no, missing) in enumerate(grown):
            row = (tree, number, column, value, mode, yes, no, missing)
            for key, cell in zip(fields, row):
                fields[key].append(cell)
            if mode == "LEAF":
                for target in range(targets):
                    if not some_targets or random.random() < 0.6 or target == tree % targets:
                        weight = float(np.float32(random.normal() + sign))
                        for key, cell in zip(leaves, (tree, number, target, abs(weight) if sign else weight)):
                            leaves[key].append(cell)
    attributes = {f"nodes_{key}": cells for key, cells in fields.items()} | {
        f"{kind}_{key}": cells for key, cells in leaves.items()}
    if double:
        for key in ("nodes_values", f"{kind}_weights"):
            cells = np.array(attributes.pop(key), np.float64) + (1e-9 if double == "finer" else 0)
            attributes[f"{key}_as_tensor"] = numpy_helper.from_array(cells, key)
    return attributes


def table(random, kind, columns=4, count=120):
    if kind == STRING:
        return random.choice(WORDS, (count, columns)).astype(object)
    if kind in (INT64, INT32):
        return random.integers(-2, 4, (count, columns)).astype(ARRAYS[kind])
    return np.round(random.normal(size=(count, columns)), 1).astype(ARRAYS[kind])


def labels(count, words, numbers="int64s"):
    """Names of classes; the attribute of numbers is called another way by some operators."""
    names = [f"class {chr(ord('a') + n)}" for n in range(count)]
    return {"classlabels_strings": names} if words else {f"classlabels_{numbers}": [10 * n - 7 for n in range(count)]}


def classifier(kind, attributes, count, words, data=FLOAT, ml=3, extra=()):
    node = ml_node(kind, "x", "label scores", **attributes)
    return model([node, *extra], [("x", data, ["rows", 4])],
                 [("label", STRING if words else INT64, ["rows"]), ("scores", FLOAT, ["rows", count])], ml=ml)


def add_tree_classifiers(repository):
    shapes = [  # classes that labels name, classes that leaves feed, the sign of the weights
        ("binary_one", 2, 1, 0.0), ("binary_one_positive", 2, 1, 0.5), ("binary_two", 2, 2, 0.0), ("single", 1, 1, 0.0),
        ("three", 3, 3, 0.0), ("three_positive", 3, 3, 0.5), ("three_some", 3, 3, 0.0)]
    for (shape, count, fed, sign), transform, words in itertools.product(shapes, TRANSFORMS, (False, True)):
        name = f"op.tree_classifier.{shape}.{transform.lower()}.{'words' if words else 'numbers'}"
        random = rows.chance(name)
        attributes = forest(random, fed, sign=sign, kind="class", some_targets=shape == "three_some")
        base = {} if words else {"base_values": [float(np.float32(0.25 * n - 0.1)) for n in range(fed)]}
        if shape == "single" and words:
            continue  # ONNX Runtime reads past the end of the labels here, and ends the process
        made = classifier("TreeEnsembleClassifier", attributes | labels(count, words) | base | {
            "post_transform": transform}, count, words)
        repository.add(name, lambda: made, {"x": table(random, FLOAT)})
    for transform, base in itertools.product(TRANSFORMS, (1, 2)):
        name = f"op.tree_classifier.binary_base_{base}.{transform.lower()}"
        random = rows.chance(name)
        attributes = forest(random, 1, kind="class") | labels(2, False) | {
            "base_values": [0.3, -0.2][:base], "post_transform": transform}
        repository.add(name, lambda: classifier("TreeEnsembleClassifier", attributes, 2, False), {"x": table(random, FLOAT)})
    for data, ml in ((DOUBLE, 1), (INT64, 1), (INT32, 1), (DOUBLE, 3), (FLOAT, 1)):
        name = f"op.tree_classifier.type_{TensorProto.DataType.Name(data).lower()}.ml_{ml}"
        random = rows.chance(name)
        attributes = forest(random, 3, kind="class", modes=MODES) | labels(3, False)
        repository.add(name, lambda: classifier("TreeEnsembleClassifier", attributes, 3, False, data, ml),
                       {"x": table(random, data)})
    for double, transform in itertools.product(("same", "finer"), TRANSFORMS):
        name = f"op.tree_classifier.doubles_{double}.{transform.lower()}"
        random = rows.chance(name)
        attributes = forest(random, 3, kind="class", double=double) | labels(3, False) | {"post_transform": transform}
        repository.add(name, lambda: classifier("TreeEnsembleClassifier", attributes, 3, False, DOUBLE),
                       {"x": table(random, DOUBLE)})


def add_tree_regressors(repository):
    for aggregate, transform, targets in itertools.product(("SUM", "AVERAGE", "MIN", "MAX"), TRANSFORMS, (1, 3)):
        name = f"op.tree_regressor.{aggregate.lower()}.{transform.lower()}.{targets}"
        random = rows.chance(name)
        attributes = forest(random, targets, modes=MODES, some_targets=targets > 1) | {
            "aggregate_function": aggregate, "n_targets": targets, "post_transform": transform}
        if transform != "NONE":
            attributes["base_values"] = [float(np.float32(0.1 * n + 0.2)) for n in range(targets)]
        regressor(repository, name, attributes, targets, FLOAT, random)
    for mode in MODES:
        name = f"op.tree_regressor.{mode.lower()}"
        random = rows.chance(name)
        regressor(repository, name, forest(random, 1, modes=[mode], trees=9) | {"n_targets": 1}, 1, FLOAT, random)
    for double, aggregate, targets in itertools.product(("same", "finer"), ("SUM", "AVERAGE", "MIN"), (1, 2)):
        name = f"op.tree_regressor.doubles_{double}.{aggregate.lower()}.{targets}"
        random = rows.chance(name)
        attributes = forest(random, targets, modes=MODES, double=double) | {
            "n_targets": targets, "aggregate_function": aggregate}
        regressor(repository, name, attributes, targets, DOUBLE, random)
    for shape, trees, depth in (("stumps", 40, 1), ("deep", 3, 9), ("one_leaf", 2, 0), ("many", 70, 5)):
        name = f"op.tree_regressor.{shape}"
        random = rows.chance(name)
        regressor(repository, name, forest(random, 1, trees, depth) | {"n_targets": 1}, 1, FLOAT, random)


def regressor(repository, name, attributes, targets, data, random):
    made = model([ml_node("TreeEnsembleRegressor", "x", "y", **attributes)], [("x", data, ["rows", 4])],
                 [("y", FLOAT, ["rows", targets])])
    repository.add(name, lambda: made, {"x": table(random, data)})


def ensemble_five(random, targets, kind=FLOAT, trees=5, depth=4, modes=range(6), members=False):
    """Attributes of opset 5's TreeEnsemble: leaves are apart, and a node says which of its children are."""
    array = ARRAYS[kind]
    # ONNX Runtime takes whole numbers alone as members, and the whole part of what it is asked about; ONNX says otherwise.
    values = np.arange(-2.0, 4) if members else np.round(random.normal(size=7), 1)
    inner = {key: [] for key in ("featureids", "splits", "modes", "truenodeids", "trueleafs", "falsenodeids",
                                 "falseleafs", "missing_value_tracks_true")}
    targetids, weights, memberships, roots = [], [], [], []

    def leaf():
        targetids.append(int(random.integers(targets)))
        weights.append(random.normal())
        return len(weights) - 1

    def node(level):
        number = len(inner["modes"])
        for cells in inner.values():
            cells.append(0)
        mode = 6 if members and random.random() < 0.5 else int(random.choice(list(modes)))
        inner["modes"][number] = mode
        inner["featureids"][number] = int(random.integers(4))
        inner["splits"][number] = float(random.choice(values))
        inner["missing_value_tracks_true"][number] = int(random.random() < 0.5)
        if mode == 6:
            memberships.extend([*random.choice(values, 2, replace=False), np.nan])
        for side in ("true", "false"):
            is_leaf = level + 1 >= depth or random.random() < 0.2
            inner[f"{side}leafs"][number] = int(is_leaf)
            inner[f"{side}nodeids"][number] = leaf() if is_leaf else node(level + 1)
        return number

    for _ in range(trees):
        roots.append(node(0))
    tensor = lambda key, cells, dtype: numpy_helper.from_array(np.array(cells, dtype), key)
    attributes = {f"nodes_{key}": cells for key, cells in inner.items()}
    attributes |= {"nodes_splits": tensor("splits", inner["splits"], array), "tree_roots": roots,
                   "nodes_modes": tensor("modes", inner["modes"], np.uint8), "leaf_targetids": targetids,
                   "leaf_weights": tensor("weights", weights, array), "n_targets": targets}
    if members:
        attributes["membership_values"] = tensor("members", memberships, array)
    return attributes


def add_tree_ensembles(repository):
    for aggregate, transform, targets, kind in itertools.product(range(4), range(5), (1, 3), (FLOAT, DOUBLE)):
        if kind == DOUBLE and transform:
            continue
        name = f"op.tree_ensemble.{aggregate}.{transform}.{targets}.{TensorProto.DataType.Name(kind).lower()}"
        random = rows.chance(name)
        attributes = ensemble_five(random, targets, kind) | {
            "aggregate_function": aggregate, "post_transform": transform}
        ensemble(repository, name, attributes, targets, kind, random)
    for targets, kind in itertools.product((1, 2), (FLOAT, DOUBLE)):
        name = f"op.tree_ensemble.members.{targets}.{TensorProto.DataType.Name(kind).lower()}"
        random = rows.chance(name)
        made = ensemble_five(random, targets, kind, members=True)
        ensemble(repository, name, made, targets, kind, random, whole=True)


def ensemble(repository, name, attributes, targets, kind, random, whole=False):
    made = model([ml_node("TreeEnsemble", "x", "y", **attributes)], [("x", kind, ["rows", 4])],
                 [("y", kind, ["rows", targets])], ml=5)
    numbers = table(random, kind)
    repository.add(name, lambda: made, {"x": np.round(2 * numbers) if whole else numbers}, special=not whole)


def add_linear(repository):
    for (count, fed), transform, words in itertools.product(((2, 1), (2, 2), (3, 3)), TRANSFORMS, (False, True)):
        name = f"op.linear_classifier.{count}_{fed}.{transform.lower()}.{'words' if words else 'numbers'}"
        random = rows.chance(name)
        attributes = {"coefficients": floats(random, 4 * fed), "intercepts": floats(random, fed),
                      "post_transform": transform, "multi_class": int(fed > 1)} | labels(count, words, "ints")
        repository.add(name, lambda: classifier("LinearClassifier", attributes, count, words), {"x": table(random, FLOAT)})
    for data in (DOUBLE, INT64, INT32):
        name = f"op.linear_classifier.type_{TensorProto.DataType.Name(data).lower()}"
        random = rows.chance(name)
        attributes = {"coefficients": floats(random, 12), "intercepts": floats(random, 3), "multi_class": 1}
        attributes |= labels(3, False, "ints")
        repository.add(name, lambda: classifier("LinearClassifier", attributes, 3, False, data), {"x": table(random, data)},
                       special=data == DOUBLE)
    for transform, targets, intercepts in itertools.product(TRANSFORMS, (1, 3), (False, True)):
        name = f"op.linear_regressor.{transform.lower()}.{targets}{'.intercepts' if intercepts else ''}"
        random = rows.chance(name)
        attributes = {"coefficients": floats(random, 4 * targets), "targets": targets, "post_transform": transform}
        attributes |= {"intercepts": floats(random, targets)} if intercepts else {}
        one_node(repository, name, "LinearRegressor", attributes, FLOAT, FLOAT, random, width=targets)


def floats(random, count):
    return [float(np.float32(value)) for value in random.normal(size=count)]


def one_node(repository, name, kind, attributes, data, result, random, width=4, special=True, ml=3, inputs=None):
    made = model([ml_node(kind, "x", "y", **attributes)], [("x", data, ["rows", 4])], [("y", result, ["rows", width])],
                 ml=ml)
    repository.add(name, lambda: made, inputs or {"x": table(random, data)}, special)


def add_support_vectors(repository):
    kernels = {"LINEAR": [0.0, 0.0, 0.0], "POLY": [0.5, 1.0, 3.0], "RBF": [0.3, 0.0, 0.0], "SIGMOID": [0.2, 0.1, 0.0]}
    for (kernel, parameters), count, proba in itertools.product(kernels.items(), (2, 3), (False, True)):
        for transform in TRANSFORMS if kernel == "RBF" else TRANSFORMS[:1]:
            name = f"op.svm_classifier.{kernel.lower()}.{count}{'.proba' if proba else ''}.{transform.lower()}"
            random = rows.chance(name)
            pairs = count * (count - 1) // 2
            attributes = {
                "kernel_type": kernel, "kernel_params": parameters, "post_transform": transform,
                "vectors_per_class": [3] * count, "support_vectors": floats(random, 12 * count),
                "coefficients": floats(random, 3 * count * (count - 1)), "rho": floats(random, pairs)}
            attributes |= {"prob_a": floats(random, pairs), "prob_b": floats(random, pairs)} if proba else {}
            repository.add(name, lambda: classifier("SVMClassifier", attributes | labels(count, False, "ints"), count, False),
                           {"x": table(random, FLOAT)})
    for (kernel, parameters), one_class in itertools.product(kernels.items(), (0, 1)):
        name = f"op.svm_regressor.{kernel.lower()}{'.one_class' if one_class else ''}"
        random = rows.chance(name)
        attributes = {"kernel_type": kernel, "kernel_params": parameters, "n_supports": 5, "one_class": one_class,
                      "support_vectors": floats(random, 20), "coefficients": floats(random, 5), "rho": floats(random, 1)}
        one_node(repository, name, "SVMRegressor", attributes, FLOAT, FLOAT, random, width=1)
    random = rows.chance("op.svm_linear")
    for count in (2, 3):  # no vectors: the coefficients are a plane for each class
        attributes = {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0], "coefficients": floats(random, 4 * count),
                      "rho": floats(random, 1)}
        repository.add(f"op.svm_classifier.planes.{count}",
                       lambda: classifier("SVMClassifier", attributes | labels(count, False, "ints"), count, False),
                       {"x": table(random, FLOAT)})


def add_preprocessing(repository):
    for data in (FLOAT, DOUBLE, INT64, INT32):
        kind = TensorProto.DataType.Name(data).lower()
        random = rows.chance(kind)
        numbers = {"x": table(random, data)}
        for width in (1, 4):
            one_node(repository, f"op.scaler.{width}.{kind}", "Scaler",
                     {"offset": floats(random, width), "scale": floats(random, width)}, data, FLOAT, random,
                     inputs=numbers)
        for norm in ("MAX", "L1", "L2"):
            one_node(repository, f"op.normalizer.{norm.lower()}.{kind}", "Normalizer", {"norm": norm}, data, FLOAT, random,
                     special=data in (FLOAT, DOUBLE), inputs=numbers)
        if data == INT32:
            continue  # ONNX Runtime has no encoder of these
        one_node(repository, f"op.onehot.{kind}", "OneHotEncoder", {"cats_int64s": [-1, 0, 2, 7], "zeros": 1}, data, FLOAT,
                 random, special=data in (INT64, INT32),
                 inputs={"x": np.round(numbers["x"])}, width=None)
    for data, missing in ((FLOAT, float("nan")), (FLOAT, -1.0), (INT64, -1)):
        random = rows.chance(f"imputer{data}")
        numbers = table(random, data)
        key = "float" if data == FLOAT else "int64"
        if data == FLOAT:
            numbers[random.random(numbers.shape) < 0.3] = missing
        for width in (1, 4):
            values = floats(random, width) if data == FLOAT else list(range(10, 10 + width))
            one_node(repository, f"op.imputer.{key}.{missing}.{width}", "Imputer",
                     {f"imputed_value_{key}s": values, f"replaced_value_{key}": missing}, data, data, random,
                     inputs={"x": numbers})
    for threshold in (0.0, 0.3):
        one_node(repository, f"op.binarizer.{threshold}", "Binarizer", {"threshold": threshold}, FLOAT, FLOAT,
                 rows.chance("binarizer"))
    random = rows.chance("words")
    one_node(repository, "op.onehot.words", "OneHotEncoder", {"cats_strings": list(WORDS), "zeros": 1}, STRING, FLOAT,
             random, width=None)
    one_node(repository, "op.onehot.strict", "OneHotEncoder", {"cats_strings": list(WORDS), "zeros": 0}, STRING, FLOAT,
             random, width=None)
    for data, result, direction in ((STRING, INT64, "words"), (INT64, STRING, "numbers")):
        one_node(repository, f"op.category_mapper.{direction}", "CategoryMapper",
                 {"cats_strings": list(WORDS), "cats_int64s": [3, 1, 0, -1, 2], "default_int64": -9,
                  "default_string": "none"}, data, result, random, ml=1)


def add_label_encoders(repository):
    keys = {STRING: ("strings", list(WORDS)), INT64: ("int64s", [-1, 0, 1, 2, 3]), FLOAT: ("floats", [-1.0, 0.0, 0.5, float("nan"), 1.0])}
    values = {STRING: ("strings", ["e", "d", "c", "b", "a"]), INT64: ("int64s", [5, -4, 3, 2, 1]), FLOAT: ("floats", [0.5, 1.5, -2.0, 0.0, 4.0])}
    defaults = {STRING: {"default_string": "none"}, INT64: {"default_int64": -77}, FLOAT: {"default_float": -0.5}}
    for (data, (key, cells)), (result, (value, made)) in itertools.product(keys.items(), values.items()):
        for ml, given in itertools.product((2, 4), (False, True)):
            name = f"op.label_encoder.{key}_{value}.ml_{ml}{'.default' if given else ''}"
            attributes = {f"keys_{key}": cells, f"values_{value}": made} | (defaults[result] if given else {})
            encoder(repository, name, attributes, data, result, ml)
    for data, result in itertools.product((DOUBLE, INT64, STRING, FLOAT), (DOUBLE, INT64, STRING, FLOAT)):
        if {data, result} == {DOUBLE, FLOAT}:
            continue  # ONNX Runtime has no encoder from one to the other
        tensors = {}
        for side, kind, source in (("keys", data, keys), ("values", result, values), ("default", result, {})):
            cells = source.get(FLOAT if kind == DOUBLE else kind, (None, ["none"] if kind == STRING else [-3]))[1]
            cells = np.array(cells, ARRAYS[kind])
            tensors[f"{side}_tensor"] = numpy_helper.from_array(cells, side)
        names = [TensorProto.DataType.Name(kind).lower() for kind in (data, result)]
        encoder(repository, f"op.label_encoder.tensor_{names[0]}_{names[1]}", tensors, data, result, 4)
    for data, result in ((STRING, INT64), (INT64, STRING)):
        encoder(repository, f"op.label_encoder.ml_1.{TensorProto.DataType.Name(data).lower()}",
                {"classes_strings": list(WORDS), "default_int64": -5, "default_string": "none"}, data, result, 1)


def encoder(repository, name, attributes, data, result, ml):
    one_node(repository, name, "LabelEncoder", attributes, data, result, rows.chance(name), ml=ml)


def add_shapes(repository):
    random = rows.chance("shapes")
    for kind, count in ((FLOAT, 2), (FLOAT, 3), (INT64, 2), (INT32, 1), (DOUBLE, 3)):
        columns = [("abc"[at], kind, ["rows", at + 1]) for at in range(count)]
        node = ml_node("FeatureVectorizer", " ".join(name for name, *_ in columns), "y",
                       inputdimensions=[at + 1 for at in range(count)])
        repository.add(f"op.feature_vectorizer.{TensorProto.DataType.Name(kind).lower()}.{count}", lambda: model([node], columns, [("y", FLOAT, ["rows", None])]),
                       {name: table(random, kind, dims[1]) for name, kind, dims in columns}, special=False)
    for kind in (FLOAT, DOUBLE, INT64, INT32, STRING):
        word = TensorProto.DataType.Name(kind).lower()
        for at, columns in enumerate(([2], [3, 0], [1, 1, 2])):
            node = ml_node("ArrayFeatureExtractor", "x columns", "y")
            made = model([node], [("x", kind, ["rows", 4])], [("y", kind, ["rows", len(columns)])],
                         {"columns": np.array(columns, np.int64)})
            repository.add(f"op.extractor.{word}.{at}", lambda: made, {"x": table(random, kind)})
    for words in (False, True):
        keys = {"classlabels_strings": ["a", "b", "c", "d"]} if words else {"classlabels_int64s": [4, 3, 2, 1]}
        mapped = helper.make_map_type_proto(STRING if words else INT64, helper.make_tensor_type_proto(FLOAT, []))
        made = model([ml_node("Scaler", "x", "s", offset=[0.5], scale=[2.0]), ml_node("ZipMap", "s", "y", **keys)],
                     [("x", FLOAT, ["rows", 4])], [])
        made.graph.output.append(helper.make_value_info("y", helper.make_sequence_type_proto(mapped)))
        repository.add(f"op.zipmap.{'words' if words else 'numbers'}", lambda: made, {"x": table(random, FLOAT)})


PARTS = [add_tree_classifiers, add_tree_regressors, add_tree_ensembles, add_linear, add_support_vectors,
         add_preprocessing, add_label_encoders, add_shapes]
