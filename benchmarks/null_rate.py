"""How often a method differs from itself: `python -m benchmarks.null_rate [--repeats 1000]`.

Invented answers of one method with different seeds, compared as the report compares two methods. Prints the share of
comparisons with p < .05, by the number of seeds and the standard deviation of the method's accuracy over seeds.
"""

import argparse

import numpy as np
from scipy.special import ndtri

from suites.examples import Predictions, bootstrap

ACCURACY, EXAMPLES = 0.8, 400
SEEDS, SPREADS = (1, 2, 3, 5), (0.0, 0.03, 0.08)
ALIKE = 0.7
"""Share of an example's difficulty that all runs have in common."""


def null_rate(seeds: int, spread: float, repeats: int) -> float:
    """Share of comparisons of a method with itself that have p < .05."""
    random = np.random.default_rng(0)
    found = 0
    for _ in range(repeats):
        common = random.normal(size=EXAMPLES)
        pairs = [(_run(common, spread, random), _run(common, spread, random)) for _ in range(seeds)]
        found += bootstrap(pairs, "accuracy").p < 0.05
    return found / repeats


def _run(common: np.ndarray, spread: float, random: np.random.Generator) -> Predictions:
    accuracy = np.clip(random.normal(ACCURACY, spread), 0.02, 0.98)
    difficulty = np.sqrt(ALIKE) * common + np.sqrt(1 - ALIKE) * random.normal(size=EXAMPLES)
    return Predictions(np.arange(EXAMPLES), np.ones(EXAMPLES), (difficulty < ndtri(accuracy)).astype(float))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    for seeds in SEEDS:
        rates = (f"{100 * spread:g} points: {100 * null_rate(seeds, spread, repeats):.1f} %" for spread in SPREADS)
        print(f"{seeds} seeds, spread {', '.join(rates)}")


if __name__ == "__main__":
    main()
