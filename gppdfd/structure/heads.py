"""How the heads of an extracted layer are laid out for the attention product.

Pruning inside heads leaves heads of unequal size. A loop over them is slow (1.2 to 2.6 times, product alone), padding
all to the widest makes the projections compute the padding, and kernels want multiples of 8 dims. So heads of about one
size are multiplied together:

* a head's width is the larger of its query and value rows, rounded up to a multiple of 8 (never above the dense size);
  heads of one width form a group, and each group is one product;
* all heads without queries share one: each of them averages its values over the tokens that it may see, so their values
  lie side by side as one wide head; the softmax is taken once, or not at all where the mask alone gives the weights.

`benchmarks/attention_layout.py` compares this with one padded product and with a loop.
"""

from dataclasses import dataclass
from functools import cached_property

from gppdfd.padding import padded_size
from gppdfd.structure.base import Keep, Structure


@dataclass(frozen=True)
class Group:
    """Heads of one width, by their position among the kept heads."""

    width: int
    heads: tuple[int, ...]

    @property
    def size(self) -> int:
        """Dims of the whole group."""
        return self.width * len(self.heads)


@dataclass(frozen=True)
class Heads:
    """The kept heads of one layer.

    Attributes:
        head_size: dims of a dense head.
        pair: rows of one `qk` unit.
        units: by kept head, the `qk` units that are left.
        vo: by kept head, the number of value rows that are left.
    """

    head_size: int
    pair: int
    units: tuple[tuple[int, ...], ...]
    vo: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.vo)

    @property
    def whole(self) -> bool:
        """Whether there are heads and all have all their dims, so that the dense model's own code can run them."""
        return len(self) > 0 and all(rows == self.head_size for rows in (*self.qk, *self.vo))

    @property
    def qk(self) -> tuple[int, ...]:
        """By kept head, the number of query rows that are left."""
        return tuple(len(units) * self.pair for units in self.units)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Heads that have queries, narrow ones first."""
        widths = {head: self._width(head) for head in range(len(self)) if self.qk[head]}
        return tuple(
            Group(width, tuple(head for head in widths if widths[head] == width))
            for width in sorted({*widths.values()})
        )

    @cached_property
    def averaging(self) -> Group | None:
        """Heads without queries, as one wide head."""
        heads = tuple(head for head in range(len(self)) if not self.qk[head])
        together = sum(self.vo[head] for head in heads)
        return Group(padded_size(together, len(heads) * self.head_size), heads) if heads else None

    @property
    def attending_size(self) -> int:
        """Dims of all groups."""
        return sum(group.size for group in self.groups)

    @property
    def averaged_size(self) -> int:
        """Dims of the wide head."""
        return self.averaging.width if self.averaging else 0

    def _width(self, head: int) -> int:
        widest = max(self.qk[head], self.vo[head])
        return padded_size(widest, self.head_size)


def heads_of(structure: Structure, settled: Keep, layer: int) -> Heads:
    """The heads that a settled keep leaves in one layer."""
    kept = settled["head"][layer]
    return Heads(
        head_size=structure.head_size,
        pair=structure.pair,
        units=tuple(tuple(units.nonzero().flatten().tolist()) for units in settled["qk"][layer][kept]),
        vo=tuple(settled["vo"][layer][kept].sum(-1).tolist()),
    )
