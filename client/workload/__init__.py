"""Where the pictures of a run come from, and request bodies that are built ahead of the clock."""

from client.workload.again import jpegs_again
from client.workload.bodies import Bodies
from client.workload.sources import FilePictures, Pictures, SyntheticPictures, open_pictures
from client.workload.store import BodyStore

__all__ = ["Bodies", "BodyStore", "FilePictures", "Pictures", "SyntheticPictures", "jpegs_again", "open_pictures"]
