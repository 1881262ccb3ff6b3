"""Two gloo processes train as one process with the joined batch."""

import pytest
import torch
import torch.multiprocessing

from tests.small_models import make_batch, make_model, make_pooled_encoder

pytestmark = pytest.mark.slow

CONF = {
    "acd_weight": 1.0,
    "lrd_weight": 0.01,
    "teacher_dim": 8,
    "acd_negatives": "all",
}


def small_model(**conf):
    """Without dropout, batch norm in eval: what is left must be equal."""

    torch.manual_seed(5)
    encoder = make_pooled_encoder(dropout_rate=0.0)
    model = make_model(encoder=encoder, decoder_conf={"dropout_rate": 0.0}, **conf)
    model.train()
    for module in model.modules():
        if "BatchNorm" in type(module).__name__ or "Dropout" in type(module).__name__:
            module.eval()
    return model


def joined_batch():
    batch = make_batch(lengths=(90, 80, 70, 60), labels=(6, 5, 4, 3), teacher_dim=8)
    # Only the first rank's utterances bring a sentence without speech.
    batch["extra"] = batch["text"][:, :3].clone()
    batch["extra_lengths"] = torch.tensor([3, 2, 0, 0])
    batch["extra_teacher"] = torch.randn(4, 4, 8)
    batch["extra_teacher_mask"] = torch.ones(4, 4, dtype=torch.long)
    return batch


def part_of(batch, rows):
    part = {key: value[rows] for key, value in batch.items()}
    frames = int(part["speech_lengths"].max())
    labels = int(part["text_lengths"].max())
    part["speech"] = part["speech"][:, :frames]
    part["text"] = part["text"][:, :labels]
    for key in ("teacher", "teacher_mask"):
        part[key] = part[key][:, : labels + 1]
    return part


JOBS = {
    "gather": (CONF | {"acd_gather": True}, None),
    "no_gather": (CONF | {"acd_gather": False}, None),
    "gather, one without teacher": (CONF | {"acd_gather": True}, 1),
    "no_gather, one without teacher": (CONF | {"acd_gather": False}, 1),
    "means": (
        {**CONF, "acd_gather": True, "extra_weight": 1.0, "lrd_residual": True},
        None,
    ),
}


def train_steps(rank, rendezvous, out):
    """Each job on one rank of two."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    results = {name: train_step(rank, *job) for name, job in JOBS.items()}
    if rank == 0:
        torch.save(results, out)
    torch.distributed.destroy_process_group()


def train_step(rank, conf, without_teacher):
    """What ESPnet's trainer does with a batch."""
    model = small_model(**conf)
    parallel = torch.nn.parallel.DistributedDataParallel(
        model, find_unused_parameters=False
    )
    batch = part_of(joined_batch(), [[0, 1], [2, 3]][rank])
    if rank == without_teacher:
        batch["teacher"] = batch["teacher"][:, :0]
        batch["teacher_mask"] = batch["teacher_mask"][:, :0]
    loss, stats, weight = parallel(**batch)
    total = weight.clone()
    torch.distributed.all_reduce(total)
    loss = (loss * weight).sum() / total * 2
    loss.backward()
    joined = loss.detach().clone() / 2
    torch.distributed.all_reduce(joined)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    kept = {name: b for name, b in model.named_buffers() if name.startswith("kd_")}
    for value in kept.values():
        first = value.clone()
        torch.distributed.broadcast(first, 0)
        assert torch.equal(value, first)
    return {"loss": joined, "gradients": gradients, "stats": stats, "kept": kept}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of every job: processes that import ESPnet take much longer than the jobs."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.multiprocessing.spawn(
            train_steps, (folder / "rendezvous", folder / "out.pt"), nprocs=2
        )
    return torch.load(folder / "out.pt", weights_only=True)


def summed(model, batches):
    """Loss and gradients of batches whose sums are divided by all their tokens."""
    results = [model(**batch) for batch in batches]
    tokens = sum(weight for _, _, weight in results)
    loss = sum(loss * weight for loss, _, weight in results) / tokens
    loss.sum().backward()
    return loss, {name: p.grad for name, p in model.named_parameters()}


def assert_equal_step(result, loss, gradients):
    torch.testing.assert_close(result["loss"], loss.detach(), rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            result["gradients"][name],
            gradient,
            rtol=1e-3,
            atol=1e-4,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("gather", [True, False], ids=["gather", "no_gather"])
def test_two_processes_equal_one_with_the_joined_batch(results, gather):
    result = results["gather" if gather else "no_gather"]
    model = small_model(**CONF)
    batch = joined_batch()
    # Without gathering, negatives come from one's own half: the reference is the sum
    # of the halves.
    batches = [batch] if gather else [part_of(batch, [0, 1]), part_of(batch, [2, 3])]
    assert_equal_step(result, *summed(model, batches))


@pytest.mark.parametrize("gather", [True, False], ids=["gather", "no_gather"])
def test_a_rank_without_teacher_neither_hangs_nor_adds_anything(results, gather):
    name = "gather" if gather else "no_gather"
    result = results[f"{name}, one without teacher"]
    model = small_model(**CONF)
    first = part_of(joined_batch(), [0, 1])
    second = part_of(joined_batch(), [2, 3])
    second["teacher"] = second["teacher"][:, :0]
    second["teacher_mask"] = second["teacher_mask"][:, :0]
    assert_equal_step(result, *summed(model, [first, second]))
    # None is missing: DDP would wait for it for ever.
    assert all(g is not None for g in result["gradients"].values())


def test_running_means_are_those_of_the_joined_batch_on_both_ranks(results):
    result, (conf, _) = results["means"], JOBS["means"]
    model = small_model(**conf)
    model(**joined_batch())
    kept = dict(model.named_buffers())
    assert {name.split(".")[0] for name in result["kept"]} == {"kd_means", "kd_pseudo"}
    for name, value in result["kept"].items():
        torch.testing.assert_close(value, kept[name], atol=1e-5, rtol=1e-4)
