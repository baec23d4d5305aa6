#!/usr/bin/env python3
"""Is a log what was written? Knows docs/log.md and the standard library, and nothing of Tiltyard's code.

    python3 registry/verify.py FOLDER|FILE ...

Prints a line for each, and ends with 1 if any is broken. The head (sequence and hash of the last entry) is worth keeping
elsewhere: who has it can tell later that nothing before it was changed.
"""

import hashlib
import json
import pathlib
import re
import sys

LINE_BYTES_MAX = 16 << 20
FORM = re.compile(
    rb'\{"hash":"([0-9a-f]{64})",("prev":"([0-9a-f]{64})","seq":(0|[1-9][0-9]*),"time_ms":(0|[1-9][0-9]*),'
    rb'"kind":"[a-z0-9_.]{1,64}","data":(.+)\})',
    re.DOTALL,
)


def read(line: bytes) -> tuple[int, str, str]:
    """Sequence, hash and the hash before of a line without its end; ValueError where it is not whole."""
    form = FORM.fullmatch(line)
    if not form or hashlib.sha256(form[2]).hexdigest() != form[1].decode():
        raise ValueError("not an entry, or not the bytes that were hashed")
    json.loads(form[6])
    return int(form[4]), form[1].decode(), form[3].decode()


def segment(path: pathlib.Path, head: tuple | None, first: int | None, is_last: bool) -> tuple[tuple | None, int]:
    """The head after a segment and the bytes after its last line's end; ValueError (line, byte, why) where it breaks."""
    byte = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), 1):
            try:
                if len(line) > LINE_BYTES_MAX:
                    raise ValueError("too long")
                if not line.endswith(b"\n"):
                    if is_whole(line[:-1]) or not is_last:
                        raise ValueError("no line feed at its end")
                    return head, len(line)
                sequence, found, previous = read(line[:-1])
                if head and (sequence, previous) != (head[0] + 1, head[1]):
                    raise ValueError(f"entry {sequence} does not follow entry {head[0]}")
                if not head and first not in (None, sequence):
                    raise ValueError(f"entry {sequence} in a file named after {first}")
            except ValueError as why:
                raise ValueError(f"{path.name} line {number} byte {byte}: {why}") from None
            head, byte = (sequence, found), byte + len(line)
    return head, 0


def is_whole(line: bytes) -> bool:
    try:
        return bool(read(line))
    except ValueError:
        return False


def verify(path: pathlib.Path) -> str:
    if path.is_file():
        head, unfinished = segment(path, None, None, True)
    else:
        paths = sorted(child for child in path.iterdir() if re.fullmatch(r"[0-9]{20}\.jsonl", child.name))
        head, unfinished = (0, "0" * 64), 0
        for number, child in enumerate(paths, 1):
            if int(child.stem) != head[0] + 1:
                raise ValueError(f"{child.name} line 1 byte 0: expected entry {head[0] + 1}")
            head, unfinished = segment(child, head, int(child.stem), number == len(paths))
    head = head or (0, "0" * 64)
    return f"entry {head[0]} hash {head[1]} unfinished {unfinished}"


def main() -> int:
    broken = 0
    for path in map(pathlib.Path, sys.argv[1:]):
        try:
            print(f"{path}: whole, {verify(path)}")
        except ValueError as why:
            print(f"{path}: broken, {why}")
            broken = 1
    return broken


if __name__ == "__main__":
    sys.exit(main())
