"""
ECG-CPC models (Al-Masud, Lopez Alcaraz and Strodthoff, "Benchmarking ECG FMs: A Reality Check Across Clinical Tasks",
2025, arXiv 2509.25095): convolutions of all leads together, and structured state space layers (S4; Gu, Goel and Ré,
"Efficiently Modeling Long Sequences with Structured State Spaces", ICLR 2022). Pre-training is contrastive predictive
coding (van den Oord, Li and Vinyals, 2018): the states of a token, which know of no later samples, predict the output
of the convolutions some tokens ahead.

Shapes: `B` recordings, `L` leads, `T` samples per lead, `S` tokens, `D` hidden size, `N` pairs of conjugate states,
`P` predictions, `K` negatives.
"""

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_cpc import EcgCpcConfig
from .modeling_ecg import (
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    check_shape,
    masked_mean,
    seeded_bits,
    seeded_counters,
    validate_kwargs,
)


CACHED_NUMBERS = 2**19
"""Numbers that a CPU convolves at once: more do not fit into its caches."""
MAX_KEPT_NUMBERS = 2**22
"""Complex numbers of transformed kernels of several lengths that a layer keeps in evaluation (32 MiB)."""


@dataclass
class EcgCpcModelOutput(EcgModelOutput):
    """
    Output of [`EcgCpcModel`].

    Args:
        last_hidden_state, pooler_output, lead_states, hidden_states, attentions, present_leads, token_mask:
            See [`EcgModelOutput`].
        extract_features (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Output of the convolutions, which pre-training predicts.
    """

    extract_features: torch.Tensor | None = None


@dataclass
class EcgCpcForPreTrainingOutput(ModelOutput):
    """
    Output of [`EcgCpcForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Cross-entropy of the true token among itself and the negatives, summed over the tokens of a recording and
            averaged over the recordings.
        prediction (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            What each token predicts of the convolutions `config.prediction_steps` tokens ahead.
        accuracy (`torch.FloatTensor` of shape `()`):
            Fraction of the predictions that are closest to the true token.
        negatives (`torch.LongTensor` of shape `(batch_size, sequence_length - prediction_steps, num_negatives)`):
            Tokens that were the negatives of each prediction.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`].
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of recordings, by which the losses of parts of a batch are weighted.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    negatives: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


# -------------------------------------------------------------------------------------------------- state space layers


def legendre_system(num_pairs: int) -> dict[str, torch.Tensor]:
    """
    The linear system of the scaled Legendre measure (HiPPO-LegS; Gu et al., 2020) in diagonal plus low-rank form: a
    diagonal matrix minus the product of a column `left` and a row `right` (Gu, Goel and Ré, 2022, Theorem 1).

    Args:
        num_pairs (`int`): Half of the number of states. The other states are the conjugates of those returned.

    Returns:
        `dict[str, torch.Tensor]`: `eigenvalues`, `left`, `right` and `input_weights`, each complex of shape
        `(num_pairs,)`.
    """
    size = 2 * num_pairs
    weights = torch.arange(1, 2 * size, 2, dtype=torch.float64, device="cpu").sqrt()
    full = -(weights[:, None] * weights).tril(-1) - torch.diag(
        torch.arange(1.0, size + 1, dtype=torch.float64, device="cpu")
    )
    low_rank = weights / math.sqrt(2)
    # Without its symmetric part, -1/2 on the diagonal, the rest is skew-symmetric, and times -i it is Hermitian.
    skew = full + low_rank[:, None] * low_rank + 0.5 * torch.eye(size, dtype=torch.float64, device="cpu")
    frequencies, vectors = torch.linalg.eigh(-1j * skew)
    # In ascending order: the second half are the positive ones, here from the highest to the lowest.
    frequencies, vectors = frequencies[num_pairs:].flip(0), vectors[:, num_pairs:].flip(1)
    left = vectors.mH @ low_rank.to(vectors.dtype)
    return {
        "eigenvalues": torch.complex(torch.full_like(frequencies, -0.5), frequencies),
        "left": left,
        "right": left.conj().resolve_conj(),
        "input_weights": vectors.mH @ weights.to(vectors.dtype),
    }


class EcgCpcKernel(nn.Module):
    """
    Convolution kernels of the linear systems of one layer, one for each channel.

    The state matrix of a channel is `A = diag(eigenvalues) - left right^T` over all states, of which every second one
    is the conjugate of a stored one. It is discretized by the bilinear rule with the step `exp(log_step)`. Following
    Gu, Goel and Ré (2022, section 3), kernels are computed from their discrete Fourier transform, whose values are
    Cauchy sums. Only `output_weights` are trained. They are those of the system times `I - A^n`, with `A` discretized
    and `n = config.kernel_length`, so that `n` values of the kernel determine its transform.

    Complex numbers are stored as pairs of real ones in float32, whatever the dtype of the model, and computed in
    float64: half precision would damage the kernels.
    """

    log_step: torch.Tensor

    def __init__(self, config: EcgCpcConfig):
        super().__init__()
        self.length = config.kernel_length
        self.step_range = (float(config.step_range[0]), float(config.step_range[1]))
        pairs = (config.hidden_size, config.state_size // 2, 2)
        self.output_weights = nn.Parameter(torch.empty(pairs, dtype=torch.float32))
        for name in ("eigenvalues", "left", "right", "input_weights"):
            self.register_buffer(name, torch.empty(pairs, dtype=torch.float32))
        self.register_buffer("log_step", torch.empty(config.hidden_size, dtype=torch.float32))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move to a device, but keep the dtype."""

        def keep_dtype(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    @torch.no_grad()
    def initialize(self) -> None:
        """
        Draw output weights, and set the constants to [`legendre_system`], with steps at equal distances on a
        logarithmic scale.
        """
        for name, values in legendre_system(self.output_weights.shape[1]).items():
            constants = torch.view_as_real(values).to(torch.float32)
            init.copy_(getattr(self, name), constants.expand_as(self.output_weights))
        low, high = self.step_range
        init.copy_(self.log_step, torch.linspace(math.log(low), math.log(high), len(self.log_step)))
        drawn = torch.randn_like(self.output_weights) / math.sqrt(2)
        outputs = torch.view_as_complex(drawn.double())
        outputs = outputs - self._times_power(outputs, self._power(self.length))
        init.copy_(self.output_weights, torch.view_as_real(outputs).to(torch.float32))

    def forward(self, num_tokens: int) -> torch.Tensor:
        """
        Compute the kernels.

        Args:
            num_tokens (`int`): Number of values.

        Returns:
            `torch.Tensor` of shape `(D, num_tokens)`: Kernels in float64.
        """
        outputs = self._complex("output_weights")
        length = self.length
        if length < num_tokens:
            power = self._power(length)
            while length < num_tokens:
                # C (I - A^n) becomes C (I - A^2n).
                outputs = outputs + self._times_power(outputs, power)
                power = power @ power
                length *= 2
        angles = torch.arange(length // 2 + 1, dtype=torch.float64, device=outputs.device) * (-2 * math.pi / length)
        roots = torch.complex(angles.cos(), angles.sin())
        minus, plus = 1 - roots, 1 + roots
        step = self._exact("log_step").exp()[:, None, None]
        poles = step * self._complex("eigenvalues")[..., None]
        lefts = torch.stack((self._complex("input_weights"), self._complex("left")), dim=1)
        rights = torch.stack((outputs, self._complex("right")), dim=1)
        products = (lefts[:, :, None] * rights[:, None]).flatten(1, 2)
        # Cauchy sums times (1 + root), which is zero at the highest frequency, where the sums themselves are infinite.
        sums = products @ (2 * minus - poles * plus).reciprocal()
        sums = step * (sums + products.conj() @ (2 * minus - poles.conj() * plus).reciprocal())
        in_out, in_right, left_out, left_right = sums.unbind(dim=1)
        # The low-rank part is inverted by the formula of Woodbury.
        spectrum = 2 * (in_out - in_right * plus * left_out / (1 + plus * left_right))
        return torch.fft.irfft(spectrum, n=length, dim=1)[:, :num_tokens]

    def _exact(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = getattr(self, name)
        # Some devices have no double precision.
        return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()

    def _complex(self, name: str) -> torch.Tensor:
        return torch.view_as_complex(self._exact(name))

    def _power(self, exponent: int) -> torch.Tensor:
        """Power of the discretized state matrices `(D, 2 N, 2 N)`."""
        eigenvalues, left, right = (
            torch.cat((values, values.conj()), dim=1)
            for values in (self._complex("eigenvalues"), self._complex("left"), self._complex("right"))
        )
        half = torch.diag_embed(eigenvalues) - left[:, :, None] * right[:, None]
        half = half * (self._exact("log_step").exp() / 2)[:, None, None]
        identity = torch.eye(half.shape[1], dtype=half.dtype, device=half.device)
        return torch.linalg.matrix_power(torch.linalg.solve(identity - half, identity + half), exponent)

    @staticmethod
    def _times_power(outputs: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
        """Rows `(D, N)`, continued by their conjugates, times matrices `(D, 2 N, 2 N)`: the first half of each row."""
        rows = torch.cat((outputs, outputs.conj()), dim=1)
        return (rows[:, None] @ power)[:, 0, : outputs.shape[1]]


def fast_length(minimum: int) -> int:
    """The smallest even product of 2, 3 and 5 of at least `minimum`, for which Fourier transforms are fast."""
    length = minimum + minimum % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


class TiedDropout(nn.Module):
    """Dropout that drops the same channels of a recording at all times."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Drop channels of states `(B, S, D)`."""
        if not self.training or not self.probability:
            return states
        keep = torch.rand((states.shape[0], 1, states.shape[2]), device=states.device) >= self.probability
        return states * (keep.to(states.dtype) / (1.0 - self.probability))


class EcgCpcS4(nn.Module):
    """
    Structured state space layer: a causal convolution of each channel with the kernel of its linear system, and a
    gated linear map of the channels.
    """

    def __init__(self, config: EcgCpcConfig):
        super().__init__()
        self.kernel = EcgCpcKernel(config)
        self.skip = nn.Parameter(torch.empty(config.hidden_size))
        self.dropout = TiedDropout(config.hidden_dropout_prob)
        self.output = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self._kept: tuple[list[torch.Tensor], list[tuple[int, int]], dict[Any, torch.Tensor]] | None = None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map states `(B, S, D)` to states of the same shape."""
        dtype = states.dtype
        # Fourier transforms need at least single precision.
        exact = states.to(torch.promote_types(dtype, torch.float32))
        convolved = self.convolve(exact) + self.skip.to(exact.dtype) * exact
        return F.glu(self.output(self.dropout(F.gelu(convolved).to(dtype))), dim=-1)

    def convolve(self, states: torch.Tensor) -> torch.Tensor:
        """Causal convolution over time of states `(B, S, D)` with the kernel of each channel."""
        num_tokens = states.shape[1]
        if torch.compiler.is_exporting() and not self.training:
            # Exported graphs have no Fourier transforms; the kernel becomes a constant.
            kernel = self._constant_kernel(num_tokens).to(states)
            padded = F.pad(states.transpose(1, 2), (num_tokens - 1, 0))
            return F.conv1d(padded, kernel.flip(1)[:, None], groups=kernel.shape[0]).transpose(1, 2)
        length = fast_length(2 * num_tokens - 1)
        spectrum = self._kernel_spectrum(num_tokens, length, states)

        def multiply(part: torch.Tensor) -> torch.Tensor:
            transformed = torch.fft.rfft(part.transpose(1, 2), n=length)
            return torch.fft.irfft(transformed * spectrum, n=length)[..., :num_tokens].transpose(1, 2)

        if states.device.type != "cpu" or torch.compiler.is_compiling():
            return multiply(states)
        parts = states.split(max(1, CACHED_NUMBERS // states[0].numel()))
        return torch.cat([multiply(part) for part in parts])

    def _kernel_spectrum(self, num_tokens: int, length: int, states: torch.Tensor) -> torch.Tensor:
        """Fourier transform of the kernels, which is kept between calls in evaluation mode."""
        spectra, key = self._kept_spectra(), (num_tokens, states.dtype)
        if spectra is not None and key in spectra:
            return spectra[key]
        spectrum = torch.fft.rfft(self.kernel(num_tokens).to(states.dtype).to(states.device), n=length)
        if spectra is not None:
            while spectra and sum(map(torch.numel, (spectrum, *spectra.values()))) > MAX_KEPT_NUMBERS:
                del spectra[next(iter(spectra))]
            spectra[key] = spectrum
        return spectrum

    def _kept_spectra(self) -> dict[tuple[int, torch.dtype], torch.Tensor] | None:
        """Transforms of the present kernels, or `None` if they must not be kept."""
        tensors = [*self.kernel.parameters(), *self.kernel.buffers()]
        needs_gradient = torch.is_grad_enabled() and self.kernel.output_weights.requires_grad
        if self.training or needs_gradient or torch.compiler.is_compiling():
            return None
        if any(tensor.is_inference() for tensor in tensors):
            return None
        # Versions count changes in place.
        versions = [(tensor._version, tensor.data_ptr()) for tensor in tensors]
        kept = self._kept
        if kept is None or kept[1] != versions or not all(map(operator.is_, kept[0], tensors)):
            # The tensors are kept so that no other takes their place in memory.
            self._kept = kept = (tensors, versions, {})
        return kept[2]

    @torch.compiler.assume_constant_result
    def _constant_kernel(self, num_tokens: int) -> torch.Tensor:
        with torch.no_grad():
            return self.kernel(num_tokens)

    def train(self, mode: bool = True) -> "EcgCpcS4":
        self._kept = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._kept = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        # Copies have other tensors, whose versions start again.
        return {**self.__dict__, "_kept": None}


class EcgCpcLayer(GradientCheckpointingLayer):
    """S4 layer with a residual connection and normalization after it (post-norm)."""

    def __init__(self, config: EcgCpcConfig):
        super().__init__()
        self.s4 = EcgCpcS4(config)
        self.dropout = TiedDropout(config.hidden_dropout_prob)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        # On some devices, layer normalization returns float32 under autocast.
        return self.norm(states + self.dropout(self.s4(states))).to(states.dtype)


class EcgCpcBatchNorm(nn.BatchNorm1d):
    """Batch normalization that, unless `config.use_batch_statistics`, uses the stored statistics in training, too."""

    def __init__(self, config: EcgCpcConfig):
        super().__init__(config.hidden_size, eps=config.batch_norm_eps)
        self.use_batch_statistics = config.use_batch_statistics

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.use_batch_statistics:
            return super().forward(states)
        return F.batch_norm(states, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class EcgCpcConvolution(nn.Module):
    """Convolution without bias, batch normalization and ReLU."""

    def __init__(self, config: EcgCpcConfig, is_first: bool):
        super().__init__()
        size = config.conv_kernel_size if is_first else 1
        self.conv = nn.Conv1d(
            config.num_leads if is_first else config.hidden_size,
            config.hidden_size,
            size,
            stride=config.conv_stride if is_first else 1,
            padding=size // 2,
            bias=False,
        )
        self.norm = EcgCpcBatchNorm(config)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map samples `(B, L, T)` or states `(B, D, S)` to states `(B, D, S)`."""
        return F.relu(self.norm(self.conv(states)))


# ------------------------------------------------------------------------------------------------------------- models


class EcgCpcPreTrainedModel(EcgPreTrainedModel):
    """Base class of the ECG-CPC models."""

    config: EcgCpcConfig
    base_model_prefix = "ecg_cpc"
    _no_split_modules = ["EcgCpcConvolution", "EcgCpcLayer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": EcgCpcLayer}  # noqa: RUF012
    _keep_in_fp32_modules_strict = {"kernel"}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EcgCpcKernel):
            module.initialize()
        elif isinstance(module, EcgCpcS4):
            init.ones_(module.skip)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")


class EcgCpcModel(EcgCpcPreTrainedModel):
    """
    ECG-CPC encoder: maps the leads together to causal states over time and their mean.

    `last_hidden_state` `(B, S, D)` has a state for every second sample, which knows of the samples up to the next one;
    in the released size they are 1/120 s apart. `pooler_output` is the mean over time, and `lead_states` `(B, 1, D)`
    contains it for all leads together. `hidden_states` are the output of the convolutions and of each S4 layer. A
    missing lead is zero, as in the recordings of pre-training.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgCpcConfig, EcgCpcModel

    >>> model = EcgCpcModel(EcgCpcConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 600)).last_hidden_state.shape
    torch.Size([2, 300, 64])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^classifier\.", r"^projection\."]  # noqa: RUF012

    def __init__(self, config: EcgCpcConfig):
        super().__init__(config)
        self.convolutions = nn.ModuleList(
            EcgCpcConvolution(config, is_first=not index) for index in range(config.num_convolutions)
        )
        self.layers = nn.ModuleList(EcgCpcLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self) -> Any:
        first: Any = self.convolutions[0]
        return first.conv

    def depth_groups(self) -> list[list[str]]:
        """The convolutions and the S4 layers, since their benchmark trains each of the two with a rate of its own."""
        return [["convolutions"], ["layers"]]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgCpcModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Recordings of any length [mV]; missing leads and samples are zero.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 or True for tokens that were recorded, `ceil(num_samples / conv_stride)` in total. Others, at the end
                of short recordings, do not count in `pooler_output`.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        validate_kwargs(kwargs)
        check_shape("input_values", input_values, (None, self.config.num_leads, None))
        states = input_values.to(self.get_input_embeddings().weight.dtype)
        for convolution in self.convolutions:
            states = convolution(states)
        features = states = states.transpose(1, 2)
        if attention_mask is not None:
            check_shape("attention_mask", attention_mask, tuple(states.shape[:2]))
        for layer in self.layers:
            states = layer(states)
        pooler_output = states.mean(dim=1) if attention_mask is None else masked_mean(states, attention_mask)
        return EcgCpcModelOutput(
            last_hidden_state=states,
            pooler_output=pooler_output,
            lead_states=pooler_output[:, None],
            present_leads=torch.ones((len(states), 1), dtype=torch.bool, device=states.device),
            token_mask=None if attention_mask is None else attention_mask.bool(),
            extract_features=features,
        )


class EcgCpcForPreTraining(EcgCpcPreTrainedModel):
    """
    ECG-CPC encoder that predicts the output of its convolutions `config.prediction_steps` tokens ahead, and tells it
    apart from that at other tokens of the same recording (Al-Masud et al., 2025, after van den Oord et al., 2018).

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgCpcConfig, EcgCpcForPreTraining

    >>> model = EcgCpcForPreTraining(EcgCpcConfig.preset("tiny"))
    >>> loss = model(torch.randn(2, 12, 600), seeds=torch.tensor([0, 1])).loss
    ```
    """

    def __init__(self, config: EcgCpcConfig):
        super().__init__(config)
        self.ecg_cpc = EcgCpcModel(config)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        negatives: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgCpcForPreTrainingOutput:
        r"""
        Args:
            input_values, attention_mask:
                See [`EcgCpcModel.forward`]. The tokens of a recording come first.
            negatives (`torch.LongTensor` of shape `(batch_size, sequence_length - prediction_steps, num_negatives)`,
                *optional*):
                Negatives of each prediction: tokens of the same recording.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*, defaults to zeros):
                Seed of each recording, from which negatives are drawn otherwise: any token but the true one.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        outputs: EcgCpcModelOutput = self.ecg_cpc(input_values, attention_mask, **kwargs)
        states, features = outputs.last_hidden_state, outputs.extract_features
        assert states is not None
        assert features is not None
        batch_size, num_tokens = states.shape[:2]
        steps, count = self.config.prediction_steps, self.config.num_negatives
        num_predictions = max(num_tokens - steps, 0)
        true = torch.arange(steps, steps + num_predictions, device=states.device)
        lengths = true.new_full((batch_size,), num_tokens)
        if attention_mask is not None:
            lengths = attention_mask.to(states.device).long().sum(dim=1)
        if negatives is None:
            negatives = draw_negatives(seeds, lengths, true, count)
        check_shape("negatives", negatives, (batch_size, num_predictions, count))

        prediction = self.projection(states)
        similarities = prediction[:, :num_predictions].float() @ features.float().transpose(1, 2)
        candidates = torch.cat((true[:, None].expand(batch_size, -1, 1), negatives.to(true)), dim=2)
        logits = similarities.gather(2, candidates)
        losses = F.cross_entropy(logits.flatten(0, 1), true.new_zeros(batch_size * num_predictions), reduction="none")
        counted = true < lengths[:, None]
        hits = (logits.argmax(dim=2) == 0) & counted
        return EcgCpcForPreTrainingOutput(
            loss=losses.masked_fill(~counted.flatten(), 0.0).sum() / batch_size,
            prediction=prediction,
            accuracy=hits.sum() / counted.sum().clamp(min=1),
            negatives=negatives,
            hidden_states=outputs.hidden_states,
            loss_weight=losses.new_full((), batch_size),
        )


def draw_negatives(
    seeds: torch.Tensor | None, lengths: torch.Tensor, true: torch.Tensor, num_negatives: int
) -> torch.Tensor:
    """
    Draw the negatives `(B, P, K)` of each prediction from the tokens of the same recording, with replacement.

    Args:
        seeds (`torch.LongTensor` of shape `(B,)`, *optional*, defaults to zeros): Seed of each recording.
        lengths (`torch.LongTensor` of shape `(B,)`): Number of tokens of each recording.
        true (`torch.LongTensor` of shape `(P,)`): The true token of each prediction, which is never drawn.
        num_negatives (`int`): Number of negatives.
    """
    if seeds is None:
        seeds = torch.zeros_like(lengths)
    check_shape("seeds", seeds, tuple(lengths.shape))
    counters = seeded_counters(len(true), num_negatives).to(true.device)
    bits = seeded_bits(seeds.to(true)[:, None, None], counters)
    drawn = bits.remainder((lengths - 1).clamp(min=1)[:, None, None])
    return drawn + (drawn >= true[:, None])


class EcgCpcForSequenceClassification(EcgCpcPreTrainedModel, EcgForSequenceClassification):
    """
    ECG-CPC encoder with a linear classifier of the recording on the mean of its states.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgCpcConfig, EcgCpcForSequenceClassification

    >>> config = EcgCpcConfig.preset("tiny", id2label={0: "NORM", 1: "MI"})
    >>> model = EcgCpcForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 600)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    ecg_cpc: EcgCpcModel
    encoder_class = EcgCpcModel
    _keys_to_ignore_on_load_unexpected = [r"^projection\."]  # noqa: RUF012

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`EcgCpcModel.forward`] for the inputs and [`classify`] for the labels."""
        return self.classify(self.ecg_cpc(input_values, attention_mask, **kwargs), labels, **kwargs)


__all__ = [
    "EcgCpcForPreTraining",
    "EcgCpcForPreTrainingOutput",
    "EcgCpcForSequenceClassification",
    "EcgCpcModel",
    "EcgCpcModelOutput",
    "EcgCpcPreTrainedModel",
]
