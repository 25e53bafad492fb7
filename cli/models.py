"""`sls-deploy models`."""

from __future__ import annotations

from sls_deploy.cli import options as o


def models(json: o.Json = False) -> None:
    """
    \b
    sls-deploy models
    sls-deploy models --json

    List the networks whose weights are recognised, with their default options: parameters,
    multiply-accumulates for a restored picture of 720x1280, and the sizes that they take.
    """
    from sls_deploy.cli.output import print_json, print_line, print_table
    from sls_deploy.search.inspect import known_networks

    known = known_networks()
    if json:
        print_json(known)
        return
    rows = [
        [
            item.name,
            item.paper,
            f"x{item.scale}",
            f"{item.parameters:,}",
            f"{item.macs / 1e9:.1f}",
            f"{item.least_side}",
            f"{item.multiple}",
        ]
        for item in known
    ]
    columns = ["name", "paper", "scale", "parameters", "GMACs", "least side", "multiple of"]
    print_table("networks, GMACs for a restored picture of 720x1280", columns, rows, left=(1,))
    print_line(
        "your own: --model path/to/file.py:factory; whatever the spandrel library knows: "
        "pip install 'sls-deploy[spandrel]'"
    )
