"""Which exports of LightGBM, XGBoost and CatBoost are in the matrix?"""

import pathlib
import tempfile

import catboost
import lightgbm
import numpy as np
import onnx
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

import rows

OPSET = 15
TREES = 12
INPUTS = {"lightgbm": "x", "xgboost": "x", "catboost": "features"}


def holes(name, x):
    """The same table with a tenth of its cells missing."""
    x = x.copy()
    x[rows.chance(name).random(x.shape) < 0.1] = np.nan
    return x


def numbered(data):
    return np.unique(data.y, return_inverse=True)[1] if data.y.dtype.kind == "U" else data.y


def lightgbm_models():
    both = dict(n_estimators=TREES, num_leaves=15, random_state=0, n_jobs=1, verbose=-1)
    classifier, regressor = lightgbm.LGBMClassifier, lightgbm.LGBMRegressor
    tables = rows.classified() | rows.measured()
    for data in rows.classified().values():
        yield f"{data.name}", classifier(**both), data.x, data.y
        yield f"{data.name}.holes", classifier(**both), holes(data.name, data.x), data.y
    cancer, iris, diabetes, linnerud = (tables[name] for name in ("cancer", "iris", "diabetes", "linnerud"))
    yield "cancer.random_forest", classifier(boosting_type="rf", subsample=0.6, subsample_freq=1, **both), cancer.x, cancer.y
    yield "cancer.dart", classifier(boosting_type="dart", **both), cancer.x, cancer.y
    yield "iris.each_against_rest", classifier(objective="multiclassova", **both), iris.x, iris.y
    yield "cancer.zero_missing", classifier(zero_as_missing=True, **both), np.round(cancer.x), cancer.y
    yield "cancer.never_missing", classifier(use_missing=False, **both), cancer.x, cancer.y
    for objective in ("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie"):
        yield f"diabetes.{objective}", regressor(objective=objective, **both), diabetes.x, diabetes.y
    yield "diabetes.holes", regressor(**both), holes("diabetes", diabetes.x), diabetes.y
    yield "linnerud", regressor(min_child_samples=2, **both), linnerud.x, linnerud.y[:, 0]
    coded = np.column_stack([np.digitize(diabetes.x[:, at], np.quantile(diabetes.x[:, at], np.linspace(0.1, 0.9, 9)))
                             for at in range(4)] + [diabetes.x[:, 4]]).astype(np.float32)
    few = dict(both, min_child_samples=5, min_data_per_group=5, cat_smooth=1.0)
    yield "diabetes.categories", Categorical(regressor(**few), [0, 1, 2, 3]), coded, diabetes.y
    yield "diabetes.categories_binary", Categorical(classifier(**few), [0, 1, 2, 3]), coded, (diabetes.y > 140).astype(int)


class Categorical:
    """A learner of which some columns are codes."""

    def __init__(self, learner, columns):
        self.learner, self.columns = learner, columns

    def fit(self, x, y):
        return self.learner.fit(x, y, categorical_feature=self.columns)


def xgboost_models():
    both = dict(n_estimators=TREES, max_depth=4, random_state=0, n_jobs=1, base_score=0.5)
    classifier, regressor = xgboost.XGBClassifier, xgboost.XGBRegressor
    for data in rows.classified().values():
        yield f"{data.name}", classifier(**both), data.x, numbered(data)
        yield f"{data.name}.holes", classifier(**both), holes(data.name, data.x), numbered(data)
    cancer, iris = rows.classified()["cancer"], rows.classified()["iris"]
    diabetes, linnerud = rows.measured()["diabetes"], rows.measured()["linnerud"]
    yield "cancer.dart", classifier(booster="dart", rate_drop=0.3, **both), cancer.x, cancer.y
    yield "cancer.own_base", classifier(**both | {"base_score": None}), cancer.x, cancer.y
    yield "cancer.leafwise", classifier(tree_method="hist", grow_policy="lossguide", max_leaves=9, **both), cancer.x, cancer.y
    yield "cancer.parallel", classifier(num_parallel_tree=3, **both), cancer.x, cancer.y
    yield "iris.softmax", classifier(objective="multi:softmax", **both), iris.x, iris.y
    yield "iris.early", Stopped(classifier(early_stopping_rounds=2, **both)), iris.x, iris.y
    for objective in ("reg:squarederror", "reg:absoluteerror", "count:poisson", "reg:gamma", "reg:tweedie",
                      "reg:squaredlogerror", "reg:pseudohubererror"):
        yield f"diabetes.{objective.split(':')[1]}", regressor(objective=objective, **both), diabetes.x, diabetes.y
    yield "cancer.logistic_regression", regressor(objective="reg:logistic", **both), cancer.x, cancer.y
    yield "diabetes.holes", regressor(**both), holes("diabetes", diabetes.x), diabetes.y
    yield "diabetes.own_base", regressor(**both | {"base_score": None}), diabetes.x, diabetes.y
    yield "linnerud", regressor(**both), linnerud.x, linnerud.y[:, 0]
    yield "diabetes.rank", Ranked(xgboost.XGBRanker(objective="rank:pairwise", **both)), diabetes.x, np.argsort(
        np.argsort(diabetes.y)) // 100
    yield "iris.forest", xgboost.XGBRFClassifier(**both), iris.x, iris.y
    yield "diabetes.forest", xgboost.XGBRFRegressor(**both), diabetes.x, diabetes.y


class Stopped:
    """A learner that stops when it gets no better on rows of its own."""

    def __init__(self, learner):
        self.learner = learner

    def fit(self, x, y):
        return self.learner.fit(x[::2], y[::2], eval_set=[(x[1::2], y[1::2])], verbose=False)


class Ranked:
    """A learner of order within groups."""

    def __init__(self, learner):
        self.learner = learner

    def fit(self, x, y):
        return self.learner.fit(x, y, qid=np.arange(len(x)) // 20)


def catboost_models():
    both = dict(iterations=TREES, random_seed=0, thread_count=1, verbose=False, allow_writing_files=False)
    classifier, regressor = catboost.CatBoostClassifier, catboost.CatBoostRegressor
    for data in rows.classified().values():
        yield f"{data.name}", classifier(depth=4, **both), data.x, data.y
    for data in rows.measured().values():
        yield f"{data.name}", regressor(depth=4, **both), data.x, data.first_target().y
        yield f"{data.name}.holes", regressor(depth=4, nan_mode="Min", **both), holes(data.name, data.x), data.first_target().y
        yield f"{data.name}.lossguide", regressor(grow_policy="Lossguide", max_leaves=9, **both), data.x, data.first_target().y
    cancer, linnerud = rows.classified()["cancer"], rows.measured()["linnerud"]
    yield "cancer.holes", classifier(depth=4, **both), holes("cancer", cancer.x), cancer.y
    yield "cancer.nan_max", classifier(depth=4, nan_mode="Max", **both), holes("cancer", cancer.x), cancer.y
    yield "cancer.depthwise", classifier(depth=4, grow_policy="Depthwise", **both), cancer.x, cancer.y
    yield "linnerud.several", regressor(depth=3, loss_function="MultiRMSE", **both), linnerud.x, linnerud.y


def converted(convert):
    """How onnxmltools exports a model; of a ranker it knows what is inside."""
    def export(model, x):
        model = model.get_booster() if isinstance(model, xgboost.XGBRanker) else model
        types = [("x", FloatTensorType([None, x.shape[1]]))]
        return convert(model, initial_types=types, target_opset=OPSET)
    return export


def saved(model, _):
    """How CatBoost exports a model itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        model.save_model(str(path), format="onnx", export_parameters={"onnx_graph_name": "matrix"})
        return onnx.load(path)


def add_all(repository, library, models, export):
    for name, learner, x, y in models():
        name = f"{library}.{name}"
        if repository.wants(name):
            fitted = learner.fit(x, y)
            repository.add(name, lambda: export(fitted, x), {INPUTS[library]: x})


def add_lightgbm(repository):
    add_all(repository, "lightgbm", lightgbm_models, converted(onnxmltools.convert_lightgbm))
    iris = rows.classified()["iris"]
    for zipmap, suffix in ((True, "zipmap"), ("columns", "columns")):
        name = f"lightgbm.iris.{suffix}"
        if repository.wants(name):
            learner = lightgbm.LGBMClassifier(n_estimators=TREES, random_state=0, n_jobs=1, verbose=-1).fit(iris.x, iris.y)
            types = [("x", FloatTensorType([None, iris.x.shape[1]]))]
            repository.add(name, lambda: onnxmltools.convert_lightgbm(
                learner, initial_types=types, target_opset=OPSET, zipmap=zipmap), {"x": iris.x})


def add_xgboost(repository):
    add_all(repository, "xgboost", xgboost_models, converted(onnxmltools.convert_xgboost))


def add_catboost(repository):
    add_all(repository, "catboost", catboost_models, saved)


PARTS = [add_lightgbm, add_xgboost, add_catboost]
