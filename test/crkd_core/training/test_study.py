"""The arms of the study, and the page and the picture that come of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crkd_core.config import load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.distillation.distiller import check_pair
from crkd_core.training.metrics import ClassMetrics, Metrics, summary
from crkd_core.training.study import ARMS, CONTROL, Arm, seeded
from crkd_core.training.study_report import calls, note_call, read_rows, study_figure, study_page, study_picture
from crkd_core.types import DETECTION_CLASSES

KNOWN = {arm.name: arm for arm in ARMS}


def resolved(arm: Arm) -> dict[str, float | str]:
    """The distillation section of an arm, flat."""
    values = recipe_to_dict(load_recipe(f"{arm.role}_study"))
    for change in arm.changes:
        path, _, value = change.partition("=")
        *sections, key = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        assert key in section, change
        section[key] = type(section[key])(value)
    recipe_from_dict(values, source=arm.name)
    found = {"radar_velocity": values["bev_augment"]["radar_velocity"]}
    for name, value in (values["distillation"] or {}).items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


WEIGHTS = {
    "CSRD": ["radar.weight"],
    "MSFD": ["features.camera_weight", "features.fused_weight"],
    "RelD": ["relation.weight"],
    "RespD": ["response.heatmap_weight", "response.box_weight"],
}


def losses_on(arm: Arm) -> set[str]:
    values = resolved(arm)
    return {loss for loss, names in WEIGHTS.items() if all(values[name] > 0 for name in names)}


def test_every_loss_is_alone_in_one_arm_all_are_in_crkd_and_none_in_the_control():
    assert losses_on(KNOWN["crkd"]) == set(WEIGHTS)
    assert losses_on(KNOWN[CONTROL]) == set()
    alone = [losses_on(arm) for arm in ARMS if arm.part == "loss"]
    assert sorted(map(sorted, alone)) == sorted([loss] for loss in WEIGHTS)


def test_variants_are_what_their_words_say():
    velocity = {name: resolved(KNOWN[name])["response.velocity_weight"] for name in KNOWN if KNOWN[name].role == "crkd"}
    assert {name for name, weight in velocity.items() if weight == 0} == {"crkd_no_velocity", "crkd_gentle"}
    assert losses_on(KNOWN["crkd_no_velocity"]) == losses_on(KNOWN["crkd_balanced"]) == set(WEIGHTS)
    assert losses_on(KNOWN["crkd_gentle"]) == {"CSRD", "RelD", "RespD"}


def test_every_correction_that_data_at_hand_can_undo_is_undone_alone():
    plain, undone = resolved(KNOWN["crkd"]), set()
    for arm in ARMS:
        if arm.part == "correction" and arm.name != "released":
            changed = {name: value for name, value in resolved(arm).items() if plain[name] != value}
            if "relation.affinity" in changed:
                assert changed.pop("relation.weight") == 0.25  # that of inner products
            assert list(changed.values()) == ["released"]
            undone |= set(changed)
    corrections = {name for name, value in plain.items() if value == "corrected"}
    assert corrections - undone == {"teacher_backbone"}  # needs ImageNet weights


def test_all_corrections_undone_are_the_released_recipe():
    released = load_recipe("crkd_r50_released")
    found = {name: value for name, value in resolved(KNOWN["released"]).items() if name != "radar_velocity"}
    flat = recipe_to_dict(released)["distillation"]
    expected = {f"{a}.{b}": value for a, one in flat.items() if isinstance(one, dict) for b, value in one.items()}
    assert found == expected | {name: value for name, value in flat.items() if not isinstance(value, dict)}
    assert resolved(KNOWN["released"])["radar_velocity"] == released.bev_augment.radar_velocity == "released"
    assert released.samples.paste is not None


def test_teacher_and_student_of_the_study_fit_together():
    check_pair(load_recipe("crkd_study"), load_recipe("teacher_study"))


def test_arms_need_the_student_of_their_own_seed_and_the_one_teacher():
    runs = {run.name: run for run in seeded(ARMS, range(2))}
    assert len(runs) == 2 * len(ARMS)
    assert runs["crkd-seed1"].needs == ("teacher-seed0", "student-seed1")
    assert runs["teacher-seed1"].needs == ()
    assert runs[f"{CONTROL}-seed1"].needs == ("student-seed1",)  # it may start before the teacher has ended


def test_an_arm_needs_a_teacher_when_it_learns_from_one():
    for arm in ARMS:
        taught = arm.role == "crkd" and bool(losses_on(arm))
        assert ("teacher" in arm.needs) == taught


def test_the_table_has_all_its_seeds_before_anything_else_has_a_second_one():
    *runs, last = seeded(ARMS, range(2))
    table = sum(run.arm.part == "table" for run in runs)
    assert [run.name for run in runs[:3]] == ["teacher-seed0", "student-seed0", "student-seed1"]
    assert all(run.arm.part == "table" for run in runs[:table])
    assert [run.seed for run in runs[table:]] == sorted(run.seed for run in runs[table:])
    assert last.name == "teacher-seed1"  # from which nobody learns


def ended(out: Path, arm: str, seed: int, ap: float | None) -> None:
    """What a run leaves behind; ``ap`` is that of every class, None: not scored."""
    folder = out / f"{arm}-seed{seed}"
    folder.mkdir(parents=True)
    facts = {"arm": arm, "seed": seed, "recipe": "r", "steps": 7, "samples": 14, "minutes": 1.25, "device": "abacus"}
    (folder / "arm.json").write_text(json.dumps({**facts, "command": f"training/train.py {arm} --seed {seed}"}))
    if ap is not None:
        errors = dict.fromkeys(("trans_err", "scale_err", "orient_err", "vel_err", "attr_err"), 0.5)
        one = ClassMetrics(truths=1, predictions=1, ap=ap, ap_by_distance={"2.0": ap}, **errors)
        classes = dict.fromkeys(DETECTION_CLASSES, one)
        figures = summary(classes.values())
        metrics = Metrics(samples=1, official=figures, present=figures, present_classes=(), classes=classes)
        metrics.save(folder / "metrics.json")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for arm, aps in {
        "teacher": (0.6, 0.8), "crkd": (0.5, 0.6), CONTROL: (0.4, 0.52), "student": (0.4, 0.4), "baseline": (0.3, 0.3),
        "only_csrd": (None,),
    }.items():  # fmt: skip
        for seed, ap in enumerate(aps):
            ended(tmp_path, arm, seed, ap)
    return tmp_path


def line(page: str, start: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(start))


def test_the_page_has_means_spreads_and_differences_of_equal_seeds(out: Path):
    page = study_page(ARMS, read_rows(out), calls=["training/reproduce_table.py"], data=["make data"], simulator="0123")
    teacher = line(page, "| teacher |")
    assert "| 2 | 0.700 ± 0.141 | 0.600 ± 0.071 |" in teacher
    # NDS is half of mAP plus a constant here: +0.05 and +0.04 to the control.
    assert line(page, "| crkd |").endswith(f"| {CONTROL} | +0.090 ± 0.014 | +0.045 ± 0.007 |")
    assert line(page, "| only_csrd |").endswith("| 0 | not scored |" + 9 * "  |")
    assert line(page, "| only_msfd |").endswith("| 0 | not run |" + 9 * "  |")
    assert "teacher > CRKD > student >= baseline, holds here: teacher 0.600 > crkd 0.525" in page
    missing = "crkd_balanced, crkd_no_velocity, crkd_gentle, crkd_scratch, only_csrd, only_msfd"
    assert f"10 runs of 5 of the {len(ARMS)} arms are scored; not: {missing}" in page
    assert "training/train.py crkd --seed 1\n" in page
    assert "```\nmake data\ntraining/train.py teacher --seed 0\n" in page
    assert "device abacus" in page
    assert "`0123`" in page
    assert "## Each loss alone" in page
    assert "## Each correction undone" not in page
    assert "Two corrections are no arms" not in page
    assert "All arms but `teacher`, `student`, `baseline` start from the student" in page


def test_another_order_is_said(out: Path):
    for seed in range(2):
        path = out / f"baseline-seed{seed}" / "metrics.json"
        path.write_bytes((out / "teacher-seed1" / "metrics.json").read_bytes())
    page = study_page(ARMS, read_rows(out), calls=["c"], data=[], simulator="s")
    assert "does not hold here: baseline 0.650 > teacher 0.600" in page


def test_a_page_of_nothing_says_so(tmp_path: Path):
    page = study_page(ARMS, read_rows(tmp_path), calls=["c"], data=[], simulator="s")
    assert f"0 runs of 0 of the {len(ARMS)} arms are scored" in page
    assert "cannot be judged" in page


def test_calls_are_noted_one_after_the_other(tmp_path: Path):
    assert calls(tmp_path) is None
    for call in ("first", "second", "first"):
        note_call(tmp_path, call, ["make data"])
    assert calls(tmp_path) == {"calls": ["first", "second"], "data": ["make data"]}
    page = study_page(ARMS, {}, calls=["first", "second"], data=[], simulator="")
    assert "Made by `first`, then `second`. " in page


def test_only_of_simulated_drives_the_page_speaks_of_the_simulator(out: Path):
    rows = read_rows(out)
    assert "configuration is `s` now" in study_page(ARMS, rows, calls=["c"], data=["d"], simulator="s")
    of_nuscenes = study_page(ARMS, rows, calls=["c"], data=[], simulator="")
    assert "simulator" not in of_nuscenes
    assert "test drives" not in of_nuscenes


def test_the_page_says_what_runs_start_from(out: Path):
    assert "no ImageNet weights. What is scored" in study_page(ARMS, read_rows(out), calls=["c"], data=[], simulator="")
    ended(out, "teacher", 2, 0.5)
    path = out / "teacher-seed2" / "arm.json"
    path.write_text(path.read_text().replace("--seed 2", "--seed 2 --pretrained resnet50.pth"))
    assert "no ImageNet weights. What" not in study_page(ARMS, read_rows(out), calls=["c"], data=[], simulator="")


def test_the_picture_is_small(out: Path, tmp_path: Path):
    study_picture(ARMS, read_rows(out), tmp_path / "study.png")
    content = (tmp_path / "study.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert 5_000 < len(content) < 150_000


def test_the_picture_has_a_mark_for_each_seed_and_each_difference(out: Path):
    whole, apart = study_figure(ARMS, read_rows(out)).axes
    names = [label.get_text() for label in whole.get_yticklabels()]
    assert names == ["baseline", CONTROL, "crkd", "student", "teacher"]
    row = names.index("crkd")
    marked = sorted(float(line.get_xdata()[0]) for line in whole.lines if list(line.get_ydata()) == [row])
    assert marked == pytest.approx([0.5, 0.525, 0.55])  # two seeds and their mean; NDS is half of mAP plus a quarter
    differences = [line for line in apart.lines if len(line.get_ydata()) == 1 and round(line.get_ydata()[0]) == row]
    found = sorted(float(line.get_xdata()[0]) for line in differences)
    assert found == pytest.approx([0.04, 0.05, 0.08, 0.1])
    assert {line.get_marker() for line in differences} == {"o", "s"}
