//! Emission: the machine code of a proc computes what the interpreter computes, bit for bit.
//!
//! Both run the same legalised proc, whose operations all round once, so no tolerance is needed: a difference is a
//! wrong instruction. Every operation on edge values, on scalars and lanes, with and without each instruction set
//! extension; then random procs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod generate;

use selscan_codegen::interp::{Memory, interp};
use selscan_codegen::loop_ir::{
    Buf, BufferDecl, Ix, LoopKind, LoopOp, Proc, Program, Reg, Rhs, Role, Seats, Stmt,
};
use selscan_codegen::{Dtype, Ty};
use selscan_dsl::op::TABLE;
use selscan_dsl::{AxisId, Extents, InputId, Op, StateId};
use selscan_runtime::device::Bindings;
use selscan_runtime::{Cpu, CpuOptions, Feature, Tensor};

/// This machine, and it without FMA, AVX and SSE 4.1.
fn machines() -> Vec<(&'static str, Cpu)> {
    let with = |name, without: &[Feature]| {
        let options = CpuOptions {
            threads: Some(1),
            without: without.to_vec(),
            ..CpuOptions::default()
        };
        (name, Cpu::with_options(options).unwrap())
    };
    vec![
        with("all", &[]),
        with("no fma", &[Feature::Fma]),
        with("no avx", &[Feature::Avx]),
        with("no sse4.1", &[Feature::Sse41]),
    ]
}

/// The numbers of a role, given to both.
type Inputs = Vec<(Role, Dtype, Vec<f64>)>;

/// Runs a proc both ways; what differs, if anything does.
fn compare(cpu: &Cpu, proc: &Proc, inputs: &Inputs, extents: &[i64]) -> Result<(), String> {
    let program = Program {
        procs: vec![proc.clone()],
        workspaces: Vec::new(),
    };
    let legal = Program {
        procs: cpu.legal(&program),
        workspaces: Vec::new(),
    };
    let mut memory = Memory::new();
    for (role, dtype, values) in inputs {
        memory.set(*role, *dtype, values);
    }
    interp(&legal, &mut memory, extents).map_err(|e| e.to_string())?;

    let written = |role: Role| matches!(role, Role::Output(_) | Role::Last(_));
    let len = |b: &BufferDecl| b.len.eval(&|_| 0, &|a| extents[a.0 as usize]).unwrap() as usize;
    let tensor = |dtype, values: &[f64]| Tensor::from_f64(dtype, &[values.len()], values).unwrap();
    let given: Vec<(Role, Tensor)> = inputs
        .iter()
        .map(|(role, dtype, values)| (*role, tensor(*dtype, values)))
        .collect();
    let outputs = proc.buffers.iter().filter(|b| written(b.role));
    let mut outputs: Vec<(Role, Tensor)> = outputs
        .map(|b| (b.role, tensor(b.dtype, &vec![f64::NAN; len(b)])))
        .collect();
    let mut bindings = Bindings::new();
    for (role, tensor) in &given {
        match role {
            Role::Input(id) => bindings.input(*id, tensor.view()),
            Role::Initial(id) => bindings.initial(*id, tensor.view()),
            _ => return Err("an input that is neither".into()),
        }
    }
    for (role, tensor) in &mut outputs {
        match role {
            Role::Output(i) => bindings.output(*i, tensor.view_mut()),
            Role::Last(id) => bindings.last(*id, tensor.view_mut()),
            _ => return Err("an output that is neither".into()),
        }
    }
    let code = cpu.compile(program.clone()).map_err(|e| e.to_string())?;
    let extents = Extents(extents.iter().map(|&e| e as usize).collect());
    code.launch(bindings, &extents).map_err(|e| e.to_string())?;
    for (role, tensor) in &outputs {
        let wanted = memory.get(*role, tensor.dtype()).unwrap();
        for (i, (a, b)) in wanted.iter().zip(tensor.to_f64()).enumerate() {
            if a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan()) {
                return Err(format!(
                    "{role:?}[{i}]: {b:e}, but the interpreter has {a:e}"
                ));
            }
        }
    }
    Ok(())
}

/// `y[i] = op(x₀[i], …)` for i < L, on `lanes` lanes or scalars; conditions become 1 and 0.
fn map(op: LoopOp, ty: Ty, from: Dtype, to: Dtype, lanes: Option<u32>) -> Proc {
    let extent = Ix::Extent(AxisId(0));
    let width = i64::from(lanes.unwrap_or(1));
    let mut p = Proc {
        name: op.name(),
        extents: vec![Some("L".into())],
        buffers: Vec::new(),
        multiples: vec![],
        rows: vec![],
        narrow: false,
        threads: 128,
        resident: 0,
        exp2: 0,
        seats: Seats::Neighbours,
        full: false,
        vars: Vec::new(),
        regs: Vec::new(),
        items: extent.clone() / Ix::Const(width),
        body: Vec::new(),
    };
    let (item, lane) = (p.var("item"), p.var("lane"));
    let at = match lanes {
        Some(_) => Ix::from(item) * Ix::Const(width) + Ix::from(lane),
        None => Ix::from(item),
    };
    let mut body = Vec::new();
    let mut args = Vec::new();
    let select = op == LoopOp::Math(Op::Select);
    for i in 0..op.arity() as u32 {
        let decl = BufferDecl {
            name: format!("x{i}"),
            role: Role::Input(InputId(i)),
            dtype: from,
            len: extent.clone(),
        };
        p.buffers.push(decl);
        let mut x = p.reg(ty);
        body.push(Stmt::Set(x, Rhs::Load(Buf(i), at.clone())));
        if select && i == 0 {
            let zero = p.reg(ty);
            body.push(Stmt::Set(zero, Rhs::Const(0.0)));
            x = set(
                &mut p,
                &mut body,
                Ty::Bool,
                LoopOp::Math(Op::Ne),
                vec![x, zero],
            );
        }
        args.push(x);
    }
    let is_comparison = matches!(op, LoopOp::Math(o) if o.is_comparison());
    let result = if is_comparison { Ty::Bool } else { ty };
    let mut y = set(&mut p, &mut body, result, op, args);
    if is_comparison {
        let (one, zero) = (p.reg(ty), p.reg(ty));
        body.push(Stmt::Set(one, Rhs::Const(1.0)));
        body.push(Stmt::Set(zero, Rhs::Const(0.0)));
        y = set(
            &mut p,
            &mut body,
            ty,
            LoopOp::Math(Op::Select),
            vec![y, one, zero],
        );
    }
    let out = Buf(p.buffers.len() as u32);
    p.buffers.push(BufferDecl {
        name: "y".into(),
        role: Role::Output(0),
        dtype: to,
        len: extent,
    });
    body.push(Stmt::Store(out, at, y));
    if let Some(w) = lanes {
        body = vec![Stmt::For {
            var: lane,
            kind: LoopKind::Lane(w),
            lo: 0.into(),
            hi: i64::from(w).into(),
            step: 1,
            body,
        }];
    }
    p.body = vec![Stmt::For {
        var: item,
        kind: LoopKind::Core,
        lo: 0.into(),
        hi: p.items.clone(),
        step: 1,
        body,
    }];
    p
}

fn set(p: &mut Proc, out: &mut Vec<Stmt>, ty: Ty, op: LoopOp, args: Vec<Reg>) -> Reg {
    let reg = p.reg(ty);
    out.push(Stmt::Set(reg, Rhs::Op(op, args)));
    reg
}

/// Edge values, values around them, and a spread of ordinary ones; a multiple of 8 of them.
fn values() -> Vec<f64> {
    let mut x = vec![
        0.0,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1e-45,
        -1e-40,
        1.2e-38,
        3.4e38,
        -3.4e38,
    ];
    for edge in [
        0.5,
        1.0,
        1.5,
        2.5,
        20.0,
        88.7,
        127.5,
        128.0,
        126.0,
        125.5,
        65504.0,
        65520.0,
        6e-8,
        709.0,
        1023.5,
        8_388_607.5,
        4e6,
        1e9,
    ] {
        for scale in [1.0, 1.0 + 1e-7, 1.0 - 1e-7] {
            x.extend([edge * scale, -edge * scale]);
        }
    }
    let mut seed = 7u64;
    while x.len() < 160 || !x.len().is_multiple_of(8) {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let unit = (seed >> 11) as f64 / (1u64 << 53) as f64;
        x.push((unit - 0.5) * 10f64.powi((seed % 7) as i32 - 3));
    }
    x
}

/// The values, moved along by `by`: partners for an operation of several operands.
fn moved(x: &[f64], by: usize) -> Vec<f64> {
    x.iter().cycle().skip(by).take(x.len()).copied().collect()
}

#[test]
fn every_operation_on_edge_values() {
    let x = values();
    let mut ops: Vec<LoopOp> = TABLE
        .iter()
        .filter(|row| !matches!(row.op, Op::Re | Op::Im | Op::Conj | Op::Complex))
        .map(|row| LoopOp::Math(row.op))
        .collect();
    ops.extend([LoopOp::Fma, LoopOp::Round, LoopOp::Copy]);
    for (name, cpu) in machines() {
        for &op in &ops {
            for (ty, dtype) in [(Ty::F32, Dtype::F32), (Ty::F64, Dtype::F64)] {
                for lanes in [None, Some(2), Some(4), Some(8)] {
                    let proc = map(op, ty, dtype, dtype, lanes);
                    let inputs = (0..op.arity())
                        .map(|i| (Role::Input(InputId(i as u32)), dtype, moved(&x, 13 * i)))
                        .collect();
                    let result = compare(&cpu, &proc, &inputs, &[x.len() as i64]);
                    result.unwrap_or_else(|e| {
                        panic!("{name}: {} {} {lanes:?}: {e}", op.name(), ty.name())
                    });
                }
            }
        }
    }
}

#[test]
fn every_storage_type_in_every_register() {
    let x = values();
    for (name, cpu) in machines() {
        for from in Dtype::ALL {
            for to in Dtype::ALL {
                for ty in [Ty::F32, Ty::F64] {
                    for lanes in [None, Some(2), Some(4), Some(6), Some(8)] {
                        let whole = x.len() - x.len() % lanes.unwrap_or(1) as usize;
                        let proc = map(LoopOp::Copy, ty, from, to, lanes);
                        let inputs = vec![(Role::Input(InputId(0)), from, x[..whole].to_vec())];
                        let result = compare(&cpu, &proc, &inputs, &[whole as i64]);
                        result.unwrap_or_else(|e| {
                            panic!("{name}: {from} -> {} -> {to} {lanes:?}: {e}", ty.name())
                        });
                    }
                }
            }
        }
    }
}

/// Random procs: loops in loops, lanes, ifs, every kind of index, registers carried around.
#[test]
fn random_procs() {
    let machines = machines();
    let cases: u64 = std::env::var("SELSCAN_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    for seed in 0..cases {
        let (proc, inputs, extents) = generate::random(seed);
        selscan_codegen::verify::verify(&proc)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}\n{proc}"));
        let (name, cpu) = &machines[seed as usize % machines.len()];
        compare(cpu, &proc, &inputs, &extents)
            .unwrap_or_else(|e| panic!("seed {seed}, {name}: {e}\n{proc}"));
    }
}

/// An extent of 0 leaves everything as it is: nothing is read before a loop that has no turn.
#[test]
fn loops_without_turns() {
    for (_, cpu) in machines() {
        for lanes in [None, Some(4)] {
            let proc = map(
                LoopOp::Math(Op::Exp),
                Ty::F32,
                Dtype::F32,
                Dtype::F32,
                lanes,
            );
            let inputs = vec![(Role::Input(InputId(0)), Dtype::F32, Vec::new())];
            compare(&cpu, &proc, &inputs, &[0]).unwrap();
        }
    }
}

/// A state that is read and written in the same memory is read before it is written.
#[test]
fn in_place_states() {
    let mut p = map(
        LoopOp::Math(Op::Neg),
        Ty::F32,
        Dtype::F32,
        Dtype::F32,
        Some(4),
    );
    p.buffers[0].role = Role::Initial(StateId(0));
    p.buffers[1].role = Role::Last(StateId(0));
    let cpu = Cpu::with_threads(1).unwrap();
    let code = cpu
        .compile(Program {
            procs: vec![p],
            workspaces: Vec::new(),
        })
        .unwrap();
    let mut state = Tensor::from_f64(Dtype::F32, &[4], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let mut bindings = Bindings::new();
    bindings.in_place(StateId(0), state.view_mut());
    code.launch(bindings, &Extents(vec![4])).unwrap();
    assert_eq!(state.to_f64(), [-1.0, -2.0, -3.0, -4.0]);
}
