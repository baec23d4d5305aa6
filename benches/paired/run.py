"""How many labels do a shadow's pairs need, and how many an A/B split of the same rows?

    python3 benches/paired/run.py [SET ...]

Needs `benches/paired/requirements.txt` and a Rust toolchain. Trains both models of every pair of `pairs.toml` on every data
set (or on those named), writes for each held-out row whether each was right, and has the judge's own tests play them
(`rollout/examples/labels`), fed with rows that are drawn again and again. `target/bench/paired/` gets the rows, `results.json` and
`table.md`, which is printed too.
"""

import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tomllib

# One thread for each model: sums are then added in one order.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

import sets  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
OUT = ROOT / "target" / "bench" / "paired"
# A figure of the formulas is held to be right within this part.
TOLERANCE = 0.15
# Pairs of models that differ on no more than the first of these shares of the rows are to need so many times fewer labels.
BANDS, TIMES = (0, 0.04, 0.08, 0.16, 1), 8


def model(kind, settings, seed):
    if kind == "logistic":
        return LogisticRegression(max_iter=1000, **settings)
    if kind == "boosted":
        return HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **settings)
    return DecisionTreeClassifier(random_state=seed, **settings)


def split(name, rows, seed):
    """Training and held-out rows, as (columns, label) each. Numbers are scaled by the former, all else is one-hot."""
    columns, label = sets.ALL[name]()
    label = label.to_numpy()
    texts = [column for column in columns if not pd.api.types.is_numeric_dtype(columns[column])]
    columns = pd.get_dummies(columns, columns=texts).astype(float)
    order = np.random.default_rng(seed).permutation(len(columns))
    ours, theirs = np.split(order[:rows["trained_on"] + rows["held_out"]], [rows["trained_on"]])
    assert len(theirs) == rows["held_out"], f"{name} has {len(columns)} rows, fewer than {rows}"
    middle = columns.iloc[ours].median()
    scale = StandardScaler().fit(columns.iloc[ours].fillna(middle).to_numpy())
    return [(scale.transform(columns.iloc[part].fillna(middle).to_numpy()), label[part]) for part in (ours, theirs)]


def train(plan, name):
    """Writes the rows of every pair on one data set, and returns the files by pair."""
    (x, y), (x_held, y_held) = split(name, plan["sets"][name], plan["seed"])
    right, files = {}, {}

    def is_right(settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in right:
            settings = dict(settings)
            kind, seen = settings.pop("model"), round(settings.pop("rows") * len(x))
            fitted = model(kind, settings, plan["seed"]).fit(x[:seen], y[:seen])
            right[key] = fitted.predict(x_held) == y_held
        return right[key]

    for number, (pair, sides) in enumerate(plan["pairs"].items()):
        file = OUT / f"{name}-{number}.rows"
        both = zip(is_right(sides["champion"]), is_right(sides["challenger"]))
        file.write_text("".join(f"{int(champion)}{int(challenger)}\n" for champion, challenger in both))
        files[pair] = file
    return files


def played(file):
    run = subprocess.run([BUILT / "examples" / "labels", file], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout)


def count(labels):
    return "–" if labels is None else f"{labels:,}"


def off(design):
    """How far what was told is from what was found, as a part of that; `None` where one of them is not known."""
    told, median = design["told"], design["median"]
    return None if told is None or median is None else told / median - 1


def ratio(result):
    """How many times fewer labels pairs need, and whether it is more than that: the split had not decided."""
    pairs, split = result["pairs"]["median"], result["split"]["median"]
    if pairs is None:
        return None, False
    return (result["limit"] if split is None else split) / pairs, split is None


def line(result):
    times, is_more = ratio(result)
    designs = result["pairs"], result["split"]
    both = [count(labels) for design in designs for labels in (design["median"], design["told"])]
    shares = [" / ".join(f"{design[key]:.{digits}%}" for design in designs)
              for key, digits in (("undecided", 0), ("false_wins", 1))]
    return [result["set"], result["pair"], f"{result['disagreement']:.1%}",
            " → ".join(f"{accuracy:.4f}" for accuracy in result["accuracy"]), *both, *shares,
            "–" if times is None else f"{'> ' if is_more else ''}{times:.1f}x"]


def design_summary(results, what, designs):
    decided = sum(design["median"] is not None for design in designs)
    apart = [abs(off(design)) for design in designs if off(design) is not None]
    false_wins = [design["false_wins"] for design in designs]
    return (f"{what}: decided by {results[0]['limit']:,} labels for {decided} of {len(results)}; told within {TOLERANCE:.0%} for "
            f"{sum(one <= TOLERANCE for one in apart)} of {len(apart)} that could be told, apart by "
            f"{statistics.median(apart):.1%} in the median and {max(apart):.1%} at most; false wins "
            f"{statistics.mean(false_wins):.2%} over all, {max(false_wins):.1%} at most")


def summary(results):
    """What the table comes to, in sentences."""
    lines = [design_summary(results, what, [result[key] for result in results])
             for key, what in (("pairs", "pairs"), ("split", "A/B"))]
    for above, to in zip(BANDS, BANDS[1:]):
        inside = [result for result in results if above < result["disagreement"] <= to]
        # Where the split had not decided, its labels count as the limit: fewer than it needs.
        times = [one for one in (ratio(result)[0] for result in inside) if one is not None]
        if times:
            lines.append(f"disagreement above {above:.0%} to {to:.0%}: {statistics.median(times):.1f}x fewer labels in the median, "
                         f"{min(times):.1f}x to {max(times):.1f}x ({len(times)} of {len(inside)} decided, "
                         f"{sum(one >= TIMES for one in times)} at least {TIMES}x)")
    return lines


def table(results):
    heads = ["data", "challenger", "disagreement", "accuracy", "pairs", "told", "A/B", "told", "undecided, pairs / A/B",
             "false wins, pairs / A/B", "times fewer"]
    rows = [heads, ["---"] * len(heads), *(line(result) for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n" + "\n".join(summary(results)) + "\n"


def main():
    plan = tomllib.loads((HERE / "pairs.toml").read_text())
    names = sys.argv[1:] or list(plan["sets"])
    unknown = [name for name in names if name not in plan["sets"]]
    if unknown:
        sys.exit(f"no data set {unknown[0]!r}: expected some of {', '.join(plan['sets'])}")
    subprocess.run(["cargo", "build", "--release", "-p", "tiltyard-rollout", "--example", "labels"], cwd=ROOT, check=True)
    OUT.mkdir(parents=True, exist_ok=True)
    results = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = []
        for name in names:
            print(f"training on {name}", file=sys.stderr)
            for pair, file in train(plan, name).items():
                waiting.append((name, pair, pool.submit(played, file)))
        for name, pair, result in waiting:
            results.append({"set": name, "pair": pair, **result.result()})
    (OUT / "results.json").write_text(json.dumps(results, indent=1))
    (OUT / "table.md").write_text(table(results))
    print(table(results), end="")


if __name__ == "__main__":
    main()
