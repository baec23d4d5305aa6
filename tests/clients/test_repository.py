"""Is the folder of models served as it is, as it changes, and where it is broken?

Each test starts a server of its own on a repository of its own; `twice`, `thrice` and so on are tiny models made here,
that answer a multiple of what they are given, so that the answer tells which bytes are served.
"""

import json
import os
import shutil
import subprocess
import time

import grpc
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

import asking
import serving

QUICK = ["--poll-interval", "100ms"]
SECONDS_MAX = 10


def times(factor, width=2):
    """The bytes of a model that multiplies rows of `width` by `factor`."""
    value = helper.make_tensor("factor", TensorProto.FLOAT, [1], [float(factor)])
    row = ["batch", width]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])], "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)], [value])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def put(repository, model, version, content):
    """Writes a version as a careful operator does: under another name, then renamed."""
    folder = repository / model
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{version}.new"
    aside.mkdir()
    (aside / "model.onnx").write_bytes(content)
    aside.rename(folder / str(version))


def factor_of(server, model, version=""):
    """What the served bytes multiply by, or None where no such model answers."""
    question = {"model": model, "version": version, "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 10]}]}
    answer = server.post(asking.rest_path(question), asking.rest_body(question) | {"inputs": question["inputs"]})
    if answer.status != 200:
        assert answer.status in (404, 503), answer
        assert answer.error()
        return None
    one, ten = answer.json()["outputs"][0]["data"]
    assert ten == 10 * one
    return one


def becomes(server, factor, model="m", version=""):
    serving.until(lambda: factor_of(server, model, version) == factor, f"{model} {version} to be {factor}", SECONDS_MAX)


def digest_of(server, model, version=""):
    question = {"model": model, "version": version}
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 10]}]}
    return server.post(asking.rest_path(question), body).headers["tiltyard-digest"]


def standings(server):
    return server.get("/admin/status", port=server.admin_port).json()["versions"]


def reason_of(server, model, version=None):
    """The state and reason of a model that is not ready, once the index has one."""
    def find():
        for (name, number), item in server.index().items():
            if name == model and version in (None, number) and item["state"] != "READY" and item.get("reason"):
                return item["state"], item["reason"]
        return None

    return serving.until(find, f"the index to say why {model} is not ready", SECONDS_MAX)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


# --- watch -------------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(repository, tmp_path):
    put(repository, "m", 1, times(2))
    put(repository, "neighbour", 1, times(7))
    with serving.Server(repository, tmp_path / "server", *QUICK) as server:
        assert factor_of(server, "m") == 2
        yield server
        assert factor_of(server, "neighbour") == 7


def test_new_version_by_rename(watching, repository):
    put(repository, "m", 2, times(3))
    becomes(watching, 3)
    assert factor_of(watching, "m", "1") == 2, "the default policy keeps the latest two"
    assert watching.index()["m", "2"]["state"] == "READY"


def test_new_model(watching, repository):
    assert factor_of(watching, "late") is None
    put(repository, "late", 5, times(4))
    becomes(watching, 4, "late")
    assert factor_of(watching, "late", "5") == 4


def test_new_version_copied_slowly(watching, repository):
    """Half of the file, and the rest only once the server has had time to look several times over."""
    content = times(3)
    folder = repository / "m" / "2"
    folder.mkdir()
    with open(folder / "model.onnx", "wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        # A whole other model, put after the half, shows that the server has looked since.
        put(repository, "marker", 1, times(9))
        becomes(watching, 9, "marker")
        assert factor_of(watching, "m") == 2, "half a version must not be served, nor harm the old one"
        file.write(content[len(content) // 2:])
    becomes(watching, 3)


def test_folder_that_is_filled_later(watching, repository):
    (repository / "m" / "2").mkdir()
    put(repository, "marker", 1, times(9))
    becomes(watching, 9, "marker")
    assert factor_of(watching, "m") == 2
    (repository / "m" / "2" / "model.onnx").write_bytes(times(3))
    becomes(watching, 3)


def golden(factor):
    """An example that only a model with this factor passes."""
    def tensor(name, data):
        return {"name": name, "datatype": "FP32", "shape": [1, 2], "data": data}

    return json.dumps({"inputs": [tensor("x", [1, 10])], "outputs": [tensor("y", [factor, 10 * factor])]})


def test_copy_that_keeps_times_with_its_golden_example_last(repository, tmp_path):
    """What looks a day old is not whole for that: without its example this version would be served."""
    put(repository, "m", 1, times(2))
    # Time enough between two files, however slow the machine: what is waited for is that the first has been looked at.
    with serving.Server(repository, tmp_path / "server", *QUICK, "--settle-time", "2s") as server:
        day_ago = time.time() - 24 * 3600
        folder = repository / "m" / "2"
        (folder / "golden").mkdir(parents=True)

        def copy(path, content):
            path.write_bytes(content)
            for thing in (path, path.parent, folder):
                os.utime(thing, (day_ago, day_ago))

        copy(folder / "model.onnx", times(3))
        serving.until(lambda: ("m", "2") in server.index(), "the model's file to be seen")
        copy(folder / "golden" / "one.json", golden(4).encode())
        state, reason = reason_of(server, "m", "2")
        assert state == "UNAVAILABLE" and "golden/one.json" in reason
        assert factor_of(server, "m") == 2
        assert factor_of(server, "m", "2") is None


def test_folder_replaced_in_two_steps(watching, repository):
    """The old version answers until the new one does, though for a moment there is none."""
    put(repository, "aside", 1, times(5))
    shutil.rmtree(repository / "m" / "1")
    (repository / "aside" / "1").rename(repository / "m" / "1")
    serving.until(lambda: factor_of_strict(watching) == 5, "the new bytes", SECONDS_MAX)


def test_links_may_not_lead_out_of_the_repository(watching, repository, tmp_path):
    (tmp_path / "secret").write_bytes(times(9))
    (repository / "m" / "2").mkdir()
    (repository / "m" / "2" / "model.onnx").symlink_to(tmp_path / "secret")
    _, reason = reason_of(watching, "m", "2")
    assert "is not inside" in reason and str(tmp_path / "secret") in reason
    assert factor_of(watching, "m") == 2
    (repository / "m" / "3").mkdir()
    (repository / "m" / "3" / "model.onnx").symlink_to("../1/model.onnx")
    serving.until(lambda: factor_of(watching, "m", "3") == 2, "a link that stays inside", SECONDS_MAX)


# --- Which version may follow which ------------------------------------------------------------------------------


def test_version_that_breaks_clients_is_refused_until_it_is_wanted(watching, repository):
    put(repository, "m", 2, times(3, width=3))
    _, reason = reason_of(watching, "m", "2")
    assert "input x FP32[batch, 3] was x FP32[batch, 2]" in reason and "accept_incompatible" in reason
    assert factor_of(watching, "m") == 2
    (repository / "m" / "model.toml").write_text("accept_incompatible = true\n")
    serving.until(lambda: watching.index()["m", "2"]["state"] == "READY", "version 2 to be ready", SECONDS_MAX)
    assert watching.get("/v2/models/m").json()["inputs"][0]["shape"] == [-1, 3]


def test_version_that_breaks_clients_comes_when_they_are_gone(watching, repository):
    put(repository, "m", 2, times(3, width=3))
    reason_of(watching, "m", "2")
    shutil.rmtree(repository / "m" / "1")
    serving.until(lambda: watching.index().get(("m", "2"), {}).get("state") == "READY", "version 2", SECONDS_MAX)


def test_it_does_not_matter_which_version_is_loaded_first(repository, tmp_path):
    put(repository, "m", 1, times(2))
    put(repository, "m", 2, times(3, width=3))
    with serving.Server(repository, tmp_path / "server", *QUICK) as server:
        assert factor_of(server, "m") == 2
        assert "stumble" in reason_of(server, "m", "2")[1]


def test_nobody_waits_for_a_version_that_has_been_deleted(repository, tmp_path):
    """A version waits for lower ones that still load, and this one would load for minutes."""
    slow = serving.FIXTURES / "slow" / "1"
    aside = tmp_path / "aside"
    shutil.copytree(slow, aside)
    for number in range(500):
        shutil.copy(slow / "golden" / "two_rows.json", aside / "golden" / f"{number}.json")
    (repository / "slow").mkdir()
    shutil.copytree(slow, repository / "slow" / "1")
    with serving.Server(repository, tmp_path / "server", *QUICK, "--threads", "2") as server:
        state = lambda number: {one["version"]: one["state"] for one in standings(server)}.get(number)
        aside.rename(repository / "slow" / "2")
        serving.until(lambda: state("2") == "verifying", "version 2 to be loaded", SECONDS_MAX)
        shutil.copytree(slow, aside)
        aside.rename(repository / "slow" / "3")
        serving.until(lambda: state("3") == "warming", "version 3 to be loaded", 60)
        shutil.rmtree(repository / "slow" / "2")
        serving.until(lambda: state("3") == "ready", "version 3 to be ready", 60)


def test_explicit_load_accepts_what_breaks_clients(explicit, repository):
    put(repository, "m", 2, times(3, width=3))
    answer = explicit.post("/v2/repository/models/m/load")
    assert answer.status == 400 and "accept_incompatible" in answer.error(), answer
    assert factor_of(explicit, "m") == 2
    answer = explicit.post("/v2/repository/models/m/load", {"parameters": {"accept_incompatible": True}})
    assert answer.status == 200, answer
    assert explicit.get("/v2/models/m").json()["inputs"][0]["shape"] == [-1, 3]


def test_broken_versions_push_no_good_one_out(repository, tmp_path):
    """Also when the server is started anew: the latest two that are good are held."""
    for version in (1, 2):
        put(repository, "m", version, times(1 + version))
    for version in (3, 4):
        put(repository, "m", version, b"this is no model")
    with serving.Server(repository, tmp_path / "server", *QUICK) as server:
        assert [factor_of(server, "m", version) for version in ("", "1", "2", "3")] == [3, 2, 3, None]
        put(repository, "m", 5, times(9))
        becomes(server, 9)
        becomes(server, None, "m", "1")
        assert factor_of(server, "m", "2") == 3, "the one before the newest stays at hand"


# --- What people are told ------------------------------------------------------------------------------------------


def test_status_and_watch_tell_every_state(watching, repository, tmp_path):
    command = [str(serving.BINARY), "watch", "--ports-file", str(watching.ports_file), "--output", "json"]
    told = tmp_path / "told"
    with open(told, "w") as out:
        watcher = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
    try:
        changes = lambda: [json.loads(line) for line in told.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        states = lambda version: [one["state"] for one in changes() if (one["name"], one["version"]) == ("m", version)]
        serving.until(lambda: states("1") == ["ready"], "the state as it is", SECONDS_MAX)
        put(repository, "m", 2, times(3))
        put(repository, "m", 3, b"this is no model")
        shutil.rmtree(repository / "m" / "1")
        serving.until(lambda: states("1")[-1:] == ["retired"], "version 1 to be freed", SECONDS_MAX)
        serving.until(lambda: states("3")[-1:] == ["failed"], "version 3 to fail", SECONDS_MAX)
        serving.until(lambda: states("2")[-1:] == ["ready"], "version 2 to be ready", SECONDS_MAX)
        assert states("1") == ["ready", "draining", "retired"]
        assert states("2") == ["loading", "verifying", "warming", "ready"] or states("2").count("verifying") > 1
        assert [one["reason"] for one in changes() if one["version"] == "3"][-1]
        shown = subprocess.run(
            [str(serving.BINARY), "status", "--ports-file", str(watching.ports_file)], capture_output=True, text=True)
        assert shown.returncode == 0, shown
        lines = [line.split()[:3] for line in shown.stdout.splitlines()]
        assert ["m", "1", "retired"] in lines and ["m", "2", "ready"] in lines and ["m", "3", "failed"] in lines
        assert watching.get("/admin/changes?after=x", port=watching.admin_port).status == 400
    finally:
        watcher.kill()
        watcher.wait()
        watcher.stderr.close()


def test_version_removed(watching, repository):
    put(repository, "m", 2, times(3))
    becomes(watching, 3)
    shutil.rmtree(repository / "m" / "2")
    becomes(watching, 2)
    assert factor_of(watching, "m", "2") is None


def test_model_removed(watching, repository):
    shutil.rmtree(repository / "m")
    becomes(watching, None)
    assert not watching.get("/v2/models/m/ready").status == 200
    assert watching.get("/v2/health/ready").status == 200


@pytest.mark.parametrize("place", ["m", "m/1", "m/model.toml"])
def test_what_cannot_be_looked_at_is_not_gone(watching, repository, tmp_path, place):
    """A link that leads to itself stands for a folder on a disk that fails, or that the server may not read."""
    was = digest_of(watching, "m")
    place = repository / place
    if place.exists():
        place.rename(tmp_path / "aside")
    place.symlink_to(place)
    reason = lambda: [one["reason"] for one in standings(watching) if (one["name"], one["version"]) == ("m", "1")]
    serving.until(lambda: "cannot be read" in "".join(reason()), "the status to say so", SECONDS_MAX)
    assert [one["state"] for one in standings(watching) if one["name"] == "m"] == ["ready"]
    assert "cannot be read" in watching.log_text()
    # Neighbours come all the same, long after what is gone would have left.
    put(repository, "later", 1, times(5))
    becomes(watching, 5, "later")
    serving.stays(lambda: factor_of(watching, "m", "1") == 2 and digest_of(watching, "m") == was, "it serves", 1)
    place.unlink()
    if (tmp_path / "aside").exists():
        (tmp_path / "aside").rename(place)
    serving.until(lambda: reason() == [""], "the status to be well again", SECONDS_MAX)
    assert digest_of(watching, "m") == was


def test_broken_version_leaves_the_old_one(watching, repository):
    put(repository, "m", 2, b"this is no model")
    state, reason = reason_of(watching, "m", "2")
    assert state == "UNAVAILABLE" and reason
    assert factor_of(watching, "m") == 2
    assert watching.get("/v2/health/ready").status == 200
    assert watching.index()["m", "1"]["state"] == "READY"


def test_broken_version_is_mended(watching, repository):
    put(repository, "m", 2, b"this is no model")
    reason_of(watching, "m", "2")
    (repository / "m" / "2" / "model.onnx").write_bytes(times(3))
    becomes(watching, 3)


def test_new_bytes_under_an_old_number(watching, repository):
    before = digest_of(watching, "m")
    aside = repository / "m" / ".aside.onnx"
    aside.write_bytes(times(5))
    os.replace(aside, repository / "m" / "1" / "model.onnx")
    becomes(watching, 5)
    assert digest_of(watching, "m") != before


def test_same_bytes_written_again(watching, repository):
    before = digest_of(watching, "m")
    (repository / "m" / "1" / "model.onnx").write_bytes(times(2))
    put(repository, "marker", 1, times(9))
    becomes(watching, 9, "marker")
    assert factor_of(watching, "m") == 2
    assert digest_of(watching, "m") == before


def test_broken_bytes_under_an_old_number(watching, repository):
    """The bytes that served go on serving."""
    (repository / "m" / "1" / "model.onnx").write_bytes(b"this is no model")
    put(repository, "marker", 1, times(9))
    becomes(watching, 9, "marker")
    assert factor_of(watching, "m") == 2


def test_symlink_swap(tmp_path):
    """As Kubernetes mounts change: the repository is a link to a folder, and the link is replaced."""
    for name, factor in [("first", 2), ("second", 3)]:
        put(tmp_path / name, "m", 1, times(factor))
    link = tmp_path / "models"
    link.symlink_to("first")
    with serving.Server(link, tmp_path / "server", *QUICK) as server:
        assert factor_of(server, "m") == 2
        (tmp_path / "aside").symlink_to("second")
        os.replace(tmp_path / "aside", link)
        becomes(server, 3)


def test_symlink_swap_of_a_version(watching, repository, tmp_path):
    put(tmp_path / "stored", "m", 2, times(3))
    put(tmp_path / "stored", "m", 3, times(4))
    (repository / "m" / "2").symlink_to(tmp_path / "stored" / "m" / "2")
    becomes(watching, 3)
    (tmp_path / "aside").symlink_to(tmp_path / "stored" / "m" / "3")
    os.replace(tmp_path / "aside", repository / "m" / "2")
    becomes(watching, 4)


def test_no_answer_is_torn_while_versions_come_and_go(watching, repository):
    """Under load, each answer is of one version or another, and none is an error."""
    for round_ in range(3):
        put(repository, "m", 2 + round_, times(3 + round_))
        serving.until(lambda: factor_of_strict(watching) == 3 + round_, f"version {2 + round_}", SECONDS_MAX)
        shutil.rmtree(repository / "m" / str(1 + round_))


def factor_of_strict(server):
    found = factor_of(server, "m")
    assert found is not None, "the model was gone for a moment"
    return found


@pytest.mark.parametrize("parameters", [{}, {"force": True}])
def test_load_is_refused_while_watching(watching, parameters):
    for verb in ("load", "unload"):
        answer = watching.post(f"/v2/repository/models/m/{verb}", {"parameters": parameters})
        assert answer.status in (400, 403, 501, 503), answer
        assert "explicit" in answer.error()
    assert factor_of(watching, "m") == 2


# --- none --------------------------------------------------------------------------------------------------------


def test_none_changes_nothing(repository, tmp_path):
    put(repository, "m", 1, times(2))
    put(repository, "gone", 1, times(6))
    with serving.Server(repository, tmp_path / "server", *QUICK, "--model-control", "none") as server:
        put(repository, "m", 2, times(3))
        put(repository, "late", 1, times(4))
        shutil.rmtree(repository / "gone")
        (repository / "m" / "1" / "model.onnx").write_bytes(times(8))
        serving.stays(
            lambda: [factor_of(server, name) for name in ("m", "gone", "late")] == [2, 6, None], "what was served")
        assert set(server.index()) == {("m", "1"), ("gone", "1")}
        answer = server.post("/v2/repository/models/late/load")
        assert answer.status in (400, 403, 501, 503) and "explicit" in answer.error(), answer


# --- explicit ----------------------------------------------------------------------------------------------------


@pytest.fixture
def explicit(repository, tmp_path):
    for name, factor in [("m", 2), ("n", 3), ("o", 4)]:
        put(repository, name, 1, times(factor))
    flags = ["--model-control", "explicit", "--load-model", "m", "--load-model", "n"]
    with serving.Server(repository, tmp_path / "server", *QUICK, *flags) as server:
        yield server


def test_only_what_was_named_is_loaded(explicit):
    assert [factor_of(explicit, name) for name in "mno"] == [2, 3, None]
    index = {name: item["state"] for (name, _), item in explicit.index().items()}
    assert index["m"] == index["n"] == "READY" and index.get("o", "UNAVAILABLE") in ("UNAVAILABLE", "UNKNOWN", "")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_load_and_unload(explicit, repository, protocol):
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    client = module.InferenceServerClient(getattr(explicit, f"{protocol}_address"))
    client.load_model("o")
    assert factor_of(explicit, "o") == 4, "a load that has answered has loaded"
    client.unload_model("o")
    becomes(explicit, None, "o")
    client.unload_model("m")
    becomes(explicit, None, "m")
    assert factor_of(explicit, "n") == 3
    put(repository, "n", 2, times(5))
    client.load_model("n")
    assert factor_of(explicit, "n") == 5, "a load of what is loaded takes what has changed"
    with pytest.raises(InferenceServerException, match="nobody"):
        client.load_model("nobody")
    client.close()


def test_load_of_a_broken_model_says_why(explicit, repository):
    put(repository, "bad", 1, b"this is no model")
    answer = explicit.post("/v2/repository/models/bad/load")
    assert 400 <= answer.status < 600 and answer.status != 404, answer
    assert "bad" in answer.error()
    with pytest.raises(grpc.RpcError) as raised:
        tritonclient.grpc.service_pb2_grpc.GRPCInferenceServiceStub(explicit.channel()).RepositoryModelLoad(
            tritonclient.grpc.service_pb2.RepositoryModelLoadRequest(model_name="bad"), timeout=SECONDS_MAX)
    assert raised.value.details() == answer.error()
    assert [factor_of(explicit, name) for name in "mno"] == [2, 3, None]


def test_files_do_not_load_themselves(explicit, repository):
    put(repository, "m", 2, times(9))
    put(repository, "late", 1, times(9))
    serving.stays(lambda: factor_of(explicit, "m") == 2 and factor_of(explicit, "late") is None, "what was served")


def test_load_that_chooses_no_version_is_answered(explicit, repository):
    put(repository, "none", 1, times(9))
    (repository / "none" / "model.toml").write_text('version_policy = "9"')
    answer = explicit.post("/v2/repository/models/none/load")
    assert answer.status == 503 and "version policy" in answer.error(), answer


def test_load_of_bytes_that_are_refused_says_so(explicit, repository):
    def overwrite(content):
        aside = repository / "m" / ".new"
        aside.write_bytes(content)
        aside.replace(repository / "m" / "1" / "model.onnx")

    overwrite(b"this is no model")
    for _ in range(2):
        answer = explicit.post("/v2/repository/models/m/load")
        assert answer.status == 400 and "not a whole ONNX model" in answer.error(), answer
        assert factor_of(explicit, "m") == 2, "the bytes loaded before go on serving"
    overwrite(times(6))
    assert explicit.post("/v2/repository/models/m/load").status == 200
    assert factor_of(explicit, "m") == 6


def test_superseded_version_leaves_with_the_load(repository, tmp_path):
    put(repository, "m", 1, times(2))
    flags = ["--model-control", "explicit", "--load-model", "m", "--version-policy", "latest:1"]
    with serving.Server(repository, tmp_path / "server", *flags) as server:
        put(repository, "m", 2, times(3))
        assert server.post("/v2/repository/models/m/load").status == 200
        becomes(server, None, "m", "1")
        assert factor_of(server, "m") == 3


def test_ready_index_has_only_what_is_ready(explicit):
    answer = explicit.post("/v2/repository/index", {"ready": True})
    assert {item["name"] for item in answer.json()} == {"m", "n"}


def test_star_loads_all(repository, tmp_path):
    for name, factor in [("m", 2), ("n", 3)]:
        put(repository, name, 1, times(factor))
    flags = ["--model-control", "explicit", "--load-model", "*"]
    with serving.Server(repository, tmp_path / "server", *flags) as server:
        assert [factor_of(server, name) for name in "mn"] == [2, 3]


def test_nothing_named_loads_nothing(repository, tmp_path):
    put(repository, "m", 1, times(2))
    with serving.Server(repository, tmp_path / "server", "--model-control", "explicit") as server:
        assert factor_of(server, "m") is None
        assert server.post("/v2/repository/models/m/load").status == 200
        assert factor_of(server, "m") == 2


# --- Broken ------------------------------------------------------------------------------------------------------

# What the reason must say, one of each tuple, in lower case.
REASONS = {
    "truncated": [("onnx", "truncat", "protobuf", "decode", "parse")],
    "not_onnx": [("onnx",)],
    "empty": [("empty", "0 bytes", "no bytes")],
    "unknown_opset": [("9999",), ("opset",)],
    "missing_external_data": [("weights.bin",)],
    "escaping_external_data": [("make.py", "outside", "..")],
    "wrong_golden": [("golden", "one_row")],
    "bad_pbtxt": [("config.pbtxt",)],
    "bad_toml": [("model.toml",)],
    "no_version_file": [("model.onnx",)],
}


@pytest.fixture(scope="module")
def among_broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    models = serving.link_models(folder / "models", serving.BROKEN, serving.FIXTURES / "two_in_two_out")
    with serving.Server(models, folder / "server", "--poll-interval", "1h") as server:
        yield server


def test_every_broken_fixture_is_listed():
    assert set(REASONS) == {folder.name for folder in serving.BROKEN.iterdir()}


@pytest.mark.parametrize("model", REASONS)
def test_broken_model_says_why(among_broken, model):
    state, reason = reason_of(among_broken, model)
    assert state == "UNAVAILABLE"
    for choices in REASONS[model]:
        assert any(choice in reason.lower() for choice in choices), reason
    assert among_broken.get(f"/v2/models/{model}/ready").status != 200


@pytest.mark.parametrize("model", REASONS)
def test_broken_model_does_not_answer(among_broken, model):
    question = {"model": model, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    over_rest, over_grpc = asking.ask_json(among_broken, question), asking.ask_raw(among_broken, question)
    assert over_rest.kind in ("not_ready", "not_found")
    assert (over_grpc.kind, over_grpc.message) == (over_rest.kind, over_rest.message)
    assert model in over_rest.message


def test_broken_models_harm_no_neighbour(among_broken):
    assert among_broken.get("/v2/health/ready").status == 200
    row = [1, 2, 3, 4]
    question = {"model": "two_in_two_out", "inputs": [
        {"name": name, "datatype": "FP32", "shape": [1, 4], "data": row} for name in "ab"]}
    reply = asking.ask_json(among_broken, question)
    assert reply.kind is None and reply.outputs["sum"].tolist() == [[2, 4, 6, 8]], reply


def linked_out(folder):
    """A repository whose models reach out of their folders by links: weights, and labels that clients get to see."""
    (folder / "secret").mkdir(parents=True)
    for name, source in (("weights", "external_data"), ("labels", "two_in_two_out")):
        shutil.copytree(serving.FIXTURES / source, folder / "models" / name)
    weights = next(file for file in (folder / "models" / "weights" / "1").iterdir() if file.suffix not in (".onnx", ""))
    shutil.move(weights, folder / "secret" / "weights")
    weights.symlink_to(folder / "secret" / "weights")
    (folder / "secret" / "labels").write_text("a\nb\nc\nd\n")
    (folder / "models" / "labels" / "labels.txt").symlink_to(folder / "secret" / "labels")
    (folder / "models" / "labels" / "config.pbtxt").write_text(
        'output [{ name: "sum" data_type: TYPE_FP32 dims: [-1, 4] label_filename: "labels.txt" }]\n')
    return folder / "models"


@pytest.mark.parametrize("model", ["weights", "labels"])
def test_links_out_of_a_model_are_not_followed(tmp_path, model):
    with serving.Server(linked_out(tmp_path), tmp_path / "server") as server:
        state, reason = reason_of(server, model)
        assert state == "UNAVAILABLE" and ("not inside" in reason or "link out of" in reason), reason


@pytest.mark.parametrize("model", ["truncated", "wrong_golden", "bad_toml"])
def test_strict_refuses_to_start(tmp_path, model):
    models = serving.link_models(tmp_path / "models", serving.BROKEN / model, serving.FIXTURES / "two_in_two_out")
    server = serving.Server(models, tmp_path / "server", "--strict", wait=False)
    try:
        assert server.process.wait(serving.START_SECONDS_MAX) not in (0, None)
    finally:
        server.kill()
    assert model in server.log_text()


def test_strict_starts_with_good_models(tmp_path):
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    with serving.Server(models, tmp_path / "server", "--strict") as server:
        assert server.get("/v2/models/two_in_two_out/ready").status == 200


def test_strict_refuses_new_bytes_under_an_old_number(repository, tmp_path):
    put(repository, "m", 1, times(2))
    with serving.Server(repository, tmp_path / "server", *QUICK, "--strict") as server:
        aside = repository / "m" / ".aside.onnx"
        aside.write_bytes(times(5))
        os.replace(aside, repository / "m" / "1" / "model.onnx")
        put(repository, "marker", 1, times(9))
        becomes(server, 9, "marker")
        assert factor_of(server, "m") == 2


# --- What else may be given as a repository ----------------------------------------------------------------------


def test_a_single_file(tmp_path):
    (tmp_path / "thing.onnx").write_bytes(times(2))
    with serving.Server(tmp_path / "thing.onnx", tmp_path / "server") as server:
        assert factor_of(server, "thing") == 2


def test_a_folder_with_one_file(tmp_path):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "model.onnx").write_bytes(times(2))
    with serving.Server(tmp_path / "thing", tmp_path / "server") as server:
        assert {name for name, _ in server.index()} <= {"thing", "model"}
        ((name, _),) = server.index()
        assert factor_of(server, name) == 2


def test_an_empty_folder(repository, tmp_path):
    with serving.Server(repository, tmp_path / "server", *QUICK) as server:
        assert server.index() == {}
        put(repository, "m", 1, times(2))
        becomes(server, 2)


def test_latest_two_by_default(repository, tmp_path):
    for version in (1, 2, 10):
        put(repository, "m", version, times(version))
    with serving.Server(repository, tmp_path / "server") as server:
        assert factor_of(server, "m") == 10, "versions are numbers: 10 is newer than 2"
        assert factor_of(server, "m", "2") == 2
        assert factor_of(server, "m", "1") is None


def test_version_policy_of_the_command_line(repository, tmp_path):
    for version in (1, 2, 3):
        put(repository, "m", version, times(version))
    with serving.Server(repository, tmp_path / "server", "--version-policy", "1,3") as server:
        assert [factor_of(server, "m", version) for version in ("", "1", "2", "3")] == [3, 1, None, 3]


def test_version_policy_of_the_model(repository, tmp_path):
    for version in (1, 2, 3):
        put(repository, "m", version, times(version))
    (repository / "m" / "config.pbtxt").write_text("version_policy: { specific { versions: [1, 2] } }\n")
    with serving.Server(repository, tmp_path / "server") as server:
        assert [factor_of(server, "m", version) for version in ("", "1", "2", "3")] == [2, 1, 2, None]


def test_config_pbtxt_with_a_field_that_is_not_read(repository, tmp_path):
    """It is reported by name, not silently dropped, and the model is served."""
    put(repository, "m", 1, times(2))
    (repository / "m" / "config.pbtxt").write_text(
        'name: "m"\nbackend: "onnxruntime"\nmax_batch_size: 4\nresponse_cache { enable: true }\n')
    with serving.Server(repository, tmp_path / "server") as server:
        assert factor_of(server, "m") == 2
        assert "response_cache" in server.log_text()


def test_config_pbtxt_says_the_batch_size(repository, tmp_path):
    put(repository, "m", 1, times(2))
    (repository / "m" / "config.pbtxt").write_text(
        'name: "m"\nmax_batch_size: 4\ninput [{ name: "x" data_type: TYPE_FP32 dims: [2] }]\n')
    with serving.Server(repository, tmp_path / "server") as server:
        config = server.get("/v2/models/m/config").json()
        assert config["max_batch_size"] == 4 and config["input"][0]["dims"] == [2]
        rows = {"name": "x", "datatype": "FP32", "shape": [5, 2], "data": [1] * 10}
        reply = asking.ask_json(server, {"model": "m", "inputs": [rows]})
        # More rows than one batch takes: refused as Triton does, or answered in full.
        assert (reply.kind == "invalid" and "4" in reply.message) or reply.outputs["y"].tolist() == [[2, 2]] * 5, reply
