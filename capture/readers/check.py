#!/usr/bin/env python3
"""Do the programs that people have read segments as they were written? pandas, pyarrow, DuckDB and Polars, the real ones.

    cargo run --release -p tiltyard-capture --example segments -- FOLDER
    python3 capture/readers/check.py FOLDER

The folder is one that the example has written: 1,000 requests of two rows, every tenth of which failed.
"""

import datetime
import json
import math
import pathlib
import sys

import duckdb
import pandas
import polars
import pyarrow.dataset
import pyarrow.parquet

ROWS, FAILED = 2000, 200
COLUMNS = {
    "sequence": "int64", "prediction_id": "string", "request_id": "string", "row": "int32",
    "time": "timestamp[us, tz=UTC]", "model": "string", "version": "int64", "digest": "string",
    "arm": "string", "latency_ns": "int64", "outcome": "string", "key_hash": "string", "error": "string",
    "header_x-tenant": "string", "input_age": "float", "input_income": "float", "input_country": "string",
    "input_tokens": "list<element: int64 not null>", "output_score": "double", "output_is_fraud": "bool",
}  # fmt: skip
FIRST_TIME = datetime.datetime(2025, 11, 29, 22, tzinfo=datetime.timezone.utc)
LAST = {
    "prediction_id": "00000000-0000-0000-0000-0000000003e6:1", "row": 1, "version": 3,
    "arm": "champion", "latency_ns": 998_000, "outcome": "ok", "key_hash": None, "error": None, "header_x-tenant": "blue",
    "input_age": 998.5, "input_income": 2000.0, "input_country": "Zürich", "input_tokens": [4, 5, 6],
    "output_score": math.inf, "output_is_fraud": False,
}  # fmt: skip


def check(row: dict, expected: dict) -> None:
    for name, value in expected.items():
        found = row[name]
        found = list(found) if name == "input_tokens" else None if value is None and found != found else found
        assert found == value, f"{name}: {found!r}, expected {value!r}"


def check_pyarrow(folder: pathlib.Path, files: list[pathlib.Path]) -> None:
    for file in files:
        found = pyarrow.parquet.ParquetFile(file)
        types = {field.name: str(field.type) for field in found.schema_arrow}
        assert types == COLUMNS, types
        said = {key.decode(): value.decode() for key, value in found.metadata.metadata.items()}
        assert int(said["tiltyard.rows"]) == found.metadata.num_rows
        assert json.loads(said["tiltyard.layout"])["headers"] == ["x-tenant"]
    table = pyarrow.dataset.dataset(folder, partitioning="hive").to_table().sort_by([("sequence", "ascending")])
    assert table.num_rows == ROWS
    rows = sorted(table.to_pylist(), key=lambda row: (row["latency_ns"], row["row"]))
    assert rows[0]["time"] == FIRST_TIME and str(rows[0]["date"]) == "2025-11-29" and rows[0]["endpoint"] == "risk/eu"
    assert math.isnan(rows[0]["input_income"]) and rows[0]["output_is_fraud"] is True
    assert rows[0]["input_tokens"] == [1, -2, 2**63 - 1]
    check(rows[-3], LAST)
    assert sum(row["output_score"] is None for row in rows) == FAILED
    assert rows[-1]["error"] == "it broke" and rows[-1]["outcome"] == "engine"


def check_pandas(folder: pathlib.Path, files: list[pathlib.Path]) -> None:
    frame = pandas.concat(pandas.read_parquet(file) for file in files).sort_values(["latency_ns", "row"])
    assert len(frame) == ROWS and str(frame["time"].dt.tz) == "UTC"
    assert frame["time"].iloc[0] == FIRST_TIME
    check(frame.iloc[-3].to_dict(), LAST)
    assert frame["output_score"].isna().sum() == FAILED and frame["input_income"].isna().sum() == ROWS / 2
    whole = pandas.read_parquet(folder)
    assert len(whole) == ROWS and set(whole["endpoint"]) == {"risk/eu"}


def check_duckdb(folder: pathlib.Path, files: list[pathlib.Path]) -> None:
    source = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
    ask = duckdb.connect().sql
    # The question of docs/capture.md, and what is easily wrong.
    question = f"""
        SELECT arm, count(*), avg(output_score) FILTER (isfinite(output_score)), quantile_cont(latency_ns, 0.99) / 1e3
        FROM {source} WHERE date = '2025-11-29' AND input_age > 100 GROUP BY arm ORDER BY arm"""
    arms = ask(question).fetchall()
    assert [arm[0] for arm in arms] == ["challenger", "champion"] and all(arm[2] == 0.25 for arm in arms), arms
    counts = f"""
        SELECT count(*), count(output_score), count(*) FILTER (isnan(input_income)), count(DISTINCT prediction_id),
               count(*) FILTER (error = 'it broke'), min(endpoint), count(DISTINCT date), min(epoch_us("time"))
        FROM {source}"""
    expected = (ROWS, ROWS - FAILED, ROWS // 2, ROWS, FAILED, "risk/eu", 2, int(FIRST_TIME.timestamp()) * 10**6)
    assert ask(counts).fetchall() == [expected], ask(counts).fetchall()
    last = ask(f"SELECT * FROM {source} ORDER BY latency_ns DESC, row LIMIT 4")
    check(dict(zip(last.columns, last.fetchall()[3])), LAST)


def check_polars(folder: pathlib.Path, files: list[pathlib.Path]) -> None:
    frame = polars.scan_parquet(f"{folder}/**/*.parquet", hive_partitioning=True).sort("latency_ns", "row").collect()
    assert frame.height == ROWS and frame["time"].dtype == polars.Datetime("us", "UTC")
    assert frame["time"][0] == FIRST_TIME and frame["endpoint"][0] == "risk/eu"
    check(frame.row(-3, named=True), LAST)
    assert frame["output_score"].null_count() == FAILED
    assert frame["input_income"].is_nan().sum() == ROWS / 2 and frame["input_income"].null_count() == 0


def main() -> None:
    folder = pathlib.Path(sys.argv[1]) / "segments"
    files = sorted(folder.rglob("*.parquet"))
    assert len(files) == 2, files
    for name, reads in [("pyarrow", check_pyarrow), ("pandas", check_pandas), ("duckdb", check_duckdb), ("polars", check_polars)]:
        reads(folder, files)
        print(f"{name} {sys.modules[name].__version__} reads all {ROWS} rows as they were written")


if __name__ == "__main__":
    main()
