"""Files through networks: one thread reads ahead, one writes behind, networks run in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from sls_deploy.config import RestoreConfig
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report
from sls_deploy.restore.ahead import Ahead, Behind
from sls_deploy.restore.answers import Answer, TileRestorer
from sls_deploy.restore.choice_map import ChoiceMap
from sls_deploy.restore.sources import Job
from sls_deploy.restore.tiles import Blender, Layout, Tile, batches
from sls_deploy.restore.works import Source, Work, open_work
from sls_deploy.runtime.runner import Pictures

_DEPTH = 2
"""Groups of tiles that wait to be restored, and to be written."""


@dataclass(frozen=True)
class Restored:
    """A file that was restored."""

    source: str
    """What it was made from."""
    target: str
    """What was written."""
    height: int
    """Of the input, pixels."""
    width: int
    """Of the input, pixels."""
    frames: int
    """Frames that were written; 1 of a picture."""
    tiles: int
    """Tiles that went through networks."""
    seconds: float
    """From its first tile to its end; files overlap."""
    choices: dict[str, int]
    """How many tiles went to which network."""
    notes: tuple[str, ...]
    """What is to be known of it, such as colours that were converted."""


@dataclass(frozen=True)
class Failed:
    """A file that could not be restored."""

    source: str
    """Which."""
    reason: str
    """What is wrong with it, and what to do."""


@dataclass
class _State:
    """A file on its way, as the threads share it."""

    work: Work
    began: float = 0.0
    size: tuple[int, int] = (0, 0)
    blender: Blender | None = None
    map: ChoiceMap | None = None
    frames: int = 0
    tiles: int = 0
    choices: Counter[str] = field(default_factory=Counter)
    failed: bool = False
    told: bool = False


@dataclass(frozen=True)
class _Piece:
    """Tiles of one frame that are restored together."""

    state: _State
    source: Source
    layout: Layout
    tiles: Sequence[Tile]
    pixels: Pictures
    first: bool
    last: bool
    token: Any


@dataclass(frozen=True)
class _End:
    """All of a file was read."""

    state: _State


@dataclass(frozen=True)
class _Broken:
    """A file that cannot be read, or not to its end."""

    job: Job
    error: SlsError
    state: _State | None


class Pipeline:
    """Restores files.

    Args:
        restorer: the networks.
        options: limits and formats.
        report: receives a report after each group of tiles.
        map_of: where the map of choices of a file is to be written, if anywhere.
    """

    def __init__(
        self,
        restorer: TileRestorer,
        options: RestoreConfig,
        report: Report,
        map_of: Callable[[Job], ChoiceMap | None] = lambda _: None,
    ) -> None:
        self._restorer, self._options = restorer, options
        self._report, self._map_of = report, map_of
        self.restored: list[Restored] = []
        """Files that are done."""
        self.failed: list[Failed] = []
        """Files that could not be restored."""
        self.margin = restorer.sizes.margin
        """Input pixels that were given up at each inner side of a tile, at least."""
        self._open: list[_State] = []

    def run(self, jobs: Sequence[Job]) -> None:
        """Restore all files that can be; the others are told in `failed`.

        An error that is not about one file, or an interrupt, ends it: what is not finished leaves
        no file.
        """
        start = time.monotonic()
        try:
            # The thread that reads ends first: nobody else closes what it has at hand.
            with Behind(_DEPTH) as writer, Ahead(self._pieces(jobs), _DEPTH) as pieces:
                try:
                    for piece in pieces:
                        self._pass_on(piece, writer, len(jobs), start)
                    writer.finish()
                except BaseException:
                    for state in list(self._open):
                        state.work.stop()
                    raise
        finally:
            for state in self._open:
                state.work.close()
        self._report(Progress("restore", len(jobs), len(jobs)))

    def _pass_on(
        self, piece: _Piece | _End | _Broken, writer: Behind, files: int, start: float
    ) -> None:
        if isinstance(piece, _Broken):
            self._fail(piece.job, piece.error, piece.state, writer)
            if piece.state is not None:
                writer.do(partial(self._finish, piece.state))
        elif isinstance(piece, _End):
            writer.do(partial(self._finish, piece.state))
        elif not piece.state.failed:
            self._restore(piece, writer)
            self._tell(files, piece, start)

    def _pieces(self, jobs: Sequence[Job]) -> Iterator[_Piece | _End | _Broken]:
        """All tiles of all files; runs in the thread that reads."""
        restorer = self._restorer
        for job in jobs:
            state = None
            try:
                work = open_work(job, self._options, restorer.scale, restorer.frames)
                state = _State(work, map=self._map_of(job))
                self._open.append(state)
                with closing(work.inputs()) as inputs:
                    for source, token in inputs:
                        if state.failed:
                            break
                        yield from self._frame(state, source, token)
                yield _End(state)
            except (SlsError, MemoryError) as error:
                yield _Broken(job, _told(error, job), state)

    def _frame(self, state: _State, source: Source, token: Any) -> Iterator[_Piece]:
        layout = Layout(source.height, source.width, self._restorer.sizes)
        if layout.margin is not None:
            self.margin = min(layout.margin, self.margin)
        place, groups = 0, batches(layout, self._restorer.at_once)
        for tiles in groups:
            if state.failed:
                return
            parts = [layout.fill(source.read(*layout.inside(tile))) for tile in tiles]
            first, place = place == 0, place + len(tiles)
            last = place == len(layout.tiles)
            pixels = np.stack(parts)
            yield _Piece(state, source, layout, tiles, pixels, first, last, token)

    def _restore(self, piece: _Piece, writer: Behind) -> None:
        state = piece.state
        if not state.began:
            state.began, state.size = time.monotonic(), (piece.layout.height, piece.layout.width)
        try:
            answer = self._restorer.run(piece.pixels)
            if not np.isfinite(answer.pixels).all():
                what = "the network gives values that are not finite"
                raise SlsError(what, str(state.work.job.source), "Try fp32 (--precision fp32).")
        except (SlsError, MemoryError) as error:
            self._fail(state.work.job, _told(error, state.work.job), state, writer)
            return
        writer.do(partial(self._write, piece, answer))

    def _write(self, piece: _Piece, answer: Answer) -> None:
        """Put restored tiles in their places; runs in the thread that writes."""
        state = piece.state
        if state.failed:
            return
        if piece.first:
            state.blender = Blender(piece.layout, self._restorer.scale)
        assert state.blender is not None  # noqa: S101 - a frame has a first piece
        try:
            for place, pixels in enumerate(answer.pixels):
                state.work.take(state.blender.add(pixels), piece.source)
                self._count(piece, answer, place)
            if piece.last:
                state.work.end(piece.token)
                state.frames += 1
                if state.map is not None:
                    state.map.write()
                    state.map = None
        except (SlsError, MemoryError) as error:
            self._fail_here(state.work.job, _told(error, state.work.job), state)

    def _count(self, piece: _Piece, answer: Answer, place: int) -> None:
        state = piece.state
        state.tiles += 1
        if answer.choices is None:
            return
        choice = int(answer.choices[place])
        state.choices[self._restorer.names[choice]] += 1
        if state.map is not None:
            state.map.paint(piece.layout, piece.tiles[place], piece.pixels[place], choice)

    def _finish(self, state: _State) -> None:
        """Give a file its name and close it; runs in the thread that writes.

        It is closed here alone, where the thread that reads is through with it.
        """
        work = state.work
        try:
            if not state.failed:
                work.finish()
                self._note_restored(state)
        except (SlsError, MemoryError) as error:
            self._fail_here(work.job, _told(error, work.job), state)
        finally:
            self._open.remove(state)
            work.close()

    def _note_restored(self, state: _State) -> None:
        work = state.work
        self.restored.append(
            Restored(
                str(work.job.source),
                str(work.job.target),
                *state.size,
                frames=state.frames,
                tiles=state.tiles,
                seconds=round(time.monotonic() - state.began, 3),
                choices=dict(state.choices),
                notes=work.notes,
            )
        )

    def _fail(self, job: Job, error: SlsError, state: _State | None, writer: Behind) -> None:
        if state is not None:
            state.failed = True
        writer.do(partial(self._fail_here, job, error, state))

    def _fail_here(self, job: Job, error: SlsError, state: _State | None) -> None:
        """Note that a file failed; runs in the thread that writes."""
        if state is not None:
            state.failed = True
            if state.told:
                return
            state.told = True
        self.failed.append(Failed(str(job.source), str(error)))

    def _tell(self, files: int, piece: _Piece, start: float) -> None:
        """Report how far all files are, and how long the rest will take at this pace."""
        state, done = piece.state, len(self.restored) + len(self.failed)
        count = state.work.count
        in_all = count * len(piece.layout.tiles) if count else None
        within = state.tiles / in_all if in_all else 1.0  # unknown, or more than was said
        figures = {}
        if within < 1:
            share = (done + within) / files
            if share > 0:
                figures["s left"] = (time.monotonic() - start) * (1 - share) / share
            if in_all and in_all > len(piece.tiles):
                figures[f"% of {state.work.job.source.name}"] = 100 * within
        self._report(Progress("restore", min(done, files), files, figures))


def _told(error: SlsError | MemoryError, job: Job) -> SlsError:
    """An error that is about one file."""
    if isinstance(error, SlsError):
        return error
    what = "is too large for the memory that is free"
    return SlsError(what, str(job.source), "Restore where more of it is free.")
