"""Build the interface packages into this Python environment, where nothing else provides them.

Each folder beside this file with a ``package.xml`` is one interface package. A package that a sourced ROS distribution
provides is left alone; one that was built here from the same text is kept; anything else is built with the ROS wheels
of this environment. What was built has serialised each of its messages at the end, which importing does not prove.

    python interfaces/build.py            build what is missing or out of date
    python interfaces/build.py --force    build all again
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PREFIX = Path(sys.prefix).resolve()

SERIALISE = """
import sys
from importlib import import_module
from rclpy.serialization import deserialize_message, serialize_message

module = import_module(sys.argv[1] + ".msg")
for name in sys.argv[2:]:
    message_type = getattr(module, name)
    message = message_type()
    assert deserialize_message(serialize_message(message), message_type) == message, name
"""


def packages() -> list[Path]:
    """The folders of the interface packages, by name."""
    return sorted(path.parent for path in HERE.glob("*/package.xml"))


def source_digest(package: Path) -> str:
    """SHA-256 over everything the build of one package reads from this folder."""
    digest = hashlib.sha256(f"python {sys.version_info.major}.{sys.version_info.minor}".encode())
    sources = [HERE / "interface_package.cmake", *sorted(package.rglob("*"))]
    for path in sources:
        if path.is_file():
            digest.update(path.relative_to(HERE).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def location(name: str) -> Path | None:
    """Where the package would be imported from; None where it cannot be."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))).resolve()
    return folder if (folder / "msg" / "__init__.py").exists() else None


def build(package: Path) -> None:
    """Build and install one package with pip; its output is shown only when it fails."""
    name = package.name
    print(f"interfaces: building {name} (about 15 s) ...", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--force-reinstall"]
    result = subprocess.run(
        [*command, str(package)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        print(result.stdout, file=sys.stderr)
        sys.exit(f"error: interfaces: {name} did not build (output above)")
    print(f"interfaces: {name} built in {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """Build what is missing; 2 where a ROS distribution is sourced but lacks a package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="build again what was built here before")
    arguments = parser.parse_args()

    distribution = os.environ.get("ROS_DISTRO")
    for package in packages():
        name = package.name
        found = location(name)
        digest_file = PREFIX / "share" / name / "source_digest"
        if found is not None and PREFIX not in found.parents:
            print(f"interfaces: {name} is provided by {found.parent}")
        elif distribution:
            apt_name = f"ros-{distribution}-{name.replace('_', '-')}"
            print(
                f"error: interfaces: ROS {distribution} is sourced but has no {name}; run: apt install {apt_name}",
                file=sys.stderr,
            )
            return 2
        else:
            digest = source_digest(package)
            known = digest_file.read_text() if digest_file.exists() else ""
            if found is not None and digest == known and not arguments.force:
                print(f"interfaces: {name} is up to date")
                continue
            digest_file.unlink(missing_ok=True)
            build(package)
            messages = [path.stem for path in sorted(package.glob("msg/*.msg"))]
            subprocess.run([sys.executable, "-c", SERIALISE, name, *messages], check=True)
            digest_file.write_text(digest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
