"""What MLflow does in `test_mlflow.py`, in an environment of its own: it logs models to its server, and its client asks ours.

    python mlflow_side.py COMMAND ARGUMENTS…      prints JSON
"""

import json
import pathlib
import sys

import mlflow
import numpy as np
import onnx
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from onnx import helper, numpy_helper

SAMPLES = pathlib.Path(__file__).resolve().parents[2] / "models"


def sample(version):
    return onnx.load(SAMPLES / "risk" / str(version) / "model.onnx")


def wide():
    """A model whose weights are so many that MLflow keeps them beside it."""
    weights = numpy_helper.from_array(np.arange(4000, dtype=np.float32).reshape(4, 1000), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    value = lambda name, width: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", width])
    graph = helper.make_graph([node], "wide", [value("x", 4)], [value("y", 1000)], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def save(kind, folder):
    """Saves a model in a folder, without any server."""
    model = wide() if kind == "wide" else sample(kind)
    mlflow.onnx.save_model(model, folder, metadata={"team": "lending"})
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def log(server, version):
    """Logs a sample as a version of `risk`, with a run that measured it."""
    mlflow.set_tracking_uri(server)
    mlflow.set_experiment("risk")
    rows = np.zeros((2, 30), np.float32)
    with mlflow.start_run() as run:
        mlflow.log_param("depth", 3)
        mlflow.log_metric("auc", 0.5 + int(version) / 100)
        mlflow.log_metric("broken", float("nan"))
        mlflow.set_tag("team", "lending")
        mlflow.log_input(mlflow.data.from_numpy(rows, name="train"), context="training")
        info = mlflow.onnx.log_model(
            sample(version), name="model", registered_model_name="risk", signature=infer_signature(rows))
    client = mlflow.MlflowClient()
    client.update_model_version("risk", info.registered_model_version, f"number {version}")
    return {"run": run.info.run_id, "version": info.registered_model_version, "model_id": info.model_id}


def alias(server, version):
    mlflow.set_tracking_uri(server)
    client = mlflow.MlflowClient()
    if version == "none":
        client.delete_registered_model_alias("risk", "champion")
    else:
        client.set_registered_model_alias("risk", "champion", version)


def refused(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except MlflowException as error:
        assert error.error_code == code, (error.error_code, error.message)
        return error.message
    raise AssertionError(f"{call.__name__} is not refused")


def face(registry, folder):
    """Asks each listed call of a registry that has two versions of `risk`. Gives the calls that were asked."""
    asked = []

    class Client:
        """Notes what is called."""

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            asked.append(name)
            return getattr(self.inner, name)

    c = Client(mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/none.db", registry_uri=registry))
    # Models.
    made = c.create_registered_model("other", tags={"a": "b"}, description="first")
    assert (made.name, made.tags, made.description) == ("other", {"a": "b"}, "first")
    refused("RESOURCE_ALREADY_EXISTS", c.create_registered_model, "other")
    assert c.get_registered_model("risk").name == "risk"
    refused("RESOURCE_DOES_NOT_EXIST", c.get_registered_model, "nobody")
    assert c.update_registered_model("other", "second").description == "second"
    found = [model.name for model in c.search_registered_models("name LIKE 'ri%'")]
    assert found == ["risk"], found
    assert {model.name for model in c.search_registered_models(max_results=1)} == {"other"}
    c.set_registered_model_tag("risk", "team", "lending")
    assert c.get_registered_model("risk").tags == {"team": "lending"}
    c.delete_registered_model_tag("risk", "team")
    assert c.get_registered_model("risk").tags == {}
    # Versions.
    version = c.get_model_version("risk", "1")
    assert (version.version, version.status, version.current_stage) == ("1", "READY", "Production"), version
    refused("RESOURCE_DOES_NOT_EXIST", c.get_model_version, "risk", "9")
    assert c.update_model_version("risk", "1", "told").description == "told"
    c.set_model_version_tag("risk", "1", "k", "v")
    assert c.get_model_version("risk", "1").tags["k"] == "v"
    assert [found.version for found in c.search_model_versions("name = 'risk' AND tags.k = 'v'")] == ["1"]
    assert [found.version for found in c.search_model_versions("name = 'risk'", order_by=["version_number ASC"])] == ["1", "2"]
    c.delete_model_version_tag("risk", "1", "k")
    assert "k" not in c.get_model_version("risk", "1").tags
    assert [found.version for found in c.get_latest_versions("risk", ["Production"])] == ["1"]
    copied = c.copy_model_version("models:/risk/2", "other")
    assert (copied.name, copied.version) == ("other", "1")
    refused("BAD_REQUEST", c.create_model_version, "other", "s3://bucket/model")
    # Aliases.
    c.set_registered_model_alias("risk", "fallback", "2")
    assert c.get_model_version_by_alias("risk", "fallback").version == "2"
    assert c.get_registered_model("risk").aliases["fallback"] == "2"
    c.delete_registered_model_alias("risk", "fallback")
    refused("INVALID_PARAMETER_VALUE", c.get_model_version_by_alias, "risk", "fallback")
    # What a record does not do.
    assert "copy_model_version" in refused("BAD_REQUEST", c.rename_registered_model, "risk", "new")
    assert "tiltyard archive" in refused("BAD_REQUEST", c.delete_model_version, "risk", "1")
    assert "tiltyard archive" in refused("BAD_REQUEST", c.delete_registered_model, "risk")
    assert "tiltyard promote" in refused("BAD_REQUEST", c.transition_model_version_stage, "risk", "1", "Staging")
    # Files, and MLflow's own loader of what came from them.
    uri = c.get_model_version_download_uri("risk", "1")
    assert uri.startswith(f"{registry}/api/2.0/mlflow-artifacts/artifacts/risk/1"), uri
    mlflow.set_registry_uri(registry)
    place = pathlib.Path(mlflow.artifacts.download_artifacts("models:/risk/1", dst_path=f"{folder}/got"))
    assert (place / "model.onnx").read_bytes() == (SAMPLES / "risk" / "1" / "model.onnx").read_bytes()
    loaded = mlflow.onnx.load_model("models:/risk/2")
    assert loaded.graph == sample(2).graph
    return sorted(set(asked))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    print(json.dumps({"save": save, "log": log, "alias": alias, "face": face}[command](*arguments)))
