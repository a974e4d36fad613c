"""
What turns recordings into model inputs: lead names, cleaning, beats, feature extractors.

The files of this folder are published beside the weights and import nothing of the rest of the package.
"""

from .beat_detection import DETECTORS, detect_r_peaks
from .beats import cut_beats, pad_peaks
from .errors import InputError
from .feature_extraction_clear_hug import ClearHugFeatureExtractor
from .feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from .leads import STANDARD_LEADS, arrange_leads, canonical_lead_name
from .recordings import RecordingFeatureExtractor


__all__ = [
    "DETECTORS",
    "STANDARD_LEADS",
    "ClearHugFeatureExtractor",
    "EcgJepaFeatureExtractor",
    "InputError",
    "RecordingFeatureExtractor",
    "arrange_leads",
    "canonical_lead_name",
    "cut_beats",
    "detect_r_peaks",
    "pad_peaks",
]
