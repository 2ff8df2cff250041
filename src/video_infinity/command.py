"""What the commands do: check the request, make its run directory, start or join the ranks."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace

from video_infinity.adapters import PRESETS, ModelFacts, inspect_model
from video_infinity.adapters.registry import FAMILIES
from video_infinity.comm.process import in_torchrun
from video_infinity.config import Request
from video_infinity.errors import ConfigError, RankFailedError, UserError
from video_infinity.failures import EXIT_MISTAKE, is_spawned, say
from video_infinity.interrupts import RunStopped
from video_infinity.launch import launch_ranks
from video_infinity.manifest import check_manifest
from video_infinity.output import remove_partial
from video_infinity.preflight import (
    check_destinations,
    method_warnings,
    prepare,
    prompt_warnings,
    resolve_device,
    resolve_ranks,
)
from video_infinity.rank import ask_to_stop, files_of, run_rank, warn_of
from video_infinity.recovery import check_request, check_same, manifest_of, run_dir_of
from video_infinity.rundir import RunDir, whole_looking
from video_infinity.space import check_space


def run_generate(request: Request, argv: Sequence[str]) -> None:
    """`video-infinity generate`: on this process, on ranks spawned here, or as one of torchrun's.

    argv  the command line, for the ranks that are spawned
    """
    device = resolve_device(request.model.device)
    request = replace(request, model=replace(request.model, device=device))
    facts = inspect_model(request.model)
    num_ranks = find_ranks(request)
    request = prepare(request, facts, num_ranks)
    run_dir = run_dir_of(request)
    if leads():
        check_destinations(request)
        warn_of(prompt_warnings(request, facts) + method_warnings(request, facts), request)
        _begin(request, facts, num_ranks, run_dir)
    carry_out(request, argv, num_ranks, run_dir)


def leads() -> bool:
    """Whether this process leads the run: the launcher, a rank alone, or torchrun's first."""
    return not is_spawned() and (not in_torchrun() or os.environ["RANK"] == "0")


def _begin(request: Request, facts: ModelFacts, num_ranks: int, run_dir: RunDir) -> None:
    """Make the run directory; where torchrun has started the ranks again, go on with it."""
    run_dir.check_free(overwrite=request.output.overwrite or _is_restarted())
    if _is_restarted() and run_dir.manifest_file.is_file():
        manifest = run_dir.read_manifest()
        check_manifest(manifest)
        check_request(manifest, request)
        check_same(manifest, request)
        run_dir.lead()
        run_dir.begin_attempt()
        return
    check_space(request, facts, run_dir.path.parent)
    manifest = manifest_of(request, facts, num_ranks)
    run_dir.create(manifest, overwrite=request.output.overwrite)


def _is_restarted() -> bool:
    return in_torchrun() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def carry_out(request: Request, argv: Sequence[str], num_ranks: int, run_dir: RunDir) -> None:
    """Run a prepared request that has its directory, from its newest checkpoint on.

    A directory that nobody named goes when the run is done, or was a mistake that got nowhere.
    """
    kept = request.run.run_dir is not None
    try:
        if in_torchrun() or (num_ranks == 1 and not request.run.max_restarts):
            run_rank(request, run_dir)
        else:
            try:
                _launch(request, argv, num_ranks, run_dir)
            finally:
                for path in files_of(request):
                    remove_partial(path)
    except BaseException as error:
        if leads() and whole_looking(run_dir.checkpoints):
            say(f"to go on: video-infinity resume {shlex.quote(str(run_dir.path))}")
        elif leads() and not kept and _is_mistake(error):
            run_dir.remove()
        raise
    if leads():
        run_dir.forget_progress() if kept else run_dir.remove()


def _is_mistake(error: BaseException) -> bool:
    told = isinstance(error, SystemExit) and error.code == EXIT_MISTAKE
    return told or isinstance(error, UserError)


def _launch(request: Request, argv: Sequence[str], num_ranks: int, run_dir: RunDir) -> None:
    """Spawn the ranks; after a failure again, as often as was asked for."""
    for restarts_left in range(request.run.max_restarts, -1, -1):
        run_dir.begin_attempt()
        try:
            launch_ranks(argv, num_ranks, lambda: ask_to_stop(run_dir), run_dir.pids)
        except RankFailedError as error:
            run_dir.tell("failed", message=str(error))
            if run_dir.is_finished():
                return  # the last act was done
            if not restarts_left:
                raise
            if run_dir.asked_to_stop() is not None:
                raise
            warn_of([f"{error}; the run goes on by itself"], request)
            continue
        stopped_by = run_dir.obeyed()
        if stopped_by is not None:
            raise RunStopped(run_dir.path, stopped_by)
        return


def find_ranks(request: Request) -> int:
    """How many ranks the run has. Raises ConfigError where torchrun and the request disagree."""
    asked, device = request.run.nproc_per_node, request.model.device
    if not in_torchrun():
        return resolve_ranks(asked, device, request.run.parallel)
    if asked is not None and not is_spawned():
        raise ConfigError(
            f"--nproc-per-node {asked}: torchrun has started the ranks already; give it to "
            "torchrun instead"
        )
    resolve_ranks(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), device)
    return int(os.environ["WORLD_SIZE"])


def run_plan(request: Request) -> None:
    """`video-infinity plan`: print clips, scopes, expected memory and bytes.

    A GPU that is not here may be planned for.
    """
    from video_infinity.estimate import describe_plan, estimate

    device = request.model.device
    if device == "auto":
        device = resolve_device(device)
    request = replace(request, model=replace(request.model, device=device))
    facts: ModelFacts = inspect_model(request.model)
    asked, parallel = request.run.nproc_per_node, request.run.parallel
    num_ranks = asked or resolve_ranks(None, device, parallel)
    predicted = estimate(prepare(request, facts, num_ranks), facts, num_ranks)
    print(json.dumps(predicted, indent=2) if request.run.log_json else describe_plan(predicted))


def run_models() -> None:
    """`video-infinity models`: embedded names, presets, and the denoisers that load."""
    for name, preset in PRESETS.items():
        print(f"{name:16}{preset.about}")
    print(f"{'DIR or HUB_ID':16}a diffusers model whose denoiser is {', '.join(FAMILIES)}")
