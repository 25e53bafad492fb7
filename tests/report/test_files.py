from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from sls_deploy.errors import SlsError
from sls_deploy.files import write_json
from sls_deploy.report.files import json_schema, read_report, write_comparison, write_report
from sls_deploy.report.schema import RunReport
from sls_deploy.run import Run

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"


def test_report_is_read_back_as_it_was_written(small: RunReport, tmp_path: Path) -> None:
    assert read_report(write_json(tmp_path / "report.json", asdict(small))) == small


def test_schema_in_the_docs_is_that_of_the_code() -> None:
    """If not: `write_json(Path("docs/report.schema.json"), json_schema())` writes it anew."""
    assert json.loads(SCHEMA.read_text()) == json_schema()


def test_schema_names_every_field_of_a_real_report(small: RunReport) -> None:
    schema = json_schema()

    def walk(value: object, form: dict[str, object]) -> None:
        """Every key of every object is a property, and nothing that is required is missing."""
        while "$ref" in form:
            form = schema["$defs"][str(form["$ref"]).rpartition("/")[2]]
        if "anyOf" in form:
            options = [one for one in form["anyOf"] if (one == {"type": "null"}) == (value is None)]
            form = options[0]
            return walk(value, form)
        if isinstance(value, dict) and "properties" in form:
            assert value.keys() == form["properties"].keys()
            assert form["additionalProperties"] is False
            for key, item in value.items():
                walk(item, form["properties"][key])
        elif isinstance(value, list) and isinstance(form.get("items"), dict):
            for item in value:
                walk(item, form["items"])
        return None

    walk(json.loads(json.dumps(asdict(small))), schema)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"extra": 1}, "extra: Unexpected keyword argument"),
        ({"version": 1}, "version: Input should be 2"),
        ({"budgets": [{}]}, r"budgets\.0\.budget"),
    ],
)
def test_report_of_another_form_is_refused(
    changes: dict[str, object], complaint: str, small: RunReport, tmp_path: Path
) -> None:
    path = write_json(tmp_path / "report.json", {**asdict(small), **changes})
    with pytest.raises(SlsError, match=rf"is no report of this version \({complaint}"):
        read_report(path)


def test_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"report\.json: cannot be read"):
        read_report(tmp_path / "report.json")


def test_report_and_page_lie_in_the_run(run: Run) -> None:
    written = write_report(run)
    assert read_report(written.file) == written.report
    assert written.page.read_text().startswith("<!doctype html>")
    assert {written.file, written.page} == set((run.path / "validation").glob("report.*"))


def test_figures_whose_crops_are_missing_are_left_out(run: Run) -> None:
    next((run.path / "validation" / "b0.50").rglob("*.png")).unlink()
    report = write_report(run).report
    assert report.budgets[1].validations == ()
    assert "the validation of budget 0.5 on pictures" in report.verdict


def test_picture_outside_of_the_run_is_refused(run: Run) -> None:
    (path,) = (run.path / "validation" / "b0.50").glob("*.json")
    found = json.loads(path.read_text())
    (run.path.parent / "secret.png").write_bytes(b"secret")
    found["crops"][0]["files"]["input"] = "../secret.png"
    write_json(path, found)
    run.record(f"validate/b0.50/{path.stem}", {}, {}, [path], seconds=1)
    with pytest.raises(SlsError, match=r"secret\.png: a picture of the report is missing"):
        write_report(run)


def test_comparison_is_a_page_of_its_own(made: Path, tmp_path: Path) -> None:
    small, filled = (Run.open(made / "runs" / name) for name in ("small", "filled"))
    found = write_comparison(small, filled, tmp_path / "comparison.html")
    assert found.same_network
    assert (tmp_path / "comparison.html").read_text().startswith("<!doctype html>")
