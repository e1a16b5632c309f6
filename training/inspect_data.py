#!/usr/bin/env python3
"""Look at what a network learns from: samples of a data set, before and after augmentation, as a page to browse.

    training/inspect_data.py student_r50 --dataroot DATA --version v1.0-mini --scene scene-0916 --out look
    training/inspect_data.py student_r50 --dataroot DATA --split train --index 4711 --epoch 3 --out look
    training/inspect_data.py student_tiny --synthscenes 7 --out look

Samples have the numbers, and with them the augmentation and the lost sensors, that training/train.py gives them with
the same --split or --scenes, --seed and, simulated, --frames-per-drive and --image-width.

Boxes, radar returns and LiDAR points are drawn from the network's own input: its images, and its points and boxes taken
back through its matrices. Where they do not lie on the objects, a calibration, a stamp or an augmentation is wrong.
Shown are the boxes that training reads: those with a return inside, in the grid. A model that reads no LiDAR is shown
with the key frame's points. Pasted objects, and what only a teacher reads, are not shown.

Open --out/index.html; the arrow keys turn its pages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import Recipe, load_recipe
from crkd_core.data.dataset import FrameSource, sample_rng
from crkd_core.data.encode import CAMERA_ORDER, TrainingScene, encode_scene, training_scene
from crkd_core.data.errors import DataError
from crkd_core.data.frames import NuScenesFrames, annotated_frame, channels_read
from crkd_core.data.lidar import lidar_points
from crkd_core.data.nuscenes import REFERENCE_CHANNEL, NuScenesIndex, Sample
from crkd_core.data.radar import ordered
from crkd_core.data.sampling import Position
from crkd_core.data.simulated import prerendered, simulated_frame, simulated_keys
from crkd_core.data.synthscenes.config import check_image_width
from crkd_core.drawing.inputs import draw_input
from crkd_core.drawing.style import Image
from crkd_core.training.nuscenes_data import chosen_scenes, nuscenes_frames
from crkd_core.types import SensorFrame

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>TITLE</title>
<style>
body { margin: 0; background: #16181d; color: #e8eaee; font: 15px/1.5 sans-serif; }
header { display: flex; gap: 1em; align-items: center; padding: .4em .8em; }
header { position: sticky; top: 0; background: inherit; }
button { font: inherit; color: inherit; background: #2c3039; border: 0; border-radius: 4px; padding: .2em .8em; }
img { display: block; width: 100%; cursor: zoom-in; }
img.full { width: auto; cursor: zoom-out; }
p { margin: .6em .8em; color: #9ea4b0; max-width: 70em; }
</style>
<header>
<button id="back" aria-label="previous sample">&larr;</button><button id="on" aria-label="next sample">&rarr;</button>
<span id="name"></span>
</header>
<img id="picture" alt="cameras and bird's-eye view">
<p>Above: as at test time. Below: augmented, as in training. Points by depth in each camera: red near, blue from 60 m;
ringed: radar, small: LiDAR. Bird's-eye view: the network's grid, y up, with the way of the next second of boxes and
radar returns; LiDAR grey. Keys: arrows, Home, End; click for full size.</p>
<script>
const samples = SAMPLES;
const element = id => document.getElementById(id);
let shown = 0;
function show(i) {
  shown = Math.min(Math.max(i, 0), samples.length - 1);
  element("picture").src = samples[shown].file;
  element("name").textContent = `${shown + 1} of ${samples.length}: ${samples[shown].name}`;
  history.replaceState(null, "", "#" + (shown + 1));
  if (shown + 1 < samples.length) new Image().src = samples[shown + 1].file;
}
element("back").onclick = () => show(shown - 1);
element("on").onclick = () => show(shown + 1);
element("picture").onclick = () => element("picture").classList.toggle("full");
addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1 || 0));
addEventListener("keydown", event => {
  const steps = { ArrowLeft: shown - 1, ArrowRight: shown + 1, Home: 0, End: samples.length - 1 };
  if (event.key in steps) { show(steps[event.key]); event.preventDefault(); }
});
show(Number(location.hash.slice(1)) - 1 || 0);
</script>
</html>
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a shipped recipe, or the path of a .yaml file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the page; made if need be")
    data = parser.add_argument_group("data (nuScenes format, or simulated)")
    data.add_argument("--dataroot", type=Path, help="data set in nuScenes format")
    data.add_argument("--version", default="v1.0-trainval", help="its version folder (default: %(default)s)")
    part = data.add_mutually_exclusive_group()
    part.add_argument("--split", help="train, mini_train, or another split (default: all complete samples)")
    part.add_argument("--scenes", nargs="+", help="scene names")
    data.add_argument("--synthscenes", type=int, metavar="SEED", help="simulate the drive of this seed")
    data.add_argument(
        "--frames-per-drive", type=int, default=4, help="key frames of a simulated drive (default: %(default)s)"
    )
    data.add_argument("--image-width", type=int, default=448, help="of simulated images (default: %(default)s)")
    choice = parser.add_argument_group("which of them to show (default: --count, evenly spread)")
    which = choice.add_mutually_exclusive_group()
    which.add_argument("--index", type=int, help="the sample of this number, counting from 0 those that are complete")
    which.add_argument("--token", help="the sample of this token")
    which.add_argument("--scene", help="samples of this scene, evenly spread")
    choice.add_argument("--count", type=int, default=8, help="how many at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the augmentation, as training's (default: %(default)s)")
    parser.add_argument("--epoch", type=int, default=0, help="whose augmentation to show (default: %(default)s)")
    return parser.parse_args()


@dataclass(frozen=True)
class Shown:
    """The samples to draw.

    Attributes:
        frames: what training reads, by number.
        names: number -> what to call it, of those to draw.
        lidar: the frame of a number with nothing but the key frame's LiDAR points, for models that read none.
    """

    frames: FrameSource
    names: dict[int, str]
    lidar: Callable[[int], SensorFrame]


def main() -> int:
    """Draw the samples, write the page."""
    args = arguments()
    recipe = load_recipe(args.recipe)
    check(args)
    shown = nuscenes_samples(args, recipe) if args.dataroot else simulated_samples(args, recipe)
    pages = []
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for number, name in tqdm(shown.names.items(), desc="draw"):
            file = args.out / f"sample-{number:05d}.png"
            picture = drawn(shown, number, recipe, args)
            file.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
            pages.append({"file": file.name, "name": name})
        page = PAGE.replace("TITLE", f"Samples of {recipe.name}").replace("SAMPLES", script_text(pages))
        (args.out / "index.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot be written: {error.strerror}") from None
    print(f"{len(pages)} samples: open {args.out / 'index.html'}")
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse options that cannot be."""
    if (args.dataroot is None) == (args.synthscenes is None):
        raise UserError("data: name either --dataroot DIR or --synthscenes SEED")
    of_dataroot = (args.split, args.scenes, args.token, args.scene, args.index)
    if args.synthscenes is not None and any(option is not None for option in of_dataroot):
        raise UserError("--split, --scenes, --index, --token and --scene choose from a --dataroot")
    if min(args.count, args.frames_per_drive) < 1 or min(args.seed, args.epoch, args.synthscenes or 0) < 0:
        raise UserError("expected --count and --frames-per-drive of 1 or more, seeds and --epoch of 0 or more")
    check_image_width(args.image_width)


def nuscenes_samples(args: argparse.Namespace, recipe: Recipe) -> Shown:
    """Samples of a data set."""
    frames = nuscenes_frames(args.dataroot, args.version, recipe, split=args.split, scenes=args.scenes)
    scenes = chosen_scenes(frames.index, split=args.split, scenes=args.scenes)
    print(f"{len(frames)} of {sum(len(scene.samples) for scene in scenes)} samples have the files of {recipe.name}")
    numbers = chosen(args, frames, recipe)
    names = {i: f"{frames.samples[i].scene}, sample {i}, {frames.samples[i].token}" for i in numbers}

    def lidar(number: int) -> SensorFrame:
        sample = frames.samples[number]
        return annotated_frame(frames.index, sample, channels=(REFERENCE_CHANNEL,), lidar_sweeps=range(1)).frame

    return Shown(frames, names, lidar)


def chosen(args: argparse.Namespace, frames: NuScenesFrames, recipe: Recipe) -> list[int]:
    """Numbers of the samples that the command line names."""
    index, count = frames.index, len(frames)
    if args.index is not None:
        if not 0 <= args.index < count:
            raise UserError(f"--index: expected 0 to {count - 1}, got {args.index}")
        return [args.index]
    number_of = {sample.token: i for i, sample in enumerate(frames.samples)}
    if args.token is not None:
        sample = index.sample(args.token)
        if sample.token not in number_of:
            raise UserError(f"sample {sample.token} ({sample.scene}): {absence(index, sample, recipe)}")
        return [number_of[sample.token]]
    if args.scene is None:
        return spread(range(count), args.count)
    scene = index.scene(args.scene)
    numbers = [number_of[sample.token] for sample in scene.samples if sample.token in number_of]
    if not numbers:
        raise UserError(f"{args.scene}: {absence(index, scene.samples[0], recipe)}")
    return spread(numbers, args.count)


def absence(index: NuScenesIndex, sample: Sample, recipe: Recipe) -> str:
    """Why a sample is not among those that training reads."""
    for channel in channels_read(index, recipe):
        record = index.key_record(sample, channel)
        if record is None:
            return f"no {channel} key frame in sample_data.json"
        if not record.present:
            return f"{channel}: {record.path} does not exist; download it, or choose a complete sample with --scene"
    return "not of the --split or --scenes"


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the numbers, evenly spread."""
    picked = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return [numbers[i] for i in picked.tolist()]


def simulated_samples(args: argparse.Namespace, recipe: Recipe) -> Shown:
    """Key frames of one simulated drive, with the numbers they have where the drives before it are simulated, too."""
    keys = simulated_keys(range(args.synthscenes + 1), frames_per_drive=args.frames_per_drive)
    numbers = spread(range(len(keys) - args.frames_per_drive, len(keys)), args.count)
    frames = prerendered(
        [keys[i] for i in numbers],
        image_width=args.image_width,
        radar_sweeps=recipe.radar_sweeps,
        lidar_sweeps=recipe.lidar_sweeps,
        cameras=recipe.model.camera is not None,
        jobs=1,
        progress=True,
    )

    def lidar(number: int) -> SensorFrame:
        key = keys[number]
        return simulated_frame(
            key, image_width=args.image_width, radar_sweeps=0, lidar_sweeps=range(1), cameras=False
        ).frame

    names = {i: f"SynthScenes drive {args.synthscenes}, sample {i}" for i in numbers}
    return Shown(dict(zip(numbers, frames, strict=True)), names, lidar)


def drawn(shown: Shown, number: int, recipe: Recipe, args: argparse.Namespace) -> Image:
    """One sample as at test time, above, and as training reads it at its position, below."""
    name = shown.names[number]
    try:
        frame = shown.frames[number]
        lidar = lidar_points(shown.lidar(number), sweeps=0) if recipe.model.lidar is None else None
        sheets = []
        for rng in (None, sample_rng(args.seed, Position(args.epoch, number))):
            scene = training_scene(frame, recipe, rng)
            what = "before augmentation" if rng is None else f"seed {args.seed}, epoch {args.epoch}: {said(scene)}"
            if recipe.samples.filter_empty_gt and len(scene.labels) == 0:
                what += "; no box to learn: training takes another sample"
            sheet = draw_input(
                encode_scene(scene, recipe),
                cameras=ordered(tuple(scene.frame.cameras), CAMERA_ORDER) if recipe.model.camera is not None else (),
                bev=recipe.bev,
                T_base_from_bev=frame.frame.T_base_from_bev,
                lidar=lidar,
                title=f"{name}: {what}",
            )
            sheets.append(sheet)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    height = max(sheet.shape[0] for sheet in sheets)
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(s, ((0, height - s.shape[0]), (0, width - s.shape[1]), (0, 0))) for s in sheets]
    return np.concatenate(padded)


def said(scene: TrainingScene) -> str:
    """A scene's augmentation in words."""
    augment = scene.augment
    x, y, z = augment.translation
    mirrored = " and ".join(axis for axis, flip in (("x", augment.flip_x), ("y", augment.flip_y)) if flip)
    return (
        f"turned by {np.degrees(augment.rotation):.1f}\N{DEGREE SIGN}, moved by ({x:.2f}, {y:.2f}, {z:.2f}) m, "
        f"scaled by {augment.scale:.3f}" + (f", {mirrored} mirrored" if mirrored else "")
    )


def script_text(value: object) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(value).replace("<", "\\u003c")


if __name__ == "__main__":
    run(main)
