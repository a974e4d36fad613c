"""
Docstrings in the style of Transformers as Markdown, for the documentation site (`extensions` in `mkdocs.yml`).

Sections become lists, and names in brackets, [`EcgModelOutput`], become links if the site documents them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Warns|Example):\n((?:\n|[ ]{4}.*\n?)*)", re.MULTILINE)
NAMES = re.compile(r"^(\**\w+(?:, \**\w+)*)(?=[ :])")
REFERENCE = re.compile(r"\[`~?(?:\w+\.)*?((?:[A-Z]\w+\.)?\w+)`\](?![\[(])")


class TransformersDocstrings(griffe.Extension):
    """Rewrites all docstrings of a package once it is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """
        Rewrite them.

        Args:
            pkg (`griffe.Module`): The package.
        """
        documented = list(_objects(pkg))
        paths = {one.name: one.path for one in documented if one.is_class or one.is_function}
        paths |= {f"{one.parent.name}.{one.name}": one.path for one in documented if one.parent is not None}
        for one in documented:
            if one.docstring is not None:
                text = SECTION.sub(_section, one.docstring.value + "\n")
                one.docstring.value = REFERENCE.sub(lambda match: _link(match[1], paths), text)


def _objects(parent: griffe.Object) -> Any:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _section(match: re.Match[str]) -> str:
    """One section: arguments and errors as a list with an item for each line that is not indented."""
    title, body = match[1], re.sub(r"^ {4}", "", match[2], flags=re.MULTILINE).strip("\n")
    if title not in ("Returns", "Yields", "Example"):
        lines = [
            f"    {line}" if line.startswith(" ") else f"- {NAMES.sub(_code, line)}" for line in body.splitlines()
        ]
        body = "\n".join(lines)
    return f"\n**{title}**\n\n{body}\n\n"


def _code(match: re.Match[str]) -> str:
    return ", ".join(f"`{name}`" for name in match[1].split(", "))


def _link(name: str, paths: dict[str, str]) -> str:
    return f'<autoref identifier="{paths[name]}" optional>`{name}`</autoref>' if name in paths else f"`{name}`"
