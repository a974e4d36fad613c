"""
What turns recordings into model inputs: lead names, cleaning, beats, feature extractors.

The files of this folder are published beside the weights and import nothing of the rest of the package.
"""

from .lazy_names import lazy_names


_MODULES = {
    "DETECTORS": ".beat_detection",
    "LAYOUTS": ".ecg_paper",
    "RHYTHM_FEATURES": ".rhythm",
    "STANDARD_LEADS": ".leads",
    "EcgPage": ".ecg_paper",
    "FoundPage": ".page_finding",
    "InputError": ".errors",
    "PaperStyle": ".ecg_paper",
    "EcgFeatureExtractor": ".feature_extraction_ecg",
    "SignalReport": ".signal_report",
    "arrange_leads": ".leads",
    "augment_page": ".page_augmentation",
    "cut_beats": ".beats",
    "describe_signal": ".signal_report",
    "detect_r_peaks": ".beat_detection",
    "draw_page": ".ecg_paper",
    "find_page": ".page_finding",
    "lead_and_sign": ".leads",
    "load_page": ".page_loading",
    "measure_quality": ".signal_report",
    "measure_rhythm": ".rhythm",
    "pad_peaks": ".beats",
    "render_page": ".ecg_paper",
    "rhythm_features": ".rhythm",
}

__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
