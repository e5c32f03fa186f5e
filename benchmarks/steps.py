"""Where the time of ``wyr explain`` goes: each step alone, beside the least that it could take.

The floor of a step of matrix products is its counted operations over the measured matrix-product peak; of the
others, the bytes that must be read and written once over the measured bandwidth of a copy (what a cache
holds may be faster).  Steps of text have no floor of that kind, and none is given.  Each step runs by itself
on the inputs that it has in a batch of the demo model; the times are medians of some runs.  The last line is
the whole, with what is between the steps.

    python benchmarks/steps.py [--threads N] [--batch N] [--rounds N]
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from explain import Contest, matrix_peak
from tally import Tally
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.inference import explain
from wyrcli.memory import keep_freed
from wyrcli.model.attention import attend
from wyrcli.model.backbone import _rotary_tables, _rotate
from wyrcli.outputs import open_output
from wyrcli.sequences import read_records
from wyrcli.writers import BedWriter


class Step(NamedTuple):
    """What is done ``times`` per batch.  ``moved``: bytes that it must read and write, once, where known."""

    run: Callable[[], object]
    times: int = 1
    moved: int | None = None


def clock() -> float:
    """CPU time of this process, by thread: other work on the machine does not count."""
    return time.process_time() / torch.get_num_threads()


def bandwidth(n_bytes: int = 1 << 28) -> float:
    """Bytes read and written per second by a copy that no cache holds."""
    source = torch.ones(n_bytes, dtype=torch.uint8)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(6):
        start = clock()
        target.copy_(source)
        best = max(best, 2 * n_bytes / (clock() - start))
    return best


def steps_of(contest: Contest, folder: Path) -> dict[str, Step]:
    """All steps on one batch of reads; those of a layer on what the first layer sees."""
    windows = contest.windows(contest.batch)
    path = folder / "reads.fasta"
    path.write_text("".join(f">{window.name}\n{window.sequence}\n" for window in windows))
    sequences = [window.sequence for window in windows]
    batch = contest.tokenizer.batch(sequences)
    network: Any = contest.explanandum
    layers = contest.config.num_hidden_layers
    layer, backbone = network.backbone.encoder.layer[0], network.backbone
    own = layer.attention.self
    logits, states = network.classify(batch)
    classes = network.class_numbers(network.predict(logits)[0])
    x = states[0]
    b, n, h = x.shape
    size = h // own.heads
    normed = layer.attention.LayerNorm(x)
    q, k, v = (
        part(normed).view(b, n, own.heads, size).transpose(1, 2) for part in (own.query, own.key, own.value)
    )
    tables = _rotary_tables(n, size, x)
    mixed = own(normed, tables, None)
    gate, value = layer._gate_and_value(normed)
    inner = F.silu(gate) * value
    features = contest.state.features(batch, states)
    explanations = list(
        explain(
            windows,
            network,
            contest.state,
            contest.tokenizer,
            contest.taxonomy,
            batch_tokens=contest.batch_tokens(),
            device=contest.device,
        )
    )

    def write_bed() -> str:
        text = io.StringIO()
        bed = BedWriter(text, contest.taxonomy.ranks)  # type: ignore[arg-type]
        for explanation in explanations:
            bed.write(explanation)
        return text.getvalue()

    rows = write_bed()

    def write_packed() -> None:
        with open_output(str(folder / "x.bed.gz")) as file:
            file.write(rows)

    unit = x.nbytes
    return {
        "read FASTA": Step(lambda: list(read_records([str(path)])), 1, 2 * path.stat().st_size),
        "k-mer tokens (another thread)": Step(lambda: contest.tokenizer.batch(sequences)),
        "embedding": Step(lambda: backbone.embed(batch.ids), 1, 2 * unit),
        "LayerNorm": Step(lambda: layer.attention.LayerNorm(x), 2 * layers + 1, 2 * unit),
        "queries, keys, values": Step(lambda: [p(normed) for p in (own.query, own.key, own.value)], layers),
        "rotary positions": Step(lambda: (_rotate(q, *tables), _rotate(k, *tables)), layers, 4 * unit),
        "attention": Step(lambda: attend(q, k, v), layers),
        "attention's output": Step(lambda: layer.attention.output(mixed), layers),
        "feed-forward, gate and value": Step(lambda: layer._gate_and_value(normed), layers),
        "feed-forward, SiLU and product": Step(lambda: F.silu(gate) * value, layers, 3 * gate.nbytes),
        "feed-forward, output": Step(lambda: layer.output(inner), layers),
        "residual sums": Step(lambda: x + normed, 2 * layers, 3 * unit),
        "Explainer: features": Step(lambda: contest.state.features(batch, states)),
        "Explainer: masks of the predicted": Step(lambda: _masks(contest.state.head, features, classes)),
        "chunks and BED text": Step(write_bed),
        "BGZF": Step(write_packed),
    }


def _masks(head: nn.Linear, features: Tensor, classes: Tensor) -> Tensor:
    """As the Explainer has them."""
    rows = head.weight[classes].transpose(1, 2)
    return torch.baddbmm(head.bias[classes][:, None, :], features, rows).float().sigmoid()


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Median of some runs."""
    run()
    times = []
    for _ in range(rounds):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_freed()
    torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    contest = Contest("demo", device, options.batch)
    peak, speed = matrix_peak(contest.dtype, device, 3072, clock), bandwidth()
    print(
        f"{options.threads} CPU threads, {contest.dtype}, batch {options.batch}: matrix product "
        f"{peak / 1e12:.3f} TFLOP/s, copy {speed / 1e9:.1f} GB/s read and written\n"
    )
    print(
        "| step | times | ms per batch | share | floor, ms | time, of the floor |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        found = []
        for name, step in steps_of(contest, Path(folder)).items():
            with Tally() as tally:
                step.run()
            floor = tally.operations / peak or (step.moved / speed if step.moved else None)
            found.append((name, step.times, step.times * seconds(step.run, options.rounds), floor))
        windows = contest.windows(8 * options.batch)
        whole = seconds(lambda: contest.explain(windows, contest.state), 3) / 8
    for name, times, taken, floor in found:
        limit = ("", "") if floor is None else (f"{1e3 * floor * times:.2f}", f"{taken / floor / times:.2f}")
        print(f"| {name} | {times} | {1e3 * taken:.2f} | {taken / whole:.1%} | {' | '.join(limit)} |")
    work = sum(floor * times for name, times, _, floor in found if floor is not None)
    last = f"{1e3 * whole:.1f} | 100% | {1e3 * work:.1f} | {whole / work:.2f}"
    print(f"| all of `explain`, from windows to BED | | {last} |")


if __name__ == "__main__":
    main()
