"""What the project's HTML pages have in common: one style for light and dark, colours, no outside references."""

from typing import Any

import jinja2

SHOWN_FROM = 0.5
"""A class has a row of its own in the pictures of a clip if something gives it this probability or more."""
TRUTH_COLOUR = (46, 158, 107)
TEACHER_COLOUR = (123, 97, 209)


def rendered(template: str, **content: Any) -> str:
    """The page that a file of `templates/` makes of `content`, all of it escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sed_distill", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(**content)
