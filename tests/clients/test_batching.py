"""What may an owner say about batching, what may a client ask of it, and do answers stay what they are alone?"""

import concurrent.futures
import shutil

import numpy as np
import pytest

import asking
import reference
import serving

RISK = {"model": "risk", "version": "2", "inputs": [{
    "name": "features", "datatype": "FP32", "shape": [1, 30], "data": [1.0] * 30}]}


@pytest.mark.parametrize("form", asking.FORMS)
@pytest.mark.parametrize("priority", [0, 1, 7, 2**40])
def test_a_priority_is_an_integer(server, form, priority):
    reply = asking.FORMS[form](server, RISK | {"parameters": {"priority": priority}})
    assert reply.kind is None, reply


@pytest.mark.parametrize("form", asking.FORMS)
@pytest.mark.parametrize("priority", [-1, "high", True])
def test_another_priority_is_told(server, form, priority):
    reply = asking.FORMS[form](server, RISK | {"parameters": {"priority": priority}})
    assert reply.kind == "invalid" and "\"priority\": expected an integer from 0" in reply.message, reply


def models_told(server):
    return {(item["name"], item["version"]): item for item in server.get("/admin/models", port=server.admin_port).json()}


def test_padding_is_told_with_what_the_probes_found(server):
    told = models_told(server)
    assert told["language", "1"]["padding"] == told["masked_mean", "1"]["padding"] == "on"
    assert told["plain_mean", "1"]["padding"] == "refuted" and told["risk", "2"]["padding"] == "off"
    assert "differs when it is filled up" in told["plain_mean", "1"]["padding_reason"]
    log = server.log_text()
    assert "requests of different lengths are not batched" in log and "plain_mean" in log


@pytest.mark.parametrize("form", ["json", "raw"])
def test_a_request_larger_than_any_batch_is_answered_as_one(server, form):
    rows = np.linspace(0, 30, 1000 * 30, dtype=np.float32).reshape(1000, 30)
    assert models_told(server)["risk", "2"]["batch_rows_max"] < len(rows)
    question = {"model": "risk", "version": "2", "inputs": [asking.tensor("features", rows)]}
    reply = asking.FORMS[form](server, question)
    for name, expected in reference.answer("risk", "2", {"features": rows}).items():
        reference.same(reply.outputs[name], expected)


def test_texts_of_different_lengths_are_answered_as_each_alone(server):
    texts = [("Wie geht es dir heute? " * 3)[: 1 + 5 * n % 60] for n in range(60)]
    tokens = [np.array([[byte + 1 for byte in text.encode()]], np.int64) for text in texts]
    questions = [{"model": "language", "inputs": [asking.tensor("tokens", array)]} for array in tokens]
    with concurrent.futures.ThreadPoolExecutor(8) as many:
        replies = list(many.map(lambda question: asking.ask_raw(server, question), questions))
    for array, reply in zip(tokens, replies):
        reference.same(reply.outputs["scores"], reference.answer("language", "1", {"tokens": array})["scores"])


def test_requests_with_other_weights_are_answered_by_their_own(server):
    inputs = [
        {"x": np.array([[n, 1, 2]], np.float32), "weights": np.array([1, n % 3, -1], np.float32)} for n in range(60)]
    questions = [
        {"model": "weighted", "inputs": [asking.tensor(*item) for item in each.items()]} for each in inputs]
    with concurrent.futures.ThreadPoolExecutor(8) as many:
        replies = list(many.map(lambda question: asking.ask_raw(server, question), questions))
    for each, reply in zip(inputs, replies):
        reference.same(reply.outputs["y"], reference.answer("weighted", "1", each)["y"])


def test_a_model_with_an_input_that_all_rows_share_has_no_batch_axis_for_tritons_clients(http):
    config = http.get_model_config("weighted")
    assert config["max_batch_size"] == 0 and "dynamic_batching" not in config
    assert [item["dims"] for item in config["input"]] == [[-1, 3], [3]]


@pytest.fixture
def configured(tmp_path):
    """A server with one model, and the text of the settings file that it is given."""
    def start(file, text):
        shutil.copytree(serving.FIXTURES / "two_in_two_out", tmp_path / "models" / "m")
        (tmp_path / "models" / "m" / file).write_text(text)
        return serving.Server(tmp_path / "models", tmp_path / "server")
    return start


def test_tritons_batching_is_reported_as_it_acts(configured):
    text = """
        max_batch_size: 16
        dynamic_batching {
          preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 500 preserve_ordering: true
          priority_levels: 3 default_priority_level: 2
          default_queue_policy { default_timeout_microseconds: 900000 max_queue_size: 64 }
          priority_queue_policy { key: 1 value { max_queue_size: 4 } }
        }"""
    with configured("config.pbtxt", text) as server:
        config = server.get("/v2/models/m/config").json()
        assert config["max_batch_size"] == 16
        assert config["dynamic_batching"] == {
            "preferred_batch_size": [4, 8], "max_queue_delay_microseconds": 500, "priority_levels": 3,
            "default_priority_level": 2}
        log = server.log_text()
        assert "dynamic_batching.preserve_ordering" in log and "priority_queue_policy" not in log


def test_sizes_that_a_run_may_have_change_no_answer(configured):
    with configured("model.toml", "[batching]\nsizes = [4, 8]\n") as server:
        a, b = np.ones((3, 4), np.float32), np.arange(12, dtype=np.float32).reshape(3, 4)
        reply = asking.ask_raw(server, {"model": "m", "inputs": [asking.tensor("a", a), asking.tensor("b", b)]})
        reference.same(reply.outputs["sum"], a + b)
        assert models_told(server)["m", "1"]["batch_rows_max"] == 8


def test_a_mistake_in_the_settings_is_told(configured):
    with configured("model.toml", "[batching.pad]\naxis = \"sequence\"\n") as server:
        reason = server.index()["m", "1"]["reason"]
        assert "batching.pad: no input has an axis \"sequence\"" in reason
