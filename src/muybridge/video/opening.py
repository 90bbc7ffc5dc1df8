"""A video of a data set is opened, wherever it lies: a file, a part of a file, a folder of pictures, an archive."""

from __future__ import annotations

from muybridge.structures import Item, SourceArgs
from muybridge.video.decode import Video, open_video


def open_item(item: Item, source: SourceArgs) -> Video:
    """Open a video to read frames by index.

    Args:
        item: the video.
        source: decoder and limits.

    Raises:
        VideoError: as `open_video`.
    """
    return open_video(item.path)
