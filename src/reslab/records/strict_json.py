"""JSON that any reader takes, with names for NaN and the infinities."""

from __future__ import annotations

import json
import math
from typing import Any

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON; NaN and the infinities become strings, because JSON has no word for them.

    Example:
        >>> encode({"loss": float("nan")})
        '{"loss": "NaN"}'
    """
    return json.dumps(_name_non_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def decode(text: str) -> Any:
    """Reads what ``encode`` wrote.

    Example:
        >>> decode('{"loss": "-Infinity"}')
        {'loss': -inf}
    """
    return json.loads(
        text, object_hook=lambda d: {k: NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in d.items()}
    )


def _name_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _name_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_name_non_finite(item) for item in value]
    return value
