"""Writes into the file what it was made from."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir


class Metadata(ir.passes.InPlacePass):
    """Set the model's metadata, replacing what is there.

    Requires: nothing.
    Ensures: `model.metadata_props` holds exactly the given entries, each key after 'sls_deploy.'.

    Args:
        entries: facts about the file, such as version, budget and pattern, as text.
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        super().__init__()
        self._entries = {f"sls_deploy.{key}": entries[key] for key in sorted(entries)}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Write the entries in place."""
        if model.metadata_props == self._entries:
            return ir.passes.PassResult(model, modified=False)
        model.metadata_props.clear()
        model.metadata_props.update(self._entries)
        return ir.passes.PassResult(model, modified=True)
