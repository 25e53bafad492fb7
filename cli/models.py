"""`sls-deploy models`."""

from __future__ import annotations

from sls_deploy.cli import options as o


def models(json: o.Json = False) -> None:
    """
    \b
    sls-deploy models
    sls-deploy models --json

    List the networks whose weights are recognised, with their papers.
    """
    from sls_deploy.cli.output import print_json, print_table
    from sls_deploy.models.registry import REGISTRY

    papers = {name: REGISTRY.get(name).paper for name in REGISTRY.names()}
    if json:
        print_json(papers)
    else:
        print_table("networks", ["name", "paper"], [list(item) for item in papers.items()])
