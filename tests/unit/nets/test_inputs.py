"""Photographs become what every network takes."""

import pytest
import torch

from fbr.nets.inputs import normalise


def test_normalise_is_imagenets():
    image = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalise(image).flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_normalise_lies_as_channels_last_wants_it():
    images = normalise(torch.zeros(2, 5, 7, 3, dtype=torch.uint8))
    assert images.shape == (2, 3, 5, 7)
    assert images.is_contiguous(memory_format=torch.channels_last)
