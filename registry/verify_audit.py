#!/usr/bin/env python3
"""Is the record what was signed? Knows docs/audit.md, docs/log.md and the standard library, and nothing of Tiltyard's code.

    python3 registry/verify_audit.py [--key audit.pub] [--kept CHECKPOINT] FOLDER|PROOF.json ...

FOLDER is a data folder (`log/`, `audit.pub`), an export, or a backup of either; a file is the proof of one entry. Prints a line
for each, and ends with 1 if any is not proved. Without --key the key is the one that lies there: whose that is must be known
from elsewhere. --kept is a checkpoint that was put by: the log must be of that one too.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import verify as chain  # noqa: E402

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(p, q):
    """Points of edwards25519 in extended coordinates (RFC 8032, 5.1.4)."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    total = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def point(data: bytes):
    """A point from its 32 bytes; None where they are none (RFC 8032, 5.1.3)."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def is_signed(key: bytes, message: bytes, signature: bytes) -> bool:
    a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or not a or not r or s >= ORDER:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % ORDER
    left, right = times(s, BASE), add(r, times(h, a))
    return all((left[i] * right[2] - right[i] * left[2]) % P == 0 for i in (0, 1))


def unbase64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 of another form")
    return data


def read_key(text: str) -> tuple[str, bytes, bytes]:
    """Name, id and the 32 bytes of a key."""
    name, number, data = text.removesuffix("\n").split("+", 2)
    key = unbase64(data)
    made = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    if len(key) != 33 or key[0] != 1 or made.hex() != number or not re.fullmatch(r"[!-*,-~]{1,200}", name):
        raise ValueError("not a public key")
    return name, made, key[1:]


NOTE = re.compile("(([!-~]+)\n(0|[1-9][0-9]{0,19})\n([^\n]{44})\ntime_ms (0|[1-9][0-9]{0,19})\n)\n\u2014 ([!-~]+) ([^ \n]+)\n")


def read_checkpoint(note: str, key: tuple[str, bytes, bytes]) -> tuple[int, bytes]:
    """Entries and root of a note that is signed with this key; ValueError where it is not."""
    form = NOTE.fullmatch(note)
    if not form or form[2] != key[0] or form[6] != key[0]:
        raise ValueError("not a checkpoint of this key's")
    root, signed = unbase64(form[4]), unbase64(form[7])
    if len(root) != 32 or signed[:4] != key[1] or not is_signed(key[2], form[1].encode(), signed[4:]):
        raise ValueError("a checkpoint's signature is not of its bytes")
    return int(form[3]), root


def read_checkpoints(path: pathlib.Path, key) -> tuple[list[tuple[int, bytes]], int]:
    """All whole checkpoints of a file, and the bytes of one whose writer died."""
    data = path.read_bytes() if path.exists() else b""
    lines, found = data.decode(errors="replace").split("\n"), []
    unfinished = len(b"\n".join(data.split(b"\n")[(len(lines) - 1) // 7 * 7 :]))
    while len(lines) > 7:
        if lines[6]:
            raise ValueError("checkpoints: no empty line behind one")
        size, root = read_checkpoint("\n".join(lines[:6]) + "\n", key)
        if found and size <= found[-1][0]:
            raise ValueError("checkpoints: sizes do not grow")
        found.append((size, root))
        lines = lines[7:]
    whole = [key[0], r"[0-9]+", r"[^\n]{44}", r"time_ms [0-9]+", ""]
    for at, line in enumerate(lines[:-1]):
        is_as_written = line == key[0] if at == 0 else re.fullmatch(whole[at], line) if at < 5 else False
        if at == 5:
            is_as_written = read_checkpoint("\n".join(lines[:6]) + "\n", key)
        if not is_as_written:
            raise ValueError("checkpoints: not the beginning of one")
    if len(lines) == 7 and lines[6]:
        raise ValueError("checkpoints: no empty line behind one")
    return found, unfinished


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaf(line: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + line).digest()


class Tree:
    """Roots of perfect subtrees, the largest first."""

    def __init__(self, size: int = 0, roots: list[bytes] = ()):
        if len(roots) != size.bit_count():
            raise ValueError("not as many hashes as the tree before has subtrees")
        self.size, self.roots = size, list(roots)

    def push(self, hashed: bytes):
        at = self.size
        while at & 1:
            hashed, at = node(self.roots.pop(), hashed), at >> 1
        self.roots.append(hashed)
        self.size += 1

    def root(self) -> bytes:
        if not self.roots:
            return hashlib.sha256().digest()
        root = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            root = node(left, root)
        return root


def split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def root_by_path(hashed: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that a leaf leads to, by RFC 9162's recursion, from above."""
    if size == 1 or not path:
        if size != 1 or path:
            raise ValueError("the path has another length")
        return hashed
    middle, (*below, beside) = split(size), path
    if index < middle:
        return node(root_by_path(hashed, index, middle, below), beside)
    return node(beside, root_by_path(hashed, index - middle, size - middle, below))


def root_by_rest(tree: Tree, size: int, right: list[bytes]) -> bytes:
    """The root of the tree that begins with this one, and goes on with these subtrees."""
    left, right = list(tree.roots), list(right)

    def walk(start: int, end: int) -> bytes:
        if start >= tree.size:
            return right.pop(0)
        if end <= tree.size and (end - start).bit_count() == 1:
            return left.pop(0)
        middle = start + split(end - start)
        one = walk(start, middle)
        return node(one, walk(middle, end))

    try:
        root = walk(0, size)
    except IndexError:
        raise ValueError("hashes are missing") from None
    if left or right:
        raise ValueError("hashes are left")
    return root


def grown(old: tuple[int, bytes], new: tuple[int, bytes], path: list[bytes]) -> bool:
    """Whether the old tree is the beginning of the new one: RFC 9162, 2.1.4."""
    if old[0] in (0, new[0]):
        return not path and (old == new or old == (0, hashlib.sha256().digest()))
    path = list(path)

    def walk(size: int, known: int, is_old: bool) -> tuple[bytes, bytes]:
        """Roots of the old part of a subtree, and of all of it."""
        if known == size:
            if is_old:
                return old[1], old[1]
            root = path.pop(0)
            return root, root
        middle = split(size)
        if known <= middle:
            part, whole = walk(middle, known, is_old)
            return part, node(whole, path.pop(0))
        part, whole = walk(size - middle, known - middle, False)
        left = path.pop(0)
        return node(left, part), node(left, whole)

    try:
        return old[0] < new[0] and walk(new[0], old[0], True) == (old[1], new[1]) and not path
    except IndexError:
        return False


def lines(folder: pathlib.Path, first: int | None):
    """Sequence and line of each entry in a folder's segments, which are checked as a chain."""
    paths = sorted(child for child in folder.iterdir() if re.fullmatch(r"[0-9]{20}\.jsonl", child.name))
    head, number = (0, "0" * 64) if first is None else None, 0
    for number, path in enumerate(paths, 1):
        before = head
        head, unfinished = chain.segment(path, head, int(path.stem), number == len(paths))
        if unfinished and first is not None:
            raise ValueError(f"{path.name}: a line has no end")
        if before and int(path.stem) != before[0] + 1:
            raise ValueError(f"{path.name}: expected entry {before[0] + 1}")
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield chain.read(line[:-1])[0], line[:-1]


def unhex(texts: list[str]) -> list[bytes]:
    if not isinstance(texts, list) or len(texts) > 128 or not all(re.fullmatch("[0-9A-Fa-f]{64}", text) for text in texts):
        raise ValueError("not a list of hashes")
    return [bytes.fromhex(text) for text in texts]


def fields(text: bytes, form: str, names: str, optional: str = "") -> dict:
    def once(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a field is there twice")
        return dict(pairs)

    found = json.loads(text, object_pairs_hook=once) if isinstance(text, bytes) else text
    expected = {"format", *names.split()}
    if not isinstance(found, dict) or found.get("format") != form:
        raise ValueError(f"not of the format {form}")
    if set(found) - {optional} != expected:
        raise ValueError(f"expected the fields {', '.join(sorted(expected))}")
    return found


def data_folder(folder: pathlib.Path, key, kept: list[str]) -> str:
    key = key or read_key((folder / "audit.pub").read_text())
    signed, unfinished = read_checkpoints(folder / "log" / "checkpoints", key)
    known = sorted(signed + [read_checkpoint(note, key) for note in kept], key=lambda found: found[0])
    tree, head = Tree(), "0" * 64
    for _, line in lines(folder / "log", None):
        tree.push(leaf(line))
        head = line[9:73].decode()
        while known and known[0][0] <= tree.size:
            if known.pop(0) != (tree.size, tree.root()):
                raise ValueError(f"a checkpoint of {tree.size} entries has another root: the log was made anew")
    if known:
        raise ValueError(f"a checkpoint has {known[0][0]} entries, and the log {tree.size}: its end is missing")
    return (
        f"entry {tree.size} hash {head} root {tree.root().hex()} checkpoints {len(signed)} "
        f"signed {signed[-1][0] if signed else 0} unfinished {unfinished} key {key[0]}"
    )


def exported(folder: pathlib.Path, trusted) -> str:
    names = "from to left right checkpoint key"
    found = fields((folder / "export.json").read_bytes(), "tiltyard-export-v1", names, "since")
    key = read_key(found["key"])
    if key != read_key((folder / "audit.pub").read_text()) or (trusted and key != trusted):
        raise ValueError("signed with another key")
    size, root = read_checkpoint(found["checkpoint"], key)
    first, last = found["from"], found["to"]
    if type(first) is not int or type(last) is not int or not 1 <= first <= last <= size:
        raise ValueError("from and to are no part of the log")
    tree = Tree(first - 1, unhex(found["left"]))
    signed, unfinished = read_checkpoints(folder / "checkpoints", key)
    for sequence, line in lines(folder, first):
        if sequence != tree.size + 1 or sequence > last:
            raise ValueError(f"entry {sequence} is there, and {first} to {last} are expected")
        tree.push(leaf(line))
        while signed and signed[0][0] <= tree.size:
            if signed.pop(0) != (tree.size, tree.root()):
                raise ValueError(f"a checkpoint of {tree.size} entries has another root")
    if tree.size != last or signed or unfinished:
        raise ValueError(f"it ends after entry {tree.size}, and goes to {last}")
    if root_by_rest(tree, size, unhex(found["right"])) != root:
        raise ValueError("these entries do not lead to the root that was signed")
    if found.get("since") is not None:
        growth(found["since"], key, found["checkpoint"])
    return f"entries {first} to {last} of {size} root {root.hex()} key {key[0]}"


def growth(found: dict, key, checkpoint: str):
    found = fields(found, "tiltyard-consistency-proof-v1", "from to path key")
    old, new = read_checkpoint(found["from"], key), read_checkpoint(found["to"], key)
    if read_key(found["key"]) != key or found["to"] != checkpoint or not grown(old, new, unhex(found["path"])):
        raise ValueError("it is not shown that the log has only grown")


def proof(path: pathlib.Path, trusted) -> str:
    found = fields(path.read_bytes(), "tiltyard-entry-proof-v1", "line path checkpoint key")
    key = read_key(found["key"])
    if trusted and key != trusted:
        raise ValueError("signed with another key")
    size, root = read_checkpoint(found["checkpoint"], key)
    line = found["line"].encode()
    sequence, hashed, _ = chain.read(line)
    if not 1 <= sequence <= size or root_by_path(leaf(line), sequence - 1, size, unhex(found["path"])) != root:
        raise ValueError(f"entry {sequence} does not lead to the root that was signed")
    return f"entry {sequence} hash {hashed} of {size} root {root.hex()} key {key[0]}"


def check(path: pathlib.Path, key, kept: list[str]) -> str:
    if path.is_file():
        return proof(path, key)
    if (path / "export.json").exists():
        return exported(path, key)
    return data_folder(path, key, kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", type=pathlib.Path)
    parser.add_argument("--kept", type=pathlib.Path, action="append", default=[])
    parser.add_argument("paths", type=pathlib.Path, nargs="+")
    options = parser.parse_args()
    key = read_key(options.key.read_text()) if options.key else None
    kept = [path.read_text() for path in options.kept]
    broken = 0
    for path in options.paths:
        try:
            print(f"{path}: whole, {check(path, key, kept)}")
        except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as why:
            print(f"{path}: broken, {why}".replace("\n", " "))
            broken = 1
    return broken


if __name__ == "__main__":
    sys.exit(main())
