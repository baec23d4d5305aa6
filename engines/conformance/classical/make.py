"""Which classical models is the engine tried with, and what does ONNX Runtime answer to them?

    python -m venv /tmp/venv && /tmp/venv/bin/pip install --no-deps -r engines/conformance/classical/requirements.txt
    /tmp/venv/bin/python engines/conformance/classical/make.py /tmp/classical-models
    TILTYARD_CLASSICAL_MODELS=/tmp/classical-models cargo test --release -p tiltyard-conformance classical

Trains on the tables inside scikit-learn, downloads nothing, and writes a repository whose golden examples are ONNX
Runtime's answers, or those of the ONNX project for its own tests. A second argument is a part of the names that are
wanted. What an exporter or ONNX Runtime refuses stands in `refused.txt`; a difference fails.
"""

import collections
import concurrent.futures
import multiprocessing
import os
import pathlib
import shutil
import sys
import time

# One thread each: sums come in the same order in every run, and the parts have a core each.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import boosters
import node_tests
import operators
import recipes
import repository

# The longest first.
PARTS = [*recipes.PARTS, *boosters.PARTS, *operators.PARTS, *node_tests.PARTS]


def make(number, folder, only):
    made, began = repository.Repository(folder, only), time.monotonic()
    PARTS[number](made)
    print(f"{PARTS[number].__name__}: {len(made.names)} models, {time.monotonic() - began:.0f} s", flush=True)
    return made


def main(folder, only=""):
    shutil.rmtree(folder, ignore_errors=True)
    fresh = multiprocessing.get_context("spawn")  # libraries with threads of their own do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), fresh) as pool:
        parts = list(pool.map(make, range(len(PARTS)), [folder] * len(PARTS), [only] * len(PARTS)))
    names = [name for made in parts for name in made.names]
    families = dict(collections.Counter(name.split(".")[0] for name in names))
    refused = {name: why for made in parts for name, why in made.refused.items()}
    print(f"{len(names)} models, {sum(made.examples for made in parts)} examples, {len(refused)} refused: {families}")
    if differences := sorted({name for name in repository.REFUSED if only in name} ^ refused.keys()):
        lines = [f"{name} {refused.get(name, 'is not refused')}" for name in differences]
        sys.exit("\n".join(["not as refused.txt has it:", *lines]))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} FOLDER [PART_OF_NAMES]")
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
