"""Masks and extraction: the small model computes what the masked one did, for every architecture, head and kind."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gppdfd.budget import parameters
from gppdfd.errors import UsageError
from gppdfd.extraction import disagreement, extract
from gppdfd.masks import MaskedEncoder, hold_zeros, masked, masked_layer_norm
from gppdfd.structure import KINDS, WEIGHT, Keep, Masks, adapter_for, structure_of
from gppdfd.structure.norms import unit_norms
from gppdfd.views import Observed
from tests.tiny import MODEL_TYPES, keeps, main_output, random_keep, tiny_data, tiny_inputs, tiny_model

KIND_SETS = [("head", "ffn"), ("qk", "vo", "ffn"), *((kind,) for kind in KINDS), KINDS]
HEADS = [
    (model_type, task)
    for model_type in MODEL_TYPES
    for task in ("", *adapter_for(CONFIG_MAPPING[model_type]()).tasks)
    if model_type != "xlm-roberta" or not task
]


def real(keep: Keep) -> Masks:
    return {kind: units.double() for kind, units in keep.items()}


def agree(found: torch.Tensor, expected: torch.Tensor, keep: Keep) -> None:
    """Equal at real tokens; hidden states of a model that lost hidden dims are compared at those that it has."""
    if found.shape != expected.shape:
        expected = expected[..., keep["hidden"]]
    if found.ndim > 2:
        tokens = tiny_inputs()["attention_mask"].bool()
        found, expected = found[tokens], expected[tokens]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kinds", KIND_SETS, ids=["+".join(kinds) for kinds in KIND_SETS])
@pytest.mark.parametrize(("model_type", "task"), HEADS, ids=[f"{m}-{t or 'Model'}" for m, t in HEADS])
def test_extracted_equals_masked(model_type: str, task: str, kinds: tuple[str, ...]) -> None:
    """With hard masks, and with soft ones folded into the weights. The masks change the output, so equality says it."""
    model = tiny_model(model_type, task=task, labels=2).double().eval()
    keep = random_keep(model, 0.6, kinds=kinds)
    soft = {kind: units * torch.rand(units.shape).double().clamp(min=0.05) for kind, units in keep.items()}
    before = main_output(model)
    for masks, small in ((real(keep), extract(model, keep)), (soft, extract(model, keep, soft))):
        with masked(model, masks):
            expected = main_output(model)
        agree(main_output(small), expected, keep)
        assert float((before - expected).abs().max()) > 1e-4


@settings(max_examples=60, deadline=None)
@given(model_type=st.sampled_from(MODEL_TYPES), data=st.data())
def test_any_keep_extracts(model_type: str, data: st.DataObject) -> None:
    """Whole sublayers gone, one unit left, one hidden dim: all that a view can carry agrees."""
    model = tiny_model(model_type).double().eval()
    keep = data.draw(keeps(structure_of(model)))
    needs = frozenset({"hidden_states", "projections", "sentence"})
    small, batch = extract(model, keep), tiny_data().batch(torch.arange(6))
    with torch.no_grad(), masked(model, real(keep)):
        expected = Observed(model, needs)(batch)
    with torch.no_grad():
        found = Observed(small, needs)(batch)
    # One hidden dim makes every LayerNorm's variance 0: rounding is then divided by the root of its epsilon.
    tolerance = 1e-10 if "hidden" not in keep or keep["hidden"].sum() > 1 else 1e-5
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=tolerance)
    tokens = batch.attention_mask.bool()
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours[tokens], theirs[tokens], rtol=0, atol=tolerance)
    for name in ("queries", "keys", "values"):
        for ours, theirs in zip(getattr(found, name), getattr(expected, name), strict=True):
            ours, theirs = ours.transpose(1, 2)[tokens], theirs.transpose(1, 2)[tokens]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.sentence, expected.sentence, rtol=0, atol=tolerance)
    assert all(torch.equal(found.there[kind], expected.there[kind]) for kind in found.there)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_float32_agrees_within_the_tolerance(model_type: str, attention: str) -> None:
    model = tiny_model(model_type, attention=attention).eval()
    keep = random_keep(model, 0.5, kinds=KINDS)
    assert disagreement(model, extract(model, keep), keep, [tiny_data().batch(torch.arange(9))]) < 1e-5


def test_masks_of_the_comparison_lie_where_the_model_does(monkeypatch) -> None:
    """A keep is on the CPU, and a product of it with states on a GPU would fail."""
    taken: list[Masks] = []
    monkeypatch.setattr("gppdfd.extraction.masked", lambda model, masks: taken.append(masks) or nullcontext())
    monkeypatch.setattr("gppdfd.extraction._logits", lambda model, batch: torch.ones(1))
    model = tiny_model().to("meta")
    disagreement(model, model, random_keep(model, kinds=KINDS), [tiny_data().batch(torch.arange(2))])
    assert {values.device for values in taken[0].values()} == {torch.device("meta")}


class Wrapper(nn.Module):
    """Stands around a projection as the adapters of fine-tuning libraries do; `added` is what it learnt."""

    def __init__(self, base: nn.Module, added: float) -> None:
        super().__init__()
        self.base, self.added = base, added

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.base(states) + self.added * states.square()[..., :1]


def query_paths(model: nn.Module) -> list[str]:
    names = ("query", "q_lin", "c_attn", "Wqkv")
    return [path for path, _ in model.named_modules() if path.rpartition(".")[2] in names]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_projections_can_be_replaced(model_type: str) -> None:
    """A wrapper is called, and another map of the same class is used."""
    model = tiny_model(model_type).double().eval()
    small = extract(model, random_keep(model, 0.6, kinds=("qk", "vo")))
    expected = main_output(small)
    places = query_paths(small)
    for added in (0.0, 0.5):
        wrapped = deepcopy(small)
        for path in places:
            wrapped.set_submodule(path, Wrapper(wrapped.get_submodule(path), added))
        assert torch.allclose(main_output(wrapped), expected, atol=1e-10) == (not added)
    replaced = deepcopy(small)
    for path in places:
        other = deepcopy(replaced.get_submodule(path))
        other.weight.data.mul_(2)
        replaced.set_submodule(path, other)
    assert not torch.allclose(main_output(replaced), expected, atol=1e-3)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_nobody_sees_the_sums_that_are_made_in_place(model_type: str) -> None:
    """Without gradients, all hidden states and what hooks see of the maps are those of the plain sums."""
    model = tiny_model(model_type).eval()
    small = extract(model, random_keep(model, 0.6, kinds=("head", "ffn")))
    expected = small(**tiny_inputs(), output_hidden_states=True).hidden_states
    places = [place for place in adapter_for(small).maps(small) if place.site.outputs in ("attention", "ffn")]
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        found = small(**tiny_inputs(), output_hidden_states=True).hidden_states
        handles = [place.module.register_forward_hook(lambda *call: seen.append(call[2])) for place in places]
        small(**tiny_inputs())
        copies = [states.clone() for states in seen]
        for handle in handles:
            handle.remove()
    with_gradients = [place.module.register_forward_hook(lambda *call: seen.append(call[2])) for place in places]
    small(**tiny_inputs())
    assert len(with_gradients) == len(copies) == len(seen) / 2
    for ours, theirs in zip((*found, *copies), (*expected, *seen[len(copies) :]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_sums_in_place_take_no_memory_and_keep_the_type(precision: torch.dtype) -> None:
    """Under autocast the map gives another type than the hidden states have, and the sum is theirs."""
    model = tiny_model().eval()
    keep = structure_of(model).keep_all(("ffn",))
    keep["ffn"][:, 24:] = False
    output = extract(model, keep).bert.encoder.layer[0].output
    places: list[int] = []
    output.LayerNorm.register_forward_pre_hook(lambda module, inputs: places.append(inputs[0].data_ptr()))
    output.dropout.forward = lambda states: places.append(states.data_ptr()) or states
    states, residual = torch.randn(2, 5, output.dense.in_features), torch.randn(2, 5, 32)
    before = residual.clone()
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        found = output(states, residual)
    assert (places[0] == places[1]) == (precision == torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(residual, before)


class Adapted(nn.Module):
    """Stands around a linear map as LoRA does, with maps of the sizes that it reports; it has learnt nothing yet."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.base(states) + self.up(self.down(states))


@pytest.mark.parametrize("kinds", [("head", "ffn"), ("qk", "vo", "ffn")])
@pytest.mark.parametrize("model_type", [model_type for model_type in MODEL_TYPES if model_type != "gpt2"])
def test_all_linear_maps_but_padded_ones_can_be_adapted(model_type: str, kinds: tuple[str, ...]) -> None:
    model = tiny_model(model_type)
    small = extract(model, random_keep(model, 0.6, kinds=kinds))
    expected = main_output(small)
    maps = {path: type(module).__name__ for path, module in small.named_modules() if isinstance(module, nn.Linear)}
    for path in (path for path, name in maps.items() if not name.startswith("Padded")):
        small.set_submodule(path, Adapted(small.get_submodule(path)))
    assert {*maps.values()} == {"Linear", "PaddedLinear"}
    torch.testing.assert_close(main_output(small), expected)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_hooks_on_projections_are_called(model_type: str) -> None:
    """Also those that prune a map: its weight is then computed right before its forward pass."""
    model = tiny_model(model_type).double().eval()
    small = extract(model, random_keep(model, 0.6, kinds=("qk", "vo")))
    expected, called = main_output(small), []
    projections = [small.get_submodule(path) for path in query_paths(small)]
    handles = [each.register_forward_hook(lambda *_: called.append(1)) for each in projections]
    torch.testing.assert_close(main_output(small), expected)
    assert len(called) == len(projections)
    for handle in handles:
        handle.remove()
    for each in projections:
        prune.identity(each, "weight")
        each.weight_mask[:] = 0
    found = main_output(small)
    for each in projections:
        prune.remove(each, "weight")
    torch.testing.assert_close(found, main_output(small))
    assert not torch.allclose(found, expected, atol=1e-3)


def test_a_view_of_projections_leaves_them_one_product() -> None:
    small = extract(tiny_model(), random_keep(tiny_model(), 0.6, kinds=("qk", "vo")))
    observed = Observed(small, frozenset({"projections"}))
    assert not any(small.get_submodule(path)._forward_hooks for path in query_paths(small))
    assert observed(tiny_data().batch(torch.arange(2))).queries


@pytest.mark.parametrize("kinds", [("head", "ffn"), ("qk", "vo", "ffn")])
def test_weights_can_be_offloaded(kinds: tuple[str, ...]) -> None:
    accelerate = pytest.importorskip("accelerate")
    small = extract(tiny_model(), random_keep(tiny_model(), 0.6, kinds=kinds))
    expected = main_output(small)
    accelerate.cpu_offload(small, execution_device="cpu")
    torch.testing.assert_close(main_output(small), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_heads_without_queries_average_over_what_a_token_may_see(model_type: str, padded: bool, training: bool) -> None:
    """With and without the softmax, under causal, local and padding masks and under none."""
    model = tiny_model(model_type).double().train(training)
    keep = structure_of(model).keep_all(("qk", "vo"))
    keep["qk"][:] = False
    keep["qk"][1, 2, 0] = True  # beside one head that attends, and alone
    keep["vo"][:, 1, 3:] = False
    inputs = tiny_inputs()
    if not padded:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    tokens = inputs["attention_mask"].bool()
    with torch.no_grad(), masked(model, real(keep)):
        expected = model.base_model(**inputs).last_hidden_state
    with torch.no_grad():
        found = extract(model, keep).train(training).base_model(**inputs).last_hidden_state
    torch.testing.assert_close(found[tokens], expected[tokens], rtol=0, atol=1e-10)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gradients_of_the_small_model_are_those_of_the_masked_one(model_type: str) -> None:
    model = tiny_model(model_type).double().eval()
    keep = random_keep(model, 0.5, kinds=("head", "qk", "vo", "ffn"))
    small, batch = extract(model, keep), tiny_data().batch(torch.arange(6))
    with masked(model, real(keep)):
        Observed(model)(batch).logits.square().sum().backward()
    Observed(small)(batch).logits.square().sum().backward()
    pairs = zip(model.get_input_embeddings().parameters(), small.get_input_embeddings().parameters(), strict=True)
    for dense, ours in pairs:
        # ModernBERT turns queries and keys in float32 whatever the model's precision.
        tolerance = 1e-6 if model_type == "modernbert" else 1e-11
        torch.testing.assert_close(ours.grad, dense.grad, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_kind_of_mask_gets_a_gradient(model_type: str) -> None:
    """In float32 also under autocast."""
    model = tiny_model(model_type)
    masks = {kind: values.requires_grad_() for kind, values in structure_of(model).ones(KINDS).items()}
    with masked(model, masks), torch.autocast("cpu", torch.bfloat16):
        loss = Observed(model)(tiny_data().batch(torch.arange(8))).logits.square().mean()
    loss.backward()
    for kind, values in masks.items():
        assert values.grad.dtype == torch.float32, kind
        assert bool((values.grad != 0).any()), kind


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_masks_of_ones_change_nothing(model_type: str) -> None:
    model, batch = tiny_model(model_type).double().eval(), tiny_data().batch(torch.arange(8))
    with torch.no_grad():
        expected = Observed(model)(batch).logits
        with masked(model, real(structure_of(model).keep_all(KINDS))):
            torch.testing.assert_close(Observed(model)(batch).logits, expected, rtol=0, atol=1e-12)


def test_masked_layer_norm_is_torchs_on_the_kept_dims() -> None:
    norm, states = torch.nn.LayerNorm(9).double(), torch.randn(4, 9).double()
    torch.nn.init.normal_(norm.weight)
    kept = torch.arange(9) % 3 != 0
    mask = torch.rand(9).double() * kept
    expected = torch.nn.functional.layer_norm(states[:, kept], (6,), norm.weight[kept], norm.bias[kept]) * mask[kept]
    found = masked_layer_norm(norm, states, mask)
    torch.testing.assert_close(found[:, kept], expected)
    assert not found[:, ~kept].any()


def test_removed_masks_leave_the_model_as_it_was() -> None:
    model, batch = tiny_model().eval(), tiny_data().batch(torch.arange(3))
    before = Observed(model)(batch).logits
    encoder = MaskedEncoder(model)
    encoder.masks = {kind: units.float() * 0.3 for kind, units in random_keep(model, kinds=KINDS).items()}
    assert not torch.equal(Observed(model)(batch).logits, before)
    encoder.remove()
    assert torch.equal(Observed(model)(batch).logits, before)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_extraction_leaves_the_dense_model_alone(model_type: str) -> None:
    """No weight of the small model is one of the dense model, so training one never changes the other."""
    model = tiny_model(model_type)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense = {parameter.data_ptr() for parameter in model.parameters()}
    small = extract(model, random_keep(model, kinds=("head", "ffn_layer")))
    assert not dense & {parameter.data_ptr() for parameter in small.parameters() if parameter.numel()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.model_type == model_type
    assert all(parameter.requires_grad for parameter in small.parameters())


@pytest.mark.parametrize(("model_type", "stays"), [("gpt2", True), ("bert", False), ("modernbert", False)])
def test_tied_embeddings_stay_tied_only_where_both_lose_the_same_dims(model_type: str, stays: bool) -> None:
    task = "CausalLM" if model_type == "gpt2" else "MaskedLM"
    model = tiny_model(model_type, task=task)
    inner = extract(model, random_keep(model))
    assert inner.get_input_embeddings().weight is inner.get_output_embeddings().weight
    small = extract(model, random_keep(model, kinds=("hidden",)))
    assert (small.get_input_embeddings().weight is small.get_output_embeddings().weight) == stays
    assert small.config.tie_word_embeddings == stays


def test_extraction_holds_no_third_copy() -> None:
    """Peak memory of an extraction that keeps everything but one unit: hardly more than the small model itself."""
    config = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, vocab_size=99
    )
    model = AutoModelForSequenceClassification.from_config(config)
    keep = structure_of(model).keep_all()
    keep["ffn"][0, 0] = False
    with Allocations(model) as allocated:
        small = extract(model, keep)
    size = sum(parameter.numel() * 4 for parameter in small.parameters())
    assert allocated.peak < 1.3 * size


class Allocations(TorchDispatchMode):
    """Highest number of bytes in tensors that were alive inside the block, those of `model` aside."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.alive = {key: value for key, value in alive.items() if key not in self.known}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def test_extraction_of_a_real_shape_keeps_the_formula() -> None:
    config = BertConfig(hidden_size=96, num_hidden_layers=2, num_attention_heads=6, intermediate_size=50, vocab_size=30)
    model = AutoModelForSequenceClassification.from_config(config)
    keep = random_keep(model, 0.3)
    linear = [m for m in extract(model, keep).base_model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(p.numel() for m in linear for p in m.parameters()) == parameters(structure_of(model), keep)


def test_extracting_twice_is_refused() -> None:
    model = tiny_model()
    small = extract(model, random_keep(model))
    with pytest.raises(UsageError, match="extracted already"):
        extract(small, random_keep(model))


def test_unknown_heads_are_refused_with_the_list() -> None:
    from transformers import BertForMultipleChoice

    model = BertForMultipleChoice(tiny_model().config)
    with pytest.raises(UsageError, match=r"BertForMultipleChoice cannot be extracted.*BertForSequenceClassification"):
        extract(model, random_keep(model))


def test_unknown_architecture_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match="'t5', which is no supported encoder"):
        adapter_for(AutoConfig.for_model("t5"))


def test_decoders_of_the_bert_family_are_refused() -> None:
    with pytest.raises(UsageError, match="is_decoder"):
        adapter_for(BertConfig()).structure(BertConfig(is_decoder=True))


def test_embeddings_are_counted_apart() -> None:
    model = tiny_model()
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    weights = sum(table.weight.numel() for table in tables)
    assert adapter_for(model).embedding_parameters(model) == weights + 2 * 32  # and their LayerNorm


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "modernbert"])
def test_unit_norms_are_those_of_what_extraction_removes(model_type: str) -> None:
    model = tiny_model(model_type).double()
    structure, norms = structure_of(model), unit_norms(model)
    for kind, unit in (("head", (1, 2)), ("ffn", (0, 5))):
        keep = structure.keep_all()
        keep[kind][unit] = False
        matrices = [
            sum(float(p.detach().square().sum()) for p in net.parameters() if p.ndim > 1)
            for net in (model, extract(model, keep))
        ]
        assert float(norms[kind][unit]) == pytest.approx((matrices[0] - matrices[1]) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_masks_of_single_weights(model_type: str) -> None:
    """Masked, zeroed and counted alike; the mask gets the gradient w * dL/dw, and the model is given back whole."""
    model = tiny_model(model_type).double().eval()
    structure, batch = structure_of(model), tiny_data().batch(torch.arange(6))
    names = list(model.state_dict())
    keep = {WEIGHT: torch.rand(structure.shape(WEIGHT)) < 0.3}
    mask = keep[WEIGHT].double().requires_grad_()
    with masked(model, {WEIGHT: mask}):
        expected = Observed(model)(batch).logits
        expected.square().sum().backward()
    small = extract(model, keep)
    torch.testing.assert_close(Observed(small)(batch).logits, expected, rtol=0, atol=1e-12)
    assert list(model.state_dict()) == list(small.state_dict()) == names  # in the same order
    maps = [weight for place in adapter_for(small).maps(small) for weight in place.module.parameters()]
    assert sum(int(weight.count_nonzero()) for weight in maps) == parameters(structure, keep)
    kept = small.get_parameter(f"{adapter_for(small).maps(small)[0].path}.weight")
    Observed(small)(batch).logits.square().sum().backward()
    found = mask.grad[: kept.numel()].view_as(kept)[kept != 0]
    torch.testing.assert_close(found, (kept * kept.grad)[kept != 0])


def test_zeros_stay_zeros_in_training() -> None:
    model = tiny_model()
    keep = {WEIGHT: torch.rand(structure_of(model).shape(WEIGHT)) < 0.3}
    small = extract(model, keep)
    optimizer = torch.optim.AdamW(small.parameters(), lr=0.1)
    handles = hold_zeros(small, keep)
    for _ in range(3):
        Observed(small)(tiny_data().batch(torch.arange(6))).logits.square().sum().backward()
        optimizer.step()
    weights = torch.cat([place.module.weight.flatten() for place in adapter_for(small).maps(small)])
    assert not weights[~keep[WEIGHT]].any()
    assert weights[keep[WEIGHT]].all()
    for handle in handles:
        handle.remove()


def test_single_weights_and_units_are_not_pruned_together() -> None:
    structure = structure_of(tiny_model())
    keep = {WEIGHT: torch.ones(structure.shape(WEIGHT), dtype=torch.bool)}
    with pytest.raises(ValueError, match="together with units of kind head"):
        parameters(structure, {**keep, "head": torch.zeros(structure.shape("head"), dtype=torch.bool)})


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_adapter_names_what_a_classifier_reads(model_type: str) -> None:
    model = tiny_model(model_type).eval()
    last: list[torch.Tensor] = []
    block = adapter_for(model).layers(model)[-1].block
    handle = block.register_forward_hook(
        lambda module, inputs, output: last.append((output if torch.is_tensor(output) else output[0]).requires_grad_())
    )
    inputs = tiny_inputs()
    logits = model(**inputs).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.square().sum(), last[0])
    read = gradient.abs().sum(-1) > 0
    ends = inputs["attention_mask"].sum(1) - 1
    place = torch.zeros(3, dtype=torch.long) if adapter_for(model).sentence in ("pooler", "first") else ends
    assert torch.equal(read, torch.nn.functional.one_hot(place, read.shape[1]).bool())
    assert (adapter_for(model).sentence == "pooler") == any("pooler" in name for name, _ in model.named_parameters())
