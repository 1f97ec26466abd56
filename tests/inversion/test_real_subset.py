"""The upper control: every real image once before any comes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from torch import Tensor

from lightning_condkd.assets import resolve_asset
from lightning_condkd.data import CondensedDataModule, CondensedSet
from lightning_condkd.inversion import Inversion
from lightning_condkd.inversion.controls import RealSubset
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import synthesize
from tests.helpers import toy

CADENCE = Cadence(synthesis_steps=2, distill_steps=1, repeats=2)


def numbered(count: int = 10, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Images that show their own number."""
    return torch.arange(count, dtype=dtype).view(-1, 1, 1, 1).expand(count, *toy.SHAPE).contiguous()


def built(images: Tensor | str | Path, **arguments: Any) -> RealSubset:
    method = RealSubset(images=images, **{"cadence": CADENCE, "batch_size": 4, **arguments})
    method.build(toy.spec(), seeded_generator(0, "build"))
    return method


def shown(method: RealSubset, round_: int, block: int, seed: int = 0, **ranks: int) -> list[int]:
    """The numbers of the images of a block."""
    unit = method.cadence.unit(round_, 3 * block)
    assert unit.first
    images = method.render(unit, Draw(seed, unit.counter, **ranks)).images
    return [round(number) for number in (255 * images[:, 0, 0, 0]).tolist()]


def run_through(method: RealSubset, rounds: int, seed: int = 0) -> list[int]:
    return [number for r in range(rounds) for block in (0, 1) for number in shown(method, r, block, seed)]


def test_no_image_comes_again_before_all_were_shown() -> None:
    seen = run_through(built(numbered(10)), rounds=5)  # 40 images, four passes; blocks lie across their ends
    passes = [seen[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert len({tuple(each) for each in passes}) == 4
    assert passes[0] != list(range(10))


def test_a_block_may_hold_more_than_all_images() -> None:
    seen = shown(built(numbered(3), batch_size=8), 0, 0)
    assert sorted(seen[:3]) == sorted(seen[3:6]) == [0, 1, 2]
    assert len(set(seen[6:])) == 2


def test_the_order_is_of_the_seed_alone() -> None:
    assert run_through(built(numbered()), 3) == run_through(built(numbered()), 3)
    assert run_through(built(numbered()), 3) != run_through(built(numbered()), 3, seed=1)


def test_all_steps_of_a_block_show_the_same_images() -> None:
    method = built(numbered())
    first, second = (method.cadence.unit(1, position) for position in (3, 4))
    assert (first.block, second.block) == (1, 1)
    pictures = [method.render(unit, Draw(0, unit.counter)).images for unit in (first, second)]
    assert torch.equal(*pictures)


def test_a_rank_renders_its_rows_without_labels() -> None:
    method, unit = built(numbered()), CADENCE.unit(0, 0)
    whole = shown(method, 0, 0)
    assert [shown(method, 0, 0, rank=rank, world_size=2) for rank in (0, 1)] == [whole[0::2], whole[1::2]]
    assert method.render(unit, Draw(0, 0)).labels is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_images_arrive_in_the_units_of_0_to_1(dtype: torch.dtype) -> None:
    images = numbered(10) if dtype == torch.uint8 else (numbered(10) / 255).to(dtype)
    method = built(images, batch_size=10)
    rendered = method.render(CADENCE.unit(0, 0), Draw(0, 0)).images
    assert rendered.dtype == torch.float32
    assert sorted(shown(method, 0, 0)) == list(range(10))


def test_the_teacher_labels_what_is_kept() -> None:
    method = built(numbered(200), batch_size=50, cadence=Cadence(1, 0))
    teacher = toy.observed(toy.network("teacher")).freeze()
    student = toy.observed(toy.network("student 1")).eval()
    images, labels = synthesize(method, method.optimizers(), teacher, student, round=0)
    assert labels is not None
    assert torch.equal(labels, teacher(images).logits.argmax(1))
    assert len(labels.unique()) > 1
    assert len(set((255 * images[:, 0, 0, 0]).round().tolist())) == 50


def test_nothing_is_trained_and_no_image_is_saved() -> None:
    method = built(numbered())
    assert method.optimizers() == {}
    assert list(method.parameters()) == []
    base = Inversion(CADENCE, batch_size=4)
    base.build(toy.spec(), seeded_generator(0, "build"))
    assert method.state_dict().keys() == base.state_dict().keys()


def trained(folder: Path, resume: Path | None = None) -> toy.Run:
    model = toy.condkd(RealSubset(images=numbered(10), cadence=CADENCE, batch_size=4))
    data = CondensedDataModule(toy.condensed_set(), batch_size=8)
    saving = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    saved = {"enable_checkpointing": True, "callbacks": [saving], "default_root_dir": folder}
    trainer = toy.silent_trainer(max_epochs=3, **saved)
    trainer.fit(model, data, ckpt_path=resume)
    return toy.Run(model, data.transfer_set.bank, trainer)


def test_a_run_stores_the_real_images_and_resumes_in_mid_block(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    stored = whole.bank.images[:, 0, 0, 0].tolist()
    assert len(stored) == 6 * 4
    assert sorted(stored[:10]) == sorted(stored[10:20]) == list(range(10))  # the very bytes, every image once a pass
    checkpoint = tmp_path / "whole" / "step=10.ckpt"  # between the two synthesis steps of the second round's last block
    resumed = trained(tmp_path / "resumed", resume=checkpoint)
    assert toy.same(resumed.state(), whole.state())


def test_images_come_from_a_file(tmp_path: Path) -> None:
    condensed = CondensedSet(numbered(6), torch.arange(6) % toy.CLASSES)
    condensed.save(tmp_path / "real.safetensors")
    for path in (tmp_path / "real.safetensors", str(tmp_path / "real.safetensors")):
        assert sorted(shown(built(path, batch_size=6), 0, 0)) == list(range(6))


def test_a_config_file_names_the_images(tmp_path: Path) -> None:
    save_file({"images": numbered(6)}, tmp_path / "real.safetensors")
    parser = ArgumentParser()
    parser.add_argument("--inversion", type=Inversion)
    arguments = {"images": str(tmp_path / "real.safetensors"), "batch_size": 6}
    config = parser.parse_object({"inversion": {"class_path": "RealSubset", "init_args": arguments}})
    assert config.inversion.class_path.endswith(".RealSubset")
    given = config.inversion.init_args
    assert sorted(shown(built(given.images, batch_size=given.batch_size), 0, 0)) == list(range(6))


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (numbered()[:, :, :4], r"of the condensed images' shape .1, 8, 8., got .10, 1, 4, 8.: resize"),
        (numbered().expand(-1, 3, -1, -1), r"shape .1, 8, 8., got .10, 3, 8, 8."),
        (numbered()[0], r"got .1, 8, 8."),
        (numbered()[:0], r"got .0, 1, 8, 8."),
        (numbered().long(), "expected uint8 or floating point real images, got torch.int64"),
        (numbered().float(), "in .0, 1., got 0.000 to 9.000: undo the normalisation"),
        (numbered() / 9 - 0.5, "got -0.500 to 0.500"),
        (numbered() * torch.nan, "got nan to nan"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        built(images)


def test_files_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none at .*nowhere\.safetensors"):
        built(tmp_path / "nowhere.safetensors")
    save_file({"weight": torch.zeros(2), "bias": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"a tensor 'images' in .*, got bias, weight: write the file with"):
        built(tmp_path / "weights.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"no such file")
    with pytest.raises(ValueError, match=r"expected a safetensors file at .*, but it is a text file"):
        built(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="give real images where these are condensed ones"):
        built(resolve_asset("package:digits-dm-1ipc.safetensors"))
