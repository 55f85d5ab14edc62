"""Extracted (and dense) models as ONNX files: batch and length stay free, attention masks stay inputs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gppdfd.errors import DataError, UsageError
from gppdfd.files import write_atomically
from gppdfd.passes import eager_attention, longest_input
from gppdfd.structure import adapter_for

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What the extra `onnx` installs."""

OPSETS = range(18, 26)
"""Versions of the operator set that the exporter really writes and onnxruntime really runs."""

TOLERANCE = 1e-4
"""Largest difference between the outputs of the file and of the model, relative to max(1, the largest output)."""

TRACED = (2, 8)  # batch and length; both above 1, as the exporter takes a 1 for a constant
LONG = 160  # longer than the local attention of ModernBERT

Inputs = dict[str, torch.Tensor]


def export(model: PreTrainedModel, path: Path | str, *, opset: int = OPSETS[0], check: bool = True) -> Path:
    """Write `model` as one ONNX file, weights included.

    Inputs are int64 [batch, length] under the names that its tokenizer gives them: `input_ids`, `attention_mask` and,
    where the model tells segments apart, `token_type_ids`. Outputs are those of the model: `logits`, or `start_logits`
    and `end_logits`, or `last_hidden_state`. The model itself is not changed.

    Args:
        opset: version of the ONNX operator set.
        check: run the file with onnxruntime on other sizes than the traced ones before it gets its name.

    Returns:
        The path of the file.

    Raises:
        UsageError: the packages are not there, or `model` or `opset` cannot be exported.
        DataError: the file does not compute what the model does.
    """
    _check_request(model, opset)
    path = Path(path)
    with _plain(model):
        program = _trace(model, opset)
        write_atomically(path, lambda temporary: _write(program, model, temporary, check))
    return path


def difference(model: PreTrainedModel, path: Path | str, batch: int, length: int) -> float:
    """max|a - b| / max(1, max|b|) over outputs a of the file and b of `model`, on random sequences, all but one padded.

    What a model says of padding is arbitrary and is left out.
    """
    import onnxruntime

    inputs = _random_inputs(model, batch, length)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = session.run(None, {name: values.cpu().numpy() for name, values in inputs.items()})
    except Exception as error:  # onnxruntime's errors have no public base class
        raise DataError(f"onnxruntime cannot run the file: {error}") from error
    found = map(torch.from_numpy, outputs)
    with _plain(model):
        expected = [values.cpu() for values in _outputs(model, inputs).values()]
    real = inputs["attention_mask"].cpu().bool()
    pairs = [(_at(real, ours), _at(real, theirs)) for ours, theirs in zip(found, expected, strict=True)]
    scale = max(1.0, *(float(theirs.abs().max()) for _, theirs in pairs))
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs) / scale


def _check_request(model: PreTrainedModel, opset: int) -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX export needs {', '.join(missing)}: pip install 'gppdfd[onnx]'")
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} cannot be exported; choose from {OPSETS[0]} to {OPSETS[-1]}")
    if model.dtype != torch.float32:
        raise UsageError(f"a model in {model.dtype} cannot be exported: export model.float()")
    reads_last_token = adapter_for(model).sentence == "last" and "SequenceClassification" in type(model).__name__
    if reads_last_token and model.config.pad_token_id is None:
        raise UsageError("this classifier reads the last token before the padding: set model.config.pad_token_id")


def _trace(model: PreTrainedModel, opset: int) -> Any:
    inputs = _random_inputs(model, *TRACED)
    with eager_attention(model):  # `sdpa` would look for NaN in the weights of every head, in passes of their own
        return torch.onnx.export(
            model,
            kwargs=inputs,
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(_outputs(model, inputs)),
            dynamic_shapes={name: {0: "batch", 1: "length"} for name in inputs},
            verbose=False,
        )


def _write(program: Any, model: PreTrainedModel, path: Path, check: bool) -> None:
    program.save(str(path))
    sizes = ((1, TRACED[1] - 3), (3, min(LONG, longest_input(model)))) if check else ()
    for batch, length in sizes:
        apart = difference(model, path, batch, length)
        if not apart <= TOLERANCE:
            raise DataError(
                f"the ONNX file differs from the model by {apart:.1e} (more than {TOLERANCE:.0e}) "
                f"on {batch} x {length} tokens; nothing was written"
            )


def _random_inputs(model: PreTrainedModel, batch: int, length: int) -> Inputs:
    """Sequences of falling length, padded on the right: int64 [batch, length]."""
    config = model.config
    stream = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (batch, length), generator=stream)
    lengths = (length - torch.arange(batch) * length // batch)[:, None]
    real = torch.arange(length) < lengths
    inputs = {"input_ids": torch.where(real, tokens, config.pad_token_id or 0), "attention_mask": real.long()}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = (torch.arange(length) >= lengths // 2).long()
    return {name: values.to(model.device) for name, values in inputs.items()}


def _at(real: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values at `real` tokens, if they are one per token: [batch, length, ...] -> [tokens, ...]."""
    return values[real] if values.shape[:2] == real.shape else values


@torch.no_grad()
def _outputs(model: PreTrainedModel, inputs: Inputs) -> dict[str, torch.Tensor]:
    return dict(model(**inputs).items())


@contextmanager
def _plain(model: PreTrainedModel) -> Iterator[None]:
    """`model` in evaluation mode, giving nothing but its main outputs, and an exporter without chatter."""
    wanted = {"use_cache": False, "output_hidden_states": False, "output_attentions": False, "return_dict": True}
    before = {name: getattr(model.config, name) for name in wanted if hasattr(model.config, name)}
    training, logger = model.training, logging.getLogger("torch.onnx")
    level = logger.level
    try:
        model.eval()
        model.config.update({name: wanted[name] for name in before})
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        model.config.update(before)
        model.train(training)
