"""Write the prefect.yaml of a recipe: every deployment of its lifecycle, and the automation that retrains it."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from trimtab_infra.errors import UserError

__all__ = ["AlreadyThere", "render", "write"]


class AlreadyThere(UserError):
    """A prefect.yaml that would be overwritten."""


def render(reference: str, name: str) -> str:
    """The file's text for the recipe ``module:attribute`` of this name."""
    templates = Environment(
        loader=PackageLoader("trimtab_infra"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return templates.get_template("prefect.yaml.j2").render(reference=reference, name=name)


def write(project: Path, reference: str, name: str) -> Path:
    """Write the file into a project.

    Raises:
        AlreadyThere: the project has one.
    """
    file = project / "prefect.yaml"
    if file.exists():
        raise AlreadyThere(f"{file} is there already; remove it, or add the deployments of {reference} to it by hand")
    file.write_text(render(reference, name), encoding="utf-8")
    return file
