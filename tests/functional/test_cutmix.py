import pytest
import torch

from lightning_condkd.functional.cutmix import cutmix, mix_labels


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("center", [(0.5, 0.5), (0.0, 0.9), (0.99, 0.0)])
def test_a_box_has_the_pixels_of_the_partner_and_all_else_stays(share: float, center: tuple[float, float]) -> None:
    images = torch.rand(5, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    before, partners = images.clone(), torch.tensor([3, 1, 0, 4, 2])
    mixed, true_share = cutmix(images, partners, share, center)
    assert torch.equal(images, before)
    foreign = (mixed == images[partners]).all(1) & (partners != torch.arange(5)).view(-1, 1, 1)
    assert torch.equal(torch.where(foreign[:, None], images[partners], images), mixed)
    boxes = [box for box, partner, own in zip(foreign, partners, range(5), strict=True) if partner != own]
    assert all(torch.equal(box, boxes[0]) for box in boxes)
    assert true_share == pytest.approx(boxes[0].double().mean().item())
    rows, columns = boxes[0].any(1), boxes[0].any(0)
    assert torch.equal(boxes[0], rows[:, None] & columns[None, :])


def test_a_box_in_the_middle_has_about_its_share_and_the_form_of_the_image() -> None:
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 40, 20)
    mixed, true_share = cutmix(images, torch.tensor([1, 0]), 0.25, (0.5, 0.5))
    assert true_share == 0.25
    assert mixed[0, 0, 10:30, 5:15].eq(1).all()


def test_labels_follow_the_pixels() -> None:
    values = torch.tensor([0.0, 1.0, 4.0])
    partners, probabilities = torch.tensor([2, 0, 1]), torch.eye(3)
    mixed, share = cutmix(values.view(3, 1, 1, 1).expand(3, 1, 8, 8), partners, 0.4, (0.2, 0.7))
    labels = mix_labels(probabilities, partners, share)
    assert torch.allclose(labels @ values, mixed.mean((1, 2, 3)))
    assert torch.allclose(labels.sum(1), torch.ones(3))
