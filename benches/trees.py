"""How fast do the others score the forests of `cargo bench -p tiltyard-benches --bench trees`?

    python benches/trees.py make [FOLDER]      trains the forests, and writes each as the libraries want it
    python benches/trees.py time [FOLDER]      times XGBoost, LightGBM and tl2cgen on the rows of the bench
    python benches/trees.py explain [FOLDER]   times XGBoost, LightGBM and shap, which it needs, on what `--bench explain` explains

FOLDER is target/bench-trees unless it is given. Everything runs on one thread. `time` prints nanoseconds per tree and row and
rows/s, medians; the bench prints the same of ours and of ONNX Runtime. XGBoost and LightGBM are called as their Python
packages are: of one row, most of their time is the call.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

COLUMNS = 30
ROWS = 8192
BATCHES = (1, 8, 128, 4096)
GBDTS = (200, 1000)
FORESTS = (100, 500)
LARGE = 750  # a file of 50 MB, for `cargo bench --bench loading`


def data():
    """Rows as tables of customers have them: some columns with few values, the others with many."""
    random = np.random.default_rng(1)
    x = random.normal(size=(40_000, COLUMNS)).astype(np.float32)
    x[:, ::5] = np.floor(x[:, ::5] * 4)
    odds = x[:, 0] * 0.3 + x[:, 1] * x[:, 2] + np.sin(2 * x[:, 3]) + (x[:, 4] > 0.5) * x[:, 6] + np.abs(x[:, 7]) - 0.8
    y = (odds + random.normal(size=len(x)) > 0).astype(np.int64)
    return x, y


def write(path, model):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def make_xgboost(folder, trees, x, y):
    import onnxmltools
    import xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = xgboost.XGBClassifier(n_estimators=trees, max_depth=6, learning_rate=0.1, n_jobs=2, base_score=0.5)
    model.fit(x, y)
    model.get_booster().save_model(folder / f"xgboost-{trees}.json")
    form = [("features", FloatTensorType([None, COLUMNS]))]
    write(folder / f"xgboost-{trees}.onnx", onnxmltools.convert_xgboost(model, initial_types=form, target_opset=15))


def make_lightgbm(folder, name, x, y, **form):
    import lightgbm
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = lightgbm.LGBMClassifier(n_jobs=2, verbose=-1, **form)
    model.fit(x, y)
    model.booster_.save_model(folder / f"{name}.txt")
    types = [("features", FloatTensorType([None, COLUMNS]))]
    onnx = onnxmltools.convert_lightgbm(model, initial_types=types, target_opset=15, zipmap=False)
    write(folder / f"{name}.onnx", onnx)


def make_forest(folder, trees, x, y):
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(n_estimators=trees, max_depth=12, n_jobs=2, random_state=1)
    model.fit(x, y)
    write(folder / f"forest-{trees}.onnx", to_onnx(model, x[:1], options={"zipmap": False}, target_opset=15))


def make_exact(folder, trees, x, y):
    """Thresholds by the thousand, where histograms have 255 for a column."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    model = GradientBoostingClassifier(n_estimators=trees, max_depth=6, subsample=0.2, random_state=1)
    model.fit(x, y)
    write(folder / f"exact-{trees}.onnx", to_onnx(model, x[:1], options={"zipmap": False}, target_opset=15))


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    x, y = data()
    x[:ROWS].tofile(folder / "rows.f32")
    for trees in GBDTS:
        make_xgboost(folder, trees, x, y)
        make_lightgbm(folder, f"lightgbm-{trees}", x, y, n_estimators=trees, num_leaves=63, max_depth=6)
    # As it is without settings: few leaves, at any depth.
    make_lightgbm(folder, "leafwise-200", x, y, n_estimators=200)
    for trees in (*FORESTS, LARGE):
        make_forest(folder, trees, x, y)
    make_exact(folder, 200, x, y)


def tl2cgen_predictor(folder, name, model):
    """The model compiled by the C compiler: one row by its own function, as C would call it, and batches by its predictor."""
    import tl2cgen

    library = folder / f"{name}.so"
    if not library.exists():
        parameters = {"parallel_comp": 16}
        tl2cgen.export_lib(model, toolchain="gcc", libpath=str(library), params=parameters)
    predictor = tl2cgen.Predictor(str(library), nthread=1)
    compiled = ctypes.CDLL(str(library)).predict
    compiled.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    compiled.restype = None
    score = np.zeros(2, np.float32).ctypes.data_as(ctypes.c_void_p)

    def prepare(batch):
        if len(batch) > 1:
            matrix = tl2cgen.DMatrix(batch)
            return lambda: predictor.predict(matrix, pred_margin=True)
        row = batch.ctypes.data
        return lambda: compiled(row, 1, score)

    return prepare


def contenders(folder, name):
    kind, trees = name.split("-")
    if kind == "xgboost":
        import treelite
        import xgboost

        booster = xgboost.Booster(model_file=folder / f"{name}.json")
        booster.set_param({"nthread": 1})
        yield "XGBoost", lambda batch: lambda: booster.inplace_predict(batch, predict_type="margin")
        yield "tl2cgen", tl2cgen_predictor(folder, name, treelite.frontend.load_xgboost_model(str(folder / f"{name}.json")))
    if kind in ("lightgbm", "leafwise"):
        import lightgbm

        booster = lightgbm.Booster(model_file=folder / f"{name}.txt", params={"num_threads": 1})
        yield "LightGBM", lambda batch: lambda: booster.predict(batch, raw_score=True, num_threads=1)


def nanoseconds(works):
    """Of one batch: the median of 15 stretches of 60 ms or one call."""
    for work in works[:2]:
        work()
    stretches = []
    at = 0
    for _ in range(15):
        start = time.perf_counter_ns()
        calls = 0
        while calls == 0 or time.perf_counter_ns() - start < 60_000_000:
            works[at % len(works)]()
            at += 1
            calls += 1
        stretches.append((time.perf_counter_ns() - start) / calls)
    return sorted(stretches)[7]


def time_all(folder):
    rows = np.fromfile(folder / "rows.f32", np.float32).reshape(-1, COLUMNS)
    for name in [f"{kind}-{trees}" for trees in GBDTS for kind in ("xgboost", "lightgbm")] + ["leafwise-200"]:
        trees = int(name.split("-")[1])
        for label, prepare in contenders(folder, name):
            for size in BATCHES:
                batches = [np.ascontiguousarray(rows[at : at + size]) for at in range(0, min(len(rows), 1024 * size), size)]
                took = nanoseconds([prepare(batch) for batch in batches])
                rate, each = size / took * 1e9, took / size / trees
                print(f"{name:<15} {label:<10} batch {size:>5} {rate:>12,.0f} rows/s {each:>8.2f} ns per tree and row", flush=True)


def explain_all(folder):
    import lightgbm
    import shap
    import xgboost

    rows = np.fromfile(folder / "rows.f32", np.float32).reshape(-1, COLUMNS)
    background = rows[-100:]

    def tell(label, work, batch):
        batches = [np.ascontiguousarray(rows[at : at + batch]) for at in range(0, 256, batch)]
        took = nanoseconds([lambda batch=batch: work(batch) for batch in batches])
        print(f"{label:<50} batch {batch:>4} {took / batch / 1e3:>10,.1f} us a row", flush=True)

    for trees in GBDTS:
        booster = xgboost.Booster(model_file=folder / f"xgboost-{trees}.json")
        booster.set_param({"nthread": 1})
        for batch in (1, 256):
            tell(f"XGBoost pred_contribs, {trees}", lambda rows: booster.predict(xgboost.DMatrix(rows), pred_contribs=True), batch)
    light = lightgbm.Booster(model_file=folder / "lightgbm-200.txt", params={"num_threads": 1})
    for batch in (1, 256):
        tell("LightGBM pred_contrib, 200", lambda rows: light.predict(rows, pred_contrib=True, num_threads=1), batch)
    boosted = xgboost.Booster(model_file=folder / "xgboost-200.json")
    for name, model in [("xgboost-200", boosted), ("lightgbm-200", light)]:
        explainer = shap.TreeExplainer(model, data=background, feature_perturbation="interventional")
        for batch in (1, 16):
            work = lambda rows: explainer.shap_values(rows, check_additivity=False)
            tell(f"shap interventional, 100 rows, {name}", work, batch)


def main():
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "target/bench-trees")
    {"make": make, "time": time_all, "explain": explain_all}[sys.argv[1]](folder)


if __name__ == "__main__":
    main()
