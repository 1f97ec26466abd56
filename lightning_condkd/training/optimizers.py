"""Creation and checks of the user's optimizers and schedules, before training."""

from __future__ import annotations

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.optim.optimizer import ParamsT

from lightning_condkd.messages import listed

LENGTHS = ("total_steps", "T_max", "total_iters")


def check_makers(**makers: object) -> None:
    """Check that optimizers and schedulers are given as functions that create them.

    Args:
        makers: name of the argument to its value; ``None`` if not given.

    Raises:
        TypeError: if one is an object instead of a function.
    """
    for name, maker in makers.items():
        if maker is not None and not callable(maker):
            takes, makes = ("optimizer", "scheduler") if "scheduler" in name else ("parameters", "optimizer")
            raise TypeError(
                f"{name}: expected a function that makes the {makes} from the {takes} when Trainer.fit begins, got "
                f"{_described(maker)}: pass a function of the {takes}, such as lambda {takes}: Kind({takes}, ...)"
            )


def make_optimizer(name: str, maker: OptimizerCallable, parameters: ParamsT) -> Optimizer:
    """Return the optimizer of some parameters.

    Args:
        name: name of the argument.
        maker: value of the argument.
        parameters: parameters to train, or groups of them.

    Raises:
        TypeError: if it returns something else.
    """
    optimizer: object = maker(parameters)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{name}: expected it to return an optimizer, got {_described(optimizer)}")
    return optimizer


def make_scheduler(name: str, maker: LRSchedulerCallable, optimizer: Optimizer) -> LRScheduler:
    """Return the schedule of an optimizer.

    Args:
        name: name of the argument.
        maker: value of the argument.
        optimizer: the optimizer.

    Raises:
        TypeError: if it returns something else.
    """
    scheduler: object = maker(optimizer)
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(f"{name}: expected it to return a scheduler of torch.optim, got {_described(scheduler)}")
    return scheduler


def check_trainable(name: str, network: nn.Module) -> None:
    """Check that a network has parameters to train.

    Args:
        name: name of the network.
        network: the network.

    Raises:
        ValueError: if no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            f"the {name} has no parameter that requires a gradient, so it cannot be trained: call "
            f"{name}.requires_grad_(True), or pass another {name}"
        )


def check_covers(name: str, optimizer: Optimizer, network: nn.Module) -> None:
    """Check that an optimizer trains a network, and warn of parameters that it leaves out.

    Args:
        name: name of the argument that made the optimizer.
        optimizer: the optimizer.
        network: the network.

    Raises:
        ValueError: if it has none of the network's parameters that require a gradient.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trainable = {n: parameter for n, parameter in network.named_parameters() if parameter.requires_grad}
    left = [n for n, parameter in trainable.items() if id(parameter) not in held]
    if trainable and len(left) == len(trainable):
        raise ValueError(
            f"{name}: the optimizer holds none of the parameters to train, among them {left[0]!r}: make it from those "
            "that it is called with"
        )
    if left:
        rank_zero_warn(
            f"{name}: the optimizer leaves out {listed(left)}, {len(left)} of {len(trainable)} parameters "
            "that require a gradient, so they do not change: add them, or set their requires_grad to False if that is "
            "intended"
        )


def check_no_metric(name: str, scheduler: LRScheduler) -> None:
    """Check that a schedule does not need a metric.

    Args:
        name: name of the argument that made it.
        scheduler: the schedule.

    Raises:
        ValueError: if it does.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            f"{name}: ReduceLROnPlateau waits for a metric, but the schedule is stepped at the end of a round, before "
            "validation: choose one that counts rounds, such as CosineAnnealingLR or MultiStepLR, or leave it out"
        )


def check_count(name: str, scheduler: LRScheduler, times: int | None, when: str) -> None:
    """Check that a schedule lasts as long as a run, and warn if its length does not fit the run.

    Args:
        name: name of the argument that made it.
        scheduler: the schedule.
        times: number of its steps in the run; ``None`` without end.
        when: description of the time of its steps, for the message.

    Raises:
        ValueError: if it fails before the run ends.
    """
    for setting in LENGTHS:
        length = getattr(scheduler, setting, None)
        if times is None or not isinstance(length, int):
            continue
        kind = f"{name}: {type(scheduler).__name__} of {setting}={length}"
        cure = f"it is stepped {when}, {times} times in this run, so {setting}={times} ends with it"
        if isinstance(scheduler, OneCycleLR) and length < times:
            raise ValueError(f"{kind} breaks off before the run ends: {cure}")
        if length > times:
            rank_zero_warn(f"{kind} is not at its end when the run is: {cure}")
        elif setting == "T_max" and length < times:
            rank_zero_warn(f"{kind} climbs again before the run ends: {cure}")


def _described(thing: object) -> str:
    return f"an instance of {type(thing).__name__}"
