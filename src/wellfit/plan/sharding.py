"""What is left on each of n devices when weights, gradients and the optimizer's state are cut into n: ZeRO-3, FSDP2.

Rajbhandari et al. 2020 (ZeRO), 5: each device keeps a share of 1/n of all three, and fetches the weights of a layer when it
comes to it. So what is added is the largest layer's whole weights, twice, since the next is fetched while one is in use, and
its whole gradient before it is cut. Activations are each device's own, of its own micro-batch. It costs 1.5 times the
communication of plain data parallelism (7.2).

A model that only serves is cut across each layer instead (Shoeybi et al. 2019): a share of the weights and of the heads' keys
and values, and nothing is fetched.

    >>> sharded(peak, devices=8, largest=layer_bytes)
"""

from wellfit.plan.meter import Peak

CUT = ("weights", "copies", "gradients", "optimizer")


def sharded(peak: Peak, devices: int, largest: int, serves: bool = False) -> Peak:
    """The peak of one of `devices`. `largest`: bytes of the largest part's weights as they are fetched."""
    if devices == 1:
        return peak
    cut = (*CUT, "cache") if serves else CUT
    parts = {part: -(-size // devices) if part in cut else size for part, size in peak.parts.items()}
    if not serves:
        parts["gathered"] = 3 * largest
    return Peak(sum(parts.values()), parts, peak.phase)
