"""CRT (Zhang et al.): reconstruct dropped patches of the signal and of its spectrum from each other."""

from .base import Objective, System


SYSTEM = System(
    name="crt",
    title="CRT",
    classes={
        "AutoConfig": ".modeling.configuration_crt:CrtConfig",
        "AutoModel": ".modeling.modeling_crt:CrtModel",
        "AutoModelForSequenceClassification": ".modeling.modeling_crt:CrtForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_ecg_waveform:EcgWaveformFeatureExtractor",
    },
    objectives=(
        Objective(
            name="crt",
            model=".modeling.modeling_crt:CrtForPreTraining",
            summary="CRT: drop patches of the signal and of its spectrum and reconstruct all of them",
            parts="decoder and the projections of the discrimination loss",
            loss="squared error of all patches, and discrimination of the patches of a recording",
            loss_title="Squared error of the patches of signal, magnitude and phase, each standardized:",
        ),
    ),
    description="CRT (cross reconstruction transformer)",
    paper="Zhang et al., Self-Supervised Time Series Representation Learning via Cross Reconstruction Transformer, "
    "IEEE TNNLS 2023, [arXiv 2205.09928](https://arxiv.org/abs/2205.09928)",
    heads={
        "mean": "linear head on the mean of the class tokens of signal, magnitude and phase",
        "attention": "linear head on attention pooling of all tokens",
    },
)
