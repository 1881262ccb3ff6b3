"""What decoding costs: against an earlier commit, and against ESPnet's own search.

    git worktree add --detach ../before 28e7df7
    python benchmarks/decode.py AN4/test --baseline ../before

Decodes the recordings of a Kaldi-style set with beam 10 and CTC weight 0.3, model
loaded, one thread, with the baseline's packed model of AN4 (else this checkout's), and
prints a table in Markdown. Both sides run in processes of their own, in turn; times are
medians of the rounds. CPU time decides, since others may use the machine; wall time
stands beside it.
Without `--baseline` only what needs none is measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent.parent
MODEL = "egs2/an4_hkd/asr1/pretrained/an4_hkd.zip"
BEAM, CTC_WEIGHT = 10, 0.3
RATE = 16000


class Task(NamedTuple):
    """One comparison: what each side runs, and how many times faster ours should be."""

    title: str
    theirs: str
    ours: str
    goal: float
    same_text: bool


AGAINST_BASELINE = [
    Task("Recognizer, encoder included", "recognizer", "recognizer", 3.5, True),
    Task("`asr_inference`, encoder included", "stock", "stock", 4.5, True),
    Task("search of pieces of 30 s", "pieces", "pieces", 6.0, True),
]
AGAINST_ESPNET = [
    Task("search, ESPnet's search and CTC scorer", "espnet", "search", 0.0, True),
    Task("search, ESPnet's TransformerDecoder", "transformer", "search", 3.0, False),
]


def get_parser() -> argparse.ArgumentParser:
    """The command line, with defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="folder with wav.scp")
    parser.add_argument("--baseline", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--limit", type=int, help="first recordings only")
    parser.add_argument(
        "--pieces", type=int, default=4, help="pieces of 30 s; default: 4"
    )
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", metavar="CHECKOUT", help=argparse.SUPPRESS)
    return parser


class Worker:
    """A process that decodes with one checkout."""

    def __init__(self, checkout: Path, args: argparse.Namespace) -> None:
        model = (args.baseline or HERE).resolve() / MODEL
        options = ["--pieces", str(args.pieces), "--model", str(model)]
        if args.limit:
            options += ["--limit", str(args.limit)]
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).resolve()),
                str(args.data.resolve()),
                *options,
                "--work",
                str(checkout.resolve()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, task: str) -> dict[str, Any]:
        """CPU and wall seconds, and texts, of one task."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def work(checkout: Path, args: argparse.Namespace) -> None:
    """Answer the tasks that come on standard input."""
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    answers = os.fdopen(os.dup(1), "w")
    # What libraries print is not an answer.
    os.dup2(2, 1)
    import logging

    import torch

    import espnet_hkd

    assert Path(espnet_hkd.__file__).is_relative_to(checkout), espnet_hkd.__file__
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with torch.no_grad():
        tasks = Tasks(args)
        for line in sys.stdin:
            task = getattr(tasks, line.strip())
            cpu, wall = time.process_time(), time.perf_counter()
            texts = task()
            answer = {
                "cpu": time.process_time() - cpu,
                "wall": time.perf_counter() - wall,
                "texts": texts,
            }
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class Tasks:
    """What can be timed; each returns texts."""

    def __init__(self, args: argparse.Namespace) -> None:
        import numpy as np
        import soundfile

        import espnet_hkd

        self.model = str(args.model)
        self.recognizer_: Any = espnet_hkd.from_pretrained(self.model)
        rows = (args.data / "wav.scp").read_text().splitlines()[: args.limit]
        self.audio = []
        for row in rows:
            path = args.data.parent / row.split(maxsplit=1)[1]
            self.audio.append(soundfile.read(path, dtype="float32")[0])
        whole = np.concatenate(self.audio)[: int(29.0 * args.pieces * RATE)]
        self.hidden = [self._hidden(audio) for audio in self.audio]
        pieces = [whole[i : i + 29 * RATE] for i in range(0, len(whole), 29 * RATE)]
        self.long = [self._hidden(piece) for piece in pieces]
        self._stock = self._speech2text()
        # Compiles, and fills the caches.
        self.recognizer_(self.audio[0], sample_rate=RATE, ctc_weight=CTC_WEIGHT)
        self._stock(self.audio[0])

    def _hidden(self, audio: Any) -> Any:
        import torch

        speech = torch.from_numpy(audio)[None]
        lengths = torch.tensor([len(audio)])
        hidden, count = self.recognizer_.model.encode(speech, lengths)
        return hidden[0, : int(count[0])]

    def recognizer(self) -> list[str]:
        """All recordings by Recognizer."""
        found = self.recognizer_(
            self.audio, sample_rate=RATE, beam=BEAM, ctc_weight=CTC_WEIGHT
        )
        return [transcript.text for transcript in found]

    def stock(self) -> list[str]:
        """All recordings by ESPnet's `asr_inference`, one by one."""
        return [self._stock(audio)[0][0] for audio in self.audio]

    def _speech2text(self) -> Any:
        import yaml
        from espnet2.bin.asr_inference import Speech2Text

        # Where it stood before there were rooms.
        old = Path("espnet_hkd/packed.py").exists()
        name = "espnet_hkd.packed" if old else "espnet_hkd.pretrained.packed"
        open_packed = importlib.import_module(name).open_packed
        conf = Path("egs2/an4_hkd/asr1/conf/decode_asr.yaml").read_text()
        # Its files must live as long as they are read.
        self._packed = open_packed(self.model)
        return Speech2Text(
            str(self._packed.config),
            str(self._packed.weights),
            beam_size=BEAM,
            ctc_weight=CTC_WEIGHT,
            maxlenratio=yaml.safe_load(conf)["maxlenratio"],
        )

    def pieces(self) -> list[str]:
        """The search of pieces of about 30 s, two at once, as Recognizer has it."""
        texts = []
        for first in range(0, len(self.long), 2):
            pair = self.long[first : first + 2]
            if hasattr(self.recognizer_, "_search_batch"):
                search = self.recognizer_._search(BEAM, CTC_WEIGHT)
                ranked = self.recognizer_._search_batch(pair, search)
                ids = [hyps[0].yseq[1:-1].tolist() for hyps in ranked]
            else:
                ids = self._ours(pair)
            texts += [" ".join(map(str, each)) for each in ids]
        return texts

    def search(self) -> list[str]:
        """Our search, one recording at a time."""
        ids = [self._ours([hidden])[0] for hidden in self.hidden]
        return [" ".join(map(str, each)) for each in ids]

    def _ours(self, hidden: list[Any]) -> list[list[int]]:
        import torch

        from espnet_hkd.recognize.search import SearchWeights, beam_search

        model = self.recognizer_.model
        padded = torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True)
        found = beam_search(
            model.decoder,
            padded,
            torch.tensor([len(each) for each in hidden]),
            sos=model.sos,
            beam=BEAM,
            options=model.decoder.options,
            weights=SearchWeights(1 - CTC_WEIGHT, CTC_WEIGHT, {}),
            ctc_logp=model.ctc.log_softmax(padded),
        )
        return [hyps[0].tokens for hyps in found]

    def espnet(self) -> list[str]:
        """ESPnet's search and CTC scorer, with our decoder, one at a time."""
        search = self._espnets(self.recognizer_.model.decoder)
        best = [search(hidden)[0] for hidden in self.hidden]
        return [" ".join(map(str, h.yseq[1:-1].tolist())) for h in best]

    def transformer(self) -> list[str]:
        """ESPnet's decoder of two blocks, as many steps as ours; random weights."""
        import torch
        from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

        model = self.recognizer_.model
        torch.manual_seed(0)
        layer = model.decoder.layers[0]
        decoder = TransformerDecoder(
            len(model.token_list),
            self.hidden[0].size(1),
            attention_heads=layer.self_attn.h,
            linear_units=layer.feed_forward.w_1.out_features,
            num_blocks=2,
        ).eval()
        search = self._espnets(decoder)
        for hidden in self.hidden:
            fired = model.decoder.fire(hidden[None], torch.tensor([len(hidden)]))
            steps = int(fired.lengths[0]) + 1
            search(hidden, maxlenratio=-steps, minlenratio=-steps)
        return []

    def _espnets(self, decoder: Any) -> Any:
        from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
        from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer

        model = self.recognizer_.model
        return BatchBeamSearch(
            beam_size=BEAM,
            weights={"decoder": 1 - CTC_WEIGHT, "ctc": CTC_WEIGHT},
            scorers={
                "decoder": decoder,
                "ctc": CTCPrefixScorer(model.ctc, eos=model.eos),
            },
            sos=model.sos,
            eos=model.eos,
            vocab_size=len(model.token_list),
            token_list=None,  # type: ignore[arg-type]
            pre_beam_score_key="full",
        ).eval()


def compare(task: Task, theirs: Worker, ours: Worker, rounds: int) -> Iterator[str]:
    """The table's row."""
    runs: dict[str, list[dict[str, Any]]] = {"theirs": [], "ours": []}
    for _ in range(rounds):
        runs["theirs"].append(theirs.run(task.theirs))
        runs["ours"].append(ours.run(task.ours))

    def median(side: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[side])

    before, after = runs["theirs"][0]["texts"], runs["ours"][0]["texts"]
    differ = sum(a != b for a, b in zip(before, after, strict=True)) if before else 0
    yield task.title
    for side in ("theirs", "ours"):
        yield f"{median(side, 'cpu'):.2f} ({median(side, 'wall'):.2f})"
    yield f"{median('theirs', 'cpu') / median('ours', 'cpu'):.1f}"
    yield f"{task.goal:.1f}" if task.goal else "-"
    yield f"{differ} of {len(after)}" if task.same_text else "-"


def main() -> None:
    """Run the command line."""
    args = get_parser().parse_args()
    if args.work:
        work(Path(args.work), args)
        return
    print(f"{_processor()}, load {os.getloadavg()[0]:.1f}, one thread each")
    print(f"{args.rounds} rounds, {args.pieces} pieces, limit {args.limit}\n")
    print("| | theirs, CPU s (wall) | ours, CPU s (wall) | times | goal | differ |")
    print("|---|---|---|---|---|---|", flush=True)
    ours = Worker(HERE, args)
    sides: list[tuple[list[Task], Worker, Callable[[], None]]] = []
    if args.baseline:
        baseline = Worker(args.baseline, args)
        sides.append((AGAINST_BASELINE, baseline, baseline.close))
    sides.append((AGAINST_ESPNET, ours, ours.close))
    for tasks, theirs, close in sides:
        for task in tasks:
            row = compare(task, theirs, ours, args.rounds)
            print("| " + " | ".join(row) + " |", flush=True)
        close()


def _processor() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
        named = next(line for line in info.splitlines() if "model name" in line)
        return named.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
