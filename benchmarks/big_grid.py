"""How long a grid of 10,000 runs takes to be planned, previewed and shown: `python -m benchmarks.big_grid`.

The runs are stubs, folders with the files of finished, failed and running ones. Every command runs in a process of its
own, so its start counts. Seconds depend on the machine and on its file cache; they are for comparison with the limits
(status 2 s, plan a few seconds) and no test asserts them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from suites.claims import claim
from suites.plan import PlannedRun, make_plan, write_plan
from suites.sources import sources_hash
from suites.store import CONFIG, DONE, FAILED, RECORD, Progress, Store
from suites.suite import Request, load_suite

Result = TypeVar("Result")

SUITE = "extends: glue_ablation\nname: big\ntitle: A big grid\n"
PER_SEED = 136
FAILED_EVERY, RUNNING_EVERY, MISSING_EVERY = 50, 500, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="number of runs (default: %(default)s)")
    seeds = -(-parser.parse_args().runs // PER_SEED)
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), seeds)


def measure(folder: Path, seeds: int) -> None:
    """Time everything over a grid of so many seeds."""
    suite_file, store = folder / "big.yaml", Store(folder / "runs")
    suite_file.write_text(SUITE)
    request = Request(seeds=seeds)
    plan = timed("plan, first in its process", lambda: make_plan(load_suite(str(suite_file), request), request))
    timed("plan, once more", lambda: make_plan(load_suite(str(suite_file), request), request))
    timed("plan written", lambda: write_plan(plan, store.plan_path("big", "micro")))
    for number, run in enumerate(plan):
        stub(store, run, number)
    print(f"{len(plan)} runs")
    where = ["--store", str(store.root)]
    for title, line in {
        "suites.status": ["suites.status", "big", *where],
        "suites.status --json": ["suites.status", "big", *where, "--json"],
        "suites.run --dry-run": ["suites.run", str(suite_file), *where, "--seeds", str(seeds), "--dry-run"],
    }.items():
        timed(title, lambda line=line: subprocess.run([sys.executable, "-m", *line], check=True, capture_output=True))


def timed(title: str, act: Callable[[], Result]) -> Result:
    """Do something and print its seconds."""
    start = time.perf_counter()
    result = act()
    print(f"{title:28} {time.perf_counter() - start:6.2f} s", flush=True)
    return result


def stub(store: Store, run: PlannedRun, number: int) -> None:
    """Make the folder of one run, in one of the states."""
    if number % MISSING_EVERY == 1:
        return
    folder = store.folder(run.run_id)
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(run.config))
    if number % RUNNING_EVERY == 2:
        made = claim(store, run.run_id)
        if made is not None:
            made.beat(Progress("search", 10, 100, 2.5))
    elif number % FAILED_EVERY == 3:
        (folder / FAILED).write_text(json.dumps({"kind": "error", "reason": "no reason", "traceback": "line\n" * 20}))
    else:
        (folder / RECORD).write_text(json.dumps(record(run)))
        (folder / DONE).write_text(json.dumps({"token": "0" * 32, "seconds": 10.0 + number % 7, "finished": 0.0}))


def record(run: PlannedRun) -> dict[str, object]:
    """A record about as long as real ones of a 12-layer model."""
    kept = {kind: list(range(12)) for kind in ("head", "qk", "vo", "ffn", "mha_layer", "ffn_layer")}
    names = ("size", "latency", "timings", "environment")
    more = {name: {f"entry_{number}": 0.123456789 for number in range(14)} for name in names}
    return {"run_id": run.run_id, "scores": {}, "role": run.role, "steps": dict(run.steps), "kept": kept, **more,
            "config": run.config, "sources": sources_hash()}  # fmt: skip


if __name__ == "__main__":
    main()
