"""Which models of XGBoost and LightGBM are served as they are, and what do those libraries say themselves?

    VIRTUAL_ENV=/tmp/venv /tmp/venv/bin/python engines/conformance/native_models.py

The environment needs numpy, xgboost 3.2 and lightgbm 4.7. Small models are trained with fixed seeds, saved by the library's
own save_model into engines/classical/tests/native, and asked there and then: what they predict becomes golden examples, with
missing values, zeros, categories nobody saw, and values next to thresholds.
"""

import itertools
import json
import pathlib
import shutil

import lightgbm
import numpy as np
import xgboost

FOLDER = pathlib.Path(__file__).parent.parent / "classical/tests/native"
COLUMNS, CATEGORICAL = 6, 2
NAN = float("nan")


def rows_of(random, count, missing=0.1):
    rows = random.normal(size=(count, COLUMNS))
    rows[random.random(rows.shape) < 0.15] = 0.0
    rows[:, CATEGORICAL] = random.integers(0, 70, count)
    rows[random.random(rows.shape) < missing] = NAN
    return rows


def label_of(rows):
    filled = np.nan_to_num(rows)
    category = filled[:, CATEGORICAL] % 7
    return filled[:, 0] - 0.7 * filled[:, 1] * filled[:, 3] + 0.4 * category + np.isnan(rows[:, 4])


def asked_rows(random, thresholds, dtype):
    """Rows to ask, with values at thresholds and next to them."""
    rows = rows_of(random, 30, missing=0.2).astype(dtype)
    rows[0], rows[1], rows[2] = NAN, 0.0, -0.0
    rows[3:8, CATEGORICAL] = [-1, 500, 2.9, 69.5, -3e9]
    for at, (column, threshold) in enumerate(itertools.islice(thresholds, 15)):
        threshold = dtype(threshold)
        rows[8 + at, column] = [threshold, np.nextafter(threshold, dtype(-9e9)), np.nextafter(threshold, dtype(9e9))][at % 3]
    return rows


def tensor(name, kind, values):
    values = np.asarray(values)
    values = values.reshape(len(values), -1)
    # Single precision as its shortest text: what is read is the same number.
    data = [float(str(value)) for value in values.ravel()]
    return {"name": name, "datatype": kind, "shape": list(values.shape), "data": data}


def write(name, file, save, kind, rows, predictions, raw, relative):
    folder = FOLDER / name / "1"
    (folder / "golden").mkdir(parents=True)
    save(str(folder / file))
    golden = {"description": "What the library itself predicts.",
              "inputs": [tensor("input", kind, rows)],
              "outputs": [tensor("predictions", kind, predictions), tensor("raw", kind, raw)],
              "tolerance": {"absolute": 1e-7 if relative > 1e-9 else 0, "relative": relative}}
    (folder / "golden/rows.json").write_text(json.dumps(golden) + "\n")


def xgboost_thresholds(booster):
    model = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    for tree in model.get("gbtree", model)["model"]["trees"]:
        nodes = zip(tree["left_children"], tree["split_indices"], tree["split_conditions"], tree["split_type"])
        yield from [(column, threshold) for left, column, threshold, kind in nodes if left != -1 and kind == 0]


def lightgbm_thresholds(booster):
    nodes = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while nodes:
        node = nodes.pop(0)
        if "threshold" in node:
            nodes += [node["left_child"], node["right_child"]]
            if node["decision_type"] == "<=":
                yield node["split_feature"], node["threshold"]


def xgboost_model(name, file, label=None, names=None, categorical=False, rounds=5, group=None, **parameters):
    random = np.random.default_rng(7)
    rows = rows_of(random, 400).astype(np.float32)
    label = (label or label_of)(rows.astype(np.float64))
    types = ["c" if column == CATEGORICAL and categorical else "float" for column in range(COLUMNS)]

    def matrix(rows, **more):
        return xgboost.DMatrix(rows, feature_names=names, feature_types=types, enable_categorical=True, **more)

    parameters = {"max_depth": 3, "seed": 7, "nthread": 1, "eta": 0.4, **parameters}
    booster = xgboost.train(parameters, matrix(rows, label=label, group=group), rounds)
    asked = asked_rows(random, xgboost_thresholds(booster), np.float32)
    if categorical:
        # The library refuses what is no category when it makes a matrix, but not where it predicts in place.
        asked[3:8, CATEGORICAL] = [500, 3, 69, 0, 1]
    write(name, file, booster.save_model, "FP32", asked, booster.predict(matrix(asked)),
          booster.predict(matrix(asked), output_margin=True), 1e-6)


def lightgbm_model(name, label=None, names=None, categorical=False, rounds=5, group=None, **parameters):
    random = np.random.default_rng(9)
    rows = rows_of(random, 400)
    label = (label or label_of)(rows)
    parameters = {"num_leaves": 8, "min_data_in_leaf": 5, "seed": 9, "num_threads": 1, "deterministic": True,
                  "verbose": -1, "learning_rate": 0.4, "min_data_per_group": 5, "cat_smooth": 1, "max_cat_to_onehot": 2,
                  **parameters}
    data = lightgbm.Dataset(rows, label, group=group, feature_name=names or "auto",
                            categorical_feature=[CATEGORICAL] if categorical else [])
    booster = lightgbm.train(parameters, data, rounds)
    asked = asked_rows(random, lightgbm_thresholds(booster), np.float64)
    asked[23:27, 1] = [1e-36, -1e-36, 2e-35, -2e-35]
    write(name, "model.txt", booster.save_model, "FP64", asked, booster.predict(asked),
          booster.predict(asked, raw_score=True), 1e-12)


def positive(rows):
    return np.exp(label_of(rows) / 3)


def of_two(rows):
    return (label_of(rows) > 1).astype(float)


def of_three(rows):
    return np.digitize(label_of(rows), [0.5, 2]).astype(float)


def share(rows):
    return 1 / (1 + np.exp(-label_of(rows)))


def pair(rows):
    return np.stack([label_of(rows), 2 - label_of(rows) ** 2], axis=1)


NAMES = ["age", "income", "region", "größe", "tenure", "score"]
GROUPS = [20] * 20

if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    for objective, label in [("reg:squarederror", None), ("reg:absoluteerror", None), ("reg:pseudohubererror", None),
                             ("reg:squaredlogerror", positive), ("reg:logistic", share), ("reg:gamma", positive),
                             ("reg:tweedie", positive), ("count:poisson", positive), ("binary:logistic", of_two),
                             ("binary:logitraw", of_two), ("binary:hinge", of_two)]:
        file = "model.json" if len(objective) % 2 else "model.ubj"
        xgboost_model("xgboost_" + objective.replace(":", "_"), file, label, objective=objective)
    xgboost_model("xgboost_softprob", "model.ubj", of_three, objective="multi:softprob", num_class=3)
    xgboost_model("xgboost_softmax", "model.json", of_three, objective="multi:softmax", num_class=3)
    for objective in ["pairwise", "ndcg", "map"]:
        xgboost_model("xgboost_rank_" + objective, "model.ubj", of_two, group=GROUPS, objective="rank:" + objective)
    xgboost_model("xgboost_dart", "model.ubj", booster="dart", rate_drop=0.5, rounds=8)
    xgboost_model("xgboost_dart_softprob", "model.json", of_three, booster="dart", rate_drop=0.5, rounds=6,
                  objective="multi:softprob", num_class=3)
    xgboost_model("xgboost_forest", "model.json", num_parallel_tree=4, subsample=0.6, rounds=2)
    xgboost_model("xgboost_categories", "model.json", names=NAMES, categorical=True, max_cat_to_onehot=3)
    xgboost_model("xgboost_categories_binary", "model.ubj", of_two, names=NAMES, categorical=True, max_cat_to_onehot=80,
                  objective="binary:logistic")
    xgboost_model("xgboost_two_targets", "model.ubj", pair, objective="reg:squarederror")
    xgboost_model("xgboost_quantiles", "model.json", objective="reg:quantileerror", quantile_alpha=[0.1, 0.5, 0.9])
    xgboost_model("xgboost_no_rounds", "model.json", rounds=0, base_score=0.25, objective="binary:logistic", label=of_two)

    for objective, label in [("regression", None), ("regression_l1", None), ("huber", None), ("fair", None),
                             ("quantile", None), ("mape", positive), ("poisson", positive), ("gamma", positive),
                             ("tweedie", positive), ("cross_entropy", share), ("cross_entropy_lambda", share)]:
        lightgbm_model("lightgbm_" + objective, label, objective=objective)
    lightgbm_model("lightgbm_sqrt", objective="regression", reg_sqrt=True)
    lightgbm_model("lightgbm_binary", of_two, names=NAMES, objective="binary", sigmoid=0.7)
    lightgbm_model("lightgbm_multiclass", of_three, objective="multiclass", num_class=3)
    lightgbm_model("lightgbm_multiclassova", of_three, objective="multiclassova", num_class=3, sigmoid=1.3)
    lightgbm_model("lightgbm_lambdarank", of_two, group=GROUPS, objective="lambdarank")
    lightgbm_model("lightgbm_rank_xendcg", of_two, group=GROUPS, objective="rank_xendcg")
    forest = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6, "feature_fraction": 0.8}
    lightgbm_model("lightgbm_forest", objective="regression", **forest)
    lightgbm_model("lightgbm_forest_multiclass", of_three, objective="multiclass", num_class=3, **forest)
    lightgbm_model("lightgbm_dart", objective="regression", boosting="dart", drop_rate=0.5)
    lightgbm_model("lightgbm_categories", categorical=True, names=NAMES, objective="regression")
    lightgbm_model("lightgbm_categories_multiclass", of_three, categorical=True, objective="multiclass", num_class=3)
    lightgbm_model("lightgbm_zeros_missing", objective="regression", zero_as_missing=True)
    lightgbm_model("lightgbm_zeros_missing_categories", of_two, categorical=True, objective="binary", zero_as_missing=True)
    lightgbm_model("lightgbm_nothing_missing", objective="regression", use_missing=False)
    lightgbm_model("lightgbm_single_leaves", objective="regression", min_data_in_leaf=390)
