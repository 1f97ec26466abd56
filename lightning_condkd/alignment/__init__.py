"""Alignment of synthetic samples with condensed ones in the teacher's feature space."""

from lightning_condkd.alignment.base import Alignment
from lightning_condkd.alignment.discriminators import (
    ACGANDiscriminator,
    Discriminator,
    DiscriminatorOutput,
    ProjectionDiscriminator,
    UnconditionalDiscriminator,
)
from lightning_condkd.alignment.feature_alignment import FeatureAlignment
from lightning_condkd.alignment.moment_alignment import MomentAlignment
from lightning_condkd.alignment.parts.moment_distances import (
    CharacteristicFunction,
    ClassMeans,
    GaussianMMD,
    MomentDistance,
)

__all__ = [
    "ACGANDiscriminator",
    "Alignment",
    "CharacteristicFunction",
    "ClassMeans",
    "Discriminator",
    "DiscriminatorOutput",
    "FeatureAlignment",
    "GaussianMMD",
    "MomentAlignment",
    "MomentDistance",
    "ProjectionDiscriminator",
    "UnconditionalDiscriminator",
]
