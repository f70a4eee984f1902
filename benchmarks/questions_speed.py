"""How fast questions are asked, beside LlamaIndex's own function, of the same local server in the same run.

    python benchmarks/questions_speed.py [--chunks 400] [--delay 0.5] [--concurrency 16]

The server is real HTTP in a process of its own and takes `--delay` seconds a call; LlamaIndex's function asks one chunk
after the other, so with the defaults it takes 200 s.
"""

import argparse
import contextlib
import io
import logging
import math
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from llama_index.core.schema import TextNode
from llama_index.llms.openai_like import OpenAILike

from nbutils.questions.generate import generate_qa_embedding_pairs

SERVER = Path(__file__).parents[1] / "tests" / "openai_server.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=400)
    parser.add_argument("--delay", type=float, default=0.5, help="seconds a call takes")
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    logging.disable(logging.INFO)  # importing llama_index.finetuning makes httpx log each call
    nodes = [
        TextNode(id_=f"chunk-{i}", text=f"Report {i}: the harvest of orchard number {i} came to {i * 37} tonnes. " * 20)
        for i in range(options.chunks)
    ]
    command = [sys.executable, str(SERVER), "--delay", str(options.delay)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            llm = OpenAILike(
                model="bench",
                api_base=server.stdout.readline().strip(),
                api_key="none",
                is_chat_model=True,
                max_retries=0,
            )
            ours = timed(
                lambda: generate_qa_embedding_pairs(
                    nodes,
                    llm,
                    output_path=Path(folder) / "ours.json",
                    concurrency=options.concurrency,
                    verbose=False,
                )
            )
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                from llama_index.finetuning import generate_qa_embedding_pairs as upstream

                theirs = timed(
                    lambda: upstream(nodes, llm, output_path=str(Path(folder) / "theirs.json"), verbose=False)
                )
        finally:
            server.terminate()
    ideal = math.ceil(options.chunks / options.concurrency) * options.delay
    print(f"{options.chunks} chunks, {options.delay} s a call, {options.concurrency} at a time")
    print(f"ideal       {ideal:7.1f} s")
    print(f"nbutils     {ours:7.1f} s   {ours / ideal:.2f} times the ideal (at most 1.3)")
    print(f"LlamaIndex  {theirs:7.1f} s   nbutils is {theirs / ours:.1f} times as fast (at least 12 with the defaults)")
    return 0 if ours <= 1.3 * ideal and (options.concurrency < 16 or theirs >= 12 * ours) else 1


def timed(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
