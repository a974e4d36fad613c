"""ECG-Scan: pages of ECG paper, aligned with embeddings of the same recordings' signals and reports."""

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
            summary="ECG-Scan: align rendered pages with embeddings of a pre-trained signal encoder "
            "(--signal-encoder) and of a text encoder for the same recordings",
            parts="signal teacher, the text encoder and the decoder",
            supervision="with the reports of the recordings, or their label names if there is no report",
            loss="weighted sum of losses",
            loss_title="Weighted sum of the contrastive losses with signals and texts, the reconstruction loss and "
            "the lead constraint:",
            collator=".data.pages:PageCollator",
            augmentation=1.0,
            teachers=("signal_encoder", "vision", "text"),
            reads_texts=True,
            needs_full_batch=True,
            picture=".workflows.shared:draw_page_reconstruction",
        ),
    ),
    description="ECG-Scan (independent implementation of the published idea)",
    paper="Pham et al., Learning ECG Image Representations via Dual Physiological-Aware Alignments, [arXiv "
    "2604.01526](https://arxiv.org/abs/2604.01526). Reimplemented from the abstract alone; all details that it does "
    "not specify are choices of `clear-hug-hf`",
)
