"""Forward passes that are measured: the layers alone compute what they compute within the model."""

import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from gppdfd.extraction import extract
from gppdfd.passes import Shape, eager_attention, encoder_pass, forward_pass, longest_input, prepared, random_inputs
from gppdfd.structure import adapter_for
from tests.tiny import VOCABULARY, random_keep, tiny_config, tiny_model

MODEL_TYPES = ("bert", "roberta", "electra")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("pruned", [False, True])
def test_layers_alone_give_the_last_hidden_state(model_type: str, pruned: bool) -> None:
    model = tiny_model(model_type).eval()
    model = extract(model, random_keep(model)) if pruned else model
    shape = Shape(3, 7)
    with torch.inference_mode():
        expected = model.base_model(**random_inputs(model, shape)).last_hidden_state
        found = encoder_pass(model, shape)()
    assert torch.equal(found, expected)


def test_layers_alone_do_not_run_the_embeddings() -> None:
    model = tiny_model().eval()
    run = encoder_pass(model, Shape(2, 5))
    adapter_for(model).embeddings(model).register_forward_hook(lambda *_: pytest.fail("embeddings ran"))
    run()


def test_inputs_have_no_padding() -> None:
    model = tiny_model("roberta")
    inputs = random_inputs(model, Shape(50, 30))
    tokens = inputs["input_ids"]
    assert tokens.shape == (50, 30)
    assert set(tokens.flatten().tolist()) == set(range(VOCABULARY)) - {model.config.pad_token_id}
    assert bool(inputs["attention_mask"].all())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_longest_input_runs_and_one_token_more_does_not(model_type: str) -> None:
    model = tiny_model(model_type).eval()
    longest = longest_input(model)
    forward_pass(model, Shape(1, longest))()
    with pytest.raises((IndexError, RuntimeError)):
        forward_pass(model, Shape(1, longest + 1))()


def test_positions_are_not_taken_for_a_vocabulary_of_the_same_size() -> None:
    config = tiny_config("bert")
    config.vocab_size = config.max_position_embeddings
    model = AutoModel.from_config(config)
    assert longest_input(model) == longest_input(config) == 40
    assert longest_input(tiny_config("roberta")) == 39


def test_model_comes_back_as_it_was() -> None:
    model = tiny_model().train()
    with pytest.raises(KeyboardInterrupt):
        interrupt_within(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert model.config.use_cache


def interrupt_within(model: PreTrainedModel) -> None:
    with prepared(model), eager_attention(model):
        assert not model.training
        assert not model.config.use_cache
        assert model.config._attn_implementation == "eager"
        raise KeyboardInterrupt
