"""CLEAR-HUG: masked beats, sparse attention along leads and times, and a hierarchical head over lead groups."""

from .base import Converter, ConverterOption, Objective, ReleasedWeights, System


# Macro AUROC in percent with 1, 10 and 100% of the labels (Pan et al., 2026, Table 1), in the order of the paper.
_LABEL_SETS = ("ptbxl_sub", "ptbxl_super", "ptbxl_form", "ptbxl_rhythm", "cpsc9", "csn_published")
_TABLE_1 = {
    "SimCLR": (
        (60.84, 68.27, 73.39),
        (63.41, 69.77, 73.53),
        (54.98, 56.97, 62.52),
        (51.41, 69.44, 77.73),
        (59.78, 68.52, 76.54),
        (59.02, 67.26, 73.20),
    ),
    "BYOL": (
        (57.16, 67.44, 71.64),
        (71.70, 73.83, 76.45),
        (48.73, 61.63, 70.82),
        (41.99, 74.40, 77.17),
        (60.88, 74.42, 78.75),
        (54.20, 71.92, 74.69),
    ),
    "MoCo v3": (
        (55.88, 69.21, 76.69),
        (73.19, 76.65, 78.26),
        (50.32, 63.71, 71.31),
        (51.38, 71.66, 74.33),
        (62.13, 76.74, 75.29),
        (54.61, 74.26, 77.68),
    ),
    "SimSiam": (
        (62.52, 69.31, 76.38),
        (73.15, 72.70, 75.63),
        (55.16, 62.91, 71.31),
        (49.30, 69.47, 75.92),
        (58.35, 72.89, 75.31),
        (58.25, 68.61, 77.41),
    ),
    "TS-TCC": (
        (53.54, 66.98, 77.87),
        (70.73, 75.88, 78.91),
        (48.04, 61.79, 71.18),
        (43.34, 69.48, 78.23),
        (57.07, 73.62, 78.72),
        (55.26, 68.48, 76.79),
    ),
    "CLOCS": (
        (57.94, 72.55, 76.24),
        (68.94, 73.36, 76.31),
        (51.97, 57.96, 72.65),
        (47.19, 71.88, 76.31),
        (59.59, 77.78, 77.49),
        (54.38, 71.93, 76.13),
    ),
    "ASTCL": (
        (61.86, 68.77, 76.51),
        (72.51, 77.31, 81.02),
        (44.14, 60.93, 66.99),
        (52.38, 71.98, 76.05),
        (57.90, 77.01, 79.51),
        (56.40, 70.87, 75.79),
    ),
    "CRT": (
        (61.98, 70.82, 78.67),
        (69.68, 78.24, 77.24),
        (46.41, 59.49, 68.73),
        (47.44, 73.52, 74.41),
        (58.01, 76.43, 82.03),
        (56.21, 73.70, 78.80),
    ),
    "ST-MEM": (
        (54.12, 57.86, 63.59),
        (61.12, 66.87, 71.36),
        (55.71, 59.99, 66.07),
        (51.12, 65.44, 74.85),
        (56.69, 63.32, 70.39),
        (59.77, 66.87, 71.36),
    ),
    "HeartLang": (
        (64.68, 79.34, 88.91),
        (78.94, 85.59, 87.52),
        (58.70, 63.99, 80.23),
        (62.08, 76.22, 90.34),
        (60.44, 66.26, 77.87),
        (57.94, 68.93, 82.49),
    ),
    "CLEAR, mean + linear": (
        (73.86, 80.11, 89.30),
        (78.59, 85.43, 88.68),
        (61.00, 69.96, 80.34),
        (79.24, 86.72, 93.66),
        (64.82, 78.10, 89.59),
        (62.88, 76.33, 86.75),
    ),
    "CLEAR-HUG": (
        (76.66, 84.59, 91.44),
        (79.61, 86.85, 90.24),
        (61.01, 75.19, 82.86),
        (79.48, 90.57, 94.08),
        (66.97, 82.59, 91.17),
        (72.09, 82.14, 89.93),
    ),
}

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
    published={method: dict(zip(_LABEL_SETS, values, strict=True)) for method, values in _TABLE_1.items()},
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
