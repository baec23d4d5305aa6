"""How are the classical models of this suite made?

    python -m venv /tmp/venv && /tmp/venv/bin/pip install -r models/requirements.txt
    /tmp/venv/bin/python engines/conformance/make_models.py

Two tree ensembles, as exporters write them, with golden examples of what ONNX Runtime answers: `trees` names every
class in its leaves, `trees_one_score` is a binary classifier with one score per leaf, as gradient boosting has it.
Nothing is random: a second run with the same packages gives the same bytes.
"""

import json
import pathlib
import shutil

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

HERE = pathlib.Path(__file__).parent / "models"
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
# A tree of two splits: x0 <= 0.5, and on its far side x1 <= -1.
NODES = {
    "nodes_treeids": [0] * 5,
    "nodes_nodeids": [0, 1, 2, 3, 4],
    "nodes_featureids": [0, 0, 1, 0, 0],
    "nodes_values": [0.5, 0.0, -1.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 3, 0, 0],
    "nodes_falsenodeids": [2, 0, 4, 0, 0],
    "nodes_hitrates": [1.0] * 5,
    "nodes_missing_value_tracks_true": [0] * 5,
}


def write(name, classes, **attributes):
    trees = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", **NODES, **attributes)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [trees], name, [value("x", TensorProto.FLOAT, ["batch", 2])],
        [value("label", TensorProto.INT64, ["batch"]), value("scores", TensorProto.FLOAT, ["batch", classes])])
    model = helper.make_model(graph, producer_name="tiltyard-fixtures", opset_imports=OPSETS, ir_version=8)
    folder = HERE / name / "1"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "golden").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    x = np.array([[0, 0], [1, -2], [1, 3], [0.5, -1]], np.float32)
    label, scores = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"x": x})
    tensors = [("x", "FP32", x), ("label", "INT64", label), ("scores", "FP32", scores)]
    tensors = [{"name": name, "datatype": kind, "shape": list(array.shape), "data": array.ravel().tolist()}
               for name, kind, array in tensors]
    golden = {"description": "one row for each leaf, and one on a threshold", "inputs": tensors[:1],
              "outputs": tensors[1:], "tolerance": {"absolute": 1e-5, "relative": 1e-4}}
    (folder / "golden" / "four_rows.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    leaves = {"class_treeids": [0] * 9, "class_nodeids": [1] * 3 + [3] * 3 + [4] * 3, "class_ids": [0, 1, 2] * 3}
    weights = [0.8, 0.15, 0.05, 0.2, 0.7, 0.1, 0.1, 0.3, 0.6]
    write("trees", 3, **leaves, class_weights=weights, classlabels_int64s=[10, 20, 30], post_transform="NONE")
    write("trees_one_score", 2, class_treeids=[0] * 3, class_nodeids=[1, 3, 4], class_ids=[0] * 3,
          class_weights=[-1.5, 0.75, 2.0], classlabels_int64s=[0, 1], post_transform="LOGISTIC")
