"""
S4 models: convolutions of all leads together, and structured state space layers (S4; Gu, Goel and Ré, "Efficiently
Modeling Long Sequences with Structured State Spaces", ICLR 2022; S4D; Gu, Gupta, Goel and Ré, "On the Parameterization
and Initialization of Diagonal State Space Models", NeurIPS 2022). The network is that of ECG-CPC (Al-Masud, Lopez
Alcaraz and Strodthoff, "Benchmarking ECG FMs: A Reality Check Across Clinical Tasks", 2025, arXiv 2509.25095).

Shapes: `B` recordings, `L` leads, `T` samples per lead, `S` tokens, `D` hidden size, `N` pairs of conjugate states.
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
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_s4 import EcgS4Config
from .modeling_ecg import (
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    check_shape,
    masked_mean,
    validate_kwargs,
)


CACHED_NUMBERS = 2**19
"""Numbers that a CPU convolves at once: more do not fit into its caches."""
MAX_KEPT_NUMBERS = 2**22
"""Complex numbers of transformed kernels of several lengths that a layer keeps in evaluation (32 MiB)."""


@dataclass
class EcgS4ModelOutput(EcgModelOutput):
    """
    Output of [`EcgS4Model`].

    Args:
        last_hidden_state, pooler_output, lead_states, hidden_states, attentions, present_leads, token_mask:
            See [`EcgModelOutput`].
        extract_features (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Output of the convolutions, which contrastive predictive coding predicts.
    """

    extract_features: torch.Tensor | None = None


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


class StateSpaceKernel(nn.Module):
    """
    Base class of the convolution kernels of the linear systems of one layer, one for each channel. A subclass defines
    `initialize` and `forward`, which computes kernels `(D, num_tokens)` of any length.

    Parameters and constants are float32, whatever the dtype of the model, and kernels are computed in at least
    float32, also under autocast: half precision would damage them.
    """

    def __init__(self, config: EcgS4Config):
        super().__init__()
        self.num_channels = config.hidden_size
        self.num_pairs = config.state_size // 2
        self.step_range = (float(config.step_range[0]), float(config.step_range[1]))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move to a device, but keep the dtype."""

        def keep_dtype(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    def initialize(self) -> None:
        """Set parameters and constants of a randomly initialized model."""
        raise NotImplementedError


class DiagonalKernel(StateSpaceKernel):
    """
    Kernels of diagonal systems (S4D; Gu, Gupta, Goel and Ré, 2022), in real arithmetic.

    The eigenvalues of a channel are `-exp(log_decay) + i frequency` and their conjugates. The system is discretized
    with the step `exp(log_step)` and an input that is constant during a step (zero-order hold), with input weights of
    1. All parameters are trained; since they are neither of linear layers nor of convolutions, weight decay does not
    apply to them. They start as in S4D-Lin: decays of 1/2, the frequencies `0, pi, 2 pi, ...`, steps that are uniform
    on a logarithmic scale, and complex normal output weights.
    """

    def __init__(self, config: EcgS4Config):
        super().__init__(config)
        states = (self.num_channels, self.num_pairs)
        self.log_decay = nn.Parameter(torch.empty(states, dtype=torch.float32))
        self.frequency = nn.Parameter(torch.empty(states, dtype=torch.float32))
        self.output_weights = nn.Parameter(torch.empty((*states, 2), dtype=torch.float32))
        self.log_step = nn.Parameter(torch.empty(self.num_channels, dtype=torch.float32))

    @torch.no_grad()
    def initialize(self) -> None:
        """See the class."""
        init.constant_(self.log_decay, math.log(0.5))
        frequencies = math.pi * torch.arange(self.num_pairs, dtype=torch.float32, device="cpu")
        init.copy_(self.frequency, frequencies.expand_as(self.frequency))
        init.normal_(self.output_weights, std=math.sqrt(0.5))
        low, high = self.step_range
        init.uniform_(self.log_step, math.log(low), math.log(high))

    def forward(self, num_tokens: int) -> torch.Tensor:
        """
        Compute the kernels, `2 Re sum_n C_n (exp(step A_n) - 1) / A_n exp(step A_n t)`.

        Args:
            num_tokens (`int`): Number of values.

        Returns:
            `torch.Tensor` of shape `(D, num_tokens)`: Kernels in the dtype of the parameters.
        """
        step, decay, frequency = self.log_step.exp()[:, None], self.log_decay.exp(), self.frequency
        rate, angle = step * decay, step * frequency
        # exp(step A) - 1 without cancellation, divided by A = -decay + i frequency.
        real = (-rate).expm1() * angle.cos() - 2 * (angle / 2).sin().square()
        imaginary = (-rate).exp() * angle.sin()
        size = decay.square() + frequency.square()
        real, imaginary = (
            (imaginary * frequency - real * decay) / size,
            -(imaginary * decay + real * frequency) / size,
        )
        output_real, output_imaginary = self.output_weights.unbind(dim=2)
        real, imaginary = (
            output_real * real - output_imaginary * imaginary,
            output_real * imaginary + output_imaginary * real,
        )
        times = torch.arange(num_tokens, dtype=rate.dtype, device=rate.device)
        envelopes, angles = (-rate[..., None] * times).exp(), angle[..., None] * times
        waves = real[..., None] * angles.cos() - imaginary[..., None] * angles.sin()
        # No matrix product, which autocast would compute in half precision.
        return 2 * (envelopes * waves).sum(dim=1)


class NplrKernel(StateSpaceKernel):
    """
    Kernels of systems in normal plus low-rank form (S4; Gu, Goel and Ré, 2022).

    The state matrix of a channel is `A = diag(eigenvalues) - left right^T` over all states, of which every second one
    is the conjugate of a stored one. It is discretized by the bilinear rule with the step `exp(log_step)`. Following
    Gu, Goel and Ré (2022, section 3), kernels are computed from their discrete Fourier transform, whose values are
    Cauchy sums. Only `output_weights` are trained. They are those of the system times `I - A^n`, with `A` discretized
    and `n = config.kernel_length`, so that `n` values of the kernel determine its transform.

    Complex numbers are stored as pairs of real ones and computed in float64.
    """

    log_step: torch.Tensor

    def __init__(self, config: EcgS4Config):
        super().__init__(config)
        self.length = config.kernel_length
        pairs = (self.num_channels, self.num_pairs, 2)
        self.output_weights = nn.Parameter(torch.empty(pairs, dtype=torch.float32))
        for name in ("eigenvalues", "left", "right", "input_weights"):
            self.register_buffer(name, torch.empty(pairs, dtype=torch.float32))
        self.register_buffer("log_step", torch.empty(config.hidden_size, dtype=torch.float32))

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


KERNELS: dict[str, type[StateSpaceKernel]] = {"diagonal": DiagonalKernel, "nplr": NplrKernel}
"""Kernels by `kernel_type`."""


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


class EcgS4StateSpace(nn.Module):
    """
    Structured state space layer: a convolution of each channel with the kernel of its linear system, and a gated
    linear map of the channels. The convolution is causal unless `config.bidirectional`, with which a second linear
    system reads the channel in reversed time.
    """

    def __init__(self, config: EcgS4Config):
        super().__init__()
        kernel_class = KERNELS[config.kernel_type]
        self.kernel = kernel_class(config)
        self.reverse_kernel = kernel_class(config) if config.bidirectional else None
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
        """Convolution over time of states `(B, S, D)` with the kernel of each channel."""
        num_tokens = states.shape[1]
        num_later = num_tokens - 1 if self.reverse_kernel is not None else 0
        if torch.compiler.is_exporting() and not self.training:
            # Exported graphs have no Fourier transforms; the kernel becomes a constant.
            kernel = self._constant_kernel(num_tokens).to(states)
            padded = F.pad(states.transpose(1, 2), (num_tokens - 1, num_later))
            return F.conv1d(padded, kernel.flip(1)[:, None], groups=kernel.shape[0]).transpose(1, 2)
        # Of the circular convolution, the values that are read are those of a linear one.
        length, read = fast_length(2 * num_tokens - 1), slice(num_later, num_later + num_tokens)
        spectrum = self._kernel_spectrum(num_tokens, length, states)

        def multiply(part: torch.Tensor) -> torch.Tensor:
            transformed = torch.fft.rfft(part.transpose(1, 2), n=length)
            return torch.fft.irfft(transformed * spectrum, n=length)[..., read].transpose(1, 2)

        if states.device.type != "cpu" or torch.compiler.is_compiling():
            return multiply(states)
        parts = states.split(max(1, CACHED_NUMBERS // states[0].numel()))
        return torch.cat([multiply(part) for part in parts])

    def _kernel(self, num_tokens: int) -> torch.Tensor:
        """
        Kernels `(D, num_tokens)` by the number of tokens back in time, or `(D, 2 num_tokens - 1)`, which start
        `num_tokens - 1` tokens later in time.
        """
        kernel: torch.Tensor = self.kernel(num_tokens)
        if self.reverse_kernel is None:
            return kernel
        return torch.cat((self.reverse_kernel(num_tokens)[:, 1:].flip(1), kernel), dim=1)

    def _kernel_spectrum(self, num_tokens: int, length: int, states: torch.Tensor) -> torch.Tensor:
        """Fourier transform of the kernels, which is kept between calls in evaluation mode."""
        spectra, key = self._kept_spectra(), (num_tokens, states.dtype)
        if spectra is not None and key in spectra:
            return spectra[key]
        spectrum = torch.fft.rfft(self._kernel(num_tokens).to(states.dtype).to(states.device), n=length)
        if spectra is not None:
            while spectra and sum(map(torch.numel, (spectrum, *spectra.values()))) > MAX_KEPT_NUMBERS:
                del spectra[next(iter(spectra))]
            spectra[key] = spectrum
        return spectrum

    def _kept_spectra(self) -> dict[tuple[int, torch.dtype], torch.Tensor] | None:
        """Transforms of the present kernels, or `None` if they must not be kept."""
        kernels = [kernel for kernel in (self.kernel, self.reverse_kernel) if kernel is not None]
        parameters = [parameter for kernel in kernels for parameter in kernel.parameters()]
        tensors = [*parameters, *(buffer for kernel in kernels for buffer in kernel.buffers())]
        needs_gradient = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
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
            return self._kernel(num_tokens)

    def train(self, mode: bool = True) -> "EcgS4StateSpace":
        self._kept = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._kept = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        # Copies have other tensors, whose versions start again.
        return {**self.__dict__, "_kept": None}


class EcgS4Layer(GradientCheckpointingLayer):
    """S4 layer with a residual connection and normalization after it (post-norm)."""

    def __init__(self, config: EcgS4Config):
        super().__init__()
        self.s4 = EcgS4StateSpace(config)
        self.dropout = TiedDropout(config.hidden_dropout_prob)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        # On some devices, layer normalization returns float32 under autocast.
        return self.norm(states + self.dropout(self.s4(states))).to(states.dtype)


class EcgS4BatchNorm(nn.BatchNorm1d):
    """Batch normalization that, unless `config.use_batch_statistics`, uses the stored statistics in training, too."""

    def __init__(self, config: EcgS4Config):
        super().__init__(config.hidden_size, eps=config.batch_norm_eps)
        self.use_batch_statistics = config.use_batch_statistics

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.use_batch_statistics:
            return super().forward(states)
        return F.batch_norm(states, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class EcgS4LayerNorm(nn.LayerNorm):
    """Normalization of the channels of each token."""

    def __init__(self, config: EcgS4Config):
        super().__init__(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Normalize states `(B, D, S)`."""
        return super().forward(states.transpose(1, 2)).transpose(1, 2).to(states.dtype)


STEM_NORMS: dict[str, type[nn.Module]] = {"batch": EcgS4BatchNorm, "layer": EcgS4LayerNorm}
"""Normalizations of the convolutions by `stem_norm`."""


class SampleConv1d(nn.Conv1d):
    """
    Convolution of samples. Its bias is drawn from a normal distribution of standard deviation 1: without it, layer
    normalization would map a signal and a multiple of it to the same states.
    """


class EcgS4Convolution(nn.Module):
    """Convolution, normalization and ReLU. Before layer normalization, the convolution has a bias."""

    def __init__(self, config: EcgS4Config, is_first: bool):
        super().__init__()
        size = config.conv_kernel_size if is_first else 1
        conv_class = SampleConv1d if is_first else nn.Conv1d
        self.conv = conv_class(
            config.num_leads if is_first else config.hidden_size,
            config.hidden_size,
            size,
            stride=config.conv_stride if is_first else 1,
            padding=size // 2,
            bias=config.stem_norm == "layer",
        )
        self.norm = STEM_NORMS[config.stem_norm](config)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map samples `(B, L, T)` or states `(B, D, S)` to states `(B, D, S)`."""
        return F.relu(self.norm(self.conv(states)))


# ------------------------------------------------------------------------------------------------------------- models


class EcgS4PreTrainedModel(EcgPreTrainedModel):
    """Base class of the S4 models."""

    config: EcgS4Config
    base_model_prefix = "ecg_s4"
    _no_split_modules = ["EcgS4Convolution", "EcgS4Layer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": EcgS4Layer}  # noqa: RUF012
    _keep_in_fp32_modules_strict = {"kernel"}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StateSpaceKernel):
            module.initialize()
        elif isinstance(module, EcgS4StateSpace):
            init.ones_(module.skip)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, SampleConv1d) and module.bias is not None:
                init.normal_(module.bias)


class EcgS4Model(EcgS4PreTrainedModel):
    """
    S4 encoder: maps the leads together to states over time and their mean.

    `last_hidden_state` `(B, S, D)` has a state for every `config.conv_stride` samples, by default every 20 ms, in
    order of time. Unless `config.bidirectional`, it is causal: in the default size, it knows of the samples up to the
    next one. `extract_features` of the same shape is the output of the convolutions. `pooler_output` is the mean over
    time, and `lead_states` `(B, 1, D)` contains it for all leads together. `hidden_states` are the output of the
    convolutions and of each S4 layer. A missing lead is zero.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgS4Config, EcgS4Model

    >>> model = EcgS4Model(EcgS4Config.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 1000)).last_hidden_state.shape
    torch.Size([2, 500, 128])
    ```
    """

    has_time_states = True
    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: EcgS4Config):
        super().__init__(config)
        self.convolutions = nn.ModuleList(
            EcgS4Convolution(config, is_first=not index) for index in range(config.num_convolutions)
        )
        self.layers = nn.ModuleList(EcgS4Layer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self) -> Any:
        first: Any = self.convolutions[0]
        return first.conv

    def depth_groups(self) -> list[list[str]]:
        """The convolutions and the S4 layers, since Al-Masud et al. train each of the two with a rate of its own."""
        return [["convolutions"], ["layers"]]

    @property
    def has_causal_states(self) -> bool:
        """Whether states do not depend on later tokens."""
        return not self.config.bidirectional

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgS4ModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Recordings of any length, see [`EcgWaveformFeatureExtractor`]; missing samples are zero.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_samples)`, *optional*):
                1 or True for samples that were recorded. Tokens of others, at the end of short recordings, do not
                count in `pooler_output`.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                1 or True for leads that were recorded. Others are read as zero.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        validate_kwargs(kwargs)
        check_shape("input_values", input_values, (None, self.config.num_leads, None))
        states = input_values.to(self.get_input_embeddings().weight.dtype)
        if lead_mask is not None:
            check_shape("lead_mask", lead_mask, tuple(states.shape[:2]))
            states = states * lead_mask[..., None].to(states.dtype)
        for convolution in self.convolutions:
            states = convolution(states)
        features = states = states.transpose(1, 2)
        if attention_mask is not None:
            attention_mask = self._token_mask(attention_mask, *input_values.shape[::2])
        for layer in self.layers:
            if attention_mask is not None and self.config.bidirectional:
                states = states * attention_mask[..., None].to(states.dtype)  # padding must not reach earlier tokens
            states = layer(states)
        pooler_output = states.mean(dim=1) if attention_mask is None else masked_mean(states, attention_mask)
        return EcgS4ModelOutput(
            last_hidden_state=states,
            pooler_output=pooler_output,
            lead_states=pooler_output[:, None],
            present_leads=torch.ones((len(states), 1), dtype=torch.bool, device=states.device),
            token_mask=None if attention_mask is None else attention_mask.bool(),
            extract_features=features,
        )

    def _token_mask(self, attention_mask: torch.Tensor, batch_size: int, num_samples: int) -> torch.Tensor:
        """The mask of tokens `(B, S)`. A token is recorded if its middle sample is."""
        check_shape("attention_mask", attention_mask, (batch_size, num_samples))
        return attention_mask[:, :: self.config.conv_stride]


class EcgS4ForSequenceClassification(EcgS4PreTrainedModel, EcgForSequenceClassification):
    """
    S4 encoder with a linear classifier of the recording on the mean of its states.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgS4Config, EcgS4ForSequenceClassification

    >>> config = EcgS4Config.preset("tiny", id2label={0: "NORM", 1: "MI"})
    >>> model = EcgS4ForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 1000)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    ecg_s4: EcgS4Model
    encoder_class = EcgS4Model

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`EcgS4Model.forward`] for the inputs and [`classify`] for labels and rhythm."""
        return self.classify(self.ecg_s4(input_values, attention_mask, lead_mask, **kwargs), labels, rhythm, **kwargs)


__all__ = [
    "EcgS4ForSequenceClassification",
    "EcgS4Model",
    "EcgS4ModelOutput",
    "EcgS4PreTrainedModel",
]
