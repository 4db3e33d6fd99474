"""How points of the hyperboloid are stored in an engine that knows only flat metrics.

`PaddedLift` (Dot) ranks exactly in one stage and is right where radii are narrow, as those of encoders are;
`PoincareLift` (Euclid) with a second stage is for radii that span much, as those of trees do. `choose_lift` measures
both on a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.lift.base import Lift
from hysac_retrieval.lift.choose import choose_lift
from hysac_retrieval.lift.padded import PaddedLift
from hysac_retrieval.lift.poincare import PoincareLift

__all__ = ["Lift", "PaddedLift", "PoincareLift", "choose_lift", "lift_from_dict"]

_KINDS: dict[str, type[PaddedLift] | type[PoincareLift]] = {"padded": PaddedLift, "poincare": PoincareLift}


def lift_from_dict(data: Mapping[str, Any]) -> Lift:
    """Return the lift, of whichever kind, that `Lift.to_dict` wrote.

    Raises:
        SettingsError: The kind is not known, or its entries are wrong.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SettingsError(f"lift of kind {kind!r}; this version knows {', '.join(map(repr, _KINDS))}")
    return _KINDS[kind].from_dict(data)
