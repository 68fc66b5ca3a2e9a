import weakref

import numpy as np
import pytest
import torch

from kafkapipes.errors import ConfigError, MemoryLimitError
from kafkapipes.memory import STEP, ByteLimit, MachineLimit, Memory, ReusedMemory, machine_memory

KB = 1024
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
UNLIMITED_V1 = 9223372036854771712


class Machine:
    """The files of a machine of 1000 KiB, of which 400 are free."""

    def __init__(self, root):
        self.root = root
        self.write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\nHugePages_Total: 0\n")

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(str(text))

    def group(self, path, files, limit, used, inactive):
        for name, text in zip(files, (limit, used), strict=False):
            self.write(f"sys/fs/cgroup/{path}/{name}", text)
        parts = "".join(f"{name} {inactive // 2}\n" for name in files[2])
        self.write(f"sys/fs/cgroup/{path}/memory.stat", f"cache 7\n{parts}")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_without_control_groups_the_memory_is_that_of_the_machine(machine):
    assert machine_memory(machine.root) == Memory(1000 * KB, 400 * KB)


def test_a_machine_without_proc_has_its_physical_memory(tmp_path):
    memory = machine_memory(tmp_path)

    assert memory.total == memory.free > 2**28


@pytest.mark.parametrize(
    ("line", "group", "files"),
    [("0::/", "", V2), ("0::/job/step", "job/step", V2), ("7:memory:/job", "memory/job", V1)],
)
def test_a_control_group_bounds_the_memory_with_what_it_can_drop_counted_as_free(machine, line, group, files):
    machine.write("proc/self/cgroup", f"8:cpu,cpuacct:/\n{line}\n")
    machine.group(group, files, 300 * KB, 250 * KB, 20 * KB)

    assert machine_memory(machine.root) == Memory(300 * KB, 70 * KB)


def test_a_group_above_bounds_the_memory_too(machine):
    machine.write("proc/self/cgroup", "0::/job/step\n")
    machine.group("job/step", V2, "max", 10 * KB, 0)
    machine.group("job", V2, 200 * KB, 150 * KB, 0)

    assert machine_memory(machine.root) == Memory(200 * KB, 50 * KB)


def test_a_container_whose_group_is_named_by_its_host_has_that_of_its_mount(machine):
    machine.write("proc/self/cgroup", "4:memory:/docker/123\n")
    machine.group("memory", V1, 300 * KB, 100 * KB, 0)

    assert machine_memory(machine.root) == Memory(300 * KB, 200 * KB)


@pytest.mark.parametrize(("files", "limit"), [(V2, "max"), (V1, UNLIMITED_V1)])
def test_a_group_without_a_limit_bounds_nothing(machine, files, limit):
    machine.write("proc/self/cgroup", "0::/\n4:memory:/\n")
    machine.group("memory" if files is V1 else "", files, limit, 10 * KB, 0)

    assert machine_memory(machine.root) == Memory(1000 * KB, 400 * KB)


def test_a_group_that_holds_more_than_its_limit_has_nothing_free(machine):
    machine.write("proc/self/cgroup", "0::/\n")
    machine.group("", V2, 100 * KB, 150 * KB, 0)

    assert machine_memory(machine.root) == Memory(100 * KB, 0)


def test_a_number_of_bytes_refuses_what_is_known_to_exceed_it():
    ByteLimit(1000).allow(10, 100, "t:0:0:10")

    with pytest.raises(
        MemoryLimitError, match=r"t:0:0:11: wanted 11 offset\(s\) x 100 bytes a sample = 1100 .*max_bytes is 1000"
    ):
        ByteLimit(1000).allow(11, 100, "t:0:0:11")


def test_a_number_of_bytes_is_not_exceeded_batch_by_batch():
    limit = ByteLimit(1000)
    limit.add(600, "t:0@0")
    limit.add(400, "t:0@6")

    with pytest.raises(MemoryLimitError, match=r"at t:0@10: wanted 1001 bytes .*max_bytes is 1000"):
        limit.add(1, "t:0@10")


@pytest.mark.parametrize("most", [0, -1, True, 2.5, "1 GB", 2**63])
def test_a_senseless_number_of_bytes_is_refused(most):
    with pytest.raises(ConfigError, match="max_bytes is"):
        ByteLimit(most)


def test_a_machine_sets_no_limit_to_what_a_range_names():
    MachineLimit().allow(2**62, 2**40, "t:0:0:1")


def test_a_read_ends_before_it_takes_the_last_twentieth_of_all_memory_and_a_step():
    free = [5 * STEP, 4 * STEP, 3 * STEP, 3 * STEP - 1]
    limit = MachineLimit(lambda: Memory(20 * STEP, free.pop(0)))
    limit.add(STEP, "t:0@0")
    limit.add(STEP, "t:0@1")

    with pytest.raises(MemoryLimitError, match=rf"at t:0@2: wanted {3 * STEP} bytes .* found {3 * STEP - 1} of"):
        limit.add(STEP, "t:0@2")


def test_the_machine_is_looked_at_once_in_64_mib():
    looks = []
    limit = MachineLimit(lambda: looks.append(1) or Memory(2**40, 2**40))
    for row in range(64 * 10):
        limit.add(2**20, f"t:0@{row}")

    assert len(looks) == 10 + 1  # and once before


VIEWS = {
    "the array": lambda array: array,
    "some rows": lambda array: array[10:20],
    "rows of rows": lambda array: array[10:20][3:4],
    "another type and shape": lambda array: array.view(np.int64).reshape(5, -1)[2:],
    "a tensor": lambda array: torch.from_numpy(array[:8]),
    "a buffer": lambda array: memoryview(array[:8]),
}


@pytest.mark.parametrize("view", VIEWS)
def test_memory_is_used_again_once_nobody_has_any_of_it(view):
    memory = ReusedMemory(spares=1)
    array = memory.array(1000)
    address = array.ctypes.data
    held = VIEWS[view](array)
    del array
    other = memory.array(1000)

    assert not address <= other.ctypes.data < address + 1000
    del held
    assert memory.array(1000).ctypes.data == address


def test_no_more_memory_waits_to_be_used_again_than_was_said():
    memory = ReusedMemory(spares=2)
    arrays = [memory.array(1000) for _ in range(5)]
    pieces = [weakref.ref(array.base.obj) for array in arrays]
    arrays.clear()

    assert sum(piece() is not None for piece in pieces) == 2


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4095, 4096, 4097])
def test_an_array_has_the_size_asked_for_and_suits_any_number(size):
    array = ReusedMemory(spares=1).array(size)

    assert array.shape == (size,)
    assert array.ctypes.data % 8 == 0
    array[...] = 1
