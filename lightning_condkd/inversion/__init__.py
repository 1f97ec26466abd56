"""Inversion methods, which synthesize images from a teacher: one file for each method."""

from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.batch_statistics_noise import BatchStatisticsNoise
from lightning_condkd.inversion.cmi import CMI
from lightning_condkd.inversion.controls import NoInversion, RealSubset, SmoothNoise
from lightning_condkd.inversion.dafl import DAFL
from lightning_condkd.inversion.deep_inversion import DeepInversion
from lightning_condkd.inversion.dfad import DFAD
from lightning_condkd.inversion.dfq import DFQ
from lightning_condkd.inversion.diff_dfkd import DiffDFKD
from lightning_condkd.inversion.fast import Fast
from lightning_condkd.inversion.interfaces import Observe
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.nayer import NAYER
from lightning_condkd.inversion.parts.card import MethodCard, Published
from lightning_condkd.inversion.parts.class_vectors import (
    ClassVectors,
    CondensedMeanVectors,
    FileVectors,
    OrthogonalVectors,
    TeacherHeadVectors,
)
from lightning_condkd.inversion.parts.competition import Competition
from lightning_condkd.inversion.parts.contrastive import Contrastive
from lightning_condkd.inversion.parts.generator import GeneratorSettings
from lightning_condkd.inversion.parts.latent_cutmix import LatentCutMix
from lightning_condkd.inversion.parts.latent_pipeline import LatentPipeline, PipelineLoading
from lightning_condkd.inversion.parts.pixel_optimizer import ImagePrior, PixelAdam
from lightning_condkd.inversion.parts.prompts import Prompt
from lightning_condkd.inversion.parts.replay_memory import LatentStep, Memory
from lightning_condkd.inversion.pre_dfkd import PREDFKD
from lightning_condkd.inversion.zskt import ZSKT

__all__ = [
    "CMI",
    "DAFL",
    "DFAD",
    "DFQ",
    "NAYER",
    "PREDFKD",
    "ZSKT",
    "BatchStatisticsNoise",
    "ClassVectors",
    "Competition",
    "CondensedMeanVectors",
    "Contrastive",
    "DeepInversion",
    "DiffDFKD",
    "Fast",
    "FileVectors",
    "GeneratorSettings",
    "ImagePrior",
    "Inversion",
    "LatentCutMix",
    "LatentPipeline",
    "LatentStep",
    "LiveInversion",
    "Memory",
    "MethodCard",
    "NoInversion",
    "Observe",
    "OrthogonalVectors",
    "PipelineLoading",
    "PixelAdam",
    "Prompt",
    "Published",
    "RealSubset",
    "SmoothNoise",
    "TeacherHeadVectors",
]
