"""For all tests: one thread a rank, so that ranks do not wait for each other's thread pools."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from diffusers.utils import logging

torch.set_num_threads(1)
logging.set_verbosity_error()
