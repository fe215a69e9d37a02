"""The command `spillway`. What a command needs is imported when it runs, so that the help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spillway.cli import texts

if TYPE_CHECKING:
    from spillway.cli.layout import Wanted

app = typer.Typer(
    help="LLM inference that stays at home and spills to the cloud only when it must.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

policy = typer.Typer(help="The router's policy.", no_args_is_help=True)
app.add_typer(policy, name="policy")
confidence = typer.Typer(help="How sure answers are.", no_args_is_help=True)
app.add_typer(confidence, name="confidence")
breaker = typer.Typer(help="The router's breakers.", no_args_is_help=True)
app.add_typer(breaker, name="breaker")
lease = typer.Typer(help="The leases of runtimes that take few calls at once.", no_args_is_help=True)
app.add_typer(lease, name="lease")
adapter = typer.Typer(help="The LoRA adapters of the local engine.", no_args_is_help=True)
app.add_typer(adapter, name="adapter")

Prompt = Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")]
Address = Annotated[
    str | None,
    typer.Option(envvar="SPILLWAY_ADDRESS", help="host:port of the router. Default: the mesh started in this folder."),
]
Key = Annotated[
    str | None, typer.Option(envvar="SPILLWAY_KEY", help="Your key, where the router asks for one.", show_envvar=True)
]
System = Annotated[str | None, typer.Option(help="Instructions put before the prompt.")]
Model = Annotated[str | None, typer.Option(help="A model, an alias or a target. Default: the policy decides.")]
Category = Annotated[str | None, typer.Option(help="routine, complex or safety_critical.")]
Task = Annotated[str | None, typer.Option(help="chat, classify, extract, summarize, translate, write, code, ...")]
LocalOnly = Annotated[bool, typer.Option("--local-only", help="The prompt never leaves the site.")]
Schema = Annotated[
    str | None, typer.Option(metavar="FILE|JSON", help="The answer is JSON of this schema, and is checked.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer, in tokens.")]
Deadline = Annotated[float, typer.Option(help="Seconds the answer may take.")]
LocalModel = Annotated[
    str | None,
    typer.Option(
        "--model", envvar="MODEL", help="Local model: a Hugging Face id or a folder. Default: the bundled one."
    ),
]
LogDir = Annotated[Path | None, typer.Option(help="Folder for the services' whole logs. Default: .spillway/logs.")]
PortBase = Annotated[int, typer.Option(help="First of the mesh's ports; a taken one is replaced by a free one.")]
LeaseName = Annotated[str, typer.Argument(help="A lease, as `spillway lease list` names it.")]
AdapterName = Annotated[str, typer.Argument(help="What requests call the adapter.")]
EngineAddress = Annotated[
    str | None,
    typer.Option(help="host:port of the local engine, or its name. Default: the mesh started in this folder."),
]
ProxyAddress = Annotated[
    str | None, typer.Option(help="host:port of the cloud proxy. Default: the mesh started in this folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
EngineCommand = Annotated[
    str | None,
    typer.Option(hidden=True, help="Run this instead of a local engine, with --config FILE and --name NAME added."),
]


@app.command()
def up(
    config: Annotated[
        Path | None, typer.Option(help="Configuration to use instead of the one that is written for you.")
    ] = None,
    model: LocalModel = None,
    port_base: PortBase = 7070,
    log_dir: LogDir = None,
    engine_command: EngineCommand = None,
) -> None:
    """Start the whole mesh on this machine: router, local engine, cloud proxy, validator. Ctrl-C ends all of it."""
    from spillway.cli import up as command

    raise typer.Exit(command.run(_wanted(config, model, port_base, log_dir, engine_command)))


@app.command()
def demo(
    model: LocalModel = None,
    port_base: PortBase = 7070,
    log_dir: LogDir = None,
    engine_command: EngineCommand = None,
) -> None:
    """Watch prompts travel through the mesh. Uses the one that runs in this folder, or starts one and stops it."""
    from spillway.cli import demo as command

    raise typer.Exit(command.run(_wanted(None, model, port_base, log_dir, engine_command)))


@app.command()
def ask(
    prompt: Prompt,
    system: System = None,
    json_schema: Schema = None,
    local_only: LocalOnly = False,
    category: Category = None,
    task: Task = None,
    model: Model = None,
    max_tokens: MaxTokens = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    cache: Annotated[str | None, typer.Option(help="off, use or refresh. Default: the router's.")] = None,
    deadline: Deadline = 120.0,
    explain: Annotated[bool, typer.Option("--explain", help="Say first which targets come into question.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Show the request's trace afterwards.")] = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Ask, and see the answer as it is made."""
    from spillway.cli import ask as command

    options = command.options(
        system=system,
        json_schema=json_schema,
        local_only=local_only,
        category=category,
        task=task,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        cache=cache,
        deadline_s=deadline,
    )
    raise typer.Exit(
        command.run(command.read_prompt(prompt), options, address=address, key=key, explain=explain, trace=trace)
    )


@app.command()
def explain(
    prompt: Prompt,
    system: System = None,
    json_schema: Schema = None,
    local_only: LocalOnly = False,
    category: Category = None,
    task: Task = None,
    model: Model = None,
    max_tokens: MaxTokens = None,
    address: Address = None,
    key: Key = None,
) -> None:
    """Say which target would answer, and why. Nothing is generated."""
    from spillway.cli import ask as command

    options = command.options(
        system=system,
        json_schema=json_schema,
        local_only=local_only,
        category=category,
        task=task,
        model=model,
        max_tokens=max_tokens,
    )
    raise typer.Exit(command.run_explain(command.read_prompt(prompt), options, address=address, key=key))


@app.command()
def status(address: Address = None, key: Key = None) -> None:
    """Show the health of every service, the engines' load, the providers, and how the router's targets stand."""
    from spillway.cli import status as command

    raise typer.Exit(command.run(address=address, key=key))


@app.command()
def cost(
    prompt: Prompt,
    system: System = None,
    model: Annotated[str | None, typer.Option(help="A model of a provider, PROVIDER/MODEL. Default: all.")] = None,
    max_tokens: MaxTokens = None,
    tenant: Annotated[str, typer.Option(help="Whose usual answers the estimate goes by.")] = "",
    address: ProxyAddress = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Say what an answer of a provider would cost. Nothing is sent to one."""
    from spillway.cli import ask
    from spillway.cli import cloud as command

    wanted = ask.options(system=system, model=model, max_tokens=max_tokens)
    raise typer.Exit(command.cost(ask.read_prompt(prompt), wanted, tenant, address=address, key=key, as_json=as_json))


@app.command()
def providers(
    ask: Annotated[bool, typer.Option("--ask", help="Ask each which models it serves.")] = False,
    address: ProxyAddress = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show the providers: where content goes, for how long it is kept there, which models they serve."""
    from spillway.cli import cloud as command

    raise typer.Exit(command.providers(ask=ask, address=address, key=key, as_json=as_json))


@app.command()
def audit(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone.")] = None,
    provider: Annotated[str | None, typer.Option(help="To this provider alone.")] = None,
    since: Annotated[str | None, typer.Option(help="90m, 2h, 7d, or a time of ISO 8601, in UTC.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many calls, the newest.")] = 50,
    store: Annotated[
        str | None,
        typer.Option(envvar="SPILLWAY_SHARED__STORE__URL", help="Default: the one of the mesh in this folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what left the site, by whose word, to where, and what was refused."""
    from spillway.cli import audit as command

    raise typer.Exit(
        command.run(tenant=tenant, provider=provider, since=since, last=last, store=store, as_json=as_json)
    )


for _command in (texts.inspect, texts.redact, texts.restore, texts.judge):
    app.command()(_command)


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="A model's folder, a hub id that is on this disk, or a size and bits: 7B@4.")
    ] = None,
    parameters: Annotated[float | None, typer.Option(help="Instead of a model: how many weights it has, 7e9.")] = None,
    bits: Annotated[float | None, typer.Option(help="With --parameters: bits of a weight. Default: 16.")] = None,
    max_model_len: Annotated[int | None, typer.Option(min=2, help="Context, in tokens. Default: the model's.")] = None,
    stream_tokens: Annotated[int, typer.Option(min=1, help="Length of the streams that are counted.")] = 4096,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="auto, bfloat16, fp8, ...")] = None,
    tensor_parallel_size: Annotated[int | None, typer.Option(min=1, help="GPUs to spread the model over.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A mesh's configuration: its model, and the memory it grants vLLM.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; docs/doctor.md lists the keys.")] = False,
) -> None:
    """Say what this machine has, whether a model fits it, and how to mend what is wrong. Ends 0 if all is well."""
    from spillway.cli import doctor as command

    raise typer.Exit(
        command.run(
            model=model,
            parameters=parameters,
            bits=bits,
            stream_tokens=stream_tokens,
            config=config,
            as_json=as_json,
            max_model_len=max_model_len,
            kv_cache_dtype=kv_cache_dtype,
            tensor_parallel_size=tensor_parallel_size,
        )
    )


@policy.command("check")
def policy_check(file: Annotated[Path, typer.Argument(help="A policy file, as router.policy_file names it.")]) -> None:
    """Say what is wrong with a policy file. Ends 0 if it could be put in force, 1 if not."""
    import subprocess
    import sys

    raise typer.Exit(subprocess.run([sys.executable, "-m", "services.router.check", str(file)]).returncode)


@policy.command("reload")
def policy_reload(address: Address = None, key: Key = None) -> None:
    """Have the router read its policy file now. Ends 0 if what it says is in force, 1 if not."""
    from spillway.cli import operator as command

    raise typer.Exit(command.reload_policy(address=address, key=key))


@confidence.command("fit")
def confidence_fit(
    outcomes: Annotated[Path, typer.Argument(help="Answers of which it is known whether they are right: JSON lines.")],
    out: Annotated[Path, typer.Option(help="Where the model is written, for validator.confidence.model_file.")],
    picture: Annotated[Path | None, typer.Option(help="Where the calibration curve is drawn, as SVG.")] = None,
    name: Annotated[str, typer.Option(help="What the model calls itself in scores.")] = "fitted",
) -> None:
    """Fit the model that scores how likely answers are right, and say how good it is."""
    import subprocess
    import sys

    options = [str(outcomes), "--out", str(out), "--name", name]
    options += [] if picture is None else ["--picture", str(picture)]
    command = [sys.executable, "-m", "services.validator.confidence.fit", *options]
    raise typer.Exit(subprocess.run(command).returncode)


@breaker.command("reset")
def breaker_reset(
    target: Annotated[str, typer.Argument(help="A target of the router's policy.")],
    address: Address = None,
    key: Key = None,
) -> None:
    """Close every breaker of a target, on all routers that share a store."""
    from spillway.cli import operator as command

    raise typer.Exit(command.reset_breaker(target, address=address, key=key))


@lease.command("list")
def lease_list(address: Address = None, key: Key = None) -> None:
    """Show who holds each lease, since when, for how long yet, and how many calls wait."""
    from spillway.cli import lease as command

    raise typer.Exit(command.show("", address=address, key=key))


@lease.command("show")
def lease_show(name: LeaseName, address: Address = None, key: Key = None) -> None:
    """Show one lease."""
    from spillway.cli import lease as command

    raise typer.Exit(command.show(name, address=address, key=key))


@lease.command("release")
def lease_release(name: LeaseName, address: Address = None, key: Key = None) -> None:
    """Have the calls that hold a lease end, so that the next can begin."""
    from spillway.cli import lease as command

    raise typer.Exit(command.release(name, address=address, key=key))


@adapter.command("list")
def adapter_list(address: EngineAddress = None, key: Key = None) -> None:
    """Show which adapters are loaded, and how many requests use them."""
    from spillway.cli import adapter as command

    raise typer.Exit(command.show(address=address, key=key))


@adapter.command("load")
def adapter_load(
    name: AdapterName,
    path: Annotated[
        str, typer.Argument(help="A folder below local_engine.vllm.adapters.folder. Default: the one of that name.")
    ] = "",
    address: EngineAddress = None,
    key: Key = None,
) -> None:
    """Load an adapter while answers are made."""
    from spillway.cli import adapter as command

    raise typer.Exit(command.load(name, path, address=address, key=key))


@adapter.command("unload")
def adapter_unload(
    name: AdapterName,
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds that requests which use it have to end.")] = 60.0,
    address: EngineAddress = None,
    key: Key = None,
) -> None:
    """Take no more requests for an adapter, and unload it when those that use it have ended."""
    from spillway.cli import adapter as command

    raise typer.Exit(command.unload(name, address=address, key=key, wait_s=wait))


def _wanted(
    config: Path | None, model: str | None, port_base: int, log_dir: Path | None, engine_command: str | None
) -> Wanted:
    import shlex

    from spillway.cli.layout import Wanted

    return Wanted(
        config=config,
        model=model or None,
        port_base=port_base,
        log_dir=log_dir,
        engine_command=tuple(shlex.split(engine_command)) if engine_command else None,
    )


if __name__ == "__main__":
    app()
