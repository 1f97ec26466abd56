"""Steps of a round (synthesis, distillation) without Lightning, used by CondKD and by plain PyTorch loops."""

from lightning_condkd.steps.class_rows import give_class_rows
from lightning_condkd.steps.distillation import DistillationStep
from lightning_condkd.steps.loop import distill, synthesize
from lightning_condkd.steps.optimizer_turns import OptimizerTurns, Update
from lightning_condkd.steps.synthesis import SynthesisStep

__all__ = ["DistillationStep", "OptimizerTurns", "SynthesisStep", "Update", "distill", "give_class_rows", "synthesize"]
