"""The selective scan of mamba_ssm on one CUDA GPU: the times that selscan's own are put beside.

Needs PyTorch with CUDA and mamba_ssm's compiled module `selective_scan_cuda` (`--extension` names the folder that holds
its .so). Its forward pass is called as mamba_ssm's `selective_scan_fn` calls it: u, delta and z are (B, D, L), A is
(D, N) in f32, B and C vary in time and are (B, 1, N, L), D and delta_bias are (D) in f32, delta goes through softplus.
With z the module writes two outputs, before and after the gate; both are part of its time.

Tables (`--only` picks one):
  main     the shapes that selscan is measured at, N = 16
  states   N from 1 to 256 (mamba_ssm's largest) at B 8, L 2048, D 2048
  backward the gradients by all inputs in the first shapes of main (needs the module's backward pass)
  lengths  L from 512 to 524288 at B 1, D 1024, N 16, beside FlashAttention (PyTorch's causal
           scaled_dot_product_attention, that backend forced, bf16, 16 heads of 64) and beside the recurrence as a
           loop over time in plain PyTorch (up to L 4096, one run)

How times are taken. Inputs are random, seeded, never zeros: A = -(1 .. N), steps softplus(delta + delta_bias) between
0.001 and 0.1. Calls rotate over so many sets of inputs that these are more than three times the L2 cache, and as many
results stay alive, so that neither reads nor writes stay in the cache. `ms` is the median over calls of the time
between two CUDA events around one call: a round over all sets and 5 calls warm up, 25 are timed, fewer where one takes
longer than 5 ms. `graph_ms`, for calls under 1 ms, is the time of a call within one CUDA graph of all sets, replayed:
without the time the CPU needs to launch. GB/s (by graph_ms, if there is one) counts inputs once and one output once.

Before the timing, small shapes are compared with the recurrence in f64; a wrong result ends the run. `--dump` writes
them as safetensors files (inputs, mamba_ssm's outputs, the f64 outputs). `--compare` takes selscan's times, the file
that `cargo bench --bench gpu -- --out FILE` writes (or a list of its "rows": {"table", "dtype", "B", "L", "D", "N",
"layout", "ms"} and "graph_ms", if there is one), and adds a column of them for each layout, and how many times as long
each baseline takes (graph_ms against graph_ms where both have it). README.md shows how the two are run.
"""

import argparse
import collections
import importlib.util
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
SEED = 20240601
WARMUPS, REPEATS = 5, 25
SLOW_MS, LAUNCH_BOUND_MS = 5.0, 1.0  # longer calls are timed fewer times, shorter ones also in a CUDA graph
LONGEST_LOOP = 4096  # the loop over time in PyTorch
HEADS, HEAD = 16, 64  # attention at width 1024


class Case(NamedTuple):
    """One shape in one type."""

    table: str
    dtype: str
    B: int
    L: int
    D: int
    N: int = 16

    def __str__(self):
        return f"{self.dtype} B{self.B} L{self.L} D{self.D} N{self.N}"


# The tensors of the scan, in the order of mamba_ssm's arguments.
Inputs = collections.namedtuple("Inputs", "u delta A B C D z delta_bias")


WIDE = [(8, 2048, 2048), (2, 4096, 5120), (1, 65536, 2048), (1, 2048, 2048), (64, 512, 2048), (1, 524288, 2048)]
MAIN = [Case("main", "bf16", *shape) for shape in WIDE + [(4096, 16, 1024)]] + [Case("main", "f32", *WIDE[0])]
STATES = [Case("states", "bf16", 8, 2048, 2048, n) for n in (1, 4, 8, 16, 64, 128, 256)]
BACKWARD = [Case("backward", "bf16", *shape) for shape in WIDE[:5]]
LENGTHS = [Case("lengths", "bf16", 1, 512 << k, HEADS * HEAD) for k in range(11)]

# Between them: whole chunks and broken ones, one chunk of 2048 and several, each type, few states and the most.
CHECKS = [
    Case("check", "bf16", 2, 256, 64),
    Case("check", "f16", 2, 300, 64),
    Case("check", "f32", 2, 1024, 24, 5),
    Case("check", "f32", 1, 4100, 16),
    Case("check", "bf16", 1, 2048, 8, 256),
]
# Largest ‖result - f64‖ / ‖f64‖: rounding of the output in that type, with room (and fast-math exp in f32).
TOLERANCE = {"bf16": 4e-3, "f16": 1e-3, "f32": 1e-4}


def softplus_inverse_of_steps(shape, generator):
    """softplus⁻¹ of steps that are log-uniform between 0.001 and 0.1."""
    step = torch.empty(shape, device="cuda").uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp_()
    return step.add_(torch.log(-torch.expm1(-step)))


def make_inputs(case, generator):
    dtype = DTYPES[case.dtype]

    def normal(*shape, to=dtype):
        return torch.randn(shape, generator=generator, device="cuda").to(to)

    bias = softplus_inverse_of_steps((case.D,), generator)
    delta = softplus_inverse_of_steps((case.B, case.D, case.L), generator).sub_(bias[:, None]).to(dtype)
    states = torch.arange(1, case.N + 1, device="cuda", dtype=torch.float32)
    return Inputs(
        u=normal(case.B, case.D, case.L),
        delta=delta,
        A=-states.repeat(case.D, 1),
        B=normal(case.B, 1, case.N, case.L),
        C=normal(case.B, 1, case.N, case.L),
        D=normal(case.D, to=torch.float32),
        z=normal(case.B, case.D, case.L),
        delta_bias=bias,
    )


def loop_over_time(inputs, dtype=torch.float32):
    """The recurrence as PyTorch users write it: (result, last state)."""
    delta = F.softplus(inputs.delta.to(dtype) + inputs.delta_bias.to(dtype)[:, None])
    u, b, c = (x.to(dtype) for x in (inputs.u, inputs.B[:, 0], inputs.C[:, 0]))
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, inputs.A.to(dtype)))
    drive = torch.einsum("bdl,bnl->bdln", delta * u, b)
    h = torch.zeros_like(decay[:, :, 0])
    y = []
    for t in range(u.shape[-1]):
        h = decay[:, :, t] * h + drive[:, :, t]
        y.append(torch.einsum("bdn,bn->bd", h, c[:, :, t]))
    y = torch.stack(y, dim=-1) + u * inputs.D.to(dtype)[:, None]
    return y * F.silu(inputs.z.to(dtype)), h


def event_ms(run, repeats):
    """Times of run(0), run(1), … on the GPU, in milliseconds."""
    spans = []
    for i in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run(i)
        end.record()
        spans.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in spans]


class Bench:
    """Measures, keeps the rows, and writes them after each, so that a run cut short loses nothing."""

    def __init__(self, arguments, extension):
        properties = torch.cuda.get_device_properties(0)
        self.l2 = getattr(properties, "L2_cache_size", 0) or 60 * 2**20
        self.repeats = 7 if arguments.quick else REPEATS
        self.deadline = time.monotonic() + 60 * arguments.minutes
        self.extension = extension
        self.generator = torch.Generator(device="cuda").manual_seed(SEED)
        self.out = Path(arguments.out)
        self.report = {"device": properties.name, "torch": torch.__version__, "cuda": torch.version.cuda}
        self.report.update(l2_bytes=self.l2, seed=SEED, checks=[], rows=[], skipped=[])

    def save(self):
        self.out.write_text(json.dumps(self.report, indent=1) + "\n")

    def skip(self, case, impl, why):
        print(f"  skipped {impl} {case}: {why}", flush=True)
        self.report["skipped"].append({"impl": impl, **case._asdict(), "why": why})
        self.save()

    def record(self, case, impl, layout, spans, **more):
        times = {"ms": statistics.median(spans), "ms_min": min(spans), "ms_max": max(spans), "repeats": len(spans)}
        self.report["rows"].append({"impl": impl, **case._asdict(), "layout": layout, **times, **more})
        self.save()
        print(f"  {impl} {case}: {times['ms']:.4f} ms [{min(spans):.4f}, {max(spans):.4f}]", flush=True)

    def measure(self, case, impl, layout, make, call, read, written):
        """Times `call` over sets of `make()`; `read` and `written` are the bytes of one call."""
        if time.monotonic() > self.deadline:
            self.skip(case, impl, "the time for this run is used up")
            return
        torch.cuda.empty_cache()
        copies = max(1, math.ceil(3 * self.l2 / read))
        try:
            sets = [make() for _ in range(copies)]
            kept = collections.deque(maxlen=copies)  # results of as many calls stay alive: writes rotate as well

            def run(i):
                kept.append(call(sets[i % copies]))

            for i in range(copies + 1):  # from here on the allocator has all it needs
                run(i)
            (pilot,) = event_ms(run, 1)
            fewer = min(1.0, SLOW_MS / pilot)
            event_ms(run, round(WARMUPS * fewer))
            spans = event_ms(run, max(3, round(self.repeats * fewer)))
            best, more = statistics.median(spans), {}
            if best < LAUNCH_BOUND_MS:
                kept.clear()
                best = more["graph_ms"] = self.graph_ms(sets, call)
            self.record(case, impl, layout, spans, copies=copies, gb_per_s=(read + written) / best / 1e6, **more)
        except torch.cuda.OutOfMemoryError:
            self.skip(case, impl, "out of memory")

    def graph_ms(self, sets, call):
        """Time of one call in replays of a graph that calls once for each set."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call(sets[0])
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = [call(inputs) for inputs in sets]
        event_ms(lambda _: graph.replay(), WARMUPS)
        ms = statistics.median(event_ms(lambda _: graph.replay(), self.repeats)) / len(results)
        graph.reset()
        return ms

    def forward(self, inputs):
        """What selective_scan_fn runs: [before the gate, chunk states, after the gate]."""
        return self.extension.fwd(*inputs, True)

    def backward(self, case):
        """What selective_scan_fn's gradient runs: by all inputs, from the forward pass's results."""
        size = case.B * case.L * DTYPES[case.dtype].itemsize
        plane, read = case.D * size, (5 * case.D + 2 * case.N) * size + case.D * (case.N + 2) * 4

        def make():
            inputs = make_inputs(case, self.generator)
            out, chunks, _ = self.forward(inputs)
            return inputs, torch.randn_like(inputs.u), chunks, out

        def call(made):
            inputs, dout, chunks, out = made
            return self.extension.bwd(*inputs, dout, chunks, out, None, True, False)

        self.measure(case, "mamba_ssm", "bdl", make, call, read, 3 * plane)
        made = make()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = call(made)
        torch.cuda.synchronize()
        most = torch.cuda.max_memory_allocated() - before
        own = sum(t.numel() * t.element_size() for t in results if t is not None)
        saved = made[2].numel() * made[2].element_size()
        print(f"    memory: {saved / 1e6:.1f} MB saved, {most / 1e6:.1f} MB in the call, {own / 1e6:.1f} MB of these gradients")

    def mamba(self, case):
        size = case.B * case.L * DTYPES[case.dtype].itemsize
        plane, read = case.D * size, (3 * case.D + 2 * case.N) * size + case.D * (case.N + 2) * 4
        self.measure(case, "mamba_ssm", "bdl", lambda: make_inputs(case, self.generator), self.forward, read, plane)

    def flash(self, case):
        dtype, shape = DTYPES[case.dtype], (case.B, HEADS, case.L, HEAD)

        def make():
            return [torch.randn(shape, generator=self.generator, device="cuda").to(dtype) for _ in "qkv"]

        def call(qkv):
            return F.scaled_dot_product_attention(*qkv, is_causal=True)

        plane = math.prod(shape) * dtype.itemsize
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
            self.measure(case, "flash_attention", "bhld", make, call, 3 * plane, plane)

    def loop(self, case):
        loop_over_time(make_inputs(case._replace(L=64), self.generator))  # warm up
        inputs = make_inputs(case, self.generator)
        self.record(case, "torch_loop", "bdl", event_ms(lambda _: loop_over_time(inputs), 1))

    def check(self, case, dump):
        """Compares with the recurrence in f64, and writes the case as a file if `dump` is a folder."""
        inputs = make_inputs(case, self.generator)
        _, chunks, out = self.forward(inputs)
        results = {"out": out, "last_state": chunks[:, :, -1, 1::2]}
        meant = dict(zip(results, loop_over_time(inputs, torch.float64)))
        errors = {k: ((results[k].double() - meant[k]).norm() / meant[k].norm()).item() for k in results}
        print(f"  check {case}: " + ", ".join(f"{k} {e:.1e}" for k, e in errors.items()), flush=True)
        self.report["checks"].append({**case._asdict(), **errors})
        if dump:
            from safetensors.torch import save_file

            tensors = {**inputs._asdict(), **results, **{f"{k}_f64": v for k, v in meant.items()}}
            Path(dump).mkdir(parents=True, exist_ok=True)
            file = Path(dump) / f"mamba-{str(case).replace(' ', '-')}.safetensors"
            note = {"op": "selective_scan_bdl", "flags": "delta_softplus", "source": "selective_scan_cuda.fwd"}
            save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, str(file), metadata=note)
        # The state is f32 in every type.
        return errors["out"] <= TOLERANCE[case.dtype] and errors["last_state"] <= TOLERANCE["f32"]


def shape_of(row):
    return tuple(row[k] for k in ("dtype", "B", "L", "D", "N"))


def cell(row, key, form=".4f"):
    return format(row[key], form) if row and row.get(key) else "-"


def ratio(baseline, mine):
    """How many times as long the baseline takes."""
    if not (baseline and mine):
        return "-"
    key = "graph_ms" if baseline.get("graph_ms") and mine.get("graph_ms") else "ms"
    return f"{baseline[key] / mine[key]:.2f}x"


def print_table(table, rows, own):
    """One line a shape: every baseline, then selscan's times and the ratios, for each of its layouts."""
    rows = [r for r in rows if r["table"] == table]
    shapes, impls = list(dict.fromkeys(map(shape_of, rows))), list(dict.fromkeys(r["impl"] for r in rows))
    here = {(shape_of(r), r["impl"]): r for r in rows}
    # selscan's row of the same table comes first, else one of the same shape in another.
    own = {(shape_of(r), r.get("layout", "")): r for r in sorted(own, key=lambda r: r.get("table") == table)}
    layouts = sorted({layout for shape, layout in own if shape in shapes})
    lines = [["shape", *impls, "graph", "GB/s"]]
    for layout in layouts:
        lines[0] += [f"selscan {layout}", "graph", *(f"{i}/it" for i in impls)]
    for shape in shapes:
        mamba = here.get((shape, "mamba_ssm"))
        line = [str(Case(table, *shape)), *(cell(here.get((shape, i)), "ms") for i in impls)]
        line += [cell(mamba, "graph_ms"), cell(mamba, "gb_per_s", ".0f")]
        for layout in layouts:
            mine = own.get((shape, layout))
            line += [cell(mine, "ms"), cell(mine, "graph_ms"), *(ratio(here.get((shape, i)), mine) for i in impls)]
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines)]
    print(f"\n{table} (ms; graph and GB/s are mamba_ssm's)")
    for line in lines:
        print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))))


def load_extension(folder):
    files = sorted(Path(folder).glob("selective_scan_cuda*.so"))
    if not files:
        raise SystemExit(f"{folder} holds no selective_scan_cuda*.so: build it first")
    spec = importlib.util.spec_from_file_location("selective_scan_cuda", files[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--extension", required=True, metavar="DIR", help="the folder of selective_scan_cuda*.so")
    parser.add_argument("--out", required=True, metavar="FILE", help="the JSON file to write")
    parser.add_argument("--compare", metavar="FILE", help="selscan's times, as JSON")
    parser.add_argument("--dump", metavar="DIR", help="write the checked cases here as safetensors files")
    parser.add_argument("--only", choices=("main", "states", "lengths", "backward"), help="one table")
    parser.add_argument("--quick", action="store_true", help="fewer shapes, 7 runs each")
    parser.add_argument("--minutes", type=float, default=8.0, help="measurements that would begin later are skipped")
    arguments = parser.parse_args()
    own = json.loads(Path(arguments.compare).read_text()) if arguments.compare else []  # fails before the timing
    own = own["rows"] if isinstance(own, dict) else own
    bench = Bench(arguments, load_extension(arguments.extension))
    print("{device}, PyTorch {torch}, CUDA {cuda}".format(**bench.report))
    right = [bench.check(case, arguments.dump) for case in CHECKS]
    bench.save()
    if not all(right):
        sys.exit("mamba_ssm's results are wrong: nothing was timed")

    quick, only = arguments.quick, arguments.only
    tables = {
        "main": [case for case in MAIN if not (quick and case.L > 100_000)],
        "states": STATES[::3] if quick else STATES,
        "lengths": LENGTHS[:9:3] if quick else LENGTHS,
        "backward": BACKWARD,
    }
    # The module may have no backward pass.
    tables = {table: cases for table, cases in tables.items() if only == table or not only and table != "backward"}
    for case in (case for cases in tables.values() for case in cases):
        if case.table == "backward":
            bench.backward(case)
            continue
        bench.mamba(case)
        if case.table == "lengths":
            bench.flash(case)
            if case.L <= LONGEST_LOOP:
                bench.loop(case)
    for table in tables:
        print_table(table, bench.report["rows"], own)


if __name__ == "__main__":
    main()
