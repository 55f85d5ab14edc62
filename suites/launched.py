"""Which launch a command means: a suite by its name or file, and the preset that needs no naming. No torch."""

from pathlib import Path

from gppdfd.cli import yaml_value
from gppdfd.errors import UsageError, unknown
from suites.store import Store


def suite_name(given: str) -> str:
    """Name of a suite that is given by its name or by the path of its file.

    Raises:
        UsageError: a file that cannot be read or names no suite.
    """
    if not given.endswith((".yaml", ".yml")) and "/" not in given:
        return given
    try:
        content = yaml_value(Path(given).read_text(encoding="utf-8"), given)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"suite file {given} cannot be read: {error}") from None
    name = content.get("name") if isinstance(content, dict) else None
    if not isinstance(name, str):
        raise UsageError(f"{given} has no `name`: give the name under which the suite was launched")
    return name


def only_preset(store: Store, suite: str) -> str:
    """The preset that needs no naming: `micro`, or the only one that was launched.

    Raises:
        UsageError: none was launched, or several of which none is `micro`.
    """
    presets = store.presets(suite)
    if not presets:
        raise nothing_launched(store, suite)
    if len(presets) > 1 and "micro" not in presets:
        raise UsageError(f"--preset: choose from {', '.join(presets)}")
    return "micro" if "micro" in presets else presets[0]


def nothing_launched(store: Store, what: str) -> UsageError:
    known = [path.stem for path in store.plans("*")]
    if not known:
        return UsageError(f"nothing was launched into {store.root}: name another folder with --store?")
    return unknown(f"launch (suite-preset) in {store.root}", what, known)
