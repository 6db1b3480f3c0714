"""Masks, several labels and k-space: from the file through private training to figures.

The data is made here and easy: what is tested is that nothing on the way is lost, mixed or refused.
"""

from __future__ import annotations

import csv
from decimal import Decimal

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from stored_models import load_model
from torch import nn

from primum.domain.accounting.events import event_from_json
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind, evidence_from_json
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.spec import AuditSpec, DatasetSpec
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.datasets.units import UnitRows, unit_rows
from primum_pipelines.kinds.train.step import train
from primum_pipelines.models.registry import build
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingTask
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.losses import TaskLoss
from primum_pipelines.optimization.settings import GradientMode, LossName
from primum_pipelines.steps import evaluate, validate

PATIENTS = 120
CANARIES = (AuditSpec("Membership", "OneRunCanary", {"canaries": 20}),)
UNET = {
    "model": "UNet",
    "modelParameters": {"width": 8, "levels": 1},
    "epochs": 8,
    "batchSize": 48,
    "maxGradNorm": "1.0",
    "optimizer": "Adam",
    "learningRate": "0.02",
    "noiseMultiplier": "0.8",
    "loss": "DiceCrossEntropy",
}
MASKED = {"mask": "masks", "classes": ["background", "lesion"], "unitColumn": "patient"}


def lesions(rows, *, side=16, axes=2, seed=3):
    """A bright block on a dim ground, and where it is."""
    draw = np.random.default_rng(seed)
    images = draw.uniform(0, 0.3, (rows, *(side,) * axes))
    masks = np.zeros((rows, *(side,) * axes), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        corner = draw.integers(0, side - 6, axes)
        inside = tuple(slice(int(at), int(at) + 6) for at in corner)
        image[inside] += 0.6
        mask[inside] = 1
    return images.astype(np.float32), masks


@pytest.fixture
def clinic(make_zone, study, facts):
    """A zone of a dataset with a job, its files made by the test."""

    def made(uri, options, job, *, unit=PrivacyUnit.PATIENT, units=PATIENTS, audits=(), groups=()):
        if groups:
            options = {**options, "subgroups": list(groups)}
        dataset = DatasetSpec(uri, unit, options=options)
        return make_zone(
            study=study(job=job, audits=audits, epsilon=Decimal("900")),
            facts=facts(
                dataset=dataset,
                units=units,
                train_units=round(0.8 * units),
                epsilon=Decimal("900"),
                disclosures=("Utility", "Calibration", "Fairness"),
            ),
        )

    return made


def evaluated(zone):
    """Every step of a Study: the job's result, and evidence by kind."""
    assert validate.run(zone.request("validate")).status == "Succeeded"
    result = train(zone.request("job"))
    assert result.status == "Succeeded", result.message
    (receipt,) = result.receipts
    (planned,) = [access.event for access in zone.plan.accesses if access.step == "job"]
    assert event_from_json(receipt["event"]) == planned
    inputs = {"job": {"artifacts": result.artifacts}}
    seen = evaluate.run(zone.request("evaluate", inputs=inputs))
    return result, {item.kind: item.public for item in map(evidence_from_json, seen.evidence)}


def figure(found, name):
    return Decimal(found[name]["estimate"])


def test_masks_of_an_archive_are_learned_and_measured_by_patient(clinic):
    images, masks = lesions(2 * PATIENTS)
    owners = np.repeat(np.arange(PATIENTS), 2)
    sexes = np.where(owners % 2, "F", "M")
    options = {**MASKED, "maxExamplesPerUnit": 2}
    groups = ({"column": "sex", "values": ["F", "M"]},)
    zone = clinic("npz://lesions.npz", options, UNET, audits=CANARIES, groups=groups)
    np.savez(zone.folder / "lesions.npz", images=images, masks=masks, patient=owners, sex=sexes)
    result, found = evaluated(zone)
    utility = found[EvidenceKind.UTILITY]
    assert figure(utility, "dice") > Decimal("0.8")
    assert figure(utility, "iou") < figure(utility, "dice")
    assert utility["classes"]["lesion"]["dice"] == utility["dice"]
    assert set(found[EvidenceKind.FAIRNESS]["sex"]) >= {"F", "M"}
    assert EvidenceKind.CALIBRATION not in found
    stored = next(item for item in result.artifacts if item["kind"] == "Model")
    model = load_model(stored["uri"])
    assert model.spec.task is LabelTask.SEGMENTATION
    said = model.predict_proba(images[:3, None])
    assert said.shape == (3, 2, 16, 16)
    np.testing.assert_allclose(said.sum(axis=1), 1)


def write_table(folder, rows):
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "masks"])
        writer.writerows(rows)


def test_pairs_of_png_files_are_learned(clinic):
    from PIL import Image

    images, masks = lesions(PATIENTS)
    zone = clinic("images://pairs", {**MASKED, "table": "index.csv", "shape": [16, 16]}, UNET)
    folder = zone.folder / "pairs"
    folder.mkdir()
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray((255 * image).astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}-mask.png")
    write_table(folder, [(f"{n}.png", f"p{n}", f"{n}-mask.png") for n in range(PATIENTS)])
    _, found = evaluated(zone)
    assert figure(found[EvidenceKind.UTILITY], "dice") > Decimal("0.75")


def test_pairs_of_nifti_volumes_are_learned(clinic):
    import nibabel

    images, masks = lesions(40, side=8, axes=3)
    options = {**MASKED, "table": "index.csv", "window": ["0", "1"]}
    job = {**UNET, "batchSize": 16, "epochs": 10}
    zone = clinic("nifti://volumes", options, job, units=40)
    folder = zone.folder / "volumes"
    folder.mkdir()
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        for name, values in (("image", image), ("mask", mask)):
            volume = nibabel.Nifti1Image(values, np.eye(4))
            nibabel.save(volume, folder / f"{number}-{name}.nii")
    write_table(folder, [(f"{n}-image.nii", f"p{n}", f"{n}-mask.nii") for n in range(40)])
    _, found = evaluated(zone)
    assert figure(found[EvidenceKind.UTILITY], "dice") > Decimal("0.6")


LABELS = ["effusion", "edema", "cardiomegaly"]


def findings(rows, *, seed=5):
    """Three findings, each a bright corner of its own."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, (rows, 3))
    images = draw.uniform(0, 0.4, (rows, 16, 16)).astype(np.float32)
    images[labels[:, 0] == 1, :6, :6] += 0.5
    images[labels[:, 1] == 1, :6, 10:] += 0.5
    images[labels[:, 2] == 1, 10:, 5:11] += 0.5
    return images, labels.astype(np.uint8)


def test_several_labels_are_learned_and_measured_one_by_one(clinic):
    images, labels = findings(500)
    job = {
        "model": "SmallCNN",
        "modelParameters": {"channels": 8},
        "epochs": 8,
        "batchSize": 100,
        "maxGradNorm": "1.0",
        "optimizer": "Adam",
        "learningRate": "0.01",
        "noiseMultiplier": "0.7",
    }
    options = {"labels": LABELS, "unitColumn": "patient"}
    groups = ({"column": "sex", "values": ["F", "M"]},)
    zone = clinic("npz://chests.npz", options, job, units=500, audits=CANARIES, groups=groups)
    sexes = np.where(np.arange(500) % 2, "F", "M")
    archive = zone.folder / "chests.npz"
    np.savez(archive, images=images, labels=labels, patient=np.arange(500), sex=sexes)
    result, found = evaluated(zone)
    utility = found[EvidenceKind.UTILITY]
    assert figure(utility, "rocAuc") > Decimal("0.9")
    assert figure(utility, "weightedRocAuc") > Decimal("0.9")
    assert set(utility["labels"]) == set(LABELS)
    assert figure(found[EvidenceKind.CALIBRATION], "ece") < Decimal("0.4")
    assert "rocAucDifference" in found[EvidenceKind.FAIRNESS]["sex"]["F"]
    stored = next(item for item in result.artifacts if item["kind"] == "Model")
    said = load_model(stored["uri"]).predict_proba(images[:50, None])
    assert said.sum(axis=1).max() > 1.5  # Each label by itself: they do not share one.


def test_a_kspace_of_coils_is_classified_by_complex_convolutions(clinic):
    draw = np.random.default_rng(7)
    rows, coils, side = 160, 2, 16
    labels = draw.integers(0, 2, rows)
    scan = draw.normal(0, 0.1, (rows, coils, side, side))
    across = np.sin(2 * np.pi * 3 * np.arange(side) / side)
    scan[labels == 1] += across[None, None, :]  # A texture of three waves, along one axis,
    scan[labels == 0] += across[None, :, None]  # or along the other.
    kspace = np.fft.fft2(scan, norm="ortho").astype(np.complex64)
    options = {"unitColumn": "patient", "window": ["-16", "16"], "maxExamplesPerUnit": 1}
    job = {
        "model": "ComplexCNN",
        "epochs": 12,
        "batchSize": 64,
        "maxGradNorm": "1.0",
        "optimizer": "Adam",
        "learningRate": "0.01",
        "noiseMultiplier": "0.8",
    }
    zone = clinic("npz://knees.npz", options, job, units=rows)
    archive = zone.folder / "knees.npz"
    np.savez(archive, kspace=kspace, labels=labels, patient=np.arange(rows))
    _, found = evaluated(zone)
    assert figure(found[EvidenceKind.UTILITY], "rocAuc") > Decimal("0.85")


@pytest.mark.parametrize(
    ("options", "job", "message"),
    [
        (MASKED, {"model": "SmallCNN"}, r"model must answer for .* Segmentation.*Use UNet"),
        ({"labels": LABELS}, {"model": "UNet"}, r"must answer for labels of kind MultiLabel"),
        ({}, {"model": "UNet"}, r"must answer for labels of kind MultiClass"),
        ({}, {"model": "SmallCNN", "loss": "Dice"}, r"loss must be CrossEntropy"),
        ({"labels": LABELS}, {"model": "MLP", "loss": "Dice"}, r"loss must be CrossEntropy"),
        (MASKED, {**UNET, "loss": "BatchDice"}, r"loss must be one of CrossEntropy, Dice"),
        (MASKED, {**UNET, "ensemble": 4}, r"ensemble must be absent"),
        ({"labels": LABELS}, {"model": "MLP", "ensemble": 4}, r"ensemble must be absent"),
        (MASKED, {**UNET, "augmentation": {"multiplicity": 2}}, r"augmentation must be absent"),
        ({"labels": ["edema"]}, {"model": "MLP"}, r"labels must be two at least.*Use label"),
    ],
)
def test_what_labels_do_not_allow_is_refused_by_the_plan(clinic, options, job, message):
    base = {"epochs": 1, "batchSize": 8, "maxGradNorm": "1.0"}
    with pytest.raises(InvalidValue, match=message):
        clinic("npz://any.npz", {"unitColumn": "patient", **options}, {**base, **job})


def test_an_attack_that_would_not_understand_the_labels_is_refused_by_the_plan(clinic):
    audits = (AuditSpec("Membership", "RMIA", {}),)
    with pytest.raises(InvalidValue, match=r"audits\.attack must not open data .*OneRunCanary"):
        clinic("npz://any.npz", MASKED, UNET, audits=audits)


def test_a_shape_that_the_model_cannot_take_is_refused_by_the_plan(clinic):
    options = {**MASKED, "table": "index.csv", "shape": [17, 16]}
    with pytest.raises(InvalidValue, match="multiples of 2"):
        clinic("images://pairs", options, UNET)


def batch_dice(module, features, masks):
    """Dice over all pixels of a batch, as it is often written: each row's value is of all rows."""
    said = module(features).softmax(dim=1)[:, 1]
    both = (said * masks).sum()
    return (1 - 2 * both / (said.sum() + masks.sum())).expand(len(features))


def test_dice_over_a_batch_mixes_units_and_is_refused():
    images, masks = lesions(8)
    task = TrainingTask(
        module=build("UNet", {"width": 8, "levels": 1}, input_shape=(1, 16, 16), classes=2),
        inputs=(torch.from_numpy(images[:, None]), torch.from_numpy(masks)),
        loss=batch_dice,
        expected_units=8,
        mechanism=MechanismParameters(1.0, 1.0, 1, 1.0),
        learning_rate=0.1,
        seed=1,
    )
    with pytest.raises(InvalidValue, match="must treat every unit by itself"):
        DPSGD().fit(task)


@pytest.mark.parametrize("name", list(LossName))
def test_the_loss_of_a_mask_is_the_same_alone_and_among_others(name):
    images, masks = lesions(6)
    model = build("UNet", {"width": 8, "levels": 1}, input_shape=(1, 16, 16), classes=2)
    rows, labels = torch.from_numpy(images[:, None]), torch.from_numpy(masks)
    loss = TaskLoss(LabelTask.SEGMENTATION, name)
    with torch.no_grad():
        together = loss(model, rows, labels)
        alone = torch.cat([loss(model, rows[i : i + 1], labels[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone)


def test_dice_is_zero_for_the_right_mask_and_one_for_the_opposite():
    masks = torch.zeros((1, 16, 16), dtype=torch.uint8)
    masks[:, :8] = 1
    sure = 40 * (2 * nn.functional.one_hot(masks.long(), 2).movedim(-1, 1).float() - 1)
    loss = TaskLoss(LabelTask.SEGMENTATION, LossName.DICE)
    assert float(loss.of(sure, masks)) == pytest.approx(0, abs=1e-6)
    assert float(loss.of(-sure, masks)) == pytest.approx(1, abs=1e-2)


def test_a_patient_with_three_masks_is_clipped_once():
    """At rate 1 and almost no noise the released sum is as long as the patients are many."""
    images, masks = lesions(9)
    owners = unit_rows(np.repeat(np.array(["a", "b", "c"]), 3))
    assert isinstance(owners, UnitRows)
    model = build("UNet", {"width": 8, "levels": 1}, input_shape=(1, 16, 16), classes=2)
    task = TrainingTask(
        module=model,
        inputs=(torch.from_numpy(images[:, None]), torch.from_numpy(masks)),
        loss=TaskLoss(LabelTask.SEGMENTATION, LossName.DICE_CROSS_ENTROPY),
        expected_units=3,
        mechanism=MechanismParameters(1e-9, 1.0, 1, 1e-3),
        learning_rate=0.1,
        seed=1,
        units=owners,
    )
    sums = DPSGD().fit(task).update_sums
    length = float(torch.cat([value.flatten() for value in sums.values()]).norm())
    assert 0 < length <= 3 * 1e-3 * 1.001


@pytest.mark.parametrize("task", [LabelTask.SEGMENTATION, LabelTask.MULTI_LABEL])
def test_every_way_of_computing_unit_gradients_gives_the_same(task):
    sums = []
    for mode in (GradientMode.AUTO, GradientMode.FUNCTIONAL):
        torch.manual_seed(4)
        if task is LabelTask.SEGMENTATION:
            (images, labels), name = lesions(6, side=8), LossName.DICE_CROSS_ENTROPY
            model = build("UNet", {"width": 8, "levels": 1}, input_shape=(1, 8, 8), classes=2)
        else:
            (images, labels), name = findings(6), LossName.CROSS_ENTROPY
            model = build("SmallCNN", {}, input_shape=(1, 16, 16), classes=3)
        torch.manual_seed(4)
        report = DPSGD().fit(
            TrainingTask(
                module=model,
                inputs=(torch.from_numpy(images[:, None]), torch.from_numpy(labels)),
                loss=TaskLoss(task, name),
                expected_units=6,
                mechanism=MechanismParameters(1e-9, 1.0, 1, 0.1),
                learning_rate=0.1,
                seed=1,
                gradients=mode,
            )
        )
        sums.append(report.update_sums)
    for name, value in sums[0].items():
        torch.testing.assert_close(value, sums[1][name], rtol=1e-3, atol=1e-5)


READ = {
    "label": "sick",
    "classes": ["no", "yes"],
    "features": {"age": ["0", "100"]},
    "readers": ["ada", "ben"],
}
QUICK = {"model": "Logistic", "epochs": 4, "batchSize": 100, "maxGradNorm": "1.0"}


def cohort(folder, *, ben="no"):
    """Ada is right in nine of ten, and reads every second case; Ben always says the same."""
    lines = ["age,sick,ada,ben"]
    for number in range(400):
        sick = "yes" if number % 100 > 50 else "no"
        wrong = "no" if sick == "yes" else "yes"
        ada = "" if number % 2 else (wrong if number % 20 == 0 else sick)
        lines.append(f"{number % 100},{sick},{ada},{ben}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")


def test_a_model_is_compared_with_readers_in_the_zone_alone(clinic):
    zone = clinic("csv://cohort.csv", READ, QUICK, units=400)
    cohort(zone.folder)
    result = train(zone.request("job"))
    inputs = {"job": {"artifacts": result.artifacts}}
    seen = evaluate.run(zone.request("evaluate", inputs=inputs))
    found = {item.kind: item for item in map(evidence_from_json, seen.evidence)}
    utility = found[EvidenceKind.UTILITY]
    assert "accuracy" in utility.public  # Disclosed, and still:
    assert "readers" not in utility.public
    said = utility.restricted["readers"]
    assert 30 <= said["model"]["ada"]["rows"] < 60
    assert Decimal(said["model"]["ada"]["kappa"]["estimate"]) > Decimal("0.5")
    assert Decimal(said["model"]["ben"]["kappa"]["estimate"]) == 0
    assert set(said["between"]) == {"ada/ben"}


def test_what_a_reader_cannot_have_said_is_refused_without_showing_it(clinic):
    zone = clinic("csv://cohort.csv", READ, QUICK, units=400)
    cohort(zone.folder, ben="perhaps")
    with pytest.raises(
        InvalidValue, match="column ben must hold one of no, yes, its number"
    ) as got:
        train(zone.request("job"))
    assert "perhaps" not in str(got.value)


def test_readers_of_masks_are_refused_by_the_plan(clinic):
    with pytest.raises(InvalidValue, match="readers must be absent unless"):
        clinic("npz://any.npz", {**MASKED, "readers": ["ada"]}, UNET)
