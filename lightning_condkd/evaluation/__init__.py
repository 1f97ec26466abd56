"""Evaluation of condensed sets: fresh networks are trained on a set and tested on real images."""

from lightning_condkd.evaluation.batches import TeacherLabels
from lightning_condkd.evaluation.fresh_training import evaluate
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.evaluation.result import Evaluation

__all__ = ["Evaluation", "Recipe", "TeacherLabels", "evaluate"]
