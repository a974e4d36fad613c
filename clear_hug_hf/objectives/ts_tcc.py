"""Temporal and contextual contrasting: predict one view of a recording from the beginning of another one."""

from ..systems.base import Objective


OBJECTIVES = (
    Objective(
        name="ts_tcc",
        title="TS-TCC",
        model=".modeling.modeling_ts_tcc:TsTccForPreTraining",
        config=".modeling.configuration_ts_tcc:TsTccConfig",
        backbone="ecg_resnet",
        summary="TS-TCC: from the beginning of one view of a recording, predict what follows in the other, and tell "
        "both views from those of other recordings",
        paper="Eldele et al., Time-Series Representation Learning via Temporal and Contextual Contrasting, IJCAI "
        "2021, [arXiv 2106.14112](https://arxiv.org/abs/2106.14112)",
        loss="cross-entropy of later states, and of the other view",
        loss_title="Cross-entropy of later states (both directions), and 0.7 times that of the other view:",
        collator=".data.views:ViewCollator",
        # A weak and a strong change, as in the paper, with segments and noise that leave an ECG legible.
        views=(("scale_leads",), ("permute", "jitter")),
        augmentation=1.0,
        needs_full_batch=True,
    ),
)
