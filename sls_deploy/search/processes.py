"""The processes that train one network together, through Lightning Fabric.

Fabric starts them (or takes those that torchrun started), picks GPUs where there are some, and
brings mixed precision. Its DDP wrapper is not used: scores lose their gradient when they freeze and
`functional_call` swaps weights, and DDP's buckets follow neither. One flat all-reduce after the
backward pass does, and costs one message a step.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from sls_deploy.config import SearchConfig
from sls_deploy.errors import SlsError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""What Fabric calls them."""
AnyModule = TypeVar("AnyModule", bound=nn.Module)
_INTERRUPTED = 130
_BAD_INPUT = 2


class Processes:
    """The processes of a training, seen from one of them; alone on a CPU every call is free.

    As a context it leaves it to the first process to tell what went wrong: an `SlsError` comes up
    in all of them, or in the first only.

    Args:
        fabric: from `of`; None is a single process on the CPU in fp32.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self._fabric = fabric

    @classmethod
    def of(cls, config: SearchConfig) -> Processes:
        """The processes that the settings ask for, not yet started.

        Raises:
            SlsError: the batch cannot be shared out equally, or the machine or torchrun has other
                processes or GPUs.
        """
        world, gpus = config.devices * config.nodes, torch.cuda.device_count()
        parts = world * config.accumulate
        if config.batch % parts:
            what = f"{config.batch} crops cannot be cut into {parts} equal parts"
            why = f"{world} processes, {config.accumulate} accumulated"
            raise SlsError(f"{what} ({why})", "--batch", f"Give a multiple of {parts}.")
        if config.crops < world:
            what = f"{config.crops} crops are too few for {world} processes"
            raise SlsError(what, "--crops", f"Give {world} or more.")
        started = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else world
        if started != world:
            fix = f"Give --devices and --nodes whose product is {started}."
            raise SlsError(f"torchrun started {started} processes, not {world}", "--devices", fix)
        if gpus and config.devices > gpus:
            raise SlsError(f"there are {gpus} GPUs", "--devices", f"Give {gpus} or fewer.")
        if config.training_precision == "fp16" and not gpus:
            fix = "Give bf16 or fp32."
            raise SlsError("fp16 is trained on GPUs only", "--training-precision", fix)
        if world == 1 and not gpus and config.training_precision == "fp32":
            return cls()
        from lightning_fabric import Fabric  # a second of start-up that one process does not need

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        return cls(
            Fabric(
                accelerator="cuda" if gpus else "cpu",
                strategy="ddp" if world > 1 else "auto",
                devices=config.devices,
                num_nodes=config.nodes,
                precision=_PRECISIONS[config.training_precision],
            )
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_first or not isinstance(error, (SlsError, KeyboardInterrupt)):
            return
        raise SystemExit(_BAD_INPUT if isinstance(error, SlsError) else _INTERRUPTED)

    def launch(self) -> None:
        """Start the other processes, which run this program with the same arguments, and meet them.

        Under torchrun they are there already.
        """
        if self._fabric:
            self._fabric.launch()

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self._fabric.global_rank if self._fabric else 0

    @property
    def world(self) -> int:
        """Number of processes on all machines."""
        return self._fabric.world_size if self._fabric else 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which part of a batch is this process's, and of how many."""
        return self.rank, self.world

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._fabric.device if self._fabric else torch.device("cpu")

    def place(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """A batch on this process's device."""
        return batch[0].to(self.device), batch[1].to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of the forward pass: mixed precision where the settings ask for it."""
        return self._fabric.autocast() if self._fabric else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss; fp16 ones are scaled until `step`."""
        if self._fabric:
            self._fabric.backward(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def average(self, parameters: Iterable[Tensor]) -> None:
        """Put the mean over processes in place of each gradient; those without one stay so.

        Infinite fp16 gradients of one process become everybody's, so that all skip the step.
        """
        if self.world == 1:
            return
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        parts = torch.split(self.mean(flat), [grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))

    def step(self, optimiser: Optimizer) -> None:
        """Take the optimiser's step; a step with infinite fp16 gradients is left out."""
        if self._fabric:
            self._fabric.strategy.optimizer_step(optimiser)
        else:
            optimiser.step()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes; the tensor itself where there is one process."""
        if self.world == 1:
            return tensor
        total = tensor.detach().to(self.device, copy=True).contiguous()
        with _exchange():
            dist.all_reduce(total)
        return total.to(tensor.device)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over processes; the tensor itself where there is one process."""
        return tensor if self.world == 1 else self.sum(tensor).div_(self.world)

    def same(self, model: AnyModule) -> AnyModule:
        """The model, with the weights of the first process in all of them."""
        if self.world > 1:
            with torch.no_grad(), _exchange():
                for tensor in model.state_dict().values():
                    placed = tensor.to(self.device)
                    dist.broadcast(placed, 0)
                    tensor.copy_(placed)
        return model

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            with _exchange():
                dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """A JSON value of the first process, in all of them."""
        if self.world == 1:
            return value
        text = bytearray(json.dumps(value if self.is_first else None).encode())
        size = torch.tensor([len(text)], device=self.device)
        with _exchange():
            dist.broadcast(size, 0)
            content = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
            if self.is_first:
                content.copy_(torch.frombuffer(text, dtype=torch.uint8))
            dist.broadcast(content, 0)
        return json.loads(bytes(content.tolist()))

    def first(self, work: Callable[[], Any], others: Callable[[], Any] = lambda: None) -> Any:
        """Do in the first process what only one may do; its JSON value is everybody's.

        Args:
            work: done by the first process.
            others: done by the rest meanwhile; it must take part where `work` needs them.

        Raises:
            SlsError: that of the first process, in all of them.
        """
        if self.world == 1:
            return work()
        value: Any = None
        error: SlsError | None = None
        try:
            value = work() if self.is_first else others()
        except SlsError as caught:
            error = caught
        told = self.broadcast([value, error and [error.what, error.where, error.fix]])
        if error:
            raise error
        if told[1]:
            raise SlsError(*told[1])
        return told[0]

    def state(self) -> dict[str, Any]:
        """State of the fp16 loss scale as JSON values; empty in other precisions."""
        return self._fabric.strategy.precision.state_dict() if self._fabric else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        if self._fabric:
            self._fabric.strategy.precision.load_state_dict(state)


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        fix = "Its own error stands above; the same command goes on from the last checkpoint."
        raise SlsError("another process of the training has ended", "", fix) from error
