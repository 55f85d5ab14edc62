"""Makes transformers' Auto classes know extracted models, without importing transformers.

`import gppdfd` must stay cheap (reports are made without torch), yet afterwards `AutoModel...from_pretrained` has to
load a pruned folder, whichever of the two packages was imported first. So if transformers' Auto classes are not there
yet, registration waits for the moment when they have been imported.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO = "transformers.models.auto.modeling_auto"


def register_when_imported() -> None:
    """Register now if the Auto classes are loaded, else as soon as they are."""
    if AUTO in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    """Importing the pruned classes registers them; where that import is what brought us here, it will."""
    import_module("gppdfd.pruned")


class _Finder(MetaPathFinder):
    """Finds the module of the Auto classes as Python would, with a loader that registers afterwards."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()
