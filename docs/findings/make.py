"""Writes the page of each finding from the doctor's catalogue, and the index.

    python docs/findings/make.py

An example of each comes from the clinic (`bench/clinic/clinic.py --examples docs/findings/examples.yaml`).
"""

from pathlib import Path

import yaml

from wellfit.doctor.finding import catalogue
from wellfit.trials.remedies import about

HERE = Path(__file__).parent


def main() -> None:
    path = HERE / "examples.yaml"
    examples = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    index = ["# What the doctor can find\n", "Ids are stable: the command line, the JSON and the report use them.\n"]
    family = ""
    for kind in catalogue().values():
        if kind.family != family:
            family = kind.family
            index.append(f"\n## {family.capitalize()}\n")
        index.append(f"- [`{kind.id}`]({kind.id}.md) ({kind.severity}): {kind.what}")
        parts = [
            f"# `{kind.id}`\n",
            f"*{kind.severity}, {kind.family}*\n",
            kind.what + "\n",
            "## How it is recognised\n",
        ]
        parts += [kind.recognised + "\n", "## What to do\n"]
        for number, remedy in enumerate(kind.remedies, start=1):
            parts.append(f"{number}. {remedy.words}")
            if remedy.snippet:
                parts.append("\n   ```python\n   " + remedy.snippet.replace("\n", "\n   ") + "\n   ```\n")
            if remedy.change:
                parts.append("\n   As changes of a recipe, which `wellfit cure` tries:\n")
                parts += [f"   - `{name}`: {about(name)}" for name in remedy.change]
                parts.append("")
        if kind.id in examples:
            one = examples[kind.id]
            parts += ["\n## An example\n", f"`bench/clinic`, program `{one['program']}`, fault `{one['fault']}`:\n"]
            parts += [f"> step {one['step']}: {one['says']}\n"]
        (HERE / f"{kind.id}.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    (HERE / "README.md").write_text("\n".join(index) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
