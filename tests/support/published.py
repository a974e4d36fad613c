"""What a published folder holds of the package's code."""

import ast
from pathlib import Path


PACKAGE = Path(__file__).resolve().parents[2] / "clear_hug_hf"


def published_files(*paths: str) -> set[str]:
    """Names of files of the package and of all that they import from their folders, down to the last."""
    found: dict[Path, None] = {}
    waiting = [PACKAGE / path for path in paths]
    while waiting:
        found[path := waiting.pop()] = None
        modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if getattr(node, "level", 0) == 1}
        waiting += {path.with_name(f"{module}.py") for module in modules} - found.keys()
    return {path.name for path in found}
