"""Does a server that wants signatures serve what was signed, and nothing else? Signed by the package model-signing, some time ago."""

import json
import shutil

import pytest

import serving
from securing import command

MADE = serving.ROOT / "registry" / "tests" / "signing"
NAME = "two_in_two_out"


@pytest.fixture
def version(tmp_path):
    """A folder of a version that is signed."""
    folder = tmp_path / "models" / NAME / "1"
    shutil.copytree(serving.FIXTURES / NAME / "1", folder)
    shutil.copy(MADE / "served.sig", folder / "model.sig")
    return folder


def start(tmp_path, signing, key="p256.pub"):
    flags = ["--poll-interval", "100ms", "--version-policy", "all", "--signing", signing, "--signing-keys", str(MADE / key)]
    return serving.Server(tmp_path / "models", tmp_path / "server", *flags)


def standing(server):
    [version] = server.get("/admin/models", port=server.admin_port).json()
    return version


def test_a_signed_version_is_served_and_a_changed_one_is_not(tmp_path, version):
    with start(tmp_path, "require") as server:
        found = standing(server)
        assert (found["state"], found["made_by"]) == ("READY", "the key p256.pub"), found
        # A second version with something that nobody signed.
        other = version.with_name("2")
        shutil.copytree(version, other)
        (other / "labels.txt").write_text("no\nyes\n")

        def reason():
            versions = server.get("/admin/models", port=server.admin_port).json()
            return next((found["reason"] for found in versions if found["version"] == "2" and found["reason"]), None)

        serving.until(lambda: reason(), "the refusal")
        assert reason() == "the files are not what the key p256.pub signed: labels.txt is not signed"
        # The first one goes on.
        assert server.get(f"/v2/models/{NAME}/versions/1/ready").status == 200
        # Once it is as it was signed, it is served.
        (other / "labels.txt").unlink()
        serving.until(lambda: server.get(f"/v2/models/{NAME}/versions/2/ready").status == 200, "the second version")


def check(tmp_path, signing, key="p256.pub"):
    code, out, error = command(
        "check", tmp_path / "models", "--data-dir", tmp_path / "check", "--signing", signing, "--signing-keys", MADE / key,
        "--output", "json")
    return code, json.loads(out) if out else error


def test_check_tells_who_signed_and_what_is_wrong(tmp_path, version):
    code, report = check(tmp_path, "require")
    assert code == 0 and "p256.pub" in json.dumps(report), report
    code, report = check(tmp_path, "require", "p384.pub")
    assert code == 1 and "is not trusted here: the keys that are: p384.pub" in json.dumps(report), report
    (version / "model.sig").unlink()
    code, report = check(tmp_path, "require")
    assert code == 1 and "it is not signed: expected model.sig in its folder" in json.dumps(report), report
    code, report = check(tmp_path, "report")
    assert code == 0 and "nobody who is trusted has signed it: it is not signed" in json.dumps(report), report


def test_a_server_without_keys_does_not_start(tmp_path, version):
    code, out, error = command("check", tmp_path / "models", "--data-dir", tmp_path / "check", "--signing", "require")
    assert code == 2 and "signing_keys says nothing of whose" in error, (code, out, error)
