"""Residual networks over time (He et al.) as MERL pre-trains them (Liu et al.), for objectives of any encoder."""

from .base import System


SYSTEM = System(
    name="ecg_resnet",
    title="ECG-ResNet",
    classes={
        "AutoConfig": ".modeling.configuration_ecg_resnet:EcgResNetConfig",
        "AutoModel": ".modeling.modeling_ecg_resnet:EcgResNetModel",
        "AutoModelForSequenceClassification": ".modeling.modeling_ecg_resnet:EcgResNetForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_ecg_waveform:EcgWaveformFeatureExtractor",
    },
    description="ECG-ResNet (one-dimensional residual network)",
    paper="Liu et al., Zero-Shot ECG Classification with Multimodal Learning and Test-time Clinical Knowledge "
    "Enhancement (MERL), ICML 2024, [arXiv 2403.06659](https://arxiv.org/abs/2403.06659), for the network",
    heads={
        "mean": "linear head on the mean over time",
        "attention": "linear head on attention pooling over time",
    },
)
