"""Files of the repository that nothing imports: workflows, hooks, templates and the changelog."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import clear_hug_hf


REPOSITORY = Path(__file__).resolve().parents[1]
GITHUB = REPOSITORY / ".github"
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_when_ci_runs_then_its_commands_are_targets_of_the_makefile() -> None:
    (job,) = _read(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    matrix = job["strategy"]["matrix"]
    targets = {
        target for cell in [*matrix["include"], {"target": matrix["target"][0]}] for target in cell["target"].split()
    }
    local = set(
        re.findall(r"^make ([a-z-]+)$", (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert targets <= TARGETS
    assert targets - {"test-lowest"} == local
    classifiers = re.findall(r"Python :: (3\.\d+)\"", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert matrix["python"] == classifiers


@pytest.mark.parametrize("name", ["ci", "publish"])
def test_when_a_workflow_runs_then_it_has_few_rights_and_no_secrets(name: str) -> None:
    path = GITHUB / "workflows" / f"{name}.yml"
    workflow = _read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text(encoding="utf-8")
    rights = {job: content["permissions"] for job, content in workflow["jobs"].items() if "permissions" in content}
    assert rights == ({"publish": {"id-token": "write"}} if name == "publish" else {})


def test_when_a_hook_formats_then_its_version_is_the_one_of_the_tests() -> None:
    hooks = _read(REPOSITORY / ".pre-commit-config.yaml")["repos"]
    (revision,) = [hook["rev"] for hook in hooks if hook["repo"].endswith("/ruff-pre-commit")]
    assert f"\nruff=={revision.removeprefix('v')}\n" in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")


def test_when_an_issue_is_written_then_its_form_is_complete() -> None:
    assert _read(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["contact_links"]
    for name in ("bug", "feature"):
        form = _read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
        assert {"name", "description", "labels", "body"} == form.keys()
        identifiers = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(identifiers) == len(set(identifiers))


def test_when_a_version_is_cited_then_the_changelog_has_its_date() -> None:
    citation = _read(REPOSITORY / "CITATION.cff")
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert versions[0] == (clear_hug_hf.__version__, str(citation["date-released"]))
    assert changelog.index("## [Unreleased]") < changelog.index("## [0.1.0]")
