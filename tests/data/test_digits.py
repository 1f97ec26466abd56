import torch
from sklearn.datasets import load_digits

from lightning_condkd.data.image_datamodules import load_digits_split


def test_the_last_500_are_held_out_and_pixels_are_scaled_by_255_over_16() -> None:
    data = load_digits()
    train, held_out = load_digits_split(train=True), load_digits_split(train=False)
    assert (len(train), len(held_out)) == (1297, 500)
    assert torch.cat([train.labels, held_out.labels]).tolist() == data.target.tolist()
    images = torch.cat([train.images, held_out.images])
    assert images.shape == (1797, 1, 8, 8)
    assert (images.double() / 255 * 16).round().flatten().tolist() == data.images.ravel().tolist()
    assert set(images.unique().tolist()) == {round(value * 255 / 16) for value in range(17)}
