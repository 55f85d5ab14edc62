"""Factorised word embeddings: what they compute, and that a model keeps them wherever it goes."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from gppdfd.card import model_card
from gppdfd.errors import DataError, UsageError
from gppdfd.extraction import disagreement, extract
from gppdfd.factorise import FactorisedEmbedding, embedding_rank, factorise, factors
from gppdfd.measure import parameters as measured
from gppdfd.onnx import export
from gppdfd.pruned import FIELD, kept, load_pruned, save
from gppdfd.structure import KINDS, adapter_for
from gppdfd.structure.kept import describe, read
from tests.tiny import MODEL_TYPES, main_output, random_keep, tiny_data, tiny_model

RANK = 6
TIED = [("bert", "MaskedLM"), ("gpt2", "CausalLM"), ("modernbert", "MaskedLM")]


def factorised(model_type: str = "bert", rank: int = RANK, **settings: Any) -> Any:
    model = tiny_model(model_type, **settings).eval()
    factorise(model, rank)
    return model


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_no_product_of_that_rank_is_nearer(tokens: int, width: int, seed: int, data: st.DataObject) -> None:
    """The squared error is the sum of the squared singular values that were dropped (Eckart and Young)."""
    rank = data.draw(st.integers(1, min(tokens, width)))
    weight = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    table, widening = factors(weight, rank)
    assert table.shape == (tokens, rank)
    assert widening.shape == (width, rank)
    dropped = torch.linalg.svdvals(weight)[rank:]
    assert float((weight - table @ widening.t()).norm()) == pytest.approx(float(dropped.norm()), abs=1e-10)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_full_rank_changes_nothing(model_type: str) -> None:
    model = tiny_model(model_type).eval()
    width = model.get_input_embeddings().embedding_dim
    torch.testing.assert_close(main_output(factorised(model_type, width)), main_output(model), rtol=0, atol=1e-5)


def test_bert_base_holds_the_published_number_of_parameters() -> None:
    config = transformers.BertConfig(num_hidden_layers=0)
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    adapter = adapter_for(model)
    assert adapter.embedding_parameters(model) == 23_837_184
    factorise(model, 192)
    assert adapter.embedding_parameters(model) == 6_403_968


@pytest.mark.parametrize("kinds", [("qk", "vo", "ffn"), KINDS])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_masked_extracted_and_loaded_models_compute_the_same(model_type: str, kinds: Any, tmp_path: Path) -> None:
    model = factorised(model_type)
    keep = random_keep(model, 0.6, kinds=kinds)
    small = extract(model, keep)
    assert disagreement(model, small, keep, [tiny_data().batch(torch.arange(6))]) < 1e-5
    save(small, tmp_path / "model")
    for loaded in (
        load_pruned(tmp_path / "model"),
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model"),
    ):
        assert torch.equal(main_output(loaded), main_output(small))
        assert isinstance(loaded.get_input_embeddings(), FactorisedEmbedding)
        assert embedding_rank(loaded) == embedding_rank(small) == RANK


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_soft_hidden_masks_are_folded_into_the_map(model_type: str) -> None:
    model = factorised(model_type).double()
    keep = random_keep(model, 0.6, kinds=("hidden",))
    masks = {"hidden": (keep["hidden"] * torch.rand(32)).double()}
    small = extract(model, keep, masks)
    assert disagreement(model, small, keep, [tiny_data().batch(torch.arange(6))], masks) < 1e-10


@pytest.mark.parametrize("model_type", ["bert", "electra", "gpt2"])
def test_every_parameter_is_counted_once(model_type: str) -> None:
    model = factorised(model_type)
    small = extract(model, random_keep(model, 0.6, kinds=KINDS))
    for each in (model, small):
        assert measured(each).total == sum(parameter.numel() for parameter in each.parameters())
    assert measured(small).embeddings < measured(extract(tiny_model(model_type), kept(small))).embeddings


@pytest.mark.parametrize(
    ("model_type", "kinds"), [("bert", KINDS), pytest.param("gpt2", ("qk", "vo", "ffn"), marks=pytest.mark.full)]
)
def test_onnx_files_compute_the_same(model_type: str, kinds: tuple[str, ...], tmp_path: Path) -> None:
    model = factorised(model_type)
    assert export(extract(model, random_keep(model, 0.6, kinds=kinds)), tmp_path / "small.onnx").is_file()


@pytest.mark.parametrize(("model_type", "task"), TIED)
def test_tied_output_embeddings_become_a_table_of_their_own(model_type: str, task: str, tmp_path: Path) -> None:
    model = tiny_model(model_type, task=task)
    before = model.get_output_embeddings().weight.detach().clone()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    factorise(model, RANK)
    assert torch.equal(model.get_output_embeddings().weight, before)
    assert model.config.tie_word_embeddings is False
    small = extract(model, random_keep(model))
    save(small, tmp_path / "model")
    assert torch.equal(main_output(load_pruned(tmp_path / "model")), main_output(small))


def test_both_factors_learn_and_padding_stays_where_it_is() -> None:
    model = factorised().train()
    embedding = model.get_input_embeddings()
    batch = tiny_data().batch(torch.arange(8))
    model(batch.input_ids, attention_mask=batch.attention_mask).logits.square().sum().backward()
    assert embedding.weight.grad.any()
    assert embedding.widening.weight.grad.any()
    assert not embedding.weight.grad[embedding.padding_idx].any()


def test_half_precision_stays_half_precision() -> None:
    table, widening = factors(torch.randn(9, 5).bfloat16(), 5)
    assert table.dtype == widening.dtype == torch.bfloat16


@pytest.mark.parametrize("rank", [0, 33, 61])
def test_ranks_that_cannot_be_are_refused_with_the_range(rank: int) -> None:
    with pytest.raises(UsageError, match="choose from 1 to 32 on this model"):
        factorise(tiny_model(), rank)


def test_factorising_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="factorised already"):
        factorise(factorised(), RANK)


def test_config_tells_the_rank_only_where_there_is_one() -> None:
    model = tiny_model()
    keep = random_keep(model)
    assert "embedding_rank" not in getattr(extract(model, keep).config, FIELD)
    factorise(model, RANK)
    small = extract(model, keep)
    assert getattr(small.config, FIELD)["embedding_rank"] == RANK
    assert f"of rank {RANK}" in model_card(small)


@pytest.mark.parametrize("rank", [0, -1, 33, "6", math.nan])
def test_damaged_ranks_are_refused(rank: Any) -> None:
    structure = adapter_for(tiny_model()).structure(tiny_model().config)
    description = {**describe(structure, {}), "embedding_rank": rank}
    with pytest.raises(DataError, match="pruned_structure in config"):
        read(copy.deepcopy(description), structure, "name")
