"""The memory bank from run to run, and through checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from lightning_condkd.callbacks import RunSummary
from lightning_condkd.data import CondensedDataModule, MemoryBank, TransferSet, step_loader
from lightning_condkd.modules import CondKD
from tests.helpers import toy

STEPS = toy.CADENCE.length
ROUND = 12  # images that a round adds


def data(**arguments: Any) -> CondensedDataModule:
    return CondensedDataModule(toy.condensed_set(), **{"batch_size": 8, **arguments})


def transfer_set(**arguments: Any) -> TransferSet:
    return TransferSet(toy.condensed_set(), batch_size=8, **arguments)


def trainer(folder: Path, *callbacks: L.Callback, **arguments: Any) -> L.Trainer:
    defaults = {"max_epochs": 3, "default_root_dir": folder, "enable_checkpointing": True}
    return toy.silent_trainer(**{**defaults, "callbacks": [*callbacks], **arguments})


def by_steps(folder: Path, steps: int = 11) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="cut", every_n_train_steps=steps)


def given(images: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    return torch.rand(images, *toy.SHAPE), torch.arange(images) % toy.CLASSES, 0


# --- the bank travels, wherever the transfer set came from ---------------------------------------------------------


class SaveByHand(L.Callback):
    def __init__(self, path: Path, step: int = 11) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_transfer_set_of_the_module_resumes_to_the_bit(on_disk: bool, tmp_path: Path) -> None:
    whole = toy.fit(toy.condkd())
    saving = by_steps(tmp_path) if on_disk else SaveByHand(tmp_path / "cut.ckpt")
    first = trainer(tmp_path, saving, max_steps=13, enable_checkpointing=on_disk)
    first.fit(toy.condkd(transfer_set=transfer_set()), train_dataloaders=step_loader(STEPS))
    assert bool(list(tmp_path.rglob("chunk_*"))) is on_disk
    resumed, again = toy.condkd(transfer_set=(there := transfer_set())), trainer(tmp_path, enable_checkpointing=False)
    again.fit(resumed, train_dataloaders=step_loader(STEPS), ckpt_path=tmp_path / "cut.ckpt")
    assert toy.same(whole.state(), toy.Run(resumed, there.bank, again).state())


def test_a_run_may_change_from_the_datamodule_to_a_transfer_set(tmp_path: Path) -> None:
    whole = toy.fit(toy.condkd())
    trainer(tmp_path, by_steps(tmp_path), max_steps=13).fit(toy.condkd(), data())
    resumed, again = toy.condkd(transfer_set=(there := transfer_set())), trainer(tmp_path, enable_checkpointing=False)
    again.fit(resumed, train_dataloaders=step_loader(STEPS), ckpt_path=tmp_path / "cut.ckpt")
    assert toy.same(whole.state(), toy.Run(resumed, there.bank, again).state())


def test_two_transfer_sets_are_one_too_many() -> None:
    own, module_data = transfer_set(), data()
    with pytest.raises(ValueError, match=r"transfer_set=... and CondensedDataModule holds another.*leave transfer_set"):
        toy.silent_trainer(max_epochs=2).fit(toy.condkd(transfer_set=own), module_data)
    model = toy.condkd(transfer_set=module_data.transfer_set)
    toy.silent_trainer(max_epochs=2).fit(model, module_data)  # the same one twice
    assert len(module_data.transfer_set.bank) == 2 * ROUND


def test_measuring_needs_no_bank(tmp_path: Path) -> None:
    trainer(tmp_path, by_steps(tmp_path), max_steps=13).fit(toy.condkd(), data())
    for chunk in tmp_path.rglob("chunk_*"):
        chunk.unlink()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*given(6)[:2]), batch_size=6)
    other = toy.condensed_set("other", per_class=1)
    measuring = CondensedDataModule(other, val_dataloaders=loader)
    found = toy.silent_trainer().test(toy.condkd(), measuring, ckpt_path=tmp_path / "cut.ckpt", verbose=False)
    assert "test/student_accuracy" in found[0]
    assert not len(measuring.transfer_set.bank)
    with pytest.raises(FileNotFoundError, match="move the folder back"):
        trainer(tmp_path).fit(toy.condkd(), data(), ckpt_path=tmp_path / "cut.ckpt")


# --- from run to run -----------------------------------------------------------------------------------------------


def _with_datamodule() -> Callable[[L.Trainer], MemoryBank]:
    one = data()

    def fit(trainer: L.Trainer) -> MemoryBank:
        trainer.fit(toy.condkd(), one)
        return one.transfer_set.bank

    return fit


def _with_transfer_set() -> Callable[[L.Trainer], MemoryBank]:
    one = transfer_set()

    def fit(trainer: L.Trainer) -> MemoryBank:
        trainer.fit(toy.condkd(transfer_set=one), train_dataloaders=step_loader(STEPS))
        return one.bank

    return fit


@pytest.mark.parametrize("make", [_with_datamodule, _with_transfer_set])
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_new_run_starts_with_an_empty_bank_and_says_so(
    make: Callable[[], Callable[[L.Trainer], MemoryBank]], on_disk: bool, tmp_path: Path
) -> None:
    fit = make()
    first = fit(trainer(tmp_path / "1", enable_checkpointing=on_disk))
    images, run_id = first.images.clone(), first.run_id
    with pytest.warns(UserWarning, match=f"bank starts empty: {3 * ROUND} images of an earlier run.*ckpt_path"):
        second = fit(trainer(tmp_path / "2", enable_checkpointing=on_disk))
    assert torch.equal(second.images, images)
    assert second.images_seen == 3 * ROUND
    assert second.run_id != run_id


def test_what_a_user_puts_in_before_the_first_fit_stays() -> None:
    module_data = data()
    module_data.transfer_set.append(*given(5))
    with pytest.raises(ValueError, match="limit_train_batches=3 would cut"):  # a refused fit leaves the bank as it was
        toy.silent_trainer(max_epochs=2, limit_train_batches=3).fit(toy.condkd(), module_data)
    toy.silent_trainer(max_epochs=2).fit(toy.condkd(), module_data)
    assert len(module_data.transfer_set.bank) == 5 + 2 * ROUND
    with pytest.raises(ValueError, match=r"also given 5 by hand.*bank.clear\(\) and append yours again"):
        toy.silent_trainer(max_epochs=2).fit(toy.condkd(), module_data)
    module_data.transfer_set.bank.clear()
    module_data.transfer_set.append(*given(7))
    toy.silent_trainer(max_epochs=2).fit(toy.condkd(), module_data)
    assert len(module_data.transfer_set.bank) == 7 + 2 * ROUND


def test_what_a_user_adds_between_two_runs_is_not_dropped_silently() -> None:
    module_data = data()
    toy.silent_trainer(max_epochs=2).fit(toy.condkd(), module_data)
    module_data.transfer_set.append(*given(5))
    with pytest.raises(ValueError, match="also given 5 by hand"):
        toy.silent_trainer(max_epochs=2).fit(toy.condkd(), module_data)
    assert len(module_data.transfer_set.bank) == 2 * ROUND + 5


def test_the_same_trainer_goes_on_with_its_bank() -> None:
    module_data, model, one = data(), toy.condkd(), toy.silent_trainer(max_epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*bank starts empty.*")
        one.fit(model, module_data)
        one.fit_loop.max_epochs = 3
        one.fit(model, module_data)
    assert module_data.transfer_set.bank.rounds.unique().tolist() == [0, 1, 2]


def test_a_resumed_run_replaces_what_an_earlier_one_left(tmp_path: Path) -> None:
    whole, module_data = toy.fit(toy.condkd()), data()
    trainer(tmp_path / "a", by_steps(tmp_path / "a"), max_steps=13).fit(toy.condkd(), module_data)
    trainer(tmp_path / "b", by_steps(tmp_path / "b"), max_steps=16).fit(toy.condkd(), module_data)
    resumed, again = toy.condkd(), trainer(tmp_path / "c")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*bank starts empty.*")
        again.fit(resumed, module_data, ckpt_path=tmp_path / "a" / "cut.ckpt")
    assert toy.same(whole.state(), toy.Run(resumed, module_data.transfer_set.bank, again).state())


# --- where the files are -------------------------------------------------------------------------------------------


class Shared(Logger):
    """Like those of W&B and MLflow: all runs share ``save_dir``, and the version is a string of the service."""

    def __init__(self, save_dir: Path, run: str) -> None:
        super().__init__()
        self._save_dir, self._run = str(save_dir), run

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def name(self) -> str:
        return "project"

    @property
    def version(self) -> str:
        return self._run

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        pass

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_runs_of_a_shared_logging_folder_have_banks_of_their_own(tmp_path: Path) -> None:
    for run in ("a1", "b2"):
        trainer(tmp_path, RunSummary(), logger=Shared(tmp_path, run), max_epochs=2).fit(toy.condkd(), data())
        assert list((tmp_path / "project" / run / "bank").glob("chunk_*"))
        assert {path.name for path in (tmp_path / "project" / run).glob("*.*")} == {"metrics.csv", "summary.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["project"]
    (tmp_path / "project").rename(tmp_path / "moved")
    (checkpoint,) = (tmp_path / "moved" / "b2" / "checkpoints").glob("*.ckpt")
    module_data = data()
    trainer(tmp_path, logger=Shared(tmp_path, "c3"), max_epochs=2).fit(toy.condkd(), module_data, ckpt_path=checkpoint)
    assert len(module_data.transfer_set.bank) == 2 * ROUND


def test_runs_that_share_a_folder_of_checkpoints_keep_their_banks_apart(tmp_path: Path) -> None:
    paths, banks = [], []
    for run, condensed in enumerate((toy.condensed_set(), toy.condensed_set("other"))):
        saving = ModelCheckpoint(tmp_path, filename=f"run{run}")
        found = toy.fit(
            toy.condkd(), condensed=condensed, callbacks=[saving], enable_checkpointing=True, default_root_dir=tmp_path
        )
        paths, banks = [*paths, tmp_path / f"run{run}.ckpt"], [*banks, found.bank]
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in [*tmp_path.iterdir()]:
        if path != folder:
            path.rename(folder / path.name)
    module_data = CondensedDataModule(toy.condensed_set("other"), batch_size=8)
    trainer(tmp_path, max_epochs=4).fit(toy.condkd(), module_data, ckpt_path=folder / "run1.ckpt")
    assert torch.equal(module_data.transfer_set.bank.images[: 3 * ROUND], banks[1].images)


# --- files that nothing needs --------------------------------------------------------------------------------------


def resumable(checkpoint: Path, folder: Path) -> bool:
    module_data = data(bank_capacity=ROUND)
    trainer(folder, max_epochs=20, max_steps=13).fit(toy.condkd(), module_data, ckpt_path=checkpoint)
    return len(module_data.transfer_set.bank) == ROUND


def test_files_beyond_the_capacity_go_once_no_checkpoint_needs_them(tmp_path: Path) -> None:
    class ByHand(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 2:
                trainer.save_checkpoint(tmp_path / "elsewhere" / "by_hand.ckpt")

    run = tmp_path / "run"
    last = ModelCheckpoint(run / "checkpoints", filename="{epoch}", save_top_k=1)
    first = ModelCheckpoint(run / "other", filename="{epoch}", every_n_epochs=2, save_top_k=-1)
    first._should_skip_saving_checkpoint = (  # type: ignore[method-assign]
        lambda trainer, skip=first._should_skip_saving_checkpoint: trainer.current_epoch > 1 or skip(trainer)
    )
    trainer(run, ByHand(), last, first, max_epochs=9).fit(toy.condkd(), data(bank_capacity=ROUND))
    rounds = sorted(int(path.name.split("_")[1]) // ROUND for path in (run / "bank").iterdir())
    assert rounds == [1, 2, 7, 8]  # named by run/other, elsewhere, and the last two states
    checkpoints = [*tmp_path.rglob("*.ckpt")]
    assert {path.parent.name for path in checkpoints} == {"checkpoints", "other", "elsewhere"}
    assert all(resumable(path, tmp_path / "again") for path in checkpoints)


@pytest.mark.parametrize("capacity", [None, ROUND])
def test_without_a_capacity_or_with_an_unreadable_checkpoint_all_files_stay(
    capacity: int | None, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    if capacity:
        (folder / "broken.ckpt").write_bytes(b"half a file")
    trainer(tmp_path, ModelCheckpoint(folder), max_epochs=5).fit(toy.condkd(), data(bank_capacity=capacity))
    assert len(list((tmp_path / "bank").iterdir())) == 5


def test_the_checkpoint_that_a_run_resumed_from_keeps_its_files(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    trainer(kept, ModelCheckpoint(kept, filename="cut"), max_epochs=2).fit(toy.condkd(), data(bank_capacity=ROUND))
    copy = tmp_path / "copy" / "cut.ckpt"
    copy.parent.mkdir()
    (kept / "cut.ckpt").rename(copy)
    for run in range(2):  # in the same folder, so that nothing but the checkpoint tells that the old chunk is needed
        other = ModelCheckpoint(kept, filename=f"run{run}")
        trainer(tmp_path, other, max_epochs=8).fit(toy.condkd(), data(bank_capacity=ROUND), ckpt_path=copy)
    assert resumable(copy, tmp_path / "again")


def test_a_run_that_is_only_loaded_is_not_compared(tmp_path: Path) -> None:
    trainer(tmp_path, by_steps(tmp_path), max_steps=13).fit(toy.condkd(), data())
    loaded = CondKD.load_from_checkpoint(
        tmp_path / "cut.ckpt",
        teacher=toy.observed(toy.network("teacher")),
        student=toy.network("student 2"),
        inversion=toy.fast(bn_weight=0.5),
        transfer_set=TransferSet(toy.condensed_set("other")),
    )
    assert loaded.seed == toy.SEED
