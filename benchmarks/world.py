"""Fresh gloo processes of one thread for a program's own `--worker`, on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def run_world(
    module: str,
    words: Sequence[str],
    ranks: int,
    environment: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """What `python -m MODULE --worker WORDS` prints as JSON on each rank.

    environment  what is set besides what makes them a world
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, "--worker", *words],
            env=os.environ | world | {"RANK": str(rank)} | dict(environment or {}),
            stdout=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"{module}: a rank failed; its own error stands above")
    return [json.loads(words) for words in printed]
