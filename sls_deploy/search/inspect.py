"""What a network is made of: its layers, what they cost, and what can be done with them."""

from __future__ import annotations

from dataclasses import dataclass

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, fresh_model, load_model
from sls_deploy.models.registry import REGISTRY
from sls_deploy.search.layers import Choice, Layer, list_layers
from sls_deploy.search.trace import Trace, trace
from sls_deploy.sizes import padded_side
from sls_deploy.sparsity.pattern import Pattern

_HD = (720, 1280)


@dataclass(frozen=True)
class Inspection:
    """A network, layer by layer."""

    description: Description
    """What it is."""
    parameters: int
    """Number of weights."""
    size: tuple[int, int]
    """Height and width in pixels of the picture that costs are counted on."""
    layers: tuple[Layer, ...]
    """Layers with weights, in the order of first use."""
    notes: tuple[str, ...]
    """What is to be known of how it was looked at."""

    @property
    def macs(self) -> float:
        """Multiply-accumulates for one picture of that size, over all layers with weights."""
        return self.of_picture(sum(layer.macs for layer in self.layers))

    def of_picture(self, macs_per_pixel: float) -> float:
        """A cost for one pixel as one for a picture."""
        return macs_per_pixel * self.size[0] * self.size[1]

    def share(self, layer: Layer) -> float:
        """What a layer has of the multiply-accumulates, 0..1."""
        return layer.macs / (sum(item.macs for item in self.layers) or 1)

    @property
    def prunable(self) -> float:
        """What all layers that may be pruned have of the multiply-accumulates, 0..1."""
        return sum(self.share(layer) for layer in self.layers if layer.prunable)

    @property
    def eligible(self) -> float:
        """What those of them have that Ampere's sparse tensor cores can take, 0..1."""
        return sum(
            self.share(layer)
            for layer in self.layers
            if layer.prunable and not layer.why_not_eligible
        )


def inspect_network(
    wanted: ModelConfig,
    size: tuple[int, int],
    pattern: str = "2:4",
    choice: Choice | None = None,
) -> Inspection:
    """List the layers of a network.

    Args:
        wanted: the network; where it names no weights, the network has fresh ones.
        size: height and width of a picture in pixels; rounded up to what the network takes.
        pattern: what is to be searched for: '2:4' or 'n:M'.
        choice: what the user says of single layers.

    Raises:
        SlsError: no such network, or weights that cannot be used.
    """
    if wanted.weights is not None:
        model = load_model(wanted.weights, wanted)
    elif wanted.name == "auto":
        raise SlsError("no network was named", "--model", "Give its name, or --weights.")
    else:
        model = fresh_model(wanted)
    about = model.description
    height, width = (padded_side(side, about.least_side, about.multiple) for side in size)
    notes = []
    graph: Trace | tuple[int, int]
    try:
        graph = trace(model, (height, width), only_looked_at=True)
    except SlsError as error:
        height = width = _small_side(model)
        graph = (height, width)
        notes.append(
            f"{error.where} {error.what}: layers are found by hooks on modules and costs counted "
            f"on {height}x{width}; only --method sls can search it, and no graph can be exported"
        )
    return Inspection(
        description=about,
        parameters=sum(value.numel() for value in model.network.parameters()),
        size=(height, width),
        layers=tuple(list_layers(model, Pattern.parse(pattern), graph, choice)),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class Known:
    """A network of the registry with its default options."""

    name: str
    """Name in the registry."""
    paper: str
    """Citation in one line."""
    scale: int
    """Output pixels for one input pixel, along each side."""
    parameters: int
    """Number of weights."""
    macs: float
    """Multiply-accumulates for one picture that is 720x1280 pixels once restored."""
    least_side: int
    """Smallest height and width of an input, in pixels."""
    multiple: int
    """Number of pixels that they must be multiples of."""


def known_networks() -> tuple[Known, ...]:
    """The networks of the registry that have weights of their own making."""
    found = []
    for architecture in map(REGISTRY.get, REGISTRY.names()):
        if not architecture.light:
            continue
        model = fresh_model(ModelConfig(name=architecture.name)).to("meta").eval()
        about = model.description
        height, width = (side // about.scale for side in _HD)
        layers = list_layers(model, Pattern.parse("2:4"), (height, width))
        found.append(
            Known(
                name=architecture.name,
                paper=architecture.paper,
                scale=about.scale,
                parameters=sum(value.numel() for value in model.network.parameters()),
                macs=sum(layer.macs for layer in layers) * height * width,
                least_side=about.least_side,
                multiple=about.multiple,
            )
        )
    return tuple(found)


def _small_side(model: RestorationModel) -> int:
    about = model.description
    return padded_side(64, about.least_side, about.multiple)
