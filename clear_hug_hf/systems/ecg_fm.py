"""ECG-FM (McKeen et al.): wav2vec 2.0 on twelve leads."""

from .base import System


SYSTEM = System(
    name="ecg_fm",
    title="ECG-FM",
    classes={
        "AutoConfig": ".modeling.configuration_ecg_fm:EcgFmConfig",
        "AutoModel": ".modeling.modeling_ecg_fm:EcgFmModel",
        "AutoModelForPreTraining": ".modeling.modeling_ecg_fm:EcgFmForPreTraining",
        "AutoModelForSequenceClassification": ".modeling.modeling_ecg_fm:EcgFmForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_ecg_fm:EcgFmFeatureExtractor",
    },
    description="ECG-FM (wav2vec 2.0 on twelve leads)",
    paper="McKeen et al., ECG-FM: an open electrocardiogram foundation model, JAMIA Open 2025, "
    "[arXiv 2408.05178](https://arxiv.org/abs/2408.05178)",
    heads={
        "mean": "linear head on the mean of all tokens",
        "attention": "linear head on attention pooling of all tokens",
    },
)
