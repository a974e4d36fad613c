"""Feature extractor of ECG-Scan: any recording of the 12-lead ECG to a drawn page, as its models read pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .ecg_paper import LAYOUTS, PaperStyle, draw_page
from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor
from .image_processing_ecg_scan import EcgScanImageProcessor, checked_image_settings
from .leads import STANDARD_LEADS, limb_lead
from .page_augmentation import augment_page
from .setting_checks import check_choice, check_flag, check_number
from .signal_cleaning import canonical_unit


IDENTITY_TOLERANCE = 0.1
"""Limb leads obey Einthoven's and Goldberger's identities where what is left of them is below this share of the leads,
both as root mean squares."""


class EcgScanFeatureExtractor(EcgFeatureExtractor):
    """
    Turns recordings into drawn pages, which [`EcgScanModel`] reads as it reads pictures.

    A recording is put into 12 named leads, repaired and resampled; each window of 10 s is drawn in mV on ECG paper at
    25 mm/s and 10 mm/mV, directly at the model's size. The saved `preprocessor_config.json` is that of
    [`EcgScanImageProcessor`], too, so that a model's folder serves recordings and pictures alike.

    Args:
        sampling_rate (`float`, *optional*, defaults to `100.0`): Rate that pages are drawn from and reconstructions
            are at [Hz].
        layout (`str`, *optional*, defaults to `"3x4"`):
            How a page is laid out: `"3x4"` with a strip of lead II, `"6x2"` or `"12x1"`.
        image_size (`Sequence[int]`, *optional*, defaults to `(192, 256)`):
            Height and width of the pages [px]; a page is squashed straight to it, nothing is cropped.
        image_mean, image_std (`Sequence[float]`, *optional*, default to CLIP's):
            Of the three colours, from 0 to 1: what pixel values are normalised by.
        millivolts_per_unit (`float`, *optional*):
            How many mV one unit of a recording in `NU` is drawn as. Without it such recordings are refused: a page has
            a scale, and theirs is not known.
        do_find_page (`bool`, *optional*, defaults to `True`):
            Whether the image processor looks for the page in a picture. Drawn pages are taken as they are.
        window_seconds (`float`, *optional*, defaults to `10.0`): Length of a page [s].
        windows (`str`, *optional*, defaults to `"first"`):
            Part of a longer recording that is used: `"first"`, `"center"`, or `"all"` for every window
            `stride_seconds` apart (the last one moved back so that it ends with the recording).
        stride_seconds (`float`, *optional*): Step between windows with `windows="all"` [s]; `window_seconds` by
            default.
        detector (`str`, *optional*, defaults to `"multilead"`):
            Name of the R-peak detector. The model reads no beats: they are searched where a data set is prepared.
        on_no_beats (`str`, *optional*, defaults to `"mask"`):
            What happens to a window without any beat: `"raise"` an error, or `"mask"`, which keeps it.
        do_repair (`bool`, *optional*, defaults to `True`): Repair NaN and Inf from their neighbours; else refuse them.
        max_non_finite (`float`, *optional*, defaults to `0.2`):
            Share of NaN and Inf samples up to which a lead is repaired; a lead with more counts as missing.
            A window is left out if all leads are missing, or none changes for 0.5 s, in a larger share of it.
        do_derive_leads (`bool`, *optional*, defaults to `True`):
            Compute absent III, aVR, aVL and aVF from I and II (never for unit `NU`, where the identities do not hold).
        do_resample (`bool`, *optional*, defaults to `True`): Resample other rates; else refuse them.
        do_bandpass (`bool`, *optional*, defaults to `False`):
            Band-pass between `bandpass_low` and `bandpass_high`.
        bandpass_low (`float`, *optional*, defaults to `0.5`): Lower corner [Hz].
        bandpass_high (`float`, *optional*, defaults to `40.0`): Upper corner [Hz].
        bandpass_order (`int`, *optional*, defaults to `2`): Order of the Butterworth filter, run in both directions.
        do_mask_flat_leads (`bool`, *optional*, defaults to `True`):
            Count a lead without any variation (an electrode that fell off) as missing.
        min_seconds (`float`, *optional*, defaults to `1.0`): Shortest accepted recording [s].
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    reads_beats: ClassVar[bool] = False

    def __init__(
        self,
        sampling_rate: float = 100.0,
        layout: str = "3x4",
        image_size: Sequence[int] = (192, 256),
        image_mean: Sequence[float] = EcgScanImageProcessor.IMAGE_MEAN,
        image_std: Sequence[float] = EcgScanImageProcessor.IMAGE_STD,
        millivolts_per_unit: float | None = None,
        do_find_page: bool = True,
        window_seconds: float = 10.0,
        windows: str = "first",
        stride_seconds: float | None = None,
        detector: str = "multilead",
        on_no_beats: str = "mask",
        do_repair: bool = True,
        max_non_finite: float = 0.2,
        do_derive_leads: bool = True,
        do_resample: bool = True,
        do_bandpass: bool = False,
        bandpass_low: float = 0.5,
        bandpass_high: float = 40.0,
        bandpass_order: int = 2,
        do_mask_flat_leads: bool = True,
        min_seconds: float = 1.0,
        **kwargs: Any,
    ):
        # Of the base, but of no use here: a page has a scale.
        kwargs.pop("do_rescale", None), kwargs.pop("rescale_limit", None)
        super().__init__(
            sampling_rate=sampling_rate,
            window_seconds=window_seconds,
            windows=windows,
            stride_seconds=stride_seconds,
            detector=detector,
            on_no_beats=on_no_beats,
            do_repair=do_repair,
            max_non_finite=max_non_finite,
            do_derive_leads=do_derive_leads,
            do_resample=do_resample,
            do_bandpass=do_bandpass,
            bandpass_low=bandpass_low,
            bandpass_high=bandpass_high,
            bandpass_order=bandpass_order,
            do_rescale=False,
            rescale_limit=3.0,
            do_mask_flat_leads=do_mask_flat_leads,
            min_seconds=min_seconds,
            **kwargs,
        )
        self.lead_names = list(STANDARD_LEADS)
        self.layout = layout
        self.image_size, self.image_mean, self.image_std = checked_image_settings(image_size, image_mean, image_std)
        self.millivolts_per_unit = millivolts_per_unit
        self.do_find_page = do_find_page
        check_choice("layout", layout, LAYOUTS)
        check_flag("do_find_page", do_find_page)
        if window_seconds > 10:
            raise InputError(f"window_seconds is {window_seconds:g}: a page shows 10 s at most")
        check_number("millivolts_per_unit", millivolts_per_unit, 1e-6, 1e6, optional=True)

    @property
    def image_processor(self) -> EcgScanImageProcessor:
        """[`EcgScanImageProcessor`]: What reads pictures for the same model."""
        return EcgScanImageProcessor(
            image_size=self.image_size,
            image_mean=self.image_mean,
            image_std=self.image_std,
            do_find_page=self.do_find_page,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything that is saved: also what makes the file one of [`EcgScanImageProcessor`]."""
        fields = super().to_dict()
        fields.pop("lead_names", None)
        fields["image_processor_type"] = EcgScanImageProcessor.__name__
        if fields.get("auto_map"):
            module = EcgScanImageProcessor.__module__.split(".")[-1]
            fields["auto_map"] = {
                **fields["auto_map"],
                "AutoImageProcessor": f"{module}.{EcgScanImageProcessor.__name__}",
            }
        return fields

    def clean(
        self,
        waveform: np.ndarray,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        unit: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        One recording as 12 clean leads at the model's rate [mV], whole length: arguments, result and errors as in
        [`EcgFeatureExtractor.clean`].

        Raises:
            InputError: Also if a lead is in `NU` and `millivolts_per_unit` is not set.
        """
        units = [] if unit is None else [unit] if isinstance(unit, str) else list(unit)
        normalised = "NU" in map(canonical_unit, units)
        if normalised and self.millivolts_per_unit is None:
            raise InputError(
                "the recording is in NU, normalised by an unknown scale, and a page is drawn in mV: set "
                "`millivolts_per_unit` (0.1 is near what a deviation of a filtered lead usually is)"
            )
        signal, present = super().clean(waveform, sampling_rate, lead_names, unit, **kwargs)
        if normalised:
            if any(canonical_unit(one) != "NU" for one in units):
                raise InputError("some leads are in NU and some are not: give all in one unit")
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
        Draw windows of clean signal as pages.

        Args:
            signals (`Sequence[np.ndarray]`): Windows `(12, num_samples)` at the model's rate [mV]; what is longer than
                `window_seconds` is left out.
            r_peaks (`Sequence[np.ndarray]`): Not read.
            lead_masks (`Sequence[np.ndarray]`): Lead masks `(12,)`.
            layouts (`Sequence[str]`, *optional*): Layout of each page; `layout` by default.
            generators (`Sequence[np.random.Generator]`, *optional*): Draw the style of each page and how it was
                photographed; without them all are clean and of one style.
            strength (`float`, *optional*, defaults to `0.0`): Of the augmentations (see `augment_page`).
            return_targets (`bool`, *optional*, defaults to `False`): Whether to give what pre-training needs, too.

        Returns:
            `dict[str, np.ndarray]`: `pixel_values` `(num_windows, 3, height, width)` float32; with targets also
            `waveforms` `(num_windows, 12, num_samples)` float32 [mV], `drawn_mask` and `signal_mask` of the same
            shape, true for samples that the page shows and that were recorded, and `identity_mask` `(num_windows,)`,
            true where all limb leads are there and obey the identities of Einthoven and Goldberger, as measured.
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
                targets["identity_mask"][index] = bool(np.all(present[:6])) and obeys_identities(signal)
        return {"pixel_values": self.image_processor.normalize_pages(pages), **targets}


def obeys_identities(signal: np.ndarray) -> bool:
    """
    Whether the limb leads of a recording obey Einthoven's and Goldberger's identities within [`IDENTITY_TOLERANCE`].

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Leads in standard order.
    """
    limb = signal[:6].astype(np.float64)
    names = STANDARD_LEADS[2:6]
    residuals = limb[2:] - np.stack([limb_lead(name, limb[0], limb[1]) for name in names])
    level = float(np.sqrt(np.mean(np.square(signal[:6], dtype=np.float64))))
    return level > 0 and float(np.sqrt(np.mean(residuals**2))) < IDENTITY_TOLERANCE * level


EcgScanFeatureExtractor.register_for_auto_class()
