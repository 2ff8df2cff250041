"""One rank of a real gloo world: runs Wan's cases and leaves its results in a directory.

python -m tests.distributed.wan_worker DIRECTORY, with RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

import sys
from pathlib import Path

import torch

from tests.distributed.harness import save_rank
from tests.distributed.wan_harness import CASES, ON_PROCESSES, load, run_case
from video_infinity.comm.process import joined_world

if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined_world(torch.device("cpu"), timeout_s=120) as comm:
        results = {
            name: run_case(CASES[name], comm, load(CASES[name], comm.rank)) for name in ON_PROCESSES
        }
        save_rank(Path(sys.argv[1]) / f"{comm.rank}.safetensors", results)
