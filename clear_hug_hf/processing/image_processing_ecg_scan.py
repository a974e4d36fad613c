"""Image processor of ECG-Scan: pictures of ECG pages to what its models read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import TensorType

from .errors import InputError
from .page_finding import FoundPage, find_page
from .page_loading import import_pillow, load_page
from .setting_checks import Configurable, Flag, check_list


MIN_SIDE, MAX_SIDE = 32, 4096
"""Least and greatest height and width that a model may read [px]."""


def check_image_settings(pages: Any) -> None:
    """
    Refuse a size and a normalization of a model's pages that cannot be, and make them lists of plain numbers.

    Args:
        pages: What has the settings `image_size`, `image_mean` and `image_std` of [`EcgScanImageProcessor`].

    Raises:
        InputError: If one of them has other values than it can have.
    """
    check_list("image_size", pages.image_size, int)
    if len(pages.image_size) != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in pages.image_size):
        raise InputError(
            f"image_size is {list(pages.image_size)}: give height and width of at least {MIN_SIDE} px and at most "
            f"{MAX_SIDE} px"
        )
    check_list("image_mean", pages.image_mean, float, 3)
    check_list("image_std", pages.image_std, float, 3)
    if min(pages.image_std) <= 0:
        raise InputError(f"image_std is {list(pages.image_std)}: give 3 positive numbers")
    pages.image_size = [int(side) for side in pages.image_size]
    pages.image_mean, pages.image_std = ([float(one) for one in of] for of in (pages.image_mean, pages.image_std))


class EcgScanImageProcessor(Configurable, BaseImageProcessor):
    """
    Turns pictures of ECG pages, photographs, scans or drawn ones, into the `pixel_values` of [`EcgScanModel`].

    The page is looked for in the picture, turned upright and straightened; then it is resized straight to the model's
    size. Nothing is cropped: the usual center crop of CLIP's processor would cut the first and last leads off (spec
    2.4). The aspect is not kept: a page's width is time and its height voltage, whatever its proportions.

    Args:
        image_size (`Sequence[int]`): Height and width that the model reads [px].
        image_mean, image_std (`Sequence[float]`): Of the three colors, from 0 to 1: what pixel values are normalized
            by. CLIP's by default.
        do_find_page (`bool`): Whether to look for the page. Otherwise a picture is one, from edge to edge.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012

    image_size: Sequence[int] = (192, 256)
    image_mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711)
    do_find_page: Flag = True

    def check_settings(self) -> None:
        """Refuse sizes and colors that cannot be."""
        check_image_settings(self)

    def preprocess(
        self,
        images: Any,
        return_tensors: str | TensorType | None = None,
        *,
        do_find_page: bool | None = None,
        return_pages: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Read one picture or several.

        Args:
            images: A picture as [`load_page`] takes it, or a list of pictures.
            return_tensors (`str` or [`~utils.TensorType`], *optional*): `"pt"` or `"np"`.
            do_find_page (`bool`, *optional*): Overrides the configuration for this call.
            return_pages (`bool`, *optional*, defaults to `False`): Add `pages`, a [`FoundPage`] of each picture.

        Returns:
            [`BatchFeature`]: `pixel_values` `(num_pictures, 3, height, width)` float32.

        Raises:
            FileNotFoundError, InputError, ImportError: As [`load_page`] and [`find_page`]; which picture is said.
        """
        pictures = list(images) if isinstance(images, list | tuple) else [images]
        if not pictures:
            raise InputError("no picture was given: pass at least one")
        pages = []
        for index, one in enumerate(pictures):
            try:
                pages.append(self._find_page(one, do_find_page))
            except InputError as error:
                raise InputError(f"picture {index}: {error}" if len(pictures) > 1 else str(error)) from error
        seen = np.stack([self._resize(page.image) for page in pages])
        batch = BatchFeature({"pixel_values": self.normalize_pages(seen)}, tensor_type=return_tensors)
        if return_pages:
            batch["pages"] = pages
        return batch

    def page_of(self, image: Any, do_find_page: bool | None = None) -> np.ndarray:
        """
        The page in a picture at the model's size: what the model sees.

        Args:
            image, do_find_page: As [`preprocess`], one picture.

        Returns:
            `np.ndarray` of shape `(height, width, 3)`, uint8 [RGB].
        """
        return self._resize(self._find_page(image, do_find_page).image)

    def _find_page(self, image: Any, do_find_page: bool | None) -> FoundPage:
        """The page in a picture, or all of it."""
        picture = load_page(image)
        if self.do_find_page if do_find_page is None else do_find_page:
            return find_page(picture)
        height, width = picture.shape[:2]
        corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float32)
        return FoundPage(picture, corners, rotation=0, traces=float("nan"))

    def _resize(self, picture: np.ndarray) -> np.ndarray:
        height, width = self.image_size
        if picture.shape[:2] == (height, width):
            return picture
        image_module, _ = import_pillow()
        # Pillow's filters widen with the reduction, so that thin lines fade instead of vanishing.
        resized = image_module.fromarray(picture).resize((width, height), image_module.Resampling.BOX)
        return np.asarray(resized)

    def normalize_pages(self, pages: np.ndarray) -> np.ndarray:
        """
        Pages at the model's size as the model reads them.

        Args:
            pages (`np.ndarray` of shape `(num_pages, height, width, 3)`): uint8 [RGB].

        Returns:
            `np.ndarray` of shape `(num_pages, 3, height, width)`, float32.
        """
        mean, std = np.array(self.image_mean, np.float32), np.array(self.image_std, np.float32)
        scaled = pages.astype(np.float32) * (1 / (255 * std)) - mean / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


EcgScanImageProcessor.register_for_auto_class()
