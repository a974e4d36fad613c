"""ECG-CPC (Al-Masud et al.): predict the output of convolutions some tokens ahead by state space layers."""

from .base import Converter, ReleasedWeights, System


SYSTEM = System(
    name="ecg_cpc",
    title="ECG-CPC",
    classes={
        "AutoConfig": ".modeling.configuration_ecg_cpc:EcgCpcConfig",
        "AutoModel": ".modeling.modeling_ecg_cpc:EcgCpcModel",
        "AutoModelForPreTraining": ".modeling.modeling_ecg_cpc:EcgCpcForPreTraining",
        "AutoModelForSequenceClassification": ".modeling.modeling_ecg_cpc:EcgCpcForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_ecg_cpc:EcgCpcFeatureExtractor",
    },
    description="ECG-CPC (independent implementation of the released network)",
    paper="Al-Masud, Lopez Alcaraz and Strodthoff, Benchmarking ECG FMs: A Reality Check Across Clinical Tasks, ICLR "
    "2026, [arXiv 2509.25095](https://arxiv.org/abs/2509.25095)",
    heads={
        "mean": "linear head on the mean over time",
        "attention": "linear head on attention pooling over time",
    },
    converter=Converter(
        function=".hub.convert_ecg_cpc:convert_ecg_cpc_to_folder",
        reads="the pre-trained ECG-CPC, also as the released zip archive, and its encoder alone",
        example="last_11597276.ckpt converted/ecg-cpc",
        weights=ReleasedWeights(
            data="10.7 million recordings of the Harvard-Emory ECG Database (HEEDB)",
            objective="contrastive predictive coding",
            num_parameters="3.2 M",
            inputs="12 leads, 2.5 s (at most 10 s in pre-training) at 240 Hz",
            source="figshare 30192604, file 58173919: a zip archive with `last_11597276.ckpt`",
            license_note="The repository of the code states no license; according to a third party, the weights on "
            "figshare have the license CC BY 4.0",
            hub_license="cc-by-4.0",
        ),
    ),
    conversion_notes={
        "released_file": {
            "last_11597276.ckpt": "Its digest is that of the released `last_11597276.ckpt`, as a third party states "
            "it."
        }
    },
)
