"""Real text that is on every machine: the sources of Python's own standard library. No download.

What there is differs a little between versions of Python, so the fingerprint kept with a run tells which it was.

    >>> len(sources()) > 100
    True
"""

import ast
import functools
import io
import sysconfig
import tokenize
from pathlib import Path

KINDS = ("code", "comment", "docstring")
MOST_BYTES = 1_500_000  # of source, which is a few minutes of work for a small model
SHORTEST, LONGEST = 20, 400  # characters of a snippet


@functools.cache
def sources() -> tuple[tuple[str, str], ...]:
    """(name, text) of modules of the standard library, by name; tests and what is not UTF-8 are left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found, size = [], 0
    for path in sorted(root.glob("*.py")) + sorted(root.glob("*/*.py")):
        name = path.relative_to(root).as_posix()
        if any(
            part in name
            for part in ("test", "site-packages", "idlelib", "lib2to3", "turtledemo", "encodings/", "pydoc_data")
        ):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if size + len(text) > MOST_BYTES:
            break
        found.append((name, text))
        size += len(text)
    return tuple(found)


def running() -> str:
    """All of it in one text."""
    return "\n\n".join(text for _, text in sources())


def kinds() -> list[tuple[str, str]]:
    """(text, kind) of snippets of 20 to 400 characters without their quotation marks or number signs, each text once."""
    seen: dict[str, str] = {}
    for _, text in sources():
        for one, kind in _snippets(text):
            one = " ".join(one.split())[:LONGEST]
            if len(one) >= SHORTEST:
                seen.setdefault(one, kind)
    smallest = min(sum(kind == k for k in seen.values()) for kind in KINDS)
    counts = dict.fromkeys(KINDS, 0)
    kept = []
    for one, kind in sorted(seen.items()):  # as many of each; the order of the alphabet says nothing about kind
        if counts[kind] < min(smallest, 3000):
            kept.append((one, kind))
            counts[kind] += 1
    return kept


def _snippets(text: str) -> list[tuple[str, str]]:
    """Statements of one line, comments, and the first paragraphs of docstrings."""
    found = []
    try:
        tree = ast.parse(text)
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                found.append((token.string.lstrip("#! "), "comment"))
    except (SyntaxError, tokenize.TokenError):
        return []
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc:
                found.append((doc.split("\n\n")[0], "docstring"))
        if (
            isinstance(node, ast.Assign | ast.Return | ast.Expr | ast.Raise | ast.AugAssign)
            and node.lineno == node.end_lineno
        ):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            found.append((lines[node.lineno - 1][node.col_offset : node.end_col_offset], "code"))
    return found


def documented() -> list[tuple[str, str]]:
    """(signature, first sentence of its docstring) of public functions, each sentence once."""
    seen: dict[str, str] = {}
    for _, text in sources():
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                doc = ast.get_docstring(node)
                if doc:
                    sentence = " ".join(doc.split("\n\n")[0].split())
                    if SHORTEST <= len(sentence) <= LONGEST:
                        arguments = ", ".join(arg.arg for arg in node.args.args if arg.arg != "self")
                        seen.setdefault(sentence, f"{node.name}({arguments})")
    return [(signature, sentence) for sentence, signature in seen.items()]
