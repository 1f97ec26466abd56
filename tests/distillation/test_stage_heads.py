"""Side heads of OFA-KD on the blocks of transformers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lightning_condkd.data import CondensedDataModule
from lightning_condkd.distillation import OFAKD, DistillationLoss
from lightning_condkd.distillation.parts.stage_heads import PatchMerger, token_head
from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.models import CifarResNet, Observer
from lightning_condkd.randomness import seeded_generator, seeded_initialization
from tests.helpers import toy

BLOCKS = [f"encoder.layers.encoder_layer_{i}" for i in range(2)]
SHAPE = (3, 8, 8)


def transformer(width: int = 16) -> VisionTransformer:
    with seeded_initialization(seeded_generator(0, "transformer")):
        size = {"image_size": 8, "patch_size": 2, "num_layers": 2, "num_heads": 2}
        made = VisionTransformer(**size, hidden_dim=width, mlp_dim=2 * width, num_classes=toy.CLASSES)
        nn.init.trunc_normal_(made.heads.head.weight, std=0.02)  # zeros, with which no gradient passes
    return made


def teacher() -> Observer:
    return Observer(toy.network("teacher", in_channels=3), mean=(0.5,) * 3, std=(0.29,) * 3).freeze()


def _merged(merge: nn.Sequential, patches: Tensor) -> Tensor:
    """By the definition, patch by patch: left column before right column."""
    side = round(patches.shape[1] ** 0.5)
    rows = []
    for i in range(0, side, 2):
        for j in range(0, side, 2):
            places = [(i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)]
            rows.append(merge(torch.cat([patches[:, side * y + x] for y, x in places], dim=1)))
    return torch.stack(rows, 1)


@pytest.mark.parametrize(
    ("grid", "activations"),
    [
        (4, []),
        (7, []),
        (14, [nn.GELU]),
        (15, []),
        (16, [nn.GELU]),
        (28, [nn.GELU, nn.Identity]),
        (56, [nn.GELU, nn.GELU, nn.Identity]),
    ],
)
def test_patches_are_merged_down_to_about_seven_by_seven(grid: int, activations: list[type[nn.Module]]) -> None:
    merger = PatchMerger(grid, channels=3, width=5).double()
    assert [type(merge[2]) for merge in merger.merges] == activations  # type: ignore[index]
    patches = torch.rand(2, grid**2, 3, generator=seeded_generator(0, "patches")).double()
    expected = patches
    for merge in merger.merges:
        assert isinstance(merge, nn.Sequential)
        expected = _merged(merge, expected)
    expected = expected if activations else merger.projection(expected)
    torch.testing.assert_close(merger(patches), expected, rtol=0, atol=1e-12)


def test_class_tokens_pass_the_merging_as_they_are() -> None:
    tokens = torch.rand(2, 2 + 14**2, 4, generator=seeded_generator(0, "tokens"))
    merger = PatchMerger(14, channels=4, width=4, class_tokens=2)
    merged = merger(tokens)
    (merge,) = merger.merges
    assert isinstance(merge, nn.Sequential)
    torch.testing.assert_close(merged[:, :2], tokens[:, :2], rtol=0, atol=0)
    torch.testing.assert_close(merged[:, 2:], _merged(merge, tokens[:, 2:]))


@pytest.mark.parametrize("class_tokens", [0, 1, 2])
def test_the_class_is_read_from_the_first_class_token_or_from_all_patches(class_tokens: int) -> None:
    head = token_head(class_tokens + 4, channels=4, blocks=1, width=4, num_classes=3)
    tokens = torch.rand(2, class_tokens + 4, 4, generator=seeded_generator(0, "tokens"))
    read = head[:-1](tokens)
    after = head[:-2](tokens)
    torch.testing.assert_close(read, after[:, 0] if class_tokens else after.mean(1))
    assert head(tokens).shape == (2, 3)


def test_an_attention_block_stands_for_each_later_stage_and_one_for_the_last() -> None:
    loss = OFAKD([*BLOCKS, *BLOCKS]).build(teacher(), Observer(transformer()), SHAPE)
    blocks = [[type(layer) for layer in head].count(nn.TransformerEncoderLayer) for head in loss.heads]  # type: ignore[attr-defined]
    assert blocks == [3, 2, 1, 1]
    assert [head[-1].in_features for head in loss.heads] == [16] * 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("width", "head_width", "match"),
    [
        (6, None, "expected a width that 4 attention heads divide, got 6: set head_width"),
        (16, 8, "expected a width of 16, that of the class tokens in the stage's 17 tokens, got 8"),
    ],
)
def test_a_width_that_does_not_fit_is_refused(width: int, head_width: int | None, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OFAKD(BLOCKS, head_width=head_width).build(teacher(), Observer(transformer(width)), SHAPE)


def test_a_transformer_without_named_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="found no stages in VisionTransformer: give student_maps"):
        OFAKD().build(teacher(), Observer(transformer()), SHAPE)


class ChannelsLast(CifarResNet):
    """A network whose first stage returns its maps as Swin Transformers do."""

    def __init__(self) -> None:
        super().__init__(8, toy.CLASSES, width=4)
        self.layer1.register_forward_hook(lambda module, inputs, maps: maps.permute(0, 2, 3, 1))
        self.layer2.register_forward_pre_hook(lambda module, inputs: (inputs[0].permute(0, 3, 1, 2),))


@pytest.mark.parametrize("side", [8, 16])
def test_maps_with_channels_last_are_refused(side: int) -> None:
    match = rf"OFAKD: student: expected maps \(C, H, W\) from layer1, got \({side}, {side}, 4\), .*: wrap the network"
    with pytest.raises(ValueError, match=match):
        OFAKD(["layer1"]).build(teacher(), Observer(ChannelsLast()), (3, side, side))


def _agreement(loss: DistillationLoss, student: Observer, lr: float) -> float:
    """Train on images of the teacher; return the share of them on which the first block's head has its class."""
    images = torch.rand(24, *SHAPE, generator=seeded_generator(0, "images"))
    observe, student = teacher(), student.train()
    parameters = [*student.parameters(), *(p for group in loss.parameter_groups() for p in group["params"])]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    told = observe(images, embedding=True)
    classes = told.logits.argmax(1)
    for _ in range(100):
        seen = student(images, embedding=True, maps=loss.student_maps)
        optimizer.zero_grad()
        loss(seen, told, classes).backward()
        optimizer.step()
    head = loss.heads[0]  # type: ignore[index]
    found = head(student(images, maps=loss.student_maps).maps[0]).argmax(1)  # type: ignore[operator]
    return float((found == classes).float().mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_heads_of_a_transformer_learn_what_the_teacher_says(seed: int) -> None:
    """The control, whose steps are too small, does not."""
    found = {}
    for lr in (1e-2, 1e-7):
        student = Observer(transformer())
        loss = OFAKD(BLOCKS).build(teacher(), student, SHAPE, generator=seeded_generator(seed, "heads"))
        found[lr] = _agreement(loss, student, lr)
    assert found[1e-2] > 0.9
    assert found[1e-7] < 0.8


def test_a_run_distills_into_a_transformer() -> None:
    condensed = toy.condensed_set(shape=SHAPE)
    generator = GeneratorSettings(latent_size=toy.LATENT, network=toy.small_generator(image_shape=SHAPE))
    networks = {"teacher": teacher(), "student": transformer()}
    model = toy.condkd(**networks, distillation=OFAKD(BLOCKS), inversion=toy.fast(generator=generator))
    before = {name: value.clone() for name, value in model.student.named_parameters()}
    toy.silent_trainer(max_epochs=2).fit(model, CondensedDataModule(condensed, batch_size=8))
    after = dict(model.student.named_parameters())
    assert not any(torch.equal(after[name], value) for name, value in before.items() if value.dim() > 1)
