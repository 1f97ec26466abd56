from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.augment import SiameseAugment
from lightning_condkd.condensation.generative import ConditionalGAN, SelfDistillation
from lightning_condkd.condensation.parts import matching_pool as pool_module
from lightning_condkd.condensation.parts.matching_pool import MatchingPool
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.files import plain_json
from lightning_condkd.models import ConvNet, DigitsNet, FreshNetworks, Observer
from lightning_condkd.randomness import Draw, seeded_generator
from tests.reference import self_distillation as reference

MEAN, STD = (0.3059,), (0.3754,)
IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(12) % 3


def gan(**arguments: Any) -> ConditionalGAN:
    made = ConditionalGAN(**{"latent_size": 6, "width": 4, **arguments})
    made.build((1, 8, 8), 3, torch.Generator().manual_seed(0))
    return made.double()


def network(norm: str = "instance") -> nn.Module:
    return ConvNet(3, image_size=8, in_channels=1, depth=1, width=4, norm=norm)  # type: ignore[arg-type]


def pool(norm: str = "instance", **arguments: Any) -> MatchingPool:
    defaults = {"size": 2, "training_batches": 2, "augment": SiameseAugment("crop_cutout")}
    made = MatchingPool(FreshNetworks(partial(network, norm), MEAN, STD), **{**defaults, **arguments})
    made.build((1, 8, 8), 3, seed=7)
    return made.double()


def real(draw: Draw) -> Callable[[str], tuple[Tensor, Tensor]]:
    def batch(purpose: str) -> tuple[Tensor, Tensor]:
        rows = torch.randint(12, (6,), generator=draw.generator(purpose))[draw.rows]
        return IMAGES[rows], LABELS[rows]

    return batch


# --- the GAN ---------------------------------------------------------------------------------------------------------


def test_losses_are_those_of_an_acgan_with_gradient_penalty() -> None:
    model, draw = gan(penalty=7.0), Draw(seed=3, step=5)
    terms = model.critic_loss(IMAGES, LABELS, draw)
    random = draw.generator("critic")
    wanted, mix = torch.randint(3, (12,), generator=random), torch.rand(12, generator=random).double()
    synthetic = model.render(wanted, draw, "critic latents").detach()
    on_real, on_synthetic = model.critic(IMAGES), model.critic(synthetic)
    penalty = reference.gradient_penalty(
        lambda x: model.critic((x + 1) / 2).realness, 2 * IMAGES - 1, 2 * synthetic - 1, mix
    )
    expected = on_synthetic.realness.mean() - on_real.realness.mean() + 7 * penalty
    for logits, labels in ((on_real.class_logits, LABELS), (on_synthetic.class_logits, wanted)):
        expected = expected - logits.log_softmax(1)[range(12), labels].mean()
    assert terms.total().item() == pytest.approx(expected.item(), rel=1e-6)
    realness, class_logits = model.critic(synthetic)
    generated = model.generator_loss(synthetic, wanted).total()
    assert torch.allclose(generated, F.cross_entropy(class_logits, wanted) - realness.mean())


def test_the_critics_loss_has_no_gradient_to_the_generator() -> None:
    model = gan()
    model.critic_loss(IMAGES, LABELS, Draw(0, 0)).total().backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    assert all(parameter.grad is not None for parameter in model.critic.parameters())


def test_ranks_render_their_rows_of_one_batch() -> None:
    model = gan().eval()
    whole = model.render(LABELS, Draw(0, 4), "latents")
    for rank in range(2):
        share = model.render(LABELS[rank::2], Draw(0, 4, rank, 2), "latents")
        assert torch.allclose(share, whole[rank::2])
    assert not torch.allclose(model.render(LABELS, Draw(0, 5), "latents"), whole)


def test_samples_come_from_eval_mode_and_leave_the_generator_as_it_was() -> None:
    model = gan().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = (model.sample(LABELS, seeded_generator(0, "sample")) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(model.sample(LABELS, seeded_generator(1, "sample")), first)
    assert model.generator.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_building_leaves_the_global_stream_alone() -> None:
    state = torch.random.get_rng_state()
    gan(), pool()
    assert torch.equal(state, torch.random.get_rng_state())


# --- the pool --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_networks_learn_as_by_torchs_sgd(norm: str) -> None:
    trained = pool(norm, size=1, training_batches=3)
    plain = Observer(network(norm), MEAN, STD).double().train()
    plain.load_state_dict(trained.networks[0].state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        draw = Draw(seed=1, step=step)
        trained.draw_network(draw, real(draw))
        for batch in range(3):
            images, labels = real(draw)(f"matching images/{batch}")
            parameters = trained.augment.sample(6, draw.generator(f"matching augment/{batch}"))
            optimizer.zero_grad()
            F.cross_entropy(plain(trained.augment(images, parameters)).logits, labels).backward()
            optimizer.step()
    for name, value in plain.state_dict().items():
        assert torch.allclose(trained.networks[0].state_dict()[name], value, rtol=1e-10), name


def test_dropout_in_the_pool_is_off() -> None:
    def with_dropout() -> nn.Module:
        body = network()
        return nn.Sequential(body.features, nn.Dropout(0.5), body.classifier)

    dropped = FreshNetworks(with_dropout, MEAN, STD)
    trained = MatchingPool(dropped, size=1, training_batches=1, augment=SiameseAugment("crop_cutout"))
    trained.build((1, 8, 8), 3, seed=7)
    state = torch.random.get_rng_state()
    trained.double().draw_network(Draw(1, 0), real(Draw(1, 0)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_networks_are_frozen_and_a_comparison_changes_nothing_in_them() -> None:
    trained, draw = pool("batch"), Draw(0, 0)
    chosen = trained.draw_network(draw, real(draw))
    before = chosen.fingerprint()
    synthetic = IMAGES.clone().requires_grad_()
    of_real, of_synthetic = trained.predictions(chosen, 1 - IMAGES, synthetic, draw)
    SelfDistillation()(of_real, of_synthetic, LABELS).backward()
    assert synthetic.grad is not None
    assert synthetic.grad.abs().sum() > 0
    assert not of_real.requires_grad
    assert chosen.fingerprint() == before
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in trained.parameters())


def test_real_images_in_place_of_generated_ones_are_no_distance() -> None:
    trained = pool()
    for step in range(4):  # whichever operator is drawn
        draw = Draw(0, step)
        chosen = trained.draw_network(draw, real(draw))
        predictions = trained.predictions(chosen, IMAGES, IMAGES.clone(), draw)
        assert SelfDistillation()(*predictions, LABELS) < 1e-20


def test_networks_age_and_make_room() -> None:
    trained = pool(size=1, lifetime=2, training_batches=0)
    seen, ages = [], []
    for step in range(6):
        seen.append(trained.draw_network(Draw(0, step), real(Draw(0, step))).fingerprint())
        ages.append(trained.ages.item())
    assert ages == [1, 2, 1, 2, 1, 2]
    assert [seen[i] == seen[i + 1] for i in range(5)] == [True, False, True, False, True]


def test_all_networks_of_the_pool_are_drawn_and_differ() -> None:
    trained = pool(size=3, training_batches=0)
    assert len({trained.draw_network(Draw(0, step), real(Draw(0, step))).fingerprint() for step in range(20)}) == 3


def test_the_pool_goes_on_from_its_state() -> None:
    whole, resumed = pool(lifetime=2), pool(lifetime=2)
    for step in range(5):
        whole.draw_network(Draw(0, step), real(Draw(0, step)))
        if step == 2:
            resumed.load_state_dict(whole.state_dict())
        elif step > 2:
            resumed.draw_network(Draw(0, step), real(Draw(0, step)))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_two_ranks_train_the_network_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two virtual ranks: a first pass notes what each would reduce, a second one hands out the means."""

    def weights(draw: Draw) -> Tensor:
        trained = pool(training_batches=1)
        chosen = trained.draw_network(draw, real(draw))
        return torch.cat([parameter.flatten() for parameter in chosen.parameters()])

    sent: list[Tensor] = []
    for rank in range(2):
        monkeypatch.setattr(pool_module, "mean_over_ranks", lambda value: sent.append(value) or value)
        weights(Draw(0, 3, rank, 2))
    mean = (sent[0] + sent[1]) / 2
    monkeypatch.setattr(pool_module, "mean_over_ranks", lambda _: mean)
    shared = weights(Draw(0, 3, 1, 2))
    monkeypatch.undo()
    assert torch.allclose(shared, weights(Draw(0, 3)), rtol=1e-12)


# --- arguments -------------------------------------------------------------------------------------------------------


def test_settings_can_be_written_to_a_file() -> None:
    settings = pool().settings()
    assert settings == plain_json("settings", settings)
    assert (settings["network"], settings["size"], settings["mean"]) == ("ConvNet", 2, list(MEAN))


@pytest.mark.parametrize("arguments", [{"size": 0}, {"lifetime": 0}, {"training_batches": -1}])
def test_pool_counts_are_checked(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        pool(**arguments)


@pytest.mark.parametrize("arguments", [{"latent_size": 0}, {"width": 0}, {"batch_size": 0}])
def test_gan_counts_are_checked(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ConditionalGAN(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{"weight": -1.0}, {"batch_size": 0}, {"temperature": 0}, {"pairing": "none"}])
def test_matching_numbers_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SelfDistillation(**arguments)


def test_networks_that_do_not_fit_the_data_are_refused() -> None:
    made = MatchingPool(FreshNetworks(network, MEAN, STD))
    with pytest.raises(ValueError, match=r"expected 4 classes as in the data, ConvNet returns logits of shape .2, 3"):
        made.build((1, 8, 8), 4, seed=0)
    with pytest.raises(ValueError, match="cannot read images of"):
        made.build((1, 16, 16), 3, seed=0)


# --- it learns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", ["sample", "class_mean"])
def test_matching_alone_teaches_the_generator_its_classes(pairing: str) -> None:
    """No GAN: the eyes of a network that knows digits are enough; with wrong partners they are not."""
    teacher = Observer(DigitsNet(), MEAN, STD, weights="package:digits-teacher.safetensors").freeze()
    source, term = load_digits_split(train=True), SelfDistillation(pairing=pairing)  # type: ignore[arg-type]

    def accuracy(shuffled: bool) -> float:
        model = ConditionalGAN(latent_size=8, width=16)
        model.build((1, 8, 8), 10, torch.Generator().manual_seed(0))
        optimizer = torch.optim.Adam(model.generator.parameters(), 3e-3)
        for step in range(60):
            rows = torch.randint(len(source), (64,), generator=seeded_generator(0, "rows", step))
            labels = source.labels[rows]
            partners = torch.randperm(64, generator=seeded_generator(0, "order", step)) if shuffled else slice(None)
            views = model.render(labels[partners], Draw(0, step), "latents")
            optimizer.zero_grad()
            term(teacher(source.images[rows] / 255).logits, teacher(views).logits, labels).backward()
            optimizer.step()
        labels = torch.arange(10).repeat_interleave(10)
        logits = teacher(model.sample(labels, seeded_generator(1, "test"))).logits
        return float((logits.argmax(1) == labels).float().mean())

    assert accuracy(shuffled=False) > 0.6
    assert accuracy(shuffled=True) < 0.3
