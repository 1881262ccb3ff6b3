"""How often the host waits for the device: counted on the CPU, by what would wait."""

import sys

import pytest
import torch
import torch.distributed
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_hkd.losses import acoustic_contrastive_loss, acoustic_contrastive_terms
from tests.small_models import SIZE, make_batch, make_decoder, make_model


class HostReads(TorchDispatchMode):
    """Notes which line of ours reads from the device, directly or by a mask as index.

    What ESPnet and `F.ctc_loss` read is theirs.
    """

    READS = (
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.nonzero,
        torch.ops.aten.masked_select,
        torch.ops.aten.equal,
        torch.ops.aten._unique2,
        torch.ops.aten.unique_consecutive,
    )
    INDEXED = (
        torch.ops.aten.index,
        torch.ops.aten.index_put,
        torch.ops.aten.index_put_,
    )
    # No launch: views, and memory that is not written.
    FREE = ("aten::empty", "aten::new_empty", "aten::empty_like")

    def __init__(self):
        super().__init__()
        self.reads, self.launches = [], 0

    def __enter__(self):
        # No operator: the memory of a tensor on the CPU is read as it lies there.
        self.tolist = torch.Tensor.tolist

        def tolist(tensor):
            self.note()
            return self.tolist(tensor)

        torch.Tensor.tolist = tolist
        return super().__enter__()

    def __exit__(self, *raised):
        torch.Tensor.tolist = self.tolist
        return super().__exit__(*raised)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        masked = packet in self.INDEXED and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        if packet in self.READS or masked:
            self.note()
        result = function(*args, **(kwargs or {}))
        self.launches += (
            not function.is_view and function.name().split(".")[0] not in self.FREE
        )
        return result

    def note(self):
        frame = sys._getframe()
        while frame is not None:
            name = frame.f_code.co_filename
            if "/espnet_hkd/" in name:
                where = name.rpartition("/espnet_hkd/")[2]
                self.reads.append(f"{where}:{frame.f_lineno}")
                return
            if "/espnet" in name:
                return
            frame = frame.f_back


def test_the_counter_notices_reads_of_ours_and_no_others():
    from espnet_hkd.cif.definition import wait_for_slots

    tokens = torch.tensor([3, 1])
    with HostReads() as counted:
        assert int(tokens.max()) == 3
    assert counted.reads == []
    with HostReads() as counted:
        wait_for_slots(tokens, tokens, 4, free=True)
        assert tokens.tolist() == [3, 1]
    assert len(counted.reads) == 1
    assert counted.reads[0].startswith("cif/definition.py")


def reads_of_a_step(model, batch):
    """Where a training step of ours reads from the device, forward and backward."""
    # Loops on the CPU call no operators: what a GPU would run is what counts.
    with pytest.MonkeyPatch.context() as patch, HostReads() as counted:
        patch.setenv("HKD_CIF", "torch")
        loss, _, _ = model.train()(**batch)
        loss.backward()
    return counted.reads


HKD = {"acd_weight": 1.0, "lrd_weight": 0.01, "teacher_dim": 12}


@pytest.mark.parametrize("encoder", ["pooled", "conformer"])
def test_a_training_step_waits_once_for_the_number_of_taught_tokens(encoder, tmp_path):
    from tests.small_models import VOCAB, make_pooled_encoder, make_small_encoder

    lexicon = tmp_path / "lexicon"
    lexicon.write_text(
        "\n".join(f"{t} {t.lower()} x" for t in VOCAB if not t.startswith("<"))
    )
    options = {"lexicon": str(lexicon)}
    if encoder == "pooled":
        options = {}
        made = make_pooled_encoder(front_channels=4)
    else:
        made = make_small_encoder(
            interctc_layer_idx=[1], interctc_use_conditioning=False
        )
    model = make_model(encoder=made, **HKD, kd_ramp=10, lrd_residual=True, **options)
    (read,) = reads_of_a_step(model, make_batch(teacher_dim=12))
    assert read.startswith("nets/distillation.py")


@pytest.mark.parametrize(
    "options",
    [
        {"extra_weight": 1.0, "lrd_residual": True},
        {"count_align_weight": 1.0, "count_align_steps": 5},
        {"acd_gather": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_no_option_makes_a_training_step_wait_a_second_time(options, tmp_path):
    batch = make_batch(teacher_dim=12)
    if "extra_weight" in options:
        batch |= {
            "extra": batch["text"],
            "extra_lengths": torch.tensor([4, 0]),
            "extra_teacher": torch.randn(2, 7, 12),
            "extra_teacher_mask": torch.ones(2, 7, dtype=torch.long),
        }
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1
    )
    try:
        (read,) = reads_of_a_step(make_model(**HKD, **options), batch)
    finally:
        torch.distributed.destroy_process_group()
    assert read.startswith("nets/distillation.py")


@pytest.mark.parametrize(
    "options", [{}, {"count_align_weight": 1.0, "count_align_steps": 5}], ids=str
)
def test_a_step_without_distillation_never_waits(options):
    assert reads_of_a_step(make_model(**options), make_batch()) == []


def test_the_number_of_a_step_is_read_once_after_loading():
    options = {**HKD, "kd_ramp": 10}
    trained, model = make_model(**options).train(), make_model(**options)
    batch = make_batch(teacher_dim=12)
    trained(**batch)
    model.load_state_dict(trained.state_dict())
    assert len(reads_of_a_step(model, batch)) == 2
    assert len(reads_of_a_step(model, batch)) == 1
    assert model.training_steps == 3


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize(("reach", "most"), [(0, 1), (1, 2)], ids=["one", "counts"])
def test_a_decoding_step_waits_for_what_is_kept_and_for_pairs_of_counts(
    beam, reach, most
):
    """With several counts, the number of those still possible is a second wait."""
    from espnet_hkd.recognize.search import SearchWeights, beam_search

    decoder = make_decoder(count_search=reach)
    hidden, lengths = torch.randn(2, 30, SIZE), torch.tensor([30, 17])
    steps = []
    score_next = decoder.score_next
    decoder.score_next = lambda *args: steps.append(1) or score_next(*args)
    with pytest.MonkeyPatch.context() as patch, HostReads() as counted:
        patch.setenv("HKD_CIF", "torch")
        found = beam_search(
            decoder,
            hidden,
            lengths,
            sos=decoder.eos,
            beam=beam,
            options=decoder.options,
            weights=SearchWeights(1.0, 0.0, {}),
        )
    assert all(found)
    # Before the first step: how many tokens there are, and what steers the search; with
    # several counts, which of them are possible.
    start = 2 if reach == 0 else 3
    assert start + len(steps) <= len(counted.reads) <= start + most * len(steps)


def test_a_step_of_espnets_search_never_waits_for_our_scores():
    decoder = make_decoder()
    hidden, lengths = torch.randn(1, 30, SIZE), torch.tensor([30])
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setenv("HKD_CIF", "torch")
        states = [decoder.batch_init_state(hidden, lengths)]
        ys = torch.full((1, 1), decoder.eos)
        with HostReads() as counted:
            for _ in range(3):
                logp, states = decoder.batch_score(ys, states, hidden)
                ys = torch.cat([ys, logp.argmax(1)[:, None]], dim=1)
    assert counted.reads == []


def test_the_contrastive_loss_of_2000_tokens_takes_30_launches_and_no_wait():
    torch.manual_seed(0)
    student = torch.randn(2000, 8, requires_grad=True)
    teacher, ids = torch.randn(2000, 8), torch.randint(0, 300, (2000,))
    one = torch.ones(())
    with HostReads() as counted:
        loss = acoustic_contrastive_loss(student, teacher, token_ids=ids)
        torch.autograd.grad(loss, student, one)
    assert counted.reads == []
    assert counted.launches <= 30


class Largest(TorchDispatchMode):
    """The largest result of any operator, in numbers."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return result


def test_the_contrastive_loss_holds_a_block_of_cosines_and_never_all(monkeypatch):
    from espnet_hkd.losses import contrastive

    torch.manual_seed(0)
    student, teacher = torch.randn(130, 4, requires_grad=True), torch.randn(130, 4)
    ids = torch.randint(0, 9, (130,))
    whole = acoustic_contrastive_terms(student, teacher, negatives="all", token_ids=ids)
    (wanted,) = torch.autograd.grad(whole.loss, student)
    monkeypatch.setattr(contrastive, "BLOCK", 1500)
    with Largest() as largest:
        parts = acoustic_contrastive_terms(
            student, teacher, negatives="all", token_ids=ids
        )
        (gradient,) = torch.autograd.grad(parts.loss, student)
    assert largest.numbers <= 1500
    torch.testing.assert_close(parts.loss, whole.loss)
    torch.testing.assert_close(parts.margin, whole.margin)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)
