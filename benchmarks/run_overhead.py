"""What the suite itself takes per run in a warm worker: order, claim, log, heartbeat, commit, next order.

    python -m benchmarks.run_overhead --runs 200 --waiting 10000

The runs do nothing but write an empty record, so all that passes between the ends of two runs is overhead. It grows
with the number of waiting runs, among which the next one is looked for.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gppdfd.files import write_json
from suites.config import DataConfig, RunConfig
from suites.display import Display, Estimate
from suites.local import LocalLauncher, LocalSettings
from suites.plan import PlannedRun
from suites.store import Store


def nothing(config: RunConfig, folder: Path, *_: Any) -> None:
    """A run without work of its own."""
    write_json(folder / "record.json", {})


class Stopwatch(Display):
    """Notes when runs end, and stops the launch after enough of them."""

    def __init__(self, plan: list[PlannedRun], runs: int) -> None:
        super().__init__(plan, (), 1, Estimate())
        self.ends: list[float] = []
        self._runs = runs

    def done(self, run: PlannedRun, seconds: float | None) -> None:
        super().done(run, seconds)
        self.ends.append(time.perf_counter())
        if len(self.ends) > self._runs:
            raise KeyboardInterrupt

    @property
    def gaps(self) -> list[float]:
        """Seconds between the ends of two runs; the first one, which waits for the process, starts the watch."""
        return [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]


def planned(seed: int) -> PlannedRun:
    config = RunConfig(task="sst2", method="gpp+none", sparsity=0.8, seed=seed, model="micro", data=DataConfig())
    settings = config.model_dump(mode="json")
    return PlannedRun(config.run_id, "sst2", "gpp+none", "GPP", 0.8, seed, "student", 0, config=settings)


def measure(runs: int, waiting: int) -> list[float]:
    """Seconds per run in one warm worker."""
    plan = [planned(seed) for seed in range(waiting)]
    with tempfile.TemporaryDirectory() as folder:
        settings = LocalSettings(Store(Path(folder)), execute="benchmarks.run_overhead:nothing")
        watch = Stopwatch(plan, runs)
        with suppress(KeyboardInterrupt):
            LocalLauncher(plan, settings, watch).run()
    return watch.gaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="runs to measure")
    parser.add_argument("--waiting", type=int, default=1000, help="runs in the plan")
    options = parser.parse_args()
    gaps = measure(options.runs, options.waiting)
    slow = statistics.quantiles(gaps, n=20)[-1]
    print(f"{len(gaps)} runs of {options.waiting}: median {statistics.median(gaps):.3f} s, 95 % under {slow:.3f} s")


if __name__ == "__main__":
    main()
