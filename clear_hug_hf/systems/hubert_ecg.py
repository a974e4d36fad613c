"""HuBERT-ECG (Coppola et al.): HuBERT on the leads of a recording end to end."""

from .base import Converter, ConverterOption, ReleasedWeights, System


SYSTEM = System(
    name="hubert_ecg",
    title="HuBERT-ECG",
    classes={
        "AutoConfig": ".modeling.configuration_hubert_ecg:HubertEcgConfig",
        "AutoModel": ".modeling.modeling_hubert_ecg:HubertEcgModel",
        "AutoModelForPreTraining": ".modeling.modeling_hubert_ecg:HubertEcgForPreTraining",
        "AutoModelForSequenceClassification": ".modeling.modeling_hubert_ecg:HubertEcgForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_hubert_ecg:HubertEcgFeatureExtractor",
    },
    description="HuBERT-ECG (HuBERT on twelve leads end to end)",
    paper="Coppola et al., HuBERT-ECG as a self-supervised foundation model for broad and scalable cardiac "
    "applications, medRxiv 2024",
    heads={
        "mean": "linear head on the mean of all tokens",
        "attention": "linear head on attention pooling of all tokens",
    },
    converter=Converter(
        function=".hub.convert_hubert_ecg:convert_hubert_ecg_to_folder",
        reads="HuBERT-ECG as pre-trained, its encoder alone, and its fine-tuned classifiers",
        example="hf://Edoardo-BS/hubert-ecg-base converted/hubert-ecg-base",
        options={
            "labels": ConverterOption(
                help="label names of a classifier in the order of its outputs (default: LABEL_0 LABEL_1 ...)",
                many=True,
                keyword="label_names",
            ),
            "num_attention_heads": ConverterOption(
                help="attention heads of the encoder, which the file does not contain (default: those of the released "
                "size with the same width)"
            ),
        },
        weights=ReleasedWeights(
            data="9.1 million recordings",
            objective="prediction of the codes of masked tokens (HuBERT)",
            num_parameters="30 M (small), 93 M (base) or 189 M (large)",
            inputs="12 leads, 5 s at 100 Hz, end to end",
            source="Hub: `Edoardo-BS/hubert-ecg-base` (also `-small` and `-large`)",
            license_note="The repositories of code and weights state the license CC BY-NC 4.0, which forbids "
            "commercial use",
            hub_license="cc-by-nc-4.0",
            hub_files=("model.safetensors",),
        ),
    ),
)
