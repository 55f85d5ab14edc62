"""How long a report takes: `python benchmarks/report_time.py [--records 1000] [--examples 400]`.

Makes a store of invented runs with stored predictions and writes the report of it in a process of its own, so that
imports count too. `--examples` is the size of the dev sets.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from math import ceil
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.suites.fake_store import METHODS, SPLITS, TASKS, FakeStore, full_store  # noqa: E402

SPARSITIES = (0.5, 0.8, 0.95)


def invented(root: Path, records: int, examples: int) -> FakeStore:
    """At least `records` finished runs: eight tasks, eight methods, three sparsities and as many seeds as it takes."""
    per_seed = len(TASKS) * (1 + len(METHODS) * len(SPARSITIES))
    store = full_store(root, sparsities=SPARSITIES, seeds=range(1, 1 + ceil(records / per_seed)))
    random = np.random.default_rng(0)
    for row in store.plan:
        labels = np.random.default_rng(1).integers(0, 2, examples)
        answers = np.where(random.random(examples) < 0.85, labels, 1 - labels)
        if row["task"] == "stsb":
            labels = np.random.default_rng(1).normal(size=examples)
            answers = labels + random.normal(size=examples)
        for split in SPLITS.get(row["task"], ("validation",))[:1]:
            store.predict(row["run_id"], answers, labels, split)
    return store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = invented(Path(folder) / "runs", options.records, options.examples)
        command = ["suites.report", "glue_ablation", "--store", str(store.root), "--out", str(Path(folder) / "out")]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{len(store.plan)} records, {options.examples} examples: {wall:.1f} s by the clock, "
        f"{used.ru_utime + used.ru_stime:.1f} s of CPU, {used.ru_maxrss / 1e6:.2f} GB"
    )


if __name__ == "__main__":
    main()
