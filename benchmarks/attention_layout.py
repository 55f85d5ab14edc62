"""Heads of unequal size in the attention product: one padded product, one product per size, or a loop over heads.

    python -m benchmarks.attention_layout

Times the product alone (scaled_dot_product_attention with a padding mask) for the head sizes that pruning inside heads
leaves, and prints medians in milliseconds. `padded` is what extraction does.
"""

import argparse
from collections.abc import Callable
from itertools import groupby

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.benchmark import Timer

CASES = {
    "12 heads of 32": [(32, 32)] * 12,
    "4 heads of 8": [(8, 8)] * 4,
    "query 3, value 5, 12 heads": [(3, 5)] * 12,
    "4 heads, 2 to 20": [(2, 20), (20, 4), (7, 9), (12, 12)],
    "12 heads, 1 to 32": [(1 + 5 * i % 32, 1 + 7 * i % 32) for i in range(12)],
    "6 heads, one wide": [(2, 3)] * 5 + [(32, 32)],
}

Heads = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def make(sizes: list[tuple[int, int]], batch: int, tokens: int) -> Heads:
    """Query, key [batch, 1, tokens, qk] and value [batch, 1, tokens, vo] of every head."""
    return [
        (torch.randn(batch, 1, tokens, qk), torch.randn(batch, 1, tokens, qk), torch.randn(batch, 1, tokens, vo))
        for qk, vo in sizes
    ]


def padded(heads: Heads, mask: torch.Tensor, multiple: int) -> Callable[[], torch.Tensor]:
    """One product; every head padded to the widest, rounded up to a multiple."""
    widest = max(part.shape[-1] for head in heads for part in head)
    width = -(-widest // multiple) * multiple
    query, key, value = (
        torch.cat([pad(part, (0, width - part.shape[-1])) for part in parts], 1) for parts in zip(*heads, strict=True)
    )
    return lambda: scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.1)


def grouped(heads: Heads, mask: torch.Tensor, multiple: int) -> Callable[[], list[torch.Tensor]]:
    """One padded product per size, rounded up to a multiple."""

    def rounded(head: tuple[torch.Tensor, ...]) -> int:
        return -(-max(part.shape[-1] for part in head) // multiple)

    groups = [list(group) for _, group in groupby(sorted(heads, key=rounded), key=rounded)]
    products = [padded(group, mask, multiple) for group in groups]
    return lambda: [product() for product in products]


def looped(heads: Heads, mask: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
    """One product per head at its own size."""
    return lambda: [scaled_dot_product_attention(*head, attn_mask=mask, scale=0.1) for head in heads]


def milliseconds(product: Callable) -> float:
    with torch.inference_mode():
        return Timer("product()", globals={"product": product}).blocked_autorange(min_run_time=0.5).median * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mask = torch.ones(options.batch, 1, options.tokens, options.tokens, dtype=torch.bool)
    columns = ("padded to 8", "padded", "per size of 8", "loop over heads")
    print(f"{'milliseconds':28}" + "".join(f"{column:>17}" for column in columns))
    for name, sizes in CASES.items():
        heads = make(sizes, options.batch, options.tokens)
        products = [padded(heads, mask, 8), padded(heads, mask, 1), grouped(heads, mask, 8), looped(heads, mask)]
        print(f"{name:28}" + "".join(f"{milliseconds(product):17.2f}" for product in products), flush=True)


if __name__ == "__main__":
    main()
