"""Settings of the server, from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hysac_retrieval.errors import SettingsError


class Settings(BaseModel):
    """Settings of the server. The names of the variables are those of mcp-server-qdrant where it has them."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    collection: str = Field("", alias="COLLECTION_NAME", description="Name of the collection; a service has its own.")
    service: str | None = Field(None, alias="HYSAC_SERVICE", description="Address of a `hysac serve`.")
    key: str | None = Field(None, alias="HYSAC_KEY", repr=False, description="Key for `service`.")
    url: str | None = Field(None, alias="QDRANT_URL", description="Address of a Qdrant server.")
    api_key: str | None = Field(None, alias="QDRANT_API_KEY", repr=False, description="Key for `url`.")
    local_path: Path | None = Field(None, alias="QDRANT_LOCAL_PATH", description="Folder of the embedded engine.")
    limit: int = Field(10, ge=1, le=100, alias="QDRANT_SEARCH_LIMIT", description="Hits of a search, by default.")
    model: str = Field("hysac-mini", alias="HYSAC_MODEL", description="Bundled name, folder or hub repository.")
    threshold: float | None = Field(None, ge=0, le=1, alias="HYSAC_THRESHOLD", description="Stricter than the model's.")
    allow_unsafe: bool = Field(False, alias="HYSAC_ALLOW_UNSAFE", description="Whether tools have an argument `safe`.")
    image_root: Path | None = Field(None, alias="HYSAC_IMAGE_ROOT", description="Folder whose files may be queries.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the variables; one that is empty counts as not set.

        Raises:
            SettingsError: One is missing, malformed, or contradicts another.
        """
        try:
            return cls.model_validate({name: value for name, value in environ.items() if value.strip()})
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors()]
            raise SettingsError("; ".join(faults), hint="Set the environment variables") from None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.service is None) == (not self.collection):
            raise ValueError("set COLLECTION_NAME, unless HYSAC_SERVICE is set, which has its own")
        if [self.url, self.local_path, self.service].count(None) != 2:
            raise ValueError("set exactly one of QDRANT_URL, QDRANT_LOCAL_PATH and HYSAC_SERVICE")
        return self
