"""What all pages have in common: the template that lays them out, figures as it wants them, and the writing.

Every text that comes from data or from a user is escaped: by the template's autoescape, inside the figures by `curves.draw`, and in
what the script reads by `charts.embedded`.

    >>> written(folder / "report.html", rendered("page.html", live=True, numbers=numbers, ...), "wellfit report runs/x")
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wellfit.report import charts, curves, words
from wellfit.report.curves import Figure
from wellfit.whole import write

WIDE, NARROW = (720, 300), (360, 210)  # sizes of a figure: across the page on a desk; beside another, or on a phone


def rendered(template: str, *, live: bool, payload: Mapping[str, Any], **told: Any) -> str:
    """The template as HTML. `live`: with the script, which draws what `payload` holds."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=PackageLoader("wellfit", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    templates.filters["coded"] = _coded
    script = {
        "payload": Markup(charts.embedded(payload)),
        "packed": charts.vega(),
        "script": Markup(charts.script("charts.js", "page.js")),
    }
    style = Markup(charts.script("style.css"))
    return templates.get_template(template).render(live=live, style=style, **(script if live else {}), **told)


def written(path: Path, text: str, again: str) -> Path:
    """Writes a page, whole or not at all, and returns its path. Raises RunError, with the command that tries `again`."""
    write(path, text, f"Make room or mend the permissions there, then `{again}`.")
    return path


def drawn(figures: Sequence[Figure], name: str = "figure", whole: bool = True) -> list[dict[str, Any]]:
    """Figures as the template wants them. With `whole`, the first is drawn across the page, for wide and for narrow ones."""
    return [_drawn(figure, f"{name}-{i}", whole and i == 0) for i, figure in enumerate(figures)]


def _drawn(figure: Figure, name: str, whole: bool) -> dict[str, Any]:
    from markupsafe import Markup

    missing = curves.gaps(figure)
    values = [value for line in figure.lines for _, value in line.points if math.isfinite(value)]
    remarks = []
    if missing:
        remarks.append(f"{words.count(missing, 'value is', 'values are')} not finite and shown as a gap.")
    if figure.may_be_log and values and curves.is_wide(values):
        remarks.append("Logarithmic scale.")
    sizes = {"narrow": NARROW, "wide": WIDE} if whole else {"only": NARROW}
    return {
        "title": figure.title,
        "wide": whole,
        "legend": [(line.label, line.look) for line in figure.lines] if len(figure.lines) > 1 else [],
        "remarks": " ".join(remarks),
        "plots": [(size, Markup(curves.draw(figure, *sizes[size], name=f"{name}-{size}"))) for size in sizes],
    }


def _coded(text: str) -> Any:
    """The text, escaped, with what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner is only a character
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))
