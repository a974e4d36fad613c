"""ST-MEM (Na et al.): masked patches of every lead, reconstructed lead by lead."""

from .base import Converter, ConverterOption, Objective, ReleasedWeights, System


SYSTEM = System(
    name="st_mem",
    title="ST-MEM",
    classes={
        "AutoConfig": ".modeling.configuration_st_mem:StMemConfig",
        "AutoModel": ".modeling.modeling_st_mem:StMemModel",
        "AutoModelForSequenceClassification": ".modeling.modeling_st_mem:StMemForSequenceClassification",
        "AutoFeatureExtractor": ".processing.feature_extraction_st_mem:StMemFeatureExtractor",
    },
    objectives=(
        Objective(
            name="st_mem",
            model=".modeling.modeling_st_mem:StMemForPreTraining",
            summary="ST-MEM: mask most patches of every lead and reconstruct them from the visible ones of all leads",
            parts="decoder",
            loss="mean squared error of masked patches",
            loss_report=("loss of masked patches", " (1 for a flat line)"),
            loss_title="Mean squared error of masked patches, normalized to unit variance (1 for a flat line):",
            picture=".workflows.shared:draw_patch_reconstruction",
        ),
    ),
    paper="Na et al., Guiding Masked Representation Learning to Capture Spatio-Temporal Relationship of "
    "Electrocardiogram, ICLR 2024, [arXiv 2402.09450](https://arxiv.org/abs/2402.09450)",
    heads={
        "mean": "linear head on the normalized mean of all patches",
        "attention": "linear head on attention pooling of the patches and separators of all leads",
    },
    converter=Converter(
        function=".hub.convert_st_mem:convert_st_mem_to_folder",
        reads="ST-MEM with its decoder, its encoder alone, and its fine-tuned classifiers",
        example="st_mem_vit_base_full.pth converted/st-mem",
        options={
            "num_attention_heads": ConverterOption(
                help="attention heads of the encoder, which the file does not contain (default: those of the released "
                "size with the same width)"
            ),
            "decoder_num_attention_heads": ConverterOption(
                help="attention heads of the decoder (default: likewise)",
            ),
            "labels": ConverterOption(
                help="label names of a classifier in the order of its outputs (default: LABEL_0 LABEL_1 ...)",
                many=True,
                keyword="label_names",
            ),
        },
        weights=ReleasedWeights(
            data="188,000 recordings of Chapman-Shaoxing, Ningbo and CODE-15%",
            objective="reconstruction of masked patches, with separators and embeddings of leads",
            num_parameters="85.2 M",
            inputs="12 leads, 9 s at 250 Hz",
            source="Google Drive, linked in the authors' repository `bakqui/ST-MEM`",
            license_note="The terms are unclear, and non-commercial at most: the license file of their repository is "
            "CC BY-NC 4.0, its README reserves all rights, and neither mentions the weights",
            hub_license="cc-by-nc-4.0",
        ),
    ),
)
