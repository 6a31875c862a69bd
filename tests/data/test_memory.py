import subprocess
import sys
from pathlib import Path

import pytest

# VmHWM, since getrusage also counts the process that this one was forked from.
GROWING = """
import sys
from pathlib import Path
from dataclasses import dataclass
from sinkpretrain.data import prepare as module, recipe, store
from sinkpretrain.data.parts import ListPart
from sinkpretrain.data.sources import Source

@dataclass(frozen=True, kw_only=True)
class Generated(Source):
    count: int

    def parts(self, folder):
        line = "the quick brown fox jumps over the lazy dog and then some more of it " * 30
        return [ListPart("generated", lambda: (f"{n} {line}" for n in range(self.count)))]

recipe.SOURCES["generated"] = Generated
module.BATCH = store.BLOCK = 1 << 16
for name, count in (("warm", 700), ("small", 700), ("large", 7_000)):
    with open(f"{sys.argv[1]}/{name}.yaml", "w") as file:
        file.write(f"sources: [{{name: generated, count: {count}}}]\\n"
                   "tokenizer: {name: train, vocab_size: 300, megabytes: 0.2}\\nvalidation_fraction: 0.1\\n")
    made = module.prepare(f"{sys.argv[1]}/{name}.yaml", commit_bytes=500_000)
    text_bytes = sum(split["bytes"] for split in made.manifest["splits"].values())
    status = Path("/proc/self/status").read_text()
    print(status.split("VmHWM:")[1].split()[0], text_bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    done = subprocess.run([sys.executable, "-c", GROWING, str(tmp_path)], capture_output=True, text=True, check=True)
    (_, _), (small, small_bytes), (large, large_bytes) = (map(int, line.split()) for line in done.stdout.splitlines())
    added_text = large_bytes - small_bytes
    assert added_text > 12_000_000
    assert (large - small) * 1024 < added_text / 4  # kibibytes; keeping the text would take four times this
