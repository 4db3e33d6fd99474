"""How sources are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields that hold the image, the text and the identity; None takes the first of the usual ones.

    Attributes:
        image: A file's name or, in Parquet tables and datasets, an encoded image. Default ``file``, else ``image``.
        text: Default ``caption``, else ``text``, else ``captions``; a string or a list of strings.
        id: Identity of a row within its table. By default it is the path of an image file, a text itself, or the number
            of a row that holds an encoded image.
    """

    image: str | None = None
    text: str | None = None
    id: str | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """Candidates for the image field, in order."""
        return ("file", "image") if self.image is None else (self.image,)

    @property
    def texts(self) -> tuple[str, ...]:
        """Candidates for the text field, in order."""
        return ("caption", "text", "captions") if self.text is None else (self.text,)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How sources are read.

    Attributes:
        include: Only files of folders that match one of these patterns, which are those of ``.gitignore``.
        exclude: Files and folders in folders to leave out, beside `DEFAULT_EXCLUDE`; ``!.thumbnails`` takes one back.
        sidecars: Whether the files beside an image that share its name describe it: ``.txt`` is its caption, ``.json``
            has further fields.
        captions: A table of captions and further fields for the images of folders, by file name.
        fields: Names of the fields of tables.
        types: Types of columns of CSV, by name: ``string``, ``int``, ``float`` or ``bool``. Others are inferred.
        index_captions: Whether captions are also indexed as texts of their own.
        chunk: Whether a text that is longer than the model reads becomes a point for each window of it; see `chunks`.
        namespace: Takes the place of the source's path in ids, so that they stay the same when the source moves. All
            that is in a namespace counts as one source.
        split: Split of a Hugging Face dataset; None for all of them.
        subset: Subset (configuration) of a Hugging Face dataset.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sidecars: bool = True
    captions: str | os.PathLike[str] | None = None
    fields: Fields = Fields()
    types: Mapping[str, str] = field(default_factory=dict)
    index_captions: bool = False
    chunk: bool = False
    namespace: str | None = None
    split: str | None = None
    subset: str | None = None
