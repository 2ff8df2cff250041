"""For all tests: one thread a rank, so that ranks do not wait for each other's thread pools."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from diffusers.utils import logging

from tests.tiny import save_tiny_model

# Tests that a shell has started in the background ignore it, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
logging.set_verbosity_error()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model with random weights, at a path with a space. Tests leave it as it is."""
    return save_tiny_model(tmp_path_factory.mktemp("a model") / "tiny")
