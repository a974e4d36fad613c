"""ECG-FM (McKeen et al.): wav2vec 2.0 on twelve leads."""

from .base import Converter, ConverterOption, ReleasedWeights, System


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
    converter=Converter(
        function=".hub.convert_ecg_fm:convert_ecg_fm_to_folder",
        reads="ECG-FM, pre-trained or fine-tuned with its 17 labels, and its fine-tuned classifiers",
        example="hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt converted/ecg-fm-17-labels",
        options={
            "labels": ConverterOption(
                help="label names of a classifier in the order of its outputs (default: the released ones if there "
                "are as many, else LABEL_0 LABEL_1 ...)",
                many=True,
                keyword="label_names",
            ),
            "num_attention_heads": ConverterOption(
                help="attention heads of the encoder, which the file does not contain (default: those of the released "
                "size with the same width)"
            ),
        },
        weights=ReleasedWeights(
            data="1.5 million recordings of MIMIC-IV-ECG and the PhysioNet Challenge 2021",
            objective="wav2vec 2.0 with masked leads and contrastive learning between segments (CMSC)",
            num_parameters="90.9 M",
            inputs="12 leads, 5 s at 500 Hz",
            source="Hub: `wanglab/ecg-fm`",
            license_note="The repositories of code and weights state the MIT license",
            hub_license="mit",
            hub_files=("mimic_iv_ecg_physionet_pretrained.pt", "mimic_iv_ecg_finetuned.pt"),
        ),
    ),
    conversion_notes={
        "labels": {
            "released": "Its labels are those of the released classifier. As in the notebooks of its authors, the "
            "score of a recording is the maximum over its windows for five of them (`window_aggregation` of the "
            "config), and the mean for the others."
        }
    },
)
