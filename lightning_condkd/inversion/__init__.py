"""How a teacher is inverted: one file for each method."""

from lightning_condkd.inversion.bare import synthesise
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.cmi import CMI, Contrastive
from lightning_condkd.inversion.competition import Competition
from lightning_condkd.inversion.dafl import DAFL
from lightning_condkd.inversion.deep_inversion import DeepInversion
from lightning_condkd.inversion.dfad import DFAD
from lightning_condkd.inversion.dfq import DFQ
from lightning_condkd.inversion.fast import Fast
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.noise import NoInversion, SmoothNoise
from lightning_condkd.inversion.pixels import ImagePrior, PixelAdam
from lightning_condkd.inversion.pre_dfkd import PREDFKD
from lightning_condkd.inversion.real_subset import RealSubset
from lightning_condkd.inversion.replay_memory import LatentStep, Memory
from lightning_condkd.inversion.zskt import ZSKT

__all__ = [
    "CMI",
    "DAFL",
    "DFAD",
    "DFQ",
    "PREDFKD",
    "ZSKT",
    "Competition",
    "Contrastive",
    "DeepInversion",
    "Fast",
    "ImagePrior",
    "Inversion",
    "LatentStep",
    "LiveInversion",
    "Memory",
    "NoInversion",
    "PixelAdam",
    "RealSubset",
    "SmoothNoise",
    "synthesise",
]
