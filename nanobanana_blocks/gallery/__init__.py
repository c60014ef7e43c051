"""A gallery of a destination: static HTML pages beside the images, made from what is in storage."""

from nanobanana_blocks.gallery.contents import read_contents
from nanobanana_blocks.gallery.making import GalleryReport, make_gallery, make_gallery_of_batch
from nanobanana_blocks.gallery.pages import (
    GalleryContents,
    GalleryEntry,
    GalleryFailure,
    publish_gallery,
)
from nanobanana_blocks.gallery.thumbnails import thumbnails_of

__all__ = [
    "GalleryContents",
    "GalleryEntry",
    "GalleryFailure",
    "GalleryReport",
    "make_gallery",
    "make_gallery_of_batch",
    "publish_gallery",
    "read_contents",
    "thumbnails_of",
]
