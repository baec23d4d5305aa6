"""Which servers do the tests share? One with every model for the whole session; a test that needs another starts it."""

import pytest
import tritonclient.grpc
import tritonclient.http

import reference
import serving


def pytest_configure(config):
    assert serving.BINARY.exists(), f"there is no {serving.BINARY}: run `cargo build --release`, or set TILTYARD_BIN"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server with the sample models and all fixtures, ended with SIGTERM and exit code 0."""
    folder = tmp_path_factory.mktemp("server")
    models = serving.link_models(folder / "models", serving.SAMPLES, serving.FIXTURES)
    with serving.Server(models, folder, "--poll-interval", "1h") as made:
        yield made


@pytest.fixture(scope="session")
def small_server(tmp_path_factory):
    """A server with tight limits, so that going over them takes neither long nor much memory."""
    folder = tmp_path_factory.mktemp("small")
    models = serving.link_models(
        folder / "models", serving.FIXTURES / "identity_fp32", serving.FIXTURES / "identity_bytes",
        serving.FIXTURES / "two_in_two_out")
    flags = ["--header-timeout", "1s", "--idle-timeout", "1s", "--body-bytes-max", "1MiB", "--triton-metrics"]
    with serving.Server(models, folder, *flags) as made:
        yield made


@pytest.fixture(scope="session")
def http(server):
    client = tritonclient.http.InferenceServerClient(server.http_address, concurrency=4)
    yield client
    client.close()


@pytest.fixture(scope="session")
def grpc(server):
    client = tritonclient.grpc.InferenceServerClient(server.grpc_address)
    yield client
    client.close()


def case_name(file):
    return f"{file.parents[2].name}-{file.parents[1].name}-{file.stem}"


@pytest.fixture(params=reference.golden_files(), ids=case_name)
def case(request):
    return reference.case(request.param)


@pytest.fixture
def still_serves(server):
    """After the test, the server must answer a good request as before."""
    yield
    good = reference.case(serving.FIXTURES / "two_in_two_out" / "1" / "golden" / "two_rows.json")
    body = {"inputs": [
        {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in good.inputs.items()]}
    answer = server.post("/v2/models/two_in_two_out/infer", body)
    assert answer.status == 200, answer
    good.check({item["name"]: reference.array_of(item) for item in answer.json()["outputs"]})


