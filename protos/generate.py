"""Generate `spillway/v1` from `protos/`: messages, stubs, types and one flat `__init__`.

python protos/generate.py            write spillway/v1
python protos/generate.py --check    exit 1 if what is committed differs
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parent
OUTPUT = PROTOS.parent / "spillway" / "v1"


def compile_protos(root: Path) -> None:
    """Run protoc over every proto, writing `spillway/v1` below `root`."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    descriptors = root / "descriptors.binpb"
    programs = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{files('grpc_tools') / '_proto'}",
        f"--python_out={root}",
        f"--grpc_python_out={root}",
        f"--plugin=protoc-gen-mypy={programs / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={programs / 'protoc-gen-mypy_grpc'}",
        f"--mypy_out=quiet:{root}",
        f"--mypy_grpc_out=quiet:{root}",
        f"--descriptor_set_out={descriptors}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    package = root / "spillway" / "v1"
    for stub in package.glob("*_pb2_grpc.py*"):
        if "ServiceStub" not in stub.read_text():
            stub.unlink()
    (package / "__init__.py").write_text(flat_init(FileDescriptorSet.FromString(descriptors.read_bytes())))
    (package / "py.typed").touch()


def flat_init(descriptors: FileDescriptorSet) -> str:
    """Return the source of an `__init__` that re-exports every message, enum and enum value."""
    lines = ['"""The contract: messages and enums of package spillway.v1. Generated; see protos/."""', ""]
    for file in sorted(descriptors.file, key=lambda file: file.name):
        names = [message.name for message in file.message_type]
        for enum in file.enum_type:
            names += [enum.name, *(value.name for value in enum.value)]
        module = file.name.removesuffix(".proto").replace("/", ".") + "_pb2"
        if names:
            lines.append(f"from {module} import (")
            lines += [f"    {name} as {name}," for name in sorted(names)]
            lines.append(")")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        compile_protos(Path(folder))
        fresh = Path(folder) / "spillway" / "v1"
        names = {path.name for path in fresh.iterdir()}
        if check:
            committed = {path.name for path in OUTPUT.iterdir() if path.is_file()}
            same, differing, missing = filecmp.cmpfiles(fresh, OUTPUT, sorted(names | committed), shallow=False)
            if differing or missing:
                sys.exit(f"spillway/v1 is stale, run `make proto`: {', '.join([*differing, *missing])}")
            print(f"spillway/v1 is fresh: {len(same)} files")
            return
        OUTPUT.mkdir(parents=True, exist_ok=True)
        for path in OUTPUT.iterdir():
            if path.is_file() and path.name not in names:
                path.unlink()
        for name in names:
            (OUTPUT / name).write_bytes((fresh / name).read_bytes())
        print(f"wrote {len(names)} files to spillway/v1")


if __name__ == "__main__":
    main()
