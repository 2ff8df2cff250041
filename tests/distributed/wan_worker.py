"""One rank of a real world: runs Wan's cases and leaves its results in a directory.

python -m tests.distributed.wan_worker DIRECTORY WIRE, with RANK, WORLD_SIZE and MASTER_*.
"""

import sys
from pathlib import Path

import torch

from tests.distributed.harness import save_rank
from tests.distributed.wan_harness import CASES, ON_PROCESSES, load, run_case
from video_infinity.comm.process import joined_world
from video_infinity.comm.shared import SharedCommunicator

if __name__ == "__main__":
    torch.set_num_threads(1)
    shares_memory = sys.argv[2] == "shared memory"
    with joined_world(torch.device("cpu"), 120, shares_memory=shares_memory) as comm:
        assert isinstance(comm, SharedCommunicator) == shares_memory
        results = {
            name: run_case(CASES[name], comm, load(CASES[name], comm.rank)) for name in ON_PROCESSES
        }
        save_rank(Path(sys.argv[1]) / f"{comm.rank}.safetensors", results)
