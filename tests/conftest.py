"""For all tests: one thread a rank, so that ranks do not wait for each other's thread pools."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.utils import logging
from hypothesis import settings

from tests.tiny import save_tiny_model

# Tests that a shell has started in the background ignore it, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
logging.set_verbosity_error()
# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("untimed", deadline=None)
if settings.get_current_profile_name() == "default":
    settings.load_profile("untimed")


def _switches() -> tuple[object, ...]:
    """What decides, for a whole process, which kernels run; bits may differ with any of them."""
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.mkldnn.enabled,
        _AttentionBackendRegistry.get_active_backend()[0],
    )


@pytest.fixture(autouse=True)
def _no_test_changes_the_next() -> Iterator[None]:
    before = _switches()
    yield
    assert _switches() == before, "the test left a switch of the process as it had set it"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model with random weights, at a path with a space. Tests leave it as it is."""
    return save_tiny_model(tmp_path_factory.mktemp("a model") / "tiny")
