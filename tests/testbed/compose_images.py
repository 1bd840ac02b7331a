"""The images that the compose file names, made from this machine's own files in place of a registry."""

import io
import os
import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from testbed import mongo_server
from testbed.commands import find
from testbed.docker_engine import DockerEngine, busybox_root_file_system
from testbed.processes import REPOSITORY

CACHE = REPOSITORY / ".cache" / "compose"
UNNEEDED = {"__pycache__", "site-packages", "dist-packages", "test", "idlelib", "tkinter", "ensurepip"}
IMAGES = {"BASE_IMAGE": "local/python:1", "MOSQUITTO_IMAGE": "local/mosquitto:1", "MONGO_IMAGE": "local/mongo:1"}
MONGOD = '#!/bin/sh\nexec /opt/jre/bin/java -Xmx128m -cp "/opt/mongo/*:/opt/mongo" Main "$2" /data/db/mongo.h2\n'
PASSWD = "root:x:0:0::/:/bin/sh\nmosquitto:x:1883:1883::/:/bin/sh\n"
GROUP = "root:x:0:\nmosquitto:x:1883:\n"
JAVA_MODULES = "java.base,java.logging,java.management,java.naming,java.sql,java.xml,jdk.unsupported"


class Image:
    """A root file system in memory: a static busybox and what is added."""

    def __init__(self) -> None:
        self._body = io.BytesIO(busybox_root_file_system())
        self._tar = tarfile.TarFile(fileobj=self._body, mode="a")
        self._added: set[str] = set()

    def add(self, source: Path, target: str) -> None:
        """A file or a folder, without compiled Python; a no-op when it is there."""
        if target not in self._added:
            self._added.add(target)
            self._tar.add(source.resolve(), target, filter=_without_caches)

    def add_text(self, target: str, text: str, mode: int = 0o644) -> None:
        """A small file."""
        entry = tarfile.TarInfo(target)
        entry.size, entry.mode = len(text.encode()), mode
        self._tar.addfile(entry, io.BytesIO(text.encode()))

    def add_folder(self, target: str, owner: int = 0) -> None:
        """An empty folder of `owner`."""
        entry = tarfile.TarInfo(target)
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, owner, owner
        self._tar.addfile(entry)

    def add_link(self, target: str, to: str) -> None:
        """A symbolic link."""
        entry = tarfile.TarInfo(target)
        entry.type, entry.linkname = tarfile.SYMTYPE, to
        self._tar.addfile(entry)

    def add_libraries_of(self, *binaries: Path) -> None:
        """The shared libraries of programs and libraries, at the paths where they are sought; wheels bring theirs."""
        listing = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
        for path in set(re.findall(r"(/\S+\.so\S*) \(0x", listing)):
            if "/../" not in path and sys.prefix not in path:
                self.add(Path(path), path.lstrip("/"))

    def load(self, engine: DockerEngine, tag: str, *changes: str) -> None:
        """Hand it to the engine."""
        self._tar.close()
        repository, _, version = tag.partition(":")
        with engine.client() as client:
            client.api.import_image_from_data(
                self._body.getvalue(), repository=repository, tag=version, changes=list(changes)
            )


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(entry.name).name == "__pycache__" else entry


def _load_python(engine: DockerEngine) -> None:
    """The interpreter that runs this test, with the packages of the lock in place of a package index."""
    image = Image()
    binary, library = Path(sys._base_executable).resolve(), Path(os.__file__).parent
    image.add(binary, f"{binary}"[1:])
    image.add_link(f"{binary.with_name('python3')}"[1:], binary.name)
    for entry in filter(_is_kept, library.iterdir()):
        image.add(entry, f"{entry}"[1:])
    extensions = list((library / "lib-dynload").glob("*.so"))
    command = [str(binary), "-I", "-c", "import site; print(site.getsitepackages()[0])"]
    site = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    for name in ("pip", *_needed()):
        extensions += _add_distribution(image, name, site[1:])
    for entry in _hatchling().iterdir():
        image.add(entry, f"opt/tools/{entry.name}")
    image.add_libraries_of(binary, *extensions)
    image.load(engine, IMAGES["BASE_IMAGE"], "ENV PYTHONPATH=/opt/tools", f"ENV PATH={binary.parent}:/bin")


def _is_kept(entry: Path) -> bool:
    return entry.name not in UNNEEDED and not entry.name.startswith("config-")


def _needed() -> set[str]:
    """The names of all distributions that the project needs at run time."""
    needed: set[str] = set()
    waiting = [Requirement("cluster-orchestrator[docker,wasm]")]
    while waiting:
        wanted = waiting.pop()
        for line in metadata.requires(wanted.name) or ():
            found = Requirement(line)
            is_wanted = found.marker is None or any(
                found.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)
            )
            if is_wanted and found.name not in needed:
                needed.add(found.name)
                waiting.append(found)
    return needed


def _add_distribution(image: Image, name: str, site: str) -> list[Path]:
    """Copy a distribution; returns its shared objects."""
    paths = [(file, Path(str(file.locate()))) for file in metadata.files(name) or () if ".." not in file.parts]
    for file, path in paths:
        if path.is_file() and "__pycache__" not in file.parts:
            image.add(path, f"{site}/{file}")
    return [path for _, path in paths if ".so" in path.name and path.is_file()]


def _hatchling() -> Path:
    target = CACHE / "hatchling"
    if not target.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "hatchling>=1.27"]
        subprocess.run(command, check=True)
    return target


def _load_mosquitto(engine: DockerEngine) -> None:
    image, binary = Image(), Path(find("mosquitto") or "")
    client = Path(find("mosquitto_sub") or "")
    image.add(binary, "usr/sbin/mosquitto")
    image.add(client, "usr/bin/mosquitto_sub")
    image.add_libraries_of(binary, client)
    image.add_text("etc/passwd", PASSWD)
    image.add_text("etc/group", GROUP)
    image.add_folder("mosquitto/data", owner=1883)
    image.load(
        engine, IMAGES["MOSQUITTO_IMAGE"], 'CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]'
    )


def _load_mongo(engine: DockerEngine) -> None:
    """The testbed's server under the name and the arguments of the real one."""
    image, folder = Image(), CACHE / "mongo"
    runtime = folder / "jre"
    if not runtime.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = (Path(mongo_server.__file__).with_name("Main.java")).read_text().replace('"127.0.0.1"', '"0.0.0.0"')
        (folder / "Main.java").write_text(source)
        jdk = Path(find("java") or "").resolve().parent
        subprocess.run(
            [jdk / "javac", "-cp", f"{mongo_server._JARS}/*", "-d", folder, folder / "Main.java"], check=True
        )
        jlink = [jdk / "jlink", "--add-modules", JAVA_MODULES, "--strip-debug", "--no-man-pages", "--output", runtime]
        subprocess.run(jlink, check=True)
    for path in (*mongo_server._JARS.glob("*.jar"), *folder.glob("*.class")):
        image.add(path, f"opt/mongo/{path.name}")
    image.add(runtime, "opt/jre")
    shell = Path(find("bash") or "")
    image.add(shell, "bin/bash")
    image.add_libraries_of(shell, runtime / "bin" / "java", *(runtime / "lib").rglob("*.so"))
    image.add_text("bin/mongod", MONGOD, 0o755)
    image.add_folder("data/db")
    image.load(engine, IMAGES["MONGO_IMAGE"], "ENV PATH=/bin")


def load_images(engine: DockerEngine) -> None:
    """Hand the engine all images that the compose file does not build."""
    for load in (_load_python, _load_mosquitto, _load_mongo):
        load(engine)
