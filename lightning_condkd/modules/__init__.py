"""The LightningModules."""

from lightning_condkd.modules.condkd import CondKD

__all__ = ["CondKD"]
