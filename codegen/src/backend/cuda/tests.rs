//! The CUDA emitter on procs written by hand: names, operations, rows, what threads share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::dtype::Ty;
use crate::loop_ir::{Buf, BufferDecl, LoopKind, Reg, Rhs, Stmt};
use crate::sample::{self, empty, for_, input, output};

fn text(proc: Proc) -> Source {
    let program = Program {
        procs: vec![proc],
        workspaces: Vec::new(),
    };
    emit(&program).unwrap()
}

/// y[i·w + lane] = op(x[…]), f32, by w threads an item.
fn mapped(lanes: u32, op: LoopOp, narrow: bool) -> Proc {
    let mut p = empty(sample::extent(0));
    let len = sample::extent(0) * Ix::Const(i64::from(lanes));
    p.buffers = vec![
        input(0, "x", Dtype::F32, len.clone()),
        output(0, "y", Dtype::F32, len),
    ];
    p.narrow = narrow;
    p.regs = vec![Ty::F32; 2];
    let (item, lane) = (p.var("item"), p.var("lane"));
    let at = || Ix::Var(item) * Ix::Const(i64::from(lanes)) + Ix::Var(lane);
    let body = vec![
        Stmt::Set(Reg(0), Rhs::Load(Buf(0), at())),
        Stmt::Set(Reg(1), Rhs::Op(op, vec![Reg(0); op.arity()])),
        Stmt::Store(Buf(1), at(), Reg(1)),
    ];
    let lanes = for_(lane, LoopKind::Lane(lanes), 0, i64::from(lanes), body);
    p.body = vec![for_(
        item,
        LoopKind::Core,
        0,
        sample::extent(0),
        vec![lanes],
    )];
    p
}

#[test]
fn names_are_in_letters_of_c() {
    assert_eq!(identifier("h₀_α1"), "h___1");
}

#[test]
fn threads_that_share_an_item_are_neighbours() {
    let source = text(mapped(4, LoopOp::ShuffleUp(1), true));
    let entry = &source.kernels.entries[0];
    assert_eq!((entry.threads, entry.items, entry.shared), (128, 32, 0));
    assert_eq!(entry.extents.len(), 3);
    // No loop or condition tells items apart: a thread without an item goes along and stores nothing.
    assert!(source.text.contains("if (live) put(b1["), "{}", source.text);
    assert!(source.text.contains("__shfl_up_sync(mask, r0, 1, 4)"));
    assert!(source.text.contains("const unsigned mask = 0xffffffffu;"));
    let whole = text(mapped(32, LoopOp::FmaUp(16), false));
    assert!(whole.text.contains("if (item >= e0) return;"));
    assert!(whole.text.contains("fma_up<16, 32>(mask, r0, r0)"));
    assert!(whole.text.contains("const long long e0"));
}

#[test]
fn strided_lanes_shuffle_past_the_other_items_of_their_warp() {
    let strided = |op| {
        let mut proc = mapped(8, op, true);
        proc.seats = Seats::Strided;
        text(proc).text
    };
    let up = strided(LoopOp::FmaUp(2));
    assert!(up.contains("lane = threadIdx.x % 32u / 4u;"), "{up}");
    assert!(up.contains("slot = threadIdx.x / 32u * 4u + threadIdx.x % 4u;"));
    assert!(up.contains("fma_up<8, 32>(mask, r0, r0)"));
    let last = strided(LoopOp::Broadcast(7));
    assert!(last.contains("__shfl_sync(mask, r0, 28 + threadIdx.x % 4u)"));
}

#[test]
fn lanes_that_are_no_part_of_a_warp_are_refused() {
    for lanes in [3, 64] {
        let program = Program {
            procs: vec![mapped(lanes, LoopOp::Math(Op::Neg), true)],
            workspaces: Vec::new(),
        };
        let why = emit(&program).unwrap_err().to_string();
        assert!(why.contains("lanes in blocks of 128 threads"), "{why}");
    }
}

/// Whatever legalisation leaves has a word in CUDA C: each operation of the table, in both precisions.
#[test]
fn every_operation_is_emitted() {
    for row in selscan_dsl::op::TABLE {
        if matches!(row.op, Op::Re | Op::Im | Op::Conj | Op::Complex) {
            continue;
        }
        for ty in [Ty::F32, Ty::F64] {
            let mut p = sample::map(LoopOp::Math(row.op), row.arity as u32, ty, Dtype::F32, None);
            p.threads = 64;
            if row.op.is_comparison() || row.op == Op::Select {
                continue;
            }
            let source = text(p);
            assert!(
                source.text.contains("__launch_bounds__(64)"),
                "{}",
                row.name
            );
        }
    }
}

/// A comparison and a choice are two instructions.
#[test]
fn what_is_at_least_zero_is_one_instruction() {
    let softplus = |ty| {
        let mut p = sample::map(LoopOp::Math(Op::Softplus), 1, ty, Dtype::F32, None);
        p.threads = 64;
        let text = text(p).text;
        let kernel = text.find("__global__").map_or("", |at| &text[at..]);
        (kernel.contains("max_of("), kernel.contains(" ? "))
    };
    assert_eq!(softplus(Ty::F32), (true, false));
    assert_eq!(softplus(Ty::F64), (false, true));
}

#[test]
fn shared_memory_is_laid_out_and_counted() {
    let mut p = empty(sample::extent(0));
    p.buffers = vec![
        input(0, "x", Dtype::Bf16, Ix::Const(8)),
        output(0, "y", Dtype::F32, sample::extent(0)),
    ];
    for (name, dtype, len) in [("a", Dtype::Bf16, 9), ("b", Dtype::F32, 4)] {
        p.buffers.push(BufferDecl {
            name: name.into(),
            role: Role::Shared,
            dtype,
            len: Ix::Const(len),
        });
    }
    p.regs = vec![Ty::F32];
    let (item, i) = (p.var("item"), p.var("i"));
    let copy = Stmt::Copy(Buf(2), Ix::Var(i), Buf(0), Ix::Var(i), 1);
    let body = vec![
        Stmt::Sync,
        for_(i, LoopKind::Team, 0, 8, vec![copy]),
        Stmt::Sync,
        Stmt::Set(Reg(0), Rhs::Load(Buf(2), Ix::Const(3))),
        Stmt::Store(Buf(1), Ix::Var(item), Reg(0)),
    ];
    p.body = vec![for_(item, LoopKind::Core, 0, sample::extent(0), body)];
    let source = text(p);
    // 18 bytes, up to the next 16, and 16.
    assert_eq!(source.kernels.entries[0].shared, 48);
    assert!(source.text.contains("float* b3 = (float*)(shared + 32);"));
    // Blocks are full: no thread leaves before a barrier.
    assert!(!source.text.contains("return;\n    const"));
    let (_, kernel) = source.text.split_once("extern \"C\"").unwrap();
    assert_eq!(kernel.matches("__syncthreads();").count(), 2);
}

#[test]
fn threads_that_arrive_before_they_wait_have_a_barrier_of_their_own() {
    let mut p = empty(sample::extent(0));
    p.buffers = vec![BufferDecl {
        name: "a".into(),
        role: Role::Shared,
        dtype: Dtype::F32,
        len: Ix::Const(5),
    }];
    let item = p.var("item");
    let body = vec![Stmt::Arrive, Stmt::Wait];
    p.body = vec![for_(item, LoopKind::Core, 0, sample::extent(0), body)];
    let source = text(p);
    // 20 bytes, up to the next 16, and the barrier's.
    assert_eq!(source.kernels.entries[0].shared, 32 + BARRIER_BYTES);
    let (_, kernel) = source.text.split_once("extern \"C\"").unwrap();
    for line in [
        "shared + 32);",
        "open(barrier);",
        "arrive(barrier);",
        "wait(barrier, phase);",
    ] {
        assert!(kernel.contains(line), "{line} in {kernel}");
    }
}
