import pytest

from sinkpretrain.comparison.devices import Pool, Slot, cores_here, gpu_names, shares
from sinkpretrain.comparison.experiment import Member
from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError


def members(*devices, **options):
    return [Member(folder=f"a-s{seed}", config=Config(devices=count, **options)) for seed, count in enumerate(devices)]


def taken(pool, members):
    return [pool.take(member.config) for member in members]


def test_a_run_a_gpu_until_they_are_all_busy():
    runs = members(1, 1, 1)
    pool = Pool(runs, None, ["0", "1"], range(8))
    first, second, none = taken(pool, runs)
    assert (first.gpus, second.gpus, none) == (("0",), ("1",), None)
    assert first.threads == 4 and not first.cores
    pool.give_back(first)
    assert pool.take(runs[2].config).gpus == ("0",)


def test_fewer_jobs_than_gpus_leave_gpus_free():
    runs = members(1, 1)
    assert taken(Pool(runs, 1, ["0", "1"], range(2)), runs)[1] is None


def test_more_jobs_than_gpus_share_them_in_turn():
    runs = members(1, 1, 1, 1)
    slots = taken(Pool(runs, 3, ["0", "1"], range(12)), runs)
    assert [slot and slot.gpus for slot in slots] == [("0",), ("1",), ("0",), None]
    assert slots[0].threads == 4


def test_a_wide_run_waits_and_a_narrow_one_goes_first():
    runs = members(2, 2, 1)
    pool = Pool(runs, None, ["0", "1", "2"], range(3))
    assert [slot and slot.gpus for slot in taken(pool, runs)] == [("0", "1"), None, ("2",)]


def test_jobs_on_a_processor_divide_the_cores():
    runs = members(1, 2, 1)
    slots = taken(Pool(runs, 2, [], [4, 5, 6, 7, 9]), runs)
    assert [slot and (slot.cores, slot.threads) for slot in slots] == [((4, 5), 2), ((6, 7, 9), 1), None]
    assert [str(slot) for slot in slots[:2]] == ["CPU 4-5", "CPU 6-7,9"]
    everything = Pool(runs, None, [], range(4)).take(runs[0].config)
    assert everything.cores == (0, 1, 2, 3)


def test_a_run_that_wants_the_processor_leaves_gpus_to_others():
    (on_cpu,), (anywhere,) = members(1, accelerator="cpu"), members(1)
    pool = Pool([on_cpu, anywhere], None, ["0"], range(2))
    assert pool.take(on_cpu.config).cores == (0, 1)
    assert pool.take(anywhere.config).gpus == ("0",)


@pytest.mark.parametrize(
    ("options", "gpus", "message"),
    [
        ({"devices": 4}, ["0", "1"], r"a-s0 asks for 4 GPUs, 2 are here.*--devices-per-run 2, or use --launcher slurm"),
        ({"accelerator": "gpu"}, [], "a-s0 asks for 1 GPUs, 0 are here.*--accelerator cpu"),
        ({"nodes": 2}, ["0"], "nodes: a-s0 asks for 2, this is one machine.*slurm"),
    ],
)
def test_what_is_not_here_is_refused(options, gpus, message):
    with pytest.raises(ConfigError, match=message):
        Pool([Member(folder="a-s0", config=Config(**options))], None, gpus, [0])


@pytest.mark.parametrize(
    ("count", "visible", "names"),
    [
        (2, None, ["0", "1"]),
        (2, "3, 5", ["3", "5"]),
        (1, "3,-1,5", ["3"]),
        (2, "GPU-8932f937-d72c,MIG-1-0-2", ["GPU-8932f937-d72c", "MIG-1-0-2"]),
        (0, "", []),
    ],
)
def test_gpus_keep_the_names_that_the_user_gave(count, visible, names):
    assert gpu_names(count, visible) == names


def test_the_environment_of_a_slot():
    slot = Slot(gpus=("3", "5"), threads=6)
    given = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "3,5,7"}
    assert slot.environment(given) == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "3,5", "OMP_NUM_THREADS": "6"}
    assert slot.environment({"OMP_NUM_THREADS": "2"})["OMP_NUM_THREADS"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in Slot(cores=(0,)).environment({})
    assert str(slot) == "GPU 3,5"
    assert str(Slot(gpus=("GPU-8932f937-d72c-4106",))) == "GPU-8932f"


def test_shares_of_cores():
    assert shares(range(7), 3) == [(0, 1), (2, 3), (4, 5, 6)]
    assert shares([2, 3], 3) == [(2,), (3,), (2,)]
    assert len(cores_here()) == len(set(cores_here())) >= 1
