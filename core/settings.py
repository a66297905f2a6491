"""Comparison of the settings of two runs."""

import json
from collections.abc import Collection, Mapping
from typing import Any

ABSENT = "absent"


def setting_differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], ignored: Collection[str] = (), prefix: str = ""
) -> list[str]:
    """Return one text per dotted key that differs, such as "train.steps is 10 there and 20 here".

    stored: settings read from a file. given: settings of this run; both may be nested. The keys in `ignored`
    may differ. A missing key equals null, so that settings of an older version compare.
    """
    before, now = _flat(dict(stored), prefix), _flat(dict(given), prefix)
    return [
        f"{key} is {before.get(key, ABSENT)} there and {now.get(key, ABSENT)} here"
        for key in now | before
        if key not in ignored and before.get(key) != now.get(key)
    ]


def _flat(value: Any, key: str) -> dict[str, Any]:
    """Return the leaves of nested settings by dotted key, as JSON stores them."""
    if not isinstance(value, dict):
        return {key: json.loads(json.dumps(value))}
    start = f"{key}." if key else ""
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        leaves |= _flat(inner, f"{start}{name}")
    return leaves
