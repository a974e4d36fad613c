"""
Every registered system made small. A new system is tested by adding one record here: how to build it, what to feed it
and what the command line needs for it. `tests/systems` runs over all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from clear_hug_hf.objectives import default_objective
from clear_hug_hf.systems import SYSTEMS, Objective, System


Batch = dict[str, torch.Tensor]
# How the fixtures' models are trained.
PRETRAINING = ["--num-train-epochs", 2, "--train-batch-size", 16, "--disable-tqdm"]
FINETUNING = ["--num-train-epochs", 10, "--per-device-train-batch-size", 8, "--seed", 0, "--no-use-feature-cache"]
# Larger than the default, so that what must differ differs visibly.
WIDE = {"initializer_range": 0.2}


@dataclass(frozen=True)
class SmallSystem:
    """A system small enough to compute everything in moments."""

    name: str
    fields: dict[str, Any]
    """Settings of the small config."""
    make_batch: Callable[[], Batch]
    """
    Two recordings, of which the second is short and lacks leads where the system knows of that. Whatever the base
    model and the model for pre-training take; the latter's masks make it deterministic.
    """
    forms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other settings by name, whose numbers must agree between implementations, too."""
    frozen: tuple[str, ...] = ()
    """Parts whose parameters are never trained."""
    lora_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear maps of the encoder that LoRA adapts."""
    batch_norms: tuple[str, ...] = ()
    """Names of batch normalizations that training moves; the recordings of a batch then depend on each other."""
    num_states: int = 3
    """Hidden states of the encoder: those that go in, and of each layer."""
    captured: tuple[str, ...] = ()
    """Forms in which `torch.compile` captures every model whole, since none knows a value of a tensor."""
    any_length: bool = False
    """Whether recordings may have any number of samples."""
    has_attention: bool = True
    """Whether encoder and pre-training model return attention weights."""
    has_towers: bool = False
    """Whether encoders are models of transformers, and texts are read once each, so that the device is waited for."""
    options: dict[str, Any] = field(default_factory=dict)
    """Model options by which `clear-hug pretrain` builds it small."""
    logged: tuple[str, ...] = ()
    """What its pre-training logs of every step beside what all do."""
    teacher_logged: tuple[str, ...] = ()
    """The same of the objective that trains its teacher."""

    @property
    def system(self) -> System:
        return SYSTEMS[self.name]

    @property
    def objective(self) -> Objective | None:
        """Its own objective, or the shared one whose default backbone it is."""
        return default_objective(self.system)

    def config(self, **overrides: Any) -> Any:
        return self.system.config(**{**self.fields, **overrides})

    @cached_property
    def models(self) -> dict[str, type[PreTrainedModel]]:
        """Classes by the Auto class that loads them, each once."""
        names = [name for name in self.system.auto_classes if name.startswith("AutoModel")]
        auto_classes = {self.system.model(name): name for name in reversed(names)}
        return {auto_class: model_class for model_class, auto_class in auto_classes.items()}

    @property
    def encoder(self) -> type[PreTrainedModel]:
        return self.models["AutoModel"]

    @property
    def classifier(self) -> type[PreTrainedModel]:
        """Of recordings or of pages."""
        kind = "Image" if self.system.reads_pages else "Sequence"
        return self.models[f"AutoModelFor{kind}Classification"]

    @property
    def teacher_words(self) -> list[Any]:
        """What `clear-hug pretrain` needs to build its teacher small, if that is of the same system."""
        words = [word for name, value in self.options.items() for word in ("--config-overrides", f"{name}={value}")]
        return ["--objective", self.objective.teacher_objective, *words]

    def words(self, folder: Any) -> list[Any]:
        """What `clear-hug pretrain` needs to build it small, besides the recordings; `folder` holds a `teacher`."""
        words = [word for name, value in self.options.items() for word in ("--config-overrides", f"{name}={value}")]
        if self.objective is not None and self.objective.teachers:
            words += [f"--{self.objective.teachers[0].replace('_', '-')}", folder / "teacher"]
        return ["--system", self.name, *words]

    def inputs(self, model_class: type[PreTrainedModel]) -> Batch:
        """What of the batch the model takes."""
        names = inspect.signature(model_class.forward).parameters
        return {name: value for name, value in self.make_batch().items() if name in names}

    def bare_inputs(self, rows: int = 2) -> Batch:
        """The main input alone, for any number of recordings."""
        name = self.encoder.main_input_name
        shape = self.make_batch()[name].shape[1:]
        return {name: torch.randn(rows, *shape, generator=torch.Generator().manual_seed(3))}


def make_beats(num_beats: int = 15, real_beats: tuple[int, ...] = (15, 9)) -> Batch:
    """Recordings of so many real beats, cut to the first `num_beats`; all but the first are without V5 and V6."""
    generator = torch.Generator().manual_seed(1)
    count = len(real_beats)
    lead_mask = torch.ones(count, 12, dtype=torch.bool)
    lead_mask[1:, 10:] = False
    attention_mask = torch.arange(num_beats) < torch.tensor(real_beats)[:, None]
    input_values = torch.randn((count, 12, 15, 96), generator=generator)[:, :, :num_beats]
    time_ids = torch.randint(1, 11, (count, 15), generator=generator).sort(dim=1).values[:, :num_beats]
    return {
        "input_values": input_values * (attention_mask[:, None, :, None] & lead_mask[:, :, None, None]),
        "attention_mask": attention_mask,
        "time_ids": time_ids * attention_mask,
        "lead_mask": lead_mask,
    }


def _beats() -> Batch:
    return {**make_beats(), "noise": torch.linspace(0, 1, 360).reshape(2, 12, 15)}


def _patches() -> Batch:
    generator = torch.Generator().manual_seed(1)
    lead_mask = torch.ones(2, 8, dtype=torch.bool)
    lead_mask[1, 6:] = False
    attention_mask = torch.arange(12) < torch.tensor([[12], [9]])
    input_values = torch.randn((2, 8, 240), generator=generator)
    return {
        "input_values": input_values * (attention_mask.repeat_interleave(20, dim=1)[:, None] & lead_mask[..., None]),
        "attention_mask": attention_mask,
        "lead_mask": lead_mask,
        "bool_masked_pos": torch.arange(12) % 3 == 1,
    }


def make_pages(count: int = 2, width: int = 96) -> Batch:
    """Pages with their recordings, and texts of 9, 5, 7, 3, 9, ... tokens; every other one obeys the identities."""
    generator = torch.Generator().manual_seed(1)
    places = torch.arange(count)
    num_tokens = torch.tensor([9, 5, 7, 3])[places % 4]
    return {
        "pixel_values": torch.randn(count, 3, 64, width, generator=generator),
        "waveforms": 0.2 * torch.randn(count, 12, 200, generator=generator),
        "drawn_mask": torch.rand(count, 12, 200, generator=generator) < 0.5,
        "signal_mask": torch.rand(count, 12, 200, generator=generator) < 0.9,
        "identity_mask": places % 2 == 0,
        "signal_embeds": torch.randn(count, 32, generator=generator),
        "input_ids": torch.randint(3, 64, (count, 9), generator=generator),
        "attention_mask": (torch.arange(9) < num_tokens[:, None]).long(),
        "text_mask": torch.ones(count, dtype=torch.bool),
        "text_ids": places,
    }


def make_sentences(num_beats: int = 24, real_beats: tuple[int, ...] = (24, 15)) -> Batch:
    """Recordings of so many real beats of two leads, and zeros up to `num_beats`."""
    generator = torch.Generator().manual_seed(1)
    count = len(real_beats)
    is_real = torch.arange(num_beats) < torch.tensor(real_beats)[:, None]
    words = torch.arange(num_beats).expand(count, -1)
    half = torch.tensor(real_beats)[:, None].float().div(2).ceil().long()
    return {
        "input_values": torch.randn((count, num_beats, 96), generator=generator) * is_real[..., None],
        "lead_ids": (1 + words // half) * is_real,
        "time_ids": (1 + words % half) * is_real,
        "bool_masked_pos": words % 3 == 1,
        "codes": torch.randint(0, 16, (count, num_beats), generator=generator),
    }


def _samples() -> Batch:
    """30 tokens, of which the second recording has 21."""
    generator = torch.Generator().manual_seed(1)
    lead_mask = torch.ones(2, 12, dtype=torch.bool)
    lead_mask[1, 10:] = False
    return {
        "input_values": torch.randn((2, 12, 480), generator=generator),
        "attention_mask": torch.arange(480) < torch.tensor([[480], [340]]),
        "lead_mask": lead_mask,
        "bool_masked_pos": torch.arange(30).expand(2, -1) % 3 > 0,
        "seeds": torch.tensor([3, 4]),
    }


def _separated(num_patches: int = 12) -> Batch:
    """Patches of twelve leads, of which the second recording has nine of ten leads, and their noise."""
    generator = torch.Generator().manual_seed(1)
    lead_mask = torch.ones(2, 12, dtype=torch.bool)
    lead_mask[1, 10:] = False
    return {
        "input_values": torch.randn((2, 12, 20 * num_patches), generator=generator),
        "lead_mask": lead_mask,
        "attention_mask": torch.arange(num_patches) < torch.tensor([[num_patches], [num_patches - 3]]),
        "noise": torch.rand((2, 12, num_patches), generator=generator),
    }


def _end_to_end() -> Batch:
    """29 tokens, of which the second recording has 19, and their codes."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn((2, 1920), generator=generator),
        "attention_mask": torch.arange(1920) < torch.tensor([[1920], [1300]]),
        "bool_masked_pos": torch.arange(29).expand(2, -1) % 3 > 0,
        "codes": torch.randint(0, 10, (2, 29, 2), generator=generator),
    }


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BEATS = {
    **SIZES,
    **{f"decoder_{name}": value for name, value in SIZES.items()},
    "decoder_hidden_size": 24,
    "decoder_num_attention_heads": 2,
}
PATCHES = {
    **SIZES,
    **{f"predictor_{name}": value for name, value in SIZES.items()},
    "predictor_hidden_size": 24,
    "predictor_num_attention_heads": 2,
    "num_samples": 240,
    "patch_size": 20,
}
SENTENCES = {**SIZES, "head_dim": 6, "num_beats": 24, "vocab_size": 16, "code_dim": 8, "decoder_num_hidden_layers": 1}
SEPARATED = {
    **SIZES,
    **{f"decoder_{name}": value for name, value in SIZES.items()},
    "decoder_hidden_size": 24,
    "decoder_num_attention_heads": 2,
    "head_dim": 6,
    "num_samples": 240,
    "patch_size": 20,
}
SAMPLES = {
    **SIZES,
    **{"conv_dim": [16] * 4, "num_conv_pos_embeddings": 32, "num_conv_pos_embedding_groups": 4, "num_samples": 480},
    **{"num_codevectors_per_group": 10, "codevector_dim": 16, "proj_codevector_dim": 12, "num_negatives": 7},
}
END_TO_END = {
    **SIZES,
    **{"conv_dim": [16] * 5, "num_conv_pos_embeddings": 32, "num_conv_pos_embedding_groups": 4, "num_samples": 800},
    **{"vocab_sizes": [10, 12], "classifier_proj_size": 12, "logits_temperature": 0.5},
}
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {**TOWER, "model_type": "vit", "image_size": 64, "patch_size": 16}
CLIP = {**VIT, "model_type": "clip_vision_model", "image_size": 96, "projection_dim": 8}
TEXT = {**TOWER, "model_type": "bert", "vocab_size": 64, "max_position_embeddings": 32, "type_vocab_size": 1}
TEXT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PAGES: dict[str, Any] = {
    "vision_config": VIT,
    "signal_config": {"model_type": "clear_hug", **BEATS, "num_hidden_layers": 1},
    "text_config": TEXT,
    "image_size": [64, 96],
    "num_samples": 200,
    "projection_dim": 24,
    **{f"decoder_{name}": value for name, value in TOWER.items()},
}


def _recordings(num_samples: int = 600) -> Batch:
    """Two recordings of twelve leads, normalized."""
    return {"input_values": torch.randn((2, 12, num_samples), generator=torch.Generator().manual_seed(1))}


def _tokens(num_samples: int = 120) -> Batch:
    """Two recordings of twelve leads, of which the second is short, and their negatives."""
    generator = torch.Generator().manual_seed(1)
    attention_mask = torch.arange(num_samples // 2) < torch.tensor([[60], [45]])
    return {
        "input_values": torch.randn((2, 12, num_samples), generator=generator)
        * attention_mask.repeat_interleave(2, dim=1)[:, None],
        "attention_mask": attention_mask,
        "negatives": torch.randint(45, (2, num_samples // 2 - 14, 8), generator=generator),
    }


def _waveforms() -> Batch:
    """Recordings of 120 samples of twelve leads, the second without V5 and V6 and of 75 samples, and their seeds."""
    generator = torch.Generator().manual_seed(1)
    lead_mask = torch.ones(2, 12, dtype=torch.bool)
    lead_mask[1, 10:] = False
    return {
        "input_values": torch.randn((2, 12, 120), generator=generator),
        "attention_mask": torch.arange(120) < torch.tensor([[120], [75]]),
        "lead_mask": lead_mask,
        "seeds": torch.tensor([3, 4]),
    }


STATE_SPACES = {"hidden_size": 16, "num_hidden_layers": 2, "kernel_length": 40, "num_negatives": 8}
DOMAINS = {**SIZES, "head_dim": 6, "stage_depth": 1, "decoder_num_hidden_layers": 1}
DIAGONAL = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 8}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16, 16], "depths": [1, 2, 1]}
CONVOLUTIONS = {"stem_channels": 8, "stage_channels": [8, 16, 16], "stage_depths": [1, 2, 1], "group_size": 4}


SMALL_SYSTEMS: dict[str, SmallSystem] = {
    system.name: system
    for system in (
        SmallSystem(
            "clear_hug",
            {**BEATS, **WIDE},
            _beats,
            forms={
                "full attention": {"full_attention": True, "head_type": "weighted"},
                "full cls": {"cls_attention": "full", "head_type": "single_level"},
                "released": {"cls_attention": "reference_bias", "beat_embedding": "conv"},
            },
            captured=("", "released"),
            options={
                **dict.fromkeys(("hidden_size", "intermediate_size"), 64),
                **dict.fromkeys(("decoder_hidden_size", "decoder_intermediate_size"), 64),
                # With two, no recording would be mistaken, and wrong numbers would look like right ones.
                **dict.fromkeys(("num_hidden_layers", "decoder_num_hidden_layers"), 1),
            },
        ),
        SmallSystem(
            "ecg_jepa",
            {**PATCHES, **WIDE},
            _patches,
            forms={"full attention": {"attention_pattern": "full"}, "dropped": {"drop_path_rate": 0.1}},
            frozen=("teacher.",),
            logged=("pooled_std",),
            options={
                **dict.fromkeys(("hidden_size", "intermediate_size"), 32),
                **{f"predictor_{name}": 16 for name in ("hidden_size", "intermediate_size")},
                **dict.fromkeys(("num_attention_heads", "predictor_num_attention_heads"), 2),
                "num_hidden_layers": 2,
                "predictor_num_hidden_layers": 1,
                "drop_path_rate": 0.2,
            },
        ),
        SmallSystem(
            "heartlang",
            {**SENTENCES, **WIDE},
            make_sentences,
            frozen=("codebook.", "tokenizer."),
            captured=("",),
            logged=("accuracy",),
            teacher_logged=("perplexity",),
            options={name: size for name, size in SENTENCES.items() if name != "num_beats"},
        ),
        SmallSystem(
            "ecg_fm",
            {**SAMPLES, **WIDE},
            _samples,
            captured=("",),
            options={name: size for name, size in SAMPLES.items() if name != "num_samples"},
        ),
        SmallSystem(
            "hubert_ecg",
            {**END_TO_END, **WIDE},
            _end_to_end,
            captured=("",),
            options={name: size for name, size in END_TO_END.items() if name != "num_samples"},
        ),
        SmallSystem(
            "st_mem",
            {**SEPARATED, **WIDE},
            _separated,
            forms={"learned positions": {"learned_positions": True}},
            captured=("",),
            options={
                name: size for name, size in SEPARATED.items() if name not in ("num_samples", "patch_size", "head_dim")
            },
        ),
        SmallSystem(
            "ecg_scan",
            PAGES,
            make_pages,
            forms={"clip": {"vision_config": CLIP}},
            frozen=("signal_model.",),
            num_states=2,
            has_towers=True,
            logged=("loss_volume", "loss_pairwise", "loss_reconstruction", "loss_lead", "top1", "duplicate_texts"),
            options={
                "vision_config": "{model_type: resnet, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], "
                "layer_type: basic}",
                "image_size": "[64, 96]",
                "projection_dim": 16,
                **{f"decoder_{name}": 16 for name in ("hidden_size", "intermediate_size")},
                "decoder_num_hidden_layers": 1,
                "decoder_num_attention_heads": 2,
            },
        ),
        SmallSystem(
            "ecg_founder",
            CONVOLUTIONS,
            _recordings,
            forms={"narrow": {"bottleneck_ratio": 0.5, "kernel_size": 5}},
            any_length=True,
            has_attention=False,
            lora_modules=("squeeze", "excite"),
            num_states=4,
            captured=("", "narrow"),
            options=CONVOLUTIONS,
        ),
        SmallSystem(
            "ecg_cpc",
            {**STATE_SPACES, **WIDE},
            _tokens,
            forms={"batch statistics": {"use_batch_statistics": True}},
            any_length=True,
            has_attention=False,
            lora_modules=("output",),
            captured=("",),
            options=STATE_SPACES,
        ),
        SmallSystem(
            "crt",
            {**DOMAINS, **WIDE, "num_samples": 120},
            _waveforms,
            forms={
                "batch norm": {"patch_norm": "batch"},
                "raw": {"magnitude_scale": "raw", "standardize_domains": False, "initializer_range": 0.02},
            },
            captured=("",),
            logged=("reconstruction_loss", "discrimination_loss"),
            options=DOMAINS,
        ),
        SmallSystem(
            "ecg_s4",
            {**DIAGONAL, **WIDE},
            _waveforms,
            forms={
                "released": {"kernel_type": "nplr", "kernel_length": 40, "stem_norm": "batch"},
                "bidirectional": {"bidirectional": True},
            },
            any_length=True,
            has_attention=False,
            lora_modules=("output",),
            captured=("",),
            options=DIAGONAL,
            logged=("accuracy",),
        ),
        SmallSystem(
            "ecg_resnet",
            STAGES,
            _waveforms,
            forms={"bottleneck": {"layer_type": "bottleneck", "downsample_in_first_stage": True}},
            any_length=True,
            has_attention=False,
            lora_modules=("conv",),
            batch_norms=("norm",),
            num_states=4,
            captured=("", "bottleneck"),
            options=STAGES,
            logged=("top1", "pooled_std", "effective_rank"),
        ),
    )
}
PRETRAINABLE = [name for name, small in SMALL_SYSTEMS.items() if small.objective]
"""Systems that `clear-hug pretrain` trains by default; the weights of others are converted."""
