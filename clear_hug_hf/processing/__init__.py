"""
What turns recordings into model inputs: lead names, cleaning, beats, feature extractors.

The files of this folder are published beside the weights and import nothing of the rest of the package.
"""

from .beat_detection import DETECTORS, detect_r_peaks
from .beats import cut_beats, pad_peaks
from .ecg_paper import LAYOUTS, EcgPage, PaperStyle, draw_page, render_page
from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor
from .leads import STANDARD_LEADS, arrange_leads, lead_and_sign
from .page_augmentation import augment_page
from .page_finding import FoundPage, find_page
from .page_loading import load_page
from .signal_report import SignalReport, describe_signal, measure_quality


__all__ = [
    "DETECTORS",
    "LAYOUTS",
    "STANDARD_LEADS",
    "EcgPage",
    "FoundPage",
    "InputError",
    "PaperStyle",
    "EcgFeatureExtractor",
    "SignalReport",
    "arrange_leads",
    "augment_page",
    "cut_beats",
    "describe_signal",
    "detect_r_peaks",
    "draw_page",
    "find_page",
    "lead_and_sign",
    "load_page",
    "measure_quality",
    "pad_peaks",
    "render_page",
]
