import msgspec
import pytest

from crkd_core.cli import UserError
from crkd_core.data.synthscenes.conditions import ConditionShares
from crkd_core.data.synthscenes.config import (
    EVALUATION_SEEDS,
    SIMULATOR_VERSION,
    TRAINING_SEEDS,
    SynthConfig,
    check_training_seeds,
)


def test_training_and_evaluation_seeds_are_apart():
    assert set(TRAINING_SEEDS).isdisjoint(EVALUATION_SEEDS)
    check_training_seeds(TRAINING_SEEDS)
    with pytest.raises(UserError, match="seed 9000: expected one to train on, 0 to 8999"):
        check_training_seeds([5, 9000])


def test_the_hash_covers_conditions_vehicle_sensors_and_version():
    config = SynthConfig()
    assert config.version == SIMULATOR_VERSION
    others = [
        msgspec.structs.replace(config, conditions=ConditionShares(night=0.3)),
        msgspec.structs.replace(config, vehicle=msgspec.structs.replace(config.vehicle, length=4.5)),
        msgspec.structs.replace(config, cameras=config.cameras[:5]),
        msgspec.structs.replace(config, version=SIMULATOR_VERSION + 1),
    ]
    assert len({c.config_hash() for c in (config, *others)}) == 5
