#!/usr/bin/env python3
"""Look at what a network learns from: samples of a data set, before and after augmentation, as a page to browse.

    training/inspect_data.py student_r50 --dataroot DATA --version v1.0-mini --scene scene-0916 --out look
    training/inspect_data.py student_r50 --synthscenes 7 --out look

Boxes, radar returns and LiDAR points are drawn from the network's own input: its images, and its points and boxes taken
back through its matrices. Where they do not lie on the objects, a calibration, a stamp or an augmentation is wrong.
Shown are the boxes that training reads: those with a return inside, in the grid. A model that reads no LiDAR is shown
with the key frame's points. Pasted objects are not shown.

Open --out/index.html; the arrow keys turn its pages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import Recipe, load_recipe
from crkd_core.data.augment import BevAugment
from crkd_core.data.dataset import FrameSource
from crkd_core.data.encode import CAMERA_ORDER, encode_scene, training_scene
from crkd_core.data.errors import DataError
from crkd_core.data.frames import NuScenesFrames, channels_read
from crkd_core.data.lidar import lidar_points
from crkd_core.data.nuscenes import NuScenesIndex, Sample, load_index
from crkd_core.data.radar import ordered
from crkd_core.data.simulated import prerendered, simulated_keys
from crkd_core.drawing.inputs import draw_input
from crkd_core.drawing.style import Image
from crkd_core.types import AnnotatedFrame

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
    data.add_argument("--synthscenes", type=int, metavar="SEED", help="simulate the drive of this seed")
    data.add_argument("--image-width", type=int, default=1600, help="of simulated images (default: %(default)s)")
    choice = parser.add_argument_group("which samples (default: --count of all, evenly spread)")
    which = choice.add_mutually_exclusive_group()
    which.add_argument("--index", type=int, help="the sample of this number, counting from 0 those that are complete")
    which.add_argument("--token", help="the sample of this token")
    which.add_argument("--scene", help="samples of this scene, evenly spread")
    choice.add_argument("--count", type=int, default=8, help="how many at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the augmentation, as training's (default: %(default)s)")
    parser.add_argument("--epoch", type=int, default=0, help="whose augmentation to show (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Draw the samples, write the page."""
    args = arguments()
    recipe = load_recipe(args.recipe)
    if (args.dataroot is None) == (args.synthscenes is None):
        raise UserError("data: name either --dataroot DIR or --synthscenes SEED")
    if args.synthscenes is not None and (args.token or args.scene or args.index is not None):
        raise UserError("--index, --token and --scene choose from a --dataroot")
    if args.count < 1 or args.image_width < 64 or min(args.seed, args.epoch, args.synthscenes or 0) < 0:
        raise UserError("expected --count of 1 or more, --image-width of 64 or more, seeds and --epoch of 0 or more")
    frames, numbers, names = nuscenes_samples(args, recipe) if args.dataroot else simulated_samples(args, recipe)
    pages = []
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for number, name in zip(tqdm(numbers, desc="draw"), names, strict=True):
            file = args.out / f"sample-{number:05d}.png"
            picture = drawn(frames, number, name, recipe, args)
            file.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
            pages.append({"file": file.name, "name": name})
        page = PAGE.replace("TITLE", f"Samples of {recipe.name}").replace("SAMPLES", script_text(pages))
        (args.out / "index.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot be written: {error.strerror}") from None
    print(f"{len(pages)} samples: open {args.out / 'index.html'}")
    return 0


def nuscenes_samples(args: argparse.Namespace, recipe: Recipe) -> tuple[FrameSource, list[int], list[str]]:
    """All complete samples, the numbers of those to draw, and what to call them."""
    index = load_index(args.dataroot, args.version)
    channels = channels_read(index, recipe)
    complete = index.complete_samples(channels)
    if not complete:
        raise UserError(f"{args.dataroot}/{args.version}: no sample has all its files; {index.report()}")
    print(f"{len(complete)} of {len(index.samples)} samples have the files of {recipe.name}")
    numbers = chosen(args, index, complete, channels)
    frames = NuScenesFrames(
        index, complete, radar_sweeps=recipe.radar_sweeps, lidar_sweeps=recipe.lidar_sweeps or range(1)
    )
    return frames, numbers, [f"{complete[i].scene}, sample {i}, {complete[i].token}" for i in numbers]


def chosen(args: argparse.Namespace, index: NuScenesIndex, complete: list[Sample], channels: list[str]) -> list[int]:
    """Numbers of the samples that the command line names."""
    if args.index is not None:
        if not 0 <= args.index < len(complete):
            raise UserError(f"--index: expected 0 to {len(complete) - 1}, got {args.index}")
        return [args.index]
    number_of = {sample.token: i for i, sample in enumerate(complete)}
    if args.token is not None:
        sample = index.sample(args.token)
        if sample.token not in number_of:
            raise UserError(f"sample {sample.token} ({sample.scene}): {absence(index, sample, channels)}")
        return [number_of[sample.token]]
    if args.scene is None:
        return spread(range(len(complete)), args.count)
    scene = index.scene(args.scene)
    numbers = [number_of[sample.token] for sample in scene.samples if sample.token in number_of]
    if not numbers:
        raise UserError(f"{args.scene}: none of its {len(scene.samples)} samples has all its files; {index.report()}")
    return spread(numbers, args.count)


def absence(index: NuScenesIndex, sample: Sample, channels: list[str]) -> str:
    """Which sensor a sample lacks."""
    for channel in channels:
        record = index.key_record(sample, channel)
        if record is None:
            return f"no {channel} key frame in sample_data.json"
        if not record.present:
            return f"{channel}: {record.path} does not exist; download it, or choose a complete sample with --scene"
    raise AssertionError("a complete sample")


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the numbers, evenly spread."""
    picked = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return [numbers[i] for i in picked.tolist()]


def simulated_samples(args: argparse.Namespace, recipe: Recipe) -> tuple[FrameSource, list[int], list[str]]:
    """Key frames of one simulated drive."""
    frames: list[AnnotatedFrame] = prerendered(
        simulated_keys([args.synthscenes], frames_per_drive=args.count),
        image_width=args.image_width,
        radar_sweeps=recipe.radar_sweeps,
        lidar_sweeps=recipe.lidar_sweeps or range(1),
        jobs=1,
        progress=True,
    )
    numbers = list(range(len(frames)))
    return frames, numbers, [f"SynthScenes drive {args.synthscenes}, sample {i}" for i in numbers]


def drawn(frames: FrameSource, number: int, name: str, recipe: Recipe, args: argparse.Namespace) -> Image:
    """One sample as at test time, above, and as training reads it at its position, below."""
    try:
        frame = frames[number]
        augmented = np.random.default_rng([args.seed, args.epoch, number, 0, 0])
        sheets = []
        for rng in (None, augmented):
            scene = training_scene(frame, recipe, rng)
            what = (
                "before augmentation" if rng is None else f"seed {args.seed}, epoch {args.epoch}: {said(scene.augment)}"
            )
            sheet = draw_input(
                encode_scene(scene, recipe),
                cameras=ordered(tuple(scene.frame.cameras), CAMERA_ORDER) if recipe.model.camera is not None else (),
                bev=recipe.bev,
                T_base_from_bev=frame.frame.T_base_from_bev,
                lidar=lidar_points(frame.frame, sweeps=0) if recipe.model.lidar is None else None,
                title=f"{name}: {what}",
            )
            sheets.append(sheet)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    height = max(sheet.shape[0] for sheet in sheets)
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(s, ((0, height - s.shape[0]), (0, width - s.shape[1]), (0, 0))) for s in sheets]
    return np.concatenate(padded)


def said(augment: BevAugment) -> str:
    """A scene's augmentation in words."""
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
