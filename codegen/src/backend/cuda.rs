//! The CUDA backend: a [`Program`] as CUDA C, and no decision of its own.
//!
//! In: procs. Out: [`Source`], one text with a kernel for each proc, and what a launch of each needs. A thread runs a
//! work item; where a proc has a Lane(w) loop, w neighbouring threads run one together, each a turn. The text needs no
//! header: conversions and approximations that CUDA C has no word for are PTX.
//!
//! | operation (f32) | instruction | error |
//! |---|---|---|
//! | exp2 | `ex2.approx.ftz` | 2 ulp; results below 2⁻¹²⁶ are 0 |
//! | recip | `rcp.approx.ftz` | 1 ulp |
//! | div | `div.full` | 2 ulp |
//!
//! (PTX ISA 9.0, "Floating Point Instructions".) Everything else is rounded as IEEE 754 says, or legalised to that.

mod row;
mod stmt;

use selscan_dsl::{AxisId, Op};
use serde::{Deserialize, Serialize};

use super::EmitError;
use crate::contract::contract;
use crate::dtype::Dtype;
use crate::lanes::width;
use crate::legalize::{Supports, legalize};
use crate::loop_ir::{BufferDecl, Ix, LoopOp, Proc, Program, Role, Seats, Stmt};
use crate::regs::each;
use crate::verify::verify;
use stmt::{Emitter, index_type};

/// A program as CUDA C.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Source {
    /// The translation unit: needs no header.
    pub text: String,
    /// Its kernels.
    pub kernels: Kernels,
}

/// The kernels of a program: all that a launch needs to know beside their code.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Kernels {
    /// The kernel of each proc, in order.
    pub entries: Vec<Entry>,
    /// Memory that they share, by number: storage type and length.
    pub workspaces: Vec<(Dtype, Ix)>,
}

/// One proc's kernel.
///
/// Its parameters are one pointer per buffer, then one `long long` per axis of `extents`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its name: `extern "C"`, unique in the text.
    pub name: String,
    /// The proc's name.
    pub proc: String,
    /// The proc's buffers, but for those that are the kernel's own.
    pub buffers: Vec<BufferDecl>,
    /// All work items of a launch.
    pub all: Ix,
    /// Threads of a block.
    pub threads: u32,
    /// Work items of a block: ⌈all / this⌉ blocks run them all.
    pub items: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    /// The axes whose extents are parameters.
    pub extents: Vec<AxisId>,
}

/// The operations that CUDA C has.
#[must_use]
pub fn supports() -> Supports {
    let mut supports = Supports::base();
    supports.conversions = true;
    for op in [
        LoopOp::Fma,
        LoopOp::FromInt,
        LoopOp::Math(Op::Sqrt),
        LoopOp::Math(Op::Abs),
        LoopOp::Math(Op::Floor),
    ] {
        supports.add(op);
    }
    for op in [Op::Exp2, Op::Min, Op::Max] {
        supports.add_single(LoopOp::Math(op));
    }
    supports.add_single(LoopOp::Recip);
    supports
}

/// The proc as this backend emits it: products and sums contracted, operations that CUDA C lacks written out.
#[must_use]
pub fn prepare(proc: &Proc) -> Proc {
    legalize(contract(proc.clone()), &supports())
}

/// A program as CUDA C.
///
/// # Errors
/// A proc that is not in the grammar, or that asks for what a GPU lacks.
pub fn emit(program: &Program) -> Result<Source, EmitError> {
    let mut text = PRELUDE.to_owned();
    let mut entries = Vec::with_capacity(program.procs.len());
    for (k, proc) in program.procs.iter().enumerate() {
        verify(proc)?;
        let legal = prepare(proc);
        let name = format!("selscan{k}_{}", identifier(&proc.name));
        let (body, entry) = kernel(&legal, name)?;
        text.push_str(&body);
        entries.push(entry);
    }
    let kernels = Kernels {
        entries,
        workspaces: program.workspaces.clone(),
    };
    Ok(Source { text, kernels })
}

/// Bytes of shared memory for a barrier at which a block's threads arrive before they wait.
pub(crate) const BARRIER_BYTES: u32 = 16;

/// A name in C's letters.
fn identifier(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(letter).collect()
}

fn kernel(proc: &Proc, name: String) -> Result<(String, Entry), EmitError> {
    let unsupported = |what: String| EmitError::Unsupported {
        proc: proc.name.clone(),
        what,
        backend: "CUDA",
    };
    let lanes = width(&proc.body).unwrap_or(1);
    // An item is a part of a warp, or a block.
    if !(lanes == proc.threads || lanes.is_power_of_two() && lanes <= 32)
        || !proc.threads.is_multiple_of(32)
        || proc.threads > 1024
    {
        let what = format!("{lanes} lanes in blocks of {} threads", proc.threads);
        return Err(unsupported(what));
    }
    let index = index_type(proc);
    let mut parameters = Vec::new();
    let (mut scratch, mut shared) = (String::new(), 0);
    for (i, buffer) in proc.buffers.iter().enumerate() {
        let element = element(buffer.dtype);
        match buffer.role {
            Role::Input(_) => parameters.push(format!("const {element}* __restrict__ b{i}")),
            // The state before may lie where the state after does.
            Role::Initial(_) => parameters.push(format!("const {element}* b{i}")),
            Role::Last(_) => parameters.push(format!("{element}* b{i}")),
            Role::Output(_) | Role::Workspace(_) => {
                parameters.push(format!("{element}* __restrict__ b{i}"));
            }
            Role::Shared => match &buffer.len {
                Ix::Const(len) => {
                    let line = format!("    {element}* b{i} = ({element}*)(shared + {shared});\n");
                    scratch.push_str(&line);
                    let bytes = (*len as usize * buffer.dtype.bytes()).next_multiple_of(16);
                    shared += bytes as u32;
                }
                len => return Err(unsupported(format!("shared memory of {}", proc.show(len)))),
            },
            Role::Exchange => match &buffer.len {
                Ix::Const(len) => {
                    let own = format!("(({element}*)(shared + {shared}) + slot * {len})");
                    scratch.push_str(&format!("    {element}* b{i} = {own};\n"));
                    let items = (proc.threads / lanes) as usize;
                    let bytes = items * *len as usize * buffer.dtype.bytes();
                    shared += bytes.next_multiple_of(16) as u32;
                }
                len => return Err(unsupported(format!("exchange of {}", proc.show(len)))),
            },
            Role::Scratch => match &buffer.len {
                Ix::Const(len) => scratch.push_str(&format!("    {element} b{i}[{len}];\n")),
                len => return Err(unsupported(format!("scratch memory of {}", proc.show(len)))),
            },
        }
    }
    let extents: Vec<AxisId> = (0..proc.extents.len() as u8)
        .map(AxisId)
        .filter(|a| proc.extents[a.0 as usize].is_some())
        .collect();
    let names = extents.iter().map(|a| format!("long long wide_e{}", a.0));
    parameters.extend(names);
    let bounds = match proc.resident {
        0 => proc.threads.to_string(),
        resident => format!("{}, {resident}", proc.threads),
    };
    let mut text = format!(
        "\nextern \"C\" __global__ void __launch_bounds__({bounds}) {name}(\n    {}) {{\n",
        parameters.join(",\n    ")
    );
    for axis in &extents {
        let line = format!("    const {index} e{0} = ({index})wide_e{0};\n", axis.0);
        text.push_str(&line);
    }
    text.push_str(&place(proc, lanes));
    // Whether threads of a block arrive at one place and wait at another.
    let mut waits = false;
    each(&proc.body, &mut |stmt| waits |= *stmt == Stmt::Wait);
    if waits {
        scratch.push_str(&format!(
            "    const unsigned barrier = (unsigned)__cvta_generic_to_shared(shared + {shared});\n    unsigned phase = 0;\n    open(barrier);\n"
        ));
        shared += BARRIER_BYTES;
    }
    if shared > 0 {
        text.push_str("    extern __shared__ __align__(16) unsigned char shared[];\n");
    }
    text.push_str(&scratch);
    let mut emitter = Emitter::new(proc, lanes);
    text.push_str(&emitter.registers());
    emitter.stmts(&proc.body, 1).map_err(unsupported)?;
    text.push_str(&emitter.text);
    text.push_str("}\n");
    let bound = proc.buffers.iter().filter(|b| b.role.is_bound());
    let entry = Entry {
        name,
        proc: proc.name.clone(),
        buffers: bound.cloned().collect(),
        all: proc.items.clone(),
        threads: proc.threads,
        items: proc.threads / lanes,
        shared,
        extents,
    };
    Ok((text, entry))
}

/// Which lane of its item a thread is, and which item of its block that is.
fn place(proc: &Proc, lanes: u32) -> String {
    // Where a warp is one item, or has as many as threads, there is but one way.
    let seats = match lanes {
        2..32 => proc.seats,
        _ => Seats::Neighbours,
    };
    let items = 32 / lanes.min(32);
    let (lane, slot) = match seats {
        Seats::Neighbours => (
            format!("threadIdx.x % {lanes}u"),
            format!("threadIdx.x / {lanes}u"),
        ),
        Seats::Pairs => {
            // Bit 1 and what is above the lanes are the item's.
            let lane = format!(
                "(threadIdx.x & 1) | (threadIdx.x >> 2) % {} << 1",
                lanes / 2
            );
            let own = format!(
                "(threadIdx.x >> 1 & 1) | threadIdx.x % 32 / {} << 1",
                lanes * 2
            );
            (lane, format!("threadIdx.x / 32 * {items} + ({own})"))
        }
        Seats::Strided => (
            format!("threadIdx.x % 32u / {items}u"),
            format!("threadIdx.x / 32u * {items}u + threadIdx.x % {items}u"),
        ),
    };
    format!("    const int lane = {lane};\n    const int slot = {slot};\n")
}

/// The C type of an element in memory.
fn element(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float",
        Dtype::F64 => "double",
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
    }
}

/// What CUDA C has no word for.
const PRELUDE: &str = r#"// Generated by selscan.
struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float recip_of(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// NaN if either is.
__device__ __forceinline__ float min_of(float x, float y) {
#if __CUDA_ARCH__ >= 800
    float z;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
#else
    return x < y || x != x ? x : y;
#endif
}
__device__ __forceinline__ float max_of(float x, float y) {
#if __CUDA_ARCH__ >= 800
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
#else
    return x > y || x != x ? x : y;
#endif
}
__device__ __forceinline__ float quotient(float x, float y) {
    float q;
    asm("div.full.f32 %0, %1, %2;" : "=f"(q) : "f"(x), "f"(y));
    return q;
}
__device__ __forceinline__ double quotient(double x, double y) { return x / y; }

__device__ __forceinline__ float number(float x) { return x; }
__device__ __forceinline__ double number(double x) { return x; }
__device__ __forceinline__ float number(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ float number(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ void put(float& to, double x) { to = (float)x; }
__device__ __forceinline__ void put(double& to, double x) { to = x; }
__device__ __forceinline__ void put(float& to, float x) { to = x; }
__device__ __forceinline__ void put(double& to, float x) { to = x; }
__device__ __forceinline__ void put(f16& to, float x) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
}
__device__ __forceinline__ void put(f16& to, double x) {
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(to.bits) : "d"(x));
}
__device__ __forceinline__ void put(bf16& to, float x) {
#if __CUDA_ARCH__ >= 800
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(0.0f), "f"(x));
    to.bits = (unsigned short)both;
#else
    const unsigned bits = __float_as_uint(x);
    const unsigned up = bits + 0x7fff + ((bits >> 16) & 1);
    to.bits = (unsigned short)(x == x ? up >> 16 : 0x7fff);
#endif
}
// Rounded to odd on the way, so that the second rounding is the only one that counts.
__device__ __forceinline__ void put(bf16& to, double x) {
    float near = (float)x;
    const double back = near;
    if (back != x && x == x) {
        const unsigned beyond = fabs(back) > fabs(x);
        near = __uint_as_float((__float_as_uint(near) - beyond) | 1u);
    }
    put(to, near);
}

__device__ __forceinline__ float low(unsigned word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float high(unsigned word) { return __uint_as_float(word & 0xffff0000u); }
__device__ __forceinline__ float low_f16(unsigned word) {
    float y;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(y) : "r"(word));
    return y;
}
__device__ __forceinline__ float high_f16(unsigned word) {
    float y;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(y) : "r"(word));
    return y;
}
__device__ __forceinline__ unsigned both_f16(float l, float h) {
    f16 x, y;
    put(x, l);
    put(y, h);
    return x.bits | ((unsigned)y.bits << 16);
}
__device__ __forceinline__ unsigned both_f16(double l, double h) {
    f16 x, y;
    put(x, l);
    put(y, h);
    return x.bits | ((unsigned)y.bits << 16);
}
__device__ __forceinline__ unsigned both(float l, float h) {
#if __CUDA_ARCH__ >= 800
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(h), "f"(l));
    return word;
#else
    bf16 x, y;
    put(x, l);
    put(y, h);
    return x.bits | ((unsigned)y.bits << 16);
#endif
}
__device__ __forceinline__ unsigned both(double l, double h) {
    bf16 x, y;
    put(x, l);
    put(y, h);
    return x.bits | ((unsigned)y.bits << 16);
}

// Assembly gets addresses as numbers. NVRTC (12.9 to 13.5) finds the steps between addresses, and may then lose those that are
// pointers in assembly and come again behind a branch: the access goes to whatever is in a register that nothing writes.
__device__ __forceinline__ unsigned long long address(const void* at) { return (unsigned long long)at; }
// Loads that stay where they are: those of the read-only path are put off to where their values are used.
__device__ __forceinline__ void fetch(uint4& row, const void* at) {
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(row.x), "=r"(row.y), "=r"(row.z), "=r"(row.w) : "l"(address(at)));
}
__device__ __forceinline__ void fetch(uint2& row, const void* at) {
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(row.x), "=r"(row.y) : "l"(address(at)));
}
__device__ __forceinline__ void fetch(uint1& row, const void* at) {
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(row.x) : "l"(address(at)));
}
__device__ __forceinline__ void fetch(ushort1& row, const void* at) {
    asm volatile("ld.global.u16 %0, [%1];" : "=h"(row.x) : "l"(address(at)));
}
__device__ __forceinline__ void fetch(float4& row, const void* at) {
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(row.x), "=f"(row.y), "=f"(row.z), "=f"(row.w) : "l"(address(at)));
}
__device__ __forceinline__ void fetch(float2& row, const void* at) {
    asm volatile("ld.global.v2.f32 {%0, %1}, [%2];" : "=f"(row.x), "=f"(row.y) : "l"(address(at)));
}
__device__ __forceinline__ void fetch(float1& row, const void* at) {
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(row.x) : "l"(address(at)));
}
__device__ __forceinline__ void fetch(double2& row, const void* at) {
    asm volatile("ld.global.v2.f64 {%0, %1}, [%2];" : "=d"(row.x), "=d"(row.y) : "l"(address(at)));
}
__device__ __forceinline__ void fetch(double1& row, const void* at) {
    asm volatile("ld.global.f64 %0, [%1];" : "=d"(row.x) : "l"(address(at)));
}
// In shared memory after the next arrived() of this thread.
template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
        : : "r"((unsigned)__cvta_generic_to_shared(to)), "l"(address(from)), "n"(BYTES) : "memory");
#else
    memcpy(to, from, BYTES);
#endif
}
__device__ __forceinline__ void arrived() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}
// A block's barrier in two parts: each thread arrives and goes on, and waits later.
__device__ __forceinline__ void open(unsigned barrier) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) asm volatile("mbarrier.init.shared.b64 [%0], %1;" : : "r"(barrier), "r"(blockDim.x) : "memory");
    __syncthreads();
#endif
}
__device__ __forceinline__ void arrive(unsigned barrier) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .b64 to; mbarrier.arrive.shared.b64 to, [%0]; }" : : "r"(barrier) : "memory");
#endif
}
__device__ __forceinline__ void wait(unsigned barrier, unsigned& phase) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .pred is; again_%=: mbarrier.try_wait.parity.shared.b64 is, [%0], %1; @is bra there_%=; bra again_%=; there_%=: }"
        : : "r"(barrier), "r"(phase) : "memory");
    phase ^= 1;
#else
    __syncthreads();
#endif
}
template <class T> __device__ __forceinline__ void prefetch(const T* at) {
    asm volatile("prefetch.global.L2 [%0];" : : "l"(address(at)));
}
__device__ __forceinline__ void pin(float& x) { asm volatile("" : "+f"(x)); }

// Of W lanes, those from K on take part; the others keep what they have.
template <int K, int W> __device__ __forceinline__ float fma_up(unsigned mask, float p, float h) {
    asm volatile("{ .reg .pred in; .reg .f32 below; shfl.sync.up.b32 below|in, %0, %2, %3, %4; @in fma.rn.f32 %0, %1, below, %0; }"
        : "+f"(h) : "f"(p), "n"(K), "n"((32 - W) << 8), "r"(mask));
    return h;
}
template <int K, int W> __device__ __forceinline__ float mul_up(unsigned mask, float p) {
    asm volatile("{ .reg .pred in; .reg .f32 below; shfl.sync.up.b32 below|in, %0, %1, %2, %3; @in mul.rn.f32 %0, %0, below; }"
        : "+f"(p) : "n"(K), "n"((32 - W) << 8), "r"(mask));
    return p;
}
template <int K, int W> __device__ __forceinline__ double fma_up(unsigned mask, double p, double h) {
    const double below = __shfl_up_sync(mask, h, K, W);
    return threadIdx.x % W >= K ? fma(p, below, h) : h;
}
template <int K, int W> __device__ __forceinline__ double mul_up(unsigned mask, double p) {
    const double below = __shfl_up_sync(mask, p, K, W);
    return threadIdx.x % W >= K ? p * below : p;
}
"#;

#[cfg(test)]
mod tests;
