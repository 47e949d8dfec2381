"""Noise: the same bits from torch as from the loop on the CPU, and on a GPU."""

import numpy as np
import pytest
import torch

from forecast.core import seeding
from forecast.models import noise, normals

KEYS = [seeding.key(1, "noise", member) for member in range(5)] + [0, 2**64 - 1]


@pytest.mark.parametrize("size", [1, 2, 7, 100_001])
def test_torch_makes_the_same_bits_as_the_loop(size) -> None:
    """On the CPU; elsewhere torch does the same operations, each of which IEEE 754 defines."""
    expected = np.stack([seeding.normal(key, size) for key in KEYS])
    made = normals.normal(KEYS, size, "cpu")
    assert made.dtype == torch.float32 and made.is_contiguous()
    np.testing.assert_array_equal(made.numpy().view(np.uint32), expected.view(np.uint32))


def test_blocks_do_not_depend_on_each_other() -> None:
    together = noise.draw(KEYS, (33, 4))
    assert together.shape == (7, 33, 4)
    for k, key in enumerate(KEYS):
        assert torch.equal(noise.draw([key], (33, 4))[0], together[k])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_noise_is_the_same_on_a_gpu() -> None:
    here, there = (noise.draw(KEYS, (2562, 4), device) for device in ("cpu", "cuda"))
    assert torch.equal(here, there.cpu())
