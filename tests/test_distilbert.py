"""DistilBERT's triple loss: its weights and its cosine term."""

import torch

from baselines.distilbert import cosine_loss
from gppdfd.interface import parse_method
from tests.one_distiller import begun


def test_weights_of_the_triple_loss() -> None:
    distiller = begun("distilbert")
    assert [distiller.weight(part) for part in ("soft", "task", "features")] == [5, 2, 1]
    assert distiller.config.temperature == 2


def test_cosine_is_blind_to_lengths_and_counts_real_tokens() -> None:
    student, teacher = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    rows = mask.bool()
    expected = 1 - torch.cosine_similarity(student[rows], teacher[rows], dim=-1).mean()
    torch.testing.assert_close(cosine_loss(7 * student, teacher, mask), expected)
    assert float(cosine_loss(-teacher, teacher)) == 2


def test_the_student_has_every_second_layer() -> None:
    assert parse_method("distilbert").pruner_config.which == "every"
