"""What is made once and kept, for every process."""

import subprocess
import sys

import pytest

from nbutils.core import remember


def test_what_cannot_be_made_or_kept_is_no_harm(tmp_path):
    with pytest.raises(ZeroDivisionError):
        remember(tmp_path, "key", lambda: 1 / 0)
    assert remember(tmp_path, "key", lambda: [1]) == [1]
    assert remember(tmp_path, "key", lambda: [2]) == [1]
    (tmp_path / "key.json").write_text("{ torn")
    assert remember(tmp_path, "key", lambda: [3]) == [3]
    (tmp_path / "file").touch()
    assert remember(tmp_path / "file", "key", lambda: [4]) == [4]


def test_two_processes_that_want_the_same_make_it_once(tmp_path):
    code = (
        "import sys, time; from nbutils.core import remember\n"
        "def make(): open(sys.argv[1] + '/made', 'a').write('x'); time.sleep(1); return 5\n"
        "assert remember(sys.argv[1], 'key', make) == 5"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"
