"""HeartLang (Jin et al.): a recording as a sentence of beats, whose codes are predicted."""

from .base import System


SYSTEM = System(
    name="heartlang",
    title="HeartLang",
    classes={
        "AutoConfig": ".modeling.configuration_heartlang:HeartLangConfig",
        "AutoModel": ".modeling.modeling_heartlang:HeartLangModel",
        "AutoModelForPreTraining": ".modeling.modeling_heartlang:HeartLangForPreTraining",
        "AutoModelForSequenceClassification": ".modeling.modeling_heartlang:HeartLangForSequenceClassification",
        "AutoModelForAudioTokenization": ".modeling.modeling_heartlang:HeartLangTokenizerModel",
        "AutoFeatureExtractor": ".processing.feature_extraction_heartlang:HeartLangFeatureExtractor",
    },
    paper="Jin et al., Reading Your Heart: Learning ECG Words and Sentences via Pre-training ECG Language Model, "
    "ICLR 2025, [arXiv 2502.10707](https://arxiv.org/abs/2502.10707)",
    heads={
        "mean": "linear head on the class token",
        "attention": "linear head on attention pooling of the beats and the class token",
    },
)
