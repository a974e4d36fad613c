"""ECG-Scan: pages of ECG paper, aligned with what other encoders make of the same recordings' signals and reports."""

from .base import Objective, System


SYSTEM = System(
    name="ecg_scan",
    title="ECG-Scan",
    classes={
        "AutoConfig": ".modeling.configuration_ecg_scan:EcgScanConfig",
        "AutoModel": ".modeling.modeling_ecg_scan:EcgScanModel",
        "AutoModelForImageClassification": ".modeling.modeling_ecg_scan:EcgScanForImageClassification",
        "AutoModelForZeroShotImageClassification": ".modeling.modeling_ecg_scan:EcgScanModel",
        "AutoFeatureExtractor": ".processing.feature_extraction_ecg_scan:EcgScanFeatureExtractor",
        "AutoImageProcessor": ".processing.image_processing_ecg_scan:EcgScanImageProcessor",
    },
    objectives=(
        Objective(
            name="alignment",
            model=".modeling.modeling_ecg_scan:EcgScanForPreTraining",
            summary="ECG-Scan: align drawn pages with what a pre-trained encoder of signals (--signal-encoder) and a "
            "text encoder make of the same recordings",
            parts="signal teacher, the text encoder and the decoder",
            supervision="with the recordings' reports, and their labels in words where there is no report",
            loss="sum of the weighted terms",
            loss_title="Sum of the contrasts of pages with signals and texts, the reconstruction and the lead "
            "constraint:",
            collator=".data.pages:PageCollator",
            augmentation=1.0,
            teachers=("signal_encoder", "vision", "text"),
            reads_texts=True,
            needs_full_batch=True,
            picture=".workflows.shared:draw_page_reconstruction",
        ),
    ),
    description="ECG-Scan (an implementation of the published idea)",
    paper="Pham et al., Learning ECG Image Representations via Dual Physiological-Aware Alignments, [arXiv "
    "2604.01526](https://arxiv.org/abs/2604.01526); of which only the abstract could be read: this is an "
    "implementation of the published idea, and where the paper is silent, the choices are those of `clear-hug-hf`",
)
