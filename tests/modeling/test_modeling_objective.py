"""The base of objectives: it builds the encoder of any system, and refuses what is none."""

from __future__ import annotations

import pytest
import torch

from clear_hug_hf import EcgCpcConfig, EcgCpcModel, EcgScanConfig
from clear_hug_hf.modeling.configuration_objective import ObjectiveConfig
from clear_hug_hf.modeling.modeling_objective import ObjectiveModel


def test_when_an_objective_has_a_backbone_then_it_is_the_encoder_of_its_config() -> None:
    config = ObjectiveConfig(backbone_config=EcgCpcConfig.preset("tiny"))
    model = ObjectiveModel(ObjectiveConfig(**config.to_dict()))
    assert type(model.published) is EcgCpcModel
    assert model.published.config.to_dict() == config.backbone_config.to_dict()
    outputs = model.published(torch.randn(2, 12, 300))
    torch.testing.assert_close(model.pool(outputs), outputs.pooler_output)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (None, "must be the config of an encoder"),
        ({"model_type": "nothing"}, "unknown model_type 'nothing'"),
        ({"model_type": "resnet"}, "must be the config of an encoder of recordings"),
        ({"model_type": "ecg_cpc", "hidden_size": 0}, "hidden_size must be at least 1"),
    ],
)
def test_when_the_backbone_is_no_valid_encoder_then_it_is_refused(backbone: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(backbone_config=backbone)


def test_when_the_backbone_reads_pages_then_it_is_refused() -> None:
    with pytest.raises(ValueError, match="encoder of recordings"):
        ObjectiveConfig(backbone_config=EcgScanConfig.preset("tiny"))
