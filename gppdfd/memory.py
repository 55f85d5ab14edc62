"""Peak memory: of a forward pass, of a whole stretch of work."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet, finalize

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(forward: Callable[[], Any], device: torch.device) -> int:
    """Bytes that a forward pass holds at its peak, on top of the model and its inputs.

    CUDA: what the allocator says. CPU: tensors alive after each operator, so what a kernel allocates and frees within
    itself is not in it; unlike the resident size of the process it does not depend on what ran before.
    """
    if device.type == "cuda":
        return _peak_cuda(forward, device)
    with torch.inference_mode(), LiveBytes() as live:
        forward()
    return live.peak


def _peak_cuda(forward: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.inference_mode():
        forward()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


class PeakMemory:
    """Most memory that this process has held since this object was made; one at a time.

    CUDA: what the allocator says. CPU: the largest resident size, libraries and data included, where the system counts
    it anew (Linux).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._counts = device.type == "cuda" or _restart_resident_peak()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def bytes(self) -> int | None:
        """The peak so far; None where it cannot be known."""
        if not self._counts:
            return None
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _resident_peak()


def _restart_resident_peak() -> bool:
    """Let Linux count the largest resident size from now on (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


class LiveBytes(TorchDispatchMode):
    """Sums the storages made under it: `now` those still alive, `peak` the largest sum seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: WeakSet[torch.UntypedStorage] = WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What comes in without having been made here is a weight or an input; views of it are no new memory.
        self._known.update(_storages((args, kwargs)))
        output = func(*args, **(kwargs or {}))
        for storage in _storages(output):
            self._add(storage)
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor))
