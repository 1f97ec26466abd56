from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.mix import AnnealedMix, Mix
from lightning_condkd.data.transfer import TransferBatch, TransferSet
from lightning_condkd.formats import CondensedInfo
from lightning_condkd.randomness import Draw, seeded_generator

CLASSES = 4
SHARES: list[Mix | float] = ["union", "two_term", 0.0, 0.25, 0.5, 1.0]


def encoded(first: int, count: int) -> Tensor:
    """Images that carry their number in two bytes."""
    numbers = torch.arange(first, first + count)
    return torch.stack((numbers // 256, numbers % 256), 1).to(torch.uint8).view(count, 1, 1, 2)


def numbers(images: Tensor) -> Tensor:
    high, low = (images.flatten(1) * 255).round().long().T
    return 256 * high + low


def transfer_set(
    mix: Mix | float | AnnealedMix, condensed: int = 20, bank: int = 80, batch_size: int = 16
) -> TransferSet:
    images = CondensedSet(encoded(0, condensed), torch.arange(condensed) % CLASSES)
    transfer = TransferSet(images, mix=mix, batch_size=batch_size)
    if bank:
        transfer.append(encoded(condensed, bank), (torch.arange(bank) + 1) % CLASSES, round=0)
    return transfer


def drawn(transfer: TransferSet, steps: int) -> TransferBatch:
    batches = [transfer.draw(Draw(seed=3, step=step)) for step in range(steps)]
    return TransferBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def chi_square(values: Tensor, cells: int) -> float:
    counts = torch.bincount(values, minlength=cells).double()
    expected = len(values) / cells
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("mix", SHARES)
def test_a_batch_says_truly_where_its_rows_come_from(mix: Mix | float) -> None:
    images, labels, from_condensed, slots = drawn(transfer_set(mix), steps=20)
    number = numbers(images)
    assert images.dtype == torch.get_default_dtype()
    assert torch.equal(from_condensed, number < 20)
    assert torch.equal(labels, torch.where(number < 20, number % CLASSES, (number - 20 + 1) % CLASSES))
    assert torch.equal(slots, number)


@pytest.mark.parametrize(("mix", "expected"), [("two_term", 8), (0.0, 0), (0.25, 4), (0.5, 8), (0.22, 4), (1.0, 16)])
def test_the_share_is_the_same_in_every_batch(mix: Mix | float, expected: int) -> None:
    transfer = transfer_set(mix)
    assert transfer.condensed_per_batch == expected
    for step in range(30):
        assert int(transfer.draw(Draw(seed=0, step=step)).from_condensed.sum()) == expected


def test_an_annealed_share_follows_the_rounds_and_leaves_the_draws_of_a_fixed_one() -> None:
    annealed, fixed = transfer_set(AnnealedMix(start=0.75, end=0.25, rounds=4)), transfer_set(0.5)
    assert annealed.condensed_per_batch is None
    seen = [int(annealed.draw(Draw(0, 7), round=number).from_condensed.sum()) for number in range(6)]
    assert seen == [12, 11, 8, 5, 4, 4]  # 16 * (0.5 + 0.25 cos(pi * round / 4))
    for mine, whole in zip(annealed.draw(Draw(0, 7), round=2), fixed.draw(Draw(0, 7)), strict=True):
        assert torch.equal(mine, whole)
    halves = [annealed.draw(Draw(0, 7, rank, 2), round=1).images for rank in (0, 1)]
    assert torch.equal(torch.stack(halves, dim=1).flatten(0, 1), annealed.draw(Draw(0, 7), round=1).images)
    annealed.check_world_size(8)
    with pytest.raises(ValueError, match=r"mix=AnnealedMix\(.*draws from the bank"):
        _ = annealed.synthetic_per_batch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 1.5}, "start of the mix"),
        ({"end": -0.1}, "end of the mix"),
        ({"rounds": 0}, "a fixed mix"),
    ],
)
def test_an_impossible_annealed_share_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnealedMix(**arguments)  # type: ignore[arg-type]


def test_the_union_is_uniform_over_both() -> None:
    # 99 degrees of freedom: a uniform draw exceeds 148 once in a thousand.
    assert transfer_set("union").condensed_per_batch is None
    assert chi_square(numbers(drawn(transfer_set("union", batch_size=640), steps=50).images), 100) < 148


@pytest.mark.parametrize("mix", ["two_term", 0.25])
def test_each_part_of_a_fixed_share_is_uniform(mix: Mix | float) -> None:
    images, _, from_condensed, _ = drawn(transfer_set(mix, batch_size=640), steps=50)
    number = numbers(images)
    assert chi_square(number[from_condensed], 20) < 44
    assert chi_square(number[~from_condensed] - 20, 80) < 124


def test_the_condensed_share_of_the_union_falls_as_the_bank_grows() -> None:
    transfer = transfer_set("union", bank=0, batch_size=400)
    for size in (0, 20, 60, 300):
        if size:
            transfer.append(encoded(0, size), torch.zeros(size, dtype=torch.int64), round=0)
        share = float(drawn(transfer, steps=20).from_condensed.double().mean())
        assert share == pytest.approx(20 / (20 + len(transfer.bank)), abs=0.02)


@pytest.mark.parametrize("mix", SHARES)
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("bank", [0, 80])
def test_ranks_together_draw_the_batch_of_one_process(mix: Mix | float, world_size: int, bank: int) -> None:
    transfer = transfer_set(mix, bank=bank)
    if mix == 0 and not bank:
        pytest.skip("nothing to draw")
    transfer.check_world_size(world_size)
    for step in range(5):
        whole = transfer.draw(Draw(seed=0, step=step))
        parts = [transfer.draw(Draw(0, step, rank, world_size)) for rank in range(world_size)]
        for rank, part in enumerate(parts):
            for mine, all_rows in zip(part, whole, strict=True):
                assert torch.equal(mine, all_rows[rank::world_size])
        if transfer.condensed_per_batch is not None:
            assert len({int(part.from_condensed.sum()) for part in parts}) == 1


def test_a_world_size_that_does_not_divide_is_refused() -> None:
    transfer_set("union", batch_size=15).check_world_size(3)
    transfer_set(0.25).check_world_size(4)
    with pytest.raises(ValueError, match="batch_size=16 does not divide by 3"):
        transfer_set("union").check_world_size(3)
    with pytest.raises(ValueError, match=r"mix=0.25 puts 4 condensed images .* multiple of 8"):
        transfer_set(0.25).check_world_size(8)
    with pytest.raises(ValueError, match="mix='two_term' puts 3"):
        transfer_set("two_term", batch_size=6).check_world_size(2)


@pytest.mark.parametrize("mix", ["union", "two_term", 0.01, 0.5, 1.0])
def test_an_empty_bank_leaves_the_condensed_images(mix: Mix | float) -> None:
    batch = drawn(transfer_set(mix, bank=0, batch_size=400), steps=20)
    assert bool(batch.from_condensed.all())
    assert len(batch.labels) == 8000
    assert chi_square(numbers(batch.images), 20) < 44


def test_an_empty_bank_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match="synthesise first"):
        transfer_set(0.0, bank=0).draw(Draw(seed=0, step=0))


def test_draws_depend_on_seed_and_step_only() -> None:
    transfer = transfer_set("union")
    first = numbers(transfer.draw(Draw(seed=0, step=0)).images)
    transfer.matching(torch.tensor([0]), Draw(seed=0, step=0))
    assert torch.equal(numbers(transfer.draw(Draw(seed=0, step=0)).images), first)
    assert not torch.equal(numbers(transfer.draw(Draw(seed=0, step=1)).images), first)
    assert not torch.equal(numbers(transfer.draw(Draw(seed=1, step=0)).images), first)


def test_at_a_fixed_share_the_condensed_rows_do_not_depend_on_the_bank() -> None:
    small, large = transfer_set(0.5, bank=3), transfer_set(0.5, bank=80)
    for step in range(5):
        one, two = (transfer.draw(Draw(seed=0, step=step)) for transfer in (small, large))
        assert torch.equal(one.images[:8], two.images[:8])


def test_a_full_bank_keeps_the_stream_while_it_evicts() -> None:
    condensed = CondensedSet(encoded(0, 20), torch.arange(20) % CLASSES)
    transfer = TransferSet(condensed, MemoryBank(capacity=50), batch_size=16)
    zeros = torch.zeros(50, dtype=torch.int64)
    transfer.append(encoded(100, 50), zeros, round=0)
    before = transfer.draw(Draw(seed=0, step=0))
    transfer.append(encoded(150, 30), zeros[:30], round=1)
    after = transfer.draw(Draw(seed=0, step=0))
    shift = torch.where(before.from_condensed, 0, 30)
    assert torch.equal(numbers(after.images), numbers(before.images) + shift)


def test_drawing_costs_the_same_from_a_large_bank() -> None:
    def seconds(size: int) -> float:
        condensed = CondensedSet(torch.rand(20, 3, 16, 16), torch.arange(20) % CLASSES)
        transfer = TransferSet(condensed, batch_size=128)
        images = torch.zeros(size, 3, 16, 16, dtype=torch.uint8)
        transfer.append(images, torch.zeros(size, dtype=torch.int64), round=0)
        times = []
        for step in range(40):
            start = time.perf_counter()
            transfer.draw(Draw(seed=0, step=step))
            times.append(time.perf_counter() - start)
        return min(times)

    # A single pass over the 38 MB of the large bank costs tens of times a draw.
    assert seconds(50_000) < 4 * seconds(1_000)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_matching_gives_a_condensed_image_of_every_label(world_size: int) -> None:
    transfer = transfer_set("union")
    labels = torch.arange(16) * 7 % CLASSES
    whole = transfer.matching(labels, Draw(seed=0, step=4))
    assert torch.equal(whole.labels, labels)
    assert torch.equal(numbers(whole.images) % CLASSES, labels)
    assert int(numbers(whole.images).max()) < 20
    assert bool(whole.from_condensed.all())
    for rank in range(world_size):
        part = transfer.matching(labels, Draw(0, 4, rank, world_size))
        for mine, all_rows in zip(part, whole, strict=True):
            assert torch.equal(mine, all_rows[rank::world_size])


def test_matching_is_uniform_within_classes_of_unequal_size() -> None:
    owner = torch.tensor([0] * 9 + [1] + [3] * 5)[torch.randperm(15, generator=torch.Generator().manual_seed(0))]
    transfer = TransferSet(CondensedSet(encoded(0, 15), owner, info=CondensedInfo(4)))
    for label, limit in ((0, 26.1), (1, 0.1), (3, 18.5)):
        rows = numbers(transfer.matching(torch.full((4000,), label), Draw(seed=0, step=label)).images)
        members = (owner == label).nonzero().flatten()
        places = torch.searchsorted(members, rows)
        assert torch.equal(members[places], rows)
        assert chi_square(places, len(members)) < limit


def test_matching_has_a_stream_of_its_own() -> None:
    transfer = TransferSet(CondensedSet(encoded(0, 7), torch.zeros(7, dtype=torch.int64)))
    rows = numbers(transfer.matching(torch.zeros(50, dtype=torch.int64), Draw(seed=2, step=9)).images)
    random = torch.randint(2**62, (50,), generator=seeded_generator(2, "matching", 9))
    assert torch.equal(rows, random % 7)


@pytest.mark.parametrize("label", [2, -1, 4])
def test_a_label_without_condensed_image_is_named(label: int) -> None:
    transfer = TransferSet(CondensedSet(encoded(0, 3), torch.tensor([0, 1, 3]), info=CondensedInfo(4)))
    with pytest.raises(ValueError, match=rf"no image of class {label},"):
        transfer.matching(torch.tensor([0, label, 1]), Draw(seed=0, step=0))


def test_float_images_are_not_clipped_and_the_bank_is_bytes() -> None:
    condensed = CondensedSet(torch.full((4, 1, 1, 2), 1.5), torch.arange(4))
    transfer = TransferSet(condensed, mix=0.5, batch_size=4)
    transfer.append(torch.full((3, 1, 1, 2), 1.5), torch.tensor([0, 1, 2]), round=0)
    assert transfer.draw(Draw(seed=0, step=0)).images[:, 0, 0, 0].tolist() == [1.5, 1.5, 1.0, 1.0]
    assert transfer.bank.clamped_share == 1


def test_images_that_do_not_fit_are_refused() -> None:
    transfer = transfer_set("union")
    with pytest.raises(ValueError, match="give the generator the same image size"):
        transfer.append(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), round=0)
    for labels in (torch.tensor([0, 4]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match="as many classes as the condensed set"):
            transfer.append(encoded(0, 2), labels, round=0)
    assert len(transfer.bank) == 80


@pytest.mark.parametrize(
    ("mix", "batch_size", "message"),
    [
        ("half", 16, "expected mix 'union', 'two_term', a share"),
        (-0.1, 16, "expected a mix from 0"),
        (1.1, 16, "expected a mix from 0"),
        (float("nan"), 16, "expected a mix from 0"),
        ("two_term", 15, "make it even"),
        ("union", 0, "batch_size of at least 1"),
    ],
)
def test_mixtures_that_make_no_batch_are_refused(mix: Mix | float, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transfer_set(mix, batch_size=batch_size)


@pytest.mark.parametrize("appended", [5, 8, 13, 30])
def test_an_image_keeps_its_slot_while_the_bank_turns_over(appended: int) -> None:
    condensed = CondensedSet(encoded(0, 4), torch.arange(4))
    transfer = TransferSet(condensed, MemoryBank(capacity=8), mix=0.25, batch_size=64)
    for number in range(appended):
        transfer.append(encoded(4 + number, 1), torch.tensor([0]), round=number)
    batch = transfer.draw(Draw(seed=0, step=0))
    number = numbers(batch.images)
    assert torch.equal(batch.slots, torch.where(number < 4, number, 4 + (number - 4) % 8))
    assert transfer.slot_count(stored=100) == 12
    assert transfer_set("union").slot_count(stored=100) == 120
    assert transfer.blend(batch.images[:48], None, Draw(0, 0)).slots[16:].eq(-1).all()
    assert torch.equal(transfer.matching(torch.arange(4), Draw(0, 0)).slots, torch.arange(4))
