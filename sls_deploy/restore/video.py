"""Video in and out."""

from __future__ import annotations

from sls_deploy.restore.video_formats import VIDEO_SUFFIXES, video_suffix
from sls_deploy.restore.video_reader import Frame, VideoReader
from sls_deploy.restore.video_writer import VideoWriter

__all__ = ["VIDEO_SUFFIXES", "Frame", "VideoReader", "VideoWriter", "video_suffix"]
