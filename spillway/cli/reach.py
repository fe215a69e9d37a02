"""Where a command finds the mesh it talks to."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.cli import state
from spillway.cli.layout import DEFAULT_BASE, ENGINE, OFFSETS
from spillway.cli.ports import LOOPBACK


@dataclass(frozen=True, slots=True)
class Reach:
    """A router, and the mesh around it where it was started in this folder."""

    router: str
    mesh: state.Running | None = None

    @property
    def collector(self) -> str:
        return self.mesh.collector if self.mesh else ""

    @property
    def engines(self) -> dict[str, str]:
        """Name -> host:port of each local engine; the only one may have none, ""."""
        found = {name.partition(" "): address for name, address in self.addresses().items()}
        return {name: address for (service, _, name), address in found.items() if service == ENGINE}

    def addresses(self) -> dict[str, str]:
        """Service -> host:port: of the mesh in this folder, else the default ports beside the router named."""
        if self.mesh is not None:
            order = list(OFFSETS)
            listed = sorted(self.mesh.addresses, key=lambda name: order.index(name.partition(" ")[0]))
            return {name: self.mesh.addresses[name] for name in listed}
        return {"router": self.router} | {
            name: f"{LOOPBACK}:{DEFAULT_BASE + offset}" for name, offset in OFFSETS.items() if 0 < offset < 4
        }


def find(address: str | None) -> Reach:
    """Return the router at `address`, else the mesh started in this folder, else the default address."""
    mesh = state.find()
    if address is not None:
        return Reach(address, mesh if mesh and mesh.router == address else None)
    return Reach(mesh.router, mesh) if mesh else Reach(state.DEFAULT_ROUTER)
