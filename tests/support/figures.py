"""What a page of figures holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def held_by(path: Path) -> dict[str, Any]:
    """Return what a page draws."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found
    held: dict[str, Any] = json.loads(found[1])
    return held
