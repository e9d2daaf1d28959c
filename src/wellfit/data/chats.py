"""Conversations and instructions with their answers: read, put into a template, and packed; what is learnt is what the assistant says.

Rows come from .jsonl, .json or .parquet files (the first two packed with gzip or not), in any of the usual forms: `messages` of
{"role", "content"}; `conversations` of {"from", "value"} (ShareGPT); `prompt` and `completion`; `instruction`, perhaps an `input`,
and `output` (Alpaca). A *template* makes one text of a conversation. A pretrained model brings its own, without one there is
a plain one: a line `role:`, what is said, the end mark, and a line break before the next message.

Each answer is what the template puts behind its prompt, and prompt and answer are cut into tokens as they will be when the model
is asked: the prompt first, then what goes on from it. The mark that ends an answer belongs to it and is always learnt; padding is
left out by its place and never by its number. Several conversations share a row of `data.context` tokens (*packing*, by
first-fit decreasing), each as if it were alone there.

    >>> data = Conversations.of([[5, 6, 3], [7, 3]], [[False, True, True], [False, True]], context=8)
    >>> data.batch(torch.tensor([0]))["segments_BT"]
    tensor([[1, 1, 1, 2, 2]])
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellfit import untrusted
from wellfit.data import texts
from wellfit.data.arrays import Loaded, Samples
from wellfit.data.fingerprint import fingerprint
from wellfit.data.pairs import IGNORED, held_out
from wellfit.data.paths import VALID_FOLDERS, existing, expanded
from wellfit.data.texts import padded
from wellfit.data.tokens import END, SPECIAL, Tokens, check_letters, learn
from wellfit.errors import DataError, MissingExtra, RecipeError
from wellfit.models import pretrained
from wellfit.recipe import Data

ENDINGS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
LISTS = ("messages", "conversations")  # columns of whole conversations
ANSWERS = {
    "completion": "prompt",
    "output": "instruction",
    "response": "instruction",
}  # column of answers -> of prompts
BESIDE = ("input", "context")  # what an instruction is about
FORMS = (
    "`messages` (a list of role and content), `conversations` (from and value), `prompt` and `completion`, or `instruction` and "
    "`output`"
)
SHORTEST, LONGEST = 64, 1024  # tokens of a row, where nothing else is said
WHOLE = 0.99  # of the conversations that are to fit into a row
MANY, VOCABULARY = 20_000, (2_000, 8_000)  # conversations, from which on the second vocabulary is learnt
DAY = "26 Jul 2024"  # what a template is told that asks for today; Llama's has it for when there is no clock

Message = dict[str, str]


# ---- samples


@dataclass(frozen=True)
class Conversations(Samples):
    """Rows of one conversation, or of several that are packed together.

    A batch is {"ids_BT": int64 [B, T] padded with 0, "labels": [B, T], the token that follows where it is to be learnt and
    -100 elsewhere}. Packed rows add "segments_BT" [B, T]: 1, 2, ... for the conversations of a row, 0 for padding.
    """

    flat: Tensor  # int32 [M], row after row
    labels: Tensor  # int32 [M]
    segments: Tensor  # int32 [M]
    starts: Tensor  # int64 [N + 1]
    packed: bool

    @classmethod
    def of(
        cls, sequences: Sequence[Sequence[int]], said: Sequence[Sequence[bool]], context: int, packed: bool = True
    ) -> "Conversations":
        """Of tokens and which of them are to be learnt. None may be longer than `context`."""
        sizes = [len(one) for one in sequences]
        rows = packing(sizes, context) if packed else [[i] for i in range(len(sizes))]
        flat: list[int] = []
        labels: list[int] = []
        segments: list[int] = []
        starts = [0]
        for row in rows:
            for number, i in enumerate(row, start=1):
                learnt = [token if told else IGNORED for token, told in zip(sequences[i], said[i], strict=True)]
                flat += sequences[i]
                labels += [
                    *learnt[1:],
                    IGNORED,
                ]  # behind a conversation's last token comes nothing that could be learnt
                segments += [number] * sizes[i]
            starts.append(len(flat))
        told, learnable, numbers = (torch.tensor(one, dtype=torch.int32) for one in (flat, labels, segments))
        return cls(told, learnable, numbers, torch.tensor(starts), packed)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, samples: Tensor) -> "Conversations":
        spans = [torch.arange(int(self.starts[i]), int(self.starts[i + 1])) for i in samples.tolist()]
        places = torch.cat(spans) if spans else torch.zeros(0, dtype=torch.int64)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), self.starts.diff()[samples].cumsum(0)])
        return Conversations(self.flat[places], self.labels[places], self.segments[places], starts, self.packed)

    def batch(self, samples: Tensor, _: int | None = None, /) -> dict[str, Tensor]:
        spans = [slice(int(self.starts[i]), int(self.starts[i + 1])) for i in samples.tolist()]
        made = {
            "ids_BT": padded([self.flat[span] for span in spans]),
            "labels": padded([self.labels[span] for span in spans], IGNORED),
        }
        if self.packed:
            made["segments_BT"] = padded([self.segments[span] for span in spans], 0)
        return made

    def counts(self, symbols: int) -> Tensor:
        """How often each symbol is to be said, int64 [symbols]."""
        return torch.bincount(self.labels[self.labels != IGNORED], minlength=symbols)

    def lengths(self) -> Tensor | None:
        """Packed rows are nearly all of one size."""
        return None if self.packed else self.starts.diff()

    def fingerprint(self) -> str:
        return fingerprint(self.flat, self.labels, self.segments, self.starts)


def packing(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Which of these share a row of `room`: the longest first, each into the first row that has room for it (first-fit
    decreasing, Johnson et al. 1974). A tree of the largest room below each node finds that row in log N steps.
    """
    leaves = 1 << max(0, len(sizes) - 1).bit_length()
    left = [room] * (2 * leaves)  # node i has the children 2i and 2i + 1; every row is empty at first
    rows: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        node = 1
        while node < leaves:
            node = 2 * node if left[2 * node] >= sizes[i] else 2 * node + 1
        if node - leaves == len(rows):
            rows.append([])
        rows[node - leaves].append(i)
        left[node] -= sizes[i]
        while node > 1:
            node //= 2
            left[node] = max(left[2 * node], left[2 * node + 1])
    return rows


# ---- the template


@dataclass(frozen=True)
class Template:
    """How a conversation becomes tokens, and where its answers lie among them."""

    tokens: Tokens
    jinja: str = ""  # the model's own; "" is the plain one
    names: Mapping[str, str] = field(default_factory=dict)  # marks that it names: bos_token ...
    end: int = END  # ends an answer where the template has no mark for that

    def as_dict(self) -> dict[str, Any]:
        """Plain data, from which `of` makes the same again, given the tokens."""
        return {"template": self.jinja, "names": dict(self.names), "end": self.end}

    @classmethod
    def of(cls, tokens: Tokens, record: Mapping[str, Any]) -> "Template":
        return cls(tokens, record["template"], record["names"], record["end"])

    def conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Its tokens up to the end of its last answer, and which of them the assistant says, its end marks included.

        Raises DataError where the template refuses such a conversation, or changes what was said before when it goes on.
        """
        ids: list[int] = []
        said: list[bool] = []
        done = ""
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt, answer, done = self._turn(messages, i, done)
                ids += [*prompt, *answer]
                said += [False] * len(prompt) + [True] * len(answer)
        return ids, said

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation that the assistant is to go on with."""
        ids: list[int] = []
        done, last = "", 0
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt, answer, done = self._turn(messages, i, done)
                ids, last = [*ids, *prompt, *answer], i + 1
        if not self.jinja:
            return [*ids, *self._plain(messages[last:], bool(last))]
        text = self._rendered(messages, True)
        self._grows(text, done)
        return [*ids, *self.tokens.encode(text[len(done) :], marks=False)]

    @property
    def ends(self) -> list[int]:
        """The numbers that end an answer: the model's own mark, and the one that the template sets."""
        answer = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            ids, _ = self.conversation(answer)
        except DataError:  # it wants more than one question and an answer
            return [self.end]
        return list(dict.fromkeys([self.end, ids[-1]]))

    def _turn(self, messages: Sequence[Message], i: int, done: str) -> tuple[list[int], list[int], str]:
        """The tokens before answer i since the last one, those of the answer, and the text up to its end."""
        if not self.jinja:
            last = next((j for j in range(i - 1, -1, -1) if messages[j]["role"] == "assistant"), -1) + 1
            prompt = self._plain(messages[last:i], bool(last))
            return prompt, [*self.tokens.encode(messages[i]["content"], marks=False, literal=True), self.end], ""
        before, after = self._rendered(messages[:i], True), self._rendered(messages[: i + 1], False)
        self._grows(before, done)
        self._grows(after, before)
        answer = after[len(before) :]
        size = self._until_its_end(answer)
        prompt = self.tokens.encode(before[len(done) :], marks=False)
        told = answer if size is None else answer[:size]
        whole = self.tokens.encode(before[len(done) :] + told, marks=False)
        # What goes on from the prompt; where the two would melt into other tokens, the answer by itself.
        said = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self.tokens.encode(told, marks=False)
        return prompt, said if size is not None else [*said, self.end], before + told

    def _plain(self, messages: Sequence[Message], later: bool) -> list[int]:
        """Messages, and the line that asks for an answer."""
        ids: list[int] = []
        for message in messages:
            start = "\n" if later else ""
            ids += self.tokens.encode(f"{start}{message['role']}:\n", marks=False)
            ids += [*self.tokens.encode(message["content"], marks=False, literal=True), self.end]
            later = True
        return [*ids, *self.tokens.encode("\nassistant:\n" if later else "assistant:\n", marks=False)]

    def _until_its_end(self, answer: str) -> int | None:
        """How many letters of what the template makes of an answer are it and its end mark; None if that has no such mark.

        The mark is the first of those that the text closes with, which blanks may surround.
        """
        marks = self.tokens.marks()
        every = sorted(filter(None, marks), key=len, reverse=True)
        for chosen in ([one for one in every if marks[one]], every):  # special ones first
            if chosen:
                found = re.search(
                    rf"(?:{'|'.join(map(re.escape, chosen))})(?:\s|{'|'.join(map(re.escape, chosen))})*\Z", answer
                )
                if found is not None:
                    first = re.match("|".join(map(re.escape, chosen)), found.group())
                    assert first is not None
                    return found.start() + first.end()
        return None

    def _grows(self, text: str, before: str) -> None:
        if not text.startswith(before):
            raise DataError(
                "the model's chat template changes what was said before when a conversation goes on, so that no answer can be told "
                "from its prompt; set `data.template=plain`, or to the path of a Jinja template that only adds to what was there"
            )

    def _rendered(self, messages: Sequence[Message], ask: bool) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        how: dict[str, Any] = {"chat_template": _of_one_day(self.jinja), "add_generation_prompt": ask, **self.names}
        try:
            made = render_jinja_template([list(messages)], **how)[0]
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(
                f"the model's chat template does not take it ({' '.join(str(error).split())[:200]}); change the conversation, or set "
                "`data.template=plain`"
            ) from None
        return str(made[0])


def _of_one_day(template: str) -> str:
    """The template with a clock that stands still, or a run would not be the same tomorrow."""
    if "strftime_now" not in template:
        return template
    return "{% macro strftime_now(format) %}" + DAY + "{% endmacro %}{{ '' }}" + template


# ---- reading


@dataclass(frozen=True)
class Read:
    """Conversations as they were read, each up to its last answer, and where each came from."""

    messages: list[list[Message]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.messages)

    def take(self, samples: Tensor) -> "Read":
        numbers = samples.tolist()
        return Read([self.messages[i] for i in numbers], [self.places[i] for i in numbers])


def holds(path: Path, data: Data | None = None) -> bool:
    """Whether conversations lie there, and no column was named, which would make it another kind of data."""
    if data is not None and (data.text is not None or data.target is not None):
        return False
    found = parts(path).get("train", [])
    return bool(found) and _form(_columns(found[0])) is not None


def parts(path: Path) -> dict[str, list[Path]]:
    """The files of each part at a path: of a file or folder itself, of folders train, valid and test, or of files called so."""
    if path.is_file():
        return {"train": [path]} if path.name.lower().endswith(ENDINGS) else {}
    if not path.is_dir():
        return {}
    called = {"train": "train", "test": "test"} | dict.fromkeys(VALID_FOLDERS, "valid")
    if (path / "train").is_dir():
        folders = {part: path / name for name, part in reversed(called.items()) if (path / name).is_dir()}
        return {part: files for part, folder in folders.items() if (files := _files(folder))}
    found: dict[str, list[Path]] = {}
    for file in _files(path):
        found.setdefault(called.get(re.split(r"[-_.]", file.name.lower())[0], "other"), []).append(file)
    if "train" not in found and "other" in found:
        found["train"] = found.pop("other")
    return found if "train" in found else {"train": _files(path)}


def _files(folder: Path) -> list[Path]:
    return [
        file for file in sorted(folder.iterdir())
        if file.name.lower().endswith(ENDINGS) and file.name[0] != "." and file.is_file()
    ]  # fmt: skip


def _form(columns: Sequence[str]) -> str | None:
    """The column that says which form rows have."""
    names = set(columns)
    whole = next((name for name in LISTS if name in names), None)
    return whole or next((answer for answer, prompt in ANSWERS.items() if {answer, prompt} <= names), None)


def _columns(file: Path) -> list[str]:
    """The names in a file's first row; none of what cannot be read so."""
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet

            return list(pyarrow.parquet.read_schema(file).names)
        with _opened(file) as opened:
            start = opened.read(1 << 20)
        if start.lstrip()[:1] not in ("[", "{"):
            return []
        place = start.index("{")
        try:
            first, _ = json.JSONDecoder().raw_decode(start, place)
        except ValueError:  # one row may be larger than that
            first = next(iter(_rows(file)))[1] if len(start) == 1 << 20 else {}
        if isinstance(first, dict) and _form(list(first)) is None and ".jsonl" not in file.name.lower():
            first = next((one for value in first.values() if isinstance(value, list) for one in value[:1]), {})
        return list(first) if isinstance(first, dict) else []
    except Exception:  # damaged, or of another kind: its own reader says so
        return []


def _opened(file: Path) -> Any:
    return (
        gzip.open(file, "rt", encoding="utf-8-sig") if file.suffix.lower() == ".gz" else file.open(encoding="utf-8-sig")
    )


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """(where it is, the row) of a file, as a person counts. Raises DataError for a file or line that cannot be read."""
    try:
        if file.suffix.lower() == ".parquet":
            try:
                import pyarrow.parquet
            except ImportError:
                raise MissingExtra("pyarrow", "tabular", "Reading Parquet") from None
            rows = pyarrow.parquet.read_table(file).to_pylist()
            yield from ((f"Row {number} of {file}", row) for number, row in enumerate(rows, start=1))
            return
        with _opened(file) as opened:
            if ".jsonl" not in file.name.lower():
                found = json.load(opened)
                lists = (
                    [value for value in found.values() if isinstance(value, list)] if isinstance(found, dict) else []
                )
                found = (
                    lists[0] if len(lists) == 1 and isinstance(found, dict) and _form(list(found)) is None else found
                )
                rows = found if isinstance(found, list) else [found]
                yield from ((f"Row {number} of {file}", row) for number, row in enumerate(rows, start=1))
                return
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except ValueError as error:
                        raise DataError(
                            f"Line {number} of {file} is no JSON ({error}). Mend it, or take it out."
                        ) from None
                    yield f"Line {number} of {file}", row
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read as conversations: {' '.join(str(error).split())[:300]}.") from None


def read(files: Sequence[Path], notes: list[str]) -> Read:
    """The conversations of these files. Raises DataError, naming the row, for one that is none."""
    messages, places, empty, behind = [], [], [], 0
    for file in files:
        for place, row in _rows(file):
            found = messages_of(row, place)
            spoken = [i for i, one in enumerate(found) if one["role"] == "assistant"]
            if not spoken:
                raise DataError(
                    f"{place} has no answer of the assistant, so nothing can be learnt from it. Add one, or take it out."
                )
            if any(not found[i]["content"].strip() for i in spoken):
                empty.append(place)
                continue
            behind += len(found) > spoken[-1] + 1
            messages.append(found[: spoken[-1] + 1])
            places.append(place)
    if empty:
        notes.append(f"{len(empty)} conversations have an empty answer and were left out, the first is: {empty[0]}.")
    if behind:
        notes.append(f"{behind} conversations end with something that nobody answers, which was left out.")
    if not messages:
        raise DataError(f"{files[0]} holds no conversation with an answer: there is nothing to learn from.")
    return Read(messages, places)


def messages_of(row: Any, place: str) -> list[Message]:
    """The messages of a row in any of the forms, each {"role", "content"}. Raises DataError, naming the place."""
    columns = [name for name, value in row.items() if value is not None] if isinstance(row, Mapping) else []
    form = _form(columns)
    if form is None:
        told = f"has the columns {', '.join(map(str, row))}" if isinstance(row, Mapping) else f"is {str(row)[:40]!r}"
        raise DataError(f"{place} {told}; a conversation has {FORMS}.")
    if form in LISTS:
        found = _listed(row[form], place, form)
    else:
        asked = row[ANSWERS[form]]
        if isinstance(asked, str):
            more = next(
                (row[name] for name in BESIDE if form != "completion" and str(row.get(name) or "").strip()), None
            )
            asked = [{"role": "user", "content": asked if more is None else f"{asked}\n\n{more}"}]
        answer = row[form]
        answer = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        found = _listed(asked, place, ANSWERS[form]) + _listed(answer, place, form)
    system = row.get("system")
    if isinstance(system, str) and system.strip() and found[:1] and found[0]["role"] != "system":
        found = [{"role": "system", "content": system}, *found]
    return found


def _listed(value: Any, place: str, column: str) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, Mapping) for one in value):
        raise DataError(
            f'{place} has in `{column}` {str(value)[:40]!r}; a text, or a list of messages such as {{"role": "user", "content": "Hi"}}, '
            "belongs there."
            if column not in LISTS
            else f'{place} has in `{column}` {str(value)[:40]!r}; a list of messages such as {{"role": "user", "content": "Hi"}} belongs '
            "there."
        )
    found = []
    for number, one in enumerate(value, start=1):
        role, content = one.get("role", one.get("from")), one.get("content", one.get("value"))
        if role not in ROLES:
            raise DataError(
                f"Message {number} in {place[0].lower()}{place[1:]} has the role {role!r}; it can be {', '.join(ROLES)}."
            )
        if isinstance(content, list) and all(
            isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
        ):
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise DataError(
                f"Message {number} in {place[0].lower()}{place[1:]} has the content {str(content)[:40]!r}; it must be a text."
            )
        check_letters(content, f"Message {number} in {place[:1].lower()}{place[1:]}")
        found.append({"role": ROLES[role], "content": content})
    return found


def asked(text: Any, where: str) -> list[Message]:
    """What is asked of a model: a text is what a user says; a list of messages, or JSON of one, is a conversation so far.

    Raises DataError for what is neither, and for a conversation that ends with what the assistant says.
    """
    if isinstance(text, str) and text.lstrip().startswith("["):
        try:
            told = untrusted.parsed(text)
        except ValueError:
            told = None
        text = told if isinstance(told, list) and told and all(isinstance(one, dict) for one in told) else text
    if isinstance(text, str):
        if not text.strip():
            raise DataError(f"{where} is empty; there is nothing to answer. Give it a few words.")
        return [{"role": "user", "content": text}]
    found = _listed(text, where, "messages")
    if not found:
        raise DataError(f"{where} has no message; there is nothing to answer.")
    if found[-1]["role"] in ("assistant", "system"):
        says = "what the assistant says" if found[-1]["role"] == "assistant" else "what the system says"
        raise DataError(
            f"{where} ends with {says}, and there is nothing to answer; let a message of the user come last."
        )
    if not found[-1]["content"].strip():
        raise DataError(f"{where} ends with an empty message; there is nothing to answer. Give it a few words.")
    return found


def questions(path: Path) -> list[list[Message]]:
    """The conversations of a file as far as they ask: up to the last answer, which is what is to be given."""
    found = []
    for place, row in _rows(path):
        said = messages_of(row, place)
        if not said:
            raise DataError(f"{place} holds a conversation without a message. Give it one of the user's.")
        found.append(said[:-1] if said[-1]["role"] == "assistant" else said)
    return found


# ---- made ready


def conversing(data: Data, name: str, notes: list[str]) -> Loaded:
    """Conversations at a path; tokens are learnt from the training part, where they have to be."""
    path = expanded(data.source, "data.source")
    there = parts(path)
    if "other" in there:
        notes.append(
            f"{', '.join(file.name for file in there['other'][:4])} in {path} are called neither train, valid nor test and were not read."
        )
    for part in ("valid", "test"):
        named = getattr(data, part)
        if named is not None:
            there[part] = parts(existing(named, f"data.{part}")).get("train", [])
            if not there[part]:
                raise DataError(f"`data.{part}` is {named!r}, and no file there ends in {', '.join(ENDINGS)}.")
    whole = read(there["train"], notes)
    others: dict[str, Any] = {part: read(there[part], notes) for part in ("valid", "test") if part in there}
    chosen = {
        part: whole.take(numbers) for part, numbers in held_out(data, len(whole), 0.0, others, notes).items()
    } | others
    vocabulary = data.vocabulary or VOCABULARY[len(chosen["train"]) >= MANY]
    tokens = _tokens(data.model_copy(update={"vocabulary": vocabulary}), chosen["train"])
    template, used = _template(data, tokens)
    _say_marks(template, chosen["train"], notes)
    encoded = {part: _encoded(template, one, data.learn_from == "all") for part, one in chosen.items()}
    context = data.context or _context(data, [len(ids) for ids, _ in encoded["train"]])
    packed = data.packing is not False
    made = {part: _made(one, context, packed, part, notes) for part, one in encoded.items()}
    train = made["train"]
    if packed:
        full = len(train.flat) / max(1, len(train) * context)
        notes.append(
            f"{len(encoded['train'])} conversations share {len(train)} rows of {context} tokens, which they fill to {full:.0%}."
        )
    whole_ones = sum(len(ids) <= context for ids, _ in encoded["train"])
    return Loaded(
        "text-generation", name, train, made.get("valid"), made.get("test"), train.fingerprint(),
        columns={"tokens": tokens.as_dict(), "context": context, "chat": template.as_dict()},
        notes=tuple(dict.fromkeys(notes)),
        derived={
            "data.tokens": ("bpe", "answers of any words can be written, and are not as long as in letters"),
            "data.vocabulary": (vocabulary, f"each symbol should come often: 8,000 from {MANY:,} conversations on, else 2,000 (Gowda & May 2020)"),
            "data.context": (context, f"holds {whole_ones:,} of {len(encoded['train']):,} conversations whole"),
            "data.packing": (True, "little is padded, and each conversation is as if alone (Krell et al. 2021)"),
            "data.template": (used, "what the model was trained with" if used == "model" else "the model brings none"),
        },
    )  # fmt: skip


def _tokens(data: Data, train: Read) -> Tokens:
    if texts.of_run(data.tokens):
        return texts.tokenizer(data, "bpe", [])
    if data.tokens is not None and (data.tokens.startswith(texts.OF_MODEL) or data.tokens.endswith(".json")):
        return texts.tokenizer(data, "bpe", [])
    plain = [f"\n{one['role']}:\n{one['content']}" for messages in train.messages for one in messages]
    return learn(data.tokens or "bpe", [*plain, "\nsystem:\n\nuser:\n\nassistant:\n"], most=data.vocabulary or 0)


def _template(data: Data, tokens: Tokens) -> tuple[Template, str]:
    """The template, and what it is called in a recipe."""
    own: dict[str, Any] = {"template": "", "names": {}, "ends": []}
    if data.tokens is not None and data.tokens.startswith(texts.OF_MODEL):
        own = pretrained.marks(data.tokens.removeprefix(texts.OF_MODEL))
    end = own["ends"][0] + len(SPECIAL) if own["ends"] else END
    asked_for = data.template or ("model" if own["template"] else "plain")
    if asked_for == "plain":
        return Template(tokens, "", {}, end), "plain"
    if tokens.kind != "hf":
        raise RecipeError(
            f"`data.template` is {asked_for!r}, but tokens of the kind {tokens.kind} have no marks for a template of their own. Set it to "
            "plain, or use a pretrained model (`model.kind=pretrained`)."
        )
    if asked_for == "model":
        if not own["template"]:
            raise RecipeError(
                "`data.template` is 'model', but the model brings no chat template. Set it to plain, or to a path of one."
            )
        return Template(tokens, own["template"], own["names"], end), "model"
    jinja = texts.plain(existing(asked_for, "data.template"))
    return Template(tokens, jinja, own["names"], end), asked_for


def _say_marks(template: Template, train: Read, notes: list[str]) -> None:
    marks = [mark for mark, special in template.tokens.marks().items() if special and mark] if template.jinja else []
    if not marks:
        return
    spelt = re.compile("|".join(map(re.escape, marks)))
    found = [
        place
        for messages, place in zip(train.messages, train.places, strict=True)
        if any(spelt.search(one["content"]) for one in messages)
    ]
    if found:
        notes.append(
            f"{len(found)} conversations spell a mark of the model in what is said, where it counts as that mark; the first is: {found[0]}."
        )


def _encoded(template: Template, whole: Read, everything: bool) -> list[tuple[list[int], list[bool]]]:
    found = []
    for messages, place in zip(whole.messages, whole.places, strict=True):
        try:
            ids, said = template.conversation(messages)
        except DataError as error:
            raise DataError(f"{place} cannot be put into the template: {error}.") from None
        found.append((ids, [True] * len(ids) if everything else said))
    return found


def _context(data: Data, sizes: Sequence[int]) -> int:
    """Tokens of a row: room for nearly all conversations, within what a model has places for."""
    wanted = sorted(sizes)[min(len(sizes) - 1, int(WHOLE * len(sizes)))]
    context = min(LONGEST, max(SHORTEST, -(-wanted // 64) * 64))
    if data.tokens is not None and data.tokens.startswith(texts.OF_MODEL):
        context = min(context, pretrained.places(data.tokens.removeprefix(texts.OF_MODEL)) or context)
    return context


def _made(
    encoded: Sequence[tuple[list[int], list[bool]]], context: int, packed: bool, part: str, notes: list[str]
) -> Conversations:
    """Cut to `context` tokens. One whose answers are all cut is left out."""
    long = sum(len(ids) > context for ids, _ in encoded)
    kept = [(ids[:context], said[:context]) for ids, said in encoded if any(said[1:context])]
    if long:
        gone = len(encoded) - len(kept)
        left = f", of which {gone} lost every answer and were left out" if gone else ""
        notes.append(
            f"{long} of {len(encoded)} {part} conversations are longer than {context} tokens and were cut there{left}; `data.context` sets "
            "another length."
        )
    if not kept:
        raise DataError(
            f"No {part} conversation has an answer within its first {context} tokens. Set a larger `data.context`."
        )
    return Conversations.of([ids for ids, _ in kept], [said for _, said in kept], context, packed)
