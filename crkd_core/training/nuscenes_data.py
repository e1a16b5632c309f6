"""A nuScenes-format data set as a run reads it: which samples, and what ``training/prepare.py`` has made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crkd_core.cli import UserError
from crkd_core.config import ImageConfig, Recipe
from crkd_core.data.dataset import FrameSource
from crkd_core.data.frames import NuScenesFrames, channels_read, read_samples
from crkd_core.data.image_cache import ImageCache
from crkd_core.data.lidar_database import LidarDatabase, open_database
from crkd_core.data.nuscenes import NuScenesIndex, Scene, load_index
from crkd_core.data.packed import PackedFrames
from crkd_core.data.synthscenes.config import SynthConfig
from crkd_core.training.ground_truth import scenes_of_split


@dataclass(frozen=True)
class Prepared:
    """What ``training/prepare.py`` has made of one version of a data set.

    Attributes:
        folder: where it is; several versions may share it.
        version: name of the table folder.
    """

    folder: Path
    version: str

    @property
    def index(self) -> Path:
        """The index file."""
        return self.folder / f"{self.version}.index.npz"

    @property
    def lidar_objects(self) -> Path:
        """The folder of objects to paste."""
        return self.folder / f"{self.version}.lidar-objects"

    def images(self, root: Path, config: ImageConfig) -> ImageCache:
        """The smaller images."""
        return ImageCache.of(root, self.folder, config)


def chosen_scenes(
    index: NuScenesIndex, *, split: str | None = None, scenes: Sequence[str] | None = None
) -> list[Scene]:
    """The scenes of these names, or of a split, or all.

    Raises:
        UserError: an unknown scene or split.
    """
    if split:
        scenes = scenes_of_split(index.root / index.version, split, [scene.name for scene in index.scenes])
    return [index.scene(name) for name in scenes] if scenes else list(index.scenes)


def nuscenes_frames(
    root: Path,
    version: str,
    recipe: Recipe,
    *,
    teacher: Recipe | None = None,
    split: str | None = None,
    scenes: Sequence[str] | None = None,
    prepared: Prepared | None = None,
    smaller_images: bool = False,
) -> NuScenesFrames:
    """The samples of ``chosen_scenes`` with the key frames of every sensor the recipe reads.

    Args:
        root: data root.
        version: name of the table folder.
        recipe: what to read.
        teacher: what a teacher beside it reads.
        split: name of a split.
        scenes: names.
        prepared: keeps the index; None: it is built anew.
        smaller_images: read the images that ``prepared`` has, not those of the data set.

    Raises:
        UserError: an unknown scene or split, no sample that is complete (names the sensors that are short), or no
            smaller images.
    """
    index = load_index(root, version, cache=None if prepared is None else prepared.index)
    wanted = [sample for scene in chosen_scenes(index, split=split, scenes=scenes) for sample in scene.samples]
    images = _smaller_images(root, recipe, prepared) if smaller_images else None
    channels = channels_read(index, recipe)
    if teacher is not None:
        channels += [channel for channel in channels_read(index, teacher) if channel not in channels]
    return NuScenesFrames(
        index,
        read_samples(index, wanted, channels),
        channels=channels,
        radar_sweeps=recipe.radar_sweeps,
        lidar_sweeps=(teacher or recipe).lidar_sweeps,
        images=images,
    )


def remarks(frames: FrameSource) -> list[str]:
    """What one should know of a data set before training on it: lines to print."""
    if isinstance(frames, PackedFrames):
        packed, now = frames.contents.synthscenes, SynthConfig().config_hash()
        return [] if packed == now else [f"warning: frames packed by simulator {packed}, the present one is {now}"]
    if not isinstance(frames, NuScenesFrames):
        return []
    rebuilt = frames.index.rebuilt
    return [*([f"index: read from the tables again: {rebuilt}"] if rebuilt else []), *short_sweeps(frames)]


def short_sweeps(frames: NuScenesFrames) -> list[str]:
    """A line for each sensor of which files of earlier sweeps are missing."""
    short = {channel: count for channel, count in frames.earlier_sweeps().items() if count.there < count.wanted}
    return [f"{channel}: {count} earlier sweeps that samples read are there" for channel, count in short.items()]


def objects_to_paste(frames: NuScenesFrames, recipe: Recipe, prepared: Prepared | None) -> LidarDatabase | None:
    """The objects of these samples, to be pasted into each other; None if the recipe pastes none.

    Raises:
        UserError: it does, and they are not there, or of other annotations or sweeps.
    """
    paste = recipe.samples.paste
    if paste is None:
        return None
    if prepared is None:
        raise UserError(
            f"recipe {recipe.name}: samples.paste needs LiDAR objects; make them with training/prepare.py and name "
            "their folder with --prepared, or leave them out with --set samples.paste=null"
        )
    return open_database(
        prepared.lidar_objects,
        frames.index,
        frames.samples,
        sweeps=lidar_sweeps_of_objects(recipe),
        min_points=paste.min_points,
    )


def lidar_sweeps_of_objects(recipe: Recipe) -> int:
    """Earlier sweeps that pasted objects have; a model without LiDAR, which pastes boxes only, uses a teacher's."""
    return 9 if recipe.model.lidar is None else recipe.model.lidar.sweeps


def _smaller_images(root: Path, recipe: Recipe, prepared: Prepared | None) -> ImageCache:
    if prepared is None:
        raise UserError("smaller images: name the folder of prepared data with --prepared")
    images = prepared.images(root, recipe.image)
    if not images.folder.is_dir():
        raise UserError(
            f"{images.folder}: no smaller images; make them with training/prepare.py {recipe.name} --image-cache"
        )
    return images
