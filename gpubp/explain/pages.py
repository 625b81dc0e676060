"""What both pages share: the frame, the words of a language, and what makes a step of many show alone."""

from __future__ import annotations

from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gpubp.explain.catalogue import Catalogue
from gpubp.report.page import finite, render

TEMPLATES = Path(__file__).with_name("templates")


def page(template: str, texts: Catalogue, command: str, *, title: str, data: Any, **values: Any) -> str:
    """Return a page as HTML: complete in itself, and readable without JavaScript.

    Args:
        template: a file of this package's templates.
        texts: of the page's language.
        command: the command line that made it.
        title: of the page.
        data: all its numbers, for programs.
        values: what else the template names.
    """
    return render(
        template,
        TEMPLATES,
        texts=texts,
        command=command,
        title=title,
        data=finite(data),
        version=metadata.version("gpubp"),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        **values,
    )
