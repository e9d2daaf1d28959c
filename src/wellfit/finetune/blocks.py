"""A model's blocks, from its input to its output: what strategies freeze, thaw and give a rate of its own.

What a block is can be told without knowing the architecture: the parts of a sequence or list are blocks, and where one child
holds nearly all weights, its own children are, and so on down; a normalisation or another part without matrices goes with the
block before it. So a ResNet has its stem, each residual block and its head; BERT its embeddings, each layer, its pooler and head. Blocks are in the
order in which modules were registered, which is that of the forward pass wherever anybody reads the code.

    >>> [len(block) for block in blocks(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))]
    [2, 2]
"""

from collections.abc import Iterator

from torch import nn

NEARLY_ALL = 0.8  # of the weights below a module: such a child is a wrapper or a trunk, and not a block


def blocks(model: nn.Module) -> list[list[str]]:
    """The names of the parameters of each block, first to last. A tied weight is in the block that it first comes in."""
    found: list[list[str]] = []
    seen: set[int] = set()
    for prefix, module, own in _parts(model, ""):
        parameters = module.named_parameters(prefix, recurse=not own)
        new = [(name, p) for name, p in parameters if id(p) not in seen]
        seen.update(id(p) for _, p in new)
        names = [name for name, _ in new]
        if found and not any(p.ndim > 1 for _, p in new):
            found[-1] += names
        elif names:
            found.append(names)
    if len(found) > 1 and not any(p.ndim > 1 for name, p in model.named_parameters() if name in set(found[0])):
        found[1] = found.pop(0) + found[1]  # nothing came before it: it goes with what follows
    return found


def ending(model: nn.Module) -> list[str]:
    """The names of the last block's parameters if it is a single layer, as a head is, and of heads that are the embeddings again.

    Where weights are so tied, the last block is a whole layer of the trunk, and no head.
    """
    last = blocks(model)[-1]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tied = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) in tables
    ]
    return tied + (last if len({name.rpartition(".")[0] for name in last}) == 1 else [])


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, bool]]:
    """(name, module, whether its own parameters alone are meant) of each part, in order."""
    if any(True for _ in module.parameters(recurse=False)):
        yield prefix, module, True
    total = _numel(module)
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        container = isinstance(child, nn.ModuleList | nn.Sequential)
        wraps = _numel(child) >= NEARLY_ALL * total and any(True for _ in child.children())
        if container or (wraps and not _holds_matrices(child)):
            yield from _parts(child, path)
        elif _numel(child):
            yield path, child, False


def _holds_matrices(module: nn.Module) -> bool:
    """Whether it computes with weights of its own, and so is no mere wrapper."""
    return any(p.ndim > 1 and min(p.shape[:2]) > 1 for p in module.parameters(recurse=False))


def _numel(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
