"""Recurrent networks and short convolutions by PyTorch (cuDNN) on one CUDA GPU, beside selscan's of the catalogue.

Needs PyTorch with CUDA, and the `selscan` program (`--selscan` names it; with NVRTC, see README.md). For each shape:

  gru, lstm       torch.nn.GRU, torch.nn.LSTM, batch first, one layer, no gradients
  causal_conv1d   silu(conv1d(x, weight, bias, padding=W-1, groups=D)[..., :L])

in bf16. PyTorch's time is that of a call within a CUDA graph of 20 calls, over as many inputs in turn: the median of 25
replays, launches from the host not counted. selscan's is what `selscan run MODEL --json` measures, its default schedule.
The baseline's numbers are not compared here: selscan's own are with the recurrence's f64 meaning, by `selscan run`.
"""

import argparse
import json
import statistics
import subprocess

import torch
import torch.nn.functional as F

CALLS, REPLAYS = 20, 25
SHAPES = [
    ("gru", {"B": 8, "L": 256, "I": 128, "H": 128}),
    ("gru", {"B": 64, "L": 256, "I": 128, "H": 128}),
    ("gru", {"B": 1, "L": 1024, "I": 64, "H": 64}),
    ("lstm", {"B": 8, "L": 256, "I": 128, "H": 128}),
    ("lstm", {"B": 64, "L": 256, "I": 128, "H": 128}),
    ("causal_conv1d", {"B": 1, "L": 2048, "D": 1536, "W": 4}),
    ("causal_conv1d", {"B": 8, "L": 2048, "D": 1536, "W": 4}),
    ("causal_conv1d", {"B": 1, "L": 16384, "D": 2048, "W": 4}),
]


def call(model, n):
    """A function of the number of a call, for PyTorch."""
    how = {"device": "cuda", "dtype": torch.bfloat16}
    if model == "causal_conv1d":
        inputs = [torch.randn(n["B"], n["D"], n["L"], **how) for _ in range(CALLS)]
        weight, bias = torch.randn(n["D"], 1, n["W"], **how), torch.randn(n["D"], **how)
        pad = {"padding": n["W"] - 1, "groups": n["D"]}
        return lambda k: F.silu(F.conv1d(inputs[k], weight, bias, **pad)[..., : n["L"]])
    kind = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[model]
    net = kind(n["I"], n["H"], batch_first=True, **how)
    net.flatten_parameters()
    inputs = [torch.randn(n["B"], n["L"], n["I"], **how) for _ in range(CALLS)]
    return lambda k: net(inputs[k])[0]


def torch_seconds(model, n):
    run = call(model, n)
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        kept = [run(k) for k in range(CALLS)]
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kept = [run(k) for k in range(CALLS)]
        times = []
        for _ in range(REPLAYS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / CALLS)
        del kept
    return statistics.median(times)


def selscan_seconds(program, model, n):
    shape = ",".join(f"{axis}={extent}" for axis, extent in n.items())
    command = [program, "run", model, "--device", "cuda:0", "--dtype", "bf16", "--shape", shape, "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return next(row["seconds"] for row in found["speed"] if row["what"] == "cuda:0")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selscan", default="selscan", help="the program")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, bf16")
    for model, n in SHAPES:
        ours, theirs = selscan_seconds(options.selscan, model, n), torch_seconds(model, n)
        shape = " ".join(f"{axis}{extent}" for axis, extent in n.items())
        print(f"{model:14} {shape:24} PyTorch {theirs * 1e3:8.4f} ms  selscan {ours * 1e3:8.4f} ms  {theirs / ours:5.2f}x", flush=True)


if __name__ == "__main__":
    main()
