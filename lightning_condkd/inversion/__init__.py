"""How a teacher is inverted: one file for each method."""

from lightning_condkd.inversion.bare import synthesise
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.dfad import DFAD
from lightning_condkd.inversion.fast import Fast
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.noise import NoInversion, SmoothNoise

__all__ = ["DFAD", "Fast", "Inversion", "LiveInversion", "NoInversion", "SmoothNoise", "synthesise"]
