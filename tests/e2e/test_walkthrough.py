"""docs/walkthrough.md, as a reader would do it: every command in order, in one shell, in a network of its own."""

import os
import re
import shutil
import subprocess

from conftest import BANYAN, LEGACY_SIM, ROOT


def test_every_command_of_the_walkthrough_does_what_the_page_says(tmp_path):
    text = (ROOT / "docs/walkthrough.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) >= 9
    folder = tmp_path / "empty"
    folder.mkdir()
    script = tmp_path / "walk.sh"
    # Job control, as at a prompt; each command is shown before it runs.
    script.write_text("set -euo pipefail\nset -m\nset -x\nip link set lo up\n" + "\n".join(blocks))
    path = f"{BANYAN.parent}:{LEGACY_SIM.parent}:{os.environ['PATH']}"
    assert shutil.which("ip") and shutil.which("unshare")
    with open(tmp_path / "out", "w") as out:
        command = ["timeout", "--kill-after=5", "240", "unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "bash", script]
        done = subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, timeout=300, env={"PATH": path, "HOME": str(tmp_path), "USER": "reader"})
    said = (tmp_path / "out").read_text()
    assert done.returncode == 0, said[-6000:] + (folder / "banyan.log").read_text()[-3000:]
    # What the page says of what is seen.
    assert re.search(r"\d+  GET +127\.0\.0\.1/flights", said) and "- id: flights" in said
    assert "/html/body/h1" in said and 'like("Generated at #:#:#.#")' in said
    assert re.search(r"reader +approve +flights", said) and re.search(r"controller +rollback +flights +error_rate: ", said)
    assert "\n+ kill %1 %2 %3 %4\n" in said and "the chain is whole" in said
    assert re.search(r"^flights +retired +100%", said, re.M)
