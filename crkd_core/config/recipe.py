"""One row of the results table: every section of a recipe, and how they fit together."""

from __future__ import annotations

from crkd_core.config.data import BevAugmentConfig, BevConfig, ImageConfig
from crkd_core.config.distillation import DistillationConfig
from crkd_core.config.model import ModelConfig
from crkd_core.config.samples import SamplesConfig
from crkd_core.config.section import RecipeError, Section
from crkd_core.config.train import TrainConfig


class Recipe(Section, frozen=True, kw_only=True):
    """One row of the results table."""

    name: str
    description: str
    image: ImageConfig
    bev: BevConfig
    model: ModelConfig
    train: TrainConfig
    bev_augment: BevAugmentConfig = BevAugmentConfig()
    samples: SamplesConfig = SamplesConfig()
    distillation: DistillationConfig | None = None
    """How ``training/distill.py`` teaches it; None: it learns from annotations alone."""

    def __post_init__(self) -> None:
        if any(side % 32 for side in self.image.size):
            raise ValueError(f"image.size: expected multiples of 32 (the backbone's stride), got {self.image.size}")
        self._check_distillation()
        paste = self.samples.paste
        if paste is not None and self.model.lidar is None and not paste.without_lidar:
            raise ValueError(
                "samples.paste: no sensor of this model would see the pasted objects; set paste: null, or "
                "paste.without_lidar: true as the released code"
            )
        if self.model.lidar is not None:
            self._check_voxels(self.model.lidar.voxel)
            if paste is not None and self.model.lidar.sweep_step > 1:
                raise ValueError(
                    "samples.paste: objects are cut out of consecutive sweeps, but model.lidar.sweep_step is "
                    f"{self.model.lidar.sweep_step}; set paste: null, or sweep_step: 1"
                )

    def _check_distillation(self) -> None:
        if self.distillation is None:
            return
        if self.model.radar is None or self.model.camera is None:
            raise ValueError("distillation: expected a student with camera and radar branches; set distillation: null")
        if self.distillation.radar.weight > 0 and not self.model.radar.calibration:
            raise ValueError(
                "distillation.radar.weight: needs the radar calibration block, on whose activation it works; set "
                "model.radar.calibration: true, or the weight to 0"
            )

    def _check_voxels(self, voxel: tuple[float, float, float]) -> None:
        if any(abs(8 * edge - self.bev.cell) > 1e-6 for edge in voxel[:2]):
            raise ValueError(
                f"model.lidar.voxel: expected x and y edges of an eighth of bev.cell ({self.bev.cell / 8}), got {voxel}"
            )
        layers = (self.bev.z_range[1] - self.bev.z_range[0]) / voxel[2]
        if abs(layers - round(layers)) > 1e-6 or round(layers) < 24:
            raise ValueError(
                f"model.lidar.voxel: expected a z edge that divides bev.z_range {self.bev.z_range} into at least 24 "
                f"layers, got {voxel[2]}"
            )

    @property
    def live_sweeps(self) -> int:
        """Sweeps per radar that a live frame should hold: what the model reads, at least one to look at.

        Raises:
            RecipeError: the recipe is a teacher's, which cameras and radars cannot feed.
        """
        if self.model.lidar is not None:
            raise RecipeError(
                f"recipe '{self.name}': a teacher, which reads LiDAR points; here are cameras and radars only: "
                "use a checkpoint of a student, baseline or crkd recipe"
            )
        return max(1, self.radar_sweeps)

    @property
    def radar_sweeps(self) -> int:
        """Sweeps per radar that a frame should hold; 0 without a radar branch."""
        return 0 if self.model.radar is None else self.model.radar.sweeps

    @property
    def lidar_sweeps(self) -> range:
        """Sweeps of the LiDAR that a frame should hold, counted back from the key frame, 0; none without a branch."""
        lidar = self.model.lidar
        if lidar is None:
            return range(0)
        return range(0, 1 + (lidar.sweeps + lidar.random_sweeps) * lidar.sweep_step, lidar.sweep_step)
