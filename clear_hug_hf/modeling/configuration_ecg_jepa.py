"""Configuration of the ECG-JEPA models (Kim, CroPA)."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    ACTIVATION,
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    MAX_SAMPLES,
    POSITIVE,
    PRETRAINING,
    RATE,
    SAME_NUMBERS,
    SAMPLING_RATE,
    AttentionForm,
    EcgConfig,
    at_most,
    sizes,
    strict_config,
)


ECG_JEPA_LEAD_NAMES = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The eight independent leads in the order of the released weights; the other four follow from I and II."""

MASK_RATIOS = {"multi_block": (0.175, 0.225), "random": (0.6, 0.7)}
"""The range from which the released weights' share of hidden times was drawn, by kind of mask: of each block, or of
all."""
MAX_MASK_BLOCKS = 1_000


@strict_config
class EcgJepaConfig(EcgConfig):
    r"""
    Configuration of [`EcgJepaModel`], [`EcgJepaForPreTraining`], [`EcgJepaForSequenceClassification`] and
    [`EcgJepaForTokenClassification`]. The defaults are the base size of the paper ("Learning General Representation of
    12-Lead Electrocardiogram with a Joint-Embedding Predictive Architecture", Kim, arXiv 2410.08559). Another model of
    this name (Weimann and Conrad, arXiv 2410.13867) is not meant.

    Args:
        sampling_rate (`int`, *optional*, defaults to 250):
            Rate of the signal [Hz].
        lead_names (`list[str]`, *optional*, defaults to I, II and V1 to V6):
            The leads, in the order of `input_values`. A recording may have only some of them.
        num_samples (`int`, *optional*, defaults to 2500):
            Length of the window that the model sees at once [samples]; a recording may be shorter.
        patch_size (`int`, *optional*, defaults to 50):
            Samples of one patch, that is of one token of one lead; divides `num_samples`.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`, *optional*, default to 768, 12,
            16 and 3072):
            Width, layers, attention heads and width of the feed-forward layers of the encoder. The width is a multiple
            of 4, since the positions are sines and cosines of time and lead.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        qkv_bias (`bool`, *optional*, defaults to `False`):
            Whether queries, keys and values have a bias.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth: how often the last layer is left out in training; earlier layers proportionally less. The
            released weights were pre-trained with 0.1 and used with 0.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal distribution that weights start from. Those that write to the residual
            stream in layer `l` start from it divided by `sqrt(2 l)`.
        patch_initializer_range (`float`, *optional*):
            Of the patch projection's weights; by default `initializer_range`, as released. Signals then weigh little
            beside the positions, which every layer adds, until the projection has grown: those in mV less still than
            the ones of unit deviation with which a run of a few hundred steps was seen to collapse. The `"tiny"`
            preset begins larger.
        attention_pattern (`str`, *optional*, defaults to `"cropa"`):
            What a patch may attend to: `"cropa"` the patches of its own lead and of its own time (cross-pattern
            attention), `"full"` all.
        attention_form (`str`, *optional*, defaults to `"auto"`):
            How cross-pattern attention is computed; the numbers are the same up to rounding. `"dense"` scores every
            pair and masks most, `"sparse"` computes only rows (leads) and columns (times) and gives no attention
            weights. `"auto"` is `"sparse"` where no gradients are computed and `"dense"` elsewhere, for its
            memory; with eager attention it is always `"dense"`.
        position_injection (`str`, *optional*, defaults to `"every_layer"`):
            Whether the positions are added at the input of every layer, as in the released weights, or only of the
            first (`"first_layer"`); in the encoder and in the predictor.
        predictor_hidden_size, predictor_num_hidden_layers, predictor_num_attention_heads, predictor_intermediate_size
            (`int`, *optional*, default to 384, 6, 12 and 1536):
            The same of the predictor, which only pre-training uses.
        mask_type (`str`, *optional*, defaults to `"multi_block"`):
            How pre-training chooses the times to hide, in all leads alike: `"multi_block"` some blocks that may
            overlap, `"random"` single times.
        mask_ratio (`list[float]`, *optional*):
            Lowest and highest share of the times that a block (`"multi_block"`) or the whole mask (`"random"`) hides;
            by default that of the released weights: 0.175 to 0.225, or 0.6 to 0.7.
        num_mask_blocks (`int`, *optional*, defaults to 4):
            Blocks of a `"multi_block"` mask.
        released_block_starts (`bool`, *optional*, defaults to `False`):
            Draw the starts of blocks as the released code does, which never hides the last time.
        loss_type (`str`, *optional*, defaults to `"smooth_l1"`):
            Distance between prediction and target: `"smooth_l1"` as in the released code, `"l1"` as in the paper's
            text, or `"mse"`.
        ema_start (`float`, *optional*, defaults to 0.996):
            Share of itself that the teacher keeps in the first step of pre-training.
        ema_end (`float`, *optional*, defaults to 1.0):
            That share in the last step; linear between.
        teacher_drop_path (`bool`, *optional*, defaults to `False`):
            Whether stochastic depth also acts on the teacher, as in the released code.
        layer_norm_eps, head_type, classifier_dropout, problem_type, label_thresholds:
            As in [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
    >>> from clear_hug_hf.modeling.modeling_ecg_jepa import EcgJepaForPreTraining

    >>> config = EcgJepaConfig.preset("tiny", mask_type="random")
    >>> model = EcgJepaForPreTraining(config)
    ```"""

    model_type: ClassVar[str] = "ecg_jepa"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgJepaModel",
        "AutoModelForPreTraining": "EcgJepaForPreTraining",
        "AutoModelForSequenceClassification": "EcgJepaForSequenceClassification",
        "AutoModelForTokenClassification": "EcgJepaForTokenClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests: learns on two CPU cores within minutes. Runs of this size have a few hundred
        # steps: a slower teacher would stay where it began, and signals would not outgrow the positions.
        "tiny": sizes(width=128, layers=4, heads=4, inner=512)
        | sizes("predictor_", width=64, layers=2, heads=4, inner=256)
        | {"ema_start": 0.98, "patch_initializer_range": 0.5},
        # The released sizes.
        "base": {},
    }

    sampling_rate: int = field(default=250, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)
    lead_names: list[str] | tuple[str, ...] = field(default=ECG_JEPA_LEAD_NAMES, metadata=ENCODER)
    num_samples: int = field(default=2500, metadata=ENCODER | COUNT | at_most(MAX_SAMPLES))
    patch_size: int = field(default=50, metadata=ENCODER | COUNT)

    hidden_size: int = field(default=768, metadata=ENCODER | COUNT)
    num_hidden_layers: int = field(default=12, metadata=ENCODER | LAYERS)
    num_attention_heads: int = field(default=16, metadata=ENCODER | COUNT)
    intermediate_size: int = field(default=3072, metadata=ENCODER | COUNT)
    hidden_act: str = field(default="gelu", metadata=ENCODER | ACTIVATION)
    qkv_bias: bool = field(default=False, metadata=ENCODER)
    drop_path_rate: float | int = field(default=0.0, metadata=ENCODER_SAME_FEATURES | RATE)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES | POSITIVE)
    patch_initializer_range: float | None = field(default=None, metadata=ENCODER_SAME_FEATURES | POSITIVE)

    attention_pattern: Literal["cropa", "full"] = field(default="cropa", metadata=ENCODER)
    attention_form: AttentionForm = field(default="auto", metadata=ENCODER_SAME_FEATURES | SAME_NUMBERS)
    position_injection: Literal["every_layer", "first_layer"] = field(default="every_layer", metadata=ENCODER)

    predictor_hidden_size: int = field(default=384, metadata=PRETRAINING | COUNT)
    predictor_num_hidden_layers: int = field(default=6, metadata=PRETRAINING | LAYERS)
    predictor_num_attention_heads: int = field(default=12, metadata=PRETRAINING | COUNT)
    predictor_intermediate_size: int = field(default=1536, metadata=PRETRAINING | COUNT)

    mask_type: Literal["multi_block", "random"] = field(default="multi_block", metadata=PRETRAINING)
    mask_ratio: list[float | int] | tuple[float | int, ...] | None = field(default=None, metadata=PRETRAINING)
    num_mask_blocks: int = field(default=4, metadata=PRETRAINING | COUNT | at_most(MAX_MASK_BLOCKS))
    # Parity with released weights: an off-by-one leaves the last possible start of a block out.
    released_block_starts: bool = field(default=False, metadata=PRETRAINING)
    loss_type: Literal["smooth_l1", "l1", "mse"] = field(default="smooth_l1", metadata=PRETRAINING)
    ema_start: float | int = field(default=0.996, metadata=PRETRAINING)
    ema_end: float | int = field(default=1.0, metadata=PRETRAINING)
    # Parity with released weights: their training put the teacher into training mode along with the student.
    teacher_drop_path: bool = field(default=False, metadata=PRETRAINING)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.mask_ratio is not None:
            self.mask_ratio = list(self.mask_ratio)
        if self.patch_initializer_range is None:
            self.patch_initializer_range = self.initializer_range
        super().__post_init__(**kwargs)

    @property
    def num_patches(self) -> int:
        """`int`: Patches of one lead in a whole window."""
        return self.num_samples // self.patch_size

    @property
    def mask_range(self) -> tuple[float, float]:
        """`tuple[float, float]`: Lowest and highest share that a block, or a random mask, hides."""
        low, high = MASK_RATIOS[self.mask_type] if self.mask_ratio is None else self.mask_ratio
        return float(low), float(high)

    def lead_indices(self, lead_names: Sequence[str]) -> list[int]:
        """
        Places of some leads in `lead_names`, as the models' `lead_indices`.

        Raises:
            `ValueError`: if a lead is not the model's, or named twice.
        """
        unknown = [name for name in lead_names if name not in self.lead_names]
        if unknown or len(set(lead_names)) != len(lead_names):
            raise ValueError(
                f"{list(lead_names)} must name leads of the model, each once: choose from "
                f"{', '.join(self.lead_names)}."
            )
        return [list(self.lead_names).index(name) for name in lead_names]

    def validate_architecture(self) -> None:
        """As in [`EcgConfig`]."""
        super().validate_architecture()
        tokens = self._check_pieces(self.num_samples, "patch_size")
        self._check_transformers(("", "predictor_"), self.patch_size + tokens, multiple_of=4)
        if self.attention_pattern == "full" and self.attention_form == "sparse":
            raise ValueError("attention_form='sparse' computes attention_pattern='cropa' only: choose 'auto'.")
        if self.mask_ratio is not None and not (
            len(self.mask_ratio) == 2 and 0 < self.mask_ratio[0] <= self.mask_ratio[1] < 1
        ):
            raise ValueError(
                f"mask_ratio must be a lowest and a highest share between 0 and 1, got {self.mask_ratio}."
            )
        if not 0 <= self.ema_start <= self.ema_end <= 1:
            raise ValueError(
                f"ema_start={self.ema_start} and ema_end={self.ema_end} must lie between 0 and 1, in this order."
            )


__all__ = ["EcgJepaConfig"]
