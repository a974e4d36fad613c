"""Contrastive predictive coding: tell what comes next from what comes at other times of the same recording."""

from ..systems.base import Objective


OBJECTIVES = (
    Objective(
        name="cpc",
        title="contrastive predictive coding",
        model=".modeling.modeling_cpc:CpcForPreTraining",
        config=".modeling.configuration_cpc:CpcConfig",
        backbone="ecg_s4",
        summary="contrastive predictive coding: tell the features a fixed time ahead from those at other times of the "
        "same recording",
        paper="van den Oord, Li and Vinyals, Representation Learning with Contrastive Predictive Coding, [arXiv "
        "1807.03748](https://arxiv.org/abs/1807.03748), in the form of Mehari and Strodthoff, Self-Supervised "
        "Representation Learning from 12-Lead ECG Data, [arXiv 2103.12676](https://arxiv.org/abs/2103.12676)",
        loss="cross-entropy of the true token",
        loss_title="Cross-entropy of the true token among tokens of the same recording:",
    ),
)
