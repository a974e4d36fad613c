from pathlib import Path

import numpy as np
import pytest
import torch

from clear_hug_hf import ClearHugConfig, ClearHugForSequenceClassification
from clear_hug_hf.inference.classifier_outputs import familiarity_note
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.familiarity import familiarity_distances, fit_familiarity
from clear_hug_hf.training.features import EncodedDataset
from clear_hug_hf.training.folders import classifier_config
from tests.support.small_systems import SMALL_SYSTEMS, SmallSystem


WIDTH = 16


def _classifier() -> ClearHugForSequenceClassification:
    torch.manual_seed(0)
    small = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ClearHugForSequenceClassification(ClearHugConfig.preset("tiny", **small, num_labels=2)).eval()


def _encoded(count: int, seed: int) -> EncodedDataset:
    """Features of few directions, with an own mean for each lead, and a little noise in all directions."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    directions, means = fixed.normal(size=(3, 12, WIDTH)), fixed.normal(size=(12, WIDTH))
    states = means + np.einsum("nk,kld->nld", rng.normal(size=(count, 3)), directions)
    states += 0.1 * rng.normal(size=states.shape)
    columns = {"lead_states": torch.from_numpy(states).float(), "present": torch.ones(count, 12, dtype=torch.bool)}
    return EncodedDataset({**columns, "labels": torch.zeros(count, 2)})


@pytest.fixture(scope="module")
def fitted() -> ClearHugForSequenceClassification:
    model, training = _classifier(), _encoded(400, 1)
    fit_familiarity(model, training, [str(row) for row in range(400)], [None] * 400, _encoded(300, 2))
    return model


def test_when_recordings_are_like_those_for_training_then_about_one_percent_are_unlike(
    fitted: ClearHugForSequenceClassification,
) -> None:
    familiarity = fitted.config.familiarity
    assert familiarity is not None
    assert familiarity["num_recordings"] == 300
    assert familiarity["false_alarm_rate"] == (familiarity_distances(fitted, _encoded(300, 2)) > 1).mean()
    rate = (familiarity_distances(fitted, _encoded(2000, 3)) > 1).mean()
    assert 0.002 < rate < 0.03


def test_when_no_recordings_are_held_out_then_no_rate_is_stated_as_measured() -> None:
    model = _classifier()
    fit_familiarity(model, _encoded(60, 1), [str(row) for row in range(60)], [None] * 60)
    assert not {"false_alarm_rate", "num_recordings"} & model.config.familiarity.keys()
    note = familiarity_note(model.config, 1.5)
    assert note is not None
    assert "set for 1% of the training recordings" in note
    assert "of the same source" not in note


@pytest.mark.parametrize("change", ["shifted", "shuffled", "larger"])
def test_when_recordings_are_unlike_those_for_training_then_their_distance_is_above_one(
    fitted: ClearHugForSequenceClassification, change: str
) -> None:
    others = _encoded(50, 4)
    states = others.columns["lead_states"]
    others.columns["lead_states"] = {
        "shifted": states + 0.3,
        "shuffled": states.roll(1, dims=1),
        "larger": 5 * states,
    }[change]
    assert (familiarity_distances(fitted, others) > 1).mean() > 0.95


def test_when_leads_are_missing_then_they_count_as_average(fitted: ClearHugForSequenceClassification) -> None:
    recordings = _encoded(50, 5)
    recordings.columns["present"][:, 3] = False
    missing = familiarity_distances(fitted, recordings)
    recordings.columns["lead_states"][:, 3] = 1e4
    np.testing.assert_allclose(familiarity_distances(fitted, recordings), missing, rtol=1e-5)


def test_when_the_model_is_saved_then_the_distance_is_and_logits_never_depend_on_it(
    fitted: ClearHugForSequenceClassification, tmp_path: Path
) -> None:
    system = SMALL_SYSTEMS["clear_hug"]
    batch = system.inputs(type(fitted))
    with torch.no_grad():
        output = fitted(**batch)
        fitted.save_pretrained(tmp_path)
        loaded, report = type(fitted).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values())
        assert loaded(**batch).distance.equal(output.distance)
        plain = _classifier()
        plain.load_state_dict(fitted.state_dict(), strict=False)
        assert plain(**batch).logits.equal(output.logits)
        assert plain(**batch).distance is None
    assert "familiarity" not in plain.config.to_dict()
    # A new classifier is trained on other recordings.
    assert classifier_config(fitted.config, ["new"]).familiarity is None


@pytest.mark.parametrize("system", SMALL_SYSTEMS.values(), ids=SMALL_SYSTEMS)
def test_when_a_config_has_a_familiarity_then_the_classifier_of_every_system_measures_distances(
    system: SmallSystem,
) -> None:
    plain = system.classifier(system.config(num_labels=2)).eval()
    batch = system.inputs(system.classifier)
    with torch.no_grad():
        num_rows, width = plain.base_model(**batch).lead_states.shape[1:]
        config = system.config(num_labels=2)
        config.familiarity = {"num_rows": num_rows, "pooled_rank": 2, "leads_rank": 1}
        model = system.classifier(config).eval()
        assert model.familiarity.pooled_mean.shape == (width,)
        model.familiarity.pooled_scales.fill_(1.0)
        assert model(**batch).distance.shape == (2,)


@pytest.mark.parametrize("system", SMALL_SYSTEMS.values(), ids=SMALL_SYSTEMS)
def test_when_a_familiarity_is_large_then_it_counts_as_parameters(
    system: SmallSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = system.config(num_labels=2)
    config.familiarity = {"num_rows": 1024, "pooled_rank": 1, "leads_rank": 1024}
    config.validate_architecture()
    # Less than the buffers, and more than the rest of the model.
    monkeypatch.setattr("clear_hug_hf.modeling.configuration_ecg.MAX_PARAMETERS", 1024**2 * config.hidden_size)
    with pytest.raises(ValueError, match="the model would have about"):
        config.validate_architecture()
    config.familiarity = None
    config.validate_architecture()


@pytest.mark.parametrize(
    "familiarity", [{"num_rows": 12}, {"num_rows": 12, "pooled_rank": 10_000}, {"num_rows": 0, "pooled_rank": 3}]
)
def test_when_the_sizes_of_a_familiarity_make_no_sense_then_they_are_refused(familiarity: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="familiarity must have num_rows"):
        ClearHugConfig(familiarity=familiarity)


@pytest.mark.parametrize(
    ("count", "num_patients", "message"),
    [(49, 49, "49 training recordings: at least 50"), (60, 4, "4 patients with training recordings: at least 5")],
)
def test_when_training_recordings_or_patients_are_few_then_it_is_refused(
    count: int, num_patients: int, message: str
) -> None:
    patients = [str(row % num_patients) for row in range(count)]
    with pytest.raises(InputError, match=f"there are {message}"):
        fit_familiarity(_classifier(), _encoded(count, 1), [str(row) for row in range(count)], patients)
