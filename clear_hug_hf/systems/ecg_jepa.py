"""ECG-JEPA (Kim): predict a teacher's hidden states at masked times from the visible ones."""

from .base import Converter, ConverterOption, Objective, ReleasedWeights, System


SYSTEM = System(
    name="ecg_jepa",
    title="ECG-JEPA",
    classes={
        "AutoConfig": ".modeling.configuration_ecg_jepa:EcgJepaConfig",
        "AutoModel": ".modeling.modeling_ecg_jepa:EcgJepaModel",
        "AutoModelForSequenceClassification": ".modeling.modeling_ecg_jepa:EcgJepaForSequenceClassification",
        "AutoModelForTokenClassification": ".modeling.modeling_ecg_jepa:EcgJepaForTokenClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_ecg_jepa:EcgJepaFeatureExtractor",
    },
    objectives=(
        Objective(
            name="jepa",
            model=".modeling.modeling_ecg_jepa:EcgJepaForPreTraining",
            summary="ECG-JEPA: mask the same times in all leads and predict the teacher's hidden states there",
            parts="teacher and the predictor",
            loss="prediction error of the teacher's states",
            loss_title="Prediction error of the teacher's hidden states at masked times:",
        ),
    ),
    description="ECG-JEPA (Kim, with cross-pattern attention)",
    paper="Kim, Learning General Representation of 12-Lead Electrocardiogram with a Joint-Embedding Predictive "
    "Architecture, [arXiv 2410.08559](https://arxiv.org/abs/2410.08559)",
    converter=Converter(
        function=".hub.convert_ecg_jepa:convert_ecg_jepa_to_folder",
        reads="the encoder of ECG-JEPA (Kim), alone or with teacher and predictor",
        example="multiblock_epoch100.pth converted/ecg-jepa-base",
        options={
            "num_attention_heads": ConverterOption(
                help="attention heads of the encoder, which the file does not contain (default: those of the released "
                "size with the same width)"
            ),
            "predictor_num_attention_heads": ConverterOption(
                help="attention heads of the predictor (default: likewise)"
            ),
        },
        weights=ReleasedWeights(
            data="recordings of Chapman-Shaoxing, Ningbo and CODE-15%",
            objective="prediction of a teacher's states at masked times",
            num_parameters="85.4 M",
            inputs="8 leads, 10 s at 250 Hz",
            source="Google Drive, linked in the author's repository `sehunfromdaegu/ECG_JEPA`",
            license_note="Their repository has the MIT license but does not mention the weights",
        ),
    ),
)
