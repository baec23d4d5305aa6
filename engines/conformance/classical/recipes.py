"""Which estimators of scikit-learn are in the matrix, and how is each exported?

Each classifier learns every table with classes, each regressor every table with numbers, and each transformer both; the
transformers stand alone and in front of a model. Trees are few and shallow, so that all of it takes a minute or two.
"""

import warnings

import numpy as np
import pandas
from skl2onnx import to_onnx
from skl2onnx.common.data_types import (
    DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType)
from sklearn import (
    base, calibration, cluster, compose, cross_decomposition, decomposition, discriminant_analysis, ensemble,
    feature_selection, gaussian_process, impute, linear_model, mixture, model_selection, multiclass, multioutput,
    naive_bayes, neighbors, neural_network, pipeline, preprocessing, random_projection, svm, tree)

import rows

warnings.filterwarnings("ignore")
OPSETS = {"": 18, "ai.onnx.ml": 3}
COLUMN_TYPES = {"float32": FloatTensorType, "float64": DoubleTensorType, "int64": Int64TensorType,
                "object": StringTensorType}
SEED = {"random_state": 0}
SMALL = SEED | {"max_depth": 5, "n_estimators": 12}


def stump(kind):
    return kind(max_depth=3, **SEED)


def scaled(model):
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model)


TREE, TREE_R = tree.DecisionTreeClassifier, tree.DecisionTreeRegressor
LOGISTIC = lambda **more: linear_model.LogisticRegression(max_iter=300, **more)
SGD, SGD_R = linear_model.SGDClassifier, linear_model.SGDRegressor

CLASSIFIERS = {
    "logistic": lambda: LOGISTIC(),
    "logistic_scaled": lambda: scaled(LOGISTIC()),
    "logistic_cv": lambda: scaled(linear_model.LogisticRegressionCV(Cs=2, cv=2)),
    "sgd_log": lambda: SGD(loss="log_loss", **SEED),
    "sgd_log_scaled": lambda: scaled(SGD(loss="log_loss", **SEED)),
    "sgd_hinge": lambda: SGD(**SEED),
    "sgd_huber": lambda: scaled(SGD(loss="modified_huber", **SEED)),
    "perceptron": lambda: linear_model.Perceptron(**SEED),
    "passive_aggressive": lambda: linear_model.PassiveAggressiveClassifier(**SEED),
    "ridge": lambda: linear_model.RidgeClassifier(),
    "ridge_cv": lambda: linear_model.RidgeClassifierCV(),
    "linear_svc": lambda: scaled(svm.LinearSVC(**SEED)),
    "svc_rbf": lambda: svm.SVC(),
    "svc_linear": lambda: scaled(svm.SVC(kernel="linear")),
    "svc_poly": lambda: scaled(svm.SVC(kernel="poly")),
    "svc_sigmoid": lambda: scaled(svm.SVC(kernel="sigmoid")),
    "svc_ovo": lambda: scaled(svm.SVC(decision_function_shape="ovo")),
    "svc_proba": lambda: scaled(svm.SVC(probability=True, **SEED)),
    "nu_svc": lambda: scaled(svm.NuSVC(nu=0.1)),
    "nu_svc_proba": lambda: scaled(svm.NuSVC(nu=0.1, probability=True, **SEED)),
    "lda": lambda: discriminant_analysis.LinearDiscriminantAnalysis(),
    "qda": lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1),
    "tree": lambda: TREE(max_depth=8, **SEED),
    "tree_whole": lambda: TREE(**SEED),
    "extra_tree": lambda: tree.ExtraTreeClassifier(max_depth=8, **SEED),
    "forest": lambda: ensemble.RandomForestClassifier(**SMALL),
    "extra_trees": lambda: ensemble.ExtraTreesClassifier(**SMALL),
    "boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=8, **SEED),
    "boosting_exponential": lambda: ensemble.GradientBoostingClassifier(n_estimators=8, init="zero", **SEED),
    "hist_boosting": lambda: ensemble.HistGradientBoostingClassifier(max_iter=8, max_leaf_nodes=15, **SEED),
    "adaboost": lambda: ensemble.AdaBoostClassifier(stump(TREE), n_estimators=6, **SEED),
    "adaboost_stumps": lambda: ensemble.AdaBoostClassifier(n_estimators=8, **SEED),
    "bagging": lambda: ensemble.BaggingClassifier(stump(TREE), n_estimators=5, **SEED),
    "bagging_part": lambda: ensemble.BaggingClassifier(stump(TREE), n_estimators=5, max_features=0.5, **SEED),
    "bagging_logistic": lambda: scaled(ensemble.BaggingClassifier(LOGISTIC(), n_estimators=3, **SEED)),
    "voting_soft": lambda: ensemble.VotingClassifier(
        [("a", LOGISTIC()), ("b", TREE(max_depth=4, **SEED)), ("c", naive_bayes.GaussianNB())], voting="soft", flatten_transform=False),
    "voting_weighted": lambda: ensemble.VotingClassifier(
        [("a", LOGISTIC()), ("b", TREE(max_depth=4, **SEED))], voting="soft", flatten_transform=False,
        weights=np.array([0.3, 0.7])),
    "voting_hard": lambda: ensemble.VotingClassifier(
        [("a", LOGISTIC()), ("b", TREE(max_depth=4, **SEED)), ("c", TREE(max_depth=2, **SEED))], flatten_transform=False),
    "stacking": lambda: ensemble.StackingClassifier(
        [("a", LOGISTIC()), ("b", TREE(max_depth=4, **SEED))], LOGISTIC(), cv=2),
    "stacking_through": lambda: ensemble.StackingClassifier(
        [("b", TREE(max_depth=4, **SEED))], TREE(max_depth=3, **SEED), cv=2, passthrough=True),
    "calibrated_sigmoid": lambda: calibration.CalibratedClassifierCV(TREE(max_depth=4, **SEED), cv=2),
    "calibrated_isotonic": lambda: calibration.CalibratedClassifierCV(
        TREE(max_depth=4, **SEED), cv=2, method="isotonic"),
    "calibrated_linear": lambda: scaled(calibration.CalibratedClassifierCV(svm.LinearSVC(**SEED), cv=2)),
    "rest_logistic": lambda: scaled(multiclass.OneVsRestClassifier(LOGISTIC())),
    "rest_trees": lambda: multiclass.OneVsRestClassifier(TREE(max_depth=4, **SEED)),
    "rest_svc": lambda: scaled(multiclass.OneVsRestClassifier(svm.LinearSVC(**SEED))),
    "one_vs_one": lambda: scaled(multiclass.OneVsOneClassifier(LOGISTIC())),
    "neighbours": lambda: neighbors.KNeighborsClassifier(3),
    "radius": lambda: scaled(neighbors.RadiusNeighborsClassifier(50.0)),
    "gaussian_bayes": lambda: naive_bayes.GaussianNB(),
    "bernoulli_bayes": lambda: naive_bayes.BernoulliNB(binarize=1.0),
    "multinomial_bayes": lambda: naive_bayes.MultinomialNB(),
    "complement_bayes": lambda: naive_bayes.ComplementNB(),
    "perceptrons": lambda: scaled(neural_network.MLPClassifier(hidden_layer_sizes=[8], max_iter=60, **SEED)),
    "gaussian_process": lambda: gaussian_process.GaussianProcessClassifier(optimizer=None, **SEED),
    "grid_search": lambda: model_selection.GridSearchCV(TREE(**SEED), {"max_depth": [2, 4]}, cv=2),
    "tuned_threshold": lambda: model_selection.TunedThresholdClassifierCV(LOGISTIC(), cv=2),
}

REGRESSORS = {
    "linear": lambda: linear_model.LinearRegression(),
    "linear_scaled": lambda: scaled(linear_model.LinearRegression()),
    "ridge": lambda: linear_model.Ridge(),
    "ridge_cv": lambda: linear_model.RidgeCV(),
    "lasso": lambda: linear_model.Lasso(),
    "lasso_cv": lambda: linear_model.LassoCV(cv=2),
    "elastic": lambda: linear_model.ElasticNet(),
    "elastic_cv": lambda: linear_model.ElasticNetCV(cv=2),
    "lars": lambda: linear_model.Lars(),
    "lars_cv": lambda: linear_model.LarsCV(cv=2),
    "lasso_lars": lambda: linear_model.LassoLars(),
    "lasso_lars_cv": lambda: linear_model.LassoLarsCV(cv=2),
    "lasso_lars_ic": lambda: linear_model.LassoLarsIC(),
    "multi_lasso": lambda: linear_model.MultiTaskLasso(),
    "multi_elastic": lambda: linear_model.MultiTaskElasticNet(),
    "pursuit": lambda: linear_model.OrthogonalMatchingPursuit(n_nonzero_coefs=2),
    "bayesian_ridge": lambda: linear_model.BayesianRidge(),
    "ard": lambda: linear_model.ARDRegression(),
    "huber": lambda: linear_model.HuberRegressor(),
    "quantile": lambda: linear_model.QuantileRegressor(alpha=0.1),
    "ransac": lambda: linear_model.RANSACRegressor(**SEED),
    "theil_sen": lambda: linear_model.TheilSenRegressor(max_subpopulation=100, **SEED),
    "poisson": lambda: scaled(linear_model.PoissonRegressor()),
    "gamma": lambda: scaled(linear_model.GammaRegressor()),
    "tweedie": lambda: scaled(linear_model.TweedieRegressor(power=1.5)),
    "sgd": lambda: scaled(SGD_R(**SEED)),
    "passive_aggressive": lambda: scaled(linear_model.PassiveAggressiveRegressor(**SEED)),
    "linear_svr": lambda: scaled(svm.LinearSVR(**SEED)),
    "svr_rbf": lambda: svm.SVR(),
    "svr_linear": lambda: scaled(svm.SVR(kernel="linear")),
    "svr_poly": lambda: scaled(svm.SVR(kernel="poly")),
    "svr_sigmoid": lambda: scaled(svm.SVR(kernel="sigmoid")),
    "nu_svr": lambda: scaled(svm.NuSVR()),
    "tree": lambda: TREE_R(max_depth=8, **SEED),
    "extra_tree": lambda: tree.ExtraTreeRegressor(max_depth=8, **SEED),
    "forest": lambda: ensemble.RandomForestRegressor(**SMALL),
    "extra_trees": lambda: ensemble.ExtraTreesRegressor(**SMALL),
    "boosting": lambda: ensemble.GradientBoostingRegressor(n_estimators=12, **SEED),
    "boosting_huber": lambda: ensemble.GradientBoostingRegressor(loss="huber", n_estimators=12, **SEED),
    "boosting_quantile": lambda: ensemble.GradientBoostingRegressor(loss="quantile", n_estimators=12, **SEED),
    "boosting_zero": lambda: ensemble.GradientBoostingRegressor(init="zero", n_estimators=12, **SEED),
    "hist_boosting": lambda: ensemble.HistGradientBoostingRegressor(max_iter=12, max_leaf_nodes=15, **SEED),
    "adaboost": lambda: ensemble.AdaBoostRegressor(stump(TREE_R), n_estimators=6, **SEED),
    "bagging": lambda: ensemble.BaggingRegressor(stump(TREE_R), n_estimators=5, **SEED),
    "bagging_part": lambda: ensemble.BaggingRegressor(stump(TREE_R), n_estimators=5, max_features=0.5, **SEED),
    "voting": lambda: ensemble.VotingRegressor(
        [("a", linear_model.LinearRegression()), ("b", TREE_R(max_depth=4, **SEED))], weights=np.array([0.25, 0.75])),
    "stacking": lambda: ensemble.StackingRegressor(
        [("a", linear_model.LinearRegression()), ("b", TREE_R(max_depth=4, **SEED))], linear_model.Ridge(), cv=2),
    "neighbours": lambda: neighbors.KNeighborsRegressor(3),
    "radius": lambda: neighbors.RadiusNeighborsRegressor(500.0),
    "perceptrons": lambda: scaled(neural_network.MLPRegressor(hidden_layer_sizes=[8], max_iter=60, **SEED)),
    "gaussian_process": lambda: gaussian_process.GaussianProcessRegressor(optimizer=None, alpha=1.0, **SEED),
    "squares": lambda: cross_decomposition.PLSRegression(2),
    "multi_output": lambda: multioutput.MultiOutputRegressor(TREE_R(max_depth=3, **SEED)),
    "grid_search": lambda: model_selection.GridSearchCV(linear_model.Ridge(), {"alpha": [0.1, 1]}, cv=2),
}
# Those that learn several targets at once; the others get the first.
SEVERAL_TARGETS = {
    "linear", "linear_scaled", "ridge", "lasso", "elastic", "multi_lasso", "multi_elastic", "tree", "extra_tree", "forest",
    "extra_trees", "bagging", "neighbours", "perceptrons", "squares", "multi_output"}
ONLY_SEVERAL = {"multi_lasso", "multi_elastic", "multi_output"}

TRANSFORMERS = {
    "standard": lambda: preprocessing.StandardScaler(),
    "standard_mean": lambda: preprocessing.StandardScaler(with_std=False),
    "standard_scale": lambda: preprocessing.StandardScaler(with_mean=False),
    "min_max": lambda: preprocessing.MinMaxScaler((-1, 2)),
    "min_max_clip": lambda: preprocessing.MinMaxScaler(clip=True),
    "max_abs": lambda: preprocessing.MaxAbsScaler(),
    "robust": lambda: preprocessing.RobustScaler(),
    "normal_l1": lambda: preprocessing.Normalizer("l1"),
    "normal_l2": lambda: preprocessing.Normalizer("l2"),
    "normal_max": lambda: preprocessing.Normalizer("max"),
    "binarizer": lambda: preprocessing.Binarizer(threshold=2.0),
    "imputer_mean": lambda: impute.SimpleImputer(),
    "imputer_median": lambda: impute.SimpleImputer(strategy="median"),
    "imputer_constant": lambda: impute.SimpleImputer(strategy="constant", fill_value=-1.0),
    "imputer_zero": lambda: impute.SimpleImputer(missing_values=0.0, strategy="most_frequent"),
    "imputer_near": lambda: impute.KNNImputer(n_neighbors=2),
    "polynomial": lambda: preprocessing.PolynomialFeatures(2),
    "interactions": lambda: preprocessing.PolynomialFeatures(2, interaction_only=True, include_bias=False),
    "bins": lambda: preprocessing.KBinsDiscretizer(4, encode="ordinal", strategy="uniform"),
    "bins_quantile": lambda: preprocessing.KBinsDiscretizer(3, encode="ordinal", quantile_method="linear"),
    "bins_onehot": lambda: preprocessing.KBinsDiscretizer(3, encode="onehot-dense", strategy="uniform"),
    "power": lambda: preprocessing.PowerTransformer(),
    "quantiles": lambda: preprocessing.QuantileTransformer(n_quantiles=10),
    "function": lambda: preprocessing.FunctionTransformer(),
    "components": lambda: decomposition.PCA(2),
    "components_white": lambda: decomposition.PCA(2, whiten=True),
    "components_partial": lambda: decomposition.IncrementalPCA(2),
    "svd": lambda: decomposition.TruncatedSVD(2, **SEED),
    "projection": lambda: random_projection.GaussianRandomProjection(2, **SEED),
    "variance": lambda: feature_selection.VarianceThreshold(0.1),
    "best": lambda: feature_selection.SelectKBest(k=3),
    "percentile": lambda: feature_selection.SelectPercentile(percentile=50),
    "from_model": lambda: feature_selection.SelectFromModel(TREE_R(max_depth=3, **SEED)),
    "elimination": lambda: feature_selection.RFE(linear_model.LinearRegression(), n_features_to_select=3, step=0.5),
    "leaves": lambda: ensemble.RandomTreesEmbedding(n_estimators=4, max_depth=3, sparse_output=False, **SEED),
    "union": lambda: pipeline.make_union(preprocessing.StandardScaler(), preprocessing.MinMaxScaler()),
    "pipeline": lambda: pipeline.make_pipeline(
        impute.SimpleImputer(), preprocessing.RobustScaler(), preprocessing.Normalizer()),
    "means": lambda: cluster.KMeans(3, n_init=1, **SEED),
    "means_batch": lambda: cluster.MiniBatchKMeans(3, n_init=1, **SEED),
}

OUTLIERS = {
    "isolation": lambda: ensemble.IsolationForest(n_estimators=10, max_samples=64, **SEED),
    "one_class_svm": lambda: scaled(svm.OneClassSVM(nu=0.2)),
    "one_class_sgd": lambda: scaled(linear_model.SGDOneClassSVM(**SEED)),
    "local_factor": lambda: neighbors.LocalOutlierFactor(novelty=True, n_neighbors=5),
    "mixture": lambda: mixture.GaussianMixture(2, **SEED),
    "mixture_bayesian": lambda: mixture.BayesianGaussianMixture(n_components=2, **SEED),
}

# What scikit-learn itself refuses: more than two classes, and columns that depend on each other.
REFUSED = {("tuned_threshold", table) for table in ("iris", "digits", "wine")} | {("qda", "digits")}


def add_export(repository, name, estimator, inputs, options=None, opsets=None, **more):
    """Exports a fitted estimator; `inputs` by name, each with all rows."""
    types = [(key, COLUMN_TYPES[str(array.dtype)]([None, array.shape[1]])) for key, array in inputs.items()]
    export = lambda: to_onnx(estimator, initial_types=types, options=options, target_opset=opsets or OPSETS)
    repository.add(name, export, inputs, **more)


def add_classifiers(repository):
    for (recipe, make), data in ((item, data) for item in CLASSIFIERS.items() for data in rows.classified().values()):
        if (recipe, data.name) in REFUSED:
            continue
        name = f"cls.{recipe}.{data.name}"
        if not repository.begins(name):
            continue
        estimator = make().fit(data.x, data.y)
        last = estimator[-1] if isinstance(estimator, pipeline.Pipeline) else estimator
        export = lambda suffix, options, inputs={"x": data.x}, opsets=None, special=True: add_export(
            repository, name + suffix, estimator, inputs, options, opsets, special=special)
        plain = {id(last): {"raw_scores": False} if recipe in NO_ZIPMAP else {"zipmap": False}}
        export("", plain)
        if recipe not in NO_ZIPMAP and data.name in ("iris", "cancer_named"):
            export(".zipmap", None)
        if recipe not in NO_ZIPMAP and data.name == "iris":
            export(".columns", {id(last): {"zipmap": "columns"}})
            export(".double", plain, {"x": data.x.astype(np.float64)})
        if recipe in RAW_SCORES and data.name in ("iris", "cancer"):
            export(".raw", {id(last): plain[id(last)] | {"raw_scores": True}})
        if recipe in WHOLE_NUMBERS and data.name == "digits":
            # The squares of the largest whole numbers leave single precision, in an order of their own.
            export(".int64", plain, {"x": data.x.astype(np.int64)}, special=recipe != "gaussian_bayes")
        if recipe in WHOLE_NUMBERS and data.name == "wine":
            export(".ml_1", plain, opsets={"": 11, "ai.onnx.ml": 1})


NO_ZIPMAP = {"linear_svc"}
RAW_SCORES = {"logistic", "sgd_log", "boosting", "linear_svc", "svc_rbf", "nu_svc_proba", "rest_logistic", "hist_boosting"}
WHOLE_NUMBERS = {"tree", "forest", "extra_trees", "boosting", "logistic", "svc_rbf", "gaussian_bayes", "hist_boosting"}


def add_regressors(repository):
    for (recipe, make), data in ((item, data) for item in REGRESSORS.items() for data in rows.measured().values()):
        if recipe in ONLY_SEVERAL and data.y.ndim == 1:
            continue
        learned = data if recipe in SEVERAL_TARGETS else data.first_target()
        name = f"reg.{recipe}.{data.name}"
        if not repository.begins(name):
            continue
        estimator = make().fit(learned.x, learned.y)
        add_export(repository, name, estimator, {"x": data.x})
        if data.name == "diabetes":
            add_export(repository, f"{name}.double", estimator, {"x": data.x.astype(np.float64)})
            add_export(repository, f"{name}.int64", estimator, {"x": data.x.astype(np.int64)}, special=False)


def add_transformers(repository):
    tables = {**rows.classified(), **rows.measured()}
    for (recipe, make), data in ((item, data) for item in TRANSFORMERS.items() for data in tables.values()):
        data = data.first_target()
        if recipe in ("polynomial", "interactions") and data.x.shape[1] > 13:
            continue
        name = f"tr.{recipe}.{data.name}"
        if not repository.begins(name):
            continue
        x = data.x.copy()
        codes = np.unique(data.y, return_inverse=True)[1] if data.y.dtype.kind == "U" else data.y
        if recipe.startswith("imputer") and recipe != "imputer_zero":
            x[rows.chance(name).random(x.shape) < 0.1] = np.nan
        transformer = make().fit(x, codes)
        add_export(repository, name, transformer, {"x": x})
        if data.name == "iris":
            add_export(repository, f"{name}.double", transformer, {"x": x.astype(np.float64)})
            chain = pipeline.make_pipeline(make(), LOGISTIC()).fit(x, data.y)
            add_export(repository, f"{name}.logistic", chain, {"x": x}, {id(chain[-1]): {"zipmap": False}})
            chain = pipeline.make_pipeline(make(), ensemble.RandomForestClassifier(**SMALL)).fit(x, data.y)
            add_export(repository, f"{name}.forest", chain, {"x": x}, {id(chain[-1]): {"zipmap": False}})


def add_outliers(repository):
    for recipe, make in OUTLIERS.items():
        for data in (rows.classified()["iris"], rows.classified()["cancer"], rows.measured()["diabetes"]):
            name = f"out.{recipe}.{data.name}"
            if repository.only in name:
                add_export(repository, name, make().fit(data.x), {"x": data.x})


def mixed(data, precision):
    """A table with columns of three types, from iris or wine: numbers, whole numbers, words."""
    random = rows.chance(data.name)
    sizes = np.array(["small", "medium", "large"], object)
    bins = np.digitize(data.x[:, 0], np.quantile(data.x[:, 0], [0.3, 0.7]))
    return {
        "length": data.x[:, :1].astype(precision), "width": data.x[:, 1:2].astype(precision), "count": (data.x[:, 2:3] * 2).astype(np.int64),
        "size": sizes[bins].reshape(-1, 1),
        "colour": random.choice(np.array(["red", "green", "blue", "grey"], object), (len(bins), 1))}


def frame(inputs):
    """The same as ColumnTransformer wants it."""
    return pandas.DataFrame({name: array[:, 0] for name, array in inputs.items()})


def column_pipelines(precision):
    """Names and pipelines. ONNX has no imputer of doubles."""
    fill = [impute.SimpleImputer()] if precision == np.float32 else []
    numbers, words = ["length", "width", "count"], ["size", "colour"]
    onehot = lambda **more: preprocessing.OneHotEncoder(sparse_output=False, **more)
    encode = {
        "onehot": onehot(), "onehot_ignore": onehot(handle_unknown="ignore"),
        "onehot_first": onehot(drop="first"), "onehot_rare": onehot(min_frequency=30, handle_unknown="infrequent_if_exist"),
        "ordinal": preprocessing.OrdinalEncoder(),
        "ordinal_unknown": preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        "target": preprocessing.TargetEncoder(cv=2, **SEED),
    }
    learn = {"logistic": LOGISTIC(), "forest": ensemble.RandomForestClassifier(**SMALL),
             "boosting": ensemble.GradientBoostingClassifier(n_estimators=5, **SEED)}
    for (encoding, encoder), (learning, learner) in ((e, l) for e in encode.items() for l in learn.items()):
        columns = compose.ColumnTransformer(
            [("numbers", pipeline.make_pipeline(*fill, preprocessing.StandardScaler()), numbers),
             ("words", encoder, words)])
        yield f"{encoding}_{learning}", pipeline.make_pipeline(columns, learner)
    through = compose.ColumnTransformer([("words", onehot(), words)], remainder="passthrough")
    yield "passthrough_tree", pipeline.make_pipeline(through, TREE(max_depth=4, **SEED))
    several = compose.ColumnTransformer([
        ("a", preprocessing.MinMaxScaler(), ["length"]), ("b", preprocessing.KBinsDiscretizer(3, encode="onehot-dense", strategy="uniform"), ["width"]),
        ("c", onehot(handle_unknown="ignore"), ["count"]), ("d", preprocessing.OrdinalEncoder(), words), ("e", "drop", [])])
    yield "several_extra_trees", pipeline.make_pipeline(several, ensemble.ExtraTreesClassifier(**SMALL))
    filled = pipeline.make_pipeline(impute.SimpleImputer(missing_values="", strategy="most_frequent"), onehot(handle_unknown="ignore"))
    yield "words_imputed_logistic", pipeline.make_pipeline(
        compose.ColumnTransformer([("words", filled, words), ("numbers", "passthrough", numbers)]), LOGISTIC())


def add_columns(repository):
    tables = [(rows.classified()[name], precision) for name in ("iris", "wine") for precision in (np.float32, np.float64)]
    for data, precision in tables:
        inputs, suffix = mixed(data, precision), ".double" if precision == np.float64 else ""
        for recipe, chain in column_pipelines(precision):
            name = f"col.{recipe}.{data.name}{suffix}"
            if not repository.begins(name):
                continue
            y = data.y == data.y[0] if recipe.startswith("target") else data.y  # skl2onnx knows two classes there
            chain = base.clone(chain).fit(frame(inputs), y.astype(int) if y.dtype == bool else y)
            add_export(repository, name, chain, inputs, {id(chain[-1]): {"zipmap": False}})
            if recipe.endswith("logistic") and precision == np.float32:
                add_export(repository, f"{name}.zipmap", chain, inputs)


def add_encoders(repository):
    random = rows.chance("encoders")
    words = random.choice(np.array(["red", "green", "blue", "grey", "ünï"], object), (120, 3))
    whole = random.integers(-2, 4, (120, 3)).astype(np.int64)
    target = random.integers(0, 2, 120)
    encoders = {
        "onehot": lambda: preprocessing.OneHotEncoder(sparse_output=False),
        "onehot_sparse": lambda: preprocessing.OneHotEncoder(),
        "onehot_ignore": lambda: preprocessing.OneHotEncoder(sparse_output=False, handle_unknown="ignore"),
        "onehot_first": lambda: preprocessing.OneHotEncoder(sparse_output=False, drop="first"),
        "onehot_binary": lambda: preprocessing.OneHotEncoder(sparse_output=False, drop="if_binary"),
        "ordinal": lambda: preprocessing.OrdinalEncoder(),
        "ordinal_unknown": lambda: preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        "target": lambda: preprocessing.TargetEncoder(cv=2, **SEED),
    }
    for (recipe, make), (kind, table) in ((e, t) for e in encoders.items() for t in (("words", words), ("int64", whole))):
        name = f"enc.{recipe}.{kind}"
        if repository.only in name:
            add_export(repository, name, make().fit(table, target), {"x": table})
    for kind, table in (("words", words), ("int64", whole)):
        for recipe, make in (("label", preprocessing.LabelEncoder), ("label_binary", preprocessing.LabelBinarizer)):
            if recipe == "label_binary" and kind == "words":
                continue
            if repository.only in f"enc.{recipe}.{kind}":
                add_export(repository, f"enc.{recipe}.{kind}", make().fit(table[:, 0]), {"x": table[:, :1]})
    counts = (np.abs(whole) + (whole < 0) * 1).astype(np.int64)
    for kind, table in (("int64", counts), ("float", counts.astype(np.float32))):
        if repository.only in f"cls.categorical_bayes.{kind}":
            learner = naive_bayes.CategoricalNB().fit(counts, target)
            add_export(repository, f"cls.categorical_bayes.{kind}", learner, {"x": table},
                       {id(learner): {"zipmap": False}}, special=False)


PARTS = [add_classifiers, add_regressors, add_transformers, add_outliers, add_columns, add_encoders]
