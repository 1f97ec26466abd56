"""The losses of the grid, without labels: the name of a row says what is summed, with which weights.

The weights are those the methods are published with. KD stands for the divergence at temperature 4. Where a method is
published with cross-entropy and does not fix the student's prediction by itself, KD of the same weight takes the place
of the cross-entropy; losses on logits that do fix it, and methods published without cross-entropy, stand alone. Classes
are the teacher's predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.support.loss_names import GENDD
from lightning_condkd.augment import Augment
from lightning_condkd.distillation import (
    CATKD,
    CRD,
    DIST,
    DKD,
    LSKD,
    MLKD,
    MSARC,
    OFAKD,
    PKT,
    RKD,
    SP,
    VID,
    AttentionDistillation,
    AttentionTransfer,
    CrossEntropy,
    DistillationLoss,
    FitNet,
    GenDD,
    KLDistillation,
    LogitsL1Distillation,
    LumiNet,
    NormDirection,
    ReviewKD,
    SimKD,
    VkD,
    WeightedLosses,
)

Rows = dict[str, Callable[[], DistillationLoss]]
DKD_BETA, REVIEW_WEIGHT = 2.0, 0.6  # of ResNet-56 to ResNet-20, the pair nearest to ours


def with_kd(loss: DistillationLoss, weight: float = 1.0, kd_weight: float = 1.0) -> WeightedLosses:
    """Return a loss with its weight beside KD."""
    return WeightedLosses({"loss": loss, "kd": KLDistillation(4.0)}, {"loss": weight, "kd": kd_weight})


def logit_rows(second_view: Augment | None) -> Rows:
    """Return the losses that compare logits alone.

    Args:
        second_view: of MLKD; ``None`` for its default.
    """
    return {
        "KD": lambda: KLDistillation(4.0),
        "KD, temperature 20": lambda: KLDistillation(20.0),
        "teacher's classes": CrossEntropy,
        "logits L1": LogitsL1Distillation,
        "9 LSKD + 0.1 KD": lambda: with_kd(LSKD(), 9.0, 0.1),
        "DKD": lambda: DKD(beta=DKD_BETA),
        "DIST": DIST,
        "MLKD": lambda: MLKD(second_view=second_view),
        "LumiNet + 2 KD": lambda: with_kd(LumiNet(alpha=33.0, temperature=4.0), 1.0, 2.0),
    }


def embedding_rows(negatives: int) -> Rows:
    """Return the losses that compare embeddings.

    Args:
        negatives: of CRD for each image.
    """
    return {
        "RKD + KD": lambda: with_kd(RKD()),
        "30000 PKT + KD": lambda: with_kd(PKT(), 30000.0),
        "0.8 CRD + KD": lambda: with_kd(CRD(negatives=negatives), 0.8),
        "2 ND + KD (KD++)": lambda: with_kd(NormDirection(), 2.0),
        "VkD + KD": lambda: with_kd(VkD()),
    }


def map_rows(maps: Sequence[str] | None) -> Rows:
    """Return the losses that compare maps.

    Args:
        maps: names of three stages in both networks; ``None`` for their stages.
    """
    middle, last = (None, None) if maps is None else (maps[1], maps[2])
    return {
        "100 FitNet + KD": lambda: with_kd(FitNet(middle), 100.0),
        "1000 AT + KD": lambda: with_kd(AttentionTransfer(maps), 1000.0),
        "ZSKT's KL/K + 250 AT": lambda: AttentionDistillation(maps),
        "3000 SP + KD": lambda: with_kd(SP(None if last is None else [last]), 3000.0),
        "VID + KD": lambda: with_kd(VID(maps)),
        "0.6 ReviewKD + KD": lambda: with_kd(ReviewKD(maps), REVIEW_WEIGHT),
        "mSARC + KD": lambda: with_kd(MSARC(maps)),
        "OFA-KD": lambda: OFAKD(maps),
        "CAT": lambda: CATKD(last),
        "SimKD": lambda: SimKD(last),
    }


def loss_rows(
    maps: Sequence[str] | None, negatives: int, gendd: dict[str, Any], second_view: Augment | None = None
) -> Rows:
    """Return what makes the loss of every row.

    Args:
        maps: names of three stages in both networks; ``None`` for their stages.
        negatives: of CRD for each image.
        gendd: arguments of GenDD that are not its defaults.
        second_view: of MLKD; ``None`` for its default.
    """
    return {
        **logit_rows(second_view),
        **embedding_rows(negatives),
        **map_rows(maps),
        GENDD: lambda: GenDD(**gendd),
    }
