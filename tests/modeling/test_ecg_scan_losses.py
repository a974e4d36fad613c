"""Losses of ECG-Scan follow their formulas, also where these are easy to misread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clear_hug_hf import EcgScanFeatureExtractor
from clear_hug_hf.data.records import find_records, read_record
from clear_hug_hf.modeling.losses_ecg_scan import (
    contrastive_loss,
    gramian_contrastive_loss,
    gramian_volume,
    lead_residuals,
    pairwise_contrastive_loss,
    reconstruction_loss,
    soft_lead_loss,
)
from clear_hug_hf.processing import STANDARD_LEADS
from clear_hug_hf.processing.leads import derive_limb_lead


SCALE = torch.tensor(2.0)


def _units(count: int, seed: int, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=1).float()


def test_when_a_volume_is_computed_then_it_is_the_root_of_the_determinant() -> None:
    image, signal, text = (_units(5, seed) for seed in range(3))
    result = gramian_volume(image, signal, text)
    for row in range(5):
        for column in range(5):
            vectors = torch.stack([image[row], signal[column], text[column]]).double()
            expected = torch.linalg.det(vectors @ vectors.T).sqrt()
            assert result[row, column].item() == pytest.approx(expected.item(), abs=1e-5)


def test_when_a_pair_agrees_then_its_volume_shrinks_for_every_image() -> None:
    """Trap T1: the volume is the distance from the pair's plane times what no image can change."""
    image, signal = _units(6, 0), _units(6, 1)
    text = F.normalize(signal + 0.3 * _units(6, 2), dim=1)
    cosine = (signal * text).sum(dim=1)
    distances = torch.empty(6, 6)
    for column in range(6):
        plane = torch.linalg.qr(torch.stack([signal[column], text[column]], dim=1))[0]
        distances[:, column] = (image - image @ plane @ plane.T).norm(dim=1)
    expected = (1 - cosine.square()).sqrt() * distances
    torch.testing.assert_close(gramian_volume(image, signal, text), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(gramian_volume(image, signal, text, normalize=True), distances, atol=1e-3, rtol=0)


def test_when_images_are_turned_around_then_only_cosines_notice() -> None:
    """Trap T2."""
    image, signal, text = (_units(5, seed) for seed in range(3))
    torch.testing.assert_close(gramian_volume(-image, signal, text), gramian_volume(image, signal, text))
    alike = pairwise_contrastive_loss(signal, signal, SCALE)
    assert pairwise_contrastive_loss(-signal, signal, SCALE) > alike + 1


@pytest.mark.parametrize("kind", ["signal is text", "image is signal", "all alike"])
def test_when_vectors_coincide_then_gradients_are_finite(kind: str) -> None:
    """Trap T3."""
    image, signal, text = (_units(4, seed) for seed in range(3))
    image = signal.clone() if kind != "signal is text" else image
    text = signal.clone() if kind != "image is signal" else text
    image.requires_grad_()
    gramian_contrastive_loss(image, signal, text, SCALE).backward()
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().max() < 1e3


def test_when_nothing_is_left_out_then_the_contrast_is_cross_entropy_both_ways() -> None:
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(6)
    for smoothing in (0.0, 0.1):
        rows = F.cross_entropy(scores, target, label_smoothing=smoothing)
        columns = F.cross_entropy(scores.T, target, label_smoothing=smoothing)
        result = contrastive_loss(scores, None, smoothing)
        assert result.item() == pytest.approx((rows + columns).item() / 2, abs=1e-5)


def test_when_two_recordings_share_a_text_then_they_are_no_negatives() -> None:
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([3, 7, 3, 8, 9])
    duplicates = ids[:, None] == ids[None]
    changed = scores.clone()
    changed[0, 2], changed[2, 0] = 50.0, -50.0
    for smoothing in (0.0, 0.1):
        usual = contrastive_loss(scores, duplicates, smoothing)
        assert contrastive_loss(changed, duplicates, smoothing).item() == pytest.approx(usual.item(), abs=1e-6)
        assert abs(contrastive_loss(changed, None, smoothing).item() - usual.item()) > 1
    changed = scores.clone()
    changed[0, 0] += 1
    assert contrastive_loss(changed, duplicates).item() != pytest.approx(contrastive_loss(scores, duplicates).item())


# ------------------------------------------------------------------------------------------------- reconstruction


def _real_leads(shared: Path, source: str) -> list[np.ndarray]:
    extractor, result = EcgScanFeatureExtractor(), []
    for path in find_records(shared / "data" / source)[:12]:
        recording = read_record(path)
        signal, present = extractor.clean(
            recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit
        )
        if present.all():
            result.append(signal)
    assert len(result) > 5
    return result


@pytest.mark.parametrize(("source", "most"), [("challenge", 0.01), ("ludb", 0.1)])
def test_when_recordings_are_in_millivolts_then_their_leads_obey_the_identities(
    shared: Path, source: str, most: float
) -> None:
    """Also a test that the leads of each source have the right names. LUDB filtered each lead separately."""
    residuals = np.stack(
        [np.sqrt(lead_residuals(torch.from_numpy(entry)).square().mean(1)) for entry in _real_leads(shared, source)]
    )
    assert np.median(residuals) < most


def test_when_residuals_are_taken_then_they_are_of_the_identities_that_derive_absent_leads() -> None:
    leads = np.random.default_rng(0).normal(size=(12, 40))
    result = lead_residuals(torch.from_numpy(leads)).numpy()
    for index, name in enumerate(STANDARD_LEADS[2:6]):
        expected = leads[2 + index] - derive_limb_lead(name, leads[0], leads[1])
        np.testing.assert_allclose(result[index], expected, atol=1e-12, err_msg=name)


def test_when_two_leads_are_swapped_or_scaled_apart_then_the_residuals_show_it(shared: Path) -> None:
    signal = torch.from_numpy(_real_leads(shared, "challenge")[0])
    level = signal[:6].square().mean().sqrt()

    def left(leads: torch.Tensor) -> torch.Tensor:
        return lead_residuals(leads).square().mean(dim=1).sqrt() / leads[:6].square().mean().sqrt()

    swapped = signal[[0, 1, 2, 3, 5, 4, *range(6, 12)]]
    assert (left(swapped)[:2] < 0.05).all()
    assert (left(swapped)[2:] > 0.3).all()
    assert (left(signal / level) < 0.05).all(), "one scale for all leads keeps them"
    apart = (signal - signal.mean(dim=1, keepdim=True)) / signal.std(dim=1, keepdim=True)
    assert left(apart).max() > 0.3, "a scale for each does not: trap T5"


def test_when_the_truth_obeys_the_identities_then_the_constraint_is_an_error_in_another_metric() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, generator=generator)
    limbs = [first, second, second - first, -(first + second) / 2, first - second / 2, second - first / 2]
    truth = torch.stack([*limbs, *torch.randn(6, 50, generator=generator)])[None]
    error = torch.randn(1, 12, 50, generator=generator)
    assert soft_lead_loss(truth).item() == pytest.approx(0.0, abs=1e-10)
    assert soft_lead_loss(truth + error).item() == pytest.approx(soft_lead_loss(error).item(), rel=1e-4)
    weights = torch.zeros(4, 6)
    weights[0, [0, 1, 2]] = torch.tensor([1.0, -1.0, 1.0])
    weights[1, [0, 1, 3]] = torch.tensor([0.5, 0.5, 1.0])
    weights[2, [0, 1, 4]] = torch.tensor([-1.0, 0.5, 1.0])
    weights[3, [0, 1, 5]] = torch.tensor([0.5, -1.0, 1.0])
    assert soft_lead_loss(error).item() == pytest.approx((weights @ error[0, :6]).square().mean().item(), rel=1e-5)
    eigenvalues = torch.linalg.eigvalsh(weights.T @ weights)
    assert eigenvalues.tolist() == pytest.approx([0, 0, 1, 1, 1.75, 5.25], abs=1e-5)


def test_when_a_recording_does_not_obey_them_then_it_does_not_count() -> None:
    leads = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(0))
    only = soft_lead_loss(leads, torch.tensor([False, True, False]))
    assert only.item() == pytest.approx(soft_lead_loss(leads[1:2]).item())
    assert soft_lead_loss(leads, torch.zeros(3, dtype=torch.bool)).item() == 0.0


def test_when_samples_have_no_weight_then_their_errors_do_not_count() -> None:
    truth = torch.zeros(1, 12, 10)
    rebuilt = torch.full((1, 12, 10), 0.05)
    weights = torch.ones(1, 12, 10)
    assert reconstruction_loss(rebuilt, truth, weights, 0.1).item() == pytest.approx(0.05**2 / 2)
    rebuilt[..., 5:] = 1e3
    weights[..., 5:] = 0
    assert reconstruction_loss(rebuilt, truth, weights, 0.1).item() == pytest.approx(0.05**2 / 2)
    assert reconstruction_loss(rebuilt, truth, torch.zeros(1, 12, 10)).item() == 0.0
    far = reconstruction_loss(torch.full((1, 12, 10), 1.0), truth, torch.ones(1, 12, 10), 0.1)
    assert far.item() == pytest.approx(0.1 * (1.0 - 0.05)), "beyond delta it grows linearly"
