"""Condensation methods, which create a small set of images that represents a dataset, and selection of real ones."""

from lightning_condkd.condensation.base import CondensationMethod, RealImages
from lightning_condkd.condensation.distribution_matching import DistributionMatching
from lightning_condkd.condensation.generative import ConditionalGAN, SelfDistillation
from lightning_condkd.condensation.gradient_matching import GradientMatching
from lightning_condkd.condensation.parts.matching_pool import MatchingPool
from lightning_condkd.condensation.parts.published_schedules import TrajectorySchedule, published_schedule
from lightning_condkd.condensation.parts.representative_batches import RepresentativeBatches
from lightning_condkd.condensation.realism import RealismSelection
from lightning_condkd.condensation.selection import Herding, KCenter, KMeans, RandomSelection, SelectionMethod
from lightning_condkd.condensation.trajectory_matching import TrajectoryMatching

__all__ = [
    "CondensationMethod",
    "ConditionalGAN",
    "DistributionMatching",
    "GradientMatching",
    "Herding",
    "KCenter",
    "KMeans",
    "MatchingPool",
    "RandomSelection",
    "RealImages",
    "RealismSelection",
    "RepresentativeBatches",
    "SelectionMethod",
    "SelfDistillation",
    "TrajectoryMatching",
    "TrajectorySchedule",
    "published_schedule",
]
