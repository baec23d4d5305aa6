"""Do plans split live traffic as they say, and does nobody notice when they change?"""

import collections
import contextlib
import hashlib
import json
import math
import shutil
import subprocess
import threading
import time

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

import asking
import serving
from test_repository import put, times
from test_telemetry import total

KEYS = 3000
X = np.ones((1, 2), np.float32)


def toml(*arms, key='{ header = "x-user" }', more=""):
    """A plan as people write it. Arms are (name, version, role and share)."""
    lines = [more, f"key = {key}"]
    for name, version, rest in arms:
        lines += ["[[arms]]", f'name = "{name}"', f"version = {version}", rest]
    return "\n".join(lines) + "\n"


CHAMPION = ("champion", 1, 'role = "champion"')
TESTER = '\n[[headers]]\nheader = "x-tester"\nvalue = "yes"\narm = "new"\n'


def split(share, version=2, **more):
    return toml(CHAMPION, ("new", version, f'role = "challenger"\nweight = "{share}%"'), **more)


@pytest.fixture
def repository(tmp_path):
    """Versions 1, 2 and 3 of m, which multiply by 1, 2 and 3, and a model of another name that multiplies by 7."""
    root = tmp_path / "models"
    for version in (1, 2, 3):
        put(root, "m", version, times(float(version)))
    put(root, "other", 1, times(7.0))
    return root


@pytest.fixture
def server(repository, tmp_path):
    with serving.Server(repository, tmp_path / "server", "--poll-interval", "100ms") as made:
        yield made


def start(repository, tmp_path, *flags):
    """A server on what one before it left behind."""
    (tmp_path / "server" / "ports.json").unlink(missing_ok=True)
    return serving.Server(repository, tmp_path / "server", *flags)


def run(server, *arguments, expected=0):
    """A command against the server: what it printed."""
    command = [str(serving.BINARY), *map(str, arguments), "--ports-file", str(server.ports_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == expected, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def apply(server, tmp_path, text, *flags, name="m", expected=0):
    file = tmp_path / f"{name}.toml"
    file.write_text(text)
    return run(server, "apply", "-f", file, *flags, expected=expected)


def endpoints(server):
    answer = server.get("/admin/endpoints", port=server.admin_port)
    assert answer.status == 200, answer
    return {form["endpoint"]: form for form in answer.json()}


def revision(server, name="m"):
    return endpoints(server).get(name, {}).get("revision")


QUESTION = {"model": "m", "inputs": [asking.tensor("x", X)]}


def arm_over_rest(server, headers=None, model="m", version=None, body=None):
    """Which arm and version answered, and by what it multiplied."""
    path = asking.rest_path({"model": model, "version": version})
    answer = server.post(path, body or {"inputs": QUESTION["inputs"]}, headers)
    assert answer.status == 200, answer
    said = answer.headers
    assert said["tiltyard-endpoint"] == model
    return said["tiltyard-arm"], int(said["tiltyard-version"]), answer.json()["outputs"][0]["data"][0]


def arm_over_grpc(server, metadata=(), model="m", **more):
    request = asking.raw(QUESTION | {"model": model} | more)
    response, call = server.stub.ModelInfer.with_call(request, metadata=tuple(metadata), timeout=10)
    said = dict(call.initial_metadata())
    factor = np.frombuffer(response.raw_output_contents[0], np.float32)[0]
    return said["tiltyard-arm"], int(said["tiltyard-version"]), factor


def arms_of_keys(server, keys):
    """The arm of each key, by the header x-user over one HTTP connection."""
    found = {}
    with contextlib.closing(tritonclient.http.InferenceServerClient(server.http_address)) as client:
        tensor = tritonclient.http.InferInput("x", X.shape, "FP32")
        tensor.set_data_from_numpy(X)
        for key in keys:
            answer = client.infer("m", [tensor], headers={"x-user": key})
            found[key] = int(round(float(answer.as_numpy("y")[0][0])))
    return found


def assign(server, key, *flags, endpoint="m"):
    return json.loads(run_offline(*((server,) if server else ()), key=key, flags=flags, endpoint=endpoint))


def run_offline(*server, key, flags, endpoint):
    where = ["--ports-file", str(server[0].ports_file)] if server else []
    command = [str(serving.BINARY), "rollout", "assign", endpoint, "--key", key, "--output", "json", *map(str, flags), *where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- Splitting -------------------------------------------------------------------------------------------------------


def test_keys_are_split_as_planned_and_as_computed_elsewhere(server, tmp_path):
    apply(server, tmp_path, split(30))
    found = arms_of_keys(server, [f"user-{number}" for number in range(KEYS)])
    share = sum(version == 2 for version in found.values()) / KEYS
    assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / KEYS), share
    for key in list(found)[:40]:
        of_server, of_file = assign(server, key), assign(None, key, "--file", tmp_path / "m.toml")
        assert of_server["version"] == of_file["version"] == str(found[key])
        assert of_server["bucket"] == of_file["bucket"]


def test_a_key_sticks_through_ramps_and_restarts(repository, tmp_path):
    keys = [f"user-{number}" for number in range(600)]
    held = {}
    for round_, share in enumerate((5, 5, 20, 60, 100)):
        with start(repository, tmp_path) as server:
            if round_ != 1:  # the second start finds what the first was told
                apply(server, tmp_path, split(share))
            assert revision(server) == max(round_, 1)
            now = arms_of_keys(server, keys)
        assert all(now[key] == 2 for key, version in held.items() if version == 2), f"a key moved back at {share} %"
        if round_ == 1:
            assert now == held
        held = now
    assert set(held.values()) == {2}


def test_a_plan_survives_a_kill(repository, tmp_path):
    server = start(repository, tmp_path)
    try:
        apply(server, tmp_path, split(50))
        before = arms_of_keys(server, "abcdefgh")
    finally:
        server.kill()
    with start(repository, tmp_path) as again:
        assert arms_of_keys(again, "abcdefgh") == before


@pytest.mark.parametrize("ask", [
    lambda server, key: arm_over_rest(server, {"x-user": key})[1],
    lambda server, key: arm_over_grpc(server, [("x-user", key)])[1],
    lambda server, key: streamed(server, key),
], ids=["rest", "grpc", "stream"])
def test_every_protocol_takes_the_header(server, tmp_path, ask):
    apply(server, tmp_path, split(50))
    for key in "abcdefgh":
        assert ask(server, key) == int(assign(server, key)["version"]), key


def streamed(server, key):
    """The version that answers on a stream."""
    requests = iter([asking.raw(QUESTION)])
    for response in server.stub.ModelStreamInfer(requests, metadata=(("x-user", key),), timeout=10):
        assert not response.error_message
        return int(response.infer_response.model_version)


def test_unmodified_clients_are_split(server, tmp_path):
    apply(server, tmp_path, split(50))
    client = tritonclient.grpc.InferenceServerClient(server.grpc_address)
    tensor = tritonclient.grpc.InferInput("x", X.shape, "FP32")
    tensor.set_data_from_numpy(X)
    for key in "abcdefgh":
        answer = client.infer("m", [tensor], headers={"x-user": key})
        assert int(answer.as_numpy("y")[0][0]) == int(assign(server, key)["version"])
    assert client.is_model_ready("m") and client.get_model_metadata("m").name == "m"
    client.close()


def test_no_key_goes_to_the_champion_and_is_counted(server, tmp_path):
    apply(server, tmp_path, split(100))
    assert arm_over_rest(server) == ("champion", 1, 1.0)
    assert arm_over_grpc(server)[0] == "champion"
    labels = {"endpoint": "m", "model": "m", "version": "1", "arm": "champion"}
    assert total(server, "tiltyard_requests_apart_total", reason="no_key", **labels) == 2
    serving.until(lambda: total(server, "tiltyard_requests_total", outcome="success", **labels) == 2, "both to be counted")


def test_arms_are_counted_apart_and_no_counter_falls(server, tmp_path):
    apply(server, tmp_path, split(100))
    arm_over_rest(server, {"x-user": "a"})

    def counted(arm):
        return total(server, "tiltyard_requests_total", endpoint="m", version="2", arm=arm, outcome="success")

    serving.until(lambda: counted("new") == 1, "the challenger's request")
    apply(server, tmp_path, toml(("champion", 2, 'role = "champion"')))
    arm_over_rest(server, {"x-user": "a"})
    serving.until(lambda: counted("champion") == 1, "the same version's as champion")
    assert counted("new") == 1
    arm_over_rest(server, version="2")
    serving.until(lambda: counted("pinned") == 1, "the pinned request")


def test_a_testers_header_picks_an_arm(server, tmp_path):
    apply(server, tmp_path, split(0) + TESTER)
    assert arm_over_rest(server, {"x-user": "a"})[0] == "champion"
    assert arm_over_rest(server, {"x-user": "a", "X-Tester": "yes"}) == ("new", 2, 2.0)
    assert arm_over_grpc(server, [("x-tester", "yes")])[0] == "new"
    assert total(server, "tiltyard_requests_apart_total", reason="header", arm="new") == 2


def test_a_version_that_is_named_bypasses_the_plan(server, tmp_path):
    apply(server, tmp_path, split(100) + TESTER)
    assert arm_over_rest(server, {"x-user": "a", "x-tester": "yes"}, version="1") == ("pinned", 1, 1.0)
    assert arm_over_grpc(server, [("x-tester", "yes")], version="3")[:2] == ("pinned", 3)


def test_each_request_for_itself(server, tmp_path):
    apply(server, tmp_path, split(50, key='"per_request"'))
    found = []
    for _ in range(60):
        answer = server.post("/v2/models/m/infer", {"inputs": QUESTION["inputs"]})
        request = answer.headers["tiltyard-prediction-id"].split(":")[0]
        found.append((request, answer.headers["tiltyard-version"]))
    assert {version for _, version in found} == {"1", "2"}
    for request, version in found[:8]:
        assert assign(server, request)["version"] == version


# --- Keys in the body ------------------------------------------------------------------------------------------------


def test_a_parameter_is_the_key_on_every_protocol(server, tmp_path):
    apply(server, tmp_path, split(50, key='{ json_path = "$.parameters.customer" }'))
    for key in "abcdef":
        expected = int(assign(server, key)["version"])
        body = {"inputs": QUESTION["inputs"], "parameters": {"customer": key}}
        assert arm_over_rest(server, body=body)[1:] == (expected, float(expected))
        assert arm_over_grpc(server, parameters={"customer": key})[1:] == (expected, float(expected))


def test_a_path_into_json_is_the_key(server, tmp_path):
    apply(server, tmp_path, split(50, key='{ json_path = "$.customer.ids[0]" }'))
    for key in "abcdef":
        body = {"inputs": QUESTION["inputs"], "customer": {"ids": [key, "x"]}}
        assert arm_over_rest(server, body=body)[1] == int(assign(server, key)["version"])
    assert arm_over_grpc(server)[0] == "champion", "there is no JSON over gRPC"
    wrong = server.post("/v2/models/m/infer", {"inputs": QUESTION["inputs"], "customer": {"ids": [{}]}})
    assert wrong.status == 400 and 'endpoint "m"' in wrong.error(), wrong


@pytest.mark.parametrize("form", asking.FORMS)
def test_rows_of_different_keys_are_refused(tmp_path, form):
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "columns")
    with serving.Server(models, tmp_path / "server") as server:
        spec = server.get("/v2/models/columns").json()["inputs"]
        column = spec[0]["name"]
        apply(server, tmp_path, toml(CHAMPION, key=f'{{ tensor_column = "{column}" }}'), name="columns")

        def ask(first, second):
            inputs = [item for item in spec]
            values = [[first, second] if item["name"] == column else [1, 1] for item in inputs]
            tensors = [{"name": item["name"], "datatype": item["datatype"], "shape": [2] + item["shape"][1:],
                        "data": value} for item, value in zip(inputs, values)]
            return asking.FORMS[form](server, {"model": "columns", "inputs": tensors})

        assert ask(1, 1).kind is None
        refused = ask(1, 2)
        assert refused.kind == "invalid", refused
        assert "the rows of this request have different keys" in refused.message and column in refused.message


def test_row_scoring_is_split_too(tmp_path):
    models = serving.link_models(tmp_path / "models", serving.SAMPLES / "risk")
    with serving.Server(models, tmp_path / "server") as server:
        example = server.get("/docs/models/risk/openapi.json").json()
        example = example["paths"]["/v1/models/risk/score"]["post"]["requestBody"]["content"]["application/json"]["example"]
        apply(server, tmp_path, split(50, key='{ json_path = "$.parameters.customer" }'), name="risk")
        for key in "abcdef":
            answer = server.post("/v1/models/risk/score", example | {"parameters": {"customer": key}})
            assert answer.status == 200, answer
            assert answer.json()["version"] == assign(server, key, endpoint="risk")["version"]
        apply(server, tmp_path, split(50, key='{ tensor_column = "mean_radius" }', more='salt = "other"'), name="risk")
        radius = example["rows"][0]["mean_radius"]
        answer = server.post("/v1/models/risk/score", example)
        expected = assign(server, str(np.float32(radius)), endpoint="risk")["version"]
        assert answer.json()["version"] == expected
        other = example["rows"][0] | {"mean_radius": radius + 1}
        refused = server.post("/v1/models/risk/score", {"rows": [example["rows"][0], other]})
        assert refused.status == 400 and "different keys" in refused.error(), refused


def test_clients_are_their_own_key(repository, tmp_path):
    access = tmp_path / "access"
    tokens = {}
    with access.open("wb") as lines:
        for name, role in (("ann", "scorer"), ("bob", "scorer"), ("root", "admin"), ("dev", "deployer:other")):
            command = [str(serving.BINARY), "token", "new", name, role]
            made = subprocess.run(command, capture_output=True, timeout=30, check=True)
            tokens[name] = made.stdout.decode().strip()
            lines.write(made.stderr)

    def bearer(name):
        return {"authorization": f"Bearer {tokens[name]}"}

    with serving.Server(repository, tmp_path / "server", "--access-file", str(access), "--open-calls", "health") as server:
        plan = {"key": "client_identity", "salt": "s", "arms": [
            {"name": "champion", "version": 1, "role": "champion"},
            {"name": "new", "version": 2, "role": "challenger", "weight": "50%"}]}

        def change(name, endpoint="m", body=plan):
            return server.ask(
                "PUT", f"/admin/endpoints/{endpoint}", body, bearer(name), port=server.admin_port)

        assert change("ann").status == 403
        # Nobody gets at a model by an endpoint of another name.
        other = plan | {"arms": [plan["arms"][0] | {"model": "m"}]}
        assert change("dev", "other", other).status == 403
        assert change("root", "other", other).status == 200
        assert change("root", "other", other | {"salt": "t"}).status == 200
        for method, path in (("POST", "other/rollback"), ("DELETE", "other")):
            refused = server.ask(method, f"/admin/endpoints/{path}", {}, bearer("dev"), port=server.admin_port)
            assert refused.status == 403, refused
        assert change("root").status == 200
        for name in ("ann", "bob"):
            expected = assign(None, name, "--file", written(tmp_path, plan))["version"]
            assert arm_over_rest(server, bearer(name))[1] == int(expected)
            assert arm_over_grpc(server, bearer(name).items())[1] == int(expected)


def written(tmp_path, plan):
    file = tmp_path / "m.toml"
    file.write_text(split(50, key='"client_identity"', more=f'salt = "{plan["salt"]}"'))
    return file


# --- Applying, going back --------------------------------------------------------------------------------------------


def test_apply_says_what_it_changes_and_changes_it_once(server, tmp_path):
    tried = apply(server, tmp_path, split(10), "--dry-run")
    assert "m would have its first plan, revision 1" in tried and "new: m version 2, challenger 10% of up to 100%" in tried
    assert revision(server) is None
    assert "m has a plan, revision 1" in apply(server, tmp_path, split(10))
    assert "m is as it was: revision 1 holds." in apply(server, tmp_path, split(10))
    assert "from revision 1 to 2" in apply(server, tmp_path, split(20))
    shown = run(server, "endpoints")
    assert "20%" in shown and "80%" in shown and "champion" in shown
    assert "20%" in run(server, "status")
    assert "from revision 2 to 1" in run(server, "rollback", "m")
    assert "no revision to go back to" in run(server, "rollback", "m", expected=1)
    assert "from revision 1 to 2" in run(server, "rollback", "m", "--to", "2")
    assert "has no revision 9" in run(server, "rollback", "m", "--to", "9", expected=1)
    assert "m has no plan any more" in run(server, "endpoints", "remove", "m")
    assert arm_over_rest(server, {"x-user": "a"})[1] == 3
    assert 'endpoint "nobody" has no plan: there are "m"' in run(server, "rollback", "nobody", expected=1)


@pytest.mark.parametrize("text, said", [
    (split(10).replace("weight", "wieght"), "did you mean weight?"),
    (split(10).replace("[[arms]]", "[[arm]]"), "did you mean arms?"),
    (split(10, version=9), "m version 9 is not there"),
    (split(10, key='{ tensor_column = "z" }'), "no input or column"),
    (split(10, key='{ json_path = "z" }'), "expected such as $.customer.id"),
    (split(10, key='"client_identity"'), "set access_file"),
    (split(10) + TESTER.replace('"new"', '"nobody"'), "names arm \\\"nobody\\\""),
    (toml(("new", 2, 'role = "challenger"\nweight = "1%"')), "0 champions"),
    (toml(CHAMPION, ("s", 2, 'role = "shadow"\nweight = "1%"')), "a shadow answers nobody"),
    ("key = ", "m.toml"),
], ids=lambda value: None)
def test_wrong_plans_are_refused_with_the_reason(server, tmp_path, text, said):
    told = apply(server, tmp_path, text, expected=1)
    assert said.replace("\\", "") in told, told
    assert revision(server) is None
    assert arm_over_rest(server)[1] == 3, "what answered before answers still"


@pytest.mark.parametrize("name", ["pinned", "all", "other"])
def test_names_that_figures_have_for_others_are_refused(server, tmp_path, name):
    told = apply(server, tmp_path, toml((name, 1, 'role = "champion"')), expected=1)
    assert f'no arm can be called "{name}"' in told.replace("\\", ""), told


def test_a_plan_without_arms_is_refused_and_the_next_one_holds(server, tmp_path):
    for query in ("", "?dry_run=true"):
        answer = server.ask(
            "PUT", f"/admin/endpoints/m{query}", {"key": "per_request", "arms": []}, port=server.admin_port)
        assert answer.status == 400 and "0 champions" in answer.error(), answer
    apply(server, tmp_path, split(10))
    assert revision(server) == 1


def test_an_arm_of_a_broken_version_is_refused_with_why(server, repository, tmp_path):
    (repository / "m" / "4").mkdir()
    (repository / "m" / "4" / "model.onnx").write_bytes(b"no model")
    assert "m version 4 failed to load" in apply(server, tmp_path, split(10, version=4), expected=1)


def test_arms_of_other_models_and_names_of_their_own(server, tmp_path):
    arms = toml(
        ("champion", 1, 'model = "m"\nrole = "champion"'),
        ("new", 1, 'model = "other"\nrole = "challenger"\nweight = "50%"')) + TESTER
    apply(server, tmp_path, arms, name="fraud")
    assert arm_over_rest(server, {"x-tester": "yes"}, model="fraud") == ("new", 1, 7.0)
    assert arm_over_rest(server, model="fraud") == ("champion", 1, 1.0)
    metadata = server.get("/v2/models/fraud").json()
    assert metadata["name"] == "fraud" and metadata["inputs"] == server.get("/v2/models/m").json()["inputs"]
    assert server.get("/v2/models/fraud/ready").status == 200
    refused = server.post("/v2/models/fraud/versions/1/infer", {"inputs": QUESTION["inputs"]})
    assert refused.status == 404 and "no versions of its own" in refused.error()
    assert {item["name"] for item in server.get("/v2/models/fraud/stats").json()["model_stats"]} == {"m", "other"}
    assert "/v2/models/fraud/infer" in server.get("/docs/openapi.json").json()["paths"]


def test_arms_that_break_clients_are_refused(server, repository, tmp_path):
    put(repository, "wide", 1, times(1.0, width=5))
    serving.until(lambda: ("wide", "1") in server.index() and server.index()["wide", "1"]["state"] == "READY", "wide")
    arms = toml(CHAMPION, ("new", 1, 'model = "wide"\nrole = "challenger"\nweight = 0'))
    assert "clients of the champion would stumble over wide version 1" in apply(server, tmp_path, arms, expected=1)


def test_versions_of_a_plan_are_loaded_and_stay(server, repository, tmp_path):
    """The policy holds versions 2 and 3; the plan brings version 1, and the plan before it too, whatever comes."""
    assert ("m", "1") not in server.index() or server.index()["m", "1"]["state"] != "READY"
    assert "to be loaded first: m version 1" in apply(server, tmp_path, split(0), "--dry-run")
    apply(server, tmp_path, split(0))
    assert arm_over_rest(server)[1] == 1
    apply(server, tmp_path, toml(("champion", 3, 'role = "champion"')))
    for version in (4, 5):
        put(repository, "m", version, times(float(version)))
        serving.until(lambda: server.index().get(("m", str(version)), {}).get("state") == "READY", f"version {version}")
    run(server, "rollback", "m")
    assert arm_over_rest(server)[1] == 1
    # Files are not needed any more.
    shutil.rmtree(repository / "m" / "1")
    put(repository, "m", 6, times(6.0))
    serving.until(lambda: server.index().get(("m", "6"), {}).get("state") == "READY", "version 6")
    assert arm_over_rest(server)[1] == 1


def test_a_rollback_tells_and_loads_arms_that_are_not_there(server, repository, tmp_path):
    """Of a revision further back than the one before, versions may have left."""
    apply(server, tmp_path, toml(("champion", 3, 'role = "champion"'), ("new", 1, 'role = "challenger"\nweight = "100%"')))
    for salt in "ab":
        apply(server, tmp_path, toml(("champion", 3, 'role = "champion"'), more=f'salt = "{salt}"'))
    serving.until(lambda: server.index().get(("m", "1"), {}).get("state") != "READY", "version 1 to leave", 20)
    assert "does not answer yet: new: m version 1" in run(server, "rollback", "m", "--to", "1")
    serving.until(lambda: arm_over_rest(server, {"x-user": "a"})[1] == 1, "version 1 to come back", 20)


def test_plans_change_under_load_and_nobody_is_refused(server, tmp_path):
    apply(server, tmp_path, split(50))
    stop, failures, counts, last_bad = threading.Event(), [], [0], [0.0]

    def ask(number):
        with contextlib.closing(grpc.insecure_channel(server.grpc_address)) as channel:
            stub = tritonclient.grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request, key = asking.raw(QUESTION), 0
            while not stop.is_set():
                key += 1
                try:
                    begun = time.monotonic()
                    response = stub.ModelInfer(request, metadata=(("x-user", f"{number}-{key}"),), timeout=10)
                    factor = np.frombuffer(response.raw_output_contents[0], np.float32)[0]
                    if factor != float(response.model_version):
                        failures.append(f"version {response.model_version} multiplied by {factor}")
                    if response.model_version == "3":
                        last_bad[0] = max(last_bad[0], begun)
                    counts[0] += 1
                except grpc.RpcError as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(5):
            apply(server, tmp_path, split(10 + round_), "--dry-run")
            apply(server, tmp_path, split(90, version=3))
            time.sleep(0.1)
            run(server, "rollback", "m")
            returned = time.monotonic()
            time.sleep(0.1)
            assert last_bad[0] < returned, "a request that began after the rollback went to the version before it"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:3]
    assert counts[0] > 200


def test_the_admin_port_describes_itself(server, tmp_path):
    apply(server, tmp_path, split(10))
    described = server.get("/admin/openapi.json", port=server.admin_port).json()
    for path, methods in described["paths"].items():
        for method in methods:
            if method in ("get", "post", "put", "delete"):
                answer = server.ask(method.upper(), path.replace("{endpoint}", "nobody").replace("{command}", "pause"), port=server.admin_port)
                assert "nothing is at" not in answer.body.decode(errors="replace"), (method, path)
    form = server.get("/admin/endpoints/m", port=server.admin_port).json()
    assert form["current"] == 1 and form["revisions"][0]["plan"]["arms"][1]["version"] == 2
    assert server.get("/admin/endpoints/nobody", port=server.admin_port).status == 404
    for body in ({"to": "2"}, {"too": 2}):
        answer = server.post("/admin/endpoints/m/rollback", body, port=server.admin_port)
        assert answer.status == 400 and "{\"to\": REVISION}" in answer.error()
    answer = server.ask("PUT", "/admin/endpoints/m?dryrun=1", {}, port=server.admin_port)
    assert answer.status == 400


# --- Files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "endpoints"
    made.mkdir()
    return made


def test_plans_in_files_hold_from_the_start_and_are_followed(repository, folder, tmp_path):
    (folder / "m.toml").write_text(split(0) + TESTER)
    flags = ["--endpoints", str(folder), "--poll-interval", "100ms"]
    with start(repository, tmp_path, *flags) as server:
        assert arm_over_rest(server)[1] == 1
        (folder / "m.toml").write_text(split(0, version=3) + TESTER)
        serving.until(lambda: arm_over_rest(server, {"x-tester": "yes"})[1] == 3, "the file's new plan")
        assert revision(server) == 2
        # Whoever goes back is not overruled by a file that has not changed.
        run(server, "rollback", "m")
        serving.stays(lambda: revision(server) == 1, "what was gone back to")
    with start(repository, tmp_path, *flags) as server:
        assert revision(server) == 1
        (folder / "m.toml").write_text(split(0, version=9))
        serving.until(lambda: endpoints(server)["m"]["trouble"], "the trouble to be told")
        assert "m version 9 is not there" in run(server, "endpoints")
        put(repository, "m", 9, times(9.0))
        serving.until(lambda: revision(server) == 3, "the plan whose version came")
        serving.until(lambda: not endpoints(server)["m"]["trouble"], "the trouble to be over")
        (folder / "m.toml").unlink()
        serving.until(lambda: arm_over_rest(server)[1] == 9, "the newest version, where the file is gone")


def test_a_first_plan_in_a_file_waits_for_its_versions(repository, folder, tmp_path):
    flags = ["--endpoints", str(folder), "--poll-interval", "100ms", "--settle-time", "100ms"]
    with start(repository, tmp_path, *flags) as server:
        assert arm_over_rest(server)[1] == 3
        (folder / "m.toml").write_text(toml(("champion", 9, 'role = "champion"')))
        serving.until(lambda: "m version 9 is not there" in (endpoints(server).get("m", {}).get("trouble") or ""), "the trouble")
        assert "m version 9 is not there" in run(server, "endpoints")
        assert arm_over_rest(server)[1] == 3 and revision(server) is None
        (folder / "m.toml").write_text('key = "per_request"\narms = []\n')
        serving.until(lambda: "0 champions" in endpoints(server)["m"]["trouble"], "the file without arms to be told")
        assert arm_over_rest(server)[1] == 3
        (folder / "m.toml").write_text(toml(("champion", 2, 'role = "champion"')))
        serving.until(lambda: arm_over_rest(server)[:2] == ("champion", 2), "a plan whose version is there")


def test_a_wrong_file_is_told_and_takes_nothing_away(repository, folder, tmp_path):
    (folder / "m.toml").write_text(split(0).replace("weight", "wieght"))
    with serving.Server(repository, tmp_path / "server", "--endpoints", str(folder)) as server:
        serving.until(lambda: "did you mean weight?" in server.log_text(), "the mistake to be told")
        assert arm_over_rest(server)[1] == 3


def test_a_journal_that_cannot_be_read_stops_the_start(repository, tmp_path):
    with start(repository, tmp_path) as server:
        apply(server, tmp_path, split(10))
    state(tmp_path / "server" / "data", repository).write_text("{")
    server = serving.Server(repository, tmp_path / "server", wait=False)
    assert server.process.wait(20) != 0
    assert "endpoints.json cannot be read" in server.log_text()


def state(data, repository):
    """The file in which the plans of a repository are kept."""
    folder = hashlib.sha256(str(repository.resolve()).encode()).hexdigest()[:16]
    assert (data / "state" / folder / "repository").read_text() == f"{repository.resolve()}\n"
    return data / "state" / folder / "endpoints.json"


def test_servers_of_different_repositories_share_a_data_folder(repository, tmp_path):
    put(tmp_path / "others", "m", 1, times(5.0))
    shared = ["--data-dir", str(tmp_path / "data")]
    with serving.Server(repository, tmp_path / "a", *shared) as one, \
            serving.Server(tmp_path / "others", tmp_path / "b", *shared) as other:
        apply(one, tmp_path, split(100))
        assert revision(other) is None
        assert "restart forgets" not in apply(other, tmp_path, toml(CHAMPION))
    for folder, models, arms in (("a", repository, 2), ("b", tmp_path / "others", 1)):
        (tmp_path / folder / "ports.json").unlink()
        with serving.Server(models, tmp_path / folder, *shared) as again:
            assert len(endpoints(again)["m"]["arms"]) == arms
    assert state(tmp_path / "data", repository) != state(tmp_path / "data", tmp_path / "others")


def test_of_two_servers_of_a_repository_the_first_keeps_changes(repository, tmp_path):
    shared = ["--data-dir", str(tmp_path / "data")]
    with contextlib.ExitStack() as still:
        with serving.Server(repository, tmp_path / "a", *shared) as first:
            apply(first, tmp_path, split(10))
            second = still.enter_context(serving.Server(repository, tmp_path / "b", *shared))
            assert f"process {first.process.pid} serves the same repository" in second.log_text()
            assert revision(second) == 1, "it serves by the plans that are kept"
            assert "restart forgets" in apply(second, tmp_path, split(20))
            form = json.loads(run(second, "rollback", "m", "--output", "json").partition("warning")[0])
            assert form["kept"] is False and revision(second) == 1
            assert arm_over_rest(second, {"x-user": "a"})[0] in ("champion", "new")
            assert "restart forgets" not in apply(first, tmp_path, split(30), "--output", "json")
        assert "restart forgets" in apply(second, tmp_path, split(40)), "the first had kept another plan meanwhile"
    (tmp_path / "b" / "ports.json").unlink()
    with serving.Server(repository, tmp_path / "b", *shared) as again:
        assert [arm["share"] for arm in endpoints(again)["m"]["arms"]] == [700_000, 300_000]
        third = serving.Server(repository, tmp_path / "c", *shared)
    try:  # as instances that take turns on sockets: the next one keeps changes once the one before it has ended
        assert "restart forgets" not in apply(third, tmp_path, split(50))
    finally:
        assert third.stop() == 0


def test_a_data_folder_that_cannot_be_written_keeps_nothing(repository, tmp_path):
    (tmp_path / "data").write_text("")
    with serving.Server(repository, tmp_path / "server", "--data-dir", str(tmp_path / "data")) as server:
        assert "changes of them are not kept" in server.log_text()
        assert "restart forgets" in apply(server, tmp_path, split(10))
        assert revision(server) == 1


def test_a_challenger_that_is_gone_after_a_restart_is_answered_for(repository, tmp_path):
    with start(repository, tmp_path) as server:
        apply(server, tmp_path, split(100))
        assert arm_over_rest(server, {"x-user": "a"})[1] == 2
    shutil.rmtree(repository / "m" / "2")
    with start(repository, tmp_path) as server:
        assert arm_over_rest(server, {"x-user": "a"}) == ("champion", 1, 1.0)
        assert total(server, "tiltyard_requests_apart_total", reason="stand_in", arm="champion") == 1
        assert "m version 2 is not there" in server.log_text()
        assert "missing" in run(server, "endpoints")
        put(repository, "m", 2, times(2.0))
        serving.until(lambda: arm_over_rest(server, {"x-user": "a"})[1] == 2, "the challenger to come back", 20)


def test_unloading_a_model_of_a_plan_is_refused(repository, tmp_path):
    flags = ["--model-control", "explicit"]
    with start(repository, tmp_path, *flags) as server:
        apply(server, tmp_path, split(10))
        assert arm_over_rest(server)[1] == 1
        assert ("m", "3") not in server.index() or server.index()["m", "3"]["state"] != "READY"
        refused = server.post("/v2/repository/models/m/unload", {})
        assert refused.status == 400 and "in the plan of endpoint m" in refused.error()
        run(server, "endpoints", "remove", "m")
        assert server.post("/v2/repository/models/m/unload", {}).status == 200
        with pytest.raises(InferenceServerException):
            with contextlib.closing(tritonclient.http.InferenceServerClient(server.http_address)) as client:
                client.get_model_metadata("m")


# --- What is loaded, and what may take whose place -------------------------------------------------------------------


def is_loaded(server, version, model="m"):
    return server.index().get((model, str(version)), {}).get("state") == "READY"


def test_an_old_version_of_a_plan_makes_no_newer_one_fail_at_a_restart(tmp_path):
    """Version 1 is there for a plan alone: clients of m moved on to version 2, which takes other inputs."""
    root = tmp_path / "models"
    put(root, "m", 1, times(1.0))
    put(root, "m", 2, times(2.0, width=5))
    plan = toml(("champion", 1, 'model = "m"\nrole = "champion"'))
    for _ in range(2):
        with start(root, tmp_path, "--version-policy", "latest:1") as server:
            if revision(server, "old") is None:
                apply(server, tmp_path, plan, name="old")
            assert is_loaded(server, 2), server.index()
            assert arm_over_rest(server, model="old") == ("champion", 1, 1.0)


def test_under_explicit_control_versions_leave_that_no_plan_needs(repository, tmp_path):
    def champion(version, more=""):
        return toml(("champion", version, 'model = "m"\nrole = "champion"'), more=more)

    with start(repository, tmp_path, "--model-control", "explicit") as server:
        for version in (1, 2):
            apply(server, tmp_path, champion(version), name="e")
        assert is_loaded(server, 1) and is_loaded(server, 2), "the one before is warm"
        apply(server, tmp_path, champion(3), name="e")
        serving.until(lambda: not is_loaded(server, 1), "version 1 to leave")
        assert is_loaded(server, 2) and is_loaded(server, 3)
        assert "version 9 is not there" in apply(server, tmp_path, split(1, version=9), name="other", expected=1)
        serving.until(lambda: server.index()["other", "1"].get("reason") == "unloaded", "what a refused plan would have had")
        # A dry run says what apply then does.
        assert "to be loaded first: m version 1" in apply(server, tmp_path, champion(1), "--dry-run", name="e")
        apply(server, tmp_path, champion(1), name="e")
        assert arm_over_rest(server, model="e")[1] == 1
        # What a client asked for stays, whatever becomes of plans.
        assert server.post("/v2/repository/models/m/load", {}).status == 200
        for version in (2, 1):
            apply(server, tmp_path, champion(version, more='salt = "x"'), name="e")
        run(server, "endpoints", "remove", "e")
        assert is_loaded(server, 3) and is_loaded(server, 2) and arm_over_rest(server)[1] == 3


def test_new_bytes_under_a_digest_that_a_plan_wants_are_refused_and_said(server, repository, tmp_path):
    apply(server, tmp_path, toml(("champion", 3, 'role = "champion"')))
    digest = endpoints(server)["m"]["arms"][0]["digest"]
    pinned = toml(("champion", 3, f'role = "champion"\ndigest = "{digest}"'), more='salt = "x"')
    apply(server, tmp_path, pinned)
    shutil.rmtree(repository / "m" / "3")
    put(repository, "m", 3, times(30.0))
    serving.until(lambda: "pins by its digest are refused" in server.log_text(), "the new bytes to be refused")
    assert arm_over_rest(server) == ("champion", 3, 3.0), "the old ones go on"
    apply(server, tmp_path, toml(("champion", 3, 'role = "champion"'), more='salt = "x"'))
    serving.until(lambda: arm_over_rest(server) == ("champion", 3, 30.0), "the new bytes, as the plan without a digest wants")
    told = apply(server, tmp_path, pinned, expected=1)
    assert f"and the plan wants {digest}: put the files back that had it, or apply a plan" in told, told


def test_apply_tells_that_the_repository_cannot_be_read(server, repository, tmp_path):
    repository.rename(tmp_path / "away")
    repository.symlink_to(repository)
    begun = time.monotonic()
    told = apply(server, tmp_path, split(0), expected=1)
    assert "m version 1 is not there" in told and "the model repository" in told and "cannot be read" in told, told
    assert time.monotonic() - begun < 30 and arm_over_rest(server)[1] == 3
    repository.unlink()
    (tmp_path / "away").rename(repository)
    (repository / "other" / "2").symlink_to(repository / "other" / "2")
    told = apply(server, tmp_path, toml(("champion", 2, 'role = "champion"')), name="other", expected=1)
    assert "other version 2 is not there" in told and 'model "other" cannot be looked at' in told, told
    serving.until(lambda: "has a plan" in run_anyway(server, tmp_path), "the plan, once it can be read")


def run_anyway(server, tmp_path):
    command = [str(serving.BINARY), "apply", "-f", str(tmp_path / "m.toml"), "--ports-file", str(server.ports_file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


# --- Files and people ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True], ids=["on", "restarted"])
def test_a_file_that_waits_does_not_overrule_what_is_applied_meanwhile(repository, folder, tmp_path, restart):
    flags = ["--endpoints", str(folder), "--poll-interval", "100ms", "--settle-time", "100ms"]
    with contextlib.ExitStack() as still:
        server = still.enter_context(start(repository, tmp_path, *flags))
        apply(server, tmp_path, split(10))
        (folder / "m.toml").write_text(toml(("champion", 9, 'role = "champion"')))
        serving.until(lambda: "m version 9 is not there" in (endpoints(server)["m"]["trouble"] or ""), "the file to wait")
        if restart:
            still.close()
            server = still.enter_context(start(repository, tmp_path, *flags))
            serving.until(lambda: endpoints(server)["m"]["trouble"], "the file to wait again")
        apply(server, tmp_path, split(20))
        serving.until(lambda: not endpoints(server)["m"]["trouble"], "the file to be overruled")
        if restart:
            still.close()
            server = still.enter_context(start(repository, tmp_path, *flags))
        put(repository, "m", 9, times(9.0))
        serving.until(lambda: is_loaded(server, 9), "version 9")
        serving.stays(lambda: revision(server) == 2, "what was applied")
        (folder / "m.toml").write_text(toml(("champion", 9, 'role = "champion"'), more='salt = "new"'))
        serving.until(lambda: arm_over_rest(server)[1] == 9, "the file once it has changed")


def test_files_that_are_no_plans_are_told_by_the_command(repository, folder, tmp_path):
    flags = ["--endpoints", str(folder), "--poll-interval", "100ms", "--settle-time", "100ms"]
    (folder / "m.toml").write_text(split(0).replace("weight", "wieght"))
    with start(repository, tmp_path, *flags) as server:
        told = run(server, "endpoints")
        assert "m: the plan in its file does not hold" in told and "did you mean weight?" in told
        (folder / "m.toml").unlink()
        serving.until(lambda: "m" not in endpoints(server), "the trouble to go with the file")
        (folder / "m.toml").write_text(split(0))
        serving.until(lambda: revision(server) == 1, "the plan that can be read")
        (folder / "m.toml").write_text("key = ")
        serving.until(lambda: "m.toml" in (endpoints(server)["m"]["trouble"] or ""), "the file to be told")
        assert revision(server) == 1


def test_a_column_that_is_not_there_is_told_where_a_file_is_adopted(repository, folder, tmp_path):
    (folder / "m.toml").write_text(split(50, key='{ tensor_column = "customer" }'))
    with start(repository, tmp_path, "--endpoints", str(folder)) as server:
        assert 'no input or column "customer"' in run(server, "endpoints")
        assert "no request has a key" in server.log_text()


# --- Keys that are the same on every protocol ------------------------------------------------------------------------


def apart(server, reason):
    return total(server, "tiltyard_requests_apart_total", reason=reason, endpoint="m")


def test_a_request_is_counted_apart_once_however_it_is_read(server, tmp_path):
    apply(server, tmp_path, split(100))
    assert arm_over_grpc(server, parameters={"anything": "makes the quick way give up"})[0] == "champion"
    assert apart(server, "no_key") == 1


def test_an_empty_key_is_none_on_every_protocol(server, tmp_path):
    apply(server, tmp_path, split(100))
    assert arm_over_rest(server, {"x-user": ""})[0] == arm_over_grpc(server, [("x-user", "")])[0] == "champion"
    apply(server, tmp_path, split(100, key='{ json_path = "$.parameters.customer" }', more='salt = "x"'))
    body = {"inputs": QUESTION["inputs"], "parameters": {"customer": ""}}
    assert arm_over_rest(server, body=body)[0] == arm_over_grpc(server, parameters={"customer": ""})[0] == "champion"
    assert apart(server, "no_key") == 4
    assert "an empty key is none" in run(server, "rollout", "assign", "m", "--key", "", expected=2)


def test_the_id_is_the_key_on_every_protocol(tmp_path):
    models = serving.link_models(tmp_path / "models", serving.SAMPLES / "risk")
    with serving.Server(models, tmp_path / "server") as server:
        apply(server, tmp_path, split(50, key='{ json_path = "$.id" }'), name="risk")
        paths = server.get("/docs/models/risk/openapi.json").json()["paths"]
        example = {path: paths[f"{path}"]["post"]["requestBody"]["content"]["application/json"]["example"]
                   for path in ("/v1/models/risk/score", "/v2/models/risk/infer")}
        for key in "abcdef":
            expected = assign(server, key, endpoint="risk")["version"]
            for path, body in example.items():
                answer = server.post(path, body | {"id": key})
                assert answer.status == 200, answer
                assert (answer.headers["tiltyard-version"], answer.json()["id"]) == (expected, key)


@pytest.mark.parametrize("ask", [
    lambda server, key: arm_over_rest(server, body={"inputs": QUESTION["inputs"], "parameters": {"customer": key}}),
    lambda server, key: arm_over_grpc(server, parameters={"customer": key}),
], ids=["rest", "grpc"])
def test_challengers_answer_keys_in_the_body_while_the_champion_is_out(repository, tmp_path, ask):
    with start(repository, tmp_path) as server:
        apply(server, tmp_path, split(50, key='{ json_path = "$.parameters.customer" }'))
        new = next(key for key in "abcdefgh" if assign(server, key)["arm"] == "new")
        old = next(key for key in "abcdefgh" if assign(server, key)["arm"] == "champion")
    shutil.rmtree(repository / "m" / "1")
    with start(repository, tmp_path) as server:
        assert ask(server, new) == ("new", 2, 2.0)
        body = {"inputs": QUESTION["inputs"], "parameters": {"customer": old}}
        refused = server.post("/v2/models/m/infer", body)
        assert refused.status == 503 and "m version 1 is not there" in refused.error(), refused


# --- Pages in a browser ----------------------------------------------------------------------------------------------


def test_pages_of_others_change_nothing(server, tmp_path):
    apply(server, tmp_path, split(10))
    apply(server, tmp_path, split(20))
    here = f"127.0.0.1:{server.admin_port}"
    rollback = ("POST", "/admin/endpoints/m/rollback", b"{}")

    def ask(method, path, body, **headers):
        return server.ask(method, path, body, {name.capitalize(): value for name, value in headers.items()}, port=server.admin_port)

    for method, path, body in (rollback, ("DELETE", "/admin/endpoints/m", None), ("POST", "/admin/reload", b"")):
        for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example"}):
            refused = ask(method, path, body, **headers)
            assert refused.status == 403, (method, path, headers, refused)
            assert "admin port" in refused.error()
    assert ask("GET", "/admin/endpoints", None, host=f"evil.example:{server.admin_port}").status == 403
    assert revision(server) == 2, "nothing was changed"
    # What scrapers ask by whatever name is for everybody.
    assert ask("GET", "/metrics", None, host="tiltyard.monitoring").status == 200
    assert ask(*rollback, origin=f"http://{here}").status == 200
    assert revision(server) == 1


def test_the_admin_port_may_have_names(repository, tmp_path):
    with serving.Server(repository, tmp_path / "server", "--admin-names", "tiltyard.internal") as server:
        for host, status in (("tiltyard.internal:8002", 200), ("localhost:1", 200), ("other.internal", 403)):
            assert server.get("/admin/models", headers={"Host": host}, port=server.admin_port).status == status, host


def heavy(width=256, steps=300):
    """The bytes of a model whose runs take some milliseconds."""
    weights = onnx.numpy_helper.from_array(np.eye(width, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"x{step}" if step else "x", "w"], [f"x{step + 1}"]) for step in range(steps)]
    nodes.append(helper.make_node("ReduceSum", [f"x{steps}", "axis"], ["y"], keepdims=1))
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    graph = helper.make_graph(
        nodes, "heavy", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])], [weights, axis])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


@pytest.mark.parametrize("form", ["json", "raw"])
def test_a_full_queue_of_the_champion_is_no_reason_against_its_challengers(tmp_path, form):
    """With the key in the body, nobody knows whose request it is until that is read."""
    for version in (1, 2):
        put(tmp_path / "models", "m", version, heavy())
    flags = ["--threads", "2", "--queue-rows-max", "1", "--batch-rows-max", "1"]
    with serving.Server(tmp_path / "models", tmp_path / "server", *flags) as server:
        apply(server, tmp_path, split(50, key='{ json_path = "$.parameters.customer" }'))
        keys = {assign(server, key)["arm"]: key for key in "abcdefgh"}
        stop, kinds = threading.Event(), collections.Counter()

        def ask(arm):
            question = {"model": "m", "inputs": [asking.tensor("x", np.ones((1, 256), np.float32))]}
            return asking.FORMS[form](server, question | {"parameters": {"customer": keys[arm], "timeout": 60_000_000}}).kind

        def flood():
            while not stop.is_set():
                kinds[ask("champion")] += 1

        flooding = [threading.Thread(target=flood) for _ in range(6)]
        for thread in flooding:
            thread.start()
        try:
            serving.until(lambda: kinds["overloaded"] > 20, "the champion to be overloaded", 30)
            assert [ask("new") for _ in range(30)] == [None] * 30
        finally:
            stop.set()
            for thread in flooding:
                thread.join()
