"""Configuration of the ECG-JEPA models (Kim, 2024)."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    ACTIVATION,
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    EXECUTION_ONLY,
    LAYERS,
    MAX_SAMPLES,
    POSITIVE,
    PRETRAINING,
    RATE,
    SAMPLING_RATE,
    AttentionForm,
    EcgConfig,
    at_most,
    check_momentum,
    strict_config,
    transformer_sizes,
)


ECG_JEPA_LEAD_NAMES = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The eight independent leads in the order of the released weights; the other four are computed from I and II."""

MASK_RATIOS = {"multi_block": (0.175, 0.225), "random": (0.6, 0.7)}
"""Masked fraction of the time steps for the released weights (lowest, highest), by mask type: of each block, or in
total."""
MAX_MASK_BLOCKS = 1_000


@strict_config
class EcgJepaConfig(EcgConfig):
    r"""
    Configuration of [`EcgJepaModel`], [`EcgJepaForPreTraining`], [`EcgJepaForSequenceClassification`] and
    [`EcgJepaForTokenClassification`]. The defaults correspond to the base size of ECG-JEPA (Kim, 2024, arXiv
    2410.08559), not to be confused with the model of the same name by Weimann and Conrad (2024, arXiv 2410.13867).

    Args:
        sampling_rate (`int`, *optional*, defaults to 250):
            Sampling rate of the signal [Hz].
        lead_names (`list[str]`, *optional*, defaults to I, II and V1 to V6):
            Names of the leads, in the order of `input_values`. A recording may contain a subset.
        num_samples (`int`, *optional*, defaults to 2500):
            Window length [samples]; a recording may be shorter.
        patch_size (`int`, *optional*, defaults to 50):
            Samples per patch. Each patch of a lead is one token. Must divide `num_samples`.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`, *optional*, default to 768, 12,
            16 and 3072):
            Hidden size, number of layers, number of attention heads and feed-forward size of the encoder. The hidden
            size must be divisible by 4 for the sinusoidal positions of time and lead.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation function of the feed-forward layers.
        qkv_bias (`bool`, *optional*, defaults to `False`):
            Whether queries, keys and values have a bias.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth rate of the last layer; the rate increases linearly from 0 in the first layer. The
            released weights were pre-trained with 0.1 and evaluated with 0.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization. Projections onto the residual stream in layer `l` use this
            value divided by `sqrt(2 l)`.
        patch_initializer_range (`float`, *optional*):
            Standard deviation of the normal initialization of the patch projection; defaults to `initializer_range`,
            as released. Positions, which are added in every layer, then dominate the signal until the projection has
            grown, and short runs of a few hundred steps may collapse: the `"tiny"` preset uses a larger value.
        attention_pattern (`str`, *optional*, defaults to `"cropa"`):
            `"cropa"` for cross-pattern attention (Kim, 2024), in which a patch attends to the patches of its own lead
            and of its own time step, or `"full"`.
        attention_form (`str`, *optional*, defaults to `"auto"`):
            Implementation of cross-pattern attention; results agree up to rounding. `"dense"` masks the full score
            matrix, `"sparse"` computes only rows (leads) and columns (time steps) and returns no attention weights.
            `"auto"` selects `"sparse"` without gradients and `"dense"` with gradients, which needs less memory, or
            with eager attention.
        position_injection (`str`, *optional*, defaults to `"every_layer"`):
            Whether positions are added to the input of every layer of encoder and predictor, as in the released
            weights, or of the first layer only (`"first_layer"`).
        predictor_hidden_size, predictor_num_hidden_layers, predictor_num_attention_heads, predictor_intermediate_size
            (`int`, *optional*, default to 384, 6, 12 and 1536):
            The same sizes of the predictor, which is used in pre-training only.
        mask_type (`str`, *optional*, defaults to `"multi_block"`):
            How pre-training selects the masked time steps, which are the same in all leads: `"multi_block"` for
            possibly overlapping blocks or `"random"` for independent time steps.
        mask_ratio (`list[float]`, *optional*):
            Lowest and highest fraction of time steps that a block (`"multi_block"`) or the mask in total (`"random"`)
            covers. Defaults to the values of the released weights: 0.175 to 0.225, or 0.6 to 0.7.
        num_mask_blocks (`int`, *optional*, defaults to 4):
            Number of blocks of a `"multi_block"` mask.
        released_block_starts (`bool`, *optional*, defaults to `False`):
            Draw the start of each block as the released code does, which never masks the last time step.
        loss_type (`str`, *optional*, defaults to `"smooth_l1"`):
            Distance between prediction and target: `"smooth_l1"` as in the released code, `"l1"` as in the text of
            Kim (2024), or `"mse"`.
        ema_start (`float`, *optional*, defaults to 0.996):
            Decay of the teacher's exponential moving average in the first step of pre-training.
        ema_end (`float`, *optional*, defaults to 1.0):
            Decay in the last step; interpolated linearly in between.
        teacher_drop_path (`bool`, *optional*, defaults to `False`):
            Whether stochastic depth is also active in the teacher, as in the released code.
        layer_norm_eps, head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
    >>> from clear_hug_hf.modeling.modeling_ecg_jepa import EcgJepaForPreTraining

    >>> config = EcgJepaConfig.preset("tiny", mask_type="random")
    >>> model = EcgJepaForPreTraining(config)
    ```
    """

    model_type: ClassVar[str] = "ecg_jepa"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgJepaModel",
        "AutoModelForPreTraining": "EcgJepaForPreTraining",
        "AutoModelForSequenceClassification": "EcgJepaForSequenceClassification",
        "AutoModelForTokenClassification": "EcgJepaForTokenClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests: trains on two CPU cores within minutes. In the few hundred steps of such a run
        # a slower teacher would barely move, and the positions would dominate the signal.
        "tiny": transformer_sizes(width=128, layers=4, heads=4, inner=512)
        | transformer_sizes("predictor_", width=64, layers=2, heads=4, inner=256)
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
    attention_form: AttentionForm = field(default="auto", metadata=ENCODER_SAME_FEATURES | EXECUTION_ONLY)
    position_injection: Literal["every_layer", "first_layer"] = field(default="every_layer", metadata=ENCODER)

    predictor_hidden_size: int = field(default=384, metadata=PRETRAINING | COUNT)
    predictor_num_hidden_layers: int = field(default=6, metadata=PRETRAINING | LAYERS)
    predictor_num_attention_heads: int = field(default=12, metadata=PRETRAINING | COUNT)
    predictor_intermediate_size: int = field(default=1536, metadata=PRETRAINING | COUNT)

    mask_type: Literal["multi_block", "random"] = field(default="multi_block", metadata=PRETRAINING)
    mask_ratio: list[float | int] | tuple[float | int, ...] | None = field(default=None, metadata=PRETRAINING)
    num_mask_blocks: int = field(default=4, metadata=PRETRAINING | COUNT | at_most(MAX_MASK_BLOCKS))
    # Parity with released weights: an off-by-one error excludes the last valid start of a block.
    released_block_starts: bool = field(default=False, metadata=PRETRAINING)
    loss_type: Literal["smooth_l1", "l1", "mse"] = field(default="smooth_l1", metadata=PRETRAINING)
    ema_start: float | int = field(default=0.996, metadata=PRETRAINING)
    ema_end: float | int = field(default=1.0, metadata=PRETRAINING)
    # Parity with released weights: the teacher was in training mode together with the student.
    teacher_drop_path: bool = field(default=False, metadata=PRETRAINING)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.mask_ratio is not None:
            self.mask_ratio = list(self.mask_ratio)
        if self.patch_initializer_range is None:
            self.patch_initializer_range = self.initializer_range
        super().__post_init__(**kwargs)

    @property
    def num_patches(self) -> int:
        """`int`: Number of patches per lead in a full window."""
        return self.num_samples // self.patch_size

    @property
    def mask_range(self) -> tuple[float, float]:
        """`tuple[float, float]`: Lowest and highest masked fraction of a block, or of a random mask."""
        low, high = MASK_RATIOS[self.mask_type] if self.mask_ratio is None else self.mask_ratio
        return float(low), float(high)

    def lead_indices(self, lead_names: Sequence[str]) -> list[int]:
        """
        Indices of leads in `lead_names`, for the `lead_indices` argument of the models.

        Raises:
            `ValueError`: if a lead is unknown to the model or duplicated.
        """
        unknown = [name for name in lead_names if name not in self.lead_names]
        if unknown or len(set(lead_names)) != len(lead_names):
            raise ValueError(
                f"lead_names must be distinct leads of the model ({', '.join(self.lead_names)}), got "
                f"{list(lead_names)}."
            )
        return [list(self.lead_names).index(name) for name in lead_names]

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        tokens = self._count_patches(self.num_samples, "patch_size")
        self._check_transformers(("", "predictor_"), self.patch_size + tokens, multiple_of=4)
        if self.attention_pattern == "full" and self.attention_form == "sparse":
            raise ValueError("attention_form='sparse' requires attention_pattern='cropa': use 'auto' instead.")
        if self.mask_ratio is not None and not (
            len(self.mask_ratio) == 2 and 0 < self.mask_ratio[0] <= self.mask_ratio[1] < 1
        ):
            raise ValueError(
                f"mask_ratio must be a lowest and a highest fraction between 0 and 1, got {self.mask_ratio}."
            )
        check_momentum(self.ema_start, self.ema_end)


__all__ = ["EcgJepaConfig"]
