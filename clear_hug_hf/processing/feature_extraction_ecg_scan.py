"""Feature extractor of ECG-Scan, which draws recordings as pages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np

from .ecg_paper import LAYOUTS, PaperStyle, draw_page
from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor
from .image_processing_ecg_scan import EcgScanImageProcessor, check_image_settings
from .leads import satisfies_identities
from .page_augmentation import augment_page
from .setting_checks import Flag, check_choice, check_number
from .signal_cleaning import canonical_unit


class EcgScanFeatureExtractor(EcgFeatureExtractor):
    """
    Draws recordings as pages for [`EcgScanModel`].

    The 12 leads are arranged by name, repaired and resampled. Each window of 10 s is drawn on ECG paper at 25 mm/s and
    10 mm/mV, directly at the input size of the model. The saved `preprocessor_config.json` also configures
    [`EcgScanImageProcessor`], so that a model folder supports recordings and images.

    Args:
        layout (`str`): Page layout: `"3x4"` with a rhythm strip of lead II, `"6x2"` or `"12x1"`.
        image_size, image_mean, image_std, do_find_page: See [`EcgScanImageProcessor`]. `image_size` is the size of the
            drawn pages.
        millivolts_per_unit (`float`, *optional*): Amplitude of one normalized unit (`NU`) [mV]. Required for
        recordings
            in `NU`, since a page has a scale.
        kwargs: See [`EcgFeatureExtractor`]. `do_rescale` is not supported, since a page has a scale.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    model_settings: ClassVar[tuple[str, ...]] = ("image_size",)

    bandpass_low = 0.5
    bandpass_order = 2
    layout: Annotated[str, partial(check_choice, choices=LAYOUTS)] = "3x4"
    image_size: Sequence[int] = EcgScanImageProcessor.image_size
    image_mean: Sequence[float] = EcgScanImageProcessor.image_mean
    image_std: Sequence[float] = EcgScanImageProcessor.image_std
    do_find_page: Flag = EcgScanImageProcessor.do_find_page
    millivolts_per_unit: Annotated[float | None, partial(check_number, low=1e-6, high=1e6, optional=True)] = None

    def __init__(self, **kwargs: Any):
        for name in ("do_rescale", "rescale_limit"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)

    def check_settings(self) -> None:
        """See [`EcgFeatureExtractor.check_settings`]."""
        super().check_settings()
        check_image_settings(self)
        if self.window_seconds > 10:
            raise InputError(f"window_seconds must be at most 10, the duration of a page, got {self.window_seconds:g}")

    @property
    def image_processor(self) -> EcgScanImageProcessor:
        """[`EcgScanImageProcessor`]: Image processor of the same model."""
        shared = ("image_size", "image_mean", "image_std", "do_find_page")
        return EcgScanImageProcessor(**{name: getattr(self, name) for name in shared})

    def to_dict(self) -> dict[str, Any]:
        """Serialize to a dictionary that also configures [`EcgScanImageProcessor`]."""
        fields = super().to_dict()
        fields["image_processor_type"] = EcgScanImageProcessor.__name__
        if fields.get("auto_map"):
            module = EcgScanImageProcessor.__module__.split(".")[-1]
            fields["auto_map"]["AutoImageProcessor"] = f"{module}.{EcgScanImageProcessor.__name__}"
        return fields

    def _clean(self, *args: Any) -> tuple[np.ndarray, np.ndarray]:
        """See [`EcgFeatureExtractor.clean`]. Converts `NU` to mV by `millivolts_per_unit`."""
        *_, unit = args
        units = [] if unit is None else [unit] if isinstance(unit, str) else list(unit)
        normalized = "NU" in map(canonical_unit, units)
        if normalized and self.millivolts_per_unit is None:
            raise InputError(
                "millivolts_per_unit must be set to draw a recording in normalized units (NU): 0.1 is close to the "
                "typical standard deviation of a filtered lead"
            )
        signal, present = super()._clean(*args)
        if normalized:
            if any(canonical_unit(lead_unit) != "NU" for lead_unit in units):
                raise InputError("leads in NU cannot be combined with leads in other units: use one unit for all")
            signal = signal * np.float32(self.millivolts_per_unit or 1.0)
        return signal, present

    def cut(
        self,
        signals: Sequence[np.ndarray],
        r_peaks: Sequence[np.ndarray],
        lead_masks: Sequence[np.ndarray],
        *,
        layouts: Sequence[str] | None = None,
        generators: Sequence[np.random.Generator] | None = None,
        strength: float = 0.0,
        return_targets: bool = False,
    ) -> dict[str, np.ndarray]:
        """
        Draw windows of a cleaned signal as pages.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`]. Signals are in mV; peaks are ignored.
            layouts (`Sequence[str]`, *optional*): Layout of each page; `layout` by default.
            generators (`Sequence[np.random.Generator]`, *optional*): Random generators of the style and augmentation
                of each page. Without them, all pages have the default style and are not augmented.
            strength (`float`, *optional*, defaults to `0.0`): Strength of the augmentation (see `augment_page`).
            return_targets (`bool`, *optional*, defaults to `False`): Whether to return the targets of pre-training.

        Returns:
            `dict[str, np.ndarray]`: `pixel_values` `(num_windows, 3, height, width)` float32; with targets also
            `waveforms` `(num_windows, 12, num_samples)` float32 [mV], `drawn_mask` and `signal_mask` of the same
            shape, True for samples that are visible on the page and that were recorded, and `identity_mask`
            `(num_windows,)`, True if all limb leads are present and satisfy the identities of Einthoven and
            Goldberger.
        """
        height, width = self.image_size
        pages = np.empty((len(signals), height, width, 3), dtype=np.uint8)
        shape = (len(signals), 12, self.window_samples)
        targets: dict[str, np.ndarray] = {}
        if return_targets:
            targets = {
                "waveforms": np.zeros(shape, dtype=np.float32),
                "drawn_mask": np.zeros(shape, dtype=bool),
                "signal_mask": np.zeros(shape, dtype=bool),
                "identity_mask": np.zeros(len(signals), dtype=bool),
            }
        for index, (signal, present) in enumerate(zip(signals, lead_masks, strict=True)):
            signal = np.asarray(signal[:, : self.window_samples])
            generator = None if generators is None else generators[index]
            page = draw_page(
                signal,
                self.sampling_rate,
                present,
                layout=self.layout if layouts is None else layouts[index],
                image_size=self.image_size,
                style=PaperStyle() if generator is None else PaperStyle.draw(generator),
            )
            image = page.image
            if generator is not None and strength:
                image = augment_page(image, generator, strength, pixels_per_mm=page.pixels_per_mm)
            pages[index] = image
            if return_targets:
                length = signal.shape[1]
                targets["waveforms"][index, :, :length] = signal
                targets["drawn_mask"][index, :, :length] = page.drawn
                targets["signal_mask"][index, :, :length] = np.asarray(present, dtype=bool)[:, None]
                targets["identity_mask"][index] = bool(np.all(present[:6])) and satisfies_identities(signal)
        return {"pixel_values": self.image_processor.normalize_pages(pages), **targets}


EcgScanFeatureExtractor.register_for_auto_class()
