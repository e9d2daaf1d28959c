"""More real text that is on every machine: what Python's parser knows of the standard library's sources. No download.

`described` pairs functions with their docstrings. `trees` pairs statements with their syntax trees, as `ast` gives them: a language
with names that are to be copied and a grammar that is to be learnt. `named` has the tokens of logical lines and of each name what
it stands for, as scopes and imports of its module say: often it shows in the line, and often only in how such things are called.

    >>> trees()[0]
    ('self . x = len ( y )', 'assign attribute self x call len y ;')
"""

import ast
import builtins
import io
import keyword
import re
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from wellfit.data.stdlib import sources

SHORTEST, LONGEST = 3, 16  # tokens of a statement that is to be parsed
LONGEST_LINE = 60  # tokens of a line whose names are to be told apart
MOST_LINES = 12_000
NAMES = ("attribute", "builtin", "class", "function", "module", "parameter", "variable")
SHORTEST_TEXT, LONGEST_TEXT, MOST_WORDS = 20, 300, 40  # characters of a docstring, words of a function
PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
LEFT_OUT = ("test", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "encodings/", "pydoc_data")
QUIET = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)


def described() -> list[tuple[str, str]]:
    """(the words in a function's code, the first paragraph of its docstring) of all modules, each docstring once.

    Words are as people would say them: `get_lineBuffer` is "get line buffer".
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for path in sorted([*root.glob("*.py"), *root.glob("*/*.py"), *root.glob("*/*/*.py")]):
        if any(part in path.relative_to(root).as_posix() for part in LEFT_OUT):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):  # what is not UTF-8 is a ValueError
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            told = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if not SHORTEST_TEXT <= len(told) <= LONGEST_TEXT:
                continue
            names = [node.name, *(one.arg for one in node.args.args if one.arg != "self")]
            for statement in node.body[1:]:
                for part in ast.walk(statement):
                    names += [getattr(part, field) for field in ("id", "attr") if hasattr(part, field)]
            words = [word.lower() for name in dict.fromkeys(names) for word in PARTS.findall(name)]
            found.setdefault(told, " ".join(words[:MOST_WORDS]))
    return [(words, told) for told, words in found.items() if words]


def trees() -> list[tuple[str, str]]:
    """(statement, its tree in prefix notation) of one-line statements without strings, each statement once."""
    found: dict[str, str] = {}
    for _, text in sources():
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        lines = text.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.Assign | ast.AugAssign | ast.Return | ast.Expr | ast.Delete):
                continue
            if node.lineno != node.end_lineno or not lines[node.lineno - 1].isascii():
                continue
            words = _words(lines[node.lineno - 1][node.col_offset : node.end_col_offset])
            plain = all(not isinstance(part, ast.Constant | ast.JoinedStr) or _short(part) for part in ast.walk(node))
            if SHORTEST <= len(words) <= LONGEST and plain:
                found.setdefault(" ".join(words), " ".join(_prefix(node)))
    return list(found.items())


def _short(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float | None)


def _words(text: str) -> list[str]:
    try:
        return [token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.string.strip()]
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return []


def _prefix(node: ast.AST) -> Iterator[str]:
    """The kind of a node, then its parts; a semicolon ends one whose number of parts varies."""
    if isinstance(node, ast.Name):
        yield node.id
        return
    if isinstance(node, ast.Constant):
        yield repr(node.value)
        return
    if not isinstance(node, ast.Expr):
        yield type(node).__name__.lower()
    varies = False
    for name, value in ast.iter_fields(node):
        if name == "ctx" or value is None:
            continue
        if isinstance(value, list):
            varies = varies or not isinstance(node, ast.Assign)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _prefix(part)
            elif isinstance(part, str):
                yield part
    if varies:
        yield ";"


def named() -> list[tuple[list[str], list[str]]]:
    """(tokens, tags) of logical lines with at least one name, each line once; what is no name has the tag "O"."""
    found: dict[tuple[str, ...], list[str]] = {}
    for _, text in sources():
        try:
            if not text.isascii():  # the parser counts bytes, the tokenizer characters
                continue
            kinds = _kinds(ast.parse(text))
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (SyntaxError, tokenize.TokenError):
            continue
        for line in _lines(tokens):
            words = tuple(_shown(token) for token in line)
            tags = [_tag(token, before, kinds) for token, before in zip(line, [None, *line], strict=False)]
            if 2 < len(words) <= LONGEST_LINE and any(tag != "O" for tag in tags):
                found.setdefault(words, tags)
    step = max(1, len(found) // MOST_LINES)  # evenly from all modules
    return [(list(words), tags) for words, tags in list(found.items())[::step][:MOST_LINES]]


def _lines(tokens: list[tokenize.TokenInfo]) -> Iterator[list[tokenize.TokenInfo]]:
    line: list[tokenize.TokenInfo] = []
    for token in tokens:
        if token.type == tokenize.NEWLINE:
            yield line
            line = []
        elif token.type not in QUIET:
            line.append(token)


def _shown(token: tokenize.TokenInfo) -> str:
    """Strings and numbers are all alike here."""
    return {tokenize.STRING: "STRING", tokenize.NUMBER: "NUMBER"}.get(token.type, token.string)


Places = dict[tuple[int, int], str]  # (line, column) -> what the name there stands for


def _tag(token: tokenize.TokenInfo, before: tokenize.TokenInfo | None, kinds: Places) -> str:
    if token.type != tokenize.NAME or keyword.iskeyword(token.string):
        return "O"
    if before is not None and before.string in ("def", "class"):
        return "function" if before.string == "def" else "class"
    if before is not None and before.string == ".":
        return kinds.get(token.start, "attribute")
    return kinds.get(token.start, "O")


def _kinds(tree: ast.Module) -> Places:
    """What each name stands for, by the innermost parameters, then the module's own names, then Python's."""
    own: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            own |= {(alias.asname or alias.name).split(".")[0]: "module" for alias in node.names}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            own[statement.name] = "function"
        elif isinstance(statement, ast.ClassDef):
            own[statement.name] = "class"
    found: Places = {}

    def visit(node: ast.AST, parameters: frozenset[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            given = node.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            arguments += [one for one in (given.vararg, given.kwarg) if one is not None]
            found.update({(one.lineno, one.col_offset): "parameter" for one in arguments})
            parameters = parameters | {one.arg for one in arguments}
        elif isinstance(node, ast.Name):
            kind = "parameter" if node.id in parameters else own.get(node.id)
            found[node.lineno, node.col_offset] = kind or ("builtin" if hasattr(builtins, node.id) else "variable")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.lineno, alias.col_offset] = "module"
        elif isinstance(node, ast.keyword) and node.arg is not None:
            found[node.lineno, node.col_offset] = "parameter"
        for child in ast.iter_child_nodes(node):
            visit(child, parameters)

    visit(tree, frozenset())
    return found
