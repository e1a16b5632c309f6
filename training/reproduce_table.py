#!/usr/bin/env python3
"""Run CRKD's table: its rows, other ways to distil, each loss alone, each correction undone; write it as a page.

    training/reproduce_table.py --out runs/study --gpus 1 --per-gpu 6 --workers 2       # on simulated drives
    training/reproduce_table.py --out runs/study --gpus 4 --dry-run                     # list commands and order
    training/reproduce_table.py --out runs/table --gpus 4 --processes 4 --dataroot DATA --prepared P   # full recipes
    training/reproduce_table.py --score runs/study          # where nuscenes-devkit is

Without --dataroot it simulates once what all arms train on and are scored on, into --out. Then the arms run side by
side, --per-gpu of them on each GPU (small ones leave it idle between kernels), each with its own folder: log.txt, the
checkpoint, results.json, metrics.json where nuscenes-devkit is installed, and arm.json when it has ended. Called again,
it goes on: ended arms are not run again, killed ones resume. An ended arm may come from another machine: its folder,
or for one that others only start from its arm.json and model/.
The full recipes are written for four processes; where --processes names fewer, gradients are accumulated, so that a
step has as many samples.
Where nuscenes-devkit is missing, or with --score-later, copy --out (without frames) to a machine that has it, and
--score it there; what to score on is in it, or elsewhere as --dataroot and --version.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from train import changed

from crkd_core.cli import ArgumentParser, UserError, finite, run
from crkd_core.config import load_recipe
from crkd_core.data.synthscenes.config import EVALUATION_SEEDS, SynthConfig
from crkd_core.runtime.checkpoint import read_sidecar
from crkd_core.training.jobs import Job, run_jobs
from crkd_core.training.study import ARMS, SeededArm, seeded
from crkd_core.training.study_report import calls, note_call, read_rows, study_page, study_picture
from crkd_core.training.study_scoring import score_arms, unscored
from crkd_core.training.submission import write_json

SCRIPTS = Path(__file__).resolve().parent
FRAMES, EVALUATION, EVALUATION_VERSION = "frames", "evaluation", "v1.0-mini"
PARTIAL = ".partial"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
FULL_PROCESSES = 4
"""What the full recipes' samples per process are meant for."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Threads of one process, by the libraries that ask; arms and their loading processes share the cores already."""
SCHEDULE = ("steps", "batch_size", "learning_rate", "warmup_steps")
"""What a student that is distilled from its first step on has of the recipe of one that learns alone."""
TEACHER_WORKERS = 3
"""Times as many loading processes for a teacher, if there are as many cores: nearly all arms wait for it."""
FINDINGS = "study_findings.md"
"""What people have written about the figures, in --docs or one folder up; the page leads there."""
FIRST_TEST_SEED = EVALUATION_SEEDS[0] + 900
"""The drives of the study were looked at for nothing else; those from 500 on taught what recipes and arms are now."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder of the study; goes on with what is there")
    where.add_argument(
        "--score", type=Path, metavar="OUT", help="only score the arms there that are not, and write the page"
    )
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="for study.md and study.png (default: --out)")
    what = parser.add_argument_group("what to run")
    what.add_argument("--seeds", type=int, default=2, help="runs of each arm (default: %(default)s)")
    what.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help=f"with what they need, of {', '.join(arm.name for arm in ARMS)} (default: all)",
    )
    what.add_argument(
        "--recipes",
        metavar="PATTERN",
        help="names or files, {} for the role (default: {}_study, or {}_r50 of --dataroot)",
    )
    what.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="recipe changes of every arm"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--drives", type=int, default=700, help="simulated drives to train on (default: %(default)s)")
    data.add_argument("--frames-per-drive", type=int, default=4, help="key frames of each (default: %(default)s)")
    data.add_argument("--test-drives", type=int, default=40, help="simulated drives to score on (default: %(default)s)")
    data.add_argument("--image-width", type=int, default=448, help="of simulated images (default: %(default)s)")
    data.add_argument("--dataroot", type=Path, help="data set in nuScenes format instead")
    data.add_argument("--version", default="v1.0-trainval", help="its version folder (default: %(default)s)")
    data.add_argument("--split", default="train", help="to train on (default: %(default)s)")
    data.add_argument("--test-split", default="val", help="to score on (default: %(default)s)")
    data.add_argument("--prepared", type=Path, metavar="DIR", help="what training/prepare.py has made of --dataroot")
    work = parser.add_argument_group("how to run")
    work.add_argument("--gpus", type=int, default=1, metavar="N", help="to run arms on (default: %(default)s)")
    work.add_argument(
        "--processes", type=int, default=1, metavar="N", help="GPUs of each arm, by torchrun (default: %(default)s)"
    )
    work.add_argument(
        "--per-gpu",
        type=int,
        default=1,
        metavar="N",
        help="arms side by side, with one thread in each process (default: %(default)s)",
    )
    work.add_argument(
        "--pretrained", type=Path, metavar="FILE", help="ImageNet weights, for arms that start from no student"
    )
    work.add_argument("--minutes", type=finite, help="no arm starts later than this (default: no limit)")
    work.add_argument(
        "--workers",
        type=int,
        help="of each arm, for loading; a teacher has up to three times as many (default: twice its share of cores)",
    )
    work.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="of training (default: training/train.py's)"
    )
    work.add_argument("--half", action="store_true", help="store the kernels of checkpoints as float16")
    work.add_argument("--score-later", action="store_true", help="score no arm when it ends; --score does it elsewhere")
    work.add_argument("--dry-run", action="store_true", help="list the commands in their order, run none")
    return parser.parse_args()


def main() -> int:
    """Run what is missing, then write the page."""
    args = arguments()
    if args.score is not None:
        args.out = args.score
        failed = score(args)
        write_page(args.out, args.docs or args.out)
        return 1 if failed else 0
    for name in ("seeds", "drives", "frames_per_drive", "test_drives", "gpus", "per_gpu", "processes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(args, name)}")
    if args.gpus % args.processes:
        raise UserError(f"--gpus {args.gpus}: expected a multiple of --processes {args.processes}")
    data = data_jobs(args)
    made = [job for job in data if not (args.score_later and job.name == EVALUATION)]
    jobs = [*made, *arm_jobs(args, [job.name for job in made])]
    # Asked before anything is started: it refuses what a study of other data or recipes has left.
    done = [job.done() for job in jobs]
    if args.dry_run:
        for job, there in zip(jobs, done, strict=True):
            print(f"{job.name}{' (done)' * there}: {shlex.join(map(shown, job.command()))}")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    note_call(args.out, typed(), [shlex.join(shown(w).removesuffix(PARTIAL) for w in job.command()) for job in data])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the running arms are ended, too, and resume next time
    begin = time.monotonic()
    outcome = run_jobs(
        jobs,
        places(args),
        seconds=None if args.minutes is None else 60 * args.minutes,
        say=lambda words: print(f"{(time.monotonic() - begin) / 60:6.1f} min  {words}", flush=True),
    )
    print(f"{len(outcome.done)} of {len(jobs)} done, {len(outcome.failed)} failed, {len(outcome.left)} not started")
    write_page(args.out, args.docs or args.out)
    return 1 if outcome.failed else 0


def places(args: argparse.Namespace) -> list[dict[str, str]]:
    """What each place adds to the environment of its arm: GPUs, and, beside others, one thread in each process."""
    gpus = args.per_gpu * visible_gpus(args.gpus, args.processes)
    threads = {name: os.environ.get(name, "1") for name in THREADS} if len(gpus) > 1 else {}
    return [{"CUDA_VISIBLE_DEVICES": names, **threads} for names in gpus]


def visible_gpus(count: int, of_each: int) -> list[str]:
    """The names of the first GPUs that this process sees, so many together."""
    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if known is None else known.split(",")
    if len(names) < count:
        raise UserError(f"--gpus {count}: CUDA_VISIBLE_DEVICES names {len(names)}")
    return [",".join(names[i : i + of_each]) for i in range(0, count, of_each)]


def data_jobs(args: argparse.Namespace) -> list[Job]:
    """What simulates the frames to train on and those to score on."""
    if args.dataroot is not None:
        return []
    first, last = FIRST_TEST_SEED, FIRST_TEST_SEED + args.test_drives
    lidar_sweeps = load_recipe(recipe_name(args, "teacher")).lidar_sweeps
    radar_sweeps = load_recipe(recipe_name(args, "student")).radar_sweeps
    train = ["--seeds", f"0:{args.drives}", "--frames-per-drive", args.frames_per_drive, "--no-progress"]
    train += ["--radar-sweeps", radar_sweeps, "--image-width", args.image_width]
    train += ["--lidar-sweeps", len(lidar_sweeps), "--lidar-step", lidar_sweeps.step]
    test = ["--seeds", f"{first}:{last}", "--duration", 5, "--lidar-sweeps", "--version", EVALUATION_VERSION]
    test += ["--image-width", args.image_width]
    return [
        data_job(args.out / FRAMES, "pack_synthscenes.py", train),
        data_job(args.out / EVALUATION, "make_synthscenes.py", test),
    ]


def data_job(folder: Path, script: str, words: Sequence[object]) -> Job:
    """A script with an --out, whose folder appears when it has ended."""
    partial = folder.with_name(folder.name + PARTIAL)
    made_by, asked = folder.with_name(folder.name + ".json"), [script, *map(str, words)]

    def command() -> list[str]:
        return [sys.executable, str(SCRIPTS / script), "--out", str(partial), *map(str, words)]

    def done() -> bool:
        if not folder.exists():
            return False
        found = json.loads(made_by.read_text()) if made_by.exists() else "something else"
        if found != asked:
            raise UserError(f"{folder}: was made by {found}, not by {asked}; choose another --out, or remove it")
        return True

    def finish() -> None:
        made_by.write_text(json.dumps(asked) + "\n")
        partial.rename(folder)

    def prepare() -> None:
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed

    log = folder.with_name(folder.name + ".txt")
    return Job(folder.name, command, done, finish, log, prepare, alone=True)


def arm_jobs(args: argparse.Namespace, data: Sequence[str]) -> list[Job]:
    """The arms with their seeds, in order of importance, which read what the jobs named in ``data`` make."""
    known = {arm.name: arm for arm in ARMS}
    unknown = [name for name in args.arms or () if name not in known]
    if unknown:
        raise UserError(f"--arms {unknown[0]}: expected some of {', '.join(known)}")
    wanted = set(known if args.arms is None else args.arms)
    wanted |= {needed for name in wanted for needed in known[name].needs}
    chosen = tuple(arm for arm in ARMS if arm.name in wanted)
    jobs: list[Job] = []
    for arm in seeded(chosen, range(args.seeds)):
        folder = args.out / arm.name
        command, done, finish = arm_command(args, arm), arm_done(args, folder, arm), arm_finish(folder, arm)
        after = tuple(job.name for job in jobs) if arm.spread_only else ()
        jobs.append(Job(arm.name, command, done, finish, folder / "log.txt", needs=(*data, *arm.needs), after=after))
    return jobs


def arm_command(args: argparse.Namespace, arm: SeededArm) -> Callable[[], list[str]]:
    """The training of an arm; it resumes what a killed one has left."""
    script = "distill.py" if arm.arm.role == "crkd" else "train.py"
    words: list[object] = [recipe_name(args, arm.arm.role), "--out", args.out / arm.name, "--seed", arm.seed]
    for needed in arm.needs:
        words += [f"--{needed.partition('-')[0]}", args.out / needed / "model"]
    if args.dataroot is not None:
        words += ["--dataroot", args.dataroot, "--version", args.version, "--split", args.split]
        words += ["--prepared", args.prepared] if args.prepared is not None else []
        scored = ["--evaluate-split", args.test_split]
    else:
        words += ["--frames", args.out / FRAMES]
        scored = ["--evaluate-root", args.out / EVALUATION, "--evaluate-version", EVALUATION_VERSION]
        scored += ["--evaluate-scenes"]
    words += [] if args.score_later else scored
    if args.pretrained is not None and arm.arm.from_scratch:
        words += ["--pretrained", args.pretrained]
    changes = changes_of(args, arm)
    words += ["--set", *changes] if changes else []
    words += ["--workers", loading_processes(args, arm), "--save-every", 200, "--no-progress"]
    words += ["--precision", args.precision] if args.precision is not None else []
    words += ["--half"] if args.half else []

    def command() -> list[str]:
        resume = ["--resume"] if (args.out / arm.name / "last.ckpt").exists() else []
        launcher = [] if args.processes == 1 else [*TORCHRUN, "--nproc-per-node", str(args.processes)]
        return [sys.executable, *launcher, str(SCRIPTS / script), *map(str, words), *resume]

    return command


def loading_processes(args: argparse.Namespace, arm: SeededArm) -> int:
    """Of each process of an arm."""
    cores = os.cpu_count() or 1
    share = cores // (args.gpus * args.per_gpu)
    own: int = args.workers if args.workers is not None else max(1, 2 * share - 2)  # others start, score or wait
    more = min(TEACHER_WORKERS * own, cores // args.processes) if arm.arm.role == "teacher" else own
    return max(own, more)


def arm_done(args: argparse.Namespace, folder: Path, arm: SeededArm) -> Callable[[], bool]:
    """Whether an arm has ended, which is then one of the recipe as it is now."""

    def done() -> bool:
        if not (folder / "arm.json").exists():
            return False
        wanted = changed(load_recipe(recipe_name(args, arm.arm.role)), changes_of(args, arm))
        found = read_sidecar(folder / "model").recipe
        if found != wanted:
            raise UserError(
                f"{folder}: was run with another '{wanted.name}' than now; choose another --out, or remove it"
            )
        command = json.loads((folder / "arm.json").read_text())["command"]
        others = [needed for needed in arm.needs if f"{needed}/model" not in command]
        if others:
            raise UserError(f"{folder}: did not start with {others[0]}; choose another --out, or remove it")
        return True

    return done


def changes_of(args: argparse.Namespace, arm: SeededArm) -> list[str]:
    """What is not as in the recipe of its role."""
    changes = list(arm.arm.changes)
    if arm.arm.role == "crkd" and arm.arm.from_scratch:
        alone = load_recipe(recipe_name(args, "student")).train
        changes += [f"train.{name}={getattr(alone, name)}" for name in SCHEDULE]
    if args.dataroot is None or args.recipes is not None:
        return [*changes, *args.set]
    if FULL_PROCESSES % args.processes:
        raise UserError(f"--processes {args.processes}: the full recipes are written for {FULL_PROCESSES}: 1, 2 or 4")
    accumulate = FULL_PROCESSES // args.processes
    return [*([f"train.accumulate={accumulate}"] if accumulate > 1 else []), *changes, *args.set]


def arm_finish(folder: Path, arm: SeededArm) -> Callable[[], None]:
    """Notes what has run when it has ended."""

    def finish() -> None:
        checkpoint = read_sidecar(folder / "model")
        train, known = checkpoint.recipe.train, checkpoint.provenance
        facts = {
            "arm": arm.arm.name,
            "seed": arm.seed,
            "recipe": checkpoint.recipe.name,
            "samples": known["steps"] * train.batch_size * train.accumulate * known["processes"],
            **known,
            "command": known["command"].removesuffix(" --resume"),  # which is not how to run it again
        }
        write_json(folder / "arm.json", facts, indent=1)

    return finish


def recipe_name(args: argparse.Namespace, role: str) -> str:
    """The recipe of a role."""
    pattern: str = args.recipes or ("{}_study" if args.dataroot is None else "{}_r50")
    if "{}" not in pattern:
        raise UserError(f"--recipes {pattern}: expected {{}} where the role goes, such as {{}}_study")
    return pattern.replace("{}", role)


def score(args: argparse.Namespace) -> list[str]:
    """Score the arms that have ended and have no metrics yet; names of those that cannot be."""
    folders, root, version = unscored(args.out), args.dataroot, args.version
    if root is None:
        root, version = args.out / EVALUATION, EVALUATION_VERSION
        if folders and not root.exists():
            command = evaluation_command(args.out)
            raise UserError(f"{root}: there is nothing to score on; put it there, or make it again by {command}")
    return score_arms(folders, root, version, split=args.test_split if args.dataroot else None, say=print)


def evaluation_command(out: Path) -> str:
    """The command that simulates what the arms of a study are scored on, as it was noted, for this folder."""
    noted = (calls(out) or {"data": []})["data"]
    words = next((shlex.split(command) for command in noted if f"{EVALUATION} " in command), [])
    if "--out" not in words:
        return "training/make_synthscenes.py"
    words[words.index("--out") + 1] = str(out / EVALUATION)
    return shlex.join(words)


def write_page(out: Path, docs: Path) -> None:
    """The page and the picture of the arms that have ended."""
    rows = read_rows(out)
    ran = calls(out) or {"calls": [typed()], "data": []}
    docs.mkdir(parents=True, exist_ok=True)
    findings = next((name for name in (FINDINGS, f"../{FINDINGS}") if (docs / name).exists()), "")
    simulator = SynthConfig().config_hash() if ran["data"] else ""
    page = study_page(ARMS, rows, calls=ran["calls"], data=ran["data"], simulator=simulator, findings=findings)
    (docs / "study.md").write_text(page)
    study_picture(ARMS, rows, docs / "study.png")
    print(f"written: {docs / 'study.md'}, {docs / 'study.png'}")


def typed() -> str:
    """The command line of this program."""
    return shlex.join([f"training/{Path(sys.argv[0]).name}", *map(shown, sys.argv[1:])])


def shown(word: str) -> str:
    """A word of a command as one types it in the repository."""
    if word == sys.executable:
        return "python"
    path = Path(word)
    return str(path.relative_to(SCRIPTS.parent)) if path.is_relative_to(SCRIPTS) else word


if __name__ == "__main__":
    run(main)
