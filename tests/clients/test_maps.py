"""Is the map of a classifier served as a matrix of scores with its classes, over each protocol?"""

import shutil

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

import serving

MODEL = "sequence_output"
ROWS = np.array([[2, 0], [0, 2], [-3, -3]], np.float32)


@pytest.fixture(scope="module")
def scores():
    """What softmax makes of x·(1, 0, −1; 0, 1, −1) + (0, 0.1, 0.2)."""
    raw = ROWS @ np.array([[1, 0, -1], [0, 1, -1]], np.float32) + np.array([0, 0.1, 0.2], np.float32)
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def ask(client, module, class_count=0):
    tensor = module.InferInput("x", ROWS.shape, "FP32")
    tensor.set_data_from_numpy(ROWS)
    wanted = [module.InferRequestedOutput("probabilities", class_count=class_count)]
    return client.infer(MODEL, [tensor], outputs=wanted).as_numpy("probabilities")


def test_inference_answers_with_a_matrix(http, grpc, scores):
    for client, module in ((http, tritonclient.http), (grpc, tritonclient.grpc)):
        answer = ask(client, module)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, scores, rtol=1e-6)


def test_metadata_tell_the_classes(server):
    metadata = server.get(f"/v2/models/{MODEL}").json()
    assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]} in metadata["outputs"]
    assert metadata["properties"]["classes.probabilities"] == "0, 1, 2"


def test_classification_names_the_classes(http):
    best = ask(http, tritonclient.http, class_count=1)
    assert [text.decode().rsplit(":", 1)[-1] for text in best.ravel()] == ["0", "1", "2"]


def test_labels_of_the_owner_stand_before_those_of_the_file(tmp_path):
    folder = tmp_path / "models" / MODEL
    shutil.copytree(serving.FIXTURES / MODEL, folder)
    (folder / "model.toml").write_text('[outputs.probabilities]\nlabels = ["a", "b", "c"]\n')
    with serving.Server(tmp_path / "models", tmp_path) as server:
        client = tritonclient.http.InferenceServerClient(server.http_address)
        best = ask(client, tritonclient.http, class_count=1)
        assert [text.decode().rsplit(":", 1)[-1] for text in best.ravel()] == ["a", "b", "c"]
