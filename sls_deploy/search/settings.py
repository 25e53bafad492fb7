"""The settings of a search: made whole, and held against those of its run folder."""

from __future__ import annotations

from typing import Any

from sls_deploy.config import WITHOUT_EFFECT, Config
from sls_deploy.config_file import to_toml
from sls_deploy.errors import SlsError
from sls_deploy.files import write_text
from sls_deploy.models.own import absolute, is_own
from sls_deploy.models.registry import Description
from sls_deploy.run import CONFIG, Run


def resolve(config: Config, description: Description) -> Config:
    """Settings with what was recognised filled in and paths that hold from any folder."""
    sections: dict[str, dict[str, Any]] = {
        "model": {
            "name": absolute(own) if is_own(own := config.model.name) else description.name,
            "scale": description.scale,
            "frames": description.frames,
            **(_of_own(description) if is_own(config.model.name) else {}),
        },
        "data": {},
        "search": {},
        "validate_": {},
    }
    for section, name in (
        ("model", "weights"),
        ("data", "photos"),
        ("search", "latency_table"),
        ("validate_", "pictures"),
    ):
        path = getattr(getattr(config, section), name)
        sections[section][name] = path.resolve() if path else None
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=values)
            for name, values in sections.items()
        }
    )


def _of_own(description: Description) -> dict[str, Any]:
    """What the settings must say of a network of the user's own."""
    return {
        "options": description.options,
        "input_range": int(description.input_range),
        "output": description.output,
    }


def claim(run: Run, config: Config) -> Config:
    """Write the settings into the run, with the budgets that it holds already; return them.

    Raises:
        SlsError: the run holds a search with other settings.
    """
    path = run.path / CONFIG
    if path.exists():
        before = run.config
        for section in ("model", "data", "search"):
            old = getattr(before, section).model_dump(exclude={"budgets"})
            new = getattr(config, section).model_dump(exclude={"budgets"})
            for key in old.keys() - WITHOUT_EFFECT:
                if old[key] != new[key]:
                    raise SlsError(
                        f"holds a search with {section}.{key} = {old[key]}, not {new[key]}",
                        str(run.path),
                        "Name another folder with --out.",
                    )
        done = run.budgets("search")
        budgets = sorted({*done, *config.search.budgets}, reverse=True)
        if done and budgets[: len(done)] != done:
            what = f"holds budgets down to {done[-1]:g}; only lower ones can be added"
            raise SlsError(what, str(run.path), "Name another folder with --out.")
        search = config.search.model_copy(update={"budgets": tuple(budgets)})
        config = config.model_copy(update={"search": search})
    write_text(path, to_toml(config))
    return config
