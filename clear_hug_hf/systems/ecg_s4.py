"""S4 encoder: convolutions of all leads together, and structured state space layers."""

from .base import System


SYSTEM = System(
    name="ecg_s4",
    title="S4",
    classes={
        "AutoConfig": ".modeling.configuration_ecg_s4:EcgS4Config",
        "AutoModel": ".modeling.modeling_ecg_s4:EcgS4Model",
        "AutoModelForSequenceClassification": ".modeling.modeling_ecg_s4:EcgS4ForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_ecg_waveform:EcgWaveformFeatureExtractor",
    },
    description="S4 encoder (convolutions and structured state space layers)",
    paper="Gu, Goel and Ré, Efficiently Modeling Long Sequences with Structured State Spaces, ICLR 2022, "
    "[arXiv 2111.00396](https://arxiv.org/abs/2111.00396); Gu, Gupta, Goel and Ré, On the Parameterization and "
    "Initialization of Diagonal State Space Models, NeurIPS 2022, [arXiv 2206.11893](https://arxiv.org/abs/2206.11893)",
    heads={
        "mean": "linear head on the mean over time",
        "attention": "linear head on attention pooling over time",
    },
)
