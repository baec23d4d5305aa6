"""Do files declare rollouts, once each, whoever reads them?"""

import json

import pytest

import serving
from competing import command, reaches, server, status, verify  # noqa: F401  a fixture is among them
from test_endpoints import apply, arms_of_keys, endpoints, revision, run, split, start
from test_repository import put, times
from test_rollouts import Load, log_of

KEYS = "abcdefgh"


def declared(more="", champion="{ version = 1 }", challenger=2, steps='[{ share = "50%", min_time = "1h" }]', gates=()):
    """A file of a rollout that goes on for as long as nobody fails."""
    gates = json.dumps(list(gates))
    return f"""
        {more}
        key = {{ header = "x-user" }}
        champion = {champion}
        challenger = {{ version = {challenger} }}
        steps = {steps}
        policy = {{ min_time = "2h", entry_gates = {gates}, guardrails = [{{ metric = "errors", floor = 0.03 }}] }}
    """


@pytest.fixture
def repository(tmp_path):
    """Versions 1 and 2 of m multiply by 1 and 2; version 3 by 3, and makes no number of a negative row."""
    root = tmp_path / "models"
    for version, content in ((1, times(1.0)), (2, times(2.0)), (3, log_of(3.0))):
        put(root, "m", version, content)
    return root


def answering(server):
    return set(arms_of_keys(server, KEYS).values())


# --- Applied ---------------------------------------------------------------------------------------------------------


def test_a_file_begins_a_rollout_once(repository, tmp_path):
    with start(repository, tmp_path) as server:
        told = apply(server, tmp_path, declared(), "--dry-run")
        for line in ("m: a rollout would begin:", "+ champion: m version 1, champion",
                     "+ challenger: m version 2, challenger 0% of up to 50%", "> 50% for 1h", "> promoted after 2h at least, by errors"):
            assert line in told, told
        assert revision(server) is None and "has had no rollout" in run(server, "rollout", "status", "m", expected=1)
        assert "rollout m-1 begins" in apply(server, tmp_path, declared())
        reaches(server, lambda told: told["share"] == 500_000, "the step")
        # In other words, and as somebody who asks for JSON.
        same = declared().replace('{ version = 1 }', '{ version = 1 } # who answers')
        assert "m is as it was: rollout m-1 of m version 2 is canary(1)." in apply(server, tmp_path, same)
        assert json.loads(apply(server, tmp_path, same, "--dry-run", "--output", "json"))["outcome"] == "goes_on"
        for other in (declared("attempt = 2"), declared(challenger=3), split(10)):
            assert "rollout m-1, which goes on" in apply(server, tmp_path, other, expected=1)
        assert "rollout m-1, which goes on" in apply(server, tmp_path, declared("attempt = 2"), "--dry-run", expected=1)
        command(server, "promote")
        serving.until(lambda: answering(server) == {2}, "version 2", 10)
        before = revision(server)
    with start(repository, tmp_path) as server:
        status(server)
        assert "rollout m-1 promoted m version 2" in apply(server, tmp_path, declared())
        assert status(server)["rollout"] == "m-1" and revision(server) == before and answering(server) == {2}
        told = apply(server, tmp_path, declared("attempt = 2"), expected=1)
        assert "m version 2 answers endpoint \"m\", and the champion was to be m version 1" in told, told
        # Whoever goes back is not overruled by a file that has not changed.
        run(server, "rollback", "m")
        told = apply(server, tmp_path, declared(), expected=1)
        assert "and m version 1 answers since: nothing begins until the file changes" in told, told
        assert answering(server) == {1}
        verify(server)


def test_what_was_rolled_back_is_told_and_not_tried_again(server, tmp_path):
    with Load(server) as load:
        apply(server, tmp_path, declared(challenger=3))
        reaches(server, lambda told: told["state"] == "rolled_back", "the rollback")
        for flags in ((), ("--dry-run",), ("--output", "json")):
            told = apply(server, tmp_path, declared(challenger=3), *flags, expected=5)
            assert "rollout m-1 rolled m version 3 back: nothing begins until the file changes" in told, told
        assert status(server)["rollout"] == "m-1"
        serving.until(lambda: answering(server) == {1}, "version 1", 10)
        assert "rollout m-2 begins" in apply(server, tmp_path, declared("attempt = 2", challenger=3))
        command(server, "abort")
        told = apply(server, tmp_path, declared("attempt = 2", challenger=3), expected=1)
        assert "rollout m-2 is aborted: nothing begins" in told, told
    assert not load.failed
    verify(server)


def test_one_form_for_every_command_that_reads_it(server, tmp_path):
    file = tmp_path / "m.toml"
    file.write_text(declared(gates=["ada"]))
    told = run_offline("rollout", "plan", file)
    assert "The rollout of m is good: m@2 against m@1, key: header or metadata x-user." in told, told
    assert "A challenger that is as good is promoted after" in run_offline("rollout", "plan", file, "--preview", "--rate", "1000")
    run(server, "rollout", "start", "m", "--plan", file)
    assert status(server)["steps"][0]["share"] == 500_000
    command(server, "abort")
    # Who began it by hand has not begun what the file declares.
    assert "rollout m-2 begins" in apply(server, tmp_path, declared(gates=["ada"]))
    for wrong, words in (("stpes = []", "did you mean steps?"), ('endpoint = "n"', "and it was to be"), ("arms = []", "in place of arms")):
        file.write_text(wrong + declared())
        assert words in run(server, "rollout", "start", "m", "--plan", file, "--challenger", "3", expected=1)
    assert "in place of arms" in apply(server, tmp_path, "arms = []" + declared(), expected=1)
    assert "shares must grow" in apply(server, tmp_path, declared(steps='[{ share = "0%" }]'), expected=1)
    assert "declares a rollout" in run_offline(
        "rollout", "assign", "m", "--key", "a", "--file", tmp_path / "whole.toml", content=declared(), expected=1)


def run_offline(*arguments, content=None, expected=0):
    """A command that asks no server: what it printed. `content` goes into the last argument, a file."""
    if content is not None:
        arguments[-1].write_text(content)
    done = serving.run_binary(*arguments)
    assert done.returncode == expected, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


# --- As files of a folder --------------------------------------------------------------------------------------------


def test_a_folder_of_files_begins_and_ends_nothing_by_itself(repository, tmp_path):
    folder = tmp_path / "endpoints"
    folder.mkdir()
    file = folder / "m.toml"
    file.write_text(declared(gates=["ada"]))
    flags = ["--endpoints", str(folder), "--poll-interval", "100ms", "--settle-time", "100ms"]

    def rollout():
        answer = server.get("/admin/endpoints/m/rollout", port=server.admin_port)
        return answer.json()["rollout"] if answer.status == 200 else None

    def trouble():
        return endpoints(server).get("m", {}).get("trouble") or ""

    with start(repository, tmp_path, *flags) as server:
        assert answering(server) == {1}, "the newest never answers"
        serving.until(lambda: rollout() == "m-1" and status(server)["stage"] == "shadow", "the rollout")
        run(server, "rollout", "gate", "m", "ada")
        serving.until(lambda: answering(server) == {1, 2}, "both answer")
    with start(repository, tmp_path, *flags) as server:
        serving.until(lambda: rollout() == "m-1", "the log")
        assert answering(server) == {1, 2}
        file.write_text(declared("attempt = 2", challenger=9))
        serving.until(lambda: "a rollout goes on" in trouble(), "the file to wait")
        command(server, "abort")
        serving.until(lambda: "does not begin" in trouble() and "version 9 is not there" in trouble(), "its version")
        assert (rollout(), answering(server)) == ("m-1", {1})
        put(repository, "m", 9, times(9.0))
        serving.until(lambda: rollout() == "m-2" and not trouble(), "the second rollout", 20)
        serving.until(lambda: answering(server) == {1, 9}, "both answer", 20)
        # Its file goes, and the rollout goes on until it has ended; then so does its plan.
        file.unlink()
        serving.until(lambda: "its file is gone" in trouble(), "what is told of it")
        assert status(server)["state"] == "running"
        command(server, "abort")
        serving.until(lambda: "m" not in endpoints(server), "no plan", 20)
        verify(server)


def test_a_file_means_what_the_log_has_of_it(repository, tmp_path):
    folder = tmp_path / "endpoints"
    folder.mkdir()
    flags = ["--endpoints", str(folder), "--poll-interval", "100ms", "--settle-time", "100ms"]
    with start(repository, tmp_path, *flags) as server:
        apply(server, tmp_path, declared())
        command(server, "abort")
        (folder / "m.toml").write_text(declared())
        serving.until(
            lambda: "rollout m-1 is aborted: nothing begins" in (endpoints(server)["m"]["trouble"] or ""), "what became of it")
        assert status(server)["rollout"] == "m-1"
        # Where versions are to compete for what nobody answers yet, whoever answers is the champion.
        (folder / "m.toml").write_text(declared("attempt = 2").replace("champion = { version = 1 }", ""))
        serving.until(lambda: status(server)["rollout"] == "m-2", "the second rollout", 20)
        assert status(server)["champion"]["version"] == 1
