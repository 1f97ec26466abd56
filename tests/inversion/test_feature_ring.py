from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from lightning_condkd.inversion.parts.feature_ring import FeatureRing
from lightning_condkd.randomness import seeded_generator


def _rows(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).float()[:, None].expand(-1, 2)


def _held(ring: FeatureRing) -> list[int]:
    return sorted(int(value) for value in ring.draw(1000, seeded_generator(0, "draw"))[:, 0])


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 12])
def test_the_latest_rows_are_held_for_any_batch(batch: int) -> None:
    ring = FeatureRing(5, 2)
    assert _held(ring) == []
    for block in range(7):
        ring.write(_rows(block * batch, batch))
        end = (block + 1) * batch
        assert len(ring) == min(end, 5)
        assert _held(ring) == list(range(max(0, end - 5), end))


def test_rows_lie_in_the_order_of_writing_around_the_end() -> None:
    ring = FeatureRing(5, 2)
    for first, count in ((0, 3), (3, 7), (10, 2)):  # 7 rows do not fit: the last five of them stay
        ring.write(_rows(first, count))
    assert ring.rows[:, 0].tolist() == [10, 11, 7, 8, 9]
    assert int(ring.written) == 12


def test_a_draw_has_different_rows_from_its_generator_alone() -> None:
    ring, state = FeatureRing(50, 2), torch.random.get_rng_state()
    ring.write(_rows(0, 40))
    first, again, other = (ring.draw(20, seeded_generator(seed, "draw")) for seed in (0, 0, 1))
    assert len(first.unique(dim=0)) == len(first) == 20
    assert first.max() < 40
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_half_precision_takes_two_bytes_and_saturates() -> None:
    half, single = FeatureRing(10, 4), FeatureRing(10, 4, dtype=torch.float32)
    assert (half.rows.nbytes, single.rows.nbytes) == (80, 160)
    rows = torch.tensor([[1e6, -1e6, 0.1, 3.0]])
    for ring in (half, single):
        ring.write(rows)
    drawn = half.draw(1, seeded_generator(0, "draw"))
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn, torch.tensor([[65504.0, -65504.0, 0.1, 3.0]]), rtol=1e-3, atol=0)
    assert torch.equal(single.draw(1, seeded_generator(0, "draw")), rows)


@pytest.mark.parametrize("on_cpu", [False, True])
def test_the_state_holds_the_rows_and_where_to_write_next(on_cpu: bool) -> None:
    ring, resumed = FeatureRing(5, 2, on_cpu=on_cpu), FeatureRing(5, 2, on_cpu=on_cpu)
    ring.write(_rows(0, 7))
    state = copy.deepcopy(ring.state_dict())
    assert all(isinstance(value, Tensor) for value in state.values())
    resumed.load_state_dict(state)
    for each in (ring, resumed):
        each.write(_rows(7, 1))
    assert torch.equal(ring.rows, resumed.rows)
    assert _held(resumed) == [3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="resume with the arguments of the run"):
        FeatureRing(6, 2).load_state_dict(state)


def test_rows_keep_their_type_and_follow_the_device_unless_told_not_to() -> None:
    follows, stays = FeatureRing(5, 2), FeatureRing(5, 2, on_cpu=True)
    for ring in (follows, stays):
        ring.double()
        assert ring.rows.dtype == torch.float16
        ring.to("meta")
    assert (follows.rows.device.type, stays.rows.device.type) == ("meta", "cpu")
    with torch.device("meta"):
        assert FeatureRing(5, 2).rows.device.type == "meta"
        assert FeatureRing(5, 2, on_cpu=True).rows.device.type == "cpu"


def test_no_buffer_of_it_would_be_averaged_over_ranks() -> None:
    assert [name for name, _ in FeatureRing(5, 2).named_buffers()] == ["written"]


def test_an_empty_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="positive size of the ring, got 0"):
        FeatureRing(0, 2)
