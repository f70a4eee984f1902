"""Nothing leaves the machine that no parameter or profile names, whatever keys the environment holds.

The whole chain under such a proxy is in test_install.py.
"""

import subprocess
import sys

from recording_proxy import recording_proxy, with_keys

from nbutils.pipeline.parameters import read_profile, with_defaults


def test_the_offline_profile_is_the_defaults():
    defaults = with_defaults({})
    assert {name: defaults[name] for name in read_profile("offline")} == read_profile("offline")


def test_this_proxy_sees_what_goes_out():
    code = "import requests; requests.post('https://api.openai.com/v1/embeddings', json={})"
    with recording_proxy() as (proxy, asked):
        subprocess.run([sys.executable, "-c", code], capture_output=True, env=with_keys(proxy))
    assert asked and all(line.startswith("CONNECT api.openai.com:443") for line in asked)
