"""CLEAR-HUG: masked beats, sparse attention along a lead or a time, and a head over groups of leads."""

from .base import Converter, ConverterOption, Objective, System


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
            summary="CLEAR: hide most beats of each recording and rebuild them from the same beat in the other leads "
            "and from the summary of their own lead",
            parts="decoder",
            loss="mean squared error of hidden beats",
            loss_report=("loss of hidden beats", " (1 is a flat line)"),
            loss_title="Mean squared error of hidden beats, each scaled to unit variance (1 is a flat line):",
            picture=".cli.shared:draw_beat_reconstruction",
        ),
    ),
    paper="Pan et al., Tracing the Heart's Pathways: ECG Representation Learning from a Cardiac Conduction "
    "Perspective, AAAI 2026, [arXiv 2512.24002](https://arxiv.org/abs/2512.24002)",
    heads={
        "hug": "HUG head, which reads the groups of leads one by one, in pairs and together",
        "mean": "linear head on the mean of all leads",
        "weighted": "head on a learnt weighting of the leads",
        "single_level": "head on the groups of leads, without their pairs",
    },
    converter=Converter(
        function=".hub.convert_clear_hug:convert_to_folder",
        reads="CLEAR pre-trained, or with a linear classifier, or with HUG: base and large are recognised",
        example="checkpoint-99.pth converted/clear-base",
        options={
            "labels": ConverterOption(
                help="of a classifier, in the order of its outputs, which the file does not tell (default: LABEL_0 "
                "LABEL_1)",
                many=True,
                keyword="label_names",
            ),
            "cls_attention": ConverterOption(
                help="how summary tokens attend, as the released code runs, or as the paper says (default: "
                "reference_bias)",
                choices=("reference_bias", "lead"),
            ),
            "num_attention_heads": ConverterOption(
                help="of the encoder, which the file does not tell (default: those of the released size of its width)"
            ),
            "decoder_num_attention_heads": ConverterOption(help="of the decoder, likewise"),
        },
    ),
    conversion_notes={
        "cls_attention": {
            "reference_bias": "`cls_attention=reference_bias` runs the encoder as the released code does.",
            "lead": "`cls_attention=lead` runs the encoder as the paper describes.",
        }
    },
)
