"""What do the reference libraries say of which column had which part in a score?

    VIRTUAL_ENV=/tmp/venv /tmp/venv/bin/python engines/conformance/explained.py

The environment needs numpy, shap 0.51, xgboost 3.2, lightgbm 4.7, scikit-learn 1.9, skl2onnx 1.20, onnxmltools 1.16. Small
models are trained with fixed seeds and written to engines/classical/tests/explained, each with rows, a background where it is
compared with one, and the parts that XGBoost's pred_contribs, LightGBM's pred_contrib or shap find; for pipelines over strings,
those that the definition gives over all coalitions of columns.
"""

import itertools
import json
import math
import pathlib
import shutil

import lightgbm
import numpy as np
import onnxmltools
import pandas
import shap
import skl2onnx.common._container
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesRegressor, GradientBoostingClassifier, GradientBoostingRegressor, HistGradientBoostingClassifier,
    HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

# Converters give lists of bools where onnx takes integers only.
make_node = skl2onnx.common._container.make_node
skl2onnx.common._container.make_node = lambda *given, **attributes: make_node(*given, **{
    name: [int(item) if isinstance(item, (bool, np.bool_)) else item for item in value]
    if isinstance(value, (list, np.ndarray)) else value for name, value in attributes.items()})

FOLDER = pathlib.Path(__file__).parent.parent / "classical/tests/explained"
COLUMNS, CATEGORICAL = 5, 2
NAN = float("nan")
random = np.random.default_rng(7)


def single(values):
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def numbers(count, missing=0.0):
    rows = single(random.normal(size=(count, COLUMNS)))
    rows[random.random(rows.shape) < 0.15] = 0.0
    rows[random.random(rows.shape) < missing] = NAN
    return rows


def with_categories(count, missing=0.1):
    rows = numbers(count, missing)
    rows[:, CATEGORICAL] = random.integers(0, 12, count)
    rows[random.random(count) < missing, CATEGORICAL] = NAN
    return rows


def label(rows):
    filled = np.nan_to_num(rows)
    return filled[:, 0] - 0.7 * filled[:, 1] * filled[:, 3] + 0.4 * (filled[:, CATEGORICAL] % 3) + 0.3 * np.isnan(rows[:, 4])


def binary(values):
    return (values > np.median(values)).astype(int)


def thirds(values):
    return np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))


def plain(values):
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def tensors(columns):
    """Inputs by name: numbers row by row, NaN as null, or texts."""
    return {name: {"shape": list(np.shape(values)), "data": plain(np.asarray(values).ravel().tolist())}
            for name, values in columns.items()}


def write(name, file, content, rows, base, parts, background=None, tolerance=1e-5):
    """`base` is one for each output; `parts` is rows x columns x outputs, or without the last."""
    parts = np.asarray(parts, dtype=float)
    parts = parts.reshape(parts.shape[0], parts.shape[1], -1)
    folder = FOLDER / name
    folder.mkdir(parents=True)
    (folder / file).write_bytes(content)
    told = {"inputs": tensors(rows), "background": background and tensors(background), "tolerance": tolerance,
            "base": np.ravel(base).tolist(), "parts": parts.transpose(0, 2, 1).ravel().tolist(),
            "outputs": parts.shape[2]}
    (folder / "expected.json").write_text(json.dumps(told) + "\n")


def of_xgboost(name, parameters, train, target, rows, categorical=False, compared=True, rounds=12):
    kinds = ["c" if categorical and at == CATEGORICAL else "q" for at in range(COLUMNS)]
    matrix = lambda rows, target=None: xgboost.DMatrix(rows, target, feature_types=kinds, enable_categorical=categorical)
    booster = xgboost.train({"max_depth": 5, "seed": 1, **parameters}, matrix(train, target), rounds)
    content = bytes(booster.save_raw("json"))
    found = booster.predict(matrix(rows), pred_contribs=True).astype(float)
    found = found.reshape(len(rows), -1, COLUMNS + 1).transpose(0, 2, 1)
    write(f"xgboost_{name}", "model.json", content, {"input": rows}, found[0, -1], found[:, :-1], tolerance=2e-4)
    if compared:
        background = train[:20]
        explainer = shap.TreeExplainer(booster, data=background, feature_perturbation="interventional")
        parts = explainer.shap_values(rows, check_additivity=False)
        # shap 0.51 knows one base score for all classes; the base is the mean score by definition.
        base = booster.predict(matrix(background), output_margin=True).astype(float).mean(axis=0)
        write(f"xgboost_{name}_compared", "model.json", content, {"input": rows}, base, parts, {"input": background},
              tolerance=2e-4)
        initial = [("input", ToolsFloat([None, COLUMNS]))]
        booster.feature_names = None
        model = onnxmltools.convert_xgboost(booster, initial_types=initial, target_opset=15)
        write(f"onnx_xgboost_{name}", "model.onnx", model.SerializeToString(), {"input": rows}, base, parts,
              {"input": background}, tolerance=2e-4)


def of_lightgbm(name, parameters, train, target, rows, categorical=False, compared=True, rounds=12):
    parameters = {"verbosity": -1, "seed": 1, "num_leaves": 15, "min_data_in_leaf": 5, "deterministic": True, **parameters}
    if parameters["objective"] == "multiclass":
        # Of a booster, shap 0.51 explains the sum over all classes.
        learned = lightgbm.LGBMClassifier(n_estimators=rounds, **parameters).fit(train, target)
        booster = learned.booster_
    else:
        data = lightgbm.Dataset(train, target, categorical_feature=[CATEGORICAL] if categorical else [])
        learned = booster = lightgbm.train(parameters, data, rounds)
    content = booster.model_to_string().encode()
    found = booster.predict(rows, pred_contrib=True)
    # pred_contrib takes a forest's trees apart, and does not divide by their number as predictions do.
    found /= rounds if parameters.get("boosting") == "rf" else 1
    found = found.reshape(len(rows), -1, COLUMNS + 1).transpose(0, 2, 1)
    write(f"lightgbm_{name}", "model.txt", content, {"input": rows}, found[0, -1], found[:, :-1], tolerance=1e-9)
    if compared:
        background = train[:20]
        explainer = shap.TreeExplainer(learned, data=background, feature_perturbation="interventional")
        parts = explainer.shap_values(rows, check_additivity=False)
        write(f"lightgbm_{name}_compared", "model.txt", content, {"input": rows}, explainer.expected_value, parts,
              {"input": background}, tolerance=1e-6)
        initial = [("input", ToolsFloat([None, COLUMNS]))]
        model = onnxmltools.convert_lightgbm(booster, initial_types=initial, target_opset=15, zipmap=False)
        write(f"onnx_lightgbm_{name}", "model.onnx", model.SerializeToString(), {"input": rows},
              explainer.expected_value, parts, {"input": background})


def of_sklearn(name, model, train, target, rows):
    model.fit(train, target)
    background = train[:20]
    explainer = shap.TreeExplainer(model, data=background, feature_perturbation="interventional")
    base, parts = explainer.expected_value, explainer.shap_values(rows, check_additivity=False)
    if name == "forest_binary":
        # The file has the second class only.
        base, parts = base[1], parts[..., 1]
    file = to_onnx(model, initial_types=[("input", FloatTensorType([None, COLUMNS]))], target_opset=17)
    write(f"sklearn_{name}", "model.onnx", file.SerializeToString(), {"input": rows}, base, parts,
          {"input": background}, tolerance=2e-5)


def of_linear(name, model, train, target, rows):
    """Behind a scaler, which has each column to itself: parts of scaled columns are those of the columns."""
    scaler = StandardScaler().fit(train)
    model.fit(scaler.transform(train), target)
    background = train[:20]
    masker = shap.maskers.Independent(scaler.transform(background), max_samples=1000)
    explainer = shap.LinearExplainer(model, masker)
    parts = explainer.shap_values(scaler.transform(rows))
    file = to_onnx(make_pipeline(scaler, model), initial_types=[("input", FloatTensorType([None, COLUMNS]))], target_opset=17)
    write(f"linear_{name}", "model.onnx", file.SerializeToString(), {"input": rows}, explainer.expected_value, parts,
          {"input": background}, tolerance=2e-5)


def shapley(worth, rows, background):
    """By definition: `worth` tells what a table of mixed rows is worth, with a column for each output."""
    columns, found, bases = list(rows.columns), [], None
    for _, row in rows.iterrows():
        worths = {}
        for size in range(len(columns) + 1):
            for coalition in itertools.combinations(columns, size):
                mixed = background.copy()
                for column in coalition:
                    mixed[column] = row[column]
                worths[frozenset(coalition)] = np.asarray(worth(mixed)).reshape(len(background), -1).mean(axis=0)
        bases = worths[frozenset()]
        parts = []
        for column in columns:
            others, part = [other for other in columns if other != column], 0
            for size in range(len(columns)):
                weight = math.factorial(size) * math.factorial(len(columns) - size - 1) / math.factorial(len(columns))
                for coalition in map(frozenset, itertools.combinations(others, size)):
                    part = part + weight * (worths[coalition | {column}] - worths[coalition])
            parts.append(part)
        found.append(parts)
    return bases, np.array(found)


def of_pipeline(name, model, target, worth):
    table = pandas.DataFrame({
        "age": single(random.integers(18, 80, 200)), "income": single(random.normal(50, 10, 200)),
        "job": random.choice(["clerk", "smith", "none", "baker"], 200), "town": random.choice(["a", "b", "c"], 200)})
    table.loc[random.random(200) < 0.1, "income"] = NAN
    wanted = target(table["age"] / 20 + (table["job"] == "smith") * 2 - (table["town"] == "b") + table["income"].fillna(50) / 30)
    prepared = ColumnTransformer([
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
        ("texts", OneHotEncoder(handle_unknown="ignore"), ["job", "town"])])
    pipeline = make_pipeline(prepared, model).fit(table, wanted)
    rows, background = table[:6].copy(), table[20:35]
    rows.loc[rows.index[0], "job"] = "somebody"
    base, parts = shapley(lambda mixed: worth(pipeline, mixed), rows, background)
    kinds = [(name, StringTensorType([None, 1]) if name in ("job", "town") else FloatTensorType([None, 1]))
             for name in table.columns]
    file = to_onnx(pipeline, initial_types=kinds, target_opset=17)
    columns = lambda table: {name: table[[name]].to_numpy() for name in table.columns}
    write(f"pipeline_{name}", "model.onnx", file.SerializeToString(), columns(rows), base, parts, columns(background),
          tolerance=2e-5)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    train, rows = numbers(300), numbers(6)
    gaps, gappy = numbers(300, 0.1), numbers(6, 0.2)
    kinds, kind_rows = with_categories(300), with_categories(8, 0.2)
    kind_rows[0, CATEGORICAL], kind_rows[1, CATEGORICAL] = 11, 0
    of_xgboost("regression", {"objective": "reg:squarederror"}, gaps, label(gaps), gappy)
    of_xgboost("binary", {"objective": "binary:logistic"}, gaps, binary(label(gaps)), gappy)
    of_xgboost("classes", {"objective": "multi:softprob", "num_class": 3}, gaps, thirds(label(gaps)), gappy, rounds=5)
    of_xgboost("categories", {"objective": "reg:squarederror", "max_cat_to_onehot": 2}, kinds, label(kinds), kind_rows,
               categorical=True, compared=False)
    of_xgboost("categories_one", {"objective": "binary:logistic", "max_cat_to_onehot": 50}, kinds, binary(label(kinds)),
               kind_rows, categorical=True, compared=False)
    of_xgboost("dart", {"booster": "dart", "rate_drop": 0.3}, gaps, label(gaps), gappy, compared=False)
    of_lightgbm("regression", {"objective": "regression"}, gaps, label(gaps), gappy)
    of_lightgbm("binary", {"objective": "binary"}, gaps, binary(label(gaps)), gappy)
    of_lightgbm("classes", {"objective": "multiclass", "num_class": 3}, gaps, thirds(label(gaps)), gappy, rounds=5)
    of_lightgbm("categories", {"objective": "regression", "min_data_per_group": 5}, kinds, label(kinds), kind_rows,
                categorical=True, compared=False)
    of_lightgbm("zeros", {"objective": "regression", "zero_as_missing": True}, gaps, label(gaps), gappy, compared=False)
    of_lightgbm("forest", {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
                gaps, label(gaps), gappy, compared=False)
    of_sklearn("boosting_regression", GradientBoostingRegressor(n_estimators=10, random_state=1), train, label(train), rows)
    of_sklearn("boosting_binary", GradientBoostingClassifier(n_estimators=10, random_state=1), train, binary(label(train)), rows)
    of_sklearn("forest_regression", RandomForestRegressor(8, max_depth=6, random_state=1), train, label(train), rows)
    of_sklearn("forest_binary", RandomForestClassifier(8, max_depth=6, random_state=1), train, binary(label(train)), rows)
    of_sklearn("forest_classes", RandomForestClassifier(8, max_depth=6, random_state=1), train, thirds(label(train)), rows)
    of_sklearn("extra_regression", ExtraTreesRegressor(8, max_depth=6, random_state=1), train, label(train), rows)
    of_sklearn("tree_classes", DecisionTreeClassifier(max_depth=6, random_state=1), train, thirds(label(train)), rows)
    of_sklearn("hist_regression", HistGradientBoostingRegressor(max_iter=10, random_state=1), train, label(train), rows)
    of_sklearn("hist_binary", HistGradientBoostingClassifier(max_iter=10, random_state=1), train, binary(label(train)), rows)
    of_linear("regression", LinearRegression(), train, label(train), rows)
    of_linear("ridge", Ridge(), train, label(train), rows)
    of_linear("logistic", LogisticRegression(), train, binary(label(train)), rows)
    of_linear("logistic_classes", LogisticRegression(), train, thirds(label(train)), rows)
    of_pipeline("boosting", GradientBoostingClassifier(n_estimators=20, random_state=1), binary,
                lambda model, rows: model.decision_function(rows))
    of_pipeline("forest", RandomForestClassifier(8, max_depth=6, random_state=1), thirds,
                lambda model, rows: model.predict_proba(rows))
    of_pipeline("logistic", LogisticRegression(), binary, lambda model, rows: model.decision_function(rows))
    of_pipeline("linear", LinearRegression(), lambda values: values, lambda model, rows: model.predict(rows))


if __name__ == "__main__":
    main()
