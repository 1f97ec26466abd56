"""Alignment of synthetic samples with condensed ones in the teacher's feature space."""

from lightning_condkd.alignment.discriminators import (
    ACGANDiscriminator,
    Discriminator,
    DiscriminatorOutput,
    ProjectionDiscriminator,
    UnconditionalDiscriminator,
)
from lightning_condkd.alignment.feature_alignment import FeatureAlignment

__all__ = [
    "ACGANDiscriminator",
    "Discriminator",
    "DiscriminatorOutput",
    "FeatureAlignment",
    "ProjectionDiscriminator",
    "UnconditionalDiscriminator",
]
