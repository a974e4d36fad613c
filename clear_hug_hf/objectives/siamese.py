"""
Objectives that compare two views of each recording: settings of one model.

Layers of projectors and predictors, temperatures and momenta are those of the papers. Published on pictures, their
views are those that work on ECGs (Mehari and Strodthoff, 2022), with a crop that preserves the heart rate. CLOCS
changes nothing: its views are the two halves of a recording.
"""

from functools import partial

from ..systems import Objective


# A crop and a time-out are the best pair of Mehari and Strodthoff; the others imitate electrodes and breathing.
_VIEWS = ("crop", "time_out", "wander", "breathing", "drop_leads")


_siamese = partial(
    Objective,
    model=".modeling.modeling_siamese:SiameseForPreTraining",
    config=".modeling.configuration_siamese:SiameseConfig",
    backbone="ecg_resnet",
    collator=".data.views:ViewCollator",
    views=(_VIEWS, _VIEWS),
    augmentation=1.0,
    needs_full_batch=True,
)

OBJECTIVES = (
    _siamese(
        name="simclr",
        title="SimCLR",
        summary="SimCLR: find the other view of a recording among both views of all recordings of the batch",
        paper="Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, [arXiv "
        "2002.05709](https://arxiv.org/abs/2002.05709)",
        loss="cross-entropy of the other view",
        settings={"projection_sizes": [None, 128], "temperature": 0.1},
    ),
    _siamese(
        name="moco_v3",
        title="MoCo v3",
        summary="MoCo v3: find the other view of a recording among all recordings of the batch, as a moving average "
        "of the network represents them",
        paper="Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021, [arXiv "
        "2104.02057](https://arxiv.org/abs/2104.02057)",
        loss="cross-entropy of the other view, times twice the temperature",
        settings={
            "projection_sizes": [4096, 256],
            "projection_norms": ["batch", "batch_without_scale"],
            "prediction_sizes": [4096, 256],
            "target": "momentum",
            "contrast": "info_nce",
            "temperature": 0.2,
            "loss_scale": 0.4,
            "ema_start": 0.99,
        },
    ),
    _siamese(
        name="byol",
        title="BYOL",
        summary="BYOL: predict a moving average's representation of the other view, without negatives",
        paper="Grill et al., Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, NeurIPS 2020, "
        "[arXiv 2006.07733](https://arxiv.org/abs/2006.07733)",
        loss="negative cosine similarity with the other view, times two",
        settings={
            "projection_sizes": [4096, 256],
            "projection_norms": ["batch", "none"],
            "prediction_sizes": [4096, 256],
            "target": "momentum",
            "contrast": "cosine",
            "loss_scale": 2.0,
            "ema_start": 0.996,
        },
    ),
    _siamese(
        name="simsiam",
        title="SimSiam",
        summary="SimSiam: predict the representation of the other view, through which no gradient flows, without "
        "negatives",
        paper="Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021, [arXiv "
        "2011.10566](https://arxiv.org/abs/2011.10566)",
        loss="negative cosine similarity with the other view",
        settings={
            "projection_sizes": [None, None, 2048],
            "projection_norms": ["batch", "batch", "batch_without_scale"],
            "prediction_sizes": [512, 2048],
            "target": "detached",
            "contrast": "cosine",
        },
    ),
    _siamese(
        name="clocs",
        title="CLOCS",
        summary="CLOCS: find the other half of a recording, or another recording of the same patient, in the batch",
        paper="Kiyasseh et al., CLOCS: Contrastive Learning of Cardiac Signals Across Space, Time, and Patients, ICML "
        "2021, [arXiv 2005.13249](https://arxiv.org/abs/2005.13249)",
        loss="cross-entropy of the other half",
        views=(("first_half",), ("second_half",)),
        settings={
            "projection_sizes": [128],
            "projection_norms": ["none"],
            "contrast": "info_nce",
            "temperature": 0.1,
            "same_patient": "positive",
        },
    ),
)
