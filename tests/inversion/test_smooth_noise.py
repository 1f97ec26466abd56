"""The two controls: images that nothing has learned, and no images at all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.inversion import NoInversion, SmoothNoise
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from tests.helpers import toy

SPEC = toy.spec(image_shape=(3, 16, 16))
UNIT = Cadence(synthesis_steps=1, distill_steps=0).unit(0, 0)


def _started(step: int = 0, **arguments: float) -> Tensor:
    method = SmoothNoise(batch_size=8, **arguments)  # type: ignore[arg-type]
    method.build(SPEC, seeded_generator(0, "build"))
    method.start(method.cadence.unit(0, 0), Draw(0, step))
    return method.render(UNIT, Draw(0, 0)).images


def _roughness(images: Tensor) -> float:
    """Mean difference of neighbours in units of the standard deviation: about 1.13 for white noise."""
    return float((images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()) / 2 / images.std())


def test_images_are_smooth_and_in_range() -> None:
    images = _started()
    assert images.shape == (8, 3, 16, 16)
    assert 0 < float(images.min()) < 0.2 < 0.8 < float(images.max()) < 1
    assert _roughness(torch.randn(8, 3, 16, 16, generator=seeded_generator(0, "white"))) > 1
    assert _roughness(images) < 0.4


def test_grid_and_contrast_do_what_they_say() -> None:
    assert _roughness(_started(grid_size=8)) > 1.3 * _roughness(_started())
    assert float(_started(contrast=4.0).std()) > 1.2 * float(_started().std())
    assert _started(contrast=0.0).eq(0.5).all()


def test_every_block_has_new_images_of_its_draw() -> None:
    assert torch.equal(_started(3), _started(3))
    assert not torch.equal(_started(3), _started(4))


def test_a_rank_renders_its_rows_without_labels() -> None:
    method = SmoothNoise(batch_size=8)
    method.build(SPEC, seeded_generator(0, "build"))
    method.start(method.cadence.unit(0, 0), Draw(0, 0))
    synthetic = method.render(UNIT, Draw(0, 0, rank=1, world_size=2))
    assert torch.equal(synthetic.images, method.render(UNIT, Draw(0, 0)).images[1::2])
    assert synthetic.labels is None


def test_nothing_is_trained() -> None:
    method = SmoothNoise(batch_size=8)
    method.build(SPEC, seeded_generator(0, "build"))
    assert method.optimizers() == {}
    assert method.per_round() == []
    assert list(method.parameters()) == []
    teacher = toy.observed(toy.network("teacher", in_channels=3)).freeze()
    unit, draw = method.cadence.unit(0, 0), Draw(0, 0)
    method.start(unit, draw)
    terms, output = method.loss(method.render(unit, draw), toy.Observer(teacher.network), teacher, unit, draw)
    assert not terms.values
    assert output.logits.shape == (8, toy.CLASSES)


def test_no_inversion_synthesises_nothing() -> None:
    assert NoInversion().cadence == Cadence(0, 400)
    nothing = NoInversion()
    nothing.build(SPEC, seeded_generator(0, "build"))
    assert nothing.optimizers() == {}
    with pytest.raises(ValueError, match="set synthesis_steps to 0, got 1"):
        NoInversion(cadence=Cadence(1, 4))
