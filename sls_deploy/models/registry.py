"""The networks that are known."""

from __future__ import annotations

from sls_deploy.errors import SlsError
from sls_deploy.models import carn, dmphn, edsr, rfdn, rlfn, spandrel_nets, srn, unet
from sls_deploy.models.architecture import Architecture, Description, StateDict

__all__ = ["REGISTRY", "Architecture", "Description", "Registry", "StateDict"]


class Registry:
    """Architectures by name, in the order in which they were added."""

    def __init__(self) -> None:
        self._architectures: dict[str, Architecture] = {}

    def add(self, architecture: Architecture) -> None:
        """Make an architecture known.

        Raises:
            SlsError: its name is taken or is no name; the registry is left unchanged.
        """
        name = architecture.name
        if not name.isidentifier() or name != name.lower() or name == "auto":
            fix = "Use lower-case letters, digits and underscores, and not 'auto'."
            raise SlsError(f"{name!r} is no name for a network", fix=fix)
        if name in self._architectures:
            raise SlsError(f"a network named {name} is known already", fix="Use another name.")
        self._architectures[name] = architecture

    def names(self) -> tuple[str, ...]:
        """Names of all architectures."""
        return tuple(self._architectures)

    def get(self, name: str) -> Architecture:
        """The architecture of a name.

        Raises:
            SlsError: no such name; lists those known.
        """
        if name not in self._architectures:
            fix = f"Known are {', '.join(self.names())}, or auto."
            raise SlsError(f"no network is named {name!r}", fix=fix)
        return self._architectures[name]

    def recognise(self, state: StateDict, scale: int | None = None) -> Description:
        """Describe the network that a state dict belongs to.

        Args:
            state: the whole state dict.
            scale: the scale wanted; None for the largest there is.

        Raises:
            SlsError: no architecture recognises it, or the scale is not there.
        """
        for architecture in self._architectures.values():
            description = architecture.recognise(state, scale)
            if description:
                return description
        first = ", ".join(list(state)[:3])
        fix = f"Known are {', '.join(self.names())}."
        if not spandrel_nets.is_installed():
            fix += f" Many more are after {spandrel_nets.INSTALL}."
        raise SlsError(f"is of no known network (keys such as {first})", fix=fix)


REGISTRY = Registry()
"""The networks that sls-deploy knows."""

for _architecture in (
    edsr.ARCHITECTURE,
    carn.ARCHITECTURE,
    rfdn.ARCHITECTURE,
    rlfn.ARCHITECTURE,
    dmphn.ARCHITECTURE,
    srn.ARCHITECTURE,
    unet.ARCHITECTURE,
    spandrel_nets.ARCHITECTURE,  # the last: it takes all that it knows
):
    REGISTRY.add(_architecture)
