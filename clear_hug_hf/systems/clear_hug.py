"""CLEAR-HUG: masked beats, sparse attention along leads and times, and a hierarchical head over lead groups."""

from .base import Converter, ConverterOption, Objective, ReleasedWeights, System


SYSTEM = System(
    name="clear_hug",
    title="CLEAR-HUG",
    is_default=True,
    classes={
        "AutoConfig": ".modeling.configuration_clear_hug:ClearHugConfig",
        "AutoModel": ".modeling.modeling_clear_hug:ClearHugModel",
        "AutoModelForSequenceClassification": ".modeling.modeling_clear_hug:ClearHugForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_clear_hug:ClearHugFeatureExtractor",
    },
    objectives=(
        Objective(
            name="clear",
            model=".modeling.modeling_clear_hug:ClearHugForPreTraining",
            summary="CLEAR: mask most beats of each recording and reconstruct them from the same beat in other leads "
            "and from the summary token of their lead",
            parts="decoder",
            loss="mean squared error of masked beats",
            loss_report=("loss of masked beats", " (1 for a flat line)"),
            loss_title="Mean squared error of masked beats, normalized to unit variance (1 for a flat line):",
            picture=".workflows.shared:draw_beat_reconstruction",
        ),
        Objective(
            name="mae",
            title="a masked autoencoder with full attention",
            model=".modeling.modeling_clear_hug:ClearHugForPreTraining",
            settings={"full_attention": True},
            summary="the paper's ablation of CLEAR: all tokens attend to all visible ones",
            parts="decoder",
            loss="mean squared error of masked beats",
            loss_report=("loss of masked beats", " (1 for a flat line)"),
            loss_title="Mean squared error of masked beats, normalized to unit variance (1 for a flat line):",
            picture=".workflows.shared:draw_beat_reconstruction",
        ),
    ),
    paper="Pan et al., Tracing the Heart's Pathways: ECG Representation Learning from a Cardiac Conduction "
    "Perspective, AAAI 2026, [arXiv 2512.24002](https://arxiv.org/abs/2512.24002)",
    published={
        "HeartLang": {
            "ptbxl_sub": (64.68, 79.34, 88.91),
            "ptbxl_super": (78.94, 85.59, 87.52),
            "ptbxl_form": (58.70, 63.99, 80.23),
            "ptbxl_rhythm": (62.08, 76.22, 90.34),
            "cpsc9": (60.44, 66.26, 77.87),
            "csn_published": (57.94, 68.93, 82.49),
        },
        "ST-MEM": {
            "ptbxl_sub": (54.12, 57.86, 63.59),
            "ptbxl_super": (61.12, 66.87, 71.36),
            "ptbxl_form": (55.71, 59.99, 66.07),
            "ptbxl_rhythm": (51.12, 65.44, 74.85),
            "cpsc9": (56.69, 63.32, 70.39),
            "csn_published": (59.77, 66.87, 71.36),
        },
        "CLEAR, mean + linear": {
            "ptbxl_sub": (73.86, 80.11, 89.30),
            "ptbxl_super": (78.59, 85.43, 88.68),
            "ptbxl_form": (61.00, 69.96, 80.34),
            "ptbxl_rhythm": (79.24, 86.72, 93.66),
            "cpsc9": (64.82, 78.10, 89.59),
            "csn_published": (62.88, 76.33, 86.75),
        },
        "CLEAR-HUG": {
            "ptbxl_sub": (76.66, 84.59, 91.44),
            "ptbxl_super": (79.61, 86.85, 90.24),
            "ptbxl_form": (61.01, 75.19, 82.86),
            "ptbxl_rhythm": (79.48, 90.57, 94.08),
            "cpsc9": (66.97, 82.59, 91.17),
            "csn_published": (72.09, 82.14, 89.93),
        },
    },
    heads={
        "hug": "HUG head, which combines lead groups individually, in pairs and all together",
        "mean": "linear head on the mean of all leads",
        "weighted": "linear head on a learned weighting of the leads",
        "single_level": "head on lead groups without pairs",
        "attention": "linear head on attention pooling of all beats and summary tokens",
    },
    converter=Converter(
        function=".hub.convert_clear_hug:convert_to_folder",
        reads="CLEAR pre-trained, with a linear classifier or with HUG, in the sizes base and large",
        example="checkpoint-99.pth converted/clear-base",
        options={
            "labels": ConverterOption(
                help="label names of a classifier in the order of its outputs (default: LABEL_0 LABEL_1 ...)",
                many=True,
                keyword="label_names",
            ),
            "cls_attention": ConverterOption(
                help="attention of summary tokens, as in the released code (reference_bias) or as in the paper "
                "(default: reference_bias)",
                choices=("reference_bias", "lead"),
            ),
            "num_attention_heads": ConverterOption(
                help="attention heads of the encoder, which the file does not contain (default: those of the released "
                "size with the same width)"
            ),
            "decoder_num_attention_heads": ConverterOption(help="attention heads of the decoder (default: likewise)"),
        },
        weights=ReleasedWeights(
            data="0.8 million recordings of MIMIC-IV-ECG",
            objective="reconstruction of masked beats",
            num_parameters="56.6 M with its decoder",
            inputs="12 leads, up to 15 beats of 0.96 s in 10 s, at 100 Hz",
            source="links in the authors' repository `Ashespt/CLEAR-HUG`",
            license_note="Their repository states no license",
        ),
    ),
    conversion_notes={
        "cls_attention": {
            "reference_bias": "The encoder runs as in the released code (`cls_attention=reference_bias`).",
            "lead": "The encoder runs as described in the paper (`cls_attention=lead`).",
        }
    },
)
