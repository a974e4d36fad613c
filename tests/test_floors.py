"""The package has layers: imports point down, and the published folders load without the package."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clear_hug_hf.objectives import shared_objectives
from clear_hug_hf.systems import SYSTEMS


PACKAGE = Path(__file__).resolve().parents[1] / "clear_hug_hf"
# What a room may import of the package; itself always.
ALLOWED = {
    "modeling": set(),
    "processing": set(),
    "systems": set(),
    "objectives": {"processing", "systems"},
    "utils": {"processing"},
    "data": {"processing", "modeling", "systems", "utils"},
    "inference": {"processing", "modeling", "data", "systems", "utils"},
    "evaluation": {"processing", "modeling", "data", "inference", "systems", "utils"},
    "plotting": {"processing", "modeling", "data", "evaluation", "systems", "utils"},
    "training": {"processing", "modeling", "data", "evaluation", "inference", "objectives", "systems", "utils"},
    "hub": {"processing", "modeling", "data", "evaluation", "inference", "objectives", "systems", "training", "utils"},
    "workflows": {
        *("processing", "modeling", "data", "evaluation", "hub", "inference"),
        *("objectives", "plotting", "systems", "training", "utils"),
    },
    "cli": {"processing", "data", "objectives", "systems", "training", "utils", "workflows"},
}
# What the files of a published folder may import at all, beside the standard library and each other.
LIBRARIES = {
    "modeling": {"torch", "transformers", "huggingface_hub"},
    "processing": {"numpy", "scipy", "transformers"},
}
# Published beside the weights of a classifier, with each other.
PIPELINES = [PACKAGE / "inference" / f"{name}.py" for name in ("classifier_outputs", "pipeline_ecg_classification")]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names of the modules that a file imports, and whether at its top level outside a `try`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    parts = ("clear_hug_hf", *path.relative_to(PACKAGE).parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield module, id(node) in top
            if node.level and not node.module:
                for alias in node.names:
                    yield f"{module}.{alias.name}", id(node) in top


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_when_a_file_imports_from_the_package_then_it_points_down(path: Path) -> None:
    room = _room(path)
    for module, _ in _imports(path):
        if module == "clear_hug_hf.__version__":
            continue
        if module.startswith("clear_hug_hf.") and room in ALLOWED:
            target = module.split(".")[1]
            assert target == room or target in ALLOWED[room], f"{room} imports {module}"
        assert module != "clear_hug_hf" or room not in LIBRARIES, f"{room} imports the package itself"


@pytest.mark.parametrize("folder", sorted(LIBRARIES))
def test_when_a_folder_is_published_then_its_files_need_nothing_else(folder: str) -> None:
    for path in sorted((PACKAGE / folder).glob("*.py")):
        for module, at_top in _imports(path):
            library = module.split(".")[0]
            if library == "clear_hug_hf":
                assert module.startswith(f"clear_hug_hf.{folder}"), f"{path.name} imports {module}"
            elif at_top:
                assert library in LIBRARIES[folder] | sys.stdlib_module_names, f"{path.name} needs {library}"


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_when_a_pipeline_is_published_then_its_file_needs_no_other(path: Path) -> None:
    for module, at_top in _imports(path):
        library = module.split(".")[0]
        of_pipeline = {f"clear_hug_hf.inference.{one.stem}" for one in PIPELINES}
        assert library != "clear_hug_hf" or module in of_pipeline, f"{path.name} imports {module}"
        if module in of_pipeline:
            continue
        assert not at_top or library in {"numpy", "transformers"} | sys.stdlib_module_names, f"{path.name}: {library}"


OWN = {name for name in SYSTEMS if (PACKAGE / "systems" / f"{name}.py").is_file()}
# Where a system may be named: in files of systems, one of which may build on another.
OWN_FILES = {
    PACKAGE / folder / f"{kind}{name}.py"
    for folder, kinds in {
        "systems": ("",),
        "modeling": ("configuration_", "modeling_", "losses_"),
        "processing": ("feature_extraction_", "image_processing_"),
        "hub": ("convert_",),
    }.items()
    for kind in kinds
    for name in OWN
}


def _names_of(name: str) -> re.Pattern[str]:
    """How a system is named: by its type, its classes, its title, or a part of that in prose."""
    system = SYSTEMS[name]
    classes = system.classes["AutoConfig"].split(":")[1].removesuffix("Config")
    # An objective that systems share may have the name of one that a part of the title repeats.
    shared = {objective.upper() for objective in shared_objectives()}
    parts = {word for word in re.findall(r"[A-Z]{3,}", system.title) if word not in {"ECG", *shared}}
    parts |= {word.lower() for word in parts} - {"clear"}  # an English word, too
    words = [name, re.escape(system.title), *parts]
    # The package, its command and its cache bear the name of a system: clear_hug_hf, clear-hug, clear_hug_features.
    return re.compile(rf"{classes}|(?<![a-z-])({'|'.join(words)})(?![a-z]|_hf|_features)")


@pytest.mark.parametrize("name", sorted(OWN))
def test_no_system_is_named_outside_its_files(name: str) -> None:
    named, scripts = _names_of(name), PACKAGE.parent / "scripts"
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{number}: {line.strip()}"
        for path in sorted({*PACKAGE.rglob("*.py"), *scripts.glob("*.py"), *scripts.glob("launch/*")} - OWN_FILES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if named.search(line) and not (path.parent.name == "objectives" and line.strip() == f'backbone="{name}",')
    ]
    assert not found, f"{name} is named outside its files:\n" + "\n".join(found)


def test_when_the_root_links_are_followed_then_they_lead_into_the_package() -> None:
    for name in LIBRARIES:
        assert (PACKAGE.parent / name).resolve() == PACKAGE / name
    assert (PACKAGE / "model_cards").resolve() == PACKAGE.parent / "model_cards", "wheels include the shipped weights"
    template = PACKAGE.parent / "model_cards" / "template.md"
    assert template.resolve() == PACKAGE / "hub" / "model_card_template.md"
