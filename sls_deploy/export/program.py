"""The network as `torch.export` sees it, for pictures of any number and size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_sizes
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from sls_deploy.errors import SlsError
from sls_deploy.models.restoration import COLOURS, run_once
from sls_deploy.sizes import padded_side

if TYPE_CHECKING:
    from sls_deploy.models.architecture import Description
    from sls_deploy.models.model import RestorationModel

SIZES = {0: "batch", 2: "height", 3: "width"}
"""Axes of the input that stay open."""

_NUMBER_IS_CONSTANT = "Constraints violated (L['x'].size()[0])!"
"""What PyTorch says where the number of pictures became a constant, and nothing else did."""

_PICTURES = 2
_SIDE = 64
_PRIMES = (3, 5, 7, 11, 13, 17, 37, 67, 79, 131, 137, 257, 263, 521, 523)
"""Multiples in the example. A network that pads to a multiple of its own asks whether it has to;
what it does then is right for all sizes, and what it does otherwise is not."""


def export_program(model: RestorationModel) -> ExportedProgram:
    """Trace a network with batch, height and width open.

    Where the description says that sides must be multiples, the program is for multiples alone.
    Networks that compute with the number of pictures as if it were a constant (windows of attention
    do: `int(x.shape[0] / (h * w / 64))`) are for one picture at a time.

    Args:
        model: the network, in evaluation mode.

    Raises:
        SlsError: its operations depend on the values in the pictures, or on their size.
    """
    about = model.description
    first: Exception | None = None
    alone = False
    for axes, oblivious in _attempts(about):
        if alone and 0 in axes:
            continue
        pictures = _PICTURES if 0 in axes else 1
        try:
            # Without this, every reshape of a side that was padded takes seconds to reason about.
            with (
                quiet(),
                torch.no_grad(),
                _BatchedAttention(),
                symbolic_sizes.patch(backed_size_oblivious=oblivious),  # type: ignore[attr-defined]
            ):
                run_once(model, _example(about, pictures))
                program = torch.export.export(
                    model, (_example(about, pictures),), dynamic_shapes=(axes,), strict=False
                )
                # What was taken for granted of the number of pictures shows with another number.
                program.module()(_example(about, pictures if 0 not in axes else pictures + 1))
                return program
        except Exception as error:  # the tracer raises many kinds
            first = first or error
            # A number that became constant did so in every attempt, of all networks tried.
            alone = alone or _NUMBER_IS_CONSTANT in str(error)
    reason = str(first).strip().partition("\n")[0]
    if "specialized" in str(first) or "Constraints violated" in str(first):
        raise one_size(about.name)
    raise SlsError(f"cannot be exported to ONNX ({reason})", about.name) from None


def one_size(name: str) -> SlsError:
    """The error for a network that takes no pictures of other sizes."""
    what = "works for one size of picture only: batch, height or width became constant"
    return SlsError(what, name, "Compute sizes from the input's shape in its forward.")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's warnings, logs and dumps to itself: its errors come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _attempts(about: Description) -> Iterator[tuple[dict[int, Any], bool]]:
    """Ways to say which axes are open, the best first: the axes, and `backed_size_oblivious`."""
    sides = {axis: about.multiple * Dim(name) for axis, name in SIZES.items() if axis}
    for batch in ({0: Dim.DYNAMIC}, {}):
        if about.multiple > 1:
            yield {**batch, **sides}, True
        yield {**batch, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, True
        yield {**batch, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, False


def _example(about: Description, pictures: int) -> torch.Tensor:
    """Zeros to trace with: sizes differ and are not 1, which would be taken as constants."""
    least = max(_SIDE, about.least_side)
    sides = [about.multiple * prime for prime in _PRIMES if about.multiple * prime >= least]
    if len(sides) < 2:
        side = padded_side(_SIDE, about.least_side, about.multiple)
        sides = [side, side + about.multiple]
    return torch.zeros(pictures, COLOURS * about.frames, *sides[:2])


class _BatchedAttention(TorchFunctionMode):
    """Gives PyTorch's attention the four dimensions that are all its ONNX exporter knows."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch."""
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention or args[0].dim() != 3:
            return func(*args, **kwargs)
        heads = [item.unsqueeze(1) if isinstance(item, torch.Tensor) else item for item in args]
        mask = kwargs.get("attn_mask")
        if mask is not None:
            kwargs = {**kwargs, "attn_mask": mask.unsqueeze(-3)}
        return func(*heads, **kwargs).squeeze(1)
