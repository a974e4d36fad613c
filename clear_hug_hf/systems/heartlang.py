"""HeartLang (Jin et al.): a recording as a sentence of beats, whose codes are predicted."""

from .base import Converter, ConverterOption, Objective, ReleasedWeights, System


SYSTEM = System(
    name="heartlang",
    title="HeartLang",
    classes={
        "AutoConfig": ".modeling.configuration_heartlang:HeartLangConfig",
        "AutoModel": ".modeling.modeling_heartlang:HeartLangModel",
        "AutoModelForSequenceClassification": ".modeling.modeling_heartlang:HeartLangForSequenceClassification",
        "AutoModelForAudioTokenization": ".modeling.modeling_heartlang:HeartLangTokenizerModel",
        "AutoFeatureExtractor": ".processing.feature_extraction_heartlang:HeartLangFeatureExtractor",
    },
    objectives=(
        Objective(
            name="heartlang",
            title="prediction of the codes of masked beats",
            model=".modeling.modeling_heartlang:HeartLangForPreTraining",
            summary="HeartLang: mask half of the beats and predict the codes that a trained tokenizer (--tokenizer) "
            "gives them",
            parts="tokenizer and the head that predicts its codes",
            loss="cross-entropy of the codes of masked beats",
            loss_report=("loss of masked beats", ""),
            loss_title="Cross-entropy of the codes of masked beats:",
            teachers=("tokenizer",),
            teacher_objective="heartlang_tokenizer",
        ),
        Objective(
            name="heartlang_tokenizer",
            title="vector quantization of beats",
            model=".modeling.modeling_heartlang:HeartLangTokenizerModel",
            summary="the tokenizer of HeartLang: reconstruct beats from the nearest codes of a learned vocabulary",
            loss="mean squared error of beats [mV²] and of their features to codes",
            loss_title="Mean squared error of reconstructed beats [mV²] plus that of their features to their codes:",
        ),
    ),
    paper="Jin et al., Reading Your Heart: Learning ECG Words and Sentences via Pre-training ECG Language Model, "
    "ICLR 2025, [arXiv 2502.10707](https://arxiv.org/abs/2502.10707)",
    heads={
        "mean": "linear head on the class token",
        "attention": "linear head on attention pooling of the beats and the class token",
    },
    converter=Converter(
        function=".hub.convert_heartlang:convert_heartlang_to_folder",
        reads="HeartLang as pre-trained, its fine-tuned classifiers, and its tokenizer",
        example="checkpoint-200.pth converted/heartlang",
        options={
            "num_attention_heads": ConverterOption(
                help="attention heads of the encoder, which the file does not contain (default: those of the released "
                "size with the same width)"
            ),
            "labels": ConverterOption(
                help="label names of a classifier in the order of its outputs (default: LABEL_0 LABEL_1 ...)",
                many=True,
                keyword="label_names",
            ),
        },
        weights=ReleasedWeights(
            data="about 800,000 recordings of MIMIC-IV-ECG",
            objective="a vocabulary of beats by vector quantization, then prediction of the codes of masked beats",
            num_parameters="38.3 M",
            inputs="12 leads, 10 s at 100 Hz, cut into at most 256 beats",
            source="Hub: `PKUDigitalHealth/HeartLang`",
            license_note="Their repository has the MIT license but does not mention the weights",
            hub_files=(
                "checkpoints/pretrain/MIMIC-IV/checkpoint-200.pth",
                "checkpoints/vqhbr/MIMIC-IV/checkpoint-100.pth",
            ),
        ),
    ),
)
