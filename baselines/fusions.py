"""Fusions of layers by attention, as alternatives to DFD's ratio of sums: ReviewKD on the student's side, ALP-KD on
the teacher's.

`reviewkd`: Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review. CVPR 2021, arXiv 2104.09044. From the
deepest layer to the first, each student feature meets the fused one of the next layer, and two maps over positions
weigh them; the result learns from the teacher's layer:

    R_L = U_L H^S_L,   R_l = s_l * U_l H^S_l + t_l * R_{l+1},   (s_l, t_l) = sigmoid(A_l [U_l H^S_l ; R_{l+1}])
    L = sum_l HCL(V_l R_l, H^T_l),   HCL: hierarchical context loss (`baselines.one_to_one`)

with two numbers s, t per token.

Departures, for tokens instead of images: convolutions (with batch normalisation) become linear maps per token, and all
layers have one resolution. U and V start as the identity, A at 0, so that training starts from equal weights.

`alp-kd`: Passban, Wu, Rezagholizadeh, Liu: ALP-KD: Attention-Based Layer Projection for Knowledge Distillation. AAAI
2021, arXiv 2012.14022. Each student layer attends over all layers of the teacher and learns from their mixture:

    e_{l,k} = softmax over k of (h^S_l . h^T_k),   C_l = sum_k e_{l,k} h^T_k,   L = sum_l MSE(h^S_l, C_l)

with h the state of a token; each token of each example has its own weights. `tokens=sentence` compares only the token
that the classifier reads, as PKD does. `scaled` divides the products by sqrt(dims), without which one layer gets nearly
all the weight on wide models.

Both are written from the papers and stand in the place of DFD: all tokens, sum over layers, no soft labels unless asked
for. So a table row differs from DFD in the fusion alone.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from baselines.matching import Tokens, only_sentence, reads_last_token, sentence_position
from baselines.one_to_one import one_to_one_loss
from gppdfd.dfd import feature_distance
from gppdfd.distilling import FeatureDistiller, HiddenStateConfig, HiddenStateDistiller, Layers, identity_map, mapped
from gppdfd.interface import DistillerConfig, Setting, register_distiller
from gppdfd.views import View


class ReviewConfig(HiddenStateConfig):
    """Options of the ReviewKD-style fusion."""

    distance: Literal["hcl", "mse", "cosine"] = "hcl"


class ALPConfig(HiddenStateConfig):
    """Options of ALP-KD."""

    tokens: Tokens = "all"
    scaled: bool = False


class Review(nn.Module):
    """Maps U, A and V of one layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = identity_map(width), identity_map(width)
        self.weigh: nn.Linear = nn.utils.skip_init(nn.Linear, 2 * width, 2)
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def fuse(self, states: torch.Tensor, deeper: torch.Tensor | None) -> torch.Tensor:
        """R_l of hidden states and the fused feature of the next layer, both [batch, tokens, width]."""
        own = mapped(self.inner, states)
        if deeper is None:
            return own
        shares = mapped(self.weigh, torch.cat([own, deeper], -1)).sigmoid()
        return shares[..., :1] * own + shares[..., 1:] * deeper


def reviewed(states: Layers, reviews: list[Review]) -> Layers:
    """V_l R_l of every layer, fused from the deepest to the first."""
    fused: torch.Tensor | None = None
    outputs: list[torch.Tensor] = []
    for layer, review in zip(reversed(states), reversed(reviews), strict=True):
        fused = review.fuse(layer, fused)
        outputs.insert(0, mapped(review.outer, fused))
    return tuple(outputs)


def projected_layers(student: torch.Tensor, teacher: torch.Tensor, scaled: bool = False) -> torch.Tensor:
    """C of ALP-KD: the mixture of teacher layers that each student layer attends to.

    Args:
        student: [students, batch, tokens, dims].
        teacher: [teachers, batch, tokens, dims].
        scaled: divide the products by sqrt(dims).

    Returns:
        [students, batch, tokens, dims].
    """
    products = torch.einsum("sbtd,kbtd->sbtk", student, teacher)
    weights = (products / math.sqrt(student.shape[-1]) if scaled else products).softmax(-1)
    return torch.einsum("sbtk,kbtd->sbtd", weights, teacher)


@register_distiller("reviewkd")
class ReviewKD(HiddenStateDistiller):
    """Attention-based fusion of the student's layers, with the hierarchical context loss."""

    reference = "Chen et al. 2021, arXiv 2104.09044"
    reconstruction = "made for images; linear maps per token in place of convolutions"
    revision = 2
    Config: ClassVar[type[DistillerConfig]] = ReviewConfig

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        structure = setting.structure
        self._reviews = nn.ModuleList(Review(structure.hidden) for _ in range(structure.layers)).to(setting.device)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._reviews.parameters())

    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        reviews: list[Any] = list(self._reviews)
        return one_to_one_loss(reviewed(student, reviews), teacher, mask, self.config.distance)

    def state_dict(self) -> dict[str, Any]:
        return {"reviews": self._reviews.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reviews.load_state_dict(state["reviews"])


@register_distiller("alp-kd")
class ALPKD(FeatureDistiller):
    """Attention-based projection of the teacher's layers onto each student layer."""

    reference = "Passban et al. 2021, arXiv 2012.14022"
    reconstruction = "written from the paper's idea; loss in the place and weight of DFD"
    Config: ClassVar[type[DistillerConfig]] = ALPConfig

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"hidden_states"})

    def compare(self, student: View, teacher: View, mask: torch.Tensor | None) -> torch.Tensor:
        existing = student.layers
        if not existing:
            return student.logits.new_zeros(())
        own = torch.stack([student.hidden_states[layer + 1] for layer in existing])
        target = torch.stack(teacher.hidden_states[1:])
        if self.config.tokens == "sentence":
            position = sentence_position(student.attention_mask, reads_last_token(self.setting))
            own, target, mask = only_sentence(own, position), only_sentence(target, position), None
        return feature_distance(projected_layers(own, target, self.config.scaled), own, mask)
