"""Real data for every chapter, read from installed packages and never from the network.

Chapter: course/data.md lists each source with its origin, licence, shape and a way to look at it.
"""

from companion.data.face_crops import faces
from companion.data.handwriting import digits
from companion.data.labelled import Labelled
from companion.data.language_model import smollm2
from companion.data.photo_tiles import photo_tiles
from companion.data.photographs import photos
from companion.data.python_reference import reference_text
from companion.data.restaurants import TableText, table_to_text

__all__ = [
    "Labelled",
    "TableText",
    "digits",
    "faces",
    "photo_tiles",
    "photos",
    "reference_text",
    "smollm2",
    "table_to_text",
]
