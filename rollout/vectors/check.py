#!/usr/bin/env python3
"""Do the published vectors hold for somebody who knows only the formulas? Standard library only.

    python3 rollout/vectors/check.py            # check
    python3 rollout/vectors/check.py --write    # make assignment.json anew
"""

import hashlib
import json
import math
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
CHALLENGERS = [("small", 10_000, 200_000), ("half", 150_000, 300_000), ("whole", 500_000, 500_000)]
SALTS = ["", "7f0c1d", "Zelt-ä"]
KEYS = ["", "a", "user-1", "user-2", "user-3", "4711", "königin", "0", "\x00", "x" * 200]


def place(salt: str, key: str) -> tuple[int, str]:
    digest = hashlib.sha256(salt.encode() + b"\x00" + key.encode()).digest()
    return int.from_bytes(digest[:8], "big") * 10**6 // 2**64, digest[8:16].hex()


def arm(bucket: int) -> str:
    start = 0
    for name, weight, final_weight in CHALLENGERS:
        if start <= bucket < start + weight:
            return name
        start += final_weight
    return "champion"


def assignment() -> dict:
    keys = []
    for salt in SALTS[1:]:
        for key in KEYS:
            bucket, digest = place(salt, key)
            keys.append({"salt": salt, "key": key, "bucket": bucket, "hash": digest, "arm": arm(bucket)})
    return {
        "about": "bucket and hash of (salt, key), and the arm among challengers of (name, weight, final weight)",
        "challengers": CHALLENGERS,
        "keys": keys,
    }


def ln_e_above(tally: list, tolerance: float) -> float:
    """Kernel A, straight from its definition, 64 ratios, log-spaced."""
    null = 1 + tolerance
    low, high, grid = math.log(1.02 * null), math.log(60), 64
    logs = []
    for g in range(grid):
        ratio = math.exp(low + (high - low) * g / (grid - 1))
        total = 0.0
        for champion_share, challenger_share, champion, challenger in tally:
            w = challenger_share / (champion_share + challenger_share)
            p = lambda r: w * r / (w * r + 1 - w)
            total += challenger * math.log(p(ratio) / p(null))
            total += champion * math.log((1 - p(ratio)) / (1 - p(null)))
        logs.append(total)
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / grid)


def main() -> None:
    if "--write" in sys.argv:
        (HERE / "assignment.json").write_text(json.dumps(assignment(), ensure_ascii=False, indent=1) + "\n")
    published = json.loads((HERE / "assignment.json").read_text())
    assert published == json.loads(json.dumps(assignment())), "assignment.json differs from the formula"
    kernel = json.loads((HERE / "kernel.json").read_text())["cases"]
    for case in kernel:
        found = ln_e_above(case["tally"], case["tolerance"])
        assert abs(found - case["ln_e"]) < 1e-9, f"{case}: found {found}"
    print(f"{len(published['keys'])} assignments and {len(kernel)} e-values hold")


if __name__ == "__main__":
    main()
