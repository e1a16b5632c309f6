"""The container files do what README.md tells a person to do. Docker itself is not needed."""

import ast
import fnmatch
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker"
LAUNCH = ROOT / "launch"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and the rest, continued lines joined."""
    text = "\n".join(line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text)
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def words_of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def commands() -> list[str]:
    """Every command of the Dockerfile's RUN instructions and of the entry point."""
    lines = [part for rest in words_of("RUN") for part in rest.split("&&")]
    lines += (FOLDER / "entrypoint.sh").read_text().splitlines()
    return [plain(line) for line in lines]


def plain(command: str) -> str:
    """A command as README.md writes it: no quotes, no braces around variables, no folder before what is sourced."""
    return re.sub(r"\$\{(\w+)\}", r"$\1", command).replace('"', "").replace("$here/", "").strip()


def readme_steps() -> list[str]:
    """What README.md has a person type where a ROS distribution is sourced, up to the launch."""
    readme = (ROOT / "README.md").read_text()
    (block,) = [block for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL) if ".venv-$ROS_DISTRO" in block]
    steps = [plain(part) for line in block.splitlines() for part in line.split("&&")]
    return [step for step in steps if not step.startswith("ros2 ")]


def test_the_image_is_set_up_by_the_readmes_own_steps():
    steps = readme_steps()
    assert len(steps) == 4, steps
    done = [re.sub(r" TORCH_INDEX=\$TORCH_INDEX$", "", command) for command in commands()]
    assert [step for step in steps if step not in done] == []


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    rules = re.findall(r"^([^\s:#=]+):(?!=)", makefile, re.MULTILINE)
    asked = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert len(asked) == 2
    for target in asked:
        assert target.replace(".venv-$ROS_DISTRO/.stamps", "$(STAMPS)") in rules, target
    assert re.search(r"^#   TORCH_INDEX ", makefile, re.MULTILINE)
    assert "VENV ?= .venv-$(ROS_DISTRO)" in makefile


def test_system_packages_come_from_the_package_and_its_set_up_script():
    run = words_of("RUN")[0]
    assert "constraints/system_packages.sh python3 " in run
    assert "rosdep install --from-paths . --ignore-src --dependency-types exec" in run
    (installed,) = re.findall(r"apt-get install --yes --no-install-recommends ([^&]+)&&", run)
    # The rest is no dependency of the package: rosdep would bring it.
    assert plain(installed).split() == ["make", "ros-$ROS_DISTRO-foxglove-bridge"]


def test_what_is_copied_exists_and_comes_in_time():
    copied: list[str] = []
    for name, rest in instructions():
        if name == "COPY":
            copied += rest.split()[:-1]
        for script in ("constraints/system_packages.sh", "Makefile"):
            if name == "RUN" and (script in rest or (script == "Makefile" and "make ." in rest)):
                assert Path(script).parts[0] in copied, f"{script} is used before it is copied"
    assert all((ROOT / source).exists() for source in copied)
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().split("\n")
    patterns = [line for line in ignored if line and not line.startswith("#")]
    for needed in ("Makefile", "README.md", "setup.py", "weights", "constraints", "docker", "launch", "interfaces"):
        assert not any(fnmatch.fnmatch(needed, pattern) for pattern in patterns), needed
    assert {".git", ".venv*"} <= set(patterns)


def test_pins_hold_in_the_image():
    """PyTorch is installed by the Makefile under constraints/, nowhere else."""
    assert not [command for command in commands() if re.search(r"\bpip3? ", command)]
    assert "--constraint $(PINS)" in (ROOT / "Makefile").read_text()


def test_the_entry_point_can_be_run():
    (entry,) = words_of("ENTRYPOINT")
    (program,) = ast.literal_eval(entry)
    (folder,) = words_of("WORKDIR")
    script = ROOT / Path(program).relative_to(folder)
    assert os.access(script, os.X_OK)
    assert script.read_text().endswith('exec "$@"\n')


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    return found


def test_services_are_built_from_stages_that_exist(services: dict[str, Any]):
    stages = {rest.rsplit(" AS ", 1)[1] for rest in words_of("FROM")}
    assert {service["build"]["target"] for service in services.values()} == {"cpu", "cuda"} <= stages
    arguments = {rest.split("=")[0] for rest in words_of("ARG")}
    for service in services.values():
        assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert set(service["build"]["args"]) <= arguments
    (device,) = services["replay-cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_services_give_arguments_that_the_launch_files_have(services: dict[str, Any]):
    sources = [(LAUNCH / name).read_text() for name in ("detector.launch.py", "replay.launch.py")]
    for service in services.values():
        _, _, package, file, *words = service["command"].split()
        assert package == "crkd_ros"
        assert (LAUNCH / file).is_file()
        for word in words:
            name, assigned, _ = word.partition(":=")
            assert not assigned or any(f'"{name}"' in source for source in sources), name
        mounted = {volume.split(":/")[1].split(":")[0] for volume in service["volumes"]}
        assert {f"bag:=/{name}" for name in mounted} | {f"out:=/{name}" for name in mounted} >= set(words[:2])
        assert [port.split(":")[-1] for port in service["ports"]] == re.findall(
            r'"foxglove_port": \("(\d+)"', sources[0]
        )


def test_every_variable_of_the_compose_file_is_explained():
    text = (FOLDER / "compose.yaml").read_text()
    header = text[: text.index("\nname:")]
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used == {name for name in used if re.search(rf"^#.*\b{name}\b[:,]", header, re.MULTILINE)}
