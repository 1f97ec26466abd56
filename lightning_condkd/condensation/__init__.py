"""How a small set of images is made that stands for a dataset."""

from lightning_condkd.condensation.base import CondensationMethod, RealImages
from lightning_condkd.condensation.dm import DistributionMatching
from lightning_condkd.condensation.evaluation import evaluate
from lightning_condkd.condensation.evaluation_batches import TeacherLabels
from lightning_condkd.condensation.evaluation_recipe import Recipe
from lightning_condkd.condensation.evaluation_result import Evaluation
from lightning_condkd.condensation.generative import ConditionalGAN, SelfDistillation
from lightning_condkd.condensation.gradient_matching import GradientMatching
from lightning_condkd.condensation.matching_pool import MatchingPool
from lightning_condkd.condensation.networks import FreshNetworks
from lightning_condkd.condensation.real_batches import RepresentativeBatches
from lightning_condkd.condensation.realism import RealismSelection
from lightning_condkd.condensation.selection import Herding, KCentre, KMeans, RandomSelection, SelectionMethod
from lightning_condkd.condensation.trajectory_matching import TrajectoryMatching
from lightning_condkd.condensation.trajectory_schedule import TrajectorySchedule, published_schedule

__all__ = [
    "CondensationMethod",
    "ConditionalGAN",
    "DistributionMatching",
    "Evaluation",
    "FreshNetworks",
    "GradientMatching",
    "Herding",
    "KCentre",
    "KMeans",
    "MatchingPool",
    "RandomSelection",
    "RealImages",
    "RealismSelection",
    "Recipe",
    "RepresentativeBatches",
    "SelectionMethod",
    "SelfDistillation",
    "TeacherLabels",
    "TrajectoryMatching",
    "TrajectorySchedule",
    "evaluate",
    "published_schedule",
]
