"""PKD, TinyBERT, MiniLM, MiniLMv2, DistilBERT."""

import torch
from torch.nn.functional import cross_entropy, mse_loss

from baselines.distilbert import cosine_loss
from baselines.matching import layer_pairs, only_sentence
from baselines.minilm import FAR, relation_divergence, relation_heads, relation_scores
from baselines.one_to_one import one_to_one_loss
from baselines.pkd import patience_loss
from baselines.tinybert import attention_loss, soft_cross_entropy
from gppdfd.dfd import feature_distance
from gppdfd.distilling import soft_labels
from gppdfd.views import Observed
from tests.golden_cases import Case, Tensors, handles
from tests.golden_data import assert_close, batch, model


@handles("one_to_one", "pkd_patience")
def patience(case: Case, stored: Tensors) -> None:
    expected = case["expected"]
    for name, normalise in (("plain", False), ("normalised", True)):
        own = stored["in.student"].clone().requires_grad_()
        loss = patience_loss(*(part.transpose(0, 1)[:, :, None] for part in (own, stored["in.teacher"])), normalise)
        loss.backward()
        assert_close(loss.detach(), expected[f"formula.{name}"], case)
        assert_close(own.grad, stored[f"out.grad.formula.{name}"], case)
        half = torch.tensor(expected[f"official_float16.{name}"], dtype=torch.double)
        torch.testing.assert_close(loss.detach(), half, rtol=1e-3, atol=0)


@handles("one_to_one", "pkd_logit_kd")
def logit_kd(case: Case, stored: Tensors) -> None:
    for index, row in enumerate(case["expected"]["cases"]):
        student, teacher = stored[f"in.student.{index}"], stored[f"in.teacher.{index}"]
        released = soft_labels(student, teacher, row["T"], False, "mean")
        hard = cross_entropy(student, stored[f"in.labels.{index}"])
        assert_close(released, row["kd_official_mean"], case)
        assert_close(soft_labels(student, teacher, row["T"], False), row["kd_batchmean"], case)
        assert_close(hard, row["ce"], case)
        assert_close((1 - row["alpha"]) * hard + row["alpha"] * released, row["total"], case)


@handles("one_to_one", "pkd_layer_maps")
def layer_maps(case: Case, stored: Tensors) -> None:
    expected = case["expected"]
    pairs = layer_pairs(list(range(6)), 12, "skip")
    assert [student for student, _ in pairs] == expected["student_layers"]
    assert [teacher for _, teacher in pairs] == expected["teacher_12_student_6"]


@handles("one_to_one", "tinybert_intermediate")
def intermediate(case: Case, stored: Tensors) -> None:
    """The release masks by scores of -10000; its map of layers is ours."""
    expected, hidden = case["expected"], stored["in.student_hidden"]
    teachers, students = case["inputs"]["teacher_layers"], case["inputs"]["student_layers"]
    pairs = layer_pairs(list(range(students)), teachers, "uniform")
    assert [teacher for _, teacher in pairs] == expected["attention_map"]
    assert [0, *(teacher + 1 for _, teacher in pairs)] == expected["hidden_map"]
    keys = (stored["in.teacher_attention"] > -100).all(0).all(1).all(1)
    attention = torch.stack(
        [
            attention_loss(stored["in.student_attention"][own], stored["in.teacher_attention"][target], keys, False)
            for own, target in pairs
        ]
    )
    mapped = hidden @ stored["in.W"].t() + stored["in.b"]
    targets = stored["in.teacher_hidden"][expected["hidden_map"]]
    per_layer = torch.stack([feature_distance(targets[m][None], mapped[m][None]) for m in range(students + 1)])
    total = feature_distance(targets, mapped)
    assert_close(attention, expected["per_layer_attention"], case)
    assert_close(attention.sum(), expected["attention_loss"], case)
    assert_close(per_layer[0], expected["embedding_loss"], case)
    assert_close(per_layer[1:], expected["per_layer_hidden"], case)
    assert_close(total, expected["hidden_loss"], case)
    assert_close(attention.sum() + total, expected["total"], case)


@handles("one_to_one", "tinybert_prediction")
def prediction(case: Case, stored: Tensors) -> None:
    for index, row in enumerate(case["expected"]["cases"]):
        logits = stored[f"in.student.{index}"], stored[f"in.teacher.{index}"]
        assert_close(soft_cross_entropy(*logits, row["T"]), row["mean_over_batch"], case)
        released = soft_cross_entropy(*logits, row["T"], "mean")
        assert_close(released, row["official_mean_over_batch_and_classes"], case)
    outputs, labels = stored["in.regression.student"], stored["in.regression.labels"]
    assert_close(mse_loss(outputs.squeeze(-1), labels), case["expected"]["regression"], case)


@handles("one_to_one", "minilm_v1")
def minilm(case: Case, stored: Tensors) -> None:
    """Stored are probabilities; the third party's defect is to take them for scores, and it is shown as that."""
    expected, mask = case["expected"], stored["in.attention_mask"]
    probabilities = stored["in.student_attention"], stored["in.teacher_attention"]
    scores = [part.log().clamp(min=FAR) for part in probabilities]
    relations = [relation_scores(stored[f"in.{role}_value"]) for role in ("student", "teacher")]
    attention, values = relation_divergence(*scores), relation_divergence(*relations)
    twice = relation_divergence(*probabilities)
    assert_close(attention, expected["formula.attention"], case)
    assert_close(values, expected["formula.value_relation"], case)
    assert_close(attention + values, expected["formula.total"], case)
    assert_close(twice, expected["third_party.attention_part"], case)
    assert_close(twice + values, expected["third_party.total"], case)
    assert_close(relation_divergence(*scores, mask), expected["ours.attention_padding_masked"], case)
    assert_close(relation_divergence(*relations, mask), expected["ours.value_relation_padding_masked"], case)


@handles("one_to_one", "minilm_v2")
def minilmv2(case: Case, stored: Tensors) -> None:
    """Stored widths are those of all heads together: one head as wide as the model."""
    count, found = case["inputs"]["relation_heads"], {}
    for name, key in (("query", "q"), ("key", "k"), ("value", "v")):
        student, teacher = (
            relation_scores(relation_heads(stored[f"in.{role}.{key}"][:, None], count))
            for role in ("student", "teacher")
        )
        found[name] = relation_divergence(student, teacher)
        assert_close(found[name], case["expected"][name], case)
    assert_close(sum(found.values()), case["expected"]["total"], case)


@handles("one_to_one", "distilbert_cosine")
def cosine(case: Case, stored: Tensors) -> None:
    """The third party's number counts every padding position as a loss of 1."""
    student, teacher, mask = stored["in.student"], stored["in.teacher"], stored["in.attention_mask"].double()
    loss = cosine_loss(student, teacher, mask)
    assert_close(loss, case["expected"]["official"], case)
    share = mask.mean()
    assert_close(loss * share + (1 - share), case["expected"]["third_party_mask_multiplied"], case)


@handles("one_to_one", "distilbert_soft")
def soft(case: Case, stored: Tensors) -> None:
    for index, row in enumerate(case["expected"]["cases"]):
        real = stored[f"in.attention_mask.{index}"].bool()
        student, teacher = (stored[f"in.{role}.{index}"][real] for role in ("student", "teacher"))
        assert_close(soft_labels(student, teacher, row["T"], regression=False), row["value"], case)


@handles("one_to_one", "tiny_models")
def tiny_models(case: Case, stored: Tensors) -> None:
    expected, data = case["expected"], batch(case["inputs"]["batch"], trim=True)
    with torch.no_grad():
        student, teacher = (
            Observed(model(case["inputs"][role]), frozenset({"hidden_states"}))(data).hidden_states
            for role in ("student", "teacher")
        )
    position = torch.zeros(len(data.input_ids), dtype=torch.long)
    own, target = (only_sentence(torch.stack(states[1:-1]), position) for states in (student, teacher))
    assert_close(one_to_one_loss(student[1:], teacher[1:], None), expected["layerwise_mse_sum"], case)
    assert_close(mse_loss(student[0], teacher[0]), expected["embedding_mse"], case)
    assert_close(patience_loss(own, target), expected["pkd_cls_normalised"], case)
    mask = data.attention_mask.double()
    assert_close(cosine_loss(student[-1], teacher[-1], mask), expected["distilbert_cosine_last"], case)
