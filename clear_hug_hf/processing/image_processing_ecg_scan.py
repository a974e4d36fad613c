"""Image processor of ECG-Scan."""

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
"""Minimum and maximum height and width of model inputs [px]."""


def check_image_settings(processor: Any) -> None:
    """
    Validate size and normalization of the images, and convert them to lists.

    Args:
        processor: Object with the settings `image_size`, `image_mean` and `image_std` of [`EcgScanImageProcessor`].

    Raises:
        InputError: If a setting is invalid.
    """
    check_list("image_size", processor.image_size, int)
    if len(processor.image_size) != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in processor.image_size):
        raise InputError(
            f"image_size must be a height and a width between {MIN_SIDE} and {MAX_SIDE} px, got "
            f"{list(processor.image_size)}"
        )
    check_list("image_mean", processor.image_mean, float, 3)
    check_list("image_std", processor.image_std, float, 3)
    if min(processor.image_std) <= 0:
        raise InputError(f"image_std must be 3 positive numbers, got {list(processor.image_std)}")
    processor.image_size = [int(side) for side in processor.image_size]
    processor.image_mean = [float(mean) for mean in processor.image_mean]
    processor.image_std = [float(std) for std in processor.image_std]


class EcgScanImageProcessor(Configurable, BaseImageProcessor):
    """
    Converts images of ECG pages (photographs, scans or drawings) to `pixel_values` for [`EcgScanModel`].

    The page is located in the image, rotated and rectified, and resized to the input size of the model. It is never
    cropped, since the usual center crop of CLIP would cut off the first and last leads. The aspect ratio is not
    preserved: the width of a page represents time and its height voltage.

    Args:
        image_size (`Sequence[int]`): Height and width of the model input [px].
        image_mean, image_std (`Sequence[float]`): Mean and standard deviation of the color channels in [0, 1] for
            normalization. Defaults to those of CLIP.
        do_find_page (`bool`): Whether to locate the page. Otherwise the entire image is the page.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012

    image_size: Sequence[int] = (192, 256)
    image_mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711)
    do_find_page: Flag = True

    def check_settings(self) -> None:
        """See [`check_image_settings`]."""
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
        Prepare one or more images.

        Args:
            images: One image in a form that [`load_page`] accepts, or a list of images.
            return_tensors (`str` or [`~utils.TensorType`], *optional*): `"pt"` or `"np"`.
            do_find_page (`bool`, *optional*): Overrides the setting for this call.
            return_pages (`bool`, *optional*, defaults to `False`): Add `pages`, the [`FoundPage`] of each image.

        Returns:
            [`BatchFeature`]: `pixel_values` `(num_images, 3, height, width)` float32.

        Raises:
            FileNotFoundError, InputError, ImportError: See [`load_page`] and [`find_page`].
        """
        images = list(images) if isinstance(images, list | tuple) else [images]
        if not images:
            raise InputError("no image was passed: pass at least one")
        pages = []
        for index, image in enumerate(images):
            try:
                pages.append(self._find_page(image, do_find_page))
            except InputError as error:
                raise InputError(f"image {index}: {error}" if len(images) > 1 else str(error)) from error
        resized = np.stack([self._resize(page.image) for page in pages])
        batch = BatchFeature({"pixel_values": self.normalize_pages(resized)}, tensor_type=return_tensors)
        if return_pages:
            batch["pages"] = pages
        return batch

    def page_of(self, image: Any, do_find_page: bool | None = None) -> np.ndarray:
        """
        Page of an image at the input size of the model, before normalization.

        Args:
            image, do_find_page: See [`preprocess`].

        Returns:
            `np.ndarray` of shape `(height, width, 3)`, uint8 [RGB].
        """
        return self._resize(self._find_page(image, do_find_page).image)

    def _find_page(self, image: Any, do_find_page: bool | None) -> FoundPage:
        """Locate the page in an image, or use the entire image."""
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
        # The filters of Pillow scale with the reduction factor, so that thin lines fade instead of disappearing.
        resized = image_module.fromarray(picture).resize((width, height), image_module.Resampling.BOX)
        return np.asarray(resized)

    def normalize_pages(self, pages: np.ndarray) -> np.ndarray:
        """
        Normalize pages at the input size of the model.

        Args:
            pages (`np.ndarray` of shape `(num_pages, height, width, 3)`): Pages, uint8 [RGB].

        Returns:
            `np.ndarray` of shape `(num_pages, 3, height, width)`, float32.
        """
        mean, std = np.array(self.image_mean, np.float32), np.array(self.image_std, np.float32)
        scaled = pages.astype(np.float32) * (1 / (255 * std)) - mean / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


EcgScanImageProcessor.register_for_auto_class()
