"""Names, options and registry; and a pin on every default."""

import pytest
import torch
from pydantic import BaseModel

from gppdfd import interface
from gppdfd.errors import UsageError
from gppdfd.files import canonical_json, hash_text
from gppdfd.interface import Distiller, Method, distillers, named_methods, parse_method, pruners, register_pruner
from gppdfd.settings import TrainingConfig

# A default that changes makes other results under the same name. When this test fails, raise the REVISION
# (`revision`) of the class, or the schema version for training settings, and pin the new hash here.
DEFAULTS = {
    "training": "456888e27f",
    "pruner depth r2": "e55b999fae",
    "pruner cap-f r1": "3b892c90ad",
    "pruner first-order r1": "dea94a4a13",
    "pruner gpp r1": "02af597f28",
    "pruner grain r2": "170039ebfe",
    "pruner l0 r3": "ef5e496d73",
    "pruner magnitude r1": "409f6a1dca",
    "pruner magnitude-weight r1": "6b32d986e0",
    "pruner movement r1": "5a0cbe77ce",
    "pruner none r1": "44136fa355",
    "pruner random r1": "409f6a1dca",
    "distiller contrastive r1": "d58d2b0632",
    "pruner soft-movement r1": "e2fc2f014b",
    "pruner upop r1": "518da35715",
    "pruner uniform r1": "67c9138294",
    "distiller alp-kd r1": "ae645efc9e",
    "distiller dfd r1": "7cf8285a26",
    "distiller distilbert r1": "64a87b9c48",
    "distiller fcd r1": "2216fb8d93",
    "distiller grain r1": "d3bea72676",
    "distiller layerwise r1": "1bbfdb1443",
    "distiller logits r1": "bc982ffe51",
    "distiller minilm r1": "1dc544eb9d",
    "distiller minilmv2 r1": "8a3c0634c5",
    "distiller none r1": "fb6a992811",
    "distiller one-to-one r1": "01d7b2d72c",
    "distiller pkd r1": "a85ced241e",
    "distiller reviewkd r2": "77339b1d7d",
    "distiller tinybert r1": "dac0c576df",
}


def test_every_pair_parses_and_has_its_identity() -> None:
    for pruner in pruners():
        for distiller in distillers():
            method = parse_method(f"{pruner}+{distiller}")
            assert method.identity()["pruner"]["name"] == pruner
            assert method.identity()["distiller"]["name"] == distiller


def test_every_named_method_parses() -> None:
    for name in named_methods():
        assert isinstance(parse_method(name), Method)


def test_options_are_typed_and_spaces_do_not_matter() -> None:
    method = parse_method("gpp( mask = hard_gradual )+dfd(teacher_fusion=off,window=2)")
    assert method.pruner_config.mask == "hard_gradual"
    assert method.distiller_config.teacher_fusion is False
    assert method.distiller_config.window == 2


def test_a_default_written_out_is_the_same_method() -> None:
    assert parse_method("gpp(mask=progressive)+dfd(window=3)").identity() == parse_method("gpp+dfd").identity()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gp+dfd", "unknown pruner 'gp'. Did you mean 'gpp'"),
        ("gpp+dfq", "unknown distiller 'dfq'. Did you mean 'dfd'"),
        ("gpp(maks=hard_once)+dfd", "Did you mean 'mask'"),
        ("gpp(mask=soft)+dfd", "'progressive', 'hard_gradual' or 'hard_once'"),
        ("gpp(mask)+dfd", "write option=value"),
        ("gpp(mask=@a)+dfd", "option 'mask' of 'gpp(mask=@a)' is no valid YAML"),
        ("gpp(mask=2020-13-01)+dfd", "is no valid YAML: month must be in 1..12"),
        ("gpp(mask=hard_once,mask=progressive)+dfd", "option 'mask' is there twice"),
        ("gpp(mask=hard_once)x+dfd", "write gpp(option=value, ...)"),
        ("gpp+dfd(soft_weight=.nan)", "finite number"),
        ("gpp+dfd(soft_weight=.inf)", "finite number"),
        ("gpp+dfd(window=9)", "less than or equal to 5"),
        ("denes", "Did you mean 'dense'"),
        ("gpp+dfd+none", "unknown method"),
    ],
)
def test_bad_methods_name_the_way_out(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_method(text)
    assert message in str(error.value)


def test_second_registration_is_refused() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        register_pruner("gpp")(pruners()["gpp"])


def test_a_method_of_ones_own_is_one_class(monkeypatch) -> None:
    """A user's pruner, as a package of theirs would register it through the entry point."""
    monkeypatch.setattr(interface, "_pruners", dict(pruners()))

    @register_pruner("every-other")
    class EveryOther(interface.Pruner):
        searches = False

        def masks(self, step: int) -> None:
            return None

        def keep(self):
            keep = self.setting.structure.keep_all()
            keep["ffn"][:, ::2] = False
            return keep

    assert parse_method("every-other+logits").pruner is EveryOther
    assert pinned_defaults() == DEFAULTS


def test_every_class_names_its_source() -> None:
    for cls in (*pruners().values(), *distillers().values()):
        assert cls.reference, cls
        assert cls.__doc__, cls


def test_distiller_weights_follow_its_config() -> None:
    made: Distiller = distillers()["dfd"](parse_method("none+dfd(soft_weight=0.5,task_weight=0)").distiller_config)
    assert [made.weight(part) for part in ("task", "soft", "features", "pruner")] == [0, 0.5, 1, 1]


def defaults_of(config: type[BaseModel]) -> str:
    return hash_text(canonical_json(config().model_dump(mode="json")))[:10]


def pinned_defaults() -> dict[str, str]:
    """Of the project's own classes; those of other packages that are installed here pin theirs."""
    pins = {"training": defaults_of(TrainingConfig)}
    for what, table in (("pruner", pruners()), ("distiller", distillers())):
        own = {name: cls for name, cls in table.items() if cls.__module__.startswith(("gppdfd.", "baselines."))}
        pins |= {f"{what} {name} r{cls.revision}": defaults_of(cls.Config) for name, cls in sorted(own.items())}
    return pins


def test_no_default_changes_without_a_new_revision() -> None:
    assert pinned_defaults() == DEFAULTS


def test_torch_is_deterministic_about_the_derived_streams() -> None:
    from gppdfd.seeds import derive_seed, generator

    assert derive_seed(1, "init") == 7834928687991145425
    assert torch.equal(torch.rand(3, generator=generator(1, "a")), torch.rand(3, generator=generator(1, "a")))
    assert derive_seed(1, "a") != derive_seed(1, "b")
