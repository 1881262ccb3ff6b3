#!/usr/bin/env python3
"""Draw what a distilled model has learnt of its teacher in one utterance.

    local/draw_teaching.py exp/asr_cif_hkd_llm_seed1 kathleen-a0058 --out teaching.png

Above, the weights of the CIF at each checkpoint; below, the cosine between what the
head of the regression gives for each token (rows) and the state of each (columns),
both without their mean over the utterance. A model that knows what it is taught has a
diagonal. The utterance must stand in dump/raw/SET, its transcript in the teacher store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser
from espnet_hkd.files import read_table

AVERAGE = "train.total_count.ave.pth"


def get_parser() -> Parser:
    parser = Parser("draw_teaching.py", __doc__)
    parser.add_argument("exp", type=Path, help="experiment with lrd_weight above 0")
    parser.add_argument("utterance", help="its id")
    parser.add_argument("--set", default="dev", help="folder under dump/raw")
    parser.add_argument(
        "--checkpoints", nargs="+", default=[AVERAGE], help="files in the experiment"
    )
    parser.add_argument("--out", type=Path, required=True, help="the picture, PNG")
    return parser


def look(exp: Path, checkpoint: str, data: Path, utterance: str):
    """Weights (F,), cosines (U, U) and tokens of an utterance."""
    import soundfile
    import torch
    from espnet2.tasks.asr import ASRTask
    from espnet2.train.collate_fn import common_collate_fn

    import espnet_hkd

    espnet_hkd.register()
    model, args = ASRTask.build_model_from_file(
        str(exp / "config.yaml"), str(exp / checkpoint), "cpu"
    )
    model.eval()
    preprocess = ASRTask.build_preprocess_fn(args, train=False)
    speech, _ = soundfile.read(read_table(data / "wav.scp")[utterance], dtype="float32")
    text = read_table(data / "text")[utterance]
    item = preprocess(utterance, {"speech": speech, "text": text})
    batch = common_collate_fn([(utterance, item)])[1]
    with torch.no_grad():
        hidden, lengths = model.encode(batch["speech"], batch["speech_lengths"])
        ys_in, ys_out = model.add_sos_eos(batch["text"], batch["text_lengths"])
        targets = batch["text_lengths"] + 1
        output = model.decoder.teacher_forced(hidden, lengths, ys_in, targets)
        taught = batch["teacher_mask"][0] == 1
        student = model.kd_lrd(output.merged)[0, taught]
        teacher = batch["teacher"][0, taught]
    student, teacher = student - student.mean(0), teacher - teacher.mean(0)
    cosines = torch.nn.functional.normalize(student, dim=1) @ (
        torch.nn.functional.normalize(teacher, dim=1).T
    )
    tokens = [args.token_list[n] for n in ys_out[0, taught]]
    return output.weights[0].numpy(), cosines.numpy(), tokens


def draw(found: dict, out: Path) -> None:
    """One column for each checkpoint."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(found), 6.6), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False, height_ratios=[1, 3])
    for column, (name, (weights, cosines, tokens)) in zip(
        axes.T, found.items(), strict=True
    ):
        column[0].bar(range(len(weights)), weights, width=1.0)
        column[0].set_xlim(-0.5, len(weights) - 0.5)
        column[0].set_ylim(0, 1)
        column[0].set_title(f"{name}: weights of {len(weights)} frames")
        column[1].imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
        column[1].set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
        column[1].set_yticks(range(len(tokens)), tokens, fontsize=7)
        column[1].set_xlabel("teacher")
        column[1].set_ylabel("student")
        column[1].set_title(f"mean of the diagonal {cosines.diagonal().mean():.2f}")
    figure.savefig(out, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        data = Path("dump/raw") / args.set
        found = {
            name: look(args.exp, name, data, args.utterance)
            for name in args.checkpoints
        }
        draw(found, args.out)


if __name__ == "__main__":
    main()
