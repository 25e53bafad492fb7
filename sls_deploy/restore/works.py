"""A picture or a video on its way: read in one thread, written in another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from sls_deploy.config import RestoreConfig
from sls_deploy.errors import SlsError
from sls_deploy.pictures.canvas import Canvas
from sls_deploy.pictures.encode import check_target, save_still, target_notes
from sls_deploy.pictures.still import open_still
from sls_deploy.restore.sources import Job
from sls_deploy.restore.tiles import Part, Pixels
from sls_deploy.video.reader import Frame, VideoReader
from sls_deploy.video.writer import VideoWriter

if TYPE_CHECKING:
    from sls_deploy.pictures.still import Still

COLOURS = 3
"""Channels of a frame."""


class Source(Protocol):
    """Pixels that a network is given: a picture, or a few frames along the channels."""

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    def read(self, top: int, left: int, height: int, width: int) -> Pixels:
        """A part of it, CHW float32, 0..1."""
        ...


class Work(Protocol):
    """One file that is being restored.

    `inputs` is iterated in a thread that reads, the rest is called in one that writes.
    """

    job: Job
    """What becomes what."""
    count: int | None
    """Frames, as far as the file tells; 1 of a picture."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of it; complete once it is finished."""
        ...

    def inputs(self) -> Generator[tuple[Source, Any]]:
        """Each input, and what `end` wants to know of it.

        Raises:
            SlsError: the file turns out damaged.
        """
        ...

    def take(self, part: Part, source: Source) -> None:
        """Take finished pixels of the frame at work."""
        ...

    def end(self, token: Any) -> None:
        """Write the frame at work, of which all pixels were taken."""
        ...

    def finish(self) -> None:
        """Give the output its name."""
        ...

    def stop(self) -> None:
        """Give up what is being written; called by another thread."""
        ...

    def close(self) -> None:
        """Let go of everything; what is not finished leaves no file."""
        ...


def open_work(job: Job, options: RestoreConfig, scale: int, frames: int) -> Work:
    """Open a file, and see that its output can be written.

    Args:
        job: what becomes what.
        options: limits and formats.
        scale: output pixels for one input pixel, along each side.
        frames: pictures that the network takes at once.

    Raises:
        SlsError: it cannot be read, or not be written in that form.
    """
    if job.kind == "video":
        return VideoWork(job, options, scale, frames)
    if frames > 1:
        fix = "Give it a video."
        what = f"is one picture, where the network takes {frames} frames at once"
        raise SlsError(what, str(job.source), fix)
    return PictureWork(job, options, scale)


class PictureWork:
    """A picture that becomes a larger or a sharper one."""

    def __init__(self, job: Job, options: RestoreConfig, scale: int) -> None:
        self.job = job
        self.count: int | None = 1
        self._options, self._scale = options, scale
        self._still: Still = open_still(job.source, options.max_megapixels, job.target.parent)
        self._canvas: Canvas | None = None
        self._stopped = threading.Event()
        check_target(self._still, job.target, scale)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the picture, such as colours that were converted."""
        return (*self._still.notes, *target_notes(self._still, self.job.target))

    def inputs(self) -> Generator[tuple[Source, Any]]:
        """The picture."""
        yield self._still, None

    def take(self, part: Part, source: Source) -> None:
        """Take finished pixels."""
        if self._canvas is None:
            height, width = source.height * self._scale, source.width * self._scale
            channels: Literal[1, 3] = 1 if self._still.grey else 3
            folder = self.job.target.parent
            self._canvas = Canvas(height, width, channels, self._still.bits, folder)
        self._canvas.put(part.top, part.left, part.pixels)

    def end(self, token: Any) -> None:  # noqa: ARG002 - a picture has one frame
        """Encode it."""
        assert self._canvas is not None  # noqa: S101 - a picture has a part
        save_still(
            self._still,
            self._canvas,
            self.job.target,
            self._scale,
            self._options.quality,
            self._stopped.is_set,
        )

    def finish(self) -> None:
        """It has its name already."""

    def stop(self) -> None:
        """End what is being encoded, which can take a minute."""
        self._stopped.set()

    def close(self) -> None:
        """Let go of both pictures."""
        if self._canvas is not None:
            self._canvas.close()
        self._still.close()


@dataclass
class _Window:
    """Frames that the network takes at once."""

    pixels: Pixels
    """Channels are RGB of each frame."""
    height: int = field(init=False)
    width: int = field(init=False)

    def __post_init__(self) -> None:
        self.height, self.width = self.pixels.shape[1:]

    def read(self, top: int, left: int, height: int, width: int) -> Pixels:
        return self.pixels[:, top : top + height, left : left + width]


class VideoWork:
    """A video whose frames are restored one after the other."""

    def __init__(self, job: Job, options: RestoreConfig, scale: int, frames: int) -> None:
        self.job, self._frames, self._scale = job, frames, scale
        self._picture: Pixels | None = None
        with ExitStack() as held:
            self._reader = held.enter_context(VideoReader(job.source, options.max_megapixels))
            codec, quality = options.video_codec, options.video_quality
            writer = VideoWriter(job.target, self._reader, scale, codec, quality)
            self._writer = held.enter_context(writer)
            self._held = held.pop_all()
        self.count = self._reader.frames

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read and written otherwise than it was."""
        return (*self._reader.notes, *self._writer.notes)

    def inputs(self) -> Generator[tuple[Source, Any]]:
        """Each frame with those before and behind it; the first and the last are repeated."""
        around = self._frames // 2
        window: deque[Frame] = deque(maxlen=self._frames)
        ahead: Frame | None = None
        for ahead in self._reader:
            if not window:
                window.extend([ahead] * around)
            window.append(ahead)
            if len(window) == self._frames:
                yield self._window(window), window[around]
        if ahead is None:
            return
        for _ in range(around):
            window.append(ahead)
            if len(window) == self._frames:
                yield self._window(window), window[around]

    def _window(self, frames: deque[Frame]) -> _Window:
        if len(frames) == 1:
            return _Window(frames[0].pixels)
        return _Window(np.concatenate([frame.pixels for frame in frames]))

    def take(self, part: Part, source: Source) -> None:
        """Take finished pixels of a frame."""
        if self._picture is None:
            shape = (COLOURS, source.height * self._scale, source.width * self._scale)
            self._picture = np.empty(shape, np.float32)
        height, width = part.pixels.shape[1:]
        self._picture[:, part.top : part.top + height, part.left : part.left + width] = part.pixels

    def end(self, token: Any) -> None:
        """Encode a frame."""
        assert self._picture is not None  # noqa: S101 - a frame has a part
        self._writer.write(self._picture, token)

    def finish(self) -> None:
        """Close the file, which gets its name."""
        self._held.close()

    def stop(self) -> None:
        """Nothing is to be done: a frame is soon encoded."""

    def close(self) -> None:
        """Close what is open, as after an error: a file that is not finished goes."""
        error = SlsError("was not finished", str(self.job.source))
        self._held.__exit__(SlsError, error, None)
