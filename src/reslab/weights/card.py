"""The card of a weights file: what its tensors are, beside it as ``.json`` and inside it as metadata.

``reslab train`` writes one too. Where there is a card nothing need be assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from reslab.errors import RequestError
from reslab.models.architecture import Architecture, change
from reslab.models.catalog import find_entry
from reslab.records import decode
from reslab.weights.files import WeightsFile

METADATA_KEY = "reslab"


def card_of(file: WeightsFile) -> dict[str, Any] | None:
    """The card inside a safetensors file, or else the one beside a file, or None.

    A text that is no card, as of another program, is none.
    """
    beside = file.path.with_suffix(".json")
    texts = [file.metadata[METADATA_KEY]] if METADATA_KEY in file.metadata else []
    try:
        texts += [beside.read_text(encoding="utf-8")] if beside.is_file() else []
        for text in texts:
            card = decode(text)
            if isinstance(card, dict) and isinstance(card.get("model"), dict) and "name" in card["model"]:
                return card
    except (OSError, ValueError):
        return None
    return None


def architecture_of(card: Mapping[str, Any]) -> Architecture | None:
    """The network that a card describes; None for a name that has no architecture, or is none of the catalog's.

    A card without a name has every choice.
    """
    known = {field.name for field in fields(Architecture)}
    changes: Any = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in card["model"].items()
        if key in known and value not in (None, "auto")
    }
    if card.get("num_classes"):
        changes["num_classes"] = card["num_classes"]
    name = str(card["model"]["name"])
    try:
        if not name:
            return Architecture(**changes)
        entry = find_entry(name)
        return change(entry, **changes) if isinstance(entry, Architecture) else None
    except (RequestError, TypeError):
        return None
