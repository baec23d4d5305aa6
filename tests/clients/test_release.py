"""Do the commands of the page about a release do what it says, and print what it shows?"""

import os
import re
import signal
import socket
import subprocess

import pyarrow.compute
import pyarrow.parquet

import serving

PAGE = serving.ROOT / "docs" / "release.md"
# All of it. Half a minute on a quiet machine.
SECONDS_MAX = 180
COMMANDS_MAX = 10
END = "@@ end of block"


def blocks():
    """The page's fenced blocks in order: what kind they are, and what they say."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def lines_of(text):
    """Lines without what is another in each run or on each machine: engines, digests, numbers, and how wide columns are."""
    for line in text.splitlines():
        line = re.sub(r"\b(tract|onnxruntime|classical)\b", "ENGINE", line)
        line = re.sub(r"\b[0-9a-f]{8,}\b…?|\b[0-9a-f]{4}\b(?=-)", "H", line)
        line = re.sub(r"H(-H)+|\d[\d.:TZ-]*", "N", line)
        yield " ".join(line.split())


def script():
    """The page's commands as a script, and what each block is to print."""
    lines, expected = [], []
    for kind, text in blocks():
        if kind == "sh":
            lines += [text, f"echo '{END}'"]
            expected.append("")
        elif kind == "text":
            expected[-1] = text
    return "\n".join(lines), expected


def play(tmp_path, text):
    """Runs the script in a folder as the page has it, with ports of its own. Gives what it printed."""
    http, grpc, admin = free_port(), free_port(), free_port()
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("TILTYARD_") and name != "VIRTUAL_ENV"}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tiltyard").symlink_to(serving.BINARY)
    environment |= {
        "PATH": f"{tmp_path / 'bin'}:{environment['PATH']}", "TILTYARD_HTTP_PORT": str(http), "TILTYARD_GRPC_PORT": str(grpc),
        "TILTYARD_ADMIN_PORT": str(admin), "TILTYARD_SERVER": f"http://127.0.0.1:{http}", "TILTYARD_ADMIN": f"http://127.0.0.1:{admin}"}
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "models").symlink_to(serving.SAMPLES)
    for kind, block in blocks():
        if kind == "toml":
            (folder / block.split()[1]).write_text(block)
    # Into files: what the page leaves running in the background would hold pipes open.
    out, error, log = (tmp_path / name for name in ("out", "error", "release/server.log"))
    with open(out, "wb") as to_out, open(error, "wb") as to_error:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text.replace("localhost:8000", f"localhost:{http}")], cwd=folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=to_out, stderr=to_error, start_new_session=True)
        try:
            process.wait(SECONDS_MAX)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # as the page leaves it: nothing runs any more
    told = [file.read_text()[-3000:] for file in (out, error, log) if file.exists()]
    assert process.returncode == 0, "\n".join(told)
    return folder, out.read_text()


def test_a_release_takes_ten_commands():
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    asked = [section for section in sections if section.startswith("What can be asked")]
    assert len(asked) == 2, "questions are no part of the release"
    commands = [line for section in sections if section not in asked
                for block in re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
                for line in block.splitlines() if line.startswith("tiltyard ")]
    assert len(commands) <= COMMANDS_MAX, commands


def test_the_page_about_a_release_is_true(tmp_path):
    text, expected = script()
    folder, out = play(tmp_path, text)
    printed = out.split(f"{END}\n")
    assert len(printed) == len(expected) + 1, out
    for found, wanted in zip(printed, expected):
        if wanted:
            assert list(lines_of(found)) == list(lines_of(wanted)), found
    card = (folder / "card.md").read_text()
    assert "auc" in card and "golden examples: 2" in card, card
    check_captured(folder / "data" / "capture" / "segments")


def check_captured(segments):
    """What DuckDB would be asked: both versions answered, the newer one as the challenger first."""
    tables = [pyarrow.parquet.read_table(file, partitioning=None) for file in segments.rglob("*.parquet")]
    rows = pyarrow.concat_tables(tables, promote_options="default")
    seen = set(zip(rows["version"].to_pylist(), rows["arm"].to_pylist()))
    assert {(1, "champion"), (2, "challenger"), (2, "champion")} <= seen, seen
    assert pyarrow.compute.all(pyarrow.compute.equal(rows["outcome"], "ok")).as_py()


