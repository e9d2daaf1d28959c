"""Addresses as they may be kept and told: without the names and passwords that stand in them."""

import re


def masked(text: str) -> str:
    """The text without names and passwords in addresses: `scheme://name:password@host` becomes `scheme://…@host`."""
    return re.sub(r"://[^/@\s'\"]+@", "://…@", text)
