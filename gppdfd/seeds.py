"""Named random streams: every drawn thing has its own seed, so adding one never moves the others."""

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Seed of the stream called `names` of run seed `seed`: 63 bits of a sha256, the same on every machine."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """CPU generator of the stream called `names` of run seed `seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
