"""Classifiers, generators, and the observer, which returns a network's inner values."""

from lightning_condkd.models.convnet import ConvNet
from lightning_condkd.models.digits_net import DigitsNet
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.models.generators import ConvGenerator, NormalizedGenerator
from lightning_condkd.models.graph_files import save_graph
from lightning_condkd.models.mobilenet import MobileNetV2
from lightning_condkd.models.noisy_generator import NoisyGenerator
from lightning_condkd.models.observer import Observer
from lightning_condkd.models.projected import ProjectedNetwork, Projector
from lightning_condkd.models.resnet import CifarResNet, SmallImageResNet
from lightning_condkd.models.vgg import SmallImageVGG
from lightning_condkd.models.weights import load_weights, read_state_dict
from lightning_condkd.models.wide_resnet import WideResNet

__all__ = [
    "CifarResNet",
    "ConvGenerator",
    "ConvNet",
    "DigitsNet",
    "FreshNetworks",
    "MobileNetV2",
    "NoisyGenerator",
    "NormalizedGenerator",
    "Observer",
    "ProjectedNetwork",
    "Projector",
    "SmallImageResNet",
    "SmallImageVGG",
    "WideResNet",
    "load_weights",
    "read_state_dict",
    "save_graph",
]
