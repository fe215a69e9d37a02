"""Which vLLM there is, and whether it will do: looked for in the modules themselves."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.local_engine import vllm_version
from services.local_engine.decoding import FIELDS, SAMPLING_FIELDS
from services.local_engine.vllm_version import GUIDES, NEEDED, TESTED, probe
from spillway.doctor.diagnosis import OLDEST_VLLM
from spillway.settings import SettingsError

SAMPLING = (*SAMPLING_FIELDS, "output_kind", "stream_interval", "structured_outputs", "skip_clone")


def taking(*names: str) -> Callable[..., None]:
    """A function with these parameters."""
    made: dict[str, Callable[..., None]] = {}
    exec(f"def function({', '.join(names)}): pass", made)
    return made["function"]


def namespace(
    version: str = TESTED,
    *,
    sampling: tuple[str, ...] = SAMPLING,
    guides: tuple[str, ...] = tuple(GUIDES),
    without: str = "",
    device: str = "cpu",
) -> Callable[[str], Any]:
    """The modules of a vLLM as far as they are looked at; `without` one of their names."""
    modules: dict[str, Any] = {}
    for module, path, names in NEEDED:
        here = modules.setdefault(module, SimpleNamespace())
        *owners, name = path.split(".")
        for owner in owners:
            vars(here).setdefault(owner, SimpleNamespace())
            here = getattr(here, owner)
        if name != without:
            setattr(here, name, taking(*names))
    modules["vllm.sampling_params"].SamplingParams = make_dataclass("SamplingParams", sampling)
    modules["vllm.sampling_params"].StructuredOutputsParams = make_dataclass("StructuredOutputsParams", guides)
    platform = SimpleNamespace(device_type=device, get_device_name=lambda: "Some 9000")
    modules |= {
        "vllm": SimpleNamespace(__version__=version),
        "vllm.platforms": SimpleNamespace(current_platform=platform),
        "torch": SimpleNamespace(__version__="2.13.0+cu130", version=SimpleNamespace(cuda="13.0")),
    }

    def load(name: str) -> Any:
        if name not in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return modules[name]

    return load


def test_one_that_has_all_is_told_with_what_is_beside_it() -> None:
    found = probe(namespace(device="cuda"))
    assert found == vllm_version.Vllm(TESTED, "cuda", "Some 9000", "2.13.0+cu130", "13.0", ())
    assert found.tested


@pytest.mark.parametrize("field", ["stream_interval", "skip_clone"])
def test_one_that_is_too_old_is_refused_with_what_it_lacks_and_what_is_needed(field: str) -> None:
    older = namespace("0.19.1", sampling=tuple(name for name in SAMPLING if name != field))
    with pytest.raises(SettingsError) as refusal:
        probe(older)
    assert str(refusal.value) == (
        f"local_engine: found vLLM 0.19.1, the engine needs at least {OLDEST_VLLM} (tested with {TESTED}): "
        f"it has no SamplingParams({field})"
    )


def test_a_module_that_was_somewhere_else_is_missed_by_its_name() -> None:
    with pytest.raises(SettingsError, match=r"it has no vllm\.inputs\.engine\.tokens_input$"):
        probe(namespace("0.19.1", without="tokens_input"))


def test_what_only_some_requests_need_is_told_by_the_contracts_names() -> None:
    found = probe(namespace(sampling=tuple(name for name in SAMPLING if name != "min_p"), guides=("json", "regex")))
    assert found.lacks == (
        "spec.sampling.min_p",
        "spec.constraint.json_object",
        "spec.constraint.grammar",
        "spec.constraint.choices",
    )


@pytest.mark.parametrize(("version", "tested"), [(TESTED, True), ("0.31.9", True), ("0.99.0.dev3+cpu", False)])
def test_one_that_is_newer_than_any_tested_is_taken(version: str, tested: bool) -> None:
    assert probe(namespace(version)).tested is tested


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (ModuleNotFoundError("No module named 'vllm'", name="vllm"), "vllm is not installed beside it"),
        (ImportError("libcuda.so.1: cannot open shared object file"), "vLLM cannot be imported: libcuda"),
        (RuntimeError(), "vLLM cannot be imported: RuntimeError"),
    ],
)
def test_one_that_cannot_be_imported_is_told_in_words(gone: Exception, said: str) -> None:
    def load(name: str) -> Any:
        raise gone

    with pytest.raises(SettingsError, match=said):
        probe(load)


def test_a_build_without_a_device_is_refused() -> None:
    with pytest.raises(SettingsError, match="finds nothing here that it can compute on"):
        probe(namespace(device=""))


def test_a_setting_that_this_vllm_does_not_know_is_refused_by_name() -> None:
    @dataclass
    class Arguments:
        model: str

    vllm_version.accept(["model"], Arguments, "0.1")
    with pytest.raises(SettingsError, match=r"vLLM 0\.1 knows no enable_lora, max_loras: "):
        vllm_version.accept(["model", "enable_lora", "max_loras"], Arguments, "0.1")


def test_every_field_that_is_looked_for_has_a_place_in_the_contract() -> None:
    told: Mapping[str, str] = FIELDS
    assert all(told[name].startswith("spec.") for name in SAMPLING_FIELDS)


def test_all_that_is_imported_from_vllm_is_looked_for_first() -> None:
    imported = set()
    for path in Path(vllm_version.__file__).parent.glob("vllm_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vllm":
                imported |= {(node.module, name.name) for name in node.names}
    looked_for = {(module, path.partition(".")[0]) for module, path, _ in NEEDED}
    looked_for.add(("vllm.platforms", "current_platform"))
    assert imported <= looked_for


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")  # torch and vLLM warn their own developers while they load
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")
def test_the_vllm_that_is_here_has_all() -> None:
    found = probe()
    assert found.tested
    assert not found.lacks
