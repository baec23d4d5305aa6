"""Does `tiltyard backtest` say of two versions what their answers and the published formulas say?

Everything is computed again here: answers by ONNX Runtime, evidence from the formulas of docs/statistics.md alone.
"""

import csv
import gzip
import json
import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pyarrow
import pyarrow.parquet
import pytest
from onnx import TensorProto, helper, numpy_helper

import reference
import serving

SECONDS_MAX = 120
ROWS = 6_000
NO = ["--label-depends-on-decision", "no"]
DAY = 86_400
AS_OF = 1_772_323_200  # 2026-03-01
HISTORY = serving.SAMPLES / "risk-history.csv"


# --- The formulas ------------------------------------------------------------------------------------------------


def beta_above_half(a, b):
    """The integral of p^(a-1) (1-p)^(b-1) from 1/2 to 1, exactly."""
    n = a + b - 1
    above = Fraction(sum(math.comb(n, k) for k in range(a)), 2**n)
    return above * Fraction(math.factorial(a - 1) * math.factorial(b - 1), math.factorial(n))


def ln(fraction):
    return math.log(fraction.numerator) - math.log(fraction.denominator)


def ln_kernel_a(lost, won):
    """Discordant pairs against a fair coin: the mean over p of Beta(5, 5), cut off at 1/2."""
    return ln(beta_above_half(5 + won, 5 + lost) / beta_above_half(5, 5) * 2 ** (lost + won))


def bernstein(differences, alpha, at=0.0, block=10):
    """Bounds of the mean of d in [-1, 1], each missed with `alpha`, and ln E in both directions against the mean `at`."""
    x = (np.asarray(differences, float) + 1) / 2
    budget, n, total, v, lam, lam_x, psi_v, expected = math.log(1 / alpha), 0, 0.0, 0.0, 0.0, 0.0, 0.0, 256
    for start in range(0, len(x), block):
        part = x[start:start + block]
        mean, variance = (0.5 + total) / (n + 1), (0.25 + v) / (n + 1)
        t = n + expected
        weight = min(math.sqrt(2 * budget / (variance * t * math.log(1 + t))), 0.5)
        squares = float(((part - mean) ** 2).sum())
        lam += weight * len(part)
        lam_x += weight * float(part.sum())
        psi_v += squares * (-math.log(1 - weight) - weight)
        v, total, n, expected = v + squares, total + float(part.sum()), n + len(part), len(part)
    radius = (budget + psi_v) / lam
    lower, upper = max(lam_x / lam - radius, 0), min(lam_x / lam + radius, 1)
    half = (1 + at) / 2
    return 2 * lower - 1, 2 * upper - 1, lam_x - lam * half - psi_v, lam * half - lam_x - psi_v


def e_bh(ln_e, alpha):
    order = sorted(ln_e, key=ln_e.get, reverse=True)
    for k in range(len(order), 0, -1):
        if ln_e[order[k - 1]] >= math.log(len(order) / (k * alpha)):
            return set(order[:k])
    return set()


# --- Models and histories ----------------------------------------------------------------------------------------


def write_model(folder, weights, bias, output, sigmoid):
    """A linear model of three columns; [batch] of scores or of numbers."""
    weights = np.asarray(weights, np.float32).reshape(3, -1)
    arrays = {"weights": weights, "bias": np.asarray(bias, np.float32).reshape(-1)}
    width = weights.shape[1]
    last = "sum" if sigmoid else output
    nodes = [helper.make_node("Gemm", ["features", "weights", "bias"], [last])]
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid" if width == 1 else "Softmax", [last], [output]))
    graph = helper.make_graph(
        nodes, "linear", [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")


def write_repository(root, name, versions, output, sigmoid=True, more=""):
    for number, (weights, bias) in enumerate(versions, 1):
        write_model(root / name / str(number), weights, bias, output, sigmoid)
    columns = "".join(f'[[columns]]\nname = "{column}"\ninput = "features"\n' for column in ("a", "b", "c"))
    (root / name / "model.toml").write_text(columns + more)


def answers(root, name, version, features):
    session = onnxruntime.InferenceSession(root / name / str(version) / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"features": features})[0]


@pytest.fixture(scope="module")
def data():
    """Rows of three numbers with a key, a region, a time and a label; some keys come again, some labels are missing."""
    random = np.random.default_rng(20260301)
    features = random.normal(size=(ROWS, 3)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(features @ [2.0, -1.0, 0.5])))
    # As a table has them: the shortest decimals of singles.
    texts = [[str(value) for value in row] for row in features]
    return {
        "features": np.array([[float(text) for text in row] for row in texts], np.float32), "texts": texts,
        "label": (random.random(ROWS) < chance).astype(int), "key": random.integers(0, 5_000, ROWS),
        "region": random.choice(["north", "south", "west"], ROWS, p=[0.6, 0.3, 0.1]),
        "time": AS_OF - random.integers(0, 400 * DAY, ROWS), "unlabelled": random.random(ROWS) < 0.05,
        "noise": random.normal(size=ROWS),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`churn` 1 is blind for two columns, 2 sees all, 3 is 2 with its sign turned in part; `eta` and `kind` likewise."""
    root = tmp_path_factory.mktemp("models")
    write_repository(
        root, "churn", [([2, 0, 0], 0.3), ([2, -1, 0.5], 0), ([-0.5, -1, 0.5], 0), ([2.02, -1, 0.5], 0.01)], "score")
    write_repository(root, "eta", [([10, 0, 0], 30), ([10, -5, 2], 30)], "minutes", sigmoid=False)
    kinds = '[outputs.kinds]\nlabels = ["bird", "cat", "dog"]\n'
    write_repository(
        root, "kind", [([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0.5, 0, 0]), (np.eye(3).tolist(), [0, 0, 0])], "kinds", more=kinds)
    return root


def write_csv(path, head, rows):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
    return path


def table_of(data):
    """The rows of `data` as a table, with a column that nobody asked for."""
    labels = np.where(data["unlabelled"], "", data["label"].astype(str))
    rows = zip(data["key"], data["time"], data["region"], data["texts"], labels)
    return (["id", "when", "region", "a", "b", "c", "spare", "left"],
            [[key, when, region, *texts, "x", label] for key, when, region, texts, label in rows])


def write_parquet(path, data, **how):
    """The same rows as Parquet, as typed as they can be; a few hundred in each row group."""
    labels = pyarrow.array(data["label"], pyarrow.int8(), mask=data["unlabelled"])
    times = pyarrow.array(data["time"] * 1_000_000, pyarrow.int64()).cast(pyarrow.timestamp("us"))
    columns = {"id": pyarrow.array(data["key"]), "when": times, "region": pyarrow.array(data["region"]).dictionary_encode()}
    columns |= {name: pyarrow.array(data["features"][:, at]) for at, name in enumerate("abc")}
    # A column that nobody asked for may be what no cell can be.
    columns |= {"spare": pyarrow.array([["x"]] * ROWS), "left": labels}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **{"row_group_size": 700, "data_page_size": 2_000, **how})
    return path


def counted(data, horizon=None):
    """The rows that count: old enough, labelled, the first of their key to be both."""
    seen, kept = set(), []
    for row in range(ROWS):
        young = horizon is not None and AS_OF - data["time"][row] < horizon
        if young or data["unlabelled"][row] or data["key"][row] in seen:
            continue
        seen.add(data["key"][row])
        kept.append(row)
    return np.array(kept)


def run(folder, models, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
    environment["VIRTUAL_ENV"] = sys.prefix
    command = [str(serving.BINARY), "backtest", "--models", str(models), "--data-dir", str(folder / "data"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS_MAX, env=environment, cwd=folder, check=False)


def form_of(folder, models, *arguments, code):
    done = run(folder, models, "--output", "json", *arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def check_scale(found, wrong, alpha=0.01):
    """All figures of 0/1 losses: `wrong` has a row for each version."""
    champion, challenger = np.asarray(wrong, bool)
    lost, won = int((~champion & challenger).sum()), int((champion & ~challenger).sum())
    assert found["n"] == len(champion)
    assert found["discordant"] == [lost, won]
    assert found["accuracy"] == pytest.approx([1 - champion.mean(), 1 - challenger.mean()])
    assert found["gain"] == pytest.approx((won - lost) / len(champion), abs=1e-9)
    assert found["ln_e_better"] == pytest.approx(ln_kernel_a(lost, won), rel=1e-9, abs=1e-6)
    assert found["ln_e_worse"] == pytest.approx(ln_kernel_a(won, lost), rel=1e-9, abs=1e-6)
    lower, upper, *_ = bernstein(champion.astype(int) - challenger.astype(int), alpha)
    assert [found["interval"]["lower"], found["interval"]["upper"]] == pytest.approx([lower, upper], abs=1e-9)


# --- What is found -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["history.csv", "history.csv.gz", "history.ndjson", "history.ndjson.gz", "history.parquet"])
def history(request, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / request.param
    if path.suffix == ".parquet":
        return write_parquet(path, data)
    head, rows = table_of(data)
    if ".csv" in path.suffixes:
        return write_csv(path, head, rows)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        for row in rows:
            key, when, region, a, b, c, spare, left = row
            # A row without a label lacks it, numbers are numbers, and a key may be a number too.
            line = {"left": int(left)} if left else {}
            line |= {"c": float(c), "region": str(region), "when": int(when), "id": int(key), "a": float(a), "b": float(b),
                     "spare": [spare]}
            file.write(json.dumps(line) + "\n")
    return path


def test_a_better_version_in_every_form_of_history(tmp_path, root, data, history):
    found = form_of(
        tmp_path, root, "--rows", history, "--key", "id", "--label", "left", "--time", "when", "--horizon", "90d",
        "--as-of", "2026-03-01", "--slice", "region", *NO, "churn@1", "churn@2", code=0)
    assert found["verdict"] == "promote"
    kept = counted(data, horizon=90 * DAY)
    rows = found["rows"]
    assert (rows["read"], rows["unreadable"], rows["counted"]) == (ROWS, 0, len(kept))
    young = AS_OF - data["time"] < 90 * DAY
    assert rows["too_young"] == young.sum()
    assert rows["without_label"] == (~young & data["unlabelled"]).sum()
    assert rows["of_a_key_seen_before"] == ROWS - len(kept) - rows["too_young"] - rows["without_label"]
    said = np.array([answers(root, "churn", version, data["features"]).ravel() > 0.5 for version in (1, 2)])
    wrong = said != data["label"]
    check_scale(found["all"], wrong[:, kept])
    assert found["all"]["differ"] == (said[0] != said[1])[kept].sum()
    slices = {item["value"]: item for item in found["slices"]}
    assert set(slices) == {"north", "south", "west"}
    for region, item in slices.items():
        check_scale(item, wrong[:, kept[data["region"][kept] == region]])
        assert not item["is_worse"]
    assert found["unused_columns"] == ["spare"]
    assert 0 < found["decided_after"] < len(kept) and found["decided_after"] % 200 == 0
    # A shadow that stops there has seen enough, and one look earlier it had not.
    shown = [ln_kernel_a(int((~wrong[0] & wrong[1])[kept[:n]].sum()), int((wrong[0] & ~wrong[1])[kept[:n]].sum()))
             for n in (found["decided_after"] - 200, found["decided_after"])]
    assert shown[0] < math.log(100) <= shown[1]


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("plain") / "history.csv", *table_of(data))


@pytest.mark.parametrize("how", [
    {"compression": "none"},
    {"compression": "snappy", "version": "1.0", "use_deprecated_int96_timestamps": True},
    {"compression": "zstd", "data_page_version": "2.0"},
    {"compression": "gzip", "use_dictionary": False},
    {"compression": "lz4", "use_dictionary": ["region"], "use_byte_stream_split": ["a", "b"], "write_page_index": True},
    {"compression": "snappy", "use_dictionary": False,
     "column_encoding": {"id": "DELTA_BINARY_PACKED", "when": "DELTA_BINARY_PACKED"}, "data_page_version": "2.0"},
])
def test_parquet_is_judged_as_csv_to_the_bit(tmp_path, root, data, plain, how):
    path = write_parquet(tmp_path / "history.parquet", data, **how)
    flags = ["--key", "id", "--label", "left", "--time", "when", "--horizon", "90d", "--as-of", "2026-03-01", "--slice", "region",
             *NO, "churn@1", "churn@2"]
    one, other = (form_of(tmp_path, root, "--rows", rows, *flags, code=0) for rows in (plain, path))
    assert one.pop("history") != other.pop("history")
    assert one == other


@pytest.mark.parametrize("kind, values, texts", [
    (pyarrow.decimal128(12, 2), ["1.50", "-0.05", "1000000.00"], None),
    (pyarrow.decimal256(60, 2), ["1.50", "-0.05", "1000000.00"], None),
    (pyarrow.float16(), [1.5, -0.25, 1000.0], None),
    (pyarrow.float64(), [0.1, -1e-300, 1e300], None),
    (pyarrow.uint64(), [0, 1, 2**63 + 1], None),
    (pyarrow.bool_(), [True, False, True], ["true", "false", "true"]),
    (pyarrow.large_string(), ["1.5", " 2", "3"], None),
    (pyarrow.binary(3), [b"1.5", b"2.5", b"3.5"], ["1.5", "2.5", "3.5"]),
    (pyarrow.date32(), ["2026-03-01", "1969-12-31", "2024-02-29"], None),
    (pyarrow.timestamp("ns"), ["2026-03-01 12:30:00.000000001", "1969-12-31", "2024-02-29"],
     ["2026-03-01 12:30:00.000000001", "1969-12-31 00:00:00", "2024-02-29 00:00:00"]),
    (pyarrow.timestamp("ms", "UTC"), [0, 1_772_368_205_250, -1],
     ["1970-01-01 00:00:00+00:00", "2026-03-01 12:30:05.250+00:00", "1969-12-31 23:59:59.999+00:00"]),
    (pyarrow.time64("us"), [45_000_000_000, 1, 86_399_000_000], ["12:30:00", "00:00:00.000001", "23:59:59"]),
])
def test_values_are_those_of_cells(tmp_path, root, kind, values, texts):
    """Each value is a slice's name, which is told as it was read; one more is missing."""
    count, wanted = 40, sorted({*(texts or map(str.strip, map(str, values))), ""})
    if pyarrow.types.is_floating(kind):
        array = pyarrow.array(np.array(values, kind.to_pandas_dtype()), kind)
    elif pyarrow.types.is_decimal(kind) or pyarrow.types.is_temporal(kind) and isinstance(values[0], str):
        array = pyarrow.array(values, pyarrow.string()).cast(kind)
    else:
        array = pyarrow.array(values, kind)
    slices = pyarrow.concat_arrays([array, pyarrow.nulls(1, kind)]).take([row % 4 for row in range(count)])
    numbers = [row / 10 for row in range(count)]
    path = tmp_path / "history.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"a": numbers, "b": numbers, "c": numbers, "left": [row % 2 for row in range(count)], "s": slices}), path)
    found = form_of(tmp_path, root, "--rows", path, "--label", "left", "--slice", "s", *NO, "churn@1", "churn@2", code=4)
    told = sorted(item["value"] for item in found["slices"])
    if pyarrow.types.is_floating(kind):
        assert sorted(map(float, filter(None, told))) == sorted(map(float, values)) and "" in told
    else:
        assert told == wanted


def test_parquet_that_cannot_be_read_says_why(tmp_path, root, data):
    flags = ["--label", "left", *NO, "churn@1", "churn@2"]

    def told(path, *more):
        done = run(tmp_path, root, "--rows", path, *flags, *more)
        assert done.returncode == 1 and "panicked" not in done.stderr, done.stderr
        return done.stderr

    good = write_parquet(tmp_path / "good.parquet", data)
    assert 'column "spare": it holds lists' in told(good, "--slice", "spare")
    assert "packed with BROTLI" in told(write_parquet(tmp_path / "brotli.parquet", data, compression="brotli"))
    path = tmp_path / "damaged.parquet"
    path.write_bytes(good.read_bytes()[:-5])
    assert "cut off" in told(path)
    path.write_bytes(gzip.compress(good.read_bytes()))
    assert "neither compressed nor from a pipe" in told(path)
    whole = bytearray(good.read_bytes())
    whole[4:2_000] = bytes(1_996)
    path.write_bytes(whole)
    assert "row group 0" in told(path, "--key", "id")


def test_rows_of_parquet_that_cannot_be_used_are_told_by_number(tmp_path, root):
    path = tmp_path / "history.parquet"
    numbers = ["1.5", "wide", "2.5"]
    pyarrow.parquet.write_table(pyarrow.table({"a": numbers, "b": [1, 2, 3], "c": [1, 2, 3], "left": [0, 1, 0]}), path)
    done = run(tmp_path, root, "--rows", path, "--label", "left", *NO, "churn@1", "churn@2")
    assert done.returncode == 1 and "history.parquet row 2: " in done.stderr, done.stderr


def test_a_worse_version(tmp_path, root, plain):
    found = form_of(tmp_path, root, "--rows", plain, "--label", "left", *NO, "churn@2", "churn@1", code=5)
    assert found["verdict"] == "worse" and "churn@1 is worse than churn@2" in found["why"]
    assert any("no --key" in note for note in found["notes"])


def test_a_version_against_itself_is_not_promoted(tmp_path, root, plain):
    found = form_of(tmp_path, root, "--rows", plain, "--key", "id", "--label", "left", *NO, "churn@2", "churn@2", code=4)
    assert (found["verdict"], found["all"]["gain"], found["labels_needed"]) == ("not_enough", 0, None)
    assert found["all"]["differ"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_two_that_are_as_good_are_not_told_apart(tmp_path, root, data, seed):
    """Labels drawn by a coin: nobody can be right more often than anybody else."""
    head, rows = table_of(data)
    labels = np.random.default_rng(seed).integers(0, 2, ROWS)
    path = write_csv(tmp_path / "coin.csv", head, [[*row[:-1], label] for row, label in zip(rows, labels)])
    found = form_of(tmp_path, root, "--rows", path, "--label", "left", "--slice", "region", *NO, "churn@1", "churn@3", code=4)
    assert found["verdict"] == "not_enough" and found["all"]["differ"] > 1_000


def test_not_enough_says_how_much_would_be(tmp_path, root, data, plain):
    found = form_of(tmp_path, root, "--rows", plain, "--key", "id", "--label", "left", *NO, "churn@2", "churn@4", code=4)
    assert found["verdict"] == "not_enough"
    lost, won = found["all"]["discordant"]
    assert lost != won and found["labels_needed"] > 0
    assert f"{found['labels_needed']} labels" in found["why"]


def test_a_margin_lets_one_pass_that_is_no_worse(tmp_path, root, data, plain):
    found = form_of(
        tmp_path, root, "--rows", plain, "--key", "id", "--label", "left", "--margin", "0.02", *NO, "churn@2", "churn@4", code=0)
    kept = counted(data)
    said = [answers(root, "churn", version, data["features"]).ravel()[kept] > 0.5 for version in (2, 4)]
    wrong = np.array(said) != data["label"][kept]
    lower, _, better, _ = bernstein(wrong[0].astype(int) - wrong[1].astype(int), 0.01, at=-0.02)
    assert lower > -0.02 and found["all"]["ln_e_better"] == pytest.approx(better, abs=1e-6)


def test_a_slice_that_is_worse_is_left_to_a_person(tmp_path, root, data):
    """In the west, what came out is the contrary of what version 2 says and 1 does not."""
    head, rows = table_of(data)
    said = [answers(root, "churn", version, data["features"]).ravel() > 0.5 for version in (1, 2)]
    west = data["region"] == "west"
    label = np.where(west & (said[0] != said[1]), said[0], data["label"]).astype(int)
    path = write_csv(tmp_path / "west.csv", head, [[*row[:-1], value] for row, value in zip(rows, label)])
    found = form_of(
        tmp_path, root, "--rows", path, "--label", "left", "--slice", "region", "--alpha", "0.05", *NO, "churn@1", "churn@2",
        code=4)
    assert found["verdict"] == "halted" and "region=west" in found["why"]
    assert {item["value"] for item in found["slices"] if item["is_worse"]} == {"west"}
    wrong = np.array(said) != label
    ln_e = {}
    for region in ("north", "south", "west"):
        champion, challenger = wrong[:, data["region"] == region]
        ln_e[region] = ln_kernel_a(int((champion & ~challenger).sum()), int((~champion & challenger).sum()))
    assert e_bh(ln_e, 0.05) == {"west"}


@pytest.mark.parametrize("loss", ["absolute", "squared"])
def test_numbers(tmp_path, root, data, loss):
    truth = 30 + data["features"] @ [10, -5, 2] + 8 * data["noise"]
    head, rows = table_of(data)
    path = write_csv(tmp_path / "eta.csv", head, [[*row[:-1], repr(float(value))] for row, value in zip(rows, truth)])
    found = form_of(
        tmp_path, root, "--rows", path, "--label", "left", "--loss", loss, "--scale", "20", "--alpha", "0.02", *NO, "eta@1",
        "eta@2", code=0)
    said = np.array([answers(root, "eta", version, data["features"]).ravel() for version in (1, 2)], float)
    losses = np.minimum(np.abs(said - truth) / 20, 1) if loss == "absolute" else np.minimum(((said - truth) / 20) ** 2, 1)
    scale = found["all"]
    assert scale["loss"] == pytest.approx(losses.mean(axis=1), rel=1e-5)
    assert scale["whole_losses"] == (losses >= 1).sum(axis=1).tolist()
    assert scale["mean_distance"] == pytest.approx(np.minimum(np.abs(said[0] - said[1]) / 20, 1).mean(), rel=1e-5)
    lower, upper, better, worse = bernstein(losses[0] - losses[1], 0.02)
    assert [scale["interval"]["lower"], scale["interval"]["upper"]] == pytest.approx([lower, upper], abs=1e-5)
    assert [scale["ln_e_better"], scale["ln_e_worse"]] == pytest.approx([better, worse], rel=1e-3)
    assert "discordant" not in scale and lower > 0
    swapped = form_of(
        tmp_path, root, "--rows", path, "--label", "left", "--loss", loss, "--scale", "20", *NO, "eta@2", "eta@1", code=5)
    assert swapped["all"]["gain"] == pytest.approx(-scale["gain"], abs=1e-9)


def test_probabilities_by_their_squared_error(tmp_path, root, data, plain):
    found = form_of(
        tmp_path, root, "--rows", plain, "--key", "id", "--label", "left", "--loss", "squared", "--scale", "1", *NO, "churn@1",
        "churn@2", code=0)
    kept = counted(data)
    said = np.array([answers(root, "churn", version, data["features"]).ravel()[kept] for version in (1, 2)], float)
    brier = ((said - data["label"][kept]) ** 2).mean(axis=1)
    assert found["all"]["loss"] == pytest.approx(brier, rel=1e-5)


def test_classes_by_name(tmp_path, root, data):
    names = np.array(["bird", "cat", "dog"])
    truth = names[np.argmax(data["features"] + 0.4 * data["noise"][:, None] * [1, 0, -1], axis=1)]
    head, rows = table_of(data)
    path = write_csv(tmp_path / "kind.csv", head, [[*row[:-1], name] for row, name in zip(rows, truth)])
    found = form_of(tmp_path, root, "--rows", path, "--label", "left", *NO, "kind@1", "kind@2", code=0)
    said = [names[answers(root, "kind", version, data["features"]).argmax(axis=1)] for version in (1, 2)]
    check_scale(found["all"], np.array(said) != truth)


def test_columns_of_other_types(tmp_path):
    """Whole numbers, truth values and text reach the model as row scoring would send them."""
    random = np.random.default_rng(5)
    ages, countries = random.integers(18, 95, 300), random.choice(["DE", "FR", "IT"], 300)
    members, regions, incomes = random.random(300) < 0.5, random.integers(0, 4, 300), random.integers(1, 90_000, 300)
    cases = {
        "columns": {"age": ages, "income": incomes, "member": members, "region": regions},
        "columns_text": {"age": ages, "country": countries},
    }
    for model, columns in cases.items():
        kinds = {"age": np.float32, "income": np.float32, "country": object}
        inputs = {name: np.array(values).astype(kinds.get(name, values.dtype))[:, None] for name, values in columns.items()}
        if "country" in inputs:
            inputs["country"] = np.array([[country.encode()] for country in countries], object)
        said = reference.answer(model, 1, inputs)["score"].ravel().astype(float)
        label = said + random.normal(size=300)
        rows = zip(*(values.tolist() for values in columns.values()), label.tolist())
        path = write_csv(tmp_path / f"{model}.csv", [*columns, "y"], rows)
        found = form_of(
            tmp_path, serving.FIXTURES, "--rows", path, "--label", "y", "--loss", "absolute", "--scale", "5", *NO, f"{model}@1",
            f"{model}@1", code=4)
        loss = np.minimum(np.abs(said - label) / 5, 1).mean()
        assert found["all"]["loss"] == pytest.approx([loss, loss], rel=1e-4), model


def test_a_threshold(tmp_path, root, data, plain):
    found = form_of(
        tmp_path, root, "--rows", plain, "--key", "id", "--label", "left", "--threshold", "0.7", *NO, "churn@1", "churn@2",
        code=0)
    kept = counted(data)
    said = np.array([answers(root, "churn", version, data["features"]).ravel()[kept] > 0.7 for version in (1, 2)])
    check_scale(found["all"], said != data["label"][kept])


def test_the_sample_history(tmp_path):
    """Real rows that neither version has seen: too few to tell the sample models apart, and it says so."""
    flags = ["--rows", HISTORY, "--key", "id", "--label", "malignant", *NO]
    found = form_of(tmp_path, serving.SAMPLES, *flags, "risk@1", "risk@2", code=4)
    assert found["rows"]["counted"] == 171
    assert [round(accuracy, 3) for accuracy in found["all"]["accuracy"]] == [0.982, 0.977]
    with open(HISTORY) as file:
        head, *rows = csv.reader(file)
    table = np.array(rows, float)
    label = table[:, head.index("malignant")]
    wrong = []
    for version in (1, 2):
        path = serving.SAMPLES / "risk" / str(version) / "model.onnx"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        wrong.append(session.run(["label"], {"features": table[:, 1:31].astype(np.float32)})[0] != label)
    check_scale(found["all"], wrong)


# --- What is refused, and how it is told -------------------------------------------------------------------------


def test_labels_that_follow_the_decision(tmp_path, root, plain):
    flags = ["--rows", plain, "--label", "left", "churn@1", "churn@2"]
    done = run(tmp_path, root, *flags)
    assert done.returncode == 2 and "--label-depends-on-decision" in done.stderr and "declined" in done.stderr
    found = form_of(tmp_path, root, *flags, "--label-depends-on-decision", "yes", code=4)
    assert found["verdict"] == "refused" and "the label depends on the decision" in found["why"]
    assert found["all"]["differ"] > 0, "how far the two agree is no matter of quality"
    assert not {"gain", "loss", "accuracy", "interval"} & set(found["all"])


def test_rows_that_cannot_be_read(tmp_path, root, data):
    head, rows = table_of(data)
    rows = [list(row) for row in rows[:300]]
    rows[10][3], rows[20][-1], rows[30] = "wide", "perhaps", rows[30][:-1]
    path = write_csv(tmp_path / "history.csv", head, rows)
    flags = ["--rows", path, "--label", "left", *NO, "churn@1", "churn@2"]
    done = run(tmp_path, root, *flags)
    assert done.returncode == 1 and "history.csv line 32: it has 7 cells" in done.stderr, done.stderr
    done = run(tmp_path, root, *flags, "--errors-max", "2")
    assert done.returncode == 1 and "one more than the 2" in done.stderr, done.stderr
    done = run(tmp_path, root, *flags, "--errors-max", "3", "--output", "json")
    found = json.loads(done.stdout)
    unlabelled = sum(row[-1] == "" for row in rows)
    assert found["rows"]["unreadable"] == 3 and found["rows"]["counted"] == 297 - unlabelled
    assert sorted(fault["line"] for fault in found["faults"]) == [12, 22, 32]
    assert any('"a"' in fault["message"] for fault in found["faults"])


@pytest.mark.parametrize("flags, words", [
    (["--label", "lift"], ['"lift" (the label)', "spare"]),
    (["--label", "left", "--key", "customer"], ['"customer" (the key)']),
    (["--label", "left", "--slice", "a"], ["more than 100 values"]),
    (["--label", "left", "--prediction", "chance"], ['no output is called "chance"', "score"]),
    (["--label", "left", "--loss", "absolute"], ["--scale"]),
])
def test_mistakes(tmp_path, root, plain, flags, words):
    done = run(tmp_path, root, "--rows", plain, *flags, *NO, "churn@1", "churn@2")
    assert done.returncode in (1, 2)
    assert all(word in done.stderr for word in words), done.stderr


def test_a_version_that_is_not_there(tmp_path, root, plain):
    done = run(tmp_path, root, "--rows", plain, "--label", "left", *NO, "churn@1", "churn@9")
    assert done.returncode == 1 and "no version 9 of churn: there is 1, 2, 3, 4" in done.stderr, done.stderr


def test_for_people(tmp_path, root, plain):
    done = run(
        tmp_path, root, "--rows", plain, "--key", "id", "--label", "left", "--slice", "region", *NO, "churn@1", "churn@2")
    assert done.returncode == 0, done.stderr
    for words in ["churn@2 (score", "of a key seen before", "accuracy", "right alone", "region=north", "Gain +", "PROMOTE: "]:
        assert words in done.stdout, done.stdout
