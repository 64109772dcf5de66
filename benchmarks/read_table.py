"""Reading a CSV: ours, against polars that tries every text as a date and infers from all rows.

    python -m benchmarks.read_table --json benchmarks/results/read_table.json

The table has 337,000 rows of 19 columns: 8 of fractions, 4 of whole numbers, 4 of words, 2 of texts that are
all different, and one of dates. In each round both read it once, in an order drawn anew; both come to the
same frame, which is checked first.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable

import numpy as np
import polars as pl
from benchmarks import records

from thalweg.data.delimited import MISSING, read_delimited


def content(rows: int) -> bytes:
    """Return the file."""
    draws = np.random.default_rng(0)
    words = np.array(["alpha", "beta", "gamma", "delta x", "epsilon"])
    days = np.datetime64("2001-01-01") + draws.integers(0, 5000, rows).astype("timedelta64[D]")
    columns = {f"fraction {n}": draws.normal(size=rows).round(4) for n in range(8)}
    columns |= {f"whole {n}": draws.integers(0, 10_000, rows) for n in range(4)}
    columns |= {f"word {n}": words[draws.integers(0, 5, rows)] for n in range(4)}
    columns |= {f"text {n}": np.array([f"title {k}" for k in draws.permutation(rows)]) for n in range(2)}
    return pl.DataFrame({**columns, "day": days}).write_csv().encode()


def main() -> None:
    """Run the comparison and write what was found."""
    parser = records.parser(__doc__)
    parser.add_argument("--rows", type=int, default=337_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results = records.begin("polars", rows=arguments.rows, rounds=arguments.rounds)
    file = content(arguments.rows)

    def everywhere() -> pl.DataFrame:
        return pl.read_csv(
            io.BytesIO(file), infer_schema_length=None, try_parse_dates=True, null_values=list(MISSING)
        )

    def ours() -> pl.DataFrame:
        return read_delimited("table.csv", file).frame

    assert ours().equals(everywhere())
    readers: dict[str, Callable[[], pl.DataFrame]] = {"ours": ours, "everywhere": everywhere}
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    draws = random.Random(0)
    for _ in range(arguments.rounds):
        for name in draws.sample(list(readers), len(readers)):
            began = time.perf_counter()
            readers[name]()
            seconds[name].append(time.perf_counter() - began)
    results["bytes"] = len(file)
    results["seconds"] = {name: records.spread(values) for name, values in seconds.items()}
    results["times_as_fast"] = records.ratio(seconds["everywhere"], seconds["ours"])
    for name, found in results["seconds"].items():
        print(f"{name:10s} {records.said(found)} s")
    print(f"{records.said(results['times_as_fast'], '.1f')} times as fast")
    records.end(results, arguments.json)


if __name__ == "__main__":
    main()
