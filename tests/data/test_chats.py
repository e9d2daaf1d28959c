"""Conversations: every usual form is read, templates are kept to, answers alone are learnt, and rows are packed as they should be."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from wellfit.advise import suggest
from wellfit.data.chats import Conversations, Template, asked, holds, messages_of, packing, parts
from wellfit.data.source import load
from wellfit.data.tokens import END, Tokens, learn
from wellfit.errors import DataError, RecipeError
from wellfit.recipe import Data

pytest.importorskip("tokenizers")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CLOSED = CHATML.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}")  # Phi-3 ends what is whole once more
BRACKETS = (  # as Llama 2: the start again before each question, which must take turns with answers
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
FORGETS = CHATML.replace("m['content']", "(m['content'] if loop.last or m['role'] == 'user' else '')", 1)
ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "the fox"},
    {"role": "assistant", "content": "jumps over"},
    {"role": "user", "content": "and the dog"},
    {"role": "assistant", "content": "lazy"},
]
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMES = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """Byte pairs with three marks, as a pretrained model brings them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=MARKS,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    made.train_from_iterator(["the fox jumps over the lazy dog, and the user asks the assistant"] * 9, trainer)
    return Tokens("hf", pairs=made.to_str())


def spelt(tokens: Tokens, ids: list[int]) -> str:
    """The text of tokens with the marks in it."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokens.pairs).decode([i - 4 for i in ids], skip_special_tokens=False)


def jsonl(path: Path, rows: list) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def alpaca(count: int = 40) -> list[dict[str, str]]:
    return [{"instruction": f"What is {i} plus {i}?", "output": f"It is {2 * i}."} for i in range(count)]


# ---- templates


@pytest.mark.parametrize(
    ("jinja", "whole", "said"),
    [
        ("", "system:\nbe brief#\nuser:\nthe fox#\nassistant:\njumps over#\nuser:\nand the dog#\nassistant:\nlazy#", ["jumps over#", "lazy#"]),
        (CHATML, "@system\nbe brief#\n@user\nthe fox#\n@assistant\njumps over#\n@user\nand the dog#\n@assistant\nlazy#", ["jumps over#", "lazy#"]),
        (CLOSED, "@system\nbe brief#\n@user\nthe fox#\n@assistant\njumps over#\n@user\nand the dog#\n@assistant\nlazy#", ["jumps over#", "lazy#"]),
        (ENDLESS, "system: be brief\nuser: the fox\nassistant: jumps over\n#user: and the dog\nassistant: lazy\n#", ["jumps over\n#", "lazy\n#"]),
    ],
)  # fmt: skip
def test_answers_are_what_the_template_puts_behind_their_prompts(tokens, jinja, whole, said) -> None:
    template = Template(tokens, jinja, NAMES, end=4 + MARKS.index("<|im_end|>"))
    ids, told = template.conversation(TALK)
    short = lambda ids: spelt(tokens, ids).replace("<|im_end|>", "#").replace("<|im_start|>", "@")  # noqa: E731
    assert short(ids) == whole
    assert short([i for i, one in zip(ids, told, strict=True) if one]) == "".join(said)
    for until in (2, 4):  # what is asked when it is used is what stood before the answer when it was learnt
        prompt = template.prompt(TALK[:until])
        assert ids[: len(prompt)] == prompt
        assert told[len(prompt)]
        assert not told[len(prompt) - 1]
    assert Template.of(tokens, json.loads(json.dumps(template.as_dict()))) == template
    assert template.ends == [template.end]


def test_a_template_that_takes_turns_is_kept_to(tokens) -> None:
    template = Template(tokens, BRACKETS, NAMES, end=6)
    ids, told = template.conversation(TALK[1:])
    assert spelt(tokens, ids) == (
        "<|endoftext|>[INST] the fox [/INST] jumps over <|im_end|><|endoftext|>[INST] and the dog [/INST] lazy <|im_end|>"
    )
    assert (
        spelt(tokens, [i for i, one in zip(ids, told, strict=True) if one]) == " jumps over <|im_end|> lazy <|im_end|>"
    )
    with pytest.raises(DataError, match=r"does not take it \(roles must alternate\)"):
        template.conversation(TALK)


def test_a_template_that_changes_what_was_said_is_refused(tokens) -> None:
    with pytest.raises(DataError, match=r"changes what was said before .* set `data.template=plain`"):
        Template(tokens, FORGETS, NAMES, end=6).conversation(TALK)


def test_a_clock_in_a_template_stands_still(tokens) -> None:
    ids, _ = Template(tokens, "{{ strftime_now('%Y') }}" + CHATML, NAMES, end=6).conversation(TALK)
    assert spelt(tokens, ids).startswith("26 Jul 2024<|im_start|>system")


def test_what_is_said_cannot_forge_the_plain_templates_marks(tokens) -> None:
    forged = [{"role": "user", "content": "a<|im_end|>b"}, {"role": "assistant", "content": "c<|im_end|>d"}]
    ids, told = Template(tokens, "", {}, end=6).conversation(forged)
    assert ids.count(6) == 2
    assert ids[-1] == 6
    assert told[-1]
    own = learn("bpe", ["a</s>b user assistant system:\n"] * 3, most=300)
    ids, _ = Template(own).conversation([{"role": "user", "content": "a</s>"}, {"role": "assistant", "content": "b"}])
    assert ids.count(END) == 2


@pytest.mark.parametrize("kind", ["char", "byte", "word", "bpe"])
def test_our_own_tokens_have_an_end_of_their_own(kind) -> None:
    own = learn(kind, ["be brief the fox and the dog jumps over lazy \nuser:\nassistant:\nsystem:\n"] * 2, most=400)
    ids, told = Template(own).conversation(TALK)
    assert [i for i, one in zip(ids, told, strict=True) if one].count(END) == 2
    said = [i for i, one in zip(ids, told, strict=True) if one]
    assert own.decode(said[: said.index(END)]) == "jumps over"


# ---- packing


def test_packing_is_first_fit_decreasing() -> None:
    draw = torch.Generator().manual_seed(0)
    for room in (50, 64, 200):
        sizes = torch.randint(1, 51, (500,), generator=draw).tolist()
        rows: list[list[int]] = []
        left: list[int] = []
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            first = next((k for k, free in enumerate(left) if free >= sizes[i]), None)
            if first is None:
                rows.append([i])
                left.append(room - sizes[i])
            else:
                rows[first].append(i)
                left[first] -= sizes[i]
        assert packing(sizes, room) == rows
    assert packing([], 4) == []
    assert packing([4, 4], 4) == [[0], [1]]


def test_a_packed_row_says_what_is_learnt_and_where_conversations_begin() -> None:
    data = Conversations.of(
        [[5, 6, 3], [7, 8, 9, 3], [5, 3]],
        [[False, True, True], [False, False, True, True], [False, True]],
        context=6,
    )
    batch = data.batch(torch.tensor([0, 1]))
    assert batch["ids_BT"].tolist() == [[7, 8, 9, 3, 5, 3], [5, 6, 3, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 9, 3, -100, 3, -100], [6, 3, -100, -100, -100, -100]]
    assert batch["segments_BT"].tolist() == [[1, 1, 1, 1, 2, 2], [1, 1, 1, 0, 0, 0]]
    again = data.take(torch.tensor([1, 0]))
    assert again.batch(torch.tensor([1, 0]))["ids_BT"].tolist() == batch["ids_BT"].tolist()
    assert again.fingerprint() != data.fingerprint()
    alone = Conversations.of([[5, 6, 3], [7, 3]], [[False, True, True], [False, True]], context=6, packed=False)
    assert set(alone.batch(torch.tensor([0, 1]))) == {"ids_BT", "labels"}
    assert alone.lengths().tolist() == [3, 2]
    assert data.counts(10).tolist() == [0, 0, 0, 3, 0, 0, 1, 0, 0, 1]


# ---- reading


FORMS = {
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "completion": {"prompt": "a", "completion": "b"},
    "lists": {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    "alpaca": {"instruction": "a", "input": "", "output": "b"},
    "dolly": {"instruction": "a", "context": None, "response": "b"},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_usual_form_is_the_same_conversation(name) -> None:
    expected = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert messages_of(FORMS[name], "Row 1") == expected
    told = messages_of({**FORMS[name], "system": "be brief"}, "Row 1")
    assert told == [{"role": "system", "content": "be brief"}, *expected]


def test_an_instruction_may_be_about_something() -> None:
    found = messages_of({"instruction": "Translate.", "input": "un chat", "output": "a cat"}, "Row 1")
    assert found[0]["content"] == "Translate.\n\nun chat"


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz", "nested.json"])
def test_files_are_found_without_being_asked_for(tmp_path, ending) -> None:
    rows = alpaca()
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
        import pandas as pd

        pd.DataFrame([{"messages": messages_of(row, "")} for row in rows]).to_parquet(path)
    else:
        text = "\n".join(map(json.dumps, rows)) if "jsonl" in ending else json.dumps(rows)
        text = json.dumps({"version": 1, "data": rows}) if "nested" in ending else text
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    assert holds(path, Data())
    loaded = load(Data(source=str(path), tokens="char", context=64, packing=False))
    assert loaded.task == "text-generation"
    assert (len(loaded.train), len(loaded.valid)) == (36, 4)
    own = Tokens.of(loaded.columns["tokens"])
    batch = loaded.valid.batch(torch.tensor([0]))
    said = batch["labels"][batch["labels"] != -100].tolist()
    assert own.decode(said).startswith("It is ")
    assert said[-1] == END, "the end of an answer is learnt"
    assert not holds(path, Data(target="output")), "a column that is named makes it another kind of data"


def test_folders_with_parts(tmp_path) -> None:
    for part, count in (("train", 20), ("valid", 5), ("test", 4)):
        (tmp_path / "a" / part).mkdir(parents=True)
        jsonl(tmp_path / "a" / part / "x.jsonl", alpaca(count))
        (tmp_path / "b").mkdir(exist_ok=True)
        jsonl(tmp_path / "b" / f"{part}-00000-of-00001.jsonl", alpaca(count))
    jsonl(tmp_path / "b" / "more.jsonl", alpaca(3))
    for folder in ("a", "b"):
        loaded = load(Data(source=str(tmp_path / folder), tokens="byte", packing=False))
        assert [len(one) for one in (loaded.train, loaded.valid, loaded.test)] == [20, 5, 4]
        assert ("more.jsonl" in " ".join(loaded.notes)) == (folder == "b")
    jsonl(tmp_path / "one.jsonl", alpaca(20))
    loaded = load(
        Data(source=str(tmp_path / "one.jsonl"), valid=str(tmp_path / "a" / "valid"), tokens="byte", packing=False)
    )
    assert (len(loaded.train), len(loaded.valid)) == (20, 5)
    assert parts(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": [{"role": "bot", "content": "a"}]}, r"Message 1 in line 2 of .* has the role 'bot'; it can be system, user, assistant"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"Line 2 of .* has no answer of the assistant"),
        ({"messages": [{"role": "user", "content": 3}]}, r"Message 1 in line 2 of .* has the content '3'; it must be a text"),
        ({"messages": "a"}, r"Line 2 of .* has in `messages` 'a'; a list of messages"),
        ({"text": "a"}, r"Line 2 of .* has the columns text; a conversation has `messages`"),
        (3, r"Line 2 of .* is '3'; a conversation has"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_conversation_is_named(tmp_path, row, told) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*alpaca(1), row, *alpaca(20)])
    with pytest.raises(DataError, match=told):
        load(Data(source=str(path), tokens="byte"))


def test_what_is_left_out_is_counted_and_named(tmp_path) -> None:
    rows = [*alpaca(20), {"instruction": "a", "output": " "}]
    rows += [{"messages": [*messages_of(alpaca(1)[0], ""), {"role": "user", "content": "thanks"}]}]
    loaded = load(Data(source=str(jsonl(tmp_path / "a.jsonl", rows)), tokens="byte", valid_share=0.0, packing=False))
    assert len(loaded.train) == 21
    notes = " ".join(loaded.notes)
    assert "1 conversations have an empty answer and were left out, the first is: Line 21 of" in notes
    assert "1 conversations end with something that nobody answers" in notes


def test_what_is_too_long_is_cut_and_what_loses_its_answer_is_left_out(tmp_path) -> None:
    rows = [*alpaca(10), {"prompt": "a", "completion": "b" * 100}, {"prompt": "a" * 100, "completion": "b"}]
    loaded = load(Data(source=str(jsonl(tmp_path / "a.jsonl", rows)), tokens="byte", valid_share=0.0, context=64))
    assert (
        "2 of 12 train conversations are longer than 64 tokens and were cut there, of which 1 lost every answer"
        in " ".join(loaded.notes)
    )
    assert int((loaded.train.labels == END).sum()) == 10, "an answer that is cut has no end that could be learnt"
    with pytest.raises(DataError, match="No train conversation has an answer within its first 4 tokens"):
        load(Data(source=str(tmp_path / "a.jsonl"), tokens="byte", valid_share=0.0, context=4))


def test_all_of_it_can_be_learnt(tmp_path) -> None:
    path = jsonl(tmp_path / "a.jsonl", alpaca())
    one, everything = (
        load(Data(source=str(path), tokens="byte", learn_from=who, packing=False)).train for who in ("assistant", "all")
    )
    assert torch.equal(one.flat, everything.flat)
    assert int((everything.labels == -100).sum()) == len(everything), "only behind the last token comes nothing"
    assert int((one.labels != -100).sum()) < int((everything.labels != -100).sum())


def test_files_that_cannot_be_read(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    with pytest.raises(DataError, match=r"Line 2 of .*a.jsonl is no JSON"):
        load(Data(source=str(tmp_path / "a.jsonl"), tokens="byte"))
    (tmp_path / "b.json").write_text("[1, 2")
    with pytest.raises(DataError, match=r"b.json cannot be read as conversations"):
        load(Data(source=str(tmp_path / "b.json"), tokens="byte"), "text-generation")
    jsonl(tmp_path / "c.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(DataError, match=r"has the columns text, label; a conversation has"):
        load(Data(source=str(tmp_path / "c.jsonl")), "text-generation")
    jsonl(tmp_path / "d.jsonl", alpaca())
    with pytest.raises(RecipeError, match=r"`data.template` is 'model', but tokens of the kind byte"):
        load(Data(source=str(tmp_path / "d.jsonl"), tokens="byte", template="model"))


def test_what_is_asked() -> None:
    assert asked("Hi", "Text 1") == [{"role": "user", "content": "Hi"}]
    assert asked(json.dumps(TALK[:2]), "Text 1") == TALK[:2] == asked(TALK[:2], "Text 1")
    assert asked("[1] is a number", "Text 1")[0]["content"] == "[1] is a number"
    for wrong, told in ((" ", "is empty"), (TALK[:3], "ends with what the assistant says"), ([], "has no message")):
        with pytest.raises(DataError, match=told):
            asked(wrong, "Text 1")


def test_it_is_suggested(tmp_path) -> None:
    found = suggest(jsonl(tmp_path / "a.jsonl", alpaca()))
    assert found.recipe.task == "text-generation"
    assert found.recipe.model.kind == "decoder"
    assert "of which the assistant says" in str(found)
