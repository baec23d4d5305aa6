"""Does the real Triton client get ONNX Runtime's answers over gRPC: unary, asynchronous and streamed?"""

import queue

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

import asking
import reference
import serving

RISK = reference.case(serving.SAMPLES / "risk" / "2" / "golden" / "eight_rows.json")
DIGITS = reference.case(serving.SAMPLES / "digits" / "1" / "golden" / "four_images.json")
TWO = reference.case(serving.FIXTURES / "two_in_two_out" / "1" / "golden" / "two_rows.json")


def tensors(inputs):
    made = []
    for name, array in inputs.items():
        item = triton.InferInput(name, list(array.shape), reference.DATATYPES[array.dtype])
        item.set_data_from_numpy(array)
        made.append(item)
    return made


def arrays(result):
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


# --- Answers -----------------------------------------------------------------------------------------------------


def test_unary(grpc, case):
    result = grpc.infer(case.model, tensors(case.inputs), model_version=case.version)
    case.check(arrays(result))
    response = result.get_response()
    assert (response.model_name, response.model_version) == (case.model, case.version)
    assert len(response.raw_output_contents) == len(response.outputs)


def test_requested_outputs_only(grpc):
    result = grpc.infer("two_in_two_out", tensors(TWO.inputs), outputs=[triton.InferRequestedOutput("difference")])
    assert list(arrays(result)) == ["difference"]
    reference.same(result.as_numpy("difference"), TWO.expected["difference"])


@pytest.mark.parametrize("identity", ["", "a", "größe 1/2", "x" * 300])
def test_request_id_comes_back(grpc, identity):
    result = grpc.infer("two_in_two_out", tensors(TWO.inputs), request_id=identity)
    assert result.get_response().id == identity


def test_parameters_are_taken(grpc):
    result = grpc.infer(
        "two_in_two_out", tensors(TWO.inputs), priority=1, timeout=10_000_000,
        parameters={"colour": "blue", "count": 3, "flag": True})
    TWO.check(arrays(result))


@pytest.mark.parametrize("version, served", [("", "2"), ("1", "1"), ("2", "2")])
def test_versions(grpc, version, served):
    result = grpc.infer("risk", tensors(RISK.inputs), model_version=version)
    assert result.get_response().model_version == served
    expected = reference.answer("risk", served, RISK.inputs)
    for name, array in arrays(result).items():
        reference.same(array, expected[name])


def test_metadata_names_who_answered(server):
    request = asking.raw({"model": "risk", "inputs": [asking.tensor("features", RISK.inputs["features"])]})
    _, call = server.stub.ModelInfer.with_call(request, timeout=serving.ANSWER_SECONDS_MAX)
    said = dict(call.initial_metadata()) | dict(call.trailing_metadata())
    assert (said["tiltyard-endpoint"], said["tiltyard-model"], said["tiltyard-version"]) == ("risk", "risk", "2")
    assert said["tiltyard-arm"] and said["tiltyard-prediction-id"]
    body = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [8, 30],
                        "data": RISK.inputs["features"].ravel().tolist()}]}
    assert said["tiltyard-digest"] == server.post("/v2/models/risk/infer", body).headers["tiltyard-digest"]


def test_nul_inside_bytes(grpc):
    texts = np.array([[b"a\0b", b"\0"], [b"", "世界\0🌍".encode()]], object)
    reference.same(grpc.infer("identity_bytes", tensors({"input": texts})).as_numpy("output"), texts)


@pytest.mark.parametrize("datatype", [name for name in reference.NUMPY if name != "BYTES"])
def test_raw_bits_come_back(grpc, datatype):
    kind = np.dtype(reference.NUMPY[datatype])
    bits = np.random.default_rng(7).integers(0, 256, 64 * kind.itemsize, np.uint8)
    if datatype == "BOOL":
        bits &= 1
    x = bits.view(kind).reshape(4, 16)
    got = grpc.infer(f"identity_{datatype.lower()}", tensors({"input": x})).as_numpy("output")
    assert got.dtype == kind and got.tobytes() == x.tobytes()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BYTES"])
def test_no_elements(server, datatype, shape):
    """Asked without Triton's class for results, which cannot read an empty answer of text."""
    empty = asking.tensor("input", np.empty(shape, reference.NUMPY[datatype]))
    request = asking.raw({"model": f"identity_{datatype.lower()}", "inputs": [empty]})
    response = server.stub.ModelInfer(request, timeout=serving.ANSWER_SECONDS_MAX)
    assert list(response.outputs[0].shape) == list(shape)
    assert list(response.raw_output_contents) == [b""]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed(grpc, coding):
    x = np.zeros((4, 5000), np.float32)
    result = grpc.infer("identity_fp32", tensors({"input": x}), compression_algorithm=coding)
    reference.same(result.as_numpy("output"), x)


def test_classification(grpc):
    output = triton.InferRequestedOutput("scores", class_count=2)
    got = grpc.infer("digits", tensors(DIGITS.inputs), outputs=[output]).as_numpy("scores")
    assert got.shape == (4, 2)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for classes, row in zip(got, DIGITS.expected["scores"]):
        for item, index in zip(classes, np.argsort(-row)[:2]):
            value, found, label = item.decode().split(":")
            assert (int(found), label) == (index, names[index])
            assert float(value) == pytest.approx(float(row[index]), rel=1e-4, abs=1e-5)


# --- At the same time, and in streams ----------------------------------------------------------------------------


def test_async(grpc):
    answers = queue.Queue()
    for number in range(50):
        grpc.async_infer(
            "two_in_two_out", tensors({"a": TWO.inputs["a"] + np.float32(number), "b": TWO.inputs["b"]}),
            callback=lambda result, error: answers.put((result, error)), request_id=str(number))
    seen = set()
    for _ in range(50):
        result, error = answers.get(timeout=serving.ANSWER_SECONDS_MAX)
        assert error is None, error
        number = int(result.get_response().id)
        seen.add(number)
        reference.same(result.as_numpy("sum"), TWO.inputs["a"] + np.float32(number) + TWO.inputs["b"])
    assert len(seen) == 50


@pytest.fixture
def stream(server):
    """A client of its own with an open stream, and the queue of what comes back."""
    client, answers = triton.InferenceServerClient(server.grpc_address), queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    yield client, answers
    client.stop_stream()
    client.close()


def test_stream(stream):
    client, answers = stream
    for number in range(30):
        client.async_stream_infer(
            "two_in_two_out", tensors({"a": TWO.inputs["a"] + np.float32(number), "b": TWO.inputs["b"]}),
            request_id=str(number))
    seen = []
    for _ in range(30):
        result, error = answers.get(timeout=serving.ANSWER_SECONDS_MAX)
        assert error is None, error
        number = int(result.get_response().id)
        seen.append(number)
        reference.same(result.as_numpy("sum"), TWO.inputs["a"] + np.float32(number) + TWO.inputs["b"])
    assert sorted(seen) == list(range(30))


def test_a_mistake_does_not_end_the_stream(stream):
    client, answers = stream
    client.async_stream_infer("nobody", tensors(TWO.inputs), request_id="bad")
    result, error = answers.get(timeout=serving.ANSWER_SECONDS_MAX)
    assert result is None and "nobody" in str(error)
    client.async_stream_infer("two_in_two_out", tensors(TWO.inputs), request_id="good")
    result, error = answers.get(timeout=serving.ANSWER_SECONDS_MAX)
    assert error is None, error
    TWO.check(arrays(result))


def test_stream_over_several_models(stream):
    client, answers = stream
    client.async_stream_infer("risk", tensors(RISK.inputs), request_id="risk")
    client.async_stream_infer("digits", tensors(DIGITS.inputs), request_id="digits")
    for _ in range(2):
        result, error = answers.get(timeout=serving.ANSWER_SECONDS_MAX)
        assert error is None, error
        {"risk": RISK, "digits": DIGITS}[result.get_response().id].check(arrays(result))


def test_empty_final_response_when_asked(stream):
    client, answers = stream
    client.async_stream_infer(
        "two_in_two_out", tensors(TWO.inputs), request_id="1", enable_empty_final_response=True)
    result, error = answers.get(timeout=serving.ANSWER_SECONDS_MAX)
    assert error is None, error
    TWO.check(arrays(result))
    assert result.get_response().parameters["triton_final_response"].bool_param


# --- What the server says of itself ------------------------------------------------------------------------------


def test_same_as_over_http(grpc, http):
    over_grpc, over_http = grpc.get_server_metadata(as_json=True), http.get_server_metadata()
    assert over_grpc == over_http
    for model in ("risk", "language", "nms", "scalar"):
        said = grpc.get_model_metadata(model)
        told = http.get_model_metadata(model)
        assert (said.name, list(said.versions), said.platform) == (told["name"], told["versions"], told["platform"])
        for mine, theirs in [(said.inputs, told["inputs"]), (said.outputs, told["outputs"])]:
            assert [(item.name, item.datatype, list(item.shape)) for item in mine] == [
                (item["name"], item["datatype"], item["shape"]) for item in theirs]
        config, told = grpc.get_model_config(model).config, http.get_model_config(model)
        assert (config.name, config.max_batch_size) == (told["name"], told["max_batch_size"])
        assert [list(item.dims) for item in config.input] == [item["dims"] for item in told["input"]]


def test_ready(grpc):
    assert grpc.is_server_live() and grpc.is_server_ready()
    assert grpc.is_model_ready("risk") and grpc.is_model_ready("risk", "1")
    assert not grpc.is_model_ready("risk", "99")
    assert not grpc.is_model_ready("nobody")


def test_index(grpc, http):
    mine = {(item.name, item.version, item.state) for item in grpc.get_model_repository_index().models}
    assert mine == {(item["name"], item["version"], item["state"]) for item in http.get_model_repository_index()}


def test_statistics_move(grpc):
    def stats():
        return grpc.get_inference_statistics("two_in_two_out", "1").model_stats[0]

    before = stats()
    grpc.infer("two_in_two_out", tensors(TWO.inputs), model_version="1")
    serving.until(lambda: stats().inference_count == before.inference_count + 2, "the count of rows")
    after = stats()
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns


def test_settings(grpc):
    assert "log_info" in grpc.get_log_settings(as_json=True)["settings"]
    assert grpc.get_trace_settings(as_json=True)["settings"]["trace_level"]["value"] == ["OFF"]


def test_shared_memory_is_not_enabled(grpc):
    with pytest.raises(InferenceServerException, match="(?i)not enabled"):
        grpc.register_system_shared_memory("region", "/key", 64)
    with pytest.raises(InferenceServerException, match="(?i)not enabled"):
        grpc.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 64)


def test_client_timeout(grpc, still_serves):
    x = np.ones((1, 4), np.float32)
    with pytest.raises(InferenceServerException, match="(?i)deadline"):
        grpc.infer("slow", tensors({"x": x}), client_timeout=0.05)
    reference.same(grpc.infer("slow", tensors({"x": x}), client_timeout=60).as_numpy("y"), x)
