"""Do models come from a real MLflow, does an alias that moves there move what answers here, and do MLflow's clients find what we have?

MLflow lives in an environment of its own, which `tests/run` makes; `mlflow_side.py` is what it does there.
"""

import json
import os
import signal
import socket
import subprocess
import urllib.request

import pytest

import reference
import serving
from securing import command

PYTHON = serving.ROOT / "target" / "venv-mlflow" / "bin" / "python"
SIDE = serving.ROOT / "tests" / "clients" / "mlflow_side.py"
START_SECONDS_MAX = 120

# Every call that docs/mlflow.md lists.
LISTED = {
    "copy_model_version", "create_model_version", "create_registered_model", "delete_model_version",
    "delete_model_version_tag", "delete_registered_model", "delete_registered_model_alias", "delete_registered_model_tag",
    "get_latest_versions", "get_model_version", "get_model_version_by_alias", "get_model_version_download_uri",
    "get_registered_model", "rename_registered_model", "search_model_versions", "search_registered_models",
    "set_model_version_tag", "set_registered_model_alias", "set_registered_model_tag", "transition_model_version_stage",
    "update_model_version", "update_registered_model",
}


def environment(**more):
    """Ours without what would lead MLflow elsewhere, and nothing told to anybody."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TILTYARD_", "PYTHON"))}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": f"{PYTHON.parent}:{os.environ['PATH']}"} | more


def side(*arguments):
    """What MLflow says to a command of its side."""
    done = subprocess.run(
        [PYTHON, SIDE, *map(str, arguments)], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """MLflow's own server, on SQLite, which hands its store of files through."""
    assert PYTHON.exists(), f"there is no {PYTHON}: tests/run makes it from mlflow-requirements.txt"
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts")]
    log = open(folder / "server.log", "wb")
    process = subprocess.Popen(
        [PYTHON, "-m", "mlflow", "server", *arguments], env=environment(), stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def is_up():
        assert process.poll() is None, (folder / "server.log").read_text()[-4000:]
        try:
            return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
        except OSError:
            return False

    try:
        serving.until(is_up, "MLflow's server", START_SECONDS_MAX)
        yield url
    finally:
        # It has children, all in a group of its own.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@pytest.fixture
def server(tmp_path):
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "identity_fp32")
    with serving.Server(models, tmp_path, "--poll-interval", "100ms") as server:
        yield server


def run(server, *arguments, code=0):
    found, out, error = command(*arguments, "--ports-file", str(server.ports_file))
    assert found == code, (arguments, found, out, error)
    return out if code == 0 else error


def shown(server, version):
    return json.loads(run(server, "show", version, "--output", "json"))


def answers(server):
    """The version that answers for `risk`."""
    case = reference.case(serving.SAMPLES / "risk" / "1" / "golden" / golden())
    inputs = [{"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
              for name, array in case.inputs.items()]
    answer = server.post("/v2/models/risk/infer", {"inputs": inputs})
    return int(answer.headers["tiltyard-version"]) if answer.status == 200 else None


def golden():
    return sorted(path.name for path in (serving.SAMPLES / "risk" / "1" / "golden").iterdir())[0]


def test_a_model_comes_from_a_folder(server, tmp_path):
    side("save", 1, tmp_path / "risk")
    run(server, "import", "mlflow", "risk", str(tmp_path / "risk"), "--to", "prod")
    assert answers(server) == 1
    version = shown(server, "risk@1")
    assert version["tags"]["mlflow.metadata.team"] == "lending", version["tags"]
    assert version["source"] == {"imported": {"system": "mlflow", "uri": str(tmp_path / "risk")}}
    # The same again is the same version.
    assert "is there already" in run(server, "import", "mlflow", "risk", str(tmp_path / "risk"))


def test_weights_that_lie_beside_the_model_come_along(server, tmp_path):
    names = side("save", "wide", tmp_path / "wide")
    beside = set(names) - {"MLmodel", "conda.yaml", "model.onnx", "python_env.yaml", "requirements.txt"}
    assert len(beside) == 1, names
    run(server, "import", "mlflow", "wide", str(tmp_path / "wide"))
    assert {file["path"] for file in shown(server, "wide@1")["files"]} == beside | {"model.onnx"}


def test_what_cannot_be_imported_says_why(server, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no file MLmodel" in run(server, "import", "mlflow", "risk", str(empty), code=1)
    (empty / "MLmodel").write_text("flavors:\n  sklearn: {}\n")
    assert "has no onnx flavor: it has sklearn" in run(server, "import", "mlflow", "risk", str(empty), code=1)
    assert "no tracking server is named" in run(server, "import", "mlflow", "risk", "models:/risk/1", code=2)


def test_a_model_comes_from_a_tracking_server_with_what_it_knows(server, mlflow_server):
    logged = side("log", mlflow_server, 1)
    uri = ["--tracking-uri", mlflow_server]
    run(server, "import", "mlflow", "risk", f"models:/risk/{logged['version']}", *uri)
    version = shown(server, "risk@1")
    assert version["source"] == {"imported": {"system": "mlflow", "uri": f"models:/risk/{logged['version']}"}}
    assert version["lineage"]["run"] == {"id": logged["run"], "system": "mlflow"}
    assert [dataset["name"] for dataset in version["lineage"]["datasets"]] == ["train"]
    assert (version["tags"]["team"], version["tags"]["mlflow.param.depth"]) == ("lending", "3")
    assert [(metric["key"]["metric"], metric["value"]) for metric in version["metrics"]] == [("auc", 0.51)]
    assert version["description"] == "number 1"
    # By the other names that it has, it is the same.
    for name in (f"models:/{logged['model_id']}", f"runs:/{logged['run']}/model"):
        assert "is there already" in run(server, "import", "mlflow", "risk", name, *uri)
    assert "has no alias" in run(server, "import", "mlflow", "risk", "models:/risk@nobody", *uri, code=1)
    assert "RESOURCE_DOES_NOT_EXIST" in run(server, "import", "mlflow", "risk", "models:/risk/999", *uri, code=1)


def test_an_alias_that_moves_moves_what_answers(server, mlflow_server, tmp_path):
    first, second = side("log", mlflow_server, 1)["version"], side("log", mlflow_server, 2)["version"]
    side("alias", mlflow_server, first)

    def follow():
        log = open(tmp_path / "follow.log", "ab")
        arguments = ["import", "mlflow", "risk", "models:/risk@champion", "--follow", "--every", "1s", "--to", "prod"]
        return subprocess.Popen(
            [serving.BINARY, *arguments, "--ports-file", str(server.ports_file)], stdout=log, stderr=log,
            env=environment(MLFLOW_TRACKING_URI=mlflow_server))

    def told():
        return (tmp_path / "follow.log").read_text()

    def ended(process):
        process.kill()
        process.wait()

    process = follow()
    try:
        serving.until(lambda: answers(server) == 1, "the first version", 60)
        side("alias", mlflow_server, second)
        serving.until(lambda: answers(server) == 2, "the second version", 60)
        serving.until(lambda: shown(server, "risk@champion")["version"] == 2, "the alias here", 60)
    finally:
        ended(process)
    imports = told().count(" is risk@")
    # Who begins again goes on from what the registry knows; back is a move, too.
    process = follow()
    try:
        side("alias", mlflow_server, first)
        serving.until(lambda: answers(server) == 1, "the first version again", 60)
        side("alias", mlflow_server, "none")
        serving.until(lambda: "is not there; what serves goes on" in told(), "the alias to be missed", 60)
    finally:
        ended(process)
    assert answers(server) == 1
    assert (imports, told().count(" is risk@")) == (2, 3), told()


def test_mlflows_own_client_finds_what_we_have(server, tmp_path):
    for version in (1, 2):
        run(server, "push", "risk", str(serving.SAMPLES / "risk" / str(version) / "model.onnx"))
    run(server, "promote", "risk@1", "--to", "prod")
    asked = side("face", f"http://127.0.0.1:{server.admin_port}/admin/mlflow", tmp_path)
    assert set(asked) == LISTED
