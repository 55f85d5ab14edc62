"""Budget, masks and extraction, against the modules themselves and torch's own FLOP counter."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

from gppdfd.budget import Target, forward_flops, kept_parameters, unreachable
from gppdfd.errors import DataError, UsageError
from gppdfd.extraction import CONFIG_FIELD, disagreement, extract, load, save
from gppdfd.masks import MaskedEncoder, masked
from gppdfd.structure import Structure, adapter_for, structure_of
from gppdfd.views import Observed
from tests.tiny import random_keep, tiny_data, tiny_model

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "electra")
BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)


def test_bert_base_has_the_published_number_of_prunable_parameters() -> None:
    assert BERT_BASE.prunable == 85_017_600
    assert BERT_BASE.cost("head") == 196_800
    assert BERT_BASE.cost("ffn") == 1_537


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_extracted_equals_masked(model_type: str, attention: str, share: float) -> None:
    """Also with nothing left in any layer (share 0)."""
    model = tiny_model(model_type, attention=attention).double().eval()
    keep = random_keep(model, share)
    batches = [tiny_data().batch(torch.arange(7)), tiny_data().batch(torch.arange(7, 9))]
    assert disagreement(model, extract(model, keep), keep, batches) < 1e-10


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_keep_extracts(data: st.DataObject) -> None:
    """Random keeps, whole sublayers emptied at will: logits and hidden states agree, and so do counts."""
    model = tiny_model().double().eval()
    structure = structure_of(model)
    keep = {}
    for kind in ("head", "ffn"):
        layers, units = structure.shape(kind)
        rows = data.draw(st.lists(st.sampled_from(["none", "one", "some", "all"]), min_size=layers, max_size=layers))
        random = torch.rand(layers, units, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))) < 0.5
        one = torch.arange(units) == data.draw(st.integers(0, units - 1))
        choices = {"none": torch.zeros(units, dtype=torch.bool), "one": one, "all": torch.ones(units, dtype=torch.bool)}
        keep[kind] = torch.stack([choices.get(row, random[index]) for index, row in enumerate(rows)])
    small = extract(model, keep)
    batch = tiny_data().batch(torch.arange(6))
    needs = frozenset({"hidden_states"})
    with torch.no_grad(), masked(model, {kind: units.double() for kind, units in keep.items()}):
        expected = Observed(model, needs)(batch)
    with torch.no_grad():
        found = Observed(small, needs)(batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-10)
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    dense, left = (sum(p.numel() for p in net.parameters()) for net in (model, small))
    assert dense - left == structure.prunable - kept_parameters(structure, keep)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_flops_equal_torchs_counter(share: float) -> None:
    model = tiny_model(attention="eager").eval()
    keep = random_keep(model, share)
    small, tokens = extract(model, keep), 9
    inputs = torch.ones(1, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(input_ids=inputs)
    pooler_and_head = 2 * 32 * 32 + 2 * 32 * 3
    assert counter.get_total_flops() == forward_flops(structure_of(model), keep, tokens) + pooler_and_head


def test_removed_masks_leave_the_model_as_it_was() -> None:
    model, batch = tiny_model().eval(), tiny_data().batch(torch.arange(3))
    before = Observed(model)(batch).logits
    encoder = MaskedEncoder(model)
    encoder.masks = {kind: units.float() * 0.3 for kind, units in random_keep(model).items()}
    assert not torch.equal(Observed(model)(batch).logits, before)
    encoder.remove()
    assert torch.equal(Observed(model)(batch).logits, before)


def test_mask_gradients_are_float32_under_autocast() -> None:
    model = tiny_model()
    masks = {kind: values.requires_grad_() for kind, values in structure_of(model).ones(("head", "ffn")).items()}
    with masked(model, masks), torch.autocast("cpu", torch.bfloat16):
        loss = Observed(model)(tiny_data().batch(torch.arange(8))).logits.square().mean()
    loss.backward()
    assert all(values.grad.dtype == torch.float32 for values in masks.values())
    assert all(bool((values.grad != 0).any()) for values in masks.values())


def test_extraction_leaves_the_dense_model_alone() -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extract(model, random_keep(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model.config, CONFIG_FIELD)


@pytest.fixture
def saved(tmp_path):
    model = tiny_model().eval()
    small = extract(model, random_keep(model, 0.4))
    save(small, tmp_path / "model")
    return small, tmp_path / "model"


def test_config_carries_the_structure(saved) -> None:
    small, folder = saved
    description = json.loads((folder / "config.json").read_text())[CONFIG_FIELD]
    layers = adapter_for(small).layers(small)
    assert [len(heads) for heads in description["head"]] == [layer.query.out_features // 8 for layer in layers]
    assert description["ffn"] == [layer.ffn_up.out_features for layer in layers]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"head": [[0], [1]]}, "does not fit the model"),
        ({"head": [[7], [0], [0]]}, "does not fit the model"),
        ({"ffn": [1, 1, 1]}, "weights do not fit"),
    ],
)
def test_tampered_structure_is_refused(saved, change: dict, message: str) -> None:
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    config[CONFIG_FIELD] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=message):
        load(folder)


def test_damaged_or_missing_weights_are_refused(saved) -> None:
    _, folder = saved
    (folder / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(DataError, match="cannot be read"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing"):
        load(folder)


def test_unknown_architecture_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match="'t5', which is no supported encoder"):
        adapter_for(AutoConfig.for_model("t5"))


def test_target_outside_zero_and_one_is_refused() -> None:
    for value in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match="sparsity must be in"):
            Target(value)


def test_unreachable_target_says_why() -> None:
    assert unreachable(BERT_BASE, Target(0.95)) is None
    assert "output biases alone" in str(unreachable(Structure(1, 8, 1, 8, 1), Target(0.99)))


def test_extraction_of_a_real_shape_keeps_the_formula() -> None:
    config = BertConfig(hidden_size=96, num_hidden_layers=2, num_attention_heads=6, intermediate_size=50, vocab_size=30)
    model = AutoModelForSequenceClassification.from_config(config)
    keep = random_keep(model, 0.3)
    linear = [m for m in extract(model, keep).base_model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(p.numel() for m in linear for p in m.parameters()) == kept_parameters(structure_of(model), keep)


def test_embeddings_are_counted_apart() -> None:
    model = tiny_model()
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    weights = sum(table.weight.numel() for table in tables)
    assert adapter_for(model).embedding_parameters(model) == weights + 2 * 32  # and their LayerNorm
