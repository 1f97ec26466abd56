from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.distillation import FeatureSampling, GenDD, LossContext
from lightning_condkd.distillation.denoising import draw_mixture, draw_rows
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.types import NetworkOutput
from tests.helpers import toy
from tests.reference import gendd as reference

LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
STEP = Draw(seed=3, step=5)
SMALL: dict[str, Any] = {"token_size": 4, "width": 6, "depth": 2, "batch_multiplier": 2}
FAST = FeatureSampling(sampler="ddim", steps=4, samples=1)


class Case(NamedTuple):
    loss: GenDD
    teacher: Observer
    student: Observer
    images: Tensor

    def outputs(self) -> tuple[NetworkOutput, NetworkOutput]:
        return self.student(self.images, embedding=True), self.teacher(self.images, embedding=True)

    def context(self, draw: Draw = STEP) -> LossContext:
        return LossContext(student_head=self.student.head(), draw=draw)

    def terms(self, labels: Tensor | None = LABELS, draw: Draw = STEP) -> dict[str, Tensor]:
        return self.loss.terms(*self.outputs(), labels, self.context(draw)).values

    def gradients(self, loss: Tensor) -> dict[str, Tensor | None]:
        modules = {"student": self.student, "loss": self.loss, "teacher": self.teacher}
        for module in modules.values():
            module.zero_grad()
        loss.backward()
        named = ((f"{k}.{n}", p) for k, module in modules.items() for n, p in module.named_parameters())
        return {name: None if p.grad is None else p.grad.clone() for name, p in named}


def _case(fresh: bool = False, **arguments: Any) -> Case:
    """Networks and a loss in double precision, of widths 16 and 8; none of the head's layers is zero unless fresh."""
    teacher = toy.observed(toy.network("teacher", width=8)).double().freeze()
    student = toy.observed(toy.network("student")).double().eval()
    loss = GenDD(**{**SMALL, "sampling": FAST, **arguments})
    loss.build(teacher, student, toy.SHAPE).double()
    generator = seeded_generator(0, "trained")
    with torch.no_grad():
        for parameter in () if fresh else (*loss.head.parameters(), *loss.condition_norm.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    images = torch.rand(6, *toy.SHAPE, generator=seeded_generator(0, "images"), dtype=torch.float64)
    return Case(loss, teacher, student, images)


def _expected(case: Case, labels: list[list[float]], draw: Draw) -> tuple[Tensor, float]:
    """Return the terms of the formula, given what is drawn."""
    loss, (student, teacher) = case.loss, case.outputs()
    assert student.embedding is not None
    assert teacher.embedding is not None
    weights = loss.head.state_dict()
    drawn = draw_rows(draw, 6, loss.batch_multiplier, 4, 4, loss.condition_drop)
    values = zip(drawn.images, drawn.places, drawn.timesteps, drawn.noise.double(), ~drawn.keeps, strict=True)
    rows = [reference.Row(int(i), int(p), int(t), noise, bool(k)) for i, p, t, noise, k in values]
    partners, share = draw_mixture(draw, 6, loss.feature_mixup) if loss.feature_mixup else (torch.arange(6), 1.0)
    centers = case.teacher.head().weight.detach()
    target = reference.targets(teacher.embedding, centers, labels, loss.contraction, partners.tolist(), share)
    scale, shift = loss.condition_norm.weight, loss.condition_norm.bias
    normed = torch.stack([reference.layer_norm(z, 1e-5) * scale + shift for z in student.embedding])
    condition = torch.stack([share * normed[i] + (1 - share) * normed[j] for i, j in enumerate(partners)])

    def network(x: Tensor, t: int, place: int, z: Tensor) -> Tensor:
        return reference.head(weights, loss.depth, x, t, place, z)

    return reference.diffusion_terms(network, target, condition, rows)


@pytest.mark.parametrize("arguments", [{}, {"contraction": 0.7, "feature_mixup": 0.0, "condition_drop": 0.5}])
def test_the_terms_are_the_formula(arguments: dict[str, float]) -> None:
    case, draw = _case(**arguments), Draw(1, 2)
    terms = case.terms(draw=draw)
    one_hot = torch.eye(3)[LABELS].tolist()
    diffusion, variational = _expected(case, one_hot, draw)
    torch.testing.assert_close(terms["diffusion"], diffusion, rtol=0, atol=1e-9, check_dtype=False)
    assert terms["variational"].item() == pytest.approx(variational, rel=1e-7)
    student = case.outputs()[0]
    expected = -student.logits.log_softmax(1)[range(6), LABELS].mean()
    torch.testing.assert_close(terms["linear"], expected, rtol=0, atol=1e-12)


def test_soft_labels_and_the_teachers_probabilities_move_the_center() -> None:
    soft = torch.rand(6, 3, generator=seeded_generator(0, "soft"), dtype=torch.float64).softmax(1)
    case, draw = _case(), Draw(1, 2)
    diffusion, _ = _expected(case, soft.tolist(), draw)
    torch.testing.assert_close(case.terms(soft, draw)["diffusion"], diffusion, rtol=0, atol=1e-9, check_dtype=False)
    alone = _case(center_label_weight=0.0, linear_weight=0.0)
    assert not alone.loss.needs_labels
    probabilities = alone.outputs()[1].logits.softmax(1)
    given = case.terms(probabilities, draw)["diffusion"]
    torch.testing.assert_close(alone.terms(None, draw)["diffusion"], given, rtol=0, atol=1e-12)


def test_hard_labels_are_one_hot_ones() -> None:
    case = _case()
    hard, one_hot = case.terms(LABELS), case.terms(torch.eye(3).double()[LABELS])
    for name, value in hard.items():
        torch.testing.assert_close(value, one_hot[name], rtol=0, atol=1e-12)


def test_a_new_network_predicts_zero_and_its_first_gradient_does_not_reach_the_student() -> None:
    case = _case(fresh=True)
    loss = case.terms()["diffusion"]
    noise = draw_rows(STEP, 6, 2, 4, 4, 0.2).noise.double()
    torch.testing.assert_close(loss, noise.square().mean(), rtol=0, atol=1e-12)
    sgd, found = torch.optim.SGD(case.loss.head.parameters(), lr=0.5), []
    for _ in range(3):  # the output moves first, then what modulates
        gradient = case.gradients(case.terms()["diffusion"])["student.network.features.0.weight"]
        assert gradient is not None
        found.append(bool(gradient.any()))
        sgd.step()
    assert found == [False, False, True]


def test_without_contraction_no_labels_are_read() -> None:
    case = _case(contraction=0.0, linear_weight=0.0)
    assert not case.loss.needs_labels
    assert not case.loss.needs_student_head
    without = case.loss.terms(*case.outputs(), None, LossContext(draw=STEP)).values
    assert set(without) == {"diffusion", "variational"}
    assert torch.equal(without["diffusion"], case.terms(LABELS)["diffusion"])
    assert torch.equal(without["diffusion"], case.terms(LABELS.flip(0))["diffusion"])


def test_with_contraction_labels_count_and_are_needed() -> None:
    case = _case(linear_weight=0.0)
    assert not torch.equal(case.terms(LABELS)["diffusion"], case.terms(LABELS.flip(0))["diffusion"])
    with pytest.raises(ValueError, match="GenDD needs labels"):
        case.terms(None)


def test_the_body_learns_by_denoising_alone_and_the_final_layer_by_labels_alone() -> None:
    case = _case()
    terms = case.terms()
    before = {name: value.clone() for name, value in case.teacher.state_dict().items()}
    linear = case.gradients(terms["linear"])
    assert {name for name, grad in linear.items() if grad is not None and grad.any()} == {
        "student.network.linear.weight",
        "student.network.linear.bias",
    }
    diffusion = case.gradients(case.terms()["diffusion"])
    moved = {name for name, grad in diffusion.items() if grad is not None and grad.abs().max() > 1e-12}
    own = {name for name in diffusion if name.startswith(("loss.head", "loss.condition_norm"))}
    body = {name for name in diffusion if name.startswith("student.network.features")}
    assert moved == own | body
    assert toy.same(before, dict(case.teacher.state_dict()))


def test_the_variational_term_trains_the_output_of_the_variance_and_what_it_shares() -> None:
    case = _case()
    gradients = case.gradients(case.terms()["variational"])
    output = gradients["loss.head.output.weight"]
    assert output is not None
    assert not output[:4].any()
    assert output[4:].abs().amax(1).min() > 0
    body = gradients["student.network.features.0.weight"]
    assert body is not None
    assert body.abs().max() > 1e-12
    assert gradients["student.network.linear.weight"] is None


def test_without_a_learned_variance_there_is_no_variational_term() -> None:
    case = _case(learn_sigma=False)
    assert set(case.terms()) == {"diffusion", "linear"}
    assert case.loss.head.output.out_features == 4


@pytest.mark.parametrize("most_rows", [1, 7, 48])
def test_parts_have_the_same_gradient(most_rows: int) -> None:
    whole, parts = _case(), _case(most_rows=most_rows)
    both = [case.loss(*case.outputs(), LABELS, case.context()) for case in (whole, parts)]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-12)
    first, second = (case.gradients(loss) for case, loss in zip((whole, parts), both, strict=True))
    for name, grad in first.items():
        torch.testing.assert_close(grad, second[name], rtol=0, atol=1e-12)


def test_parts_bound_how_many_rows_the_network_is_given() -> None:
    case, seen = _case(most_rows=7), []
    case.loss.head.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    case.terms()
    assert sum(seen) == 6 * 2 * 4
    assert max(seen) == 7


def test_a_dropped_condition_is_the_zero_vector() -> None:
    dropped, kept = _case(condition_drop=1.0), _case(condition_drop=0.0)
    with torch.no_grad():
        for parameter in kept.loss.condition_norm.parameters():
            parameter.zero_()
    torch.testing.assert_close(dropped.terms()["diffusion"], kept.terms()["diffusion"], rtol=0, atol=1e-12)
    gradient = dropped.gradients(dropped.terms()["diffusion"])["student.network.features.0.weight"]
    assert gradient is not None
    assert not gradient.any()


def test_conditions_are_dropped_row_by_row_at_the_given_rate() -> None:
    keeps = draw_rows(Draw(0, 0), 200, 5, 4, 1, 0.2).keeps
    assert keeps.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert 0 < keeps.view(200, 20).float().mean(1).min() < 1


def test_timesteps_and_shares_have_their_distributions() -> None:
    timesteps = draw_rows(Draw(0, 0), 500, 5, 4, 1, 0.2).timesteps
    assert (timesteps.min().item(), timesteps.max().item()) == (0, 999)
    assert timesteps.float().mean().item() == pytest.approx(499.5, abs=10)
    uniform, narrow = (torch.tensor([draw_mixture(Draw(0, s), 4, b)[1] for s in range(800)]) for b in (1.0, 50.0))
    assert uniform.std().item() == pytest.approx(12**-0.5, abs=0.02)
    assert narrow.std().item() == pytest.approx((4 * 101) ** -0.5, abs=0.005)


def test_ranks_draw_the_rows_of_the_whole_batch() -> None:
    whole = draw_rows(Draw(1, 2), 6, 2, 4, 3, 0.2)
    for rank in range(2):
        part = draw_rows(Draw(1, 2, rank, 2), 3, 2, 4, 3, 0.2)
        for name in ("timesteps", "noise", "keeps"):
            by_image = getattr(whole, name).unflatten(0, (6, 8))[rank::2]
            assert torch.equal(getattr(part, name).unflatten(0, (3, 8)), by_image)
    mixtures = [draw_mixture(Draw(1, 2, rank, 2), 3, 1.0) for rank in range(2)]
    assert mixtures[0][1] != mixtures[1][1]


def test_ranks_together_have_the_loss_of_one_process() -> None:
    case = _case(feature_mixup=0.0)
    whole, losses = case.terms(), []
    for rank in range(2):
        rows = torch.arange(6)[rank::2]
        outputs = [output.select(rows) for output in case.outputs()]
        losses.append(case.loss.terms(*outputs, LABELS[rows], case.context(Draw(3, 5, rank, 2))).values)
    for name, value in whole.items():
        torch.testing.assert_close(value, (losses[0][name] + losses[1][name]) / 2, rtol=0, atol=1e-12)


def test_a_step_repeats_and_another_one_differs() -> None:
    case = _case()
    assert torch.equal(case.terms()["diffusion"], case.terms()["diffusion"])
    assert not torch.equal(case.terms()["diffusion"], case.terms(draw=Draw(3, 6))["diffusion"])


def test_the_network_has_no_weight_decay_and_the_teachers_layer_no_group() -> None:
    case = _case()
    head, norm = case.loss.parameter_groups()
    assert head["weight_decay"] == 0.0
    assert "weight_decay" not in norm
    assert [id(p) for p in norm["params"]] == [id(p) for p in case.loss.condition_norm.parameters()]
    grouped = {id(p) for group in (head, norm) for p in group["params"]}
    assert grouped == {id(p) for p in case.loss.parameters() if p.requires_grad}
    assert not grouped & {id(p) for p in case.loss.teacher_head.parameters()}


def test_the_scale_of_the_first_batch_stays_and_is_saved() -> None:
    case, raw = _case(target_scale="first_batch"), _case()
    with pytest.raises(RuntimeError, match="sample after the first training step"):
        case.loss.sample_logits(case.student, case.images)
    case.terms()
    scale = case.loss.target_scale.clone()
    targets = raw.loss.targets(raw.outputs()[1], LABELS)
    torch.testing.assert_close(scale, 1 / targets.std(correction=0), rtol=1e-6, atol=0)
    case.terms(LABELS.flip(0))
    assert torch.equal(case.loss.target_scale, scale)
    resumed = _case(target_scale="first_batch", fresh=True)
    resumed.loss.load_state_dict(case.loss.state_dict())
    assert torch.equal(resumed.loss.target_scale, scale)


def test_a_given_scale_multiplies_the_targets() -> None:
    scaled, raw = _case(target_scale=4.0), _case()
    targets = [case.loss.targets(case.outputs()[1], LABELS) for case in (scaled, raw)]
    torch.testing.assert_close(targets[0], 4 * targets[1], rtol=1e-12, atol=0)


class Known(nn.Module):
    """A network that knows the feature: twice the condition and a number for each place, zeros without condition."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.tokens, self.token_size, self.learn_sigma = 4, 4, False
        self.scale = scale
        self.rows: list[int] = []

    def feature(self, places: Tensor, condition: Tensor) -> Tensor:
        known = 2 * condition[:, :4] + places.unsqueeze(1) + 1
        return self.scale * known * condition.any(1, keepdim=True)

    def forward(self, noisy: Tensor, timesteps: Tensor, places: Tensor, condition: Tensor) -> tuple[Tensor, None]:
        self.rows.append(len(noisy))
        at = GenDD().schedule.at(timesteps, noisy)
        return (noisy - at.signal * self.feature(places, condition)) / at.noise, None


@pytest.mark.parametrize("sampling", [FAST, FeatureSampling("ddpm", 10, samples=3)])
def test_sampled_tokens_are_joined_in_order_and_given_to_the_teachers_layer(sampling: FeatureSampling) -> None:
    case = _case(sampling=FeatureSampling(sampling.sampler, sampling.steps, 1.0, sampling.samples), target_scale=3.0)
    case.loss.head = Known(scale=3.0)  # type: ignore[assignment]
    condition = case.loss.condition(case.outputs()[0])
    feature = torch.cat([2 * condition[:, :4] + place + 1 for place in range(4)], dim=1)
    made = case.loss.other_predictors(case.student)["sampled"](case.images)
    torch.testing.assert_close(made, case.teacher.head()(feature), rtol=0, atol=1e-6)
    assert not made.requires_grad


def test_guidance_doubles_the_rows_and_moves_away_from_what_has_no_condition() -> None:
    logits, rows = {}, {}
    for scale in (1.0, 2.0):
        case = _case(sampling=FeatureSampling("ddim", 4, scale, 1))
        known = Known()
        case.loss.head = known  # type: ignore[assignment]
        logits[scale] = case.loss.sample_logits(case.student, case.images)
        rows[scale] = set(known.rows)
    assert rows == {1.0: {6 * 4}, 2.0: {2 * 6 * 4}}
    # Without condition the feature is 0, so a scale of 2 doubles it.
    bias = case.teacher.network.linear.bias
    torch.testing.assert_close(logits[2.0] - bias, 2 * (logits[1.0] - bias), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_sampled_predictions_depend_on_neither_batch_nor_call(sampler: Any) -> None:
    case = _case(sampling=FeatureSampling(sampler, steps=5, samples=2))
    predict = case.loss.other_predictors(case.student)["sampled"]
    whole = predict(case.images)
    assert torch.equal(whole, predict(case.images))
    torch.testing.assert_close(torch.cat([predict(x) for x in case.images.split(1)]), whole, rtol=0, atol=1e-7)
    torch.testing.assert_close(predict(case.images.flip(0)), whole.flip(0), rtol=0, atol=1e-7)


def test_every_image_has_noise_of_its_own() -> None:
    """A new network predicts no noise, so that DDIM only scales what it starts from."""
    case = _case(fresh=True, sampling=FeatureSampling("ddim", 4, samples=1))
    case.loss.teacher_head = nn.Identity()  # type: ignore[assignment]
    case.loss.teacher_head.weight = torch.zeros(1, dtype=torch.float64)  # type: ignore[assignment]
    first, second = case.loss.sample_logits(case.student, case.images[:2])
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.7
    assert not torch.allclose(first[:4], first[4:8])


def test_more_rows_than_allowed_are_sampled_in_parts() -> None:
    case = _case(most_rows=16)
    whole = _case().loss.sample_logits(case.student, case.images)
    seen: list[int] = []
    case.loss.head.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    torch.testing.assert_close(case.loss.sample_logits(case.student, case.images), whole, rtol=0, atol=1e-7)
    assert set(seen) == {16}


def test_seed_and_number_of_samples_count() -> None:
    made = []
    for settings in ({}, {"seed": 1}, {"samples": 2}):
        case = _case(sampling=FeatureSampling(**{"sampler": "ddpm", "steps": 5, "samples": 1, **settings}))
        made.append(case.loss.sample_logits(case.student, case.images))
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_the_student_itself_is_the_predictor() -> None:
    case = _case()
    assert case.loss.predictor(case.student) is case.student


def test_the_published_defaults() -> None:
    loss, sampling = GenDD(), FeatureSampling()
    head = (loss.token_size, loss.width, loss.depth, loss.learn_sigma)
    assert head == (64, 1024, 3, True)
    assert (loss.contraction, loss.center_label_weight) == (0.9, 1.0)
    assert (loss.feature_mixup, loss.condition_drop, loss.batch_multiplier) == (1.0, 0.2, 30)
    assert (loss.linear_weight, loss.target_scale.item()) == (1.0, 1.0)
    assert (sampling.sampler, sampling.steps, sampling.guidance_scale, sampling.samples) == ("ddpm", 100, 2.0, 5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: GenDD(token_size=0), "token_size: expected 1 or more, got 0"),
        (lambda: GenDD(batch_multiplier=0), "batch_multiplier: expected 1 or more, got 0"),
        (lambda: GenDD(most_rows=0), "most_rows: expected 1 or more, got 0"),
        (lambda: GenDD(contraction=1.0), r"contraction: expected a share in \[0, 1\), got 1.0"),
        (lambda: GenDD(condition_drop=1.5), r"condition_drop: expected a share in \[0, 1\], got 1.5"),
        (lambda: GenDD(center_label_weight=-0.5), r"center_label_weight: expected a share in \[0, 1\], got -0.5"),
        (lambda: GenDD(feature_mixup=-1.0), "feature_mixup: expected 0 or more, got -1.0"),
        (lambda: GenDD(linear_weight=-1.0), "linear_weight: expected 0 or more, got -1.0"),
        (lambda: GenDD(target_scale=0.0), "target_scale: expected a positive number or 'first_batch', got 0.0"),
        (lambda: GenDD(target_scale="std"), "target_scale: .* got 'std'"),  # type: ignore[arg-type]
        (lambda: FeatureSampling(sampler="ode"), "'ddpm' or 'ddim', got 'ode'"),  # type: ignore[arg-type]
        (lambda: FeatureSampling(steps=1001), r"steps: .* in \[1, 1000\], got 1001"),
        (lambda: FeatureSampling(samples=0), "samples: expected 1 or more features to average, got 0"),
        (lambda: FeatureSampling(guidance_scale=-1.0), "guidance_scale: expected 0 or more, got -1.0"),
    ],
)
def test_arguments_are_checked(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_a_width_that_does_not_divide_is_refused_at_setup() -> None:
    with pytest.raises(ValueError, match=r"a divisor of 16, .* got 64; the next smaller one is 16"):
        _case(token_size=64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_of_the_networks_gives_a_finite_loss_in_float32(dtype: torch.dtype) -> None:
    case = _case()
    for module in (case.loss, case.teacher, case.student):
        module.float()
    case = case._replace(images=case.images.float())
    with torch.autocast("cpu", dtype=dtype):
        terms = case.terms()
        sampled = case.loss.sample_logits(case.student, case.images)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert all(value.isfinite() for value in terms.values())
    assert sampled.isfinite().all()
