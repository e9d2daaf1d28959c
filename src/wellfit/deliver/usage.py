"""Programs that use exported files without wellfit: what a model card shows, and tests execute.

Each is made of three parts: the network opened, an input made as the training's were, and the answer read. The input in it is
only an example; whoever copies the program puts another in its place.

    >>> print(program(run, facts, "onnx"))
"""

from collections.abc import Mapping
from typing import Any

from wellfit.finetune import BEFORE
from wellfit.run import Run

ONNX = """
session = onnxruntime.InferenceSession("model.onnx")


def network(*inputs):
    return session.run(None, {part["name"]: x for part, x in zip(facts["inputs"], inputs)})[0]
"""
PROGRAM = """
module = torch.export.load("model.pt2").module()


def network(*inputs):
    with torch.no_grad():
        return module(*map(torch.from_numpy, inputs)).numpy()
"""

# ---- inputs

PICTURE = """
pixels = facts["pixels"]
picture = Image.open("picture.png").convert("RGB")
picture = ImageOps.fit(picture, (pixels["width"], pixels["height"]), Image.Resampling.BILINEAR)
{colours}
"""
GREY = 'image = np.array(picture.convert("L"), np.uint8)[None]'
COLOUR = "image = np.array(picture, np.uint8).transpose(2, 0, 1).copy()"
ROW = """
row = {example}
columns = facts["columns"]
values = [float(row[name]) for name in columns["numeric"]]
for name, kinds in columns.get("categories", {{}}).items():
    values += [float(row[name] == kind) for kind in kinds]
rows = np.array([values], np.float32)
"""
SYMBOLS = """
numbers = {symbol: n for n, symbol in enumerate(facts["tokens"]["symbols"], start=len(facts["special"]))}
"""
ENCODE = {
    "char": SYMBOLS
    + """

def encode(text):
    return [numbers.get(character, facts["special"]["<unk>"]) for character in text]
""",
    "byte": """

def encode(text):
    return [len(facts["special"]) + byte for byte in text.encode()]
""",
    "word": SYMBOLS
    + """

def encode(text):
    found = re.findall(r"\\w+(?:['’]\\w+)*|[^\\w\\s]", text.lower())
    return [numbers.get(word, facts["special"]["<unk>"]) for word in found]
""",
    "ngram": SYMBOLS
    + """

def encode(text):
    found = []
    for word in re.findall(r"\\w+(?:['’]\\w+)*|[^\\w\\s]", text.lower()):
        whole = f"<{word}>"
        found.append(whole)
        found += [whole[i : i + n] for n in (3, 4, 5) if n < len(whole) for i in range(len(whole) - n + 1)]
    return [numbers[group] for group in found if group in numbers]
""",
    "bpe": """
tokenizer = Tokenizer.from_file("tokenizer.json")


def encode(text):
    return tokenizer.encode(text, add_special_tokens=False).ids
""",
    "hf": """
tokenizer = Tokenizer.from_file("tokenizer.json")


def encode(text):
    return [len(facts["special"]) + n for n in tokenizer.encode(text, add_special_tokens={marks}).ids]
""",
}
DECODE = {
    "char": 'symbols = [*facts["special"], *facts["tokens"]["symbols"]]\nprint("".join(symbols[n] for n in {ids}))\n',
    "byte": 'print(bytes(n - len(facts["special"]) for n in {ids} if n >= len(facts["special"])).decode(errors="replace"))\n',
    "word": 'symbols = [*facts["special"], *facts["tokens"]["symbols"]]\nprint(" ".join(symbols[n] for n in {ids}))\n',
    "bpe": "print(tokenizer.decode({ids}))\n",
    "hf": 'print(tokenizer.decode([n - len(facts["special"]) for n in {ids} if n >= len(facts["special"])]))\n',
}
TEXTS = """

def padded(texts):
    cut = [(text or [facts["special"]["<unk>"]])[: facts["context"]] for text in texts]
    made = np.zeros((len(cut), max(2, *map(len, cut))), np.int64)
    for line, text in zip(made, cut):
        line[: len(text)] = text
    return made
"""
WORDS = """
numbers = {symbol: n for n, symbol in enumerate(facts["words"], start=len(facts["special"]))}


def shape(word):
    def case(run):
        letters = run.group()
        return "X" if letters.isupper() else "Xx" if letters[0].isupper() else "x"

    signs = re.sub(r"\\d+", "d", re.sub(r"[^\\W\\d_]+", case, word))
    return f"\\0{signs[:8]}:{word[-2:].lower()}"


def number(word):  # its own, or that of how it is written
    known = (numbers.get(one) for one in (word, shape(word), shape(word).split(":")[0]))
    return next((n for n in known if n), facts["special"]["<unk>"])
"""
SERIES = """
history = np.ones((facts["history"], len(facts["names"])))  # the last rows, oldest first, in their own unit
begun = 0  # so many steps after facts["clock"]["first"] the first of these rows comes
mean, deviation = np.array(facts["mean"]), np.array(facts["deviation"])
values = np.log(history) if facts["transform"] == "log" else history
past = (values - mean) / deviation
if facts["cycles"]:
    angles = 2 * np.pi * (begun + np.arange(len(past)))[:, None] / np.array(facts["cycles"])
    past = np.concatenate([past, np.sin(angles), np.cos(angles)], axis=1)
future = network(past[None].astype(np.float32))[0]
"""
MEASURE = """
{quantiles}future = future * deviation + mean
print((np.exp(future) if facts["transform"] == "log" else future)[:, : facts["targets"]])
"""

# ---- answers

CLASS = """
logits = network({given})[0]
shares = np.exp(logits - logits.max())
shares /= shares.sum()
print(facts["classes"][logits.argmax()], shares.max())
"""
GREEDY = """
text = encode("{example}")
for _ in range(20):  # the likeliest each time
    seen = text[-facts["context"] :]
    tokens = np.array([seen + [0] * (2 - len(seen))], np.int64)
    text.append(int(network(tokens)[0, len(seen) - 1].argmax()))
"""
PLAIN = """
chat, question = facts["chat"], "{example}"
text = encode("user:\\n") + encode(question) + [chat["end"]] + encode("\\nassistant:\\n")
"""
TEMPLATE = """
chat, question = facts["chat"], "{example}"
asked = [{{"role": "user", "content": question}}]
text = encode(Template(chat["template"]).render(messages=asked, add_generation_prompt=True, **chat["names"]))
"""
ANSWER = """
asked = len(text)
while len(text) < asked + 40 and text[-1] != chat["end"]:  # the likeliest each time
    seen = text[-facts["context"] :]
    tokens = np.array([seen + [0] * (2 - len(seen))], np.int64)
    text.append(int(network(tokens)[0, len(seen) - 1].argmax()))
answer = [n for n in text[asked:] if n != chat["end"]]
"""
REWRITE = """
source = padded([encode("{example}")])
start, end = facts["special"]["<s>"], facts["special"]["</s>"]
written = [start]
while len(written) < min(40, facts["context"]) and written[-1] != end:  # the likeliest each time
    target = np.array([written + [0] * (2 - len(written))], np.int64)
    written.append(int(network(source, target)[0, len(written) - 1].argmax()))
text = [n for n in written if n >= len(facts["special"])]
"""


def program(run: Run, told: Mapping[str, Any], format: str) -> str:
    """Python that makes one input, asks the network and prints what it says; with weights alone, that reads them."""
    if format not in ("onnx", "torch-export"):
        return WEIGHTS[format](run)
    imports, body = _asked(told)
    imports = {"import json", "import numpy as np", *imports}
    imports.add("import onnxruntime" if format == "onnx" else "import torch")
    standard = sorted(one for one in imports if one in ("import json", "import re"))
    others = sorted(imports - {*standard}, key=lambda one: (one.startswith("from"), one))
    opened = 'with open("preprocessing.json", encoding="utf-8") as file:\n    facts = json.load(file)'
    head = "\n".join([*standard, "", *others, "", opened])
    return head + (ONNX if format == "onnx" else PROGRAM) + body


def needs(run: Run, told: Mapping[str, Any], format: str) -> list[str]:
    """The packages that the program imports."""
    text = program(run, told, format)
    named = {"numpy": "numpy", "onnxruntime": "onnxruntime", "torch": "torch", "PIL": "pillow", "tokenizers": "tokenizers",
             "safetensors": "safetensors", "transformers": "transformers", "peft": "peft", "jinja2": "jinja2", "wellfit": "wellfit"}  # fmt: skip
    return [package for name, package in named.items() if f"import {name}" in text or f"from {name}" in text]


def _asked(told: Mapping[str, Any]) -> tuple[set[str], str]:
    """Imports, and what makes an input and reads the answer."""
    if "pixels" in told:
        body = PICTURE.format(colours=GREY if told["pixels"]["colours"] == "grey" else COLOUR)
        if told["pixels"]["range"][1] != 255:
            body += 'image = np.rint(image * (pixels["range"][1] / 255)).astype(np.uint8)  # white is the brightest of the training set\n'
        return {"from PIL import Image, ImageOps"}, body + CLASS.format(given="image[None]")
    if "history" in told:
        quantiles = "future = np.moveaxis(future, -1, 0)  # from the lowest quantile to the highest\n"
        several = len(told["outputs"][0]["shape"]) == 4
        read = MEASURE.format(quantiles=quantiles if several else "")
        return set(), SERIES + (read.replace("[:, : facts", "[..., : facts") if several else read)
    if "columns" in told:
        columns = told["columns"]
        example = {name: columns.get("fill", {}).get(name, 0.0) for name in columns["numeric"]}
        example |= {name: values[0] for name, values in columns.get("categories", {}).items()}
        given = ROW.format(example=repr(example))
        return set(), given + (CLASS.format(given="rows") if told.get("classes") else "print(network(rows)[0])\n")
    if "words" in told:
        asked = 'words = "self.path = os.path.join ( name )".split()[: facts["context"]]\n'
        made = "tags = network(np.array([[number(word) for word in words]], np.int64))[0].argmax(-1)\n"
        return {"import re"}, WORDS + "\n\n" + asked + made + 'print([facts["classes"][tag] for tag in tags])\n'
    kind = told["tokens"]["kind"]
    imports = {"import re"} if kind in ("word", "ngram") else set()
    imports |= {"from tokenizers import Tokenizer"} if kind in ("bpe", "hf") else set()
    task = told["task"]
    encode = ENCODE[kind].replace("{marks}", str(task != "text-generation"))
    if "chat" in told:
        own = bool(told["chat"]["template"])
        asked = (TEMPLATE if own else PLAIN).format(example="What is a function?") + ANSWER
        imports |= {"from jinja2 import Template"} if own else set()
        return imports, encode + "\n" + asked + DECODE[kind].format(ids="answer")
    if task == "text-generation":
        return imports, encode + "\n" + GREEDY.format(example="def ") + DECODE[kind].format(ids="text")
    if task == "seq-to-seq":
        asked = TEXTS + "\n" + REWRITE.format(example="x = 1")
        return imports, encode + asked + DECODE[kind].format(ids="text")
    asked = 'tokens = padded([encode("{}"){}])\n'
    if task == "sentence-embeddings":
        two = asked.format("the names of all files", ', encode("files by name")')
        return (
            imports,
            encode + TEXTS + "\n\n" + two + "first, second = network(tokens)\nprint(first @ second)  # how alike\n",
        )
    return imports, encode + TEXTS + "\n\n" + asked.format("not bad at all", "") + CLASS.format(given="tokens")


# ---- weights alone


def _safetensors(_: Run) -> str:
    return (
        "from safetensors.torch import load_file\n\n"
        'weights = load_file("model.safetensors")  # by name, for the network of the recipe below\n'
        "for name, value in weights.items():\n"
        "    print(name, tuple(value.shape))\n"
    )


def _peft(run: Run) -> str:
    kind = "AutoModelForCausalLM" if run.recipe.task == "text-generation" else "AutoModel"
    base = str(getattr(run.recipe.model, "name", "") or run.recipe.finetune.weights or "")
    before = "" if run.recipe.finetune.strategy not in BEFORE else "  # with the vectors that were learnt before it"
    return (
        f"from peft import PeftModel\nfrom transformers import {kind}\n\n"
        f"base = {kind}.from_pretrained({base!r})\n"
        f'model = PeftModel.from_pretrained(base, "."){before}\n'
    )


def _huggingface(run: Run) -> str:
    kind = "AutoModelForCausalLM" if run.recipe.task == "text-generation" else "AutoModel"
    return (
        f"from transformers import {kind}, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\n'
        f'model = {kind}.from_pretrained(".")\n'
        'print(model(**tokenizer("not bad at all", return_tensors="pt"))[0].shape)\n'
    )


WEIGHTS = {"safetensors": _safetensors, "peft": _peft, "huggingface": _huggingface}
