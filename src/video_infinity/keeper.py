"""One rank's end of what keeps a run: it saves, looks whether to stop, and finds what was saved.

All ranks call alike. What is decided is decided by rank 0 and shared, so that no collective
stands behind a condition that can differ between ranks.

Legend: F frames, C channels, H height, W width (of latents)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from video_infinity import checkpoint, history
from video_infinity.cadence import Cadence
from video_infinity.checkpoint import BrokenCheckpointError, Checkpoint
from video_infinity.comm import Communicator
from video_infinity.errors import ModelError, ResumeError, RunError
from video_infinity.interrupts import RunStopped
from video_infinity.pictures import Decoded, Pictures
from video_infinity.plan import Clip
from video_infinity.rundir import RunDir, directory_of, whole_looking

_GO_ON, _SAVE, _STOP = range(3)


class Told(Protocol):
    def __call__(self, event: str, **data: Any) -> None: ...


@dataclass(frozen=True)
class Start:
    """Where a denoise begins when it does not begin at the noise.

    step       steps done
    z_FCHW     the clip's latents after them
    scheduler  with the state that it had then
    """

    step: int
    z_FCHW: torch.Tensor
    scheduler: Any


@dataclass(frozen=True)
class Held:
    """What a rank has of the latents, and what it answers for.

    clip    the frames that it has
    shares  per rank, the frames that it saves: ranks that hold the same clip share them out
    """

    clip: Clip
    shares: tuple[Clip, ...]


class Keeper:
    """Keeps one run in its directory.

    run   the run's id, as its manifest has it
    told  hears of "checkpoint" and "warning"
    """

    def __init__(
        self, run_dir: RunDir, run: str, comm: Communicator, cadence: Cadence, told: Told
    ) -> None:
        self._dir, self._run, self._comm = run_dir, run, comm
        self._cadence, self._told = cadence, told
        self._fresh: Any = None
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._cost_s = 0.0
        self.num_saved, self.seconds = 0, 0.0
        self._saves = not cadence.is_never and self._all_see_it()

    def _all_see_it(self) -> bool:
        """Whether every rank has the directory: ranks of several machines need a shared one."""
        try:
            sees = self._dir.read_manifest()["run"] == self._run
        except (ResumeError, KeyError):
            sees = False
        blind = [rank for rank, seen in enumerate(self._comm.gather_json(sees)) if not seen]
        if blind:
            self._told(
                "warning",
                message=f"rank {blind[0]} does not see {self._dir.path}, so that no checkpoint is "
                "made; name a --run-dir that all machines share",
            )
        return not blind

    def find(
        self,
        scheduler: Any,
        num_steps: int,
        clip: Clip,
        num_latent_frames: int,
        device: torch.device,
    ) -> Start | None:
        """The newest whole checkpoint's part of this rank, whose frames are `clip`.

        scheduler  fresh, its timesteps set
        num_steps  of the whole denoise
        A checkpoint that is not whole is told of and left out. Returns None if there is none.
        """
        self._fresh, self._num_steps = history.copy_of(scheduler), num_steps
        if not self._saves:
            return None
        comm = self._comm
        for step in comm.gather_json(whole_looking(self._dir.checkpoints))[0]:
            found, why = self._read(step, clip, num_latent_frames, device)
            reasons = [reason for reason in comm.gather_json(why) if reason]
            if not reasons:
                self._saved_at, self._saved_step = time.monotonic(), step
                self._told("resume", step=step)
                return found
            self._told(
                "warning", message=f"the checkpoint of step {step} is not used: {reasons[0]}"
            )
        return None

    def _read(
        self, step: int, clip: Clip, num_latent_frames: int, device: torch.device
    ) -> tuple[Start | None, str]:
        """This rank's part of a checkpoint, checked; or why it cannot be used."""
        comm, scheduler = self._comm, history.copy_of(self._fresh)
        try:
            found = checkpoint.read_marker(
                self._dir.checkpoints, step, self._run, num_latent_frames
            )
            if step > self._num_steps:
                raise BrokenCheckpointError("it has more steps than the request")
            self._check_files(found, comm.rank, comm.size)
            read = checkpoint.read_frames(found, clip)
            frames = {name: x.to(device) for name, x in read.items()}
            history.restore(scheduler, found.scheduler, frames)
            return Start(step, frames[checkpoint.LATENTS], scheduler), ""
        except (BrokenCheckpointError, ValueError, KeyError) as error:
            return None, str(error)

    @staticmethod
    def _check_files(found: Checkpoint, rank: int, size: int) -> None:
        """Every file is read through by one rank."""
        for index in range(rank, len(found.files), size):
            checkpoint.check_file(found, index)

    def after_step(
        self, step: int, total: int, z_1CFHW: torch.Tensor, scheduler: Any, held: Held
    ) -> None:
        """Save if it is time to, and at the end. Raises RunStopped, saved, if so asked.

        step  steps done, of `total`
        """
        decision = self._decide(step)
        if self._saves and (decision != _GO_ON or step == total) and step > self._saved_step:
            self._save(step, z_1CFHW, scheduler, held)
        if decision == _STOP:
            self._stop()

    def find_decoded(self, size_HW: tuple[int, int]) -> tuple[int, list[torch.Tensor]]:
        """The chunk to decode next, on every rank; and what the decoder carries, on rank 0."""
        self._pictures = Pictures(self._dir.spool, self._run, size_HW)
        self._saved_at, self._cost_s, self._rounds = time.monotonic(), 0.0, 0
        found, error = Decoded(), None
        if self._comm.rank == 0 and self._saves:
            try:
                found = self._pictures.find()
            except ValueError as why:
                self._told("warning", message=f"finished pictures are not used: {why}")
            except OSError as failed:
                error = _no_room(failed)
        chunk, self._num_kept = self._agree(error, [found.chunk, found.num_frames])[0]
        return chunk, found.carried

    def hand_over(self, sink: Callable[[torch.Tensor], None]) -> None:
        """Give the pictures of an earlier process to rank 0's sink, piece by piece."""
        pieces = self._pictures.pieces(self._num_kept)
        for _ in self._pictures.piece_sizes(self._num_kept):
            if self._comm.rank == 0:
                sink(next(pieces))
            self._comm.barrier()

    def keeping(self, sink: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor], None]:
        """A sink that keeps the pictures as well."""

        def keep(piece: torch.Tensor) -> None:
            try:
                self._pictures.add(piece)
            except OSError as failed:
                raise _no_room(failed) from failed
            sink(piece)

        return keep if self._saves else sink

    def after_round(self, next_chunk: int, carried: list[torch.Tensor]) -> None:
        """Save if it is time to. Raises RunStopped, saved, if so asked."""
        self._rounds += 1
        decision, error = self._decide(self._saved_step + self._rounds), None
        if decision != _GO_ON and self._saves:
            begin = time.monotonic()
            if self._comm.rank == 0:
                try:
                    self._pictures.commit(next_chunk, carried)
                except (OSError, RunError) as failed:
                    error = _no_room(failed)
            self._agree(error)
            self._saved_at, self._rounds = time.monotonic(), 0
            self._cost_s = self._saved_at - begin
            self.seconds += self._cost_s
            self._told("kept", chunk=next_chunk, seconds=round(self._cost_s, 4))
        if decision == _STOP:
            self._stop()

    def _stop(self) -> None:
        by, error = "signal", None
        if self._comm.rank == 0:
            by = self._dir.asked_to_stop() or by
            try:
                self._dir.obey(by)
            except OSError as failed:
                error = RunError(f"{self._dir.path} cannot be written: {failed.strerror}")
            self._dir.tell("stopped", by=by, checkpoint=self._saved_step)
        by = self._agree(error, by)[0]
        raise RunStopped(self._dir.path, by)

    def _decide(self, step: int) -> int:
        """Rank 0's decision, on every rank."""
        waited_s = time.monotonic() - self._saved_at
        decision = _GO_ON
        if self._comm.rank == 0 and self._dir.asked_to_stop() is not None:
            decision = _STOP
        elif self._cadence.is_due(step - self._saved_step, waited_s, self._cost_s):
            decision = _SAVE
        rows, pending = self._comm.gather(torch.tensor([decision], dtype=torch.uint8))
        pending.wait()
        return int(rows[0])

    def _save(self, step: int, z_1CFHW: torch.Tensor, scheduler: Any, held: Held) -> None:
        begin, comm, root = time.monotonic(), self._comm, self._dir.checkpoints
        z_FCHW = z_1CFHW[0].transpose(0, 1)
        try:
            state, history_FCHW = history.captured(scheduler, self._fresh, z_FCHW.shape)
        except ModelError as failed:  # alike on every rank
            self._saves = False
            self._told("warning", message=f"no checkpoints: {failed}")
            return
        error: RunError | None = None
        if comm.rank == 0:
            try:
                self._dir.require()
                checkpoint.begin(root, step)
            except (OSError, RunError) as failed:
                error = _not_saved(step, failed)
        self._agree(error)
        directory = directory_of(root, step)
        entry = None
        try:
            own, first = held.shares[comm.rank], held.clip.start
            span = slice(own.start - first, own.stop - first)
            tensors = {checkpoint.LATENTS: z_FCHW, **history_FCHW}
            file = checkpoint.write_span(
                directory, own, {name: x_FCHW[span] for name, x_FCHW in tensors.items()}
            )
            entry = [file.size, file.sha256]
        except (OSError, RunError) as failed:
            error = _not_saved(step, failed)
        told = self._agree(error, {"file": entry, "state": state})
        if comm.rank == 0:
            assert all(other["state"] == state for other in told), "a state that ranks do not share"
            files = [
                checkpoint.SpanFile(clip, *other["file"])
                for clip, other in zip(held.shares, told, strict=True)
            ]
            try:
                checkpoint.commit(directory, self._run, step, files, state, self._saved_step)
            except (OSError, RunError) as failed:
                error = _not_saved(step, failed)
        self._agree(error)
        self._saved_at, self._saved_step = time.monotonic(), step
        self._cost_s = self._saved_at - begin
        self.num_saved, self.seconds = self.num_saved + 1, self.seconds + self._cost_s
        self._told("checkpoint", step=step, seconds=round(self._cost_s, 4))

    def _agree(self, error: RunError | None, told: Any = None) -> list[Any]:
        """Share what every rank has to tell; raise on all the error that one of them had."""
        rows = self._comm.gather_json({"error": str(error) if error else None, "told": told})
        if error is not None:
            raise error
        for row in rows:
            if row["error"] is not None:
                raise RunError(row["error"])
        return [row["told"] for row in rows]


def _no_room(error: Exception) -> RunError:
    return RunError(
        f"finished pictures could not be kept in the run directory: {_cause(error)}; the latents "
        "are saved: make room, or mend the directory, and resume"
    )


def _cause(error: Exception) -> object:
    root = error if isinstance(error, OSError) else error.__cause__ or error
    return getattr(root, "strerror", None) or root


def _not_saved(step: int, error: Exception) -> RunError:
    return RunError(
        f"the checkpoint of step {step} could not be written: {_cause(error)}; earlier "
        "ones are as they were: make room, or mend the directory, and resume"
    )
