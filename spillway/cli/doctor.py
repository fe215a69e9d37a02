"""`spillway doctor`: what this machine has, whether a model fits, and what stands in the way."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spillway.cli.failure import EXIT_FAILED, EXIT_INVALID
from spillway.cli.terminal import err, out, plain
from spillway.doctor import checkpoint, family
from spillway.doctor.configuration import EnginePart, configured
from spillway.doctor.diagnosis import Finding, gib
from spillway.doctor.family import BITS, FAMILIES
from spillway.doctor.fit import KV_CACHE_DTYPES, UNLIMITED, Asked, Fit, Verdict
from spillway.doctor.inspection import Sources, inspect
from spillway.doctor.machine import Machine
from spillway.doctor.report import Report, report
from spillway.doctor.together import Together, judged
from spillway.doctor.weights import Model
from spillway.errors import FieldViolation, RequestInvalid, SpillwayError
from spillway.settings import SettingsError

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
_VERDICTS = {
    Verdict.FITS: ("fits", "bold green"),
    Verdict.SHORTER: ("fits with a shorter context", "yellow"),
    Verdict.TOO_BIG: ("does not fit", "bold red"),
}


def run(
    *,
    model: str | None,
    parameters: float | None,
    bits: float | None,
    stream_tokens: int,
    config: Path | None,
    as_json: bool,
    max_model_len: int | None,
    kv_cache_dtype: str | None,
    tensor_parallel_size: int | None,
) -> int:
    """Examine, tell, and return the exit code: 0 healthy, 1 not, 2 for a question that makes no sense."""
    try:
        if kv_cache_dtype is not None and not re.fullmatch(KV_CACHE_DTYPES, kv_cache_dtype):
            raise _wrong("kv_cache_dtype", f"expected auto, bfloat16, fp8, int8, ..., found {kv_cache_dtype!r:.40}")
        parts = configured(config, os.environ) if config else {"": EnginePart()}
        cache = checkpoint.hub_cache(os.environ)
        machine = inspect(Sources.here(cache))
        if len(parts) > 1:
            given = {"model": model, "parameters": parameters, "bits": bits, "max_model_len": max_model_len}
            given |= {"kv_cache_dtype": kv_cache_dtype, "tensor_parallel_size": tensor_parallel_size}
            if named := [name for name, value in given.items() if value is not None]:
                raise _wrong(named[0], f"{config} names several engines, {', '.join(parts)}: set it there")
            models = {name: _model(part.model, None, None, cache) for name, part in parts.items()}
            return _together(judged(machine, parts, models, stream_tokens=stream_tokens), as_json)
        (part,) = parts.values()
        told = model or (None if parameters else part.model)
        asked = part.vllm.asked() if config else Asked()
        asked = replace(
            asked,
            max_model_len=max_model_len or asked.max_model_len,
            kv_cache_dtype=kv_cache_dtype or asked.kv_cache_dtype,
            tensor_parallel_size=tensor_parallel_size or asked.tensor_parallel_size,
        )
        found = _model(told, parameters, bits, cache)
        done = report(machine, asked, found, stream_tokens=stream_tokens, configured=config is not None)
    except (SpillwayError, SettingsError) as error:
        err().print(plain(str(error)), style="bold red", markup=False)
        return EXIT_INVALID
    if as_json:
        print(json.dumps(done.as_json(), indent=2))
    else:
        _show(done, out())
    return 0 if done.healthy else EXIT_FAILED


def _together(done: Together, as_json: bool) -> int:
    """Tell of several engines; return the exit code."""
    if as_json:
        print(json.dumps(done.as_json(), indent=2))
        return 0 if done.healthy else EXIT_FAILED
    console = out()
    console.print(_machine(done.machine))
    for name, engine in done.engines.items():
        console.print(Text.assemble((name, "bold"), f": {engine.lot.place}" if engine.lot else ""))
        if engine.model and engine.fit:
            console.print(_model_table(engine.model, engine.fit))
        else:
            console.print(f"{plain(engine.why)}\n", style="dim", markup=False)
    _tell(done.findings, console)
    return 0 if done.healthy else EXIT_FAILED


def _model(model: str | None, parameters: float | None, bits: float | None, cache: Path) -> Model | None:
    if parameters is not None:
        if model is not None:
            raise _wrong("parameters", "name either a model or its parameters")
        return family.model_of(parameters, bits if bits is not None else 16)
    if bits is not None:
        raise _wrong("bits", "goes with --parameters; a model's files say it themselves, and a size takes @: 7B@4")
    if model is None:
        return None
    if (folder := checkpoint.find(model, cache)) is not None:
        return checkpoint.read(folder, name="" if Path(model).expanduser().is_dir() else model)
    if (sized := family.sized(model)) is not None:
        return sized
    raise _wrong("model", f"{model} is no folder, no size such as 7B@4, and no hub id in {cache}: download it first")


def _wrong(field: str, why: str) -> RequestInvalid:
    return RequestInvalid(f"{field}: {why}", fields=[FieldViolation(field, why)])


def _show(done: Report, console: Console) -> None:
    console.print(_machine(done.machine))
    if done.model and done.fit:
        console.print(_model_table(done.model, done.fit))
    console.print(_families(done))
    _tell(done.findings, console)


def _tell(findings: Sequence[Finding], console: Console) -> None:
    for finding in findings:
        text = Text.assemble((finding.severity, _COLOURS[finding.severity]), " ", plain(finding.what))
        console.print(text.append(f"\n  {plain(finding.mend)}", style="dim") if finding.mend else text)
    if not any(finding.severity != "note" for finding in findings):
        console.print("nothing stands in the way", style="green")


def _machine(machine: Machine) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    cpu, memory, software = machine.cpu, machine.memory, machine.software
    limit = f", {cpu.limit:g} granted" if cpu.limit is not None else ""
    features = "features unknown" if cpu.features is None else " ".join(sorted(cpu.features)) or "no AVX2"
    table.add_row("CPU", plain(f"{cpu.model}, {cpu.cores} cores{limit}, {features}"))
    limit = f", {gib(memory.limit)} granted" if memory.limit is not None else ""
    table.add_row("memory", f"{gib(memory.total)}{limit}, {gib(memory.available)} available")
    for gpu in machine.gpus:
        capability = f", compute capability {gpu.capability[0]}.{gpu.capability[1]}" if gpu.capability else ""
        table.add_row("GPU", plain(f"{gpu.name}, {gib(gpu.memory)}, {gib(gpu.free)} free{capability}"))
    if not machine.gpus:
        table.add_row("GPU", f"{machine.cards} that do not work" if machine.cards else "none")
    if driver := machine.driver:
        cuda = f", CUDA {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else ""
        table.add_row("driver", plain(f"{driver.version or 'version unknown'}{cuda}"))
    built = f" for CUDA {software.torch_cuda[0]}.{software.torch_cuda[1]}" if software.torch_cuda else ""
    torch = f"torch {software.torch}{built}" if software.torch else "no torch"
    vllm = f"vLLM {software.vllm} ({software.vllm_build})" if software.vllm else "no vLLM"
    table.add_row("software", f"{vllm}, {torch}, Python {software.python}")
    if machine.disk:
        table.add_row("disk", f"{gib(machine.disk.free)} free at {plain(machine.disk.path)}")
    table.add_row()
    return table


def _model_table(model: Model, found: Fit) -> Table:
    word, colour = _VERDICTS[found.verdict]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_row("model", Text.assemble((plain(model.name), "bold"), " ", (word, colour), f" on this {_place(found)}"))
    exact = "exactly" if model.exact else "about"
    computed = (
        f", computed in {8 * found.width} bits" if model.weights.plain and found.width != model.shape.width else ""
    )
    sizes = f"{family.short(model.parameters)} parameters x {model.bits:.3g} bits, from {plain(model.source)}"
    table.add_row("weights", f"{exact} {gib(found.weights_bytes)}{_each(found)}{computed}: {sizes}")
    table.add_row("KV cache", f"{found.kv_token_bytes:,} bytes a token, {gib(found.kv_cache_bytes)} left for it")
    table.add_row("else", f"{gib(found.activation_bytes)} activations, {gib(found.runtime_bytes)} runtime, as a margin")
    need = f"{gib(found.needed_bytes)} of {gib(found.budget_bytes)} for one stream of {found.context:,} tokens"
    table.add_row("needs", need)
    longest = "any length" if found.longest >= UNLIMITED else f"{found.longest:,} tokens"
    table.add_row("context", f"{longest} at most" if found.longest else "none")
    streams = "not bounded by memory" if found.streams is None else f"{found.streams:,} at once"
    table.add_row("streams", f"of {found.stream_tokens:,} tokens each: {streams}")
    table.add_row()
    return table


def _place(found: Fit) -> str:
    if found.device == "cpu":
        return "CPU"
    return "GPU" if found.shards == 1 else f"machine's {found.shards} GPUs"


def _each(found: Fit) -> str:
    return " on each GPU" if found.device == "gpu" and found.shards > 1 else ""


def _families(done: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column("fits here: context, streams", no_wrap=True)
    for bits in BITS:
        table.add_column(f"{bits} bits", no_wrap=True)
    rows = {(row.family, row.bits): row.fit for row in done.families}
    for name, (like, _) in FAMILIES.items():
        table.add_row(Text.assemble(name, (f"  as {like}", "dim")), *(_cell(rows[name, bits]) for bits in BITS))
    table.add_row()
    return table


def _cell(found: Fit) -> Text:
    if found.verdict is Verdict.TOO_BIG:
        return Text("-", style="red")
    colour = "green" if found.verdict is Verdict.FITS else "yellow"
    return Text(f"{found.longest // 1024}k, {found.streams} x {found.stream_tokens:,}", style=colour)
