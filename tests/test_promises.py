"""What a subclass can get wrong is refused by name, at once or in the first step, with the cure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lightning_condkd.alignment import ACGANDiscriminator, FeatureAlignment
from lightning_condkd.alignment.discriminators import Discriminator, DiscriminatorOutput
from lightning_condkd.cli import main
from lightning_condkd.condensation import CondensationMethod, DistributionMatching
from lightning_condkd.data import DigitsDataModule
from lightning_condkd.distillation import DistillationLoss, KLDistillation
from lightning_condkd.functional.inversion import class_loss
from lightning_condkd.inversion import DFAD, Fast, Inversion, LiveInversion
from lightning_condkd.models import Observer
from lightning_condkd.modules import Condensation
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.steps import synthesize
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec
from tests.conftest import ROOT
from tests.helpers import toy
from tests.test_own_parts import Means, Pixels

# --- final methods ---------------------------------------------------------------------------------------------------

FINAL = [
    (Inversion, "build", "make(spec, generator)"),
    (Inversion, "optimizers", "make_optimizers()"),
    (Inversion, "start", "begin(unit, draw)"),
    (Inversion, "forward", "render(unit, draw) and loss"),
    (Inversion, "after_step", "observe_step"),
    (Inversion, "keep", "keep_more(better)"),
    (Inversion, "finish", "end(unit)"),
    (Inversion, "collect", "observe_step"),
    (Inversion, "sample", "render_sample"),
    (Fast, "start", "begin(unit, draw)"),
    (DFAD, "make", "make_more(spec, generator)"),
    (LiveInversion, "make", "make_more(spec, generator)"),
    (DistillationLoss, "__call__", "forward(student, teacher, labels)"),
    (DistillationLoss, "build", "check_shapes(spec) and make(spec)"),
    (KLDistillation, "__call__", "forward(student, teacher, labels)"),
    (DistillationLoss, "build", "check_shapes(spec) and make(spec)"),
    (CondensationMethod, "build", "make(image_shape, num_classes, ipc)"),
    (DistributionMatching, "make", "make_more(ipc)"),
    (Discriminator, "build", "build_heads(width, num_classes)"),
    (ACGANDiscriminator, "forward", "score(features, realness, labels)"),
]


@pytest.mark.parametrize(("base", "name", "hook"), FINAL, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_final_method_is_refused_with_the_hook_to_write(base: type, name: str, hook: str) -> None:
    with pytest.raises(TypeError, match=rf"Own\.{name}: \w+\.{name} is final.*Write ") as refused:
        type("Own", (base,), {name: lambda self: None})
    assert hook in str(refused.value)


@pytest.mark.parametrize("base", [Inversion, LiveInversion, DistillationLoss, CondensationMethod, Discriminator])
def test_every_final_method_is_marked_as_such_and_no_other(base: type) -> None:
    marked = {name for name, value in vars(base).items() if getattr(value, "__final__", False)}
    assert marked == set(vars(base)["finals"])


def test_the_block_before_is_forgotten_whatever_begin_does() -> None:
    class Idle(Pixels):
        def begin(self, unit: Unit, draw: Draw) -> None:
            self.pixels.fill_(float(unit.round) / 4)

    method = _built(Idle(1))
    teacher, student = _networks()
    blocks = [synthesize(method, method.optimizers(), teacher, student, r).images.clone() for r in range(3)]
    assert [float(images.mean()) for images in blocks] == [0.0, 0.25, 0.5]


# --- inversion -------------------------------------------------------------------------------------------------------


def _built(method: Inversion) -> Inversion:
    method.build(toy.spec(mean=(0.25,), std=(0.5,)), seeded_generator(0, "build"))
    return method


def _networks() -> tuple[Observer, Observer]:
    teacher, student = (toy.observed(toy.network(name)) for name in ("teacher", "student 1"))
    return teacher.freeze(), student.requires_grad_(False).eval()


def _bare(method: Inversion) -> None:
    synthesize(_built(method), method.optimizers(), *_networks(), round=0)


def _fit(method: Inversion) -> None:
    toy.fit(toy.condkd(method), max_epochs=1)


class Misspelt(Pixels):
    def make_optimizers(self) -> dict[str, Optimizer]:
        return {"synthesise": SGD([self.pixels], lr=0.1)}


class TakesStudent(Pixels):
    def make_optimizers(self) -> dict[str, Optimizer]:
        return {**super().make_optimizers(), "student": SGD([self.pixels], lr=0.1)}


class ReplaysNothing(Pixels):
    def make_optimizers(self) -> dict[str, Optimizer]:
        return {**super().make_optimizers(), "replay": SGD([self.pixels], lr=0.1)}


class FinishesNothing(Pixels):
    finish_steps = ("meta",)


class EndsUndeclared(Pixels):
    def end(self, unit: Unit) -> tuple[str, ...]:
        return ("synthesis",)


class NoDict(Pixels):
    def make_optimizers(self) -> Any:
        return SGD([self.pixels], lr=0.1)


class Forgets(Pixels):
    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        super().make(spec, generator)
        self.offset = nn.Parameter(torch.zeros(1))


class EndsWithout(Forgets):
    finish_steps = ("meta",)

    def make_optimizers(self) -> dict[str, Optimizer]:
        return {**super().make_optimizers(), "meta": SGD([self.offset], lr=0.1)}

    def end(self, unit: Unit) -> tuple[str, ...]:
        return ("meta",)


class Unregistered(Forgets):
    def make_optimizers(self) -> dict[str, Optimizer]:
        self.loose = [torch.zeros(1, requires_grad=True)]
        return {"synthesis": SGD([self.pixels, self.offset, *self.loose], lr=0.1)}


class Unused(Forgets):
    def make_optimizers(self) -> dict[str, Optimizer]:
        return {"synthesis": SGD([self.pixels, self.offset], lr=0.1)}


class ForgetsOthers(Pixels):
    def per_round(self) -> list[nn.Parameter]:
        return [nn.Parameter(torch.zeros(1))]


class NoSuper(Inversion):
    def __init__(self) -> None:
        self.size = 3


class Renders(Pixels):
    """Pixels whose batch is changed."""

    def __init__(self, change: Callable[[Synthetic], Any]) -> None:
        super().__init__()
        self.change = change

    def render(self, unit: Unit, draw: Draw) -> Any:
        return self.change(Synthetic(self.pixels[draw.rows], torch.arange(12) % 3))


class Loses(Pixels):
    """Pixels whose loss is given."""

    def __init__(self, change: Callable[..., Any]) -> None:
        super().__init__()
        self.change = change

    def loss(self, synthetic: Synthetic, observe: Any, student: Any, unit: Unit, draw: Draw) -> Any:
        return self.change(synthetic.images, observe)


def _terms(value: Any, output: Any) -> tuple[LossTerms, Any]:
    return LossTerms({"mean": value}, {"mean": 1.0}), output


INVERSIONS: dict[str, tuple[Callable[[], Inversion], str]] = {
    "mistyped": (Misspelt, r"Misspelt.make_optimizers: no step takes an optimizer called 'synthesise', only synthesis"),
    "the trainer's": (TakesStudent, "no step takes an optimizer called 'student'.*are the trainer's"),
    "replay of stored images": (ReplaysNothing, "called 'replay'.*write replay_loss and set source = 'live'"),
    "no step to finish with": (FinishesNothing, "finish_steps names 'meta', but there is no optimizer of that name"),
    "not declared": (EndsUndeclared, r"EndsUndeclared.end: expected names out of finish_steps, which are \(\)"),
    "ends without gradient": (
        EndsWithout,
        "no gradient reached offset in the first step, so 'meta' does not",
    ),
    "no dict": (NoDict, "expected a dict of torch optimizers by name"),
    "no optimizer": (Forgets, r"no optimizer holds offset: add it to one, or freeze it"),
    "not registered": (Unregistered, "synthesis holds a tensor that is no parameter of the method"),
    "no gradient": (Unused, r"Unused: no gradient reached offset in the first step, so 'synthesis' does not train it"),
    "forgets others": (ForgetsOthers, "ForgetsOthers.per_round: expected parameters of the optimizer 'synthesis'"),
    "a tensor": (
        lambda: Renders(lambda s: s.images),
        r"Renders.render: expected Synthetic\(images, labels\), got Tensor",
    ),
    "bytes": (lambda: Renders(lambda s: s._replace(images=s.images.byte())), "got torch.uint8: divide bytes by 255"),
    "half a batch": (
        lambda: Renders(lambda s: s._replace(images=s.images[:6])),
        r"expected images \(12, 1, 8, 8\), this rank's rows of the batch, got \(6, 1, 8, 8\)",
    ),
    "no channel": (lambda: Renders(lambda s: s._replace(images=s.images[:, 0])), r"got \(12, 8, 8\)"),
    "labels too large": (
        lambda: Renders(lambda s: s._replace(labels=s.labels + 1)),
        "expected labels from 0 to 2, got 1 to 3: give labels",
    ),
    "labels below 0": (lambda: Renders(lambda s: s._replace(labels=s.labels - 1)), "from 0 to 2, got -1 to 1"),
    "labels as floats": (
        lambda: Renders(lambda s: s._replace(labels=s.labels.float())),
        "expected labels of torch.int64, got torch.float32",
    ),
    "one-hot labels": (
        lambda: Renders(lambda s: s._replace(labels=torch.eye(3).long()[s.labels])),
        r"expected labels of shape \(12,\), got \(12, 3\)",
    ),
    "no output": (lambda: Loses(lambda x, observe: _terms(x.mean(), None)), "got LossTerms, NoneType: return what"),
    "terms alone": (lambda: Loses(lambda x, observe: _terms(x.mean(), 0)[0]), r"Loses.loss: expected \(LossTerms"),
    "a plain sum": (lambda: Loses(lambda x, observe: (x.mean(), observe(x))), "got Tensor, RequestedOutput"),
    "output of half": (
        lambda: Loses(lambda x, observe: _terms(x.mean(), observe(x[:3]))),
        r"logits \(12, 3\), got \(3, 3\)",
    ),
    "no graph": (
        lambda: Loses(lambda x, observe: _terms(x.detach().mean(), observe(x))),
        "no gradient of mean reaches what 'synthesis' trains",
    ),
    "no weight": (
        lambda: Loses(lambda x, observe: (LossTerms({"tv": x.mean()}, {"TV": 1.0}), observe(x))),
        "the loss term 'tv' has no weight: give terms and weights the same names",
    ),
    "undeclared embedding": (
        lambda: Loses(lambda x, observe: _terms(observe(x, embedding=True).embedding.mean(), observe(x))),
        "Loses.loss asks for the embedding: set needs_embedding = True in the method",
    ),
    "embedding not asked for": (
        lambda: Loses(lambda x, observe: _terms(observe(x).embedding.mean(), observe(x))),
        "the embedding was read, but not asked for: call the network with embedding=True",
    ),
    "maps not asked for": (
        lambda: Loses(lambda x, observe: _terms(observe(x).maps[0].mean(), observe(x))),
        r"the maps was read, but not asked for: call the network with maps=\[...\]",
    ),
    "one map too few": (
        lambda: Loses(lambda x, observe: _terms(observe(x, maps=["features"]).maps[1].mean(), observe(x))),
        r"maps\[1\] was read, but 1 were asked for: name the module too",
    ),
    "statistics not asked for": (
        lambda: Loses(lambda x, observe: _terms(sum(s.mean.sum() for s in observe(x).bn), observe(x))),
        "the bn was read, but not asked for: call the network with bn=True",
    ),
}


@pytest.mark.parametrize("loop", [_bare, _fit], ids=["bare loop", "fit"])
@pytest.mark.parametrize("case", INVERSIONS)
def test_a_faulty_method_is_refused(case: str, loop: Callable[[Inversion], None]) -> None:
    make, match = INVERSIONS[case]
    with pytest.raises((TypeError, ValueError), match=match):
        loop(make())


def test_a_method_without_its_base_s_constructor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"NoSuper.__init__ does not call that of its base: begin it with super\(\)"):
        _built(NoSuper())
    with pytest.raises(TypeError, match=r"NoSuper.__init__ does not call that of its base"):
        toy.condkd(NoSuper())


def test_a_method_that_was_not_built_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"Fast: call build\(spec, generator\) before optimizers\(\)"):
        toy.fast().optimizers()


def test_what_a_term_reaches_only_later_is_checked_then() -> None:
    """A round without any term takes no step, so there is no gradient to look for."""

    class Late(Unused):
        def loss(self, *given: Any) -> tuple[LossTerms, NetworkOutput]:
            terms, output = super().loss(*given)
            return (terms if given[3].round else LossTerms({}, {})), output

    method = _built(Late())
    optimizers, networks = method.optimizers(), _networks()
    synthesize(method, optimizers, *networks, round=0)
    with pytest.raises(ValueError, match="no gradient reached offset"):
        synthesize(method, optimizers, *networks, round=1)


def test_live_samples_are_counted_and_checked() -> None:
    class Live(Pixels):
        source = "live"

        def render_sample(self, count: int, observe: Any, unit: Unit, draw: Draw) -> Synthetic:
            return Synthetic(self.pixels[: count - 1], None)

    method = _built(Live())
    with pytest.raises(ValueError, match=r"Live.render_sample: expected images \(6, 1, 8, 8\)"):
        method.sample(6, _networks()[0], Cadence(2, 2).unit(0, 2), Draw(0, 0))
    assert int(method.images_sampled) == 0


class Replays(Forgets):
    """A live method that learns after the student's steps."""

    source = "live"

    def __init__(self, trains: str | None) -> None:
        super().__init__()
        self.trains = trains

    def make_optimizers(self) -> dict[str, Optimizer]:
        replay = {"replay": SGD([self.offset], lr=0.1)} if self.trains else {}
        self.offset.requires_grad_(self.trains is not None)
        return {**super().make_optimizers(), **replay}

    def render_sample(self, count: int, observe: Any, unit: Unit, draw: Draw) -> Synthetic:
        return Synthetic(self.pixels.detach()[:count], None)

    def replay_loss(self, synthetic: Synthetic, *_: Any) -> LossTerms:
        trained = self.offset if self.trains == "offset" else self.pixels
        return LossTerms({"mean": (trained.sum() - 1).square()}, {"mean": 1.0})


def test_what_is_learned_after_the_student_s_step_is_checked_too() -> None:
    with pytest.raises(ValueError, match=r"Replays.replay_loss returned terms, but make_optimizers has no 'replay'"):
        toy.fit(toy.condkd(Replays(None)), mix=0.25, max_epochs=1)
    with pytest.raises(ValueError, match="no gradient of the loss reaches what the optimizer 'replay' trains"):
        toy.fit(toy.condkd(Replays("pixels")), mix=0.25, max_epochs=1)
    method = Replays("offset")
    toy.fit(toy.condkd(method), mix=0.25, max_epochs=1)
    assert float(method.offset.detach()) > 0


# --- distillation ----------------------------------------------------------------------------------------------------


class Reads(DistillationLoss):
    """A loss by a function."""

    def __init__(self, read: Callable[[NetworkOutput, NetworkOutput], Any]) -> None:
        super().__init__()
        self.read = read

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Any:
        return self.read(student, teacher)


class Projects(DistillationLoss):
    """A loss with a layer of its own, and one that it does not use."""

    def __init__(self, idle: bool = False, groups: list[dict[str, Any]] | None = None) -> None:
        super().__init__()
        self.layer, self.groups = nn.Linear(3, 3), groups
        self.idle = nn.Linear(3, 3) if idle else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        return super().parameter_groups() if self.groups is None else self.groups

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        return (self.layer(student.logits) - teacher.logits).square().mean()


def _distance(name: str) -> Reads:
    return Reads(lambda student, teacher: (getattr(student, name) - getattr(teacher, name)).square().mean())


LOSSES: dict[str, tuple[Callable[[], DistillationLoss], str]] = {
    "embedding": (lambda: _distance("embedding"), "the embedding was read.*: set needs_embedding = True in the loss"),
    "maps": (lambda: Reads(lambda s, t: s.maps[0].mean()), "maps was read.*: set teacher_maps and student_maps"),
    "no maps at all": (lambda: Reads(lambda s, t: sum(m.mean() for m in s.maps)), "set teacher_maps and student_maps"),
    "bn": (lambda: Reads(lambda s, t: sum(x.mean.sum() for x in s.bn)), "is given logits, embedding and maps"),
    "channel_means": (lambda: _distance("channel_means"), "is given logits, embedding and maps"),
    "not reduced": (
        lambda: Reads(lambda s, t: (s.logits - t.logits).square().mean(1)),
        r"Reads.forward: expected a scalar tensor, got shape \(8,\); return the mean over the batch",
    ),
    "nothing returned": (lambda: Reads(lambda s, t: None), "expected a scalar tensor, got NoneType"),
    "detached": (lambda: Reads(lambda s, t: s.logits.detach().mean()), "no gradient of the loss reaches the student"),
    "idle parameters": (
        lambda: Projects(idle=True),
        r"Projects: no gradient reached idle.weight, idle.bias in the first step, so nothing trains it: use it",
    ),
    "parameters that no optimizer gets": (
        lambda: Projects(groups=[]),
        r"student_optimizer, Projects: the optimizer holds none of the parameters to train, among them 'layer.weight'",
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_faulty_loss_is_refused(case: str) -> None:
    make, match = LOSSES[case]
    with pytest.raises(ValueError, match=match):
        toy.fit(toy.condkd(distillation=make()), max_epochs=2)


@pytest.mark.parametrize("mix", ["union", "two_term"])
def test_what_a_loss_declares_it_may_read(mix: str) -> None:
    class Declared(DistillationLoss):
        needs_embedding, teacher_maps, student_maps = True, ("features",), ("features",)

        def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
            first = student.select(torch.arange(1))
            assert first.embedding is not None
            assert student.embedding is not None
            return (student.maps[0] - teacher.maps[0]).square().mean() + student.embedding.mean() + first.logits.mean()

    toy.fit(toy.condkd(distillation=Declared()), mix=mix, max_epochs=2)


def test_a_frozen_layer_of_a_loss_is_allowed() -> None:
    loss = Projects().requires_grad_(False)
    toy.fit(toy.condkd(distillation=loss), max_epochs=2)


# --- parts of the wrong kind -----------------------------------------------------------------------------------------

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "plain teacher": (
        {"teacher": nn.Flatten()},
        r"teacher: expected Observer, got Flatten: wrap it as Observer\(network, mean, std\)",
    ),
    "function as student": ({"student": torch.relu}, "student: expected Module, got builtin_function_or_method"),
    "torch's loss": ({"distillation": nn.MSELoss()}, "distillation: expected DistillationLoss, got MSELoss: subclass"),
    "function as loss": (
        {"distillation": class_loss},
        "distillation: expected DistillationLoss, got function: subclass",
    ),
    "class as loss": ({"distillation": KLDistillation}, "expected DistillationLoss, got the class KLDistillation"),
    "class as method": (
        {"inversion": Fast},
        r"inversion: expected Inversion, got the class Fast: give a method such as",
    ),
    "bare discriminator": (
        {"alignment": ACGANDiscriminator()},
        r"alignment: expected Alignment, got ACGANDiscriminator: give FeatureAlignment\(discriminator\) or",
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_part_of_the_wrong_kind_is_refused_with_what_to_give(case: str) -> None:
    given, match = KINDS[case]
    with pytest.raises(TypeError, match=match):
        toy.condkd(**given)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "teacher=DigitsNet",
            "model.teacher: DigitsNet is a class of another kind .*: wrap the network, with class_path",
        ),
        ("inversion=DigitsNet", "model.inversion: DigitsNet is a class of another kind than is expected here"),
        ("distillation=torch.nn.MSELoss", "model.distillation: .*a subclass of DistillationLoss"),
    ],
)
def test_a_class_of_the_wrong_kind_is_refused_on_the_command_line(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", f"--config={ROOT / 'configs' / 'quickstart.yaml'}", f"--model.init_args.{flag}"])
    assert re.search(said, capsys.readouterr().err)


def test_a_plain_module_as_discriminator_or_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="discriminator: expected a Discriminator, got Linear: subclass it"):
        FeatureAlignment(nn.Linear(2, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="method: expected CondensationMethod, got the class DistributionMatching"):
        Condensation(DistributionMatching, output=tmp_path / "set.safetensors")  # type: ignore[arg-type]


# --- alignment and condensation --------------------------------------------------------------------------------------


class Idle(Discriminator):
    def build_heads(self, width: int, num_classes: int) -> None:
        self.unused = nn.Linear(width, num_classes)


class Detached(Discriminator):
    def score(self, features: Tensor, realness: Tensor, labels: Tensor) -> DiscriminatorOutput:
        return DiscriminatorOutput(realness.detach())


class Wide(Discriminator):
    def score(self, features: Tensor, realness: Tensor, labels: Tensor) -> DiscriminatorOutput:
        return DiscriminatorOutput(realness[:, None])


class Bare(Discriminator):
    def score(self, features: Tensor, realness: Tensor, labels: Tensor) -> Any:
        return realness


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (Idle, "Idle: no gradient reached unused.weight, unused.bias in the first step, so nothing trains it"),
        (Detached, "no gradient of the loss reaches what the optimizer 'discriminator' trains"),
        (Wide, r"Wide.score: expected realness of shape \(12,\), got \(12, 1\)"),
        (Bare, r"Bare.score: expected DiscriminatorOutput\(realness\), got Tensor"),
    ],
)
def test_a_faulty_discriminator_is_refused(make: type[Discriminator], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        toy.fit(toy.condkd(alignment=FeatureAlignment(make((8,)))), max_epochs=2)


class Nameless(Means):
    name = None  # type: ignore[assignment]


class NoNetworks(Means):
    def __init__(self) -> None:
        super().__init__()
        del self.networks


class WithPath(Means):
    settings = lambda self: {"folder": Path()}  # noqa: E731


class WithScale(Means):
    def __init__(self, held: bool) -> None:
        super().__init__()
        self.scale, self.held = nn.Parameter(torch.ones(())), held

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.scale], "lr": 0.1}] if self.held else []


class Yields(Means):
    def __init__(self, parts: Callable[[Tensor], list[Any]]) -> None:
        super().__init__()
        self.parts = parts

    def losses(self, images: Tensor, *_: Any) -> Iterator[Any]:
        yield from self.parts(images)


CONDENSATIONS: dict[str, tuple[Callable[[], CondensationMethod], str]] = {
    "no name": (Nameless, "Nameless.name: expected what the method is called in files, got None"),
    "no networks": (NoNetworks, r"NoNetworks.networks: expected FreshNetworks\(network, mean, std\)"),
    "settings": (WithPath, "WithPath.settings: a file could not record them .*return numbers, text"),
    "not learned": (lambda: WithScale(False), "WithScale.parameter_groups: no group holds scale: add it to one"),
    "no gradient": (lambda: WithScale(True), "WithScale.losses: no gradient reached scale in the first iteration"),
    "nothing yielded": (lambda: Yields(lambda x: []), "Yields.losses: no gradient reached the images in the first"),
    "a tensor": (lambda: Yields(lambda x: [x.mean()]), r"Yields.losses: expected it to yield LossTerms.*, got Tensor"),
    "detached": (
        lambda: Yields(lambda x: [LossTerms({"mean": x.detach().mean()}, {"mean": 1.0})]),
        "Yields.losses: no gradient of mean reaches the images",
    ),
}


@pytest.mark.parametrize("case", CONDENSATIONS)
def test_a_faulty_condensation_method_is_refused(case: str, tmp_path: Path) -> None:
    make, match = CONDENSATIONS[case]
    module = Condensation(make(), output=tmp_path / "set.safetensors", init="noise", steps_per_epoch=2, seed=0)
    with pytest.raises((TypeError, ValueError), match=match):
        toy.silent_trainer(max_epochs=1).fit(module, DigitsDataModule(seed=0))


# --- weighted terms --------------------------------------------------------------------------------------------------


def test_terms_and_weights_are_paired_by_name() -> None:
    one = torch.ones(())
    with pytest.raises(ValueError, match="the loss term 'a' has no weight"):
        LossTerms({"a": one}, {})
    with pytest.raises(ValueError, match="the loss term 'b' has no value"):
        LossTerms({"a": one}, {"a": 1.0, "b": 0.0})
    with pytest.raises(ValueError, match=r"the loss term 'a': expected a scalar tensor, got shape \(2,\)"):
        LossTerms({"a": one.repeat(2)}, {"a": 1.0})
    with pytest.raises(ValueError, match="the loss term 'a': expected a scalar tensor, got float"):
        LossTerms({"a": lambda: 1.0}, {"a": 1.0})  # type: ignore[dict-item, return-value]
    with pytest.raises(ValueError, match="two loss terms are called 'a'"):
        LossTerms({"a": one}, {"a": 1.0}).merge(LossTerms({"a": one}, {"a": 2.0}))


def test_a_function_is_called_only_where_its_weight_counts_and_a_value_is_kept() -> None:
    def fails() -> Tensor:
        raise AssertionError

    terms = LossTerms(
        {"off": fails, "kept": torch.ones(()), "on": lambda: torch.ones(())}, {"off": 0.0, "kept": 0.0, "on": 2.0}
    )
    assert set(terms.values) == {"kept", "on"}
    assert float(terms.total()) == 2
