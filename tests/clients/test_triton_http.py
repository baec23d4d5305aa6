"""Does the real Triton client get ONNX Runtime's answers over HTTP, in every form that it can ask?"""

import gzip
import json
import zlib

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

import reference
import serving

RISK = reference.case(serving.SAMPLES / "risk" / "2" / "golden" / "eight_rows.json")
DIGITS = reference.case(serving.SAMPLES / "digits" / "1" / "golden" / "four_images.json")
TWO = reference.case(serving.FIXTURES / "two_in_two_out" / "1" / "golden" / "two_rows.json")


def tensor(name, array, binary=True):
    made = triton.InferInput(name, list(array.shape), reference.DATATYPES[array.dtype])
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def tensors(inputs, binary=True):
    return [tensor(name, array, binary) for name, array in inputs.items()]


def asked(names, binary=True):
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def arrays(result):
    return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}


# --- Forms -------------------------------------------------------------------------------------------------------


def test_binary(http, case):
    result = http.infer(case.model, tensors(case.inputs), model_version=case.version)
    case.check(arrays(result))
    assert all("data" not in output for output in result.get_response()["outputs"])


def test_json(http, case):
    if any(array.dtype == ml_dtypes.bfloat16 for array in case.inputs.values()):
        pytest.skip("the client refuses to write BF16 as JSON; test_parity asks so")
    result = http.infer(
        case.model, tensors(case.inputs, binary=False), model_version=case.version,
        outputs=asked(case.expected, binary=False))
    case.check(arrays(result))
    assert all("data" in output for output in result.get_response()["outputs"])


@pytest.mark.parametrize("binary_first", [True, False])
def test_mixed(http, binary_first):
    inputs = [tensor("a", TWO.inputs["a"], binary_first), tensor("b", TWO.inputs["b"], not binary_first)]
    outputs = asked(["sum"], binary_first) + asked(["difference"], not binary_first)
    result = http.infer("two_in_two_out", inputs, outputs=outputs)
    TWO.check(arrays(result))
    assert ("data" in result.get_output("sum")) == (not binary_first)
    assert ("data" in result.get_output("difference")) == binary_first


def test_all_outputs_binary_unless_one_says_otherwise(server):
    body = {
        "inputs": [json_tensor(name, array) for name, array in TWO.inputs.items()],
        "outputs": [{"name": "sum"}, {"name": "difference", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    answer = server.post("/v2/models/two_in_two_out/infer", body)
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/octet-stream"
    result = triton.InferenceServerClient.parse_response_body(
        answer.body, header_length=int(answer.headers["inference-header-content-length"]))
    assert "data" not in result.get_output("sum") and "data" in result.get_output("difference")
    TWO.check(arrays(result))


def test_raw_body_is_the_single_input(server):
    image = reference.answer("digits", 1, {"image": DIGITS.inputs["image"][:1]})["scores"]
    answer = server.post(
        "/v2/models/digits/infer", DIGITS.inputs["image"][:1].tobytes(),
        {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"})
    assert answer.status == 200, answer
    result = triton.InferenceServerClient.parse_response_body(
        answer.body, header_length=int(answer.headers["inference-header-content-length"]))
    reference.same(result.as_numpy("scores"), image)


def test_json_answer_is_json(server):
    body = {"inputs": [json_tensor(name, array) for name, array in TWO.inputs.items()]}
    answer = server.post("/v2/models/two_in_two_out/infer", body)
    assert answer.status == 200 and answer.headers["content-type"].startswith("application/json")
    assert "inference-header-content-length" not in answer.headers
    TWO.check({item["name"]: reference.array_of(item) for item in answer.json()["outputs"]})


def test_nested_and_flat_data_are_the_same(server):
    for array in (TWO.inputs["a"].tolist(), TWO.inputs["a"].ravel().tolist()):
        body = {"inputs": [json_tensor("a", TWO.inputs["a"]) | {"data": array}, json_tensor("b", TWO.inputs["b"])]}
        answer = server.post("/v2/models/two_in_two_out/infer", body)
        assert answer.status == 200, answer
        TWO.check({item["name"]: reference.array_of(item) for item in answer.json()["outputs"]})


def test_data_before_its_type(server):
    item = json_tensor("features", RISK.inputs["features"])
    backwards = {key: item[key] for key in ("data", "shape", "datatype", "name")}
    answer = server.post("/v2/models/risk/infer", {"inputs": [backwards], "id": "backwards"})
    assert answer.status == 200, answer
    RISK.check({item["name"]: reference.array_of(item) for item in answer.json()["outputs"]})


def test_not_a_number_is_written_as_triton_writes_it(server):
    special = reference.case(serving.FIXTURES / "identity_fp32" / "1" / "golden" / "special.json")
    body = '{"inputs":[{"name":"input","datatype":"FP32","shape":[2,2],"data":[NaN,Infinity,-Infinity,-0.0]}]}'
    answer = server.post("/v2/models/identity_fp32/infer", body.encode())
    assert answer.status == 200, answer
    text = answer.body.decode()
    assert "NaN" in text and "-Infinity" in text
    special.check({item["name"]: reference.array_of(item) for item in answer.json()["outputs"]})


def test_null_is_not_a_number(server):
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [None, 1]}]}
    answer = server.post("/v2/models/identity_fp32/infer", body)
    assert answer.status == 200, answer
    reference.same(np.array(answer.json()["outputs"][0]["data"], np.float32), np.array([np.nan, 1], np.float32), 0, 0)


def json_tensor(name, array):
    return {
        "name": name, "datatype": reference.DATATYPES[array.dtype], "shape": list(array.shape),
        "data": array.ravel().tolist()}


# --- What is asked for, and what comes back beside it ------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
def test_requested_outputs_only(http, binary):
    result = http.infer("two_in_two_out", tensors(TWO.inputs), outputs=asked(["difference"], binary))
    assert [output["name"] for output in result.get_response()["outputs"]] == ["difference"]
    reference.same(result.as_numpy("difference"), TWO.expected["difference"])


def test_outputs_in_the_order_asked(http):
    result = http.infer("two_in_two_out", tensors(TWO.inputs), outputs=asked(["difference", "sum"]))
    assert [output["name"] for output in result.get_response()["outputs"]] == ["difference", "sum"]
    TWO.check(arrays(result))


@pytest.mark.parametrize("identity", ["a", "größe 1/2", "x" * 300])
def test_request_id_comes_back(http, identity):
    result = http.infer("two_in_two_out", tensors(TWO.inputs), request_id=identity)
    assert result.get_response()["id"] == identity


def test_retry_with_the_same_id(http):
    for _ in range(2):
        result = http.infer("two_in_two_out", tensors(TWO.inputs), request_id="once more")
        TWO.check(arrays(result))


def test_parameters_are_taken(http):
    result = http.infer(
        "two_in_two_out", tensors(TWO.inputs), priority=1, timeout=10_000_000,
        parameters={"colour": "blue", "weight": 0.5, "count": 3, "flag": True})
    TWO.check(arrays(result))


def test_names_of_the_answer(http):
    response = http.infer("risk", tensors(RISK.inputs)).get_response()
    assert (response["model_name"], response["model_version"]) == ("risk", "2")


@pytest.mark.parametrize("version, served", [("", "2"), ("1", "1"), ("2", "2")])
def test_versions(http, version, served):
    result = http.infer("risk", tensors(RISK.inputs), model_version=version)
    assert result.get_response()["model_version"] == served
    expected = reference.answer("risk", served, RISK.inputs)
    for name, array in arrays(result).items():
        reference.same(array, expected[name])


def test_headers_name_who_answered(server):
    body = {"inputs": [json_tensor("features", RISK.inputs["features"])]}
    newest = server.post("/v2/models/risk/infer", body).headers
    assert (newest["tiltyard-endpoint"], newest["tiltyard-model"], newest["tiltyard-version"]) == ("risk", "risk", "2")
    assert newest["tiltyard-arm"] and newest["tiltyard-digest"] and newest["tiltyard-prediction-id"]
    pinned = server.post("/v2/models/risk/versions/1/infer", body).headers
    assert pinned["tiltyard-version"] == "1"
    assert pinned["tiltyard-digest"] != newest["tiltyard-digest"]
    assert pinned["tiltyard-prediction-id"] != newest["tiltyard-prediction-id"]


# --- Asking at the same time -------------------------------------------------------------------------------------


def test_async(http):
    shifts = [np.float32(number) for number in range(50)]
    waiting = [
        http.async_infer("two_in_two_out", tensors({"a": TWO.inputs["a"] + shift, "b": TWO.inputs["b"]}),
                         request_id=str(int(shift)))
        for shift in shifts]
    for shift, handle in zip(shifts, waiting):
        result = handle.get_result(timeout=serving.ANSWER_SECONDS_MAX)
        assert result.get_response()["id"] == str(int(shift))
        reference.same(result.as_numpy("sum"), TWO.inputs["a"] + shift + TWO.inputs["b"])


def test_rows_of_neighbours_do_not_mix(http):
    """`normalise_axis0` answers by the mean over a request's rows: a stranger's row would change the answer."""
    requests = [np.arange(6, dtype=np.float32).reshape(2, 3) * number for number in range(40)]
    waiting = [http.async_infer("normalise_axis0", [tensor("x", x)]) for x in requests]
    for x, handle in zip(requests, waiting):
        reference.same(handle.get_result(timeout=serving.ANSWER_SECONDS_MAX).as_numpy("y"), x - x.mean(axis=0))


# --- Classification ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
def test_classification_with_labels(http, binary):
    output = triton.InferRequestedOutput("scores", binary_data=binary, class_count=3)
    got = http.infer("digits", tensors(DIGITS.inputs), outputs=[output]).as_numpy("scores")
    check_classes(got, DIGITS.expected["scores"], 3, [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


def test_classification_without_labels(http):
    output = triton.InferRequestedOutput("difference", class_count=2)
    got = http.infer("two_in_two_out", tensors(TWO.inputs), outputs=[output]).as_numpy("difference")
    check_classes(got, TWO.expected["difference"], 2, None)


def check_classes(got, scores, count, labels):
    assert got.shape == (len(scores), count)
    for classes, row in zip(got, scores):
        best = np.argsort(-row, kind="stable")[:count]
        for item, index in zip(classes, best):
            value, found, *label = (item.decode() if isinstance(item, bytes) else item).split(":")
            assert int(found) == index
            assert float(value) == pytest.approx(float(row[index]), rel=1e-4, abs=1e-5)
            assert label == ([labels[index]] if labels else [])


# --- Compression -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_both_ways(http, coding, binary):
    x = np.zeros((4, 5000), np.float32)
    result = http.infer(
        "identity_fp32", [tensor("input", x, binary)], outputs=asked(["output"], binary),
        request_compression_algorithm=coding, response_compression_algorithm=coding)
    reference.same(result.as_numpy("output"), x)


@pytest.mark.parametrize("coding, unpack", [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_answer_is_compressed_when_asked(server, coding, unpack):
    body = {"inputs": [json_tensor("input", np.ones((1, 5000), np.float32))]}
    answer = server.post("/v2/models/identity_fp32/infer", body, {"Accept-Encoding": coding})
    assert answer.status == 200 and answer.headers["content-encoding"] == coding
    assert len(answer.body) < 5000
    assert json.loads(unpack(answer.body))["outputs"][0]["shape"] == [1, 5000]


def test_answer_is_plain_when_not_asked(server):
    body = {"inputs": [json_tensor("input", np.ones((1, 5000), np.float32))]}
    assert "content-encoding" not in server.post("/v2/models/identity_fp32/infer", body).headers


# --- Data types at their edges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_nul_inside_bytes(http, binary_in, binary_out):
    texts = np.array([[b"a\0b", b"\0"], [b"", "世界\0🌍".encode()]], object)
    result = http.infer(
        "identity_bytes", [tensor("input", texts, binary_in)], outputs=asked(["output"], binary_out))
    reference.same(result.as_numpy("output"), texts)


@pytest.mark.parametrize("datatype", [name for name in reference.NUMPY if name != "BYTES"])
def test_raw_bits_come_back(http, datatype):
    """Every bit pattern of the floats, subnormals and payloads of not-a-number too; no integer is rounded."""
    kind = np.dtype(reference.NUMPY[datatype])
    bits = np.random.default_rng(7).integers(0, 256, 64 * kind.itemsize, np.uint8)
    if datatype == "BOOL":
        bits &= 1
    x = bits.view(kind).reshape(4, 16)
    result = http.infer(f"identity_{datatype.lower()}", [tensor("input", x)])
    got = result.as_numpy("output")
    assert got.dtype == kind and got.tobytes() == x.tobytes()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BYTES"])
def test_no_elements(http, datatype, binary, shape):
    x = np.empty(shape, reference.NUMPY[datatype])
    result = http.infer(
        f"identity_{datatype.lower()}", [tensor("input", x, binary)], outputs=asked(["output"], binary))
    assert result.get_output("output")["shape"] == list(shape)
    assert result.as_numpy("output").size == 0


# --- What the server says of itself ------------------------------------------------------------------------------


def test_server_metadata(http):
    said = http.get_server_metadata()
    assert said["name"] and said["version"]
    assert {"binary_tensor_data", "classification", "model_repository", "model_configuration", "statistics",
            "parameters"} <= set(said["extensions"])
    assert http.is_server_live() and http.is_server_ready()


def test_model_metadata(http):
    said = http.get_model_metadata("risk")
    assert (said["name"], said["versions"]) == ("risk", ["1", "2"])
    assert said["platform"]
    assert said["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 30]}]
    assert said["outputs"] == [
        {"name": "probability", "datatype": "FP32", "shape": [-1]},
        {"name": "label", "datatype": "INT64", "shape": [-1]}]


def test_metadata_of_every_golden_model(http, case):
    said = http.get_model_metadata(case.model, case.version)
    shapes = {item["name"]: (item["datatype"], item["shape"]) for item in said["inputs"]}
    for name, array in case.inputs.items():
        datatype, shape = shapes[name]
        assert datatype == reference.DATATYPES[array.dtype]
        assert len(shape) == array.ndim
        assert all(wanted in (-1, given) for wanted, given in zip(shape, array.shape)), (name, shape)


def test_model_ready(http):
    assert http.is_model_ready("risk") and http.is_model_ready("risk", "1")
    assert not http.is_model_ready("risk", "99")
    assert not http.is_model_ready("nobody")


def test_config_of_a_batchable_model_has_no_batch_axis(http):
    config = http.get_model_config("risk")
    assert config["name"] == "risk" and config["max_batch_size"] > 0
    assert [(item["name"], item["data_type"], item["dims"]) for item in config["input"]] == [
        ("features", "TYPE_FP32", [30])]
    assert {item["name"]: item["data_type"] for item in config["output"]} == {
        "probability": "TYPE_FP32", "label": "TYPE_INT64"}
    assert http.get_model_config("digits")["input"][0]["dims"] == [1, 8, 8]


@pytest.mark.parametrize("model, dims", [("fixed_batch", [1, 4]), ("normalise_axis0", [-1, 3])])
def test_config_of_a_model_that_cannot_be_batched(http, model, dims):
    config = http.get_model_config(model)
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == dims


def test_statistics_move(http):
    def stats():
        found = http.get_inference_statistics("digits", "1")["model_stats"]
        assert len(found) == 1 and (found[0]["name"], found[0]["version"]) == ("digits", "1")
        return found[0]

    before = stats()
    http.infer("digits", tensors(DIGITS.inputs), model_version="1")
    serving.until(lambda: stats()["inference_count"] == before["inference_count"] + 4, "the count of rows")
    after = stats()
    assert after["execution_count"] == before["execution_count"] + 1
    for name in ("success", "queue", "compute_infer"):
        assert after["inference_stats"][name]["count"] > before["inference_stats"][name]["count"], name
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert after["last_inference"] >= before["last_inference"] and after["last_inference"] > 1_600_000_000_000


def test_statistics_of_all(http):
    found = {(item["name"], item["version"]) for item in http.get_inference_statistics()["model_stats"]}
    assert {("risk", "1"), ("risk", "2"), ("digits", "1")} <= found


def test_index(http):
    index = {(item["name"], item["version"]): item for item in http.get_model_repository_index()}
    assert index["risk", "1"]["state"] == index["risk", "2"]["state"] == "READY"
    assert len(index) == sum(1 for root in (serving.SAMPLES, serving.FIXTURES) for _ in root.glob("*/[0-9]*"))
    assert {item["state"] for item in index.values()} == {"READY"}


def test_log_and_trace_settings(http):
    assert "log_info" in http.get_log_settings()
    assert http.get_trace_settings()["trace_level"] in (["OFF"], "OFF")


def test_shared_memory_is_not_enabled(http):
    with pytest.raises(InferenceServerException, match="(?i)not enabled"):
        http.register_system_shared_memory("region", "/key", 64)
    with pytest.raises(InferenceServerException, match="(?i)not enabled"):
        http.register_cuda_shared_memory("region", b"handle", 0, 64)
    memory = triton.InferInput("input", [1, 1], "FP32")
    memory.set_shared_memory("region", 4)
    with pytest.raises(InferenceServerException, match="(?i)shared memory"):
        http.infer("identity_fp32", [memory])


# --- Time --------------------------------------------------------------------------------------------------------


def test_client_that_hangs_up_harms_nobody(server, still_serves):
    impatient = triton.InferenceServerClient(server.http_address, network_timeout=0.05)
    with pytest.raises(Exception):
        impatient.infer("slow", [tensor("x", np.ones((1, 4), np.float32))])
    impatient.close()


def test_a_request_over_its_time_is_answered_so(tmp_path):
    """A server that gives every request 50 ms must say so of a model that takes longer."""
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "slow")
    with serving.Server(models, tmp_path, "--request-timeout", "50ms") as hasty:
        x = np.ones((1, 4), np.float32)
        answer = hasty.post("/v2/models/slow/infer", {"inputs": [json_tensor("x", x)]})
        assert answer.status == 504, answer
        assert answer.error()
        assert hasty.get("/v2/health/ready").status == 200
