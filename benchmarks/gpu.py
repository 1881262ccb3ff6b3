"""What a GPU makes of it: the operator, the contrastive loss, training, decoding.

    python benchmarks/gpu.py                     # at most 8 minutes on one GPU
    python benchmarks/gpu.py --parts operator    # one part
    python benchmarks/gpu.py --tiny              # on a CPU: that it runs, and no more

Everything a figure is compared with runs in the same process, in turns. Times on a GPU
are by its own events. Speech is random: rates and lengths are those of AISHELL-1, texts
mean nothing. A part whose packages are missing, or for which no time is left, is named
in the output. The operator's part needs `torch_cif` for its column.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "egs2" / "aishell_hkd" / "asr1" / "conf"
PACKED = ROOT / "egs2" / "an4_hkd" / "asr1" / "pretrained" / "an4_hkd.zip"
PARTS = ("operator", "contrastive", "training", "decoding")


class Size(NamedTuple):
    """How large everything is."""

    shapes: list[tuple[int, int, int, int]]  # B, T, D, U
    copied: int  # numbers in the tensor that is copied
    tokens: int  # N of the contrastive loss
    utterances: int  # in a training batch
    seconds: float  # of an utterance, on average
    vocabulary: int
    encoder: dict  # changes to the published encoder
    steps: int
    repeats: int
    batches: list[int]
    beams: list[int]
    decoded: int  # utterances


FULL = Size(
    shapes=[
        (1, 250, 256, 20),
        (16, 250, 256, 20),
        (32, 400, 512, 50),
        (8, 2000, 512, 200),
        (1, 10000, 512, 1000),
        (256, 1600, 512, 200),
    ],
    copied=2**28,
    tokens=2000,
    # 124 utterances an update, as published on two GPUs.
    utterances=124,
    seconds=4.5,
    vocabulary=4233,
    encoder={},
    steps=15,
    repeats=31,
    batches=[1, 16, 64],
    beams=[1, 10],
    decoded=64,
)
TINY = Size(
    shapes=[(2, 12, 8, 3)],
    copied=2**10,
    tokens=20,
    utterances=2,
    seconds=1.0,
    vocabulary=30,
    encoder={
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 2,
        "pool_after": [1, 2],
        "front_channels": 2,
    },
    steps=1,
    repeats=1,
    batches=[1, 2],
    beams=[1, 2],
    decoded=2,
)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure operator, losses, training and decoding on a GPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8.0, help="start no row later")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="Markdown")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny sizes, on any device, no claims"
    )
    return parser


class Bench:
    """The device, the time that is left, and the report."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        self.size = TINY if args.tiny else FULL
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.end = time.monotonic() + 60 * args.minutes
        self.out = args.out
        self.out.write_text("")

    def write(self, line: str = "") -> None:
        """Print, and add to the report, which is whole at any time."""
        print(line, flush=True)
        with self.out.open("a") as file:
            file.write(line + "\n")

    def table(self, title: str, columns: list[str], rows: Any) -> None:
        """Rows are written as they come, while there is time."""
        self.write(f"\n## {title}\n")
        self.write("| " + " | ".join(columns) + " |")
        self.write("|" + " --- |" * len(columns))
        for row in rows:
            self.write("| " + " | ".join(str(cell) for cell in row) + " |")
            if time.monotonic() > self.end:
                self.write("\nThe rows that would follow are left out: out of time.")
                break

    def milliseconds(self, runs: dict, repeats: int) -> dict[str, float]:
        """Median time of each run, in turns of changing order, after one untimed."""
        times: dict[str, list[float]] = {name: [] for name in runs}
        order = list(runs.items())
        for turn in range(repeats + 1):
            order.append(order.pop(0))
            for name, run in order:
                spent = self.time_once(run)
                if turn:
                    times[name].append(spent)
        return {name: statistics.median(spent) for name, spent in times.items()}

    def time_once(self, run) -> float:
        import torch

        if self.device == "cpu":
            begin = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - begin)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def peak_mib(self, run) -> float:
        """Memory that a run takes beyond what is held before it; 0 on a CPU."""
        import torch

        if self.device == "cpu":
            run()
            return 0.0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - held) / 2**20


@contextlib.contextmanager
def implementation(name: str | None):
    """Choose what `integrate_and_fire` calculates with; None: the default."""
    before = os.environ.pop("HKD_CIF", None)
    if name:
        os.environ["HKD_CIF"] = name
    try:
        yield
    finally:
        os.environ.pop("HKD_CIF", None)
        if before:
            os.environ["HKD_CIF"] = before


def operator(bench: Bench) -> None:
    """Forward plus backward of the operator, and how fast memory is copied."""
    bandwidth = copy_bandwidth(bench)
    bench.write(f"\nMemory is copied at {bandwidth:.0f} GB/s, read and written.")
    columns = ["B,T,D,U", "ours", "PyTorch's operators", "torch_cif"]
    columns += ["torch_cif / ours", "ours GB/s", "of the copy"]
    bench.table(
        "Operator, forward plus backward, float32, median ms",
        columns,
        (operator_row(bench, shape, bandwidth) for shape in bench.size.shapes),
    )


def copy_bandwidth(bench: Bench) -> float:
    """GB/s."""
    import torch

    source = torch.zeros(bench.size.copied, device=bench.device)
    target = torch.empty_like(source)
    runs = {"copy": lambda: target.copy_(source)}
    ms = bench.milliseconds(runs, bench.size.repeats)["copy"]
    return 2 * 4 * bench.size.copied / ms / 1e6


def operator_row(bench: Bench, shape: tuple, bandwidth: float) -> list[str]:
    import torch

    from espnet_hkd.cif import integrate_and_fire

    batch, frames, width, tokens = shape
    torch.manual_seed(0)
    hidden = torch.randn(batch, frames, width, device=bench.device)
    weights = torch.rand(batch, frames, device=bench.device) * 2 * tokens / frames
    inputs = hidden.requires_grad_(), weights.requires_grad_()
    lengths = torch.full((batch,), frames, device=bench.device)
    targets = torch.full((batch,), tokens, device=bench.device)
    grad = torch.randn(batch, tokens, width, device=bench.device)

    def ours(name=None):
        with implementation(name):
            fired = integrate_and_fire(
                *inputs, lengths, targets=targets, max_tokens=tokens
            )
        return torch.autograd.grad(fired.states, inputs, grad)

    def torch_cif():
        from torch_cif import cif_function

        states = cif_function(*inputs, target_lengths=targets)["cif_out"][0]
        return torch.autograd.grad(states, inputs, grad)

    runs = {"ours": ours, "operators": lambda: ours("torch")}
    with contextlib.suppress(ImportError):
        torch_cif()
        runs["torch_cif"] = torch_cif
    wanted = ours()
    for name, run in runs.items():
        for a, b in zip(wanted, run(), strict=True):
            # torch_cif adds 1e-4 to the targets, which moves cuts a little.
            error = float((a - b).norm() / a.norm())
            assert error < (0.1 if name == "torch_cif" else 1e-4), (name, error)
    ms = bench.milliseconds(runs, bench.size.repeats)
    # Frames are read twice and their gradient is written, tokens are written and their
    # gradient is read.
    moved = 4 * batch * width * (3 * frames + 2 * tokens)
    speed = moved / ms["ours"] / 1e6
    other = ms.get("torch_cif", float("nan"))
    return [
        f"{batch},{frames},{width},{tokens}",
        f"{ms['ours']:.3f}",
        f"{ms['operators']:.3f}",
        f"{other:.3f}",
        f"{other / ms['ours']:.1f}",
        f"{speed:.0f}",
        f"{speed / bandwidth:.2f}",
    ]


def contrastive(bench: Bench) -> None:
    """The contrastive loss against the published form, which gathers negatives."""
    import torch

    from benchmarks.contrastive import gather
    from espnet_hkd.losses import acoustic_contrastive_loss

    total = bench.size.tokens
    torch.manual_seed(0)
    student = torch.randn(total, 768, device=bench.device, requires_grad=True)
    teacher = torch.randn(total, 768, device=bench.device)
    count = min(700, int(0.8 * total))

    def draw():
        return torch.rand(total, total, device=bench.device).topk(count).indices

    def ours():
        loss = acoustic_contrastive_loss(student, teacher, negatives=count)
        return torch.autograd.grad(loss, student)

    def published():
        return torch.autograd.grad(gather(student, teacher, draw()), student)

    def rows():
        runs = {"ours": ours, "published": published}
        ms = bench.milliseconds(runs, min(bench.size.repeats, 5))
        memory = {name: bench.peak_mib(run) for name, run in runs.items()}
        for name in runs:
            yield [name, f"{ms[name]:.2f}", f"{memory[name]:.0f}"]

    bench.table(
        f"Contrastive loss of {total} tokens, {count} negatives, drawing included",
        ["form", "median ms", "MiB"],
        rows(),
    )


def configuration(bench: Bench, name: str) -> dict:
    """A training configuration of AISHELL-1's recipe, its vocabulary made up."""
    import yaml
    from espnet2.tasks.asr import ASRTask

    text = (RECIPE / f"{name}.yaml").read_text(encoding="utf-8")
    conf = ASRTask.get_default_config() | yaml.safe_load(text)
    letters = [f"t{i}" for i in range(bench.size.vocabulary - 3)]
    conf |= {
        "token_list": ["<blank>", "<unk>", *letters, "<sos/eos>"],
        "token_type": "word",
        "normalize": "utterance_mvn",
        "preprocessor": "default",
        "preprocessor_conf": {},
    }
    conf["frontend_conf"] = conf["frontend_conf"] | {"fs": 16000}
    conf["encoder_conf"] = conf["encoder_conf"] | bench.size.encoder
    # So that a model of random weights fires as often as AISHELL-1's speech has tokens.
    conf["decoder_conf"] = conf["decoder_conf"] | {"initial_weight": 0.27}
    return conf


def hybrid(conf: dict) -> dict:
    """ESPnet's CTC and attention model on the same encoder, its defaults else."""
    heads = conf["encoder_conf"]["attention_heads"]
    return conf | {
        "model": "espnet",
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
        "decoder": "transformer",
        "decoder_conf": {
            "attention_heads": heads,
            "linear_units": conf["encoder_conf"]["linear_units"],
            "num_blocks": 6,
            "dropout_rate": 0.1,
        },
    }


def speech(bench: Bench, utterances: int):
    """Random speech of half to one and a half times the mean length; token counts."""
    import torch

    share = torch.linspace(0.5, 1.5, utterances)
    samples = (16000 * bench.size.seconds * share).long()
    # AISHELL-1: 14.4 characters in 4.5 s.
    tokens = (3.2 * bench.size.seconds * share).long()
    return [torch.randn(int(count)) / 10 for count in samples], tokens


class Parts:
    """Milliseconds that methods take, by events around each call."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.spent: dict[str, float] = {}

    def call(self, name: str, function, *args, **kwargs):
        result = []
        ms = self.bench.time_once(lambda: result.append(function(*args, **kwargs)))
        self.spent[name] = self.spent.get(name, 0.0) + ms
        return result[0]

    def wrap(self, owner, method: str, name: str) -> None:
        inner = getattr(owner, method)
        setattr(owner, method, partial(self.call, name, inner))

    def __str__(self) -> str:
        return "; ".join(f"{name} {ms:.1f}" for name, ms in self.spent.items())


def training(bench: Bench) -> None:
    """Training steps of the published model, bfloat16."""
    import torch

    torch.manual_seed(0)
    waves, tokens = speech(bench, bench.size.utterances)
    most = int(tokens.max())
    text = torch.randint(2, bench.size.vocabulary - 1, (len(waves), most))
    batch = {
        "speech": torch.nn.utils.rnn.pad_sequence(waves, batch_first=True),
        "speech_lengths": torch.tensor([len(wave) for wave in waves]),
        "text": text.masked_fill(torch.arange(most) >= tokens[:, None], -1),
        "text_lengths": tokens,
    }
    taught = torch.arange(most + 1) <= tokens[:, None]
    teacher = {
        "teacher": torch.randn(len(waves), most + 1, 768),
        "teacher_mask": torch.where(taught, 1, -1),
    }
    cif = configuration(bench, "train_asr_cif")
    hkd = configuration(bench, "train_asr_cif_hkd")
    systems = {
        "CIF": (cif, batch),
        "CIF with HKD": (hkd, batch | teacher),
        "ESPnet's hybrid": (hybrid(cif), batch),
    }
    columns = ["system", "M parameters", "ms a step", "target tokens a second"]
    bench.table(
        f"Training, bfloat16, {len(waves)} utterances of {bench.size.seconds} s and "
        f"{int((tokens + 1).sum())} target tokens",
        [*columns, "MiB", "ms of the parts of one step"],
        (training_row(bench, name, *system) for name, system in systems.items()),
    )
    bench.write("\nPublished: 3,985 target tokens a second on two A100-40GB.")


def training_row(bench: Bench, name: str, conf: dict, batch: dict) -> list[str]:
    import torch
    from espnet2.tasks.asr import ASRTask

    torch.manual_seed(0)
    model: Any = ASRTask.build_model(argparse.Namespace(**conf))
    model = model.to(bench.device).train()
    batch = {key: x.to(bench.device) for key, x in batch.items()}
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    parts = Parts(bench)

    def forward():
        with torch.autocast(bench.device, dtype=torch.bfloat16):
            return model(**batch)[0]

    def update():
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def step():
        forward().backward()
        update()

    step()
    memory = bench.peak_mib(step)
    ms = bench.milliseconds({name: step}, bench.size.steps)[name]
    if name == "ESPnet's hybrid":
        parts.wrap(model, "encode", "encoder")
    else:
        parts.wrap(model, "_encode_layers", "encoder")
        parts.wrap(model.decoder, "teacher_forced", "CIF and decoder")
        parts.wrap(model, "_ctc_term", "CTC")
        parts.wrap(model, "distillation_terms", "distillation")
    loss = parts.call("whole forward", forward)
    parts.call("backward", loss.backward)
    parts.call("update", update)
    targets = int((batch["text_lengths"] + 1).sum())
    return [
        name,
        f"{parameters / 1e6:.1f}",
        f"{ms:.1f}",
        f"{1e3 * targets / ms:.0f}",
        f"{memory:.0f}",
        str(parts),
    ]


def decoding(bench: Bench) -> None:
    """Seconds of audio a second, ours and ESPnet's own, random speech."""
    import torch
    import yaml
    from espnet2.tasks.asr import ASRTask

    from espnet_hkd.pretrained.packed import open_packed

    torch.manual_seed(0)
    waves = [wave.numpy() for wave in speech(bench, bench.size.decoded)[0]]
    with tempfile.TemporaryDirectory() as folder:
        config, weights = Path(folder, "config.yaml"), Path(folder, "model.pth")
        conf = configuration(bench, "train_asr_cif")
        config.write_text(yaml.safe_dump(conf), encoding="utf-8")
        model: Any = ASRTask.build_model(argparse.Namespace(**conf))
        torch.save(model.state_dict(), weights)
        packed = open_packed(PACKED)
        models = {
            "published size": (config, weights),
            "AN4's packed": (packed.config, packed.weights),
        }
        bench.table(
            f"Decoding, {len(waves)} utterances of random speech, seconds of audio a "
            "second",
            ["model", "beam", "batch", "ours", "stock ESPnet"],
            (
                [name, beam, batch, *decoding_speeds(bench, files, waves, beam, batch)]
                for name, files in models.items()
                for beam in bench.size.beams
                for batch in bench.size.batches
            ),
        )


def decoding_speeds(
    bench: Bench, files: tuple[Path, Path], waves: list, beam: int, batch: int
) -> list[str]:
    """Ours and stock ESPnet's, with the same beam and number of utterances a batch."""
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_hkd.recognize import Recognizer

    recognizer = Recognizer(*files, device=bench.device)
    stock = Speech2Text(
        *map(str, files),
        device=bench.device,
        beam_size=beam,
        ctc_weight=0.0,
        batch_size=batch,
    )
    longest = max(map(len, waves)) / 16000

    def ours(waves):
        recognizer(
            waves,
            sample_rate=16000,
            beam=beam,
            ctc_weight=0.0,
            batch_seconds=batch * longest,
        )

    def espnet(waves):
        for first in range(0, len(waves), batch):
            part = waves[first : first + batch]
            stock(part[0] if batch == 1 else part)

    speeds = []
    for run in (ours, espnet):
        run(waves[:1])
        ms = bench.time_once(partial(run, waves))
        speeds.append(f"{sum(map(len, waves)) / 16 / ms:.0f}")
    return speeds


def describe(bench: Bench, tiny: bool) -> None:
    import torch

    device = platform.processor() or "CPU"
    if bench.device == "cuda":
        device = torch.cuda.get_device_name()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    with contextlib.suppress(ImportError):
        import triton

        versions += f", Triton {triton.__version__}"
    bench.write("# Benchmark on a GPU\n")
    bench.write(
        f"`python {' '.join(sys.argv)}`, {device}, {versions}, {time.strftime('%F')}."
    )
    if tiny or bench.device == "cpu":
        bench.write("\nTiny sizes: it shows that everything runs, and claims nothing.")


def main(arguments: list[str] | None = None) -> None:
    args = get_parser().parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    bench = Bench(args)
    if bench.device == "cpu" and not args.tiny:
        raise SystemExit("PyTorch finds no GPU here. To see that it runs: --tiny")
    describe(bench, args.tiny)
    for name in args.parts:
        if time.monotonic() > bench.end:
            bench.write(f"\n{name}: left out, out of time.")
            continue
        try:
            globals()[name](bench)
        except ImportError as error:
            bench.write(f"\n{name}: left out, {error}.")


if __name__ == "__main__":
    main()
