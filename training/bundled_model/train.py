"""Train the bundled model from scratch: ``python -m training.bundled_model.train --out DIR --minutes 60``.

Seeded and unattended. Writes a loadable folder at the start (random weights), every few minutes, and at the end.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

import torch
from tokenizers import Tokenizer
from torch import Tensor, multiprocessing
from torch.nn import functional

from training.bundled_model import tokenizer as tokenization
from training.bundled_model.batches import Batch, collate, cut, stream
from training.bundled_model.cases import cases
from training.bundled_model.corpus import TASKS, conversation, training_stream
from training.bundled_model.encoding import Encoded, encode_case
from training.bundled_model.message import HELD_OUT_TEMPLATES, TRAINING, UNSEEN_VALUES
from training.bundled_model.model import Decoder, Shape, export, load
from training.bundled_model.optimizer import Muon


@dataclass(frozen=True)
class Settings:
    """How one run is done."""

    out: Path
    minutes: float
    start: Path | None = None
    """Folder of a trained model to go on from, at half the rate; None: from scratch."""
    tokens: int = 0
    """End after this many tokens if that is sooner; 0: no such end."""
    seed: int = 1
    workers: int = 2
    """Processes that update the same weights without waiting for one another, each on one core; 1: reproducible."""
    batch_tokens: int = 3072
    matrix_rate: float = 0.02
    other_rate: float = 0.003
    warm_up: float = 0.02
    """Share of the run in which the learning rate rises."""
    cool_down: float = 0.5
    """Share of the run, at its end, in which it falls to zero."""
    averaging: float = 0.98
    """Weights are exported as a running average with this decay per step."""
    check_s: float = 500.0
    """Seconds between checkpoints."""


class Progress:
    """How much of the run is done, by time or by tokens, whichever is further; shared by all workers."""

    def __init__(self, settings: Settings, started: float, counts: Tensor) -> None:
        self.settings = settings
        self.started = started
        self.counts = counts

    def __repr__(self) -> str:
        return f"<Progress {self.share:.2f} {self.tokens} tokens {self.elapsed_s:.0f} s>"

    @property
    def tokens(self) -> int:
        """Tokens that all workers have trained on."""
        return int(self.counts[:, 0].sum())

    @property
    def steps(self) -> int:
        """Updates that all workers have made."""
        return int(self.counts[:, 1].sum())

    def count(self, worker: int, tokens: int) -> None:
        """Book one step of a worker."""
        self.counts[worker, 0] += tokens
        self.counts[worker, 1] += 1

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    @property
    def share(self) -> float:
        """From 0 at the start to 1 at the end."""
        by_time = self.elapsed_s / (self.settings.minutes * 60)
        by_tokens = self.tokens / self.settings.tokens if self.settings.tokens else 0.0
        return min(1.0, max(by_time, by_tokens))

    def rate(self) -> float:
        """Factor on the learning rates."""
        share = self.share
        rising = min(1.0, share / self.settings.warm_up + 0.02)
        falling = min(1.0, (1 - share) / self.settings.cool_down)
        return max(0.0, min(rising, falling)) * (0.5 if self.settings.start else 1.0)

    def copy_share(self) -> float:
        """Share of copying exercises: a third at first, then few."""
        return 0.04 if self.settings.start else max(0.04, 0.35 - 0.9 * self.share)


def make_tokenizer(seed: int) -> Tokenizer:
    """Learn the vocabulary from conversations of the training split."""
    generators = training_stream(seed + 1_000_000)
    talks = (conversation(next(generators), TRAINING, 0.02) for _ in range(15_000))
    return tokenization.train(turn.content for talk in talks for turn in talk)


def loss_of(model: Decoder, batch: Batch) -> Tensor:
    """Weighted cross-entropy of the answers."""
    losses = functional.cross_entropy(model(batch.inputs, batch.positions), batch.targets, reduction="none")
    return (losses * batch.weights).sum() / batch.weights.sum()


@torch.no_grad()
def exact_share(model: Decoder, items: list[Encoded]) -> float:
    """Share of answers that greedy decoding would give exactly."""
    right = total = 0
    for group in cut(items, 4096):
        batch = collate(group)
        wrong = model(batch.inputs, batch.positions).argmax(-1) != batch.targets
        rows = batch.positions // batch.inputs.shape[1]
        total += len(group)
        right += len(group) - len(set(rows[wrong].tolist()))
    return right / max(total, 1)


def check(model: Decoder, checks: dict[str, list[Encoded]]) -> str:
    """Shares of exact answers, as a line for the log."""
    return json.dumps({name: round(exact_share(model, items), 3) for name, items in checks.items()})


class Learner:
    """One worker: its own batches and optimizer state, on weights that all workers share."""

    def __init__(self, worker: int, model: Decoder, tokenizer: Tokenizer, progress: Progress) -> None:
        settings = progress.settings
        self.worker, self.model, self.progress = worker, model, progress
        matrices = [w for name, w in model.named_parameters() if w.dim() == 2 and name.startswith("layers")]
        chosen = {id(weight) for weight in matrices}
        self.others = [weight for weight in model.parameters() if id(weight) not in chosen]
        self.muon = Muon(list[Tensor](matrices))
        self.adam = torch.optim.AdamW(self.others, lr=settings.other_rate, betas=(0.9, 0.95), weight_decay=0.0)
        seed = settings.seed + 1000 * worker
        self.batches = stream(tokenizer, seed, settings.batch_tokens, progress.copy_share)

    def __repr__(self) -> str:
        return f"<Learner {self.worker} {self.progress!r}>"

    def step(self) -> float:
        """Train on one batch; returns its loss."""
        settings, batch = self.progress.settings, next(self.batches)
        loss = loss_of(self.model, batch)
        torch.autograd.backward(loss)
        factor = self.progress.rate()
        for group in self.adam.param_groups:
            group["lr"] = settings.other_rate * factor
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        self.muon.step(settings.matrix_rate * factor)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.progress.count(self.worker, batch.inputs.numel())
        return loss.item()


def work(worker: int, model: Decoder, settings: Settings, started: float, counts: Tensor) -> None:
    """A worker besides the first, in its own process, until the run is over."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(settings.out / "tokenizer.json"))
    progress = Progress(settings, started, counts)
    learner = Learner(worker, model, tokenizer, progress)
    first = parent_process()
    while progress.share < 1.0 and first is not None and first.is_alive():
        learner.step()


def run(settings: Settings) -> None:
    """The whole training run: the first worker, which also reports and exports."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    model = Decoder(Shape())
    if settings.start:
        tokenizer = Tokenizer.from_file(str(settings.start / "tokenizer.json"))
        load(model, settings.start)
    else:
        tokenizer = make_tokenizer(settings.seed)
    tokenization.save(tokenizer, settings.out)
    average = copy.deepcopy(model)
    export(average, settings.out)
    checks = {
        f"{split} {task}": [encode_case(tokenizer, case) for case in cases(split, task, 40, seed=7)]
        for split in (UNSEEN_VALUES.name, HELD_OUT_TEMPLATES.name)
        for task in TASKS
    }
    model.share_memory()
    counts = torch.zeros(settings.workers, 2, dtype=torch.int64)
    counts.share_memory_()  # type: ignore[no-untyped-call]
    progress = Progress(settings, time.monotonic(), counts)
    spawn = multiprocessing.get_context("spawn")
    others = [
        spawn.Process(target=work, args=(worker, model, settings, progress.started, counts), daemon=True)
        for worker in range(1, settings.workers)
    ]
    for other in others:
        other.start()
    learner = Learner(0, model, tokenizer, progress)
    checked, shown, step, smooth = 0.0, 0.0, 0, 0.0
    while progress.share < 1.0:
        loss = learner.step()
        step += 1
        smooth = loss if step == 1 else 0.98 * smooth + 0.02 * loss
        keep = min(settings.averaging, step / (step + 10))
        with torch.no_grad():
            for kept, weight in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(weight, 1 - keep)
        if progress.elapsed_s - shown > 20:
            shown = progress.elapsed_s
            speed = progress.tokens / shown
            print(
                f"{shown:6.0f} s step {progress.steps} loss {smooth:.4f} {speed:.0f} tokens/s {progress.share:.3f}",
                flush=True,
            )
        if progress.elapsed_s - checked > settings.check_s:
            export(average, settings.out)
            print(check(average, checks), flush=True)
            checked = progress.elapsed_s
    for other in others:
        other.join()
    export(average, settings.out)
    minutes = round(progress.elapsed_s / 60, 1)
    report = {"minutes": minutes, "tokens": progress.tokens, "steps": progress.steps, "workers": settings.workers}
    (settings.out / "training.json").write_text(json.dumps(report) + "\n", encoding="utf-8")
    print(check(average, checks), flush=True)
    print(json.dumps(report), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the run")
    parser.add_argument("--start", type=Path, help="folder of a trained model to go on from")
    parser.add_argument("--tokens", type=int, default=0, help="end after this many tokens if that is sooner")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each; 1: reproducible")
    chosen = parser.parse_args()
    run(
        Settings(
            chosen.out,
            chosen.minutes,
            start=chosen.start,
            tokens=chosen.tokens,
            seed=chosen.seed,
            workers=chosen.workers,
        )
    )


if __name__ == "__main__":
    main()
