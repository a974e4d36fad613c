"""ECGFounder (Li et al.): supervised on 10 million recordings; CLEF uses the same network for a single lead."""

from .base import Converter, ConverterOption, ReleasedWeights, System


SYSTEM = System(
    name="ecg_founder",
    title="ECGFounder",
    classes={
        "AutoConfig": ".modeling.configuration_ecg_founder:EcgFounderConfig",
        "AutoModel": ".modeling.modeling_ecg_founder:EcgFounderModel",
        "AutoModelForSequenceClassification": ".modeling.modeling_ecg_founder:EcgFounderForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_ecg_founder:EcgFounderFeatureExtractor",
    },
    description="ECGFounder (independent implementation of the released network)",
    paper="Li et al., An Electrocardiogram Foundation Model Built on over 10 Million Recordings, NEJM AI 2025, [arXiv "
    "2410.04133](https://arxiv.org/abs/2410.04133)",
    heads={
        "mean": "linear head on the mean over time",
        "attention": "linear head on attention pooling over time",
    },
    converter=Converter(
        function=".hub.convert_ecg_founder:convert_ecg_founder_to_folder",
        reads="ECGFounder with its 150 labels, for 12 leads or lead I, its fine-tuned classifiers, and CLEF",
        example="hf://PKUDigitalHealth/ECGFounder converted/ecg-founder",
        options={
            "labels": ConverterOption(
                help="label names of a classifier in the order of its outputs (default: the released ones if there "
                "are as many, else LABEL_0 LABEL_1 ...)",
                many=True,
                keyword="label_names",
            ),
            "preprocessing": ConverterOption(
                help="preprocessing to save with the model: that of the authors' fine-tuning, of their evaluation, or "
                "of the paper (default: fine_tuning)",
                choices=("fine_tuning", "evaluation", "paper"),
            ),
            "lead_names": ConverterOption(
                help="leads of the model, in order (default: the 12 standard leads, or I for a single one)", many=True
            ),
        },
        weights=ReleasedWeights(
            data="over 10 million recordings of the Harvard-Emory ECG Database (HEEDB)",
            objective="supervised with 150 labels from machine reports",
            num_parameters="30.8 M",
            inputs="12 leads (another file: lead I), 10 s at 500 Hz",
            source="Hub: `PKUDigitalHealth/ECGFounder`; CLEF: Zenodo 17572734",
            license_note="The repositories of code and weights state the MIT license (CLEF: BSD-3-Clause-Clear)",
            hub_license="mit",
            hub_files=("12_lead_ECGFounder.pth", "1_lead_ECGFounder.pth"),
        ),
    ),
    conversion_notes={
        "released_file": {
            "12_lead_ECGFounder.pth": "Its digest is that of the released `12_lead_ECGFounder.pth`, as other projects "
            "state it."
        }
    },
)
