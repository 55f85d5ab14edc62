"""Reading the golden cases: numbers that the authors' own codes compute (see tests/golden)."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from gppdfd.tasks.base import Batch

FOLDER = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent / "golden"))


def read_cases(method: str) -> list[dict[str, Any]]:
    """All cases of a method; none if the folder has no such method."""
    path = FOLDER / method / "cases.json"
    return json.loads(path.read_text())["cases"] if path.is_file() else []


def tensors(method: str, case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors of a case, `in.*` and `out.*`."""
    return load_file(FOLDER / method / case["tensors"]["file"]) if "tensors" in case else {}


def model(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """One of the tiny models of the golden folder, in evaluation mode."""
    return AutoModelForSequenceClassification.from_pretrained(FOLDER / name).to(dtype).eval()


def batch(index: int, trim: bool = False) -> Batch:
    """One of the stored batches, optionally cut to its longest sequence."""
    stored = load_file(FOLDER / "batch.safetensors")
    part = {name: stored[f"{index}.{name}"] for name in ("input_ids", "attention_mask", "token_type_ids")}
    longest = int(part["attention_mask"].sum(1).max()) if trim else part["input_ids"].shape[1]
    labels = stored[f"{index}.labels"]
    return Batch(
        *(part[name][:, :longest] for name in ("input_ids", "attention_mask", "token_type_ids")),
        labels,
        torch.arange(len(labels)),
    )


def assert_close(found: Any, expected: Any, case: dict[str, Any]) -> None:
    """|found - expected| <= atol + rtol * |expected| with the tolerance of the case."""
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=case["tolerance"]["rtol"],
        atol=case["tolerance"]["atol"],
    )
