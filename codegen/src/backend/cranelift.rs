//! The Cranelift backend: a [`Proc`] as a CLIF function over 128-bit vectors.
//!
//! In: a proc and an instruction set. Out: the function
//! `extern "C" fn(buffers: *const *mut u8, extents: *const i64, first_item: i64, end_item: i64, scratch: *mut u8)`:
//! one pointer per buffer in the proc's order (those of scratch buffers are ignored), one extent per axis, the range
//! of work items to run, and [`scratch_bytes`](super::scratch_bytes) of memory aligned to 64 bytes.
//!
//! A register that is the same in every turn of a Lane(w) loop is a scalar; the others are ⌈w·bytes/16⌉ vectors.

mod address;
mod memory;
mod op;
mod stmt;
mod value;

use std::rc::Rc;

use cranelift_codegen::ir::immediates::Offset32;
use cranelift_codegen::ir::{
    AbiParam, Function, InstBuilder, MemFlagsData, Signature, UserFuncName, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{Context, verify_function};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use super::{EmitError, SCRATCH_ALIGN};
use crate::contract::contract;
use crate::dtype::Ty;
use crate::legalize::{Supports, legalize};
use crate::loop_ir::{LoopOp, Proc, Role, Var};
use crate::verify::verify;
use address::{Bound, Induction};
use selscan_dsl::Op;
use value::{Lane, Registers};

/// Whether the instruction set has a feature, by Cranelift's name for it.
fn has(isa: &dyn TargetIsa, feature: &str) -> bool {
    isa.isa_flags()
        .iter()
        .any(|f| f.name == feature && f.as_bool() == Some(true))
}

/// The operations that Cranelift has for this instruction set.
#[must_use]
pub fn supports(isa: &dyn TargetIsa) -> Supports {
    let flag = |name: &str| has(isa, name);
    let x64 = isa.name() == "x64";
    let mut supports = Supports::base();
    supports.add(LoopOp::Math(Op::Sqrt));
    supports.add(LoopOp::Math(Op::Abs));
    supports.add(LoopOp::FromInt);
    if !x64 || flag("has_sse41") {
        supports.add(LoopOp::Math(Op::Floor));
    }
    if !x64 || (flag("has_fma") && flag("has_avx")) {
        supports.add(LoopOp::Fma);
    }
    supports
}

/// The proc as this backend emits it: products and sums contracted where there is fma, operations that the
/// instruction set lacks written out.
#[must_use]
pub fn prepare(proc: &Proc, isa: &dyn TargetIsa) -> Proc {
    let supports = supports(isa);
    if supports.has(LoopOp::Fma, Ty::F32) {
        legalize(contract(proc.clone()), &supports)
    } else {
        legalize(proc.clone(), &supports)
    }
}

/// The CLIF function of a proc: verified, [prepared](prepare), emitted.
///
/// # Errors
/// A proc that is not in the grammar, or that asks for lanes this backend does not have.
pub fn emit(proc: &Proc, isa: &dyn TargetIsa) -> Result<Function, EmitError> {
    verify(proc)?;
    let proc = prepare(proc, isa);
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params = vec![AbiParam::new(types::I64); 5];
    let mut function = Function::with_name_signature(UserFuncName::default(), signature);
    let mut context = FunctionBuilderContext::new();
    let builder = FunctionBuilder::new(&mut function, &mut context);
    let mut emitter = Emitter::new(&proc, builder);
    emitter.folds_loads = isa.name() != "x64" || has(isa, "has_avx");
    emitter.entry();
    emitter.stmts(&proc.body)?;
    emitter.b.ins().return_(&[]);
    emitter.b.seal_all_blocks();
    emitter.b.finalize(isa.frontend_config());
    // Takes as long as all of the emission: a check of this backend, not of the user's kernel.
    if cfg!(debug_assertions) {
        verify_function(&function, isa).map_err(|errors| EmitError::Refused {
            proc: proc.name.clone(),
            message: errors.to_string(),
        })?;
    }
    Ok(function)
}

/// The assembly of a proc as text.
///
/// # Errors
/// As [`emit`], and what the code generator refuses.
pub fn assembly(proc: &Proc, isa: &dyn TargetIsa) -> Result<String, EmitError> {
    let mut context = Context::for_function(emit(proc, isa)?);
    context.set_disasm(true);
    let code = context
        .compile(isa, &mut Default::default())
        .map_err(|e| EmitError::Refused {
            proc: proc.name.clone(),
            message: format!("{:?}", e.inner),
        })?;
    Ok(code.vcode.clone().unwrap_or_default())
}

/// The function under construction.
struct Emitter<'a> {
    proc: &'a Proc,
    b: FunctionBuilder<'a>,
    /// Where each buffer starts.
    bases: Vec<Value>,
    /// The extents pointer, the range of items.
    params: Vec<Value>,
    /// The current value of each loop variable that is in scope.
    vars: Vec<Option<Bound>>,
    /// Whether a loop's counter was read since its loop began; if not, its offsets count alone.
    counted: Vec<bool>,
    /// The loop variables that each variable depends on: itself, or those of its definition.
    roots: Vec<Vec<Var>>,
    /// Loops around the current statement, outermost first, with what they step addresses by.
    loops: Vec<Induction>,
    /// The CLIF variables of registers.
    registers: Registers,
    /// The Lane loop around the current statement.
    lane: Option<Rc<Lane>>,
    /// Whether a vector load may become an instruction's memory operand, aligned or not.
    folds_loads: bool,
}

impl<'a> Emitter<'a> {
    fn new(proc: &'a Proc, b: FunctionBuilder<'a>) -> Self {
        Emitter {
            proc,
            b,
            bases: Vec::new(),
            params: Vec::new(),
            vars: vec![None; proc.vars.len()],
            counted: vec![false; proc.vars.len()],
            roots: (0..proc.vars.len() as u32).map(|v| vec![Var(v)]).collect(),
            loops: Vec::new(),
            registers: Registers::of(proc),
            lane: None,
            folds_loads: true,
        }
    }

    /// Parameters, buffer pointers, scratch buffers.
    fn entry(&mut self) {
        let block = self.b.create_block();
        self.b.append_block_params_for_function_params(block);
        self.b.switch_to_block(block);
        self.params = self.b.block_params(block).to_vec();
        let (buffers, mut scratch) = (self.params[0], self.params[4]);
        let proc = self.proc;
        for (i, buffer) in proc.buffers.iter().enumerate() {
            if buffer.role == Role::Scratch {
                self.bases.push(scratch);
                let len = self.ix(&buffer.len);
                let bytes = self.b.ins().imul_imm_s(len, buffer.dtype.bytes() as i64);
                let up = self.b.ins().iadd_imm_s(bytes, SCRATCH_ALIGN as i64 - 1);
                let padded = self.b.ins().band_imm_s(up, -(SCRATCH_ALIGN as i64));
                scratch = self.b.ins().iadd(scratch, padded);
            } else {
                let at = Offset32::new(8 * i as i32);
                let base = self.b.ins().load(types::I64, FIXED, buffers, at);
                self.bases.push(base);
            }
        }
    }

    fn unsupported<T>(&self, what: impl Into<String>) -> Result<T, EmitError> {
        Err(EmitError::Unsupported {
            proc: self.proc.name.clone(),
            what: what.into(),
            backend: "Cranelift",
        })
    }
}

/// Memory that nothing writes during the call.
const FIXED: MemFlagsData = MemFlagsData::new()
    .with_notrap()
    .with_readonly()
    .with_can_move();

#[cfg(test)]
mod tests;
