"""The network that comes with the package, so that everything can be tried at once."""

from __future__ import annotations

from pathlib import Path

DEMO_WEIGHTS = Path(__file__).parent / "weights" / "edsr_demo_x2.safetensors"
"""EDSR with 32 channels and 4 blocks, x2, trained by `sls-deploy train` (see docs/demo.md)."""
