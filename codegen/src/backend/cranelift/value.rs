//! Registers of the loop IR as CLIF values: scalars, or vectors inside a Lane loop.

use std::collections::BTreeMap;

use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::Variable;
use selscan_dsl::Op;

use super::Emitter;
use crate::backend::EmitError;
use crate::dtype::Ty;
use crate::lanes::Lanes;
use crate::loop_ir::{Ix, LoopOp, Proc, Reg, Rhs, Stmt, Var};

/// A register's value at some point.
#[derive(Clone, Debug)]
pub(super) enum Val {
    /// The same in every lane.
    Scalar(Value),
    /// Lanes in order, 16 bytes a vector; the last one may be filled by half.
    Vector(Vec<Value>),
}

/// The Lane loop around the current statement.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub var: Var,
    pub width: u32,
    /// The lane variable's first value.
    pub lo: Ix,
    pub lanes: Lanes,
}

/// The CLIF variables of registers.
pub(super) struct Registers {
    scalars: Vec<Option<Variable>>,
    vectors: BTreeMap<(Reg, u32), Vec<Variable>>,
    /// The type whose width the lanes of a condition have: that of the numbers compared.
    masks: Vec<Ty>,
}

impl Registers {
    pub(super) fn of(proc: &Proc) -> Registers {
        let mut masks = vec![Ty::I32; proc.regs.len()];
        // A condition may be copied before the loop that defines it is seen again: twice is enough for one copy.
        for _ in 0..2 {
            mask_types(proc, &proc.body, &mut masks);
        }
        Registers {
            scalars: vec![None; proc.regs.len()],
            vectors: BTreeMap::new(),
            masks,
        }
    }
}

fn mask_types(proc: &Proc, body: &[Stmt], masks: &mut [Ty]) {
    for stmt in body {
        match stmt {
            Stmt::Set(reg, Rhs::Op(op, args)) if proc.ty(*reg) == Ty::Bool => {
                masks[reg.0 as usize] = match op {
                    LoopOp::Math(o) if o.is_comparison() => proc.ty(args[0]).bits(),
                    LoopOp::Math(Op::Select) => masks[args[1].0 as usize],
                    LoopOp::ILt => proc.ty(args[0]),
                    _ => masks[args[0].0 as usize],
                };
            }
            Stmt::For { body, .. } => mask_types(proc, body, masks),
            Stmt::If { then, els, .. } => {
                mask_types(proc, then, masks);
                mask_types(proc, els, masks);
            }
            _ => {}
        }
    }
}

/// A register type's scalar.
pub(super) fn scalar_type(ty: Ty) -> Type {
    match ty {
        Ty::F32 => types::F32,
        Ty::F64 => types::F64,
        Ty::I32 => types::I32,
        Ty::I64 => types::I64,
        Ty::Bool => types::I8,
    }
}

/// A register type's vector of 16 bytes; `mask` is that of a condition.
pub(super) fn vector_type(ty: Ty, mask: Ty) -> Type {
    match ty {
        Ty::F32 => types::F32X4,
        Ty::F64 => types::F64X2,
        Ty::I32 => types::I32X4,
        Ty::I64 => types::I64X2,
        Ty::Bool => vector_type(mask.bits(), mask),
    }
}

/// How many vectors hold `width` lanes of this type, of which the last may be filled by half.
pub(super) fn parts(lane: Type, width: u32) -> usize {
    (width * lane.lane_type().bytes()).div_ceil(16) as usize
}

impl Emitter<'_> {
    pub(super) fn mask(&self, reg: Reg) -> Ty {
        self.registers.masks[reg.0 as usize]
    }

    /// The vector type of a register.
    pub(super) fn vector_of(&self, reg: Reg) -> Type {
        vector_type(self.proc.ty(reg), self.mask(reg))
    }

    fn varies(&self, reg: Reg) -> Option<u32> {
        let lane = self.lane.as_ref()?;
        lane.lanes.varying.contains(reg).then_some(lane.width)
    }

    fn scalar(&mut self, reg: Reg) -> Variable {
        let slot = reg.0 as usize;
        match self.registers.scalars[slot] {
            Some(variable) => variable,
            None => {
                let variable = self.b.declare_var(scalar_type(self.proc.ty(reg)));
                self.registers.scalars[slot] = Some(variable);
                variable
            }
        }
    }

    fn vectors(&mut self, reg: Reg, width: u32) -> Vec<Variable> {
        if let Some(found) = self.registers.vectors.get(&(reg, width)) {
            return found.clone();
        }
        let ty = self.vector_of(reg);
        let new: Vec<Variable> = (0..parts(ty, width))
            .map(|_| self.b.declare_var(ty))
            .collect();
        self.registers.vectors.insert((reg, width), new.clone());
        new
    }

    pub(super) fn read(&mut self, reg: Reg) -> Val {
        match self.varies(reg) {
            Some(width) => {
                let variables = self.vectors(reg, width);
                Val::Vector(variables.into_iter().map(|v| self.b.use_var(v)).collect())
            }
            None => {
                let variable = self.scalar(reg);
                Val::Scalar(self.b.use_var(variable))
            }
        }
    }

    pub(super) fn write(&mut self, reg: Reg, val: Val) {
        match self.varies(reg) {
            Some(width) => {
                let ty = self.vector_of(reg);
                let values = self.spread(val, ty, width);
                let variables = self.vectors(reg, width);
                for (variable, value) in variables.into_iter().zip(values) {
                    self.b.def_var(variable, value);
                }
            }
            None => {
                let variable = self.scalar(reg);
                if let Val::Scalar(value) = val {
                    self.b.def_var(variable, value);
                }
            }
        }
    }

    /// Before a Lane loop: each lane's copy of the registers that it reads first starts as the scalar.
    pub(super) fn enter_lanes(&mut self, lane: &Lane) {
        for reg in lane.lanes.live_in.iter() {
            let scalar = self.scalar(reg);
            let value = self.b.use_var(scalar);
            let ty = self.vector_of(reg);
            let values = self.spread(Val::Scalar(value), ty, lane.width);
            let variables = self.vectors(reg, lane.width);
            for (variable, value) in variables.into_iter().zip(values) {
                self.b.def_var(variable, value);
            }
        }
    }

    /// The vectors of a value: a scalar is broadcast.
    pub(super) fn spread(&mut self, val: Val, ty: Type, width: u32) -> Vec<Value> {
        match val {
            Val::Vector(values) => values,
            Val::Scalar(value) => {
                let lane = ty.lane_type();
                let value = if self.b.func.dfg.value_type(value) == types::I8 {
                    self.b.ins().bmask(lane, value)
                } else {
                    value
                };
                let one = self.b.ins().splat(ty, value);
                vec![one; parts(ty, width)]
            }
        }
    }

    /// The same bits as another type.
    pub(super) fn cast(&mut self, value: Value, ty: Type) -> Value {
        if self.b.func.dfg.value_type(value) == ty {
            return value;
        }
        let flags = if ty.is_vector() {
            MemFlagsData::new().with_endianness(Endianness::Little)
        } else {
            MemFlagsData::new()
        };
        self.b.ins().bitcast(ty, flags, value)
    }

    /// The scalar of one lane.
    pub(super) fn extract(&mut self, values: &[Value], k: u32) -> Value {
        let lanes = self.b.func.dfg.value_type(values[0]).lane_count();
        self.b
            .ins()
            .extractlane(values[(k / lanes) as usize], (k % lanes) as u8)
    }

    /// Vectors of scalars, one per lane.
    pub(super) fn collect(&mut self, scalars: &[Value], ty: Type) -> Vec<Value> {
        let lanes = ty.lane_count() as usize;
        scalars
            .chunks(lanes)
            .map(|chunk| {
                let mut vector = self.b.ins().scalar_to_vector(ty, chunk[0]);
                for (k, &scalar) in chunk.iter().enumerate().skip(1) {
                    vector = self.b.ins().insertlane(vector, scalar, k as u8);
                }
                vector
            })
            .collect()
    }

    pub(super) fn check_width(&self, width: u32) -> Result<(), EmitError> {
        if width.is_multiple_of(2) && (2..=32).contains(&width) {
            Ok(())
        } else {
            self.unsupported(format!("a Lane loop of {width} turns (even, 2 to 32)"))
        }
    }
}
